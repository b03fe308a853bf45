"""Whatever is wrong with a judged set is named: the file, the row, the column, what came and what was expected."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from damlpips.evaluation.datasets import DatasetError, load, tables
from tests.support import layouts


def error_of(path: Path, layout: str = "auto") -> str:
    with pytest.raises(DatasetError) as caught:
        load(path, layout)
    return str(caught.value)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_bytes().decode()
    assert old in text
    path.write_bytes(text.replace(old, new, 1).encode())


class TestLoad:
    def test_nothing_there(self, tmp_path: Path) -> None:
        assert error_of(tmp_path / "gone") == f"{tmp_path / 'gone'}: No such file or directory"
        assert "null" in error_of(tmp_path / "nul\0")

    def test_an_unknown_layout(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"unknown layout 'tid': expected one of 'auto', 'bapps-2afc', .*'csv'"):
            load(tmp_path, "tid")

    def test_no_layout_fits(self, tmp_path: Path) -> None:
        (tmp_path / "readme.txt").touch()
        for path in (tmp_path, tmp_path / "readme.txt"):
            message = error_of(path)
            assert message.startswith(f"{path}: no judged set of a known layout, looked for bapps-2afc (judge/ beside")
            for part in ("tid2013 (mos_with_names.txt", "kadid10k (dmos.csv", "csv (a file *.csv"):
                assert part in message

    @pytest.mark.parametrize(
        ("layout", "expected"),
        [
            ("bapps-2afc", "no folder judge in it or in 2afc/val/*, expected judge, ref, p0, p1"),
            ("bapps-jnd", "no folder same in it or in jnd/val/*, expected same, p0, p1"),
            ("tid2008", "mos_with_names.txt: No such file or directory"),
            ("tid2013", "mos_with_names.txt: No such file or directory"),
            ("kadid10k", "dmos.csv: No such file or directory"),
            (
                "csiq",
                "no scores, expected csiq.DMOS.xlsx or csiq.DMOS.csv or csiq_dmos.csv or csiq_dmos.txt or csiq_label",
            ),
            ("live", "no scores, expected dmos_realigned.mat or dmos.mat"),
            ("pipal", "no folder of scores, expected Train_Label"),
            ("csv", "expected a CSV file, or a folder with some"),
        ],
    )
    def test_the_layout_asked_for_is_not_there(self, layout: str, expected: str, tmp_path: Path) -> None:
        assert error_of(tmp_path, layout).startswith(str(tmp_path))
        assert expected in error_of(tmp_path, layout)


class TestBapps:
    @pytest.mark.parametrize(
        ("removed", "expected"),
        [
            (
                "p1/000001.png",
                r"judge/000001\.npy: no image of this stem in .*p1 \(1 missing: 3 files in judge, 2 in p1\)",
            ),
            (
                "judge/000002.npy",
                r"ref/000002\.png: no label of this stem in .*judge \(1 missing: 3 files in ref, 2 in j",
            ),
        ],
    )
    def test_one_file_is_missing(self, removed: str, expected: str, tmp_path: Path) -> None:
        (layouts.bapps_2afc(tmp_path) / removed).unlink()
        assert re.search(expected, error_of(tmp_path))

    def test_a_folder_is_missing(self, tmp_path: Path) -> None:
        shutil.rmtree(layouts.bapps_jnd(tmp_path) / "p1")
        assert error_of(tmp_path).startswith(
            f"{tmp_path / 'p1'}: No such file or directory, expected a folder of files ("
        )

    def test_no_labels(self, tmp_path: Path) -> None:
        for label in (layouts.bapps_jnd(tmp_path) / "same").iterdir():
            label.unlink()
        assert error_of(tmp_path) == f"{tmp_path / 'same'}: no labels (.npy) in this folder"

    def test_two_images_of_a_stem(self, tmp_path: Path) -> None:
        layouts.put(layouts.bapps_jnd(tmp_path) / "p0", ["000000.jpg"])
        assert error_of(tmp_path).endswith("p0/000000.png: a second file of this stem, beside 000000.jpg")

    @pytest.mark.parametrize(
        ("array", "expected"),
        [
            (np.array([0.2, 0.4]), "expected an array of one number, got shape (2,) of float64"),
            (np.array([]), "expected an array of one number, got shape (0,) of float64"),
            (np.array(["0.5"]), "expected an array of one number, got shape (1,) of <U3"),
            (np.array([0.5j]), "expected an array of one number, got shape (1,) of complex128"),
            (np.array([1.2]), "expected a share of observers, 0 to 1, got 1.2"),
            (np.array([-0.1]), "expected a share of observers, 0 to 1, got -0.1"),
            (np.array([np.nan]), "expected a share of observers, 0 to 1, got nan"),
            (np.array([None]), "damaged array (ValueError: Object arrays cannot be loaded when allow_pickle=False)"),
            (np.zeros(2000), "a file of 16128 bytes, expected at most 4096"),
        ],
    )
    def test_a_label_that_is_no_share(self, array: np.ndarray, expected: str, tmp_path: Path) -> None:
        label = layouts.bapps_2afc(tmp_path) / "judge" / "000001.npy"
        np.save(label, array)
        assert error_of(tmp_path) == f"{label}: {expected}"

    @pytest.mark.parametrize("array", [np.float64(0.5), np.array([[[0.5]]], np.float32), np.array([0.5], np.float16)])
    def test_one_number_of_any_shape_and_precision(self, array: np.ndarray, tmp_path: Path) -> None:
        np.save(layouts.bapps_2afc(tmp_path) / "judge" / "000000.npy", array)
        assert load(tmp_path)[0].judgements[0].votes_b == 0.5

    def test_an_array_that_is_cut(self, tmp_path: Path) -> None:
        label = layouts.bapps_2afc(tmp_path) / "judge" / "000001.npy"
        label.write_bytes(label.read_bytes()[:-2])
        assert error_of(tmp_path).startswith(f"{label}: damaged array (ValueError")


def tid2008(root: Path) -> Path:
    return layouts.tid(root, 17, 4, contents=1)


TABLES: list[tuple[Callable[[Path], Path], str]] = [
    (tid2008, "mos_with_names.txt"),
    (layouts.kadid10k, "dmos.csv"),
    (lambda root: layouts.csiq(root, "csiq_dmos.csv"), "csiq_dmos.csv"),
    (lambda root: layouts.csiq(root, "csiq_label.txt"), "csiq_label.txt"),
    (layouts.pipal, "Train_Label/A0001.txt"),
    (layouts.plain, "mos.csv"),
    (layouts.plain, "pairs.csv"),
]


@pytest.mark.parametrize(("write", "table"), TABLES)
class TestEveryTable:
    def test_empty(self, write: Callable[[Path], Path], table: str, tmp_path: Path) -> None:
        (write(tmp_path) / table).write_bytes(b"")
        layout = {"dmos.csv": "kadid10k"}.get(table, "auto")
        assert error_of(tmp_path, layout).startswith(f"{tmp_path / table}: the table is empty, expected ")

    def test_not_utf_8(self, write: Callable[[Path], Path], table: str, tmp_path: Path) -> None:
        path = write(tmp_path) / table
        path.write_bytes(path.read_bytes() + "é".encode("latin-1"))
        line = path.read_bytes().count(b"\n") + 1
        assert error_of(tmp_path) == f"{path}, line {line}: not UTF-8 (unexpected end of data)"

    def test_a_nul(self, write: Callable[[Path], Path], table: str, tmp_path: Path) -> None:
        path = write(tmp_path) / table
        path.write_bytes(path.read_bytes() + b"\0")
        assert f"{path}, line " in error_of(tmp_path)
        assert error_of(tmp_path).endswith("a NUL byte, not text")

    def test_too_many_fields(self, write: Callable[[Path], Path], table: str, tmp_path: Path) -> None:
        path = write(tmp_path) / table
        separator = " " if b"," not in path.read_bytes() else ","
        lines = path.read_text().splitlines()
        path.write_text("\n".join([*lines[:-1], lines[-1] + separator + "more"]))
        assert re.search(rf"{re.escape(str(path))}, line {len(lines)}: \d fields, ", error_of(tmp_path))

    def test_too_large(
        self, write: Callable[[Path], Path], table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = write(tmp_path) / table
        monkeypatch.setattr(tables.read_bytes, "__defaults__", (20,))
        assert re.fullmatch(
            rf"{re.escape(str(tmp_path))}.*: a file of \d+ bytes, expected at most 20", error_of(tmp_path)
        )
        assert path.stat().st_size > 20

    def test_missing_images_are_counted(self, write: Callable[[Path], Path], table: str, tmp_path: Path) -> None:
        write(tmp_path)
        for image in tmp_path.rglob("*"):
            if image.suffix in (".bmp", ".png", ".BMP"):
                image.unlink()
        assert re.search(r", (line|row) \d+.*: no image '.*' in .* \(\d+ of \d+ are missing\)$", error_of(tmp_path))


@pytest.mark.parametrize(
    ("write", "table", "old", "new", "expected"),
    [
        (tid2008, "mos_with_names.txt", "0.91000", "nan", "line 1, column 'mos': expected a finite number, got 'nan'"),
        (tid2008, "mos_with_names.txt", "0.91000", "5,5", "line 1, column 'mos': expected a finite number, got '5,5'"),
        (
            tid2008,
            "mos_with_names.txt",
            "I01_01_1.bmp",
            "a.bmp",
            "line 1, column 'image': expected a name like I01_01_1",
        ),
        (
            tid2008,
            "mos_with_names.txt",
            "I01_01_2",
            "i01_01_1",
            "line 2: 'i01_01_1.bmp' is rated a second time, first in",
        ),
        (tid2008, "mos_with_names.txt", "I01_01_1", "I02_01_1", "line 1: no image 'I02.bmp' in"),
        (tid2008, "mos_with_names.txt", "I01_01_1", "I01_01_9", "line 1: no image 'I01_01_9.bmp' in"),
        (
            layouts.kadid10k,
            "dmos.csv",
            "dmos,",
            "mos,",
            "no column 'dmos', expected dist_img, ref_img, dmos, got 'dist_img,",
        ),
        (layouts.kadid10k, "dmos.csv", "5.00", "inf", "line 2, column 'dmos': expected a finite number, got 'inf'"),
        (
            layouts.kadid10k,
            "dmos.csv",
            "I01_01_01",
            "I01_26_01",
            "line 2, column 'dist_img': kind 26 of I01_26_01.png, ex",
        ),
        (
            layouts.kadid10k,
            "dmos.csv",
            ",I01.png",
            ",I02.png",
            "line 2, column 'ref_img': 'I02.png' is not the reference",
        ),
        (layouts.kadid10k, "dmos.csv", ",I01.png", ",../I01.png", "line 2: no image '../I01.png' in"),
        (layouts.kadid10k, "dmos.csv", ",var", ",dmos", "line 1: the column 'dmos' stands in the header twice"),
        (layouts.kadid10k, "dmos.csv", "5.00", '"5.00', "not CSV (unexpected end of data)"),
        (
            layouts.pipal,
            "Train_Label/A0002.txt",
            "1420.0648",
            "Elo",
            "line 1, column 'elo': expected a finite number, got",
        ),
        (
            layouts.pipal,
            "Train_Label/A0002.txt",
            "A0002_00_00",
            "A0002",
            "line 1, column 'image': expected a name like A0",
        ),
        (
            layouts.plain,
            "mos.csv",
            "dist",
            "distorted",
            "line 1: expected the columns ref,dist,score or ref,a,b,votes_a,vo",
        ),
        (layouts.plain, "mos.csv", "x/d1.png", "", "line 2, column 'dist': an empty path"),
        (
            layouts.plain,
            "mos.csv",
            "x/d1.png",
            "/etc/passwd",
            "line 2, column 'dist': '/etc/passwd' is an absolute path",
        ),
        (layouts.plain, "mos.csv", "x/d1.png", "C:\\d.png", "line 2, column 'dist': 'C:\\\\d.png' is an absolute path"),
        (layouts.plain, "mos.csv", "x/r.png", "x/../../r", "line 2, column 'ref': 'x/../../r' leads out of"),
        (layouts.plain, "mos.csv", "x/r.png", "x", "line 2, column 'ref': no image 'x' in"),
        (layouts.plain, "mos.csv", "x/r.png", "x/R.png", "line 2, column 'ref': no image 'x/R.png' in"),
        (layouts.plain, "mos.csv", "x/r.png", "x/r.png/a", "line 2, column 'ref': no image 'x/r.png/a' in"),
        (layouts.plain, "mos.csv", "x/r.png", "y" * 300 + "/r", "File name too long"),
        (
            layouts.plain,
            "pairs.csv",
            "1,30",
            "-1,30",
            "line 2, columns 'votes_a' and 'votes_b': expected votes, got -1 and",
        ),
        (
            layouts.plain,
            "pairs.csv",
            "1,30",
            "0,0",
            "line 2, columns 'votes_a' and 'votes_b': expected votes, got 0 and 0",
        ),
        (layouts.plain, "pairs.csv", "1,30", "1,inf", "line 2, column 'votes_b': expected a finite number, got 'inf'"),
        (layouts.plain, "pairs.csv", "1,30", "1", "line 2: 5 fields, the header has 6"),
    ],
)
def test_one_field_is_wrong(
    write: Callable[[Path], Path], table: str, old: str, new: str, expected: str, tmp_path: Path
) -> None:
    edit(write(tmp_path) / table, old, new)
    message = error_of(tmp_path)
    assert message.startswith(str(tmp_path))
    assert expected in message


class TestNumbered:
    def test_a_kind_of_tid2013_in_tid2008(self, tmp_path: Path) -> None:
        layouts.tid(tmp_path, 24, 5, contents=1)
        assert error_of(tmp_path, "tid2008").endswith("column 'image': kind 18 of I01_18_1.bmp, expected 1 to 17")

    def test_names_that_differ_in_case_only(self, tmp_path: Path) -> None:
        layouts.put(tid2008(tmp_path) / "reference_images", ["i01.bmp"])
        if len(list((tmp_path / "reference_images").iterdir())) == 1:
            pytest.skip("the file system does not tell them apart")
        assert "the name is that of" in error_of(tmp_path)

    def test_a_missing_folder(self, tmp_path: Path) -> None:
        shutil.rmtree(tid2008(tmp_path) / "reference_images")
        assert f"{tmp_path / 'reference_images'}: No such file or directory" in error_of(tmp_path)

    def test_a_missing_image_folder_of_kadid10k(self, tmp_path: Path) -> None:
        shutil.rmtree(layouts.kadid10k(tmp_path) / "images")
        assert f"{tmp_path / 'images'}: No such file or directory" in error_of(tmp_path)

    def test_a_link_to_nowhere_is_missing(self, tmp_path: Path) -> None:
        image = tid2008(tmp_path) / "distorted_images" / "i01_01_1.bmp"
        image.unlink()
        image.symlink_to("nothing")
        assert f"line 1: no image 'I01_01_1.bmp' in {image.parent}" in error_of(tmp_path)


class TestCsiq:
    @pytest.mark.parametrize(
        ("rows", "expected"),
        [
            ([["image", "dst_type", "dst_lev"]], ": no row with the names of columns image, dst_type, dst_lev, dmos"),
            ([["image", "dst_type", "dst_lev", "dmos"]], ": the table is empty, expected rows below the header"),
            (
                [["image", "dst_type", "dst_lev", "dmos"], [1600, "noise", 1, "#REF!"]],
                ", row 2, column 'dmos': expected a",
            ),
            (
                [["image", "dst_type", "dst_lev", "dmos"], [1600, "snow", 1, 0.5]],
                ", row 2, column 'dst_type': expected one",
            ),
            (
                [["image", "dst_type", "dst_lev", "dmos"], [], [1600, "noise", 6, 0.5]],
                ", row 3: no image '1600.awgn.6.png'",
            ),
            (
                [["image", "dst_type", "dst_lev", "dmos"], [1600, "noise", 1]],
                ", row 2, column 'dmos': expected a finite num",
            ),
        ],
    )
    def test_a_sheet_that_is_wrong(self, rows: list[list[object]], expected: str, tmp_path: Path) -> None:
        root = layouts.csiq(tmp_path)
        layouts.workbook(root / "csiq.DMOS.xlsx", {"all_by_image": rows})
        assert f"{root / 'csiq.DMOS.xlsx'}, sheet 'all_by_image'{expected}" in error_of(root)

    def test_no_distorted_images(self, tmp_path: Path) -> None:
        shutil.rmtree(layouts.csiq(tmp_path) / "dst_imgs")
        assert error_of(tmp_path) == f"{tmp_path}: no folder of distorted images, expected dst_imgs or dst_imgs_all"

    def test_a_name_that_is_none(self, tmp_path: Path) -> None:
        edit(layouts.csiq(tmp_path, "csiq_label.txt") / "csiq_label.txt", "1600.AWGN.1", "1600.snow.1")
        assert "line 1, column 'image': expected a name like 1600.AWGN.1.png, got '1600.snow.1.png'" in error_of(
            tmp_path
        )


class TestLive:
    def test_no_matlab_file(self, tmp_path: Path) -> None:
        path = layouts.live(tmp_path) / "dmos_realigned.mat"
        path.write_bytes(b"MATLAB?" * 40)
        assert error_of(tmp_path).startswith(
            f"{path}: expected a MATLAB file of level 5, got one that begins b'MATLAB?"
        )

    def test_names_are_missing(self, tmp_path: Path) -> None:
        (layouts.live(tmp_path) / "refnames_all.mat").unlink()
        assert error_of(tmp_path) == f"{tmp_path / 'refnames_all.mat'}: No such file or directory"

    @pytest.mark.parametrize(
        ("variables", "expected"),
        [
            ({"dmos": np.ones((1, 982)), "orgs": np.zeros((1, 982))}, ": no variable 'dmos_new'"),
            ({"dmos_new": np.ones((1, 982))}, ": no variable 'orgs'"),
            (
                {"dmos_new": np.ones(981)},
                ", variable 'dmos_new': 981 elements, expected 982 (227 + 233 + 174 + 174 + 174)",
            ),
            (
                {"dmos_new": np.full(982, np.nan)},
                ", variable 'dmos_new', element 1: expected a finite number, got 'nan'",
            ),
            ({"dmos_new": np.full((982, 1), 1j)}, ": no variable 'dmos_new' of numbers or texts, got none"),
            ({"dmos_new": np.ones(982), "orgs": np.ones(982)}, ", variable 'orgs': every image is an original"),
        ],
    )
    def test_variables_that_are_wrong(self, variables: dict[str, np.ndarray], expected: str, tmp_path: Path) -> None:
        path = layouts.live(tmp_path) / "dmos_realigned.mat"
        savemat(path, variables)
        assert error_of(tmp_path).startswith(f"{path}{expected}")

    def test_names_that_are_none(self, tmp_path: Path) -> None:
        path = layouts.live(tmp_path) / "refnames_all.mat"
        savemat(path, {"refnames_all": np.ones((1, 982))})
        assert error_of(tmp_path).startswith(
            f"{path}, variable 'refnames_all', element 1: expected the name of a referenc"
        )

    def test_a_missing_image(self, tmp_path: Path) -> None:
        (layouts.live(tmp_path) / "wn" / "img2.bmp").unlink()
        expected = f"dmos_realigned.mat, element 462: no image 'img2.bmp' in {tmp_path / 'wn'}"
        assert error_of(tmp_path).endswith(expected)


class TestPipal:
    def test_no_tables(self, tmp_path: Path) -> None:
        for table in (layouts.pipal(tmp_path) / "Train_Label").iterdir():
            table.unlink()
        assert error_of(tmp_path) == f"{tmp_path / 'Train_Label'}: no tables (.txt) in this folder"

    def test_no_distorted_images(self, tmp_path: Path) -> None:
        shutil.rmtree(layouts.pipal(tmp_path, spread=False) / "Train_Dist")
        assert error_of(tmp_path).endswith("expected Train_Dist or Train_Distort or Distortion_1 to 4")

    def test_an_archive_is_missing(self, tmp_path: Path) -> None:
        shutil.rmtree(layouts.pipal(tmp_path) / "Distortion_2")
        table = tmp_path / "Train_Label" / "A0002.txt"
        expected = f"{table}, line 1: no image 'A0002_00_00.bmp' in {tmp_path / 'Distortion_1'} (6 of 12 are missing)"
        assert error_of(tmp_path) == expected


class TestPlain:
    def test_links_that_lead_out(self, tmp_path: Path) -> None:
        layouts.put(tmp_path / "elsewhere", ["d1.png"])
        root = layouts.plain(tmp_path / "set")
        (root / "x" / "d1.png").unlink()
        (root / "x" / "d1.png").symlink_to(tmp_path / "elsewhere" / "d1.png")
        assert error_of(root).endswith(f"'x/d1.png' leads out of {root} by a symbolic link")
        shutil.rmtree(root / "x")
        (root / "x").symlink_to(tmp_path / "elsewhere")
        assert error_of(root).endswith(f"{root / 'x'} leads out of {root} by a symbolic link")

    def test_one_of_several_files_is_something_else(self, tmp_path: Path) -> None:
        (layouts.plain(tmp_path) / "results.csv").write_text("name,value\na,1\n")
        assert "results.csv, line 1: expected the columns ref,dist,score" in error_of(tmp_path)

    def test_a_folder_in_the_place_of_a_table(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").mkdir()
        assert error_of(tmp_path / "a.csv").startswith(f"{tmp_path / 'a.csv'}: no judged set of a known layout")
