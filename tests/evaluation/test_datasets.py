"""Every layout is declared, drawn and documented; and each is read: names, files, directions, contents and kinds."""

import importlib
import pkgutil
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from damlpips.evaluation import datasets
from damlpips.evaluation.datasets import LAYOUTS, load
from damlpips.evaluation.datasets.members import file_of
from damlpips.evaluation.judgements import Choice, JudgedSet, Rating, SameOrNot
from tests.support import layouts
from tests.support.layouts import EXAMPLES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "judged-sets.md"


def test_every_layout_has_an_example() -> None:
    assert list(EXAMPLES) == list(LAYOUTS), "tests/support/layouts.py: EXAMPLES needs one of each layout, in order"
    assert all(example.tables or example.binaries for example in EXAMPLES.values())


def test_every_reader_has_a_row() -> None:
    modules = {module.name for module in pkgutil.iter_modules(datasets.__path__)}
    readers = {name for name in modules if hasattr(importlib.import_module(f"{datasets.__name__}.{name}"), "detect")}
    assert readers <= {layout.read_by for layout in LAYOUTS.values()}, "layouts.py: LAYOUTS lacks one of them"


def test_the_page_has_every_layout() -> None:
    page = PAGE.read_text(encoding="utf-8")
    rows = [re.split(r" *\| *", line)[1:-1] for line in page.splitlines() if line.startswith("| [`")]
    linked = [re.fullmatch(r"\[`(?P<name>.+)`\]\(#(?P<section>.+)\)", row[0]) for row in rows]
    said = [[link["name"], *row[1:]] for link, row in zip(linked, rows, strict=True) if link is not None]
    declared = [[x.name, x.judgements, x.score, x.direction] for x in LAYOUTS.values()]
    assert said == declared, f"{PAGE.name}: its table is not that of damlpips.evaluation.datasets.LAYOUTS"
    sections = {re.sub(r"[^\w -]", "", h).replace(" ", "-").lower() for h in re.findall(r"^## (.+)$", page, re.M)}
    assert {link["section"] for link in linked if link is not None} <= sections


@pytest.mark.parametrize("layout", LAYOUTS)
class TestEveryLayout:
    def test_auto_recognises_it(self, layout: str, tmp_path: Path) -> None:
        root = EXAMPLES[layout].write(tmp_path)
        fitting = [name for name, other in LAYOUTS.items() if other.reader.detect(root)]
        # tables of published sets are CSV files, some of them
        assert (fitting[:-1] if fitting[-1] == "csv" and layout != "csv" else fitting) == [layout]
        sets = load(root)
        assert sets == load(root, layout)
        assert all(judged.judgements for judged in sets)

    def test_every_file_exists(self, layout: str, tmp_path: Path) -> None:
        for judged in load(EXAMPLES[layout].write(tmp_path)):
            for one in judged.judgements:
                assert all(file_of(file).is_file() for pair in one.pairs for file in pair)


