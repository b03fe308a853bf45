"""Distances of judged images: every pair once, from the cache where it is known."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from damlpips import DAMLPIPS
from damlpips.evaluation.cache import DistanceCache
from damlpips.evaluation.distances import distances, pair_distances
from damlpips.evaluation.judgements import Choice, JudgedSet, Rating, SameOrNot
from damlpips.evaluation.named import NamedMetric, build
from damlpips.evaluation.views import View
from damlpips.scoring.images import ScoringError, read_image
from tests.support.pictures import image_file

Score = Callable[[Tensor, Tensor], Tensor]


def metric(score: Score, *, identity: str = "test", encode: Callable[[Tensor], Tensor] = lambda x: x) -> NamedMetric:
    return NamedMetric("test", True, identity, torch.device("cpu"), score, encode)


class Counting:
    """A metric that keeps what it was asked for."""

    def __init__(self, identity: str = "counting") -> None:
        self.pairs = 0
        self.encoded = 0
        self.metric = metric(self.score, identity=identity, encode=self.encode)

    def score(self, x: Tensor, y: Tensor) -> Tensor:
        self.pairs += 1
        # distorted and reference do not count alike
        return x.mean((1, 2, 3)) - 2 * y.mean((1, 2, 3))

    def encode(self, x: Tensor) -> Tensor:
        self.encoded += 1
        return x


def read_darkly(path: Path) -> Tensor:
    return read_image(path) // 2


def value(reference: Path, distorted: Path) -> float:
    """What `Counting` should say of two files, without any of this package."""
    x, y = (np.asarray(Image.open(path), float).mean() / 255 for path in (distorted, reference))
    return x - 2 * y


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return [image_file(tmp_path / f"{k}.png", k) for k in range(5)]


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[DistanceCache]:
    with DistanceCache(tmp_path / "cache" / "distances.sqlite") as cache:
        yield cache


def ratings(*pairs: tuple[Path, Path]) -> JudgedSet:
    return JudgedSet("ratings", tuple(Rating(r, d, 1.0, r.name) for r, d in pairs))


class TestShapes:
    def test_ratings(self, files: list[Path]) -> None:
        a, b, c, *_ = files
        found = distances(Counting().metric, ratings((a, b), (a, c), (b, a)))
        assert found.dtype == np.float64
        assert found.tolist() == pytest.approx([value(a, b), value(a, c), value(b, a)])

    def test_choices(self, files: list[Path]) -> None:
        r, a, b, s, _ = files
        judged = JudgedSet("choices", (Choice((r, a), (r, b), 1, 2, ""), Choice((s, b), (s, a), 1, 2, "")))
        found = distances(Counting().metric, judged)
        assert found == pytest.approx(np.array([[value(r, a), value(r, b)], [value(s, b), value(s, a)]]))

    def test_comparisons_of_two_pairs(self, files: list[Path]) -> None:
        a, b, c, d, _ = files
        counting = Counting()
        rows = [((a, b), (c, d)), ((b, a), (c, d)), ((a, b), (a, c))]
        found = distances(counting.metric, JudgedSet("quads", tuple(Choice(p, q, 1, 2, "") for p, q in rows)))
        # the first of each pair is the reference, and a pair that comes again is not computed again
        assert found == pytest.approx(np.array([[value(*p), value(*q)] for p, q in rows]))
        assert counting.pairs == 4
        assert counting.encoded == 3

    def test_same_or_not(self, files: list[Path]) -> None:
        a, b, *_ = files
        judged = JudgedSet("same", (SameOrNot(a, b, 0.5, ""), SameOrNot(b, a, 0.5, "")))
        assert distances(Counting().metric, judged).tolist() == pytest.approx([value(a, b), value(b, a)])

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
    @given(order=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12))
    def test_any_order_of_pairs(self, files: list[Path], order: list[tuple[int, int]]) -> None:
        counting = Counting()
        pairs = [(files[r], files[d]) for r, d in order]
        assert pair_distances(counting.metric, pairs) == pytest.approx([value(*pair) for pair in pairs])
        assert counting.pairs == len(set(order))
        assert counting.encoded == len({r for r, _ in order})

    def test_no_pairs(self) -> None:
        assert pair_distances(Counting().metric, []) == []


def test_this_packages_metric(files: list[Path], cache: DistanceCache) -> None:
    a, b, c, *_ = files
    x, y, z = (torch.from_numpy(np.array(Image.open(f))).permute(2, 0, 1)[None] for f in (a, b, c))
    model = DAMLPIPS()
    expected = [model(y, x).item(), model(z, x).item()]
    for _ in range(2):
        found = distances(build("damlpips"), ratings((a, b), (a, c)), cache=cache)
        assert found.tolist() == pytest.approx(expected, rel=1e-5)


class TestCached:
    def test_nothing_is_computed_twice(self, files: list[Path], cache: DistanceCache) -> None:
        counting = Counting()
        judged = ratings((files[0], files[1]), (files[0], files[2]))
        first = distances(counting.metric, judged, cache=cache)
        second = distances(counting.metric, judged, cache=cache)
        assert second.tolist() == first.tolist()
        assert counting.pairs == 2
        distances(counting.metric, ratings((files[0], files[3]), (files[0], files[1])), cache=cache)
        assert counting.pairs == 3

    def test_without_one_everything_is(self, files: list[Path]) -> None:
        counting = Counting()
        for _ in range(2):
            distances(counting.metric, ratings((files[0], files[1])))
        assert counting.pairs == 2

    def test_contents_count_and_not_names(self, files: list[Path], cache: DistanceCache) -> None:
        counting = Counting()
        a, b, c, *_ = files
        distances(counting.metric, ratings((a, b)), cache=cache)
        copy = a.with_name("copy.png")
        copy.write_bytes(b.read_bytes())
        assert distances(counting.metric, ratings((a, copy)), cache=cache).tolist() == pytest.approx([value(a, b)])
        assert counting.pairs == 1
        b.write_bytes(c.read_bytes())
        assert distances(counting.metric, ratings((a, b)), cache=cache).tolist() == pytest.approx([value(a, c)])
        assert counting.pairs == 2

    def test_order_metric_and_scale_count(self, files: list[Path], cache: DistanceCache) -> None:
        a, b, *_ = files
        counting, other = Counting(), Counting("another")
        for _ in range(2):
            for side in (None, 30, 20):
                distances(counting.metric, ratings((a, b)), View(shorter_side=side), cache=cache)
            distances(counting.metric, ratings((b, a)), cache=cache)
            distances(other.metric, ratings((a, b)), cache=cache)
        assert (counting.pairs, other.pairs) == (4, 1)

    def test_what_is_read_in_another_way_is_kept_apart(self, files: list[Path], cache: DistanceCache) -> None:
        counting = Counting()
        for _ in range(2):
            plain = pair_distances(counting.metric, [(files[0], files[1])], cache=cache)
            dark = pair_distances(counting.metric, [(files[0], files[1])], View(read_darkly), cache=cache)
        assert counting.pairs == 2
        assert plain != dark

    def test_an_interrupted_run_goes_on_where_it_was(self, files: list[Path], tmp_path: Path) -> None:
        judged = ratings(*((files[0], d) for d in files[1:]))
        counting = Counting()

        def interrupt(done: int, of: int) -> None:
            if done == 2:
                raise KeyboardInterrupt

        # never closed, as if the process had ended
        cache = DistanceCache(tmp_path / "distances.sqlite")
        with pytest.raises(KeyboardInterrupt):
            distances(counting.metric, judged, cache=cache, progress=interrupt)
        with DistanceCache(tmp_path / "distances.sqlite") as again:
            found = distances(counting.metric, judged, cache=again)
        assert counting.pairs == 4
        assert found.tolist() == pytest.approx([value(files[0], d) for d in files[1:]])

    def test_an_error_keeps_what_was_computed(self, files: list[Path], cache: DistanceCache) -> None:
        counting = Counting()
        odd = image_file(files[0].with_name("odd.png"), 9, (30, 30))
        with pytest.raises(ScoringError, match=r"odd\.png"):
            distances(counting.metric, ratings((files[0], files[1]), (files[0], odd)), cache=cache)
        distances(counting.metric, ratings((files[0], files[1])), cache=cache)
        assert counting.pairs == 1


class TestScale:
    def test_before_the_metric(self, files: list[Path]) -> None:
        shapes = []

        def score(x: Tensor, y: Tensor) -> Tensor:
            shapes.append((tuple(x.shape), tuple(y.shape)))
            return x.mean((1, 2, 3))

        distances(metric(score), ratings((files[0], files[1])), View(shorter_side=20))
        assert shapes == [((1, 3, 20, 24), (1, 3, 20, 24))]

    @pytest.mark.parametrize("side", [0, -1])
    def test_no_side(self, side: int) -> None:
        with pytest.raises(ValueError, match=f"shorter_side: expected at least 1 pixel, got {side}"):
            View(shorter_side=side)


class TestErrors:
    def test_two_sizes(self, tmp_path: Path) -> None:
        a, b = image_file(tmp_path / "a.png", 0, (40, 48)), image_file(tmp_path / "b.png", 1, (80, 96))
        message = f"{b}: 80 x 96 pixels, its reference {a} 40 x 48: expected one size"
        # also where scaling would make them one
        for side in (None, 20):
            with pytest.raises(ScoringError, match=f"^{re.escape(message)}$"):
                distances(Counting().metric, ratings((a, b)), View(shorter_side=side))

    def test_nan(self, files: list[Path]) -> None:
        bad = metric(lambda x, y: x.mean((1, 2, 3)) * float("nan"))
        message = f"{files[1]} against {files[0]}: test gives NaN, not a number"
        with pytest.raises(ScoringError, match=f"^{re.escape(message)}$"):
            distances(bad, ratings((files[0], files[1])))

    def test_infinite_is_a_distance(self, files: list[Path], cache: DistanceCache) -> None:
        endless = metric(lambda x, y: -x.mean((1, 2, 3)) / 0)
        for _ in range(2):
            assert distances(endless, ratings((files[0], files[1])), cache=cache).tolist() == [-float("inf")]

    def test_a_metric_that_fails(self, files: list[Path]) -> None:
        def fail(x: Tensor, y: Tensor) -> Tensor:
            raise AssertionError("expected at least\n  161 x 161")

        message = f"{files[1]} against {files[0]}: test fails: expected at least 161 x 161"
        with pytest.raises(ScoringError, match=f"^{re.escape(message)}$"):
            distances(metric(fail), ratings((files[0], files[1])))

    @pytest.mark.parametrize("cached", [True, False])
    @pytest.mark.parametrize("content", [None, b"", b"no image"])
    def test_unreadable(self, files: list[Path], cache: DistanceCache, cached: bool, content: bytes | None) -> None:
        bad = files[0].with_name("bad.png")
        if content is not None:
            bad.write_bytes(content)
        for pair in ((bad, files[0]), (files[0], bad)):
            with pytest.raises(ScoringError, match=r"bad\.png"):
                distances(Counting().metric, ratings(pair), cache=cache if cached else None)


def test_progress(files: list[Path], cache: DistanceCache) -> None:
    seen: list[tuple[int, int]] = []
    judged = ratings((files[0], files[1]), (files[0], files[1]), (files[1], files[0]), (files[0], files[2]))
    for _ in range(2):
        distances(Counting().metric, judged, cache=cache, progress=lambda done, of: seen.append((done, of)))
    assert seen == [(1, 3), (2, 3), (3, 3)] * 2
