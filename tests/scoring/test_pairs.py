"""Pairs of files are found by name, by stem, or in a manifest; errors name the file."""

import os
import random
import sys
import warnings
from pathlib import Path

import pytest

from damlpips.files import natural
from damlpips.scoring import pairs
from damlpips.scoring.images import ScoringError
from damlpips.scoring.pairs import Pair, PassedOver, PassedOverWarning, find_methods, find_pairs


def empty_files(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


class TestFindPairs:
    def test_two_files_are_one_pair(self, tmp_path: Path) -> None:
        a, b = (empty_files(tmp_path, "a.png", "b.jpg") / name for name in ("a.png", "b.jpg"))
        assert find_pairs(a, b) == [Pair(a, b, "b.jpg")]

    def test_two_folders_pair_by_name_in_natural_order(self, tmp_path: Path) -> None:
        names = ("b2.png", "b10.png", "B1.png", "a.jpg")
        r, d = (empty_files(tmp_path / side, *names) for side in "rd")
        ordered = ["a.jpg", "B1.png", "b2.png", "b10.png"]
        assert find_pairs(r, d) == [Pair(r / n, d / n, n) for n in ordered]

    def test_folders_fall_back_to_the_stem(self, tmp_path: Path) -> None:
        r, d = empty_files(tmp_path / "r", "a.png", "b.png"), empty_files(tmp_path / "d", "a.jpg", "b.png")
        assert find_pairs(r, d) == [Pair(r / "a.png", d / "a.jpg", "a.jpg"), Pair(r / "b.png", d / "b.png", "b.png")]

    def test_a_stem_that_occurs_twice_pairs_nothing(self, tmp_path: Path) -> None:
        r, d = empty_files(tmp_path / "r", "a.png"), empty_files(tmp_path / "d", "a.jpg", "a.webp")
        with pytest.raises(ScoringError, match=r"differ in their ending alone.*r/a\.png, .*d/a\.jpg, .*d/a\.webp$"):
            find_pairs(r, d)
        with pytest.raises(ScoringError, match=r"differ in their ending alone.*d/a\.jpg, .*d/a\.webp, .*r/a\.png$"):
            find_pairs(d, r)

    def test_a_name_goes_before_a_stem(self, tmp_path: Path) -> None:
        r, d = (
            empty_files(tmp_path / side, "a.png", "a.jpg", other) for side, other in (("r", "a.bmp"), ("d", "a.tif"))
        )
        pairs = [("a.bmp", "a.tif"), ("a.jpg", "a.jpg"), ("a.png", "a.png")]
        assert sorted((p.reference.name, p.distorted.name) for p in find_pairs(r, d)) == pairs

    def test_folders_within_folders_pair_by_their_paths(self, tmp_path: Path) -> None:
        names = ("a.png", "x2/a.png", "x10/a.png", "x2/y/b.png")
        for side in "rd":
            for name in names:
                empty_files((tmp_path / side / name).parent, Path(name).name)
        r, d = tmp_path / "r", tmp_path / "d"
        (d / "x10/a.png").rename(d / "x10/a.webp")
        empty_files(d / ".hidden", "c.png")
        (d / "x2/loop").symlink_to(d)
        expected = ["a.png", "x2/a.png", "x2/y/b.png", "x10/a.webp"]
        assert [(p.name, p.reference) for p in find_pairs(r, d)] == [
            (name, r / name.replace("webp", "png")) for name in expected
        ]
        assert [p.name for p in find_pairs(r / "a.png", d)] == expected

    def test_a_linked_folder_is_searched(self, tmp_path: Path) -> None:
        r = empty_files(tmp_path / "r/x", "a.png").parent
        elsewhere = empty_files(tmp_path / "elsewhere", "a.png")
        (tmp_path / "d").mkdir()
        (tmp_path / "d/x").symlink_to(elsewhere)
        (pair,) = find_pairs(r, tmp_path / "d")
        assert pair.distorted == tmp_path / "d/x/a.png"

    def test_methods_follow_each_other_for_each_reference(self, tmp_path: Path) -> None:
        r = empty_files(tmp_path / "r", "1.png", "2.png")
        methods = {
            "one": empty_files(tmp_path / "a", "1.png", "2.png"),
            "two": empty_files(tmp_path / "b", "2.jpg", "1.jpg"),
        }
        found = find_methods(r, methods)
        assert found == [
            Pair(r / "1.png", tmp_path / "a/1.png", "1.png", "one"),
            Pair(r / "1.png", tmp_path / "b/1.jpg", "1.jpg", "two"),
            Pair(r / "2.png", tmp_path / "a/2.png", "2.png", "one"),
            Pair(r / "2.png", tmp_path / "b/2.jpg", "2.jpg", "two"),
        ]
        assert [(p.method, p.name) for p in find_methods(r / "1.png", methods)] == [
            *(("one", "1.png"), ("one", "2.png"), ("two", "1.jpg"), ("two", "2.jpg"))
        ]
        rows = manifest(tmp_path, "2.png,2.png", "2.png,1.png")
        (tmp_path / "b/1.jpg").rename(tmp_path / "b/1.png")
        (tmp_path / "b/2.jpg").rename(tmp_path / "b/2.png")
        assert [(p.reference.name, p.method, p.name) for p in find_methods(r, methods, rows)] == [
            ("2.png", method, name) for name in ("2.png", "1.png") for method in ("one", "two")
        ]
        (tmp_path / "b/1.png").unlink()
        with pytest.raises(ScoringError, match=r"r/1\.png: no image of this name.* in .*b$"):
            find_methods(r, methods)

    def test_one_reference_against_a_folder(self, tmp_path: Path) -> None:
        reference = empty_files(tmp_path, "ref.png") / "ref.png"
        folder = empty_files(tmp_path / "d", "q10.jpg", "q9.JPG", "notes.txt", ".hidden.png")
        (folder / "deeper.png").mkdir()
        assert [p.name for p in find_pairs(reference, folder)] == ["q9.JPG", "q10.jpg"]
        assert {p.reference for p in find_pairs(reference, folder)} == {reference}

    @pytest.mark.parametrize(
        ("references", "distorted", "message"),
        [
            (("a.png", "b.png", "c.png"), ("a.png",), r"r/b\.png: .* in .*d \(2 images of .*r have none\)"),
            (("a.png",), ("a.png", "z.png"), r"d/z\.png: no image of this name, or the only one of its stem, in .*r$"),
        ],
    )
    def test_images_without_a_partner(
        self, tmp_path: Path, references: tuple[str, ...], distorted: tuple[str, ...], message: str
    ) -> None:
        with pytest.raises(ScoringError, match=message):
            find_pairs(empty_files(tmp_path / "r", *references), empty_files(tmp_path / "d", *distorted))

    def test_paths_that_do_not_exist(self, tmp_path: Path) -> None:
        there = empty_files(tmp_path, "a.png") / "a.png"
        with pytest.raises(ScoringError, match=r"reference '.*gone\.png': no such file"):
            find_pairs(tmp_path / "gone.png", there)
        with pytest.raises(ScoringError, match=r"distorted '.*gone': no such file"):
            find_pairs(there, tmp_path / "gone")

    def test_names_that_cannot_be(self, tmp_path: Path) -> None:
        there = empty_files(tmp_path, "a.png") / "a.png"
        for name, message in (("long" * 99, "File name too long"), ("nul\0", "not a file name")):
            with pytest.raises(ScoringError, match=rf"distorted '.*': {message}"):
                find_pairs(there, tmp_path / name)

    def test_a_link_to_nowhere_is_not_passed_over(self, tmp_path: Path) -> None:
        folder = empty_files(tmp_path / "d", "a.png")
        (folder / "b.png").symlink_to("nothing")
        assert [p.name for p in find_pairs(folder / "a.png", folder)] == ["a.png", "b.png"]

    def test_a_folder_without_images(self, tmp_path: Path) -> None:
        folder = empty_files(tmp_path / "d", "notes.txt")
        with pytest.raises(ScoringError, match="d: no images in this folder"):
            find_pairs(empty_files(tmp_path, "a.png") / "a.png", folder)

    def test_a_folder_against_a_file(self, tmp_path: Path) -> None:
        folder = empty_files(tmp_path / "d", "a.png")
        with pytest.raises(ScoringError, match=r"is a folder, distorted .* a file"):
            find_pairs(folder, folder / "a.png")


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for side in ("r", "d"):
        empty_files(tmp_path / side, "a.png", "b.png", "c c.png")
        empty_files(tmp_path / side / "deep", "a.png")
    return tmp_path / "r", tmp_path / "d"


def manifest(tmp_path: Path, *rows: str, header: str = "reference,distorted") -> Path:
    path = tmp_path / "pairs.csv"
    path.write_text("".join(f"{row}\n" for row in (header, *rows)))
    return path


class TestManifest:
    def test_rows_in_the_order_of_the_file(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        r, d = folders
        rows = ("b.png,a.png", "a.png,b.png", "a.png,b.png", "deep/a.png,./deep/a.png")
        assert find_pairs(r, d, manifest(tmp_path, *rows)) == [
            Pair(r / "b.png", d / "a.png", "a.png"),
            *[Pair(r / "a.png", d / "b.png", "b.png")] * 2,
            Pair(r / "deep/a.png", d / "deep/a.png", "./deep/a.png"),
        ]

    @pytest.mark.parametrize("ending", ["\n", "\r\n"])
    @pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["", "byte order mark"])
    def test_other_columns_quotes_blank_lines_and_endings(
        self, folders: tuple[Path, Path], tmp_path: Path, ending: str, mark: str
    ) -> None:
        rows = (f"{mark}score,distorted,note,reference", '1,"c c.png","a, ""b""",a.png', "", ",b.png,,b.png")
        (tmp_path / "m.csv").write_text(ending.join(rows), newline="")
        found = find_pairs(*folders, tmp_path / "m.csv")
        assert [(p.reference.name, p.distorted.name) for p in found] == [("a.png", "c c.png"), ("b.png", "b.png")]

    def test_a_link_within_the_folder(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        (folders[1] / "link.png").symlink_to("deep/a.png")
        linked = (tmp_path / "linked").absolute()
        linked.symlink_to(folders[1])
        (found,) = find_pairs(folders[0], linked, manifest(tmp_path, "a.png,link.png"))
        assert found.distorted == linked / "link.png"

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            (["a.png,/etc/hosts"], r"line 2: '/etc/hosts' is an absolute path, expected one within .*d$"),
            (["a.png,b.png", "//host/x,a.png"], r"line 3: '//host/x' is an absolute path, expected one within .*r$"),
            ([r"a.png,C:\x.png"], r"line 2: 'C:\\\\x.png' is an absolute path"),
            ([r"\x.png,a.png"], "line 2: .* is an absolute path"),
            (["a.png,../r/a.png"], r"line 2: '\.\./r/a\.png' leads out of .*d with '\.\.'"),
            (["a.png,deep/../a.png"], r"line 2: .* leads out of .*d with '\.\.'"),
            ([r"deep\..\a.png,a.png"], r"line 2: .* leads out of .*r with '\.\.'"),
            (["a.png,outside.png"], r"line 2: 'outside\.png' leads out of .*d by a symbolic link"),
            (["a.png,out/a.png"], r"line 2: 'out/a\.png' leads out of .*d by a symbolic link"),
            (["a.png,b.png", "", "a.png,gone.png"], r"line 4: 'gone\.png': No such file"),
            (["a.png,nowhere.png"], r"line 2: 'nowhere\.png': No such file"),
            (["a.png,deep"], r"line 2: 'deep': Is a directory"),
            (["a.png,."], r"line 2: '\.': Is a directory"),
            (["a.png,pipe.png"], r"line 2: 'pipe\.png': Not a regular file"),
            (["a.png,loop.png"], r"line 2: 'loop\.png': Too many levels"),
            ([f"a.png,{'long' * 99}"], r"line 2: 'long.*\.\.\.': File name too long"),
            (["a.png,"], "line 2: an empty path"),
            (["a.png"], "line 2: 1 fields, the header has 2"),
            (["a.png,b, c.png"], "line 2: 3 fields, the header has 2"),
            (['a.png,"b.png', "a.png,b.png"], "line 2: not CSV"),
            (['"a.png"x,b.png'], "line 2: not CSV"),
            (["a.png," + 200_000 * "b"], "line 2: not CSV"),
            (["a.png,b.png", "a.png,b\0.png"], "line 3: a NUL byte"),
            ([], "line 1: no pairs below the header"),
            (["", ""], "line 1: no pairs below the header"),
        ],
    )
    def test_a_row_that_is_refused(
        self, folders: tuple[Path, Path], tmp_path: Path, rows: list[str], message: str
    ) -> None:
        empty_files(tmp_path / "elsewhere", "a.png")
        (folders[1] / "outside.png").symlink_to(folders[0] / "a.png")
        (folders[1] / "out").symlink_to(tmp_path / "elsewhere")
        (folders[1] / "nowhere.png").symlink_to("nothing")
        (folders[1] / "loop.png").symlink_to("loop.png")
        os.mkfifo(folders[1] / "pipe.png")
        with pytest.raises(ScoringError, match=rf"pairs\.csv, {message}"):
            find_pairs(*folders, manifest(tmp_path, *rows))

    @pytest.mark.parametrize(
        ("header", "column"),
        [("reference,dist", "distorted"), ("a.png,b.png", "reference"), ("distorted,reference,distorted", "distorted")],
    )
    def test_a_header_that_is_refused(
        self, folders: tuple[Path, Path], tmp_path: Path, header: str, column: str
    ) -> None:
        message = f"pairs\\.csv, line 1: expected a header with one column '{column}', got '{header}'"
        with pytest.raises(ScoringError, match=message):
            find_pairs(*folders, manifest(tmp_path, "a.png,b.png,a.png", header=header))

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "line 1: the manifest is empty"),
            (b"reference,distorted\na.png,\xff.png\n", "line 2: not UTF-8"),
            ("reference,distorted\na.png,b.png\n".encode("utf-16"), "line 1: a NUL byte"),
            (b"\x89PNG\r\n\x1a\n", "line 1: not UTF-8"),
        ],
    )
    def test_a_file_that_is_no_text(
        self, folders: tuple[Path, Path], tmp_path: Path, content: bytes, message: str
    ) -> None:
        (tmp_path / "m.csv").write_bytes(content)
        with pytest.raises(ScoringError, match=rf"m\.csv, {message}"):
            find_pairs(*folders, tmp_path / "m.csv")

    def test_what_is_no_file(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.csv")
        for path, message in (
            (tmp_path / "gone.csv", r"gone\.csv: No such file"),
            (tmp_path / "pipe.csv", r"pipe\.csv: Not a regular file"),
            (tmp_path, "Is a directory"),
        ):
            with pytest.raises(ScoringError, match=message):
                find_pairs(*folders, path)

    def test_a_very_long_file(
        self, folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pairs, "LARGEST_MANIFEST", 30)
        with pytest.raises(ScoringError, match=r"pairs\.csv: a manifest of 32 bytes, more than 30"):
            find_pairs(*folders, manifest(tmp_path, "a.png,b.png"))

    def test_files_in_place_of_folders(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        r, d = folders
        rows = manifest(tmp_path, "a.png,a.png")
        with pytest.raises(ScoringError, match=r"reference '.*a\.png': expected a folder"):
            find_pairs(r / "a.png", d, rows)
        with pytest.raises(ScoringError, match=r"distorted '.*a\.png': expected a folder"):
            find_pairs(r, d / "a.png", rows)
        with pytest.raises(ScoringError, match=r"distorted '.*gone': no such file or folder"):
            find_pairs(r, d / "gone", rows)


NFC, NFD = "\u00fc", "u\u0308"


@pytest.mark.skipif(sys.platform == "darwin", reason="file systems there know only one of them")
class TestLettersTakenApart:
    @pytest.mark.parametrize(
        ("reference", "distorted"),
        [
            ([f"{NFC}.png"], [f"{NFD}.png"]),
            ([f"{NFD}.png"], [f"{NFC}.jpg"]),
            ([f"{NFC}.png", f"{NFD}.png"], [f"{NFC}.png", f"{NFD}.png"]),
            ([f"a{NFC}.png", "b.png"], [f"a{NFD}.png", "b.jpg"]),
        ],
        ids=["the same name", "the same stem", "both on both sides", "among others"],
    )
    def test_pair_with_letters_composed(self, tmp_path: Path, reference: list[str], distorted: list[str]) -> None:
        r, d = empty_files(tmp_path / "r", *reference), empty_files(tmp_path / "d", *distorted)
        found = sorted((p.reference.name, p.distorted.name) for p in find_pairs(r, d))
        assert found == sorted(zip(reference, distorted, strict=True))

    def test_folders_pair_too(self, tmp_path: Path) -> None:
        r, d = empty_files(tmp_path / "r" / NFC, "a.png").parent, empty_files(tmp_path / "d" / NFD, "a.png").parent
        assert [(p.reference, p.name) for p in find_pairs(r, d)] == [(r / NFC / "a.png", f"{NFD}/a.png")]

    @pytest.mark.parametrize("other", [f"{NFC}.png", f"{NFD}.png", f"{NFC}.jpg", "b.png"])
    def test_two_on_one_side_are_refused(self, tmp_path: Path, other: str) -> None:
        r, d = empty_files(tmp_path / "r", f"{NFC}.png", f"{NFD}.png"), empty_files(tmp_path / "d", other)
        for sides in ((r, d), (d, r)):
            with pytest.raises(ScoringError, match="look the same, and differ only in how letters are composed"):
                find_pairs(*sides)

    def test_in_a_manifest(self, tmp_path: Path) -> None:
        r, d = empty_files(tmp_path / "r" / NFC, f"{NFC}.png").parent, empty_files(tmp_path / "d" / NFD, "a.png").parent
        rows = tmp_path / "pairs.csv"
        rows.write_text(f"reference,distorted\n{NFD}/{NFD}.png,{NFC}/a.png\n", encoding="utf-8")
        (pair,) = find_pairs(r, d, rows)
        assert (pair.reference, pair.distorted) == (r / NFC / f"{NFC}.png", d / NFD / "a.png")
        for letters in ("u\u0323\u0308", "u\u0308\u0323"):  # neither is the composed one, which the row names
            empty_files(d, f"{letters}.png")
        rows.write_text(f"reference,distorted\n{NFC}/{NFC}.png,\u1ee5\u0308.png\n", encoding="utf-8")
        with pytest.raises(ScoringError, match=r"line 2: .* look the same"):
            find_pairs(r, d, rows)


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="file names are text there")
def test_a_manifest_spells_names_as_rows_do(tmp_path: Path) -> None:
    byte, alike = os.fsdecode(b"f\xff.png"), r"f\xff.png"
    r, d = (empty_files(tmp_path / side, byte, alike) for side in "rd")
    rows = tmp_path / "pairs.csv"
    rows.write_text("reference,distorted\nf\\xff.png,f\\x5cxff.png\n")
    assert find_pairs(r, d, rows) == [Pair(r / byte, d / alike, alike)]
    for cell, message in ((r"\x2e\x2e/a.png", "leads out of"), (r"\x2fa.png", "absolute"), (r"\x00", "NUL")):
        rows.write_text(f"reference,distorted\nf\\xff.png,{cell}\n")
        with pytest.raises(ScoringError, match=f"line 2: .*{message}"):
            find_pairs(r, d, rows)


class TestPassedOver:
    def test_each_file_is_counted_once(self, tmp_path: Path) -> None:
        others = ("1.HEIC", "2.heic", "3.txt", "4.md", "5.md", "noending", ".hidden", ".DS_Store")
        r, d = empty_files(tmp_path / "r", "a.png", "x.jxl"), empty_files(tmp_path / "d", "a.png", *others)
        empty_files(d / "deep", "6.heic")
        empty_files(d / ".cache", "7.heic")
        passed_over = PassedOver()
        find_methods(r, {"one": d, "two": d}, passed_over=passed_over)
        assert str(passed_over) == "8 files passed over: 3 .heic, 1 .jxl, 2 .md, 1 without an ending, 1 .txt"
        with pytest.warns(PassedOverWarning, match="^8 files passed over: 3 .heic"):
            find_pairs(r, d)

    def test_text_alone_is_no_warning(self, tmp_path: Path) -> None:
        r, d = (empty_files(tmp_path / side, "a.png", "readme.txt") for side in "rd")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            find_pairs(r, d)

    def test_videos_beside_an_image_and_files_among_frames(self, tmp_path: Path) -> None:
        d = empty_files(tmp_path / "d", "a.png", "b.mp4")
        passed_over = PassedOver()
        find_pairs(d / "a.png", d, passed_over=passed_over)
        assert passed_over.kinds == {".mp4": 1}
        passed_over, frames = PassedOver(), empty_files(tmp_path / "f", "1.png", "2.heic")
        find_pairs(frames, frames, frames=True, passed_over=passed_over)
        assert passed_over.kinds == {".heic": 1}

    def test_a_folder_with_nothing_else(self, tmp_path: Path) -> None:
        d = empty_files(tmp_path / "d", "a.heic", "b.heic")
        with pytest.raises(
            ScoringError, match=r"no images in this folder, and no videos \(2 files passed over: 2 .heic"
        ):
            find_pairs(d, d)


def test_natural_order() -> None:
    names = ["1.png", "2.png", "10.png", "a.png", "a1b2.png", "a1b10.png", "q8.jpg", "q30.jpg"]
    shuffled = random.Random(0).sample(names, len(names))
    assert sorted(shuffled, key=lambda n: natural(Path(n))) == names