class TestBapps:
    def test_a_leaf_folder(self, tmp_path: Path) -> None:
        leaf = layouts.bapps_2afc(tmp_path / "val" / "cnn", (0.0, 0.75))
        (judged,) = load(leaf)
        assert judged.name == "2afc/val/cnn"
        ref, p0, p1 = (leaf / folder / "000001.png" for folder in ("ref", "p0", "p1"))
        # 0.75 of the observers chose p1
        assert judged.judgements[1] == Choice((ref, p0), (ref, p1), 0.25, 0.75, "2afc/val/cnn/000001", "cnn")
        assert [(c.votes_a, c.votes_b) for c in judged.judgements] == [(1, 0), (0.25, 0.75)]

    @pytest.mark.parametrize("below", ["", "2afc", "2afc/val"])
    def test_the_published_tree_from_any_level(self, below: str, tmp_path: Path) -> None:
        for name in ("val/superres", "val/cnn", "train/mix"):
            layouts.bapps_2afc(tmp_path / "dataset" / "2afc" / name)
        names = [judged.name for judged in load(tmp_path / "dataset" / below)]
        train = [] if below == "2afc/val" else ["2afc/train/mix"]
        assert names == [*train, "2afc/val/cnn", "2afc/val/superres"]

    def test_both_families_at_once(self, tmp_path: Path) -> None:
        layouts.bapps_2afc(tmp_path / "2afc" / "val" / "color")
        layouts.bapps_jnd(tmp_path / "jnd" / "val" / "cnn")
        assert [judged.name for judged in load(tmp_path)] == ["2afc/val/color", "jnd/val/cnn"]
        assert [judged.name for judged in load(tmp_path, "bapps-jnd")] == ["jnd/val/cnn"]

    def test_jnd(self, tmp_path: Path) -> None:
        leaf = layouts.bapps_jnd(tmp_path / "traditional", (0.25, 1.0))
        (judged,) = load(leaf)
        first, second = judged.judgements
        assert judged.name == "jnd/traditional"
        assert judged.kind_of_judgement is SameOrNot
        images = (leaf / folder / "000000.png" for folder in ("p0", "p1"))
        assert first == SameOrNot(*images, 0.25, "jnd/traditional/000000", "traditional")
        assert second.same == 1.0

    def test_each_reference_is_a_content(self, tmp_path: Path) -> None:
        for name in ("val/cnn", "val/deblur"):
            layouts.bapps_2afc(tmp_path / name)
        contents = [c.content for judged in load(tmp_path) for c in judged.judgements]
        assert len(set(contents)) == len(contents) == 6


class TestNumbered:
    @pytest.mark.parametrize(("layout", "kinds", "levels"), [("tid2008", 17, 4), ("tid2013", 24, 5)])
    def test_tid(self, layout: str, kinds: int, levels: int, tmp_path: Path) -> None:
        (judged,) = load(layouts.tid(tmp_path, kinds, levels))
        ratings = judged.judgements
        assert (judged.name, len(ratings)) == (layout, 2 * kinds * levels)
        assert len({r.kind for r in ratings}) == kinds
        assert {r.content for r in ratings} == {"I01", "I02"}
        # the table writes I01_01_1.bmp; a mean opinion score: higher is closer as it is
        distorted = tmp_path / "distorted_images" / "i01_01_1.bmp"
        reference = tmp_path / "reference_images" / "I01.BMP"
        assert ratings[0] == Rating(reference, distorted, 0.91, "I01", "additive Gaussian noise")

    def test_names_of_kinds(self, tmp_path: Path) -> None:
        (judged,) = load(layouts.tid(tmp_path, 24, 5, contents=1))
        kind_of = {r.distorted.name[4:6]: r.kind for r in judged.judgements}
        assert (kind_of["08"], kind_of["10"]) == ("Gaussian blur", "JPEG compression")
        assert (kind_of["17"], kind_of["24"]) == ("contrast change", "sparse sampling and reconstruction")

    def test_kadid10k(self, tmp_path: Path) -> None:
        (judged,) = load(layouts.kadid10k(tmp_path))
        ratings = judged.judgements
        images = tmp_path / "images"
        assert (judged.name, len(ratings), len({r.kind for r in ratings})) == ("kadid10k", 250, 25)
        assert ratings[0] == Rating(images / "I01.png", images / "I01_01_01.png", 5.0, "I01", "Gaussian blur")
        # its dmos falls from 5, imperceptible, to 1: stronger distortion, lower score
        assert [r.score for r in ratings[:5]] == sorted((r.score for r in ratings[:5]), reverse=True)
        assert (ratings[-1].kind, ratings[-1].content) == ("contrast change", "I02")


