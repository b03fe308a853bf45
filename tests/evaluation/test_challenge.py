"""Images that people find alike and deep metrics find strange."""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from damlpips.evaluation.cache import DistanceCache
from damlpips.evaluation.challenge import KINDS, Case, Rate, load, rates, successes
from damlpips.evaluation.named import NamedMetric, build
from damlpips.scoring.images import ScoringError
from tests.support.pictures import image_file

COLOURS = ("black", "blue", "gray", "green", "random", "red", "white")
ANGLES = ("22", "45", "67", "90", "180")

# the level of grey of every image of a small set: |difference| is then a metric whose answers can be told
LEVELS = {
    **{f"ref/ref_{colour}.png": 100 + k for k, colour in enumerate(COLOURS)},
    "invert/dot.png": 50,
    "invert/dot_invert.png": 99,
    "rotate/dog_a.jpg": 64,
    **{f"rotate/dog_a_{angle}.png": 64 + 9 * k for k, angle in enumerate(ANGLES)},
    "translate/dot.png": 50,
    "translate/dot_translate.bmp": 150,
    "color_stain/cat.png": 50,
    "color_stain/cat_stain.png": 60,
    "color_stain/cat_ref.jpg": 200,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, level in LEVELS.items():
        grey_file(tmp_path / name, level)
    (tmp_path / "README.md").write_text("other files are passed over")
    (tmp_path / "ref" / "notes.txt").write_text("")
    (tmp_path / "ref" / ".ref_black.png").write_text("")
    return tmp_path


def grey_file(path: Path, level: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 16), (level,) * 3).save(path)
    return path


def metric(score: Callable[[Tensor, Tensor], Tensor]) -> NamedMetric:
    return NamedMetric("test", True, "test", torch.device("cpu"), score, lambda x: x)


def difference(x: Tensor, y: Tensor) -> Tensor:
    # in whole levels, so that a tie is one
    return ((x - y).mean((1, 2, 3)) * 255).round().abs()


