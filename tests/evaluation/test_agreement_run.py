"""Metrics against people: what is run, what is left out, and the mean over sets."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import spearmanr, t

from damlpips.evaluation import agreement
from damlpips.evaluation.agreement import CHALLENGE, agree
from damlpips.evaluation.challenge import Case
from damlpips.evaluation.judgements import Choice, JudgedSet, Rating, SameOrNot
from damlpips.evaluation.means import compare_means, mean_figure
from damlpips.evaluation.named import NamedMetric, build
from damlpips.evaluation.views import KeptImages, View
from damlpips.report.intervals import draws
from damlpips.scoring.images import read_image

KINDS = ("noise", "blur")


def noisy(folder: Path, content: int, strength: int) -> Path:
    """Write an image, or a noisier version of it."""
    file = folder / f"{content}_{strength}.png"
    base = np.random.default_rng(content).integers(60, 190, (32, 32, 3))
    change = np.random.default_rng(99 + strength).integers(-strength, strength + 1, base.shape)
    Image.fromarray((base + change).astype(np.uint8)).save(file)
    return file


@pytest.fixture(scope="module")
def ratings(tmp_path_factory: pytest.TempPathFactory) -> JudgedSet:
    """Three contents with four strengths each; the scores follow the strength, but for one mistake."""
    folder = tmp_path_factory.mktemp("ratings")
    rows = []
    for content in range(3):
        reference = noisy(folder, content, 0)
        for k, strength in enumerate((4, 10, 20, 40)):
            score = 5.0 - k + (2.5 if (content, k) == (1, 3) else 0)
            rows.append(Rating(reference, noisy(folder, content, strength), score, str(content), KINDS[k % 2]))
    return JudgedSet("ratings", tuple(rows))


@pytest.fixture(scope="module")
def choices(tmp_path_factory: pytest.TempPathFactory) -> JudgedSet:
    folder = tmp_path_factory.mktemp("choices")
    rows = []
    for content in range(10, 14):
        reference, weak, strong = (noisy(folder, content, strength) for strength in (0, 5, 30))
        rows.append(Choice((reference, weak), (reference, strong), 4 - content % 2, 1, str(content)))
        rows.append(Choice((reference, strong), (reference, weak), 2, 3, str(content)))
    return JudgedSet("choices", tuple(rows))


@pytest.fixture(scope="module")
def same(tmp_path_factory: pytest.TempPathFactory) -> JudgedSet:
    folder = tmp_path_factory.mktemp("same")
    rows = [
        SameOrNot(noisy(folder, content, 0), noisy(folder, content, strength), share, str(content))
        for content in (20, 21)
        for strength, share in ((2, 1.0), (6, 1.0), (30, 0.0))
    ]
    return JudgedSet("same", tuple(rows))


def metric(name: str, score) -> NamedMetric:
    return NamedMetric(name, True, name, torch.device("cpu"), score, lambda x: x)


def blind(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.ones(len(x))


def counting_reader() -> tuple[list[Path], Callable[[Path], torch.Tensor]]:
    """Return a reader of images, and the list of those that it has read."""
    read: list[Path] = []

    def counted(path: Path) -> torch.Tensor:
        read.append(path)
        return read_image(path)

    return read, counted


class TestRun:
    def test_every_metric_on_every_set(self, ratings: JudgedSet, choices: JudgedSet, same: JudgedSet) -> None:
        sets = [ratings, choices, same]
        found = agree([build("mse"), build("damlpips")], sets, samples=20)
        assert list(found.metrics) == ["mse", "damlpips"]
        assert set(found.results) == {(m, s.name) for m in ("mse", "damlpips") for s in sets}
        assert found.failures == ()
        result = found.results["mse", "ratings"]
        scores = [j.score for j in ratings.judgements]
        assert result.figures.headline.value == pytest.approx(-spearmanr(result.distances, scores).statistic)
        assert found.results["mse", "choices"].distances.shape == (8, 2)
        assert found.results["mse", "choices"].figures.headline_name == "2AFC"
        assert found.results["mse", "same"].figures.headline.value == 1.0

    def test_distances_are_those_of_the_images(self, ratings: JudgedSet) -> None:
        result = agree([build("mse")], [ratings], samples=5).results["mse", "ratings"]
        first = ratings.judgements[0]
        one, other = (np.asarray(Image.open(p), dtype=np.float64) / 255 for p in (first.reference, first.distorted))
        assert result.distances[0] == pytest.approx(((one - other) ** 2).mean(), rel=1e-6)

    def test_the_baseline_is_compared_with_all_others(self, ratings: JudgedSet, choices: JudgedSet) -> None:
        metrics = [build("mse"), metric("blind", blind), build("damlpips")]
        found = agree(metrics, [ratings, choices], baseline="mse", samples=20)
        assert found.results["mse", "choices"].differences == {}
        difference = found.results["blind", "choices"].differences["2AFC"]
        assert difference.value == pytest.approx(0.5 - found.results["mse", "choices"].figures.headline.value)
        assert found.means["mse"].difference is None
        expected = found.means["damlpips"].figure.value - found.means["mse"].figure.value
        assert found.means["damlpips"].difference is not None
        assert found.means["damlpips"].difference.value == pytest.approx(expected)

    def test_a_metric_that_fails_on_one_set_keeps_the_others(self, ratings: JudgedSet, choices: JudgedSet) -> None:
        def touchy(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            if float((x - y).abs().max()) > 35 / 255:
                raise RuntimeError("too far apart")
            return (x - y).square().mean((1, 2, 3))

        found = agree([metric("touchy", touchy), build("mse")], [choices, ratings], samples=5)
        assert set(found.results) == {("touchy", "choices"), ("mse", "choices"), ("mse", "ratings")}
        (failure,) = found.failures
        assert (failure.metric, failure.judged_set) == ("touchy", "ratings")
        assert "0_40.png" in failure.reason
        assert "too far apart" in failure.reason
        assert set(found.means) == {"mse"}

    def test_each_image_is_read_once_for_all_metrics(
        self, ratings: JudgedSet, choices: JudgedSet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read, counted = counting_reader()
        monkeypatch.setattr(agreement, "View", partial(View, counted))
        agree([build("mse"), metric("blind", blind), build("damlpips")], [ratings, choices], samples=5)
        # three references with four versions each; four references with two
        assert len(read) == len(set(read)) == 3 * 5 + 4 * 3

    def test_images_of_one_set_need_to_be_kept_at_a_time(
        self, ratings: JudgedSet, choices: JudgedSet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read, counted = counting_reader()
        room = 15 * 3 * 32 * 32  # for the images of the larger set
        monkeypatch.setattr(agreement, "View", lambda **_: SimpleNamespace(keeping_images=lambda: View(kept)))
        kept = KeptImages(counted, most=room)
        agree([build("mse"), metric("blind", blind)], [ratings, choices], samples=5)
        assert len(read) == len(set(read)) == 15 + 12

    def test_infinite_distances_are_a_failure(self, ratings: JudgedSet) -> None:
        found = agree([metric("far", lambda x, y: blind(x, y) * float("inf"))], [ratings])
        assert found.results == {}
        assert [f.reason for f in found.failures] == ["12 of its 12 distances are inf, of which there are no figures"]

    def test_the_challenge_alone(self, ratings: JudgedSet) -> None:
        first, second, third, *_ = (j.distorted for j in ratings.judgements)
        reference = ratings.judgements[0].reference
        cases = [
            Case("rotate", "a", reference, first, (second, third), True),
            Case("rotate", "b", reference, third, (second,), True),
            Case("color_stain", "c", reference, first, (second,), False),
        ]
        found = agree([build("mse"), metric("blind", blind)], [], cases)
        assert [(r.successes, r.cases) for r in found.challenge["mse"].values()] == [(1, 2), (1, 1), (2, 3)]
        assert found.challenge["blind"]["color_stain"].successes == 0
        assert found.results == {}

    def test_a_metric_that_fails_on_the_challenge(self, tmp_path: Path) -> None:
        image = noisy(tmp_path, 1, 0)
        case = Case("rotate", "a", image, tmp_path / "gone.png", (image,), True)
        (failure,) = agree([build("mse")], [], [case]).failures
        assert failure.judged_set == CHALLENGE
        assert "gone.png" in failure.reason

    def test_progress_counts_pairs_and_figures(self, ratings: JudgedSet, choices: JudgedSet) -> None:
        seen: list[tuple[str, int, int]] = []
        agree([build("mse")], [ratings, choices], samples=5, progress=lambda *step: seen.append(step))
        assert [s for s in seen if s[0] == "mse on ratings"] == [("mse on ratings", k, 12) for k in range(1, 13)]
        assert [s[1:] for s in seen if s[0] == "mse on choices"][-1] == (8, 8)
        assert seen[-1] == ("figures and their intervals", 2, 2)

    def test_names_come_once(self, ratings: JudgedSet) -> None:
        with pytest.raises(ValueError, match="metrics: expected each name once, got more of mse"):
            agree([build("mse"), build("mse")], [ratings])
        with pytest.raises(ValueError, match="sets: expected each name once, got more of ratings"):
            agree([build("mse")], [ratings, ratings])


class TestMeans:
    def test_one_set_has_no_mean(self, ratings: JudgedSet) -> None:
        assert agree([build("mse")], [ratings], samples=5).means == {}

    def test_mean_and_interval_by_the_definition(self, ratings: JudgedSet, choices: JudgedSet) -> None:
        found = agree([build("mse")], [ratings, choices], samples=5)
        distances = [found.results["mse", s.name].distances for s in (ratings, choices)]
        interval = mean_figure([ratings, choices], distances, samples=200, seed=3)
        scores = np.array([j.score for j in ratings.judgements])
        a, b = distances[1].T
        share = np.array([j.votes_a / (j.votes_a + j.votes_b) for j in choices.judgements])
        agreed = np.where(a < b, share, 1 - share)
        figures = (
            lambda rows: -spearmanr(distances[0][rows], scores[rows]).statistic,
            lambda rows: agreed[rows].mean(),
        )
        seeds = np.random.SeedSequence(3).generate_state(2)
        variances, counts = [], np.array([3, 4])
        for judged, figure, seed, k in zip((ratings, choices), figures, seeds, counts, strict=True):
            drawn = [figure(rows) for rows in draws([j.content for j in judged.judgements], 200, int(seed))]
            variances.append(np.var(drawn, ddof=1) * k / (k - 1))
        freedom = sum(variances) ** 2 / sum(v**2 / (k - 1) for v, k in zip(variances, counts, strict=True))
        reach = t.ppf(0.975, freedom) * np.sqrt(sum(variances)) / 2
        assert reach > 0
        expected = np.mean([figure(np.arange(len(d))) for figure, d in zip(figures, distances, strict=True)])
        assert interval.value == pytest.approx(expected)
        assert (interval.low, interval.high) == pytest.approx((expected - reach, min(1, expected + reach)))

    def test_coverage_of_the_mean(self) -> None:
        """The interval of the mean of two sets' 2AFC holds the truth about as often as it says."""
        random = np.random.default_rng(5)
        path, held, trials = Path("x"), 0, 200
        for trial in range(trials):
            sets, distances = [], []
            for k in (5, 8):
                shares = random.uniform(0.2, 1.0, k).repeat(3)
                rows = [Choice((path, path), (path, path), s, 1 - s, str(j // 3)) for j, s in enumerate(shares)]
                sets.append(JudgedSet(f"{k}", tuple(rows)))
                distances.append(np.tile([0.0, 1.0], (3 * k, 1)))
            found = mean_figure(sets, distances, samples=60, seed=trial)
            held += found.low <= 0.6 <= found.high
        assert 0.9 <= held / trials <= 0.99

    def test_a_set_of_one_content_is_held_fixed(self, ratings: JudgedSet, choices: JudgedSet) -> None:
        """It moves the mean, and leaves the others' interval as wide as it was, over one more set."""
        alone = JudgedSet("alone", ratings.judgements[:4])
        metrics = [build("mse"), metric("brighter", lambda x, y: (x - y).mean((1, 2, 3)).abs())]
        found = agree(metrics, [ratings, choices, alone], baseline="brighter", samples=50)
        one, other = ([found.results[m.name, s.name].distances for s in (ratings, choices, alone)] for m in metrics)
        headlines = [found.results["mse", s.name].figures.headline.value for s in (ratings, choices, alone)]
        assert found.means["mse"].figure.value == pytest.approx(np.mean(headlines))
        two = mean_figure([ratings, choices], one[:2], samples=50)
        reach, reach_of_two = (f.value - f.low for f in (found.means["mse"].figure, two))
        # the seeds of the sets' samples do not depend on how many sets come after them
        assert 3 * reach == pytest.approx(2 * reach_of_two)
        assert reach > 0
        difference = found.means["mse"].difference
        of_two = compare_means([ratings, choices], one[:2], other[:2], samples=50)
        assert difference is not None
        assert difference.high - difference.low == pytest.approx((of_two.high - of_two.low) * 2 / 3)
        assert 0 < difference.p <= 1

    def test_the_least_p_counts_no_contents_that_are_held_fixed(self, choices: JudgedSet) -> None:
        rows = tuple(Choice(j.a, j.b, 1, 0, j.content) for j in choices.judgements)
        sets = [JudgedSet("four", rows), JudgedSet("alone", rows[:2])]
        right, wrong = ([np.tile(row, (n, 1)) for n in (8, 2)] for row in ([0.0, 1.0], [1.0, 0.0]))
        found = compare_means(sets, right, wrong, samples=20)
        assert (found.value, found.low, found.high, found.p) == (1, 1, 1, 2.0**-3)

    def test_sets_of_one_content_alone_have_no_interval(self, ratings: JudgedSet) -> None:
        sets = [JudgedSet(name, ratings.judgements[:4]) for name in ("one", "two")]
        metrics = [build("mse"), metric("brighter", lambda x, y: (x - y).mean((1, 2, 3)).abs())]
        found = agree(metrics, sets, baseline="brighter", samples=10)
        mean = found.means["mse"]
        assert mean.figure.value == 1
        assert mean.difference is not None
        assert np.isnan([mean.figure.low, mean.figure.high, mean.difference.low, mean.difference.p]).all()

    def test_equal_metrics_do_not_differ(self, ratings: JudgedSet, choices: JudgedSet) -> None:
        found = agree([build("mse")], [ratings, choices], samples=5)
        distances = [found.results["mse", s.name].distances for s in (ratings, choices)]
        same = compare_means([ratings, choices], distances, distances, samples=20)
        assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)

    def test_a_certain_difference_has_the_least_p_that_contents_allow(self, choices: JudgedSet) -> None:
        rows = tuple(Choice(j.a, j.b, 1, 0, j.content) for j in choices.judgements)
        sets = [JudgedSet("one", rows), JudgedSet("two", rows)]
        right, wrong = [np.tile([0.0, 1.0], (8, 1))] * 2, [np.tile([1.0, 0.0], (8, 1))] * 2
        found = compare_means(sets, right, wrong, samples=20)
        assert (found.value, found.low, found.high, found.p) == (1, 1, 1, 2.0**-7)

    def test_no_sets(self) -> None:
        with pytest.raises(ValueError, match="sets: expected at least one"):
            mean_figure([], [])