class TestCsiq:
    def test_workbook(self, tmp_path: Path) -> None:
        (judged,) = load(layouts.csiq(tmp_path))
        ratings = judged.judgements
        assert (judged.name, len(ratings)) == ("csiq", 60)
        assert {r.content for r in ratings} == {"1600", "aerial_city"}
        assert {r.kind for r in ratings} == {"awgn", "jpeg", "jpeg2000", "fnoise", "blur", "contrast"}
        distorted = tmp_path / "dst_imgs" / "awgn" / "1600.AWGN.1.png"
        # DMOS 0.18, higher is worse: turned
        assert ratings[0] == Rating(tmp_path / "src_imgs" / "1600.png", distorted, -0.18, "1600", "awgn")

    @pytest.mark.parametrize("scores", list(layouts.CSIQ_SCORES)[1:])
    def test_texts_of_the_workbook_say_the_same(self, scores: str, tmp_path: Path) -> None:
        root = layouts.csiq(tmp_path)
        expected = load(root)
        (root / "csiq.DMOS.xlsx").unlink()
        layouts.CSIQ_SCORES[scores](root / scores, layouts.csiq_rows())
        assert load(root) == expected

    def test_all_distorted_images_in_one_folder(self, tmp_path: Path) -> None:
        (judged,) = load(layouts.csiq(tmp_path, "csiq_label.txt", flat=True))
        assert judged.judgements[-1].distorted == tmp_path / "dst_imgs_all" / "aerial_city.contrast.5.png"

    def test_labels_without_a_suffix(self, tmp_path: Path) -> None:
        root = layouts.csiq(tmp_path, "csiq_label.txt")
        expected = load(root)
        table = root / "csiq_label.txt"
        table.write_text(table.read_text().replace(".png", ""))
        assert load(root) == expected


class TestLive:
    def test_originals_are_left_out_and_scores_turned(self, tmp_path: Path) -> None:
        (judged,) = load(layouts.live(tmp_path))
        ratings = judged.judgements
        assert (judged.name, len(ratings)) == ("live", 982 - 196)
        assert [r.kind for r in ratings] == sorted((r.kind for r in ratings), key=list(layouts.LIVE_FOLDERS).index)
        first = Rating(tmp_path / "refimgs" / "bikes.bmp", tmp_path / "jp2k" / "img1.bmp", -20.0, "bikes", "jp2k")
        assert ratings[0] == first
        # the places 0, 1, 2, 3, 5: img5.bmp is an original
        assert [r.distorted.name for r in ratings[:5]] == [f"img{k}.bmp" for k in (1, 2, 3, 4, 6)]
        # the first of jpeg is the 228th of all
        jpeg = next(r for r in ratings if r.kind == "jpeg")
        assert (jpeg.distorted, jpeg.score) == (tmp_path / "jpeg" / "img1.bmp", -(20 + 227 / 20))
        assert jpeg.content == "studentsculpture"

    def test_scores_before_they_were_realigned(self, tmp_path: Path) -> None:
        expected = load(layouts.live(tmp_path))
        (tmp_path / "dmos_realigned.mat").unlink()
        assert load(layouts.live(tmp_path, "dmos.mat")) == expected

    def test_realigned_scores_are_preferred(self, tmp_path: Path) -> None:
        layouts.live(tmp_path)
        (tmp_path / "dmos.mat").write_bytes(b"not read")
        assert load(tmp_path)[0].name == "live"


class TestPipal:
    @pytest.mark.parametrize("spread", [True, False])
    def test_train(self, spread: bool, tmp_path: Path) -> None:
        (judged,) = load(layouts.pipal(tmp_path, spread=spread))
        folder = tmp_path / ("Distortion_1" if spread else "Train_Dist")
        reference = tmp_path / "Train_Ref" / "A0001.bmp"
        assert (judged.name, len(judged.judgements)) == ("pipal/train", 12)
        assert judged.judgements[0] == Rating(reference, folder / "A0001_00_00.bmp", 1410.0648, "A0001", "00")
        assert {r.kind for r in judged.judgements} == {"00", "01", "02"}

    def test_a_part_without_scores_is_passed_over(self, tmp_path: Path) -> None:
        layouts.pipal(tmp_path)
        layouts.put(tmp_path / "Val_Ref", ["A0005.bmp"])
        assert [judged.name for judged in load(tmp_path)] == ["pipal/train"]

    def test_a_part_that_has_got_scores(self, tmp_path: Path) -> None:
        layouts.pipal(tmp_path)
        layouts.pipal(tmp_path, "Val", spread=False)
        assert [judged.name for judged in load(tmp_path)] == ["pipal/train", "pipal/val"]