class TestLoad:
    def test_pairs_by_name(self, folder: Path) -> None:
        cases = load(folder)
        farther = tuple(folder / f"ref/ref_{colour}.png" for colour in COLOURS)
        dot, inverted = (folder / "invert" / name for name in ("dot.png", "dot_invert.png"))
        assert cases[0] == Case("invert", "dot_invert", dot, inverted, farther, True)
        dogs = [f"dog_a_{angle}" for angle in ANGLES]
        assert [case.name for case in cases] == ["dot_invert", *dogs, "dot_translate", "cat_stain"]
        assert {case.image for case in cases if case.kind == "rotate"} == {folder / "rotate/dog_a.jpg"}
        stain = folder / "color_stain"
        expected = (stain / "cat.png", stain / "cat_stain.png", (stain / "cat_ref.jpg",))
        assert cases[-1] == Case("color_stain", "cat_stain", *expected, False)

    def test_order_of_listing_does_not_matter(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        cases = load(folder)
        listed = Path.iterdir
        monkeypatch.setattr(Path, "iterdir", lambda path: sorted(listed(path), reverse=True))
        assert load(folder) == cases

    @pytest.mark.parametrize("missing", LEVELS)
    def test_a_missing_partner(self, folder: Path, missing: str) -> None:
        kind = Path(missing).parent
        # with another case in the folder, so that it is not empty
        for name in LEVELS:
            if Path(name).parent == kind:
                grey_file(folder / kind / Path(name).name.replace("d", "w").replace("c", "w"), 0)
        (folder / missing).unlink()
        partner = f"its partner {Path(missing).stem}.* is missing in {folder / kind}"
        with pytest.raises(ScoringError, match=re.escape(partner)) as error:
            load(folder)
        assert str(error.value).startswith(str(folder / kind))

    @pytest.mark.parametrize("kind", ["ref", *KINDS])
    def test_a_missing_or_empty_folder(self, folder: Path, kind: str) -> None:
        for file in (folder / kind).iterdir():
            file.unlink()
        with pytest.raises(ScoringError, match=f"^{re.escape(str(folder / kind))}: no images in this folder$"):
            load(folder)
        (folder / kind).rmdir()
        with pytest.raises(ScoringError, match=f"^{re.escape(str(folder / kind))}: No such file"):
            load(folder)

    def test_two_files_of_one_name(self, folder: Path) -> None:
        grey_file(folder / "rotate/dog_a_22.jpg", 0)
        with pytest.raises(ScoringError, match=r"dog_a_22\.png: dog_a_22\.jpg has the same name"):
            load(folder)


class TestSuccess:
    def test_each_rule(self, folder: Path) -> None:
        cases = load(folder)
        found = dict(zip([case.name for case in cases], successes(metric(difference), cases), strict=True))
        # dot: 49 <= 50, the nearest of the empty images; translated: 100 > 50; dog: the empty ones are 36 away
        assert found == {
            "dot_invert": True,
            **{f"dog_a_{angle}": 9 * k <= 36 for k, angle in enumerate(ANGLES)},
            "dot_translate": False,
            "cat_stain": True,
        }
        assert found["dog_a_180"]  # a tie

    def test_a_tie_of_stains_is_none(self, folder: Path) -> None:
        cases = load(folder)
        flat = metric(lambda x, y: torch.zeros(1))
        assert successes(flat, cases) == [case.kind != "color_stain" for case in cases]

    def test_the_image_is_the_reference(self, folder: Path) -> None:
        seen = set()

        def score(x: Tensor, y: Tensor) -> Tensor:
            seen.add(round(y.mean().item() * 255))
            return difference(x, y)

        successes(metric(score), load(folder))
        assert seen == {50, 64}

    def test_from_the_cache(self, folder: Path, tmp_path: Path) -> None:
        calls = []

        def score(x: Tensor, y: Tensor) -> Tensor:
            calls.append(1)
            return difference(x, y)

        with DistanceCache(tmp_path / "distances.sqlite") as cache:
            first = successes(metric(score), load(folder), cache=cache)
            computed = len(calls)
            assert successes(metric(score), load(folder), cache=cache) == first
        assert len(calls) == computed

    def test_alpha_is_passed_over(self, folder: Path) -> None:
        cases = load(folder)
        expected = successes(metric(difference), cases)
        for name in ("invert/dot.png", "color_stain/cat.png"):
            Image.new("RGBA", (16, 16), (*[LEVELS[name]] * 3, 128)).save(folder / name)
        assert successes(metric(difference), cases) == expected

    @pytest.mark.parametrize("content", [None, b"", b"no image"])
    def test_unreadable(self, folder: Path, content: bytes | None) -> None:
        cases = load(folder)
        (folder / "invert/dot.png").unlink()
        if content is not None:
            (folder / "invert/dot.png").write_bytes(content)
        with pytest.raises(ScoringError, match=f"^{re.escape(str(folder / 'invert/dot.png'))}: "):
            successes(metric(difference), cases)

    def test_one_with_a_size_of_its_own(self, folder: Path) -> None:
        image_file(folder / "invert/dot_invert.png", size=(20, 20))
        with pytest.raises(ScoringError, match=r"dot_invert\.png: 20 x 20 pixels"):
            successes(metric(difference), load(folder))


class TestRates:
    @given(st.lists(st.tuples(st.sampled_from(KINDS), st.booleans()), min_size=1, max_size=60))
    def test_count(self, results: list[tuple[str, bool]]) -> None:
        cases = [Case(kind, "", Path(), Path(), (), True) for kind, _ in results]
        found = rates(cases, [succeeded for _, succeeded in results])
        total, good = Counter(kind for kind, _ in results), Counter(kind for kind, s in results if s)
        assert list(found) == [*(kind for kind in KINDS if total[kind]), "overall"]
        assert {kind: found[kind] for kind in total} == {kind: Rate(good[kind], total[kind]) for kind in total}
        assert found["overall"] == Rate(sum(good.values()), len(results))
        assert found["overall"].share == sum(good.values()) / len(results)

    @pytest.mark.parametrize(("cases", "results"), [(0, 0), (2, 1), (1, 2)])
    def test_not_one_a_case(self, cases: int, results: int) -> None:
        case = Case("invert", "", Path(), Path(), (), True)
        with pytest.raises(ValueError, match=f"expected one result a case, got {results} of {cases}"):
            rates([case] * cases, [True] * results)


@pytest.mark.shared
class TestPublished:
    def test_cases(self, shared: Path) -> None:
        cases = load(shared / "challenge")
        assert Counter(case.kind for case in cases) == {"invert": 11, "rotate": 30, "translate": 5, "color_stain": 5}
        assert len({(case.kind, case.name) for case in cases}) == 51

    def test_a_metric(self, shared: Path) -> None:
        cases = load(shared / "challenge")
        found = rates(cases, successes(build("mse"), cases))
        assert found["overall"].cases == 51
        # pixels say nothing of an object that has been inverted
        assert found["invert"].share < 0.5
