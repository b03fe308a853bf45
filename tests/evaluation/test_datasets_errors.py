"""Whatever is wrong with a judged set is named: the file, the row, the column, what came and what was expected."""

import re
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from damlpips.evaluation.datasets import LAYOUTS, DatasetError, load, tables
from damlpips.evaluation.judgements import JudgedSet
from damlpips.scoring.images import SUFFIXES
from tests.support import layouts
from tests.support.layouts import EXAMPLES
from tests.support.mutations import mutated

TABLES = [(layout, table) for layout, example in EXAMPLES.items() for table in example.tables]
FILES = [*TABLES, *((layout, file) for layout, example in EXAMPLES.items() for file in example.binaries)]
KEPT = settings(max_examples=60)


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
        known = "; ".join(f"{name} ({layout.looked_for})" for name, layout in LAYOUTS.items())
        for path in (tmp_path, tmp_path / "readme.txt"):
            assert error_of(path) == f"{path}: no judged set of a known layout, looked for {known}"

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_the_layout_asked_for_is_not_there(self, layout: str, tmp_path: Path) -> None:
        message = error_of(tmp_path, layout)
        assert message.startswith(str(tmp_path))
        file = next((file for file in EXAMPLES[layout].tables if f"{file}: No such file" in message), None)
        assert file is not None or ", expected " in message or re.search(r"expected a (CSV file|shard)", message)


NO_FOLDER = f": No such file or directory, expected a folder of files ({', '.join(SUFFIXES)})"
# by layout: what is removed from the folder {root}, and what the error says
MISSING = {
    "bapps-2afc": {
        "p1/000001.png": "{root}/judge/000001.npy: no image of this stem in {root}/p1 "
        "(1 missing: 3 files in judge, 2 in p1)",
        "judge/000002.npy": "{root}/ref/000002.png: no label of this stem in {root}/judge "
        "(1 missing: 3 files in ref, 2 in judge)",
    },
    "bapps-jnd": {"p1": "{root}/p1" + NO_FOLDER, "same/*": "{root}/same: no labels (.npy) in this folder"},
    "tid2008": {"reference_images": "{root}/reference_images" + NO_FOLDER},
    "csiq": {"dst_imgs": "{root}: no folder of distorted images, expected dst_imgs or dst_imgs_all"},
    "live": {
        "refnames_all.mat": "{root}/refnames_all.mat: No such file or directory",
        "wn/img2.bmp": "{root}/dmos_realigned.mat, element 462: no image 'img2.bmp' in {root}/wn",
    },
    "pipal": {
        "Train_Label/*": "{root}/Train_Label: no tables (.txt) in this folder",
        "Distortion_*": "{root}: no folder of distorted images, "
        "expected Train_Dist or Train_Distort or Distortion_1 to 4",
        "Distortion_2": "{root}/Train_Label/A0002.txt, line 1: "
        "no image 'A0002_00_00.bmp' in {root}/Distortion_1 (6 of 12 are missing)",
    },
}


@pytest.mark.parametrize(
    ("layout", "removed"), [(layout, removed) for layout in MISSING for removed in MISSING[layout]]
)
def test_something_is_missing(layout: str, removed: str, tmp_path: Path) -> None:
    for path in list(EXAMPLES[layout].write(tmp_path).glob(removed)):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    assert error_of(tmp_path) == MISSING[layout][removed].format(root=tmp_path)


class TestBapps:
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


@pytest.mark.parametrize(("layout", "table"), TABLES)
class TestEveryTable:
    @pytest.fixture
    def path(self, layout: str, table: str, tmp_path: Path) -> Path:
        return EXAMPLES[layout].write(tmp_path) / table

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            (lambda content: b"", r": the table is empty, expected .*"),
            (lambda content: content + "é".encode("latin-1"), r", line {after}: not UTF-8 \(unexpected end of data\)"),
            (lambda content: content + b"\0", r", line \d+: .*a NUL byte, not text"),
            (
                lambda content: content.rstrip() + (b",more" if b"," in content else b" more"),
                r", line {last}: \d fields, .*",
            ),
        ],
        ids=["empty", "not UTF-8", "a NUL", "too many fields"],
    )
    def test_damaged(self, change: Callable, expected: str, path: Path, layout: str, tmp_path: Path) -> None:
        content = path.read_bytes()
        path.write_bytes(change(content))
        last = content.count(b"\n")
        pattern = expected.format(last=last, after=last + 1)
        assert re.fullmatch(re.escape(str(path)) + pattern, error_of(tmp_path, layout))

    def test_too_large(self, path: Path, layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tables.read_bytes, "__defaults__", (20,))
        assert re.fullmatch(r".*: a file of \d\d+ bytes, expected at most 20", error_of(tmp_path, layout))

    def test_missing_images_are_counted(self, path: Path, layout: str, tmp_path: Path) -> None:
        for image in tmp_path.rglob("*"):
            if image.suffix in (".bmp", ".png", ".BMP"):
                image.unlink()
        counted = r", line \d+.*: no image '.*' in .* \(\d+ of \d+ are missing\)$"
        assert re.search(counted, error_of(tmp_path, layout))