class TestPlain:
    def test_a_folder(self, tmp_path: Path) -> None:
        sets = load(layouts.plain(tmp_path))
        r, d1, d2, d3 = (tmp_path / "x" / name for name in ("r.png", "d1.png", "d2.png", "d3.png"))
        assert [(s.name, s.judgements) for s in sets] == [
            ("one", (Rating(r, d1, 0.5, "c1"), Rating(r, d2, 2.0, "c2"))),
            # without a content each reference is one
            ("two", (Rating(r, d1, -0.001, "x/r.png"),)),
            ("pairs", (Choice((r, d1), (r, d2), 1.0, 30.0, "x/r.png", "blur"),)),
            (
                "four",
                # the votes are for the pair that differs more; the first content by name stands for all that are linked
                (
                    Choice((r, d1), (d2, d3), 1.0, 7.0, "x/d1.png", "blur"),
                    Choice((d1, r), (r, d2), 0.0, 0.25, "x/d1.png", "noise"),
                ),
            ),
        ]

    def test_one_file(self, tmp_path: Path) -> None:
        assert [s.name for s in load(layouts.plain(tmp_path) / "pairs.csv")] == ["pairs"]

    def test_one_set_of_several_files(self, tmp_path: Path) -> None:
        layouts.put(tmp_path, ["r.png", "d.png"])
        for name in ("b", "a"):
            (tmp_path / f"{name}.csv").write_text(f"set,ref,dist,score,content\ns,r.png,d.png,1,{name}\n")
        (judged,) = load(tmp_path)
        assert [r.content for r in judged.judgements] == ["a", "b"]

    @pytest.mark.parametrize(
        ("columns", "last", "kinds"),
        [
            ("group", ("blur", "blur", "noise"), ["blur", "blur", "noise"]),
            # groups that are the contents under other names are no kinds
            ("group", ("old/r.bmp", "old/s.bmp", "old/s.bmp"), ["", "", ""]),
            ("group,kind", ("a,blur", "b,noise", "b,noise"), ["blur", "noise", "noise"]),
        ],
    )
    def test_kinds(self, columns: str, last: tuple[str, str, str], kinds: list[str], tmp_path: Path) -> None:
        layouts.put(tmp_path, ["r.png", "s.png", "d.png"])
        rows = [f"{ref}.png,d.png,1,{end}" for ref, end in zip("rss", last, strict=True)]
        (tmp_path / "m.csv").write_text("\n".join([f"ref,dist,score,{columns}", *rows]) + "\n")
        (judged,) = load(tmp_path)
        assert [r.content for r in judged.judgements] == [r.reference.name for r in judged.judgements]
        assert [r.kind for r in judged.judgements] == kinds

    def test_groups_of_a_set_in_several_files(self, tmp_path: Path) -> None:
        layouts.put(tmp_path, ["r.png", "s.png", "d.png"])
        for group in ("blur", "noise"):
            rows = "".join(f"s,{r}.png,d.png,1,{group}\n" for r in "rs")
            (tmp_path / f"{group}.csv").write_text(f"set,ref,dist,score,group\n{rows}")
        (judged,) = load(tmp_path)
        assert [r.kind for r in judged.judgements] == ["blur", "blur", "noise", "noise"]

    def comparisons(self, folder: Path, rows: Sequence[str], columns: str = "") -> JudgedSet:
        """Return a set of comparisons of images that are letters: `abcd` is ab against cd."""
        names = "abcdefghi"
        layouts.put(folder, [f"{name}.png" for name in names])
        lines = [",".join([*(f"{letter}.png" for letter in row[:4]), "1,0" + row[4:]]) for row in rows]
        (folder / "quads.csv").write_text("\n".join([f"p1,p2,q1,q2,votes_p,votes_q{columns}", *lines]) + "\n")
        (judged,) = load(folder)
        return judged

    def test_images_that_are_linked_by_comparisons_are_one_content(self, tmp_path: Path) -> None:
        # a triad, another one of other images, one that shares an image with the first, and two that are joined later
        judged = self.comparisons(tmp_path, ["caba", "efeg", "bddc", "hhii", "iigf"])
        names = [f"{letter}.png" for letter in "aeaee"]
        assert judged.contents == names

    def test_neither_order_nor_sides_make_a_content(self, tmp_path: Path) -> None:
        rows = ["hibc", "abcd", "efga", "hiih"]
        found = self.comparisons(tmp_path, rows).contents
        turned = [row[2:] + row[:2] for row in rows]
        assert self.comparisons(tmp_path, turned).contents == found
        assert self.comparisons(tmp_path, rows[::-1]).contents == found[::-1]

    def test_contents_and_kinds_of_comparisons(self, tmp_path: Path) -> None:
        judged = self.comparisons(tmp_path, ["abcd,x,", "abcd,y,mine"], ",group,content")
        assert [(c.content, c.kind) for c in judged.judgements] == [("a.png", ""), ("mine", "")]
        judged = self.comparisons(tmp_path, ["abcd,x", "efgh,x", "efgh,y"], ",group")
        assert [(c.content, c.kind) for c in judged.judgements] == [("a.png", "x"), ("e.png", "x"), ("e.png", "y")]

    def test_choices_and_comparisons_of_one_name_are_one_set(self, tmp_path: Path) -> None:
        layouts.put(tmp_path, ["r.png", "a.png", "b.png"])
        (tmp_path / "1.csv").write_text("set,p1,p2,q1,q2,votes_p,votes_q\ns,r.png,a.png,r.png,b.png,3,2\n")
        (tmp_path / "2.csv").write_text("set,ref,a,b,votes_a,votes_b\ns,r.png,a.png,b.png,2,3\n")
        (judged,) = load(tmp_path)
        assert judged.what == "choices"
        first, second = judged.judgements
        # what both say is the same
        assert replace(second, content=first.content) == replace(first, content=first.content)

    def test_other_columns_blank_lines_and_a_mark_of_order(self, tmp_path: Path) -> None:
        layouts.put(tmp_path, ["é.png", "d,1.png"])
        text = '\ufeffnote,dist,ref,score\r\n\r\nx,"d,1.png",é.png,1\r\n'
        (tmp_path / "m.csv").write_bytes(text.encode())
        (judged,) = load(tmp_path)
        assert judged.judgements == (Rating(tmp_path / "é.png", tmp_path / "d,1.png", 1.0, "é.png"),)

    def test_links_within_the_folder(self, tmp_path: Path) -> None:
        layouts.plain(tmp_path)
        (tmp_path / "x" / "d1.png").unlink()
        (tmp_path / "x" / "d1.png").symlink_to("d2.png")
        assert len(load(tmp_path)) == 4

    @pytest.mark.shared
    def test_sets_that_lie_about(self, shared: Path) -> None:
        folder = shared / "human"
        if not folder.is_dir():
            pytest.skip(f"no judged sets at {folder}")
        sets = {s.name: s for s in load(folder)}
        expected = {"recolour": 325, "jpeg10": 50, "tid_resynth": 143, "gan_restoration": 123}
        assert {name: len(s.judgements) for name, s in sets.items()} == expected
        counts = {name: [len(set(s.contents)), len({j.kind for j in s.judgements})] for name, s in sets.items()}
        assert counts == {"recolour": [10, 1], "jpeg10": [5, 1], "tid_resynth": [6, 5], "gan_restoration": [4, 1]}
        first = sets["gan_restoration"].judgements[0]
        assert isinstance(first, Choice)
        assert (first.votes_a, first.votes_b) == (1, 30)


def test_a_large_folder_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = layouts.tid(tmp_path, 24, 5)
    from damlpips.evaluation.datasets import folders

    listed: list[str] = []
    scandir = folders.os.scandir

    def counted(folder: Path) -> object:
        listed.append(Path(folder).name)
        return scandir(folder)

    def refused(path: Path, **_options: object) -> object:
        raise AssertionError(f"one image was asked for: {path}")

    reader = LAYOUTS["tid2013"].reader
    monkeypatch.setattr(folders.os, "scandir", counted)
    for question in ("exists", "is_file", "resolve"):
        monkeypatch.setattr(Path, question, refused)
    reader.read(root)
    assert sorted(listed) == ["distorted_images", "reference_images"]
