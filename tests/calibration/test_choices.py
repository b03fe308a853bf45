"""What is learned from: ratings as choices, comparisons of two pairs, several sets, and what is kept of the images."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from scipy.stats import norm

from damlpips import LPIPS
from damlpips.calibration import Recipe, fit
from damlpips.calibration import differences as module
from damlpips.calibration.choices import read
from damlpips.calibration.differences import differences
from damlpips.calibration.learner import FitError
from damlpips.calibration.ratings import drawn, shares, spread_within
from damlpips.calibration.split import held_out
from damlpips.evaluation.datasets import load
from damlpips.evaluation.judgements import JudgedSet
from damlpips.nets.table import BACKBONES
from damlpips.scoring.images import ScoringError
from tests.support.voted import rated_set, voted_set

SHORT = Recipe(learning_rate=1e-2, epochs=2, decay_epochs=2)
LARGE = Recipe(loss="likelihood", learning_rate=3e-2, epochs=4, decay_epochs=4, dropout=0.0)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> JudgedSet:
    return voted_set(tmp_path_factory.mktemp("small"), 8, 3, lambda d: d[:, 0] / d.sum(1), 5, seed=3)


@pytest.fixture(scope="module")
def rated(tmp_path_factory: pytest.TempPathFactory) -> JudgedSet:
    return rated_set(tmp_path_factory.mktemp("rated"), 40, 8)


def uniform() -> LPIPS:
    return LPIPS("nano", heads="uniform")


class TestRatings:
    def test_the_share_is_thurstones(self) -> None:
        # the higher score is chosen by more, the equal one by half, and the scale of the scores does not matter
        share = shares(np.array([2.0, 0.0, -2.0]), 2.0)
        assert np.allclose(share, norm.cdf([1, 0, -1]))
        assert np.array_equal(shares(np.array([20.0, 0.0, -20.0]), 20.0), share)
        assert np.array_equal(shares(np.zeros(2), 0.0), [0.5, 0.5])

    def test_it_is_thurstones_on_simulated_observers(self) -> None:
        rng = np.random.default_rng(0)
        scores, spread, n = np.array([3.0, 3.7]), 1.2, 200_000
        opinions = scores[:, None] + rng.normal(0, spread / 2**0.5, (2, n))
        observed = (opinions[1] > opinions[0]).mean()
        assert abs(observed - shares(scores[1:] - scores[:1], spread)[0]) < 3 * 0.5 / n**0.5

    def test_the_spread_is_that_within_contents(self) -> None:
        scores = np.array([1.0, 3.0, 101.0, 103.0])
        assert spread_within(scores, ["a", "a", "b", "b"]) == pytest.approx(2**0.5)

    def test_pairs_are_of_one_content_and_as_many_as_asked_for(self) -> None:
        contents = ["a"] * 20 + ["b"] * 3 + ["c"]
        first, second = drawn(contents, 30, [0, 0])
        pairs = {frozenset(pair) for pair in zip(first.tolist(), second.tolist(), strict=True)}
        assert len(pairs) == len(first) == 30 + 3
        assert all(len(pair) == 2 and len({contents[k] for k in pair}) == 1 for pair in pairs)
        # both orders occur
        assert 0 < (first < second).mean() < 1
        again, other = drawn(contents, 30, [0, 0])[0], drawn(contents, 30, [1, 0])[0]
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)

    def test_the_higher_score_is_the_closer_image(self, rated: JudgedSet) -> None:
        found = read([rated], most=5, seed=0)
        score = {judgement.pairs[0]: judgement.score for judgement in rated.judgements}
        for first, second, share in zip(found.first, found.second, found.share, strict=True):
            better = score[found.pairs[second]] - score[found.pairs[first]]
            assert (share > 0.5) == (better > 0)

    def test_heads_are_found_that_rank_as_the_scores_do(self, rated: JudgedSet) -> None:
        found = fit([rated], uniform(), LARGE, samples=100)
        (outcome,) = found.of_sets
        assert outcome.after.headline_name == "SRCC"
        assert outcome.after.judgements == 8 * 8
        assert outcome.after.headline.value > outcome.before.headline.value
        # scores are those of the known heads; what is left is how well 32 contents tell them
        assert outcome.after.headline.value > 0.95
        assert found.sets == (("rated", 40 * 28),)

    @pytest.mark.parametrize("score", [np.nan, np.inf])
    def test_scores_that_are_none_name_the_row(self, score: float, rated: JudgedSet) -> None:
        judgements = (*rated.judgements[:3], replace(rated.judgements[3], score=score))
        with pytest.raises(ValueError, match="rated, row 3: expected a finite score, got"):
            read([replace(rated, judgements=judgements)], most=5, seed=0)

    def test_without_two_images_of_a_content_there_is_nothing_to_learn(self, rated: JudgedSet) -> None:
        with pytest.raises(ValueError, match="got ratings without two images of one content"):
            read([replace(rated, judgements=rated.judgements[:1])], most=5, seed=0)


class TestSets:
    def test_comparisons_of_two_pairs_have_their_direction(self, small: JudgedSet, tmp_path: Path) -> None:
        rows = ["p1,p2,q1,q2,votes_p,votes_q"]
        # whoever finds the second pair closer says that the first one differs more
        rows += [
            f"{c.a[0].name},{c.a[1].name},{c.b[0].name},{c.b[1].name},{c.votes_b},{c.votes_a}" for c in small.judgements
        ]
        table = small.judgements[0].a[0].parent / "quads.csv"
        table.write_text("\n".join(rows))
        quads = read(load(table), most=1, seed=0)
        pairs = read([small], most=1, seed=0)
        assert np.array_equal(quads.share, pairs.share)
        for one, other in ((quads.first, pairs.first), (quads.second, pairs.second)):
            assert [quads.pairs[k] for k in one] == [pairs.pairs[k] for k in other]

    def test_of_each_set_contents_are_held_out(self) -> None:
        contents = np.repeat(np.arange(100 + 10), 3)
        sets = (contents >= 100).astype(int)
        out = held_out(contents, 0.2, 0, sets)
        assert [len(set(contents[out & (sets == k)])) for k in (0, 1)] == [20, 2]
        # those that are too small for it are drawn from together
        out = held_out(np.arange(6), 0.2, 0, [0, 0, 0, 1, 1, 1])
        assert out.sum() == 2
        # one content of two sets is on one side
        out = held_out([0, 1, 2, 3, 0, 1, 2, 3], 0.5, 0, [0] * 4 + [1] * 4)
        assert np.array_equal(out[:4], out[4:])

    def test_ratings_and_choices_are_learned_from_together(self, small: JudgedSet, rated: JudgedSet) -> None:
        found = fit([small, rated], uniform(), SHORT, samples=50)
        assert [(o.after.name, o.after.headline_name, o.after.contents) for o in found.of_sets] == [
            ("voted", "2AFC", 2),
            ("rated", "SRCC", 8),
        ]
        assert found.mean is not None
        mean = np.mean([outcome.after.headline.value for outcome in found.of_sets])
        assert found.mean.after.value == pytest.approx(mean)
        assert found.after.judgements == found.of_sets[0].after.judgements + 8 * 28

    def test_the_figures_of_one_set_of_choices_are_those_of_the_choices(self, small: JudgedSet) -> None:
        found = fit([small], uniform(), SHORT, samples=50)
        (outcome,) = found.of_sets
        assert outcome.after.figures == found.after.figures
        assert found.mean is None


def table(sets: list[JudgedSet], cache: Path, **options: Any) -> np.ndarray:
    with ExitStack() as stack:
        return np.array(differences(read(sets, most=9, seed=0), uniform(), stack, cache=cache, **options).table)


class TestReading:
    def test_processes_change_no_bit(self, small: JudgedSet, tmp_path: Path) -> None:
        one = table([small], tmp_path / "one")
        assert one.any(axis=(1, 2)).all()
        assert np.array_equal(table([small], tmp_path / "two", workers=2), one)

    @pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="what the system was told is Linux's to say")
    def test_of_a_table_that_the_memory_cannot_hold_only_rows_are_read(
        self, small: JudgedSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        choices, weights = read([small], most=9, seed=0), torch.rand(sum(BACKBONES["nano"].channels))
        found = []
        for bytes_of_memory, told in ((1 << 40, False), (0, True)):
            monkeypatch.setattr(module, "memory", lambda size=bytes_of_memory: size)
            with ExitStack() as stack:
                numbers = differences(choices, uniform(), stack, cache=tmp_path)
                found.append(numbers.distances(weights))
                (file,) = tmp_path.iterdir()
                mapped = Path("/proc/self/smaps").read_text().split(str(file), 1)[1]
                # "rr": random reads
                assert (" rr " in mapped.split("VmFlags:", 1)[1].split("\n", 1)[0]) == told
                del numbers
        assert np.array_equal(*found)

    def test_an_image_that_cannot_be_read_names_its_judgement(self, small: JudgedSet, tmp_path: Path) -> None:
        damaged = tmp_path / "damaged.png"
        damaged.write_bytes(b"no image")
        judgements = list(small.judgements)
        judgements[7] = replace(judgements[7], b=(judgements[7].b[0], damaged))
        for workers in (0, 1):
            with pytest.raises(ScoringError, match=r"^voted, row 7: .*damaged.png: not an image"):
                table([replace(small, judgements=tuple(judgements))], tmp_path, workers=workers)
        assert [path.name for path in tmp_path.iterdir()] == ["damaged.png"]
        damaged.unlink()
        with pytest.raises(ScoringError, match=r"^voted, row 7: .*damaged.png: No such file"):
            table([replace(small, judgements=tuple(judgements))], tmp_path)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("no right to mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


class TestFullDisk:
    @pytest.mark.parametrize("at_once", [True, False])
    def test_numbers_that_do_not_fit_leave_nothing(
        self, at_once: bool, small: JudgedSet, disk: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if not at_once:  # as on systems that cannot take the space before it is written to
            monkeypatch.delattr(os, "posix_fallocate")
        filler = disk / "filler"
        filler.write_bytes(b"0" * 60_000)
        with pytest.raises(ScoringError, match=rf"{disk}/\w+.npy: No space left on device"):
            table([small], disk)
        assert list(disk.iterdir()) == [filler]

    def test_a_checkpoint_that_does_not_fit_leaves_the_one_before(self, small: JudgedSet, disk: Path) -> None:
        class Fill(Callback):
            def on_train_epoch_start(self, trainer: Any, _module: Any) -> None:
                if trainer.current_epoch == 2:
                    with open(disk / "filler", "wb", buffering=0) as file, suppress(OSError):
                        while True:
                            file.write(b"0" * 4096)

        whole = fit([small], uniform(), SHORT, samples=20)
        with pytest.raises(FitError, match=r"checkpoints: .*last.ckpt: No space left on device"):
            fit([small], uniform(), SHORT, samples=20, checkpoints=disk, callbacks=[Fill()])
        assert sorted(os.listdir(disk)) == ["filler", "last.ckpt"]
        (disk / "filler").unlink()
        epochs = []

        class Count(Callback):
            def on_train_epoch_start(self, trainer: Any, _module: Any) -> None:
                epochs.append(trainer.current_epoch)

        again = fit([small], uniform(), SHORT, samples=20, checkpoints=disk, callbacks=[Count()])
        assert epochs == [2, 3]
        assert all(torch.equal(a, b) for a, b in zip(again.heads, whole.heads, strict=True))