# by layout and table: what is replaced, by what, and what the error says
WRONG_FIELDS = {
    ("tid2008", "mos_with_names.txt"): [
        ("0.91000", "nan", "line 1, column 'mos': expected a finite number, got 'nan'"),
        ("0.91000", "5,5", "line 1, column 'mos': expected a finite number, got '5,5'"),
        ("I01_01_1.bmp", "a.bmp", "line 1, column 'image': expected a name like I01_01_1"),
        ("I01_01_2", "i01_01_1", "line 2: 'i01_01_1.bmp' is rated a second time, first in"),
        ("I01_01_1", "I02_01_1", "line 1: no image 'I02.bmp' in"),
        ("I01_01_1", "I01_01_9", "line 1: no image 'I01_01_9.bmp' in"),
    ],
    ("kadid10k", "dmos.csv"): [
        ("dmos,", "mos,", "no column 'dmos', expected dist_img, ref_img, dmos, got 'dist_img,"),
        ("5.00", "inf", "line 2, column 'dmos': expected a finite number, got 'inf'"),
        ("I01_01_01", "I01_26_01", "line 2, column 'dist_img': kind 26 of I01_26_01.png, ex"),
        (",I01.png", ",I02.png", "line 2, column 'ref_img': 'I02.png' is not the reference"),
        (",I01.png", ",../I01.png", "line 2: no image '../I01.png' in"),
        (",var", ",dmos", "line 1: the column 'dmos' stands in the header twice"),
        ("5.00", '"5.00', "not CSV (unexpected end of data)"),
    ],
    ("pipal", "Train_Label/A0002.txt"): [
        ("1420.0648", "Elo", "line 1, column 'elo': expected a finite number, got"),
        ("A0002_00_00", "A0002", "line 1, column 'image': expected a name like A0"),
    ],
    ("csv", "mos.csv"): [
        ("dist", "distorted", "line 1: expected the columns ref,dist,score or ref,a,b,votes_a,vo"),
        ("x/d1.png", "", "line 2, column 'dist': an empty path"),
        ("x/d1.png", "/etc/passwd", "line 2, column 'dist': '/etc/passwd' is an absolute path"),
        ("x/d1.png", "C:\\d.png", "line 2, column 'dist': 'C:\\\\d.png' is an absolute path"),
        ("x/r.png", "x/../../r", "line 2, column 'ref': 'x/../../r' leads out of"),
        ("x/r.png", "x", "line 2, column 'ref': no image 'x' in"),
        ("x/r.png", "x/R.png", "line 2, column 'ref': no image 'x/R.png' in"),
        ("x/r.png", "x/r.png/a", "line 2, column 'ref': no image 'x/r.png/a' in"),
        ("x/r.png", "y" * 300 + "/r", "File name too long"),
    ],
    ("csv", "pairs.csv"): [
        ("1,30", "-1,30", "line 2, columns 'votes_a' and 'votes_b': expected votes, got -1 and"),
        ("1,30", "0,0", "line 2, columns 'votes_a' and 'votes_b': expected votes, got 0 and 0"),
        ("1,30", "1,inf", "line 2, column 'votes_b': expected a finite number, got 'inf'"),
        ("1,30", "1", "line 2: 5 fields, the header has 6"),
    ],
    ("csv", "quads.csv"): [
        (
            "votes_q",
            "votes",
            "line 1: expected the columns ref,dist,score or ref,a,b,votes_a,votes_b or ref,a,b,judge or ref,p0,",
        ),
        ("7,1", "7,-1", "line 2, columns 'votes_p' and 'votes_q': expected votes, got 7 and -1"),
        ("0.25,0", "0,0", "line 3, columns 'votes_p' and 'votes_q': expected votes, got 0 and 0"),
        ("7,1", "seven,1", "line 2, column 'votes_p': expected a finite number, got 'seven'"),
        ("x/d3.png", "x/d9.png", "line 2, column 'q2': no image 'x/d9.png' in"),
        ("x/d1.png,x/r.png", ",x/r.png", "line 3, column 'p1': an empty path"),
        ("x/d2.png,x/d3.png", "../d2.png,x/d3.png", "line 2, column 'q1': '../d2.png' leads out of"),
    ],
}


@pytest.mark.parametrize(
    ("layout", "table", "old", "new", "expected"),
    [(*where, *change) for where, changes in WRONG_FIELDS.items() for change in changes],
)
def test_one_field_is_wrong(layout: str, table: str, old: str, new: str, expected: str, tmp_path: Path) -> None:
    edit(EXAMPLES[layout].write(tmp_path) / table, old, new)
    message = error_of(tmp_path)
    assert message.startswith(str(tmp_path))
    assert expected in message


def test_names_of_images_that_are_not_unique_or_links_to_nothing(tmp_path: Path) -> None:
    root = EXAMPLES["tid2008"].write(tmp_path)
    image = root / "distorted_images" / "i01_01_1.bmp"
    image.unlink()
    image.symlink_to("nothing")
    assert f"line 1: no image 'I01_01_1.bmp' in {image.parent}" in error_of(root)
    layouts.put(root / "reference_images", ["i01.bmp"])
    if len(list((root / "reference_images").iterdir())) > 1:  # unless the file system does not tell them apart
        assert "the name is that of" in error_of(root)


def test_a_kind_of_tid2013_in_tid2008(tmp_path: Path) -> None:
    EXAMPLES["tid2013"].write(tmp_path)
    assert error_of(tmp_path, "tid2008").endswith("column 'image': kind 18 of I01_18_1.bmp, expected 1 to 17")


HEADER = ["image", "dst_type", "dst_lev", "dmos"]


class TestCsiq:
    @pytest.fixture
    def workbook(self, tmp_path: Path) -> Path:
        return layouts.csiq(tmp_path) / "csiq.DMOS.xlsx"

    @pytest.mark.parametrize(
        ("rows", "expected"),
        [
            ([HEADER[:-1]], ": no row with the names of columns image, dst_type, dst_lev, dmos"),
            ([HEADER], ": the table is empty, expected rows below the header"),
            ([HEADER, [1600, "noise", 1, "#REF!"]], ", row 2, column 'dmos': expected a finite number, got '#REF!'"),
            ([HEADER, [1600, "snow", 1, 0.5]], ", row 2, column 'dst_type': expected one of noise, blur, "),
            ([HEADER, [], [1600, "noise", 6, 0.5]], ", row 3: no image '1600.awgn.6.png'"),
            ([HEADER, [1600, "noise", 1]], ", row 2, column 'dmos': expected a finite number, got ''"),
        ],
    )
    def test_a_sheet_that_is_wrong(self, rows: list[list[object]], expected: str, workbook: Path) -> None:
        layouts.workbook(workbook, {"all_by_image": rows})
        assert error_of(workbook.parent).startswith(f"{workbook}, sheet 'all_by_image'{expected}")

    def test_no_such_sheet(self, workbook: Path) -> None:
        layouts.workbook(workbook, {"one": [], "two": []})
        expected = f"{workbook}: no sheet 'all_by_image', expected it among 'one', 'two'"
        assert error_of(workbook.parent) == expected

    def test_no_workbook(self, workbook: Path) -> None:
        workbook.write_bytes(b"image,dmos\n")
        expected = f"{workbook}: not an Excel workbook (.xlsx) that can be read (BadZipFile: "
        assert error_of(workbook.parent).startswith(expected)

    @pytest.mark.parametrize(
        ("sheet", "expected"),
        [
            (b'<!DOCTYPE a [<!ENTITY b "bbbb">]><worksheet>&b;</worksheet>', "refused, XML with a document type"),
            (b"<worksheet>" + b" " * (1 << 27) + b"</worksheet>", "bytes unpacked, expected at most 67108864"),
        ],
    )
    def test_what_grows_without_end(self, sheet: bytes, expected: str, workbook: Path) -> None:
        layouts.pack(workbook, {**layouts.parts_of(workbook), "xl/worksheets/sheet1.xml": sheet})
        assert workbook.stat().st_size < 1 << 20
        assert error_of(workbook.parent).endswith(expected)

    def test_rows_and_columns_without_end(self, workbook: Path) -> None:
        rows = b'<row r="1"><c r="XFD1"><v>1</v></c></row><row r="999999999"><c><v>1</v></c></row>'
        namespace = b'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
        sheet = b"<worksheet " + namespace + b"><sheetData>" + rows + b"</sheetData></worksheet>"
        layouts.pack(workbook, {**layouts.parts_of(workbook), "xl/worksheets/sheet2.xml": sheet})
        assert "no row with the names of columns" in error_of(workbook.parent)

    def test_a_name_that_is_none(self, tmp_path: Path) -> None:
        edit(layouts.csiq(tmp_path, "csiq_label.txt") / "csiq_label.txt", "1600.AWGN.1", "1600.snow.1")
        expected = "line 1, column 'image': expected a name like 1600.AWGN.1.png, got '1600.snow.1.png'"
        assert error_of(tmp_path).endswith(expected)


class TestLive:
    @pytest.fixture
    def scores(self, tmp_path: Path) -> Path:
        return layouts.live(tmp_path) / "dmos_realigned.mat"

    def test_no_matlab_file(self, scores: Path) -> None:
        scores.write_bytes(b"MATLAB?" * 40)
        expected = f"{scores}: expected a MATLAB file of level 5, got one that begins b'MATLAB?"
        assert error_of(scores.parent).startswith(expected)

    @pytest.mark.parametrize(
        ("variables", "expected"),
        [
            ({"dmos": np.ones((1, 982)), "orgs": np.zeros((1, 982))}, ": no variable 'dmos_new'"),
            ({"dmos_new": np.ones((1, 982))}, ": no variable 'orgs'"),
            ({"dmos_new": np.ones(981)}, "'dmos_new': 981 elements, expected 982 (227 + 233 + 174 + 174 + 174)"),
            ({"dmos_new": np.full(982, np.nan)}, "'dmos_new', element 1: expected a finite number, got 'nan'"),
            ({"dmos_new": np.full((982, 1), 1j)}, ": no variable 'dmos_new' of numbers or texts, got none"),
            ({"dmos_new": np.ones(982), "orgs": np.ones(982)}, "'orgs': every image is an original"),
        ],
    )
    def test_variables_that_are_wrong(self, variables: dict[str, np.ndarray], expected: str, scores: Path) -> None:
        savemat(scores, variables)
        message = error_of(scores.parent)
        assert message.startswith(str(scores))
        assert expected in message

    def test_names_that_are_none(self, scores: Path) -> None:
        path = scores.parent / "refnames_all.mat"
        savemat(path, {"refnames_all": np.ones((1, 982))})
        expected = f"{path}, variable 'refnames_all', element 1: expected the name of a reference, got '1.0'"
        assert error_of(scores.parent) == expected


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


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of a layout's example, written once."""
    return cache(lambda layout: EXAMPLES[layout].write(tmp_path_factory.mktemp(layout)))


def outcome(path: Path, layout: str = "auto") -> list[JudgedSet] | str:
    """Return what `path` holds, or what the error says; anything else fails the test."""
    try:
        return load(path, layout)
    except DatasetError as error:
        return str(error)


def check_damaged(root: Path, name: str, content: bytes, layout: str = "auto") -> None:
    """Assert that a file's new content gives data or an error that names it."""
    path = root / name
    original = path.read_bytes()
    path.write_bytes(content)
    try:
        found = outcome(root, layout)
    finally:
        path.write_bytes(original)
    assert str(root) in found if isinstance(found, str) else all(judged.judgements for judged in found)


@pytest.mark.parametrize(("layout", "name"), FILES)
@KEPT
@given(data=st.data())
def test_damaged_files(layout: str, name: str, data: st.DataObject, written: Callable[[str], Path]) -> None:
    root = written(layout)
    check_damaged(root, name, data.draw(mutated((root / name).read_bytes())), layout)


@KEPT
@given(data=st.data())
def test_damaged_parts_of_a_workbook(data: st.DataObject, written: Callable[[str], Path]) -> None:
    root = written("csiq")
    parts = layouts.parts_of(root / "csiq.DMOS.xlsx")
    name = data.draw(st.sampled_from(sorted(parts)))
    damaged = root / "damaged.xlsx"
    layouts.pack(damaged, {**parts, name: data.draw(mutated(parts[name]))})
    check_damaged(root, "csiq.DMOS.xlsx", damaged.read_bytes())


@KEPT
@given(name=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12))
@example(name="..")
@example(name="..\\a")
@example(name="a/../../b")
@example(name="//a")
@example(name="\\\\server\\a")
@example(name="./r.png")
def test_no_path_leads_out(name: str, written: Callable[[str], Path]) -> None:
    root = written("csv")
    quoted = name.replace('"', '""')
    table = root / "x" / "one.csv"
    table.write_text(f'ref,dist,score\n"{quoted}","r.png",1\n', encoding="utf-8", newline="")
    found = outcome(table)
    if isinstance(found, str):
        assert "column 'ref'" in found
    else:
        reference = found[0].judgements[0].reference
        assert reference.is_file()
        assert reference.resolve().is_relative_to(root / "x")
