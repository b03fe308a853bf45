"""Heads learned from choices: they find what the votes were made from, and nothing where there is nothing."""

import copy
import json
import math
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from safetensors.torch import load_file

from damlpips import LPIPS
from damlpips.calibration import Fitted, Recipe, fit, save
from damlpips.calibration.learner import FitError
from damlpips.evaluation.judgements import Choice, JudgedSet, SameOrNot
from damlpips.files import digest
from damlpips.scoring.images import ScoringError
from tests.support.processes import python
from tests.support.reference import lpips_reference, random_state
from tests.support.voted import known_metric, voted_set

EXPONENT, VOTES = 3, 10
# far fewer choices than BAPPS has: larger steps, no regularisation
LARGE = {"learning_rate": 3e-2, "epochs": 8, "decay_epochs": 8, "dropout": 0.0}
SHORT = Recipe(learning_rate=1e-2, epochs=2, decay_epochs=2)


def odds(d: np.ndarray) -> np.ndarray:
    return d[:, 0] ** EXPONENT / (d**EXPONENT).sum(1)


@pytest.fixture(scope="module")
def voted(tmp_path_factory: pytest.TempPathFactory) -> JudgedSet:
    return voted_set(tmp_path_factory.mktemp("voted"), 160, 6, odds, VOTES)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> JudgedSet:
    return voted_set(tmp_path_factory.mktemp("small"), 10, 3, odds, VOTES, seed=1)


def uniform() -> LPIPS:
    return LPIPS("nano", heads="uniform")


def fitted(judged: JudgedSet, recipe: Recipe = SHORT, **options: Any) -> Fitted:
    return fit([judged], uniform(), recipe, samples=50, **options)


def same_heads(a: Fitted, b: Fitted) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.heads, b.heads, strict=True))


class TestTruth:
    @pytest.mark.parametrize("loss", ["ranking", "likelihood"])
    def test_finds_heads_as_good_as_those_that_the_votes_were_made_from(
        self, loss: str, voted: JudgedSet, cache: Path, tmp_path: Path
    ) -> None:
        recipe = Recipe(loss=loss, **LARGE)
        found = fit([voted], known_metric(tmp_path), recipe, cache=cache, samples=200)
        # a figure is a mean over choices of shares of VOTES votes, whose deviation is at most 1/2 a vote
        noise = 0.5 / math.sqrt(VOTES * found.after.judgements)
        assert found.difference.value > -3 * noise
        plain = fit([voted], uniform(), replace(recipe, epochs=1, decay_epochs=0), cache=cache, samples=200).before
        assert found.after.headline.value > plain.headline.value + 3 * noise

    def test_random_votes_give_one_half_on_contents_held_out(self, tmp_path: Path, cache: Path) -> None:
        tossed = voted_set(tmp_path, 100, 5, lambda d: np.full(len(d), 0.5), 1, seed=2)
        found = fit([tossed], uniform(), Recipe(loss="likelihood", **LARGE), cache=cache, samples=200)
        # one vote a choice; choices of one content are independent here
        assert abs(found.after.headline.value - 0.5) < 3 * 0.5 / math.sqrt(found.after.judgements)

    def test_the_card_and_the_file_have_the_figures_of_the_metric_they_make(
        self, small: JudgedSet, tmp_path: Path
    ) -> None:
        found = fitted(small)
        path = tmp_path / "heads.safetensors"
        save(found, path)
        card = json.loads((tmp_path / "heads.json").read_text())
        assert card["sha256"] == digest(path)
        assert card["figures"]["after"]["value"] == found.after.headline.value
        assert card["data"]["learned_from"]["choices"] + card["data"]["held_out"]["choices"] == len(small.judgements)
        assert Recipe(**card["recipe"]) == SHORT
        assert {name: tuple(w.shape) for name, w in load_file(path).items()} == {
            f"lin{k}.model.1.weight": (1, len(w), 1, 1) for k, w in enumerate(found.heads)
        }
        # the figures before of a second fit are those of the file, read from images by the module itself
        again = fit([small], LPIPS("nano", heads=str(path)), SHORT, samples=50)
        assert again.before == found.after
        assert again.difference.value == 0

    def test_the_lpips_package_loads_them_and_gives_the_same_distances(
        self, random_weights: Callable[[str], Path], tmp_path: Path
    ) -> None:
        judged = voted_set(tmp_path / "images", 6, 2, odds, VOTES, size=40)
        weights = random_weights("alexnet")
        found = fit([judged], LPIPS("alex", heads="uniform", weights=weights), SHORT, samples=50)
        save(found, tmp_path / "heads.safetensors")
        reference = copy.deepcopy(lpips_reference("alex", random_state("alexnet")))
        missing = reference.load_state_dict(load_file(tmp_path / "heads.safetensors"), strict=False)
        assert not missing.unexpected_keys
        ours = LPIPS("alex", heads=str(tmp_path / "heads.safetensors"), weights=weights)
        x, y = torch.rand(2, 2, 3, 40, 40)
        with torch.no_grad():
            theirs = reference(x, y, normalize=True).flatten()
            # float32 in both; sums in another order
            torch.testing.assert_close(ours(x, y), theirs, rtol=1e-5, atol=0)
        assert (theirs > 0).all()

    def test_heads_are_never_below_zero_and_some_are_clamped(self, small: JudgedSet) -> None:
        lowest = []

        class Watch(Callback):
            def on_train_batch_start(self, _trainer: Any, module: Any, *_: Any) -> None:
                lowest.append(module.heads.min().item())

        found = fitted(small, callbacks=[Watch()])
        assert len(lowest) == 4
        assert min(lowest) == 0
        weights = torch.cat(found.heads)
        assert weights.min() == 0
        assert weights.max() > 0


class TestPrecision:
    @pytest.mark.parametrize(
        # halves have 8 or 11 bits, and heads follow them for 8 steps of up to 1e-2
        ("precision", "atol"),
        [("64-true", 1e-4), ("16-mixed", 2e-2), ("bf16-mixed", 2e-2), ("bf16-true", 5e-2)],
    )
    def test_learns_what_float32_learns(self, precision: str, atol: float, small: JudgedSet, cache: Path) -> None:
        plain = torch.cat(fitted(small, cache=cache).heads)
        found = torch.cat(fitted(small, cache=cache, precision=precision).heads)
        assert found.dtype == torch.float32
        assert torch.allclose(found, plain, rtol=0, atol=atol)


@pytest.mark.cuda
class TestOnAGpu:
    @pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
    def test_learns_what_is_learned_on_the_cpu(self, precision: str, small: JudgedSet) -> None:
        # no chance: what is drawn on a device is not what is drawn on another
        recipe = replace(SHORT, loss="likelihood", dropout=0.0)
        plain = torch.cat(fitted(small, recipe).heads)
        found = torch.cat(fit([small], uniform().cuda(), recipe, samples=50, precision=precision).heads).cpu()
        # TF32 rounds features to a 2048th, and heads follow
        assert torch.allclose(found, plain, rtol=0, atol=1e-2 if precision == "32-true" else 2e-2)

    @pytest.mark.parametrize("variant", ["tune", "scratch"])
    def test_networks_learn(self, variant: str, small: JudgedSet, tmp_path: Path) -> None:
        found = fit([small], uniform().cuda(), replace(SHORT, variant=variant), samples=50)
        assert 0 <= found.after.headline.value <= 1
        save(found, tmp_path / "own.safetensors")
        x = torch.rand(1, 3, 32, 32)
        learned = LPIPS(
            "nano", heads=str(tmp_path / "own.safetensors"), weights=str(tmp_path / "own.weights.safetensors")
        )
        assert learned(x, 1 - x).isfinite().all()


class TestSymmetry:
    def test_swapped_images_give_one_minus_the_share(self) -> None:
        from damlpips.calibration.ranking import Likelihood

        d0, d1 = torch.rand(2, 100, dtype=torch.float64)
        logits = Likelihood().double()
        assert torch.allclose(logits(d0, d1).sigmoid(), 1 - logits(d1, d0).sigmoid(), atol=1e-12)

    def test_it_does_not_matter_which_image_came_first(self, small: JudgedSet) -> None:
        swapped = replace(
            small, judgements=tuple(Choice(c.b, c.a, c.votes_b, c.votes_a, c.content) for c in small.judgements)
        )
        recipe = replace(SHORT, loss="likelihood", dropout=0.0)
        one, other = fitted(small, recipe), fitted(swapped, recipe)
        # sums in another order, and 40 steps of Adam that follow them
        assert torch.allclose(torch.cat(one.heads), torch.cat(other.heads), atol=1e-4)
        assert one.after.headline.value == other.after.headline.value


class TestRuns:
    def test_an_interrupted_run_goes_on_to_the_same_bits(self, small: JudgedSet, tmp_path: Path) -> None:
        class Stop(Callback):
            def on_train_epoch_start(self, trainer: Any, _module: Any) -> None:
                if trainer.current_epoch == 2:
                    raise RuntimeError("stopped")

        whole = fitted(small)
        with pytest.raises(RuntimeError, match="stopped"):
            fitted(small, checkpoints=tmp_path, callbacks=[Stop()])
        epochs = []

        class Count(Callback):
            def on_train_epoch_start(self, trainer: Any, _module: Any) -> None:
                epochs.append(trainer.current_epoch)

        assert same_heads(fitted(small, checkpoints=tmp_path, callbacks=[Count()]), whole)
        assert epochs == [2, 3]
        with pytest.raises(FitError, match=r"checkpoints: .*last.ckpt is of another fit"):
            fitted(small, replace(SHORT, seed=1), checkpoints=tmp_path)

    def test_a_checkpoint_that_cannot_be_used(self, small: JudgedSet, tmp_path: Path) -> None:
        (tmp_path / "last.ckpt").write_bytes(b"damaged")
        with pytest.raises(FitError, match=r"last.ckpt cannot be used .*: delete it"):
            fitted(small, checkpoints=tmp_path)
        (tmp_path / "file").touch()
        with pytest.raises(FitError, match=r"file/last.ckpt cannot be used .*File exists"):
            fitted(small, checkpoints=tmp_path / "file")

    def test_ctrl_c_is_an_interrupt(self, small: JudgedSet) -> None:
        class Press(Callback):
            def on_train_epoch_start(self, *_: Any) -> None:
                raise KeyboardInterrupt

        before = signal.getsignal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            fitted(small, callbacks=[Press()])
        assert signal.getsignal(signal.SIGINT) is before

    def test_the_seed_decides(self, small: JudgedSet) -> None:
        assert same_heads(fitted(small), fitted(small))
        assert not same_heads(fitted(small), fitted(small, replace(SHORT, seed=1)))

    def test_the_cache_is_used_and_changes_nothing(self, small: JudgedSet, tmp_path: Path) -> None:
        calls: list[tuple[int, int]] = []

        def counted(done: int, total: int) -> None:
            calls.append((done, total))

        plain = fitted(small)
        first = fitted(small, cache=tmp_path, progress=counted)
        assert calls[-1] == (30, 30)
        calls.clear()
        assert same_heads(fitted(small, cache=tmp_path, progress=counted), first)
        assert not calls
        assert same_heads(first, plain)
        (file,) = tmp_path.iterdir()
        file.write_bytes(b"damaged")
        with pytest.raises(ScoringError, match=file.name):
            fitted(small, cache=tmp_path)

    def test_the_global_generators_are_left_alone(self, small: JudgedSet) -> None:
        before = torch.get_rng_state()
        fitted(small)
        assert torch.equal(torch.get_rng_state(), before)

    def test_importing_it_does_not_load_lightning(self) -> None:
        code = "import damlpips.calibration, damlpips.calibration.recipe, sys; print('torch' in sys.modules)"
        assert python(code).split() == ["False"]


class TestProcesses:
    # 24 choices in batches of 7: the last has 3, so that of two processes one has 2 and the other 1
    RECIPE = Recipe(loss="likelihood", learning_rate=1e-2, epochs=1, decay_epochs=1, batch=7)

    @pytest.mark.parametrize("recipe", [RECIPE, replace(RECIPE, variant="tune", dropout=0.0, learning_rate=1e-3)])
    def test_two_learn_what_one_learns(self, recipe: Recipe, small: JudgedSet, cache: Path, tmp_path: Path) -> None:
        kept = {"cache": cache} if recipe.variant == "lin" else {}
        # votes that count differently
        judged = replace(
            small,
            judgements=tuple(
                replace(c, votes_a=(k % 5 + 1) * c.votes_a, votes_b=(k % 5 + 1) * c.votes_b)
                for k, c in enumerate(small.judgements)
            ),
        )
        one = fitted(judged, recipe, **kept, log=tmp_path / "one")
        two = fitted(judged, recipe, **kept, log=tmp_path / "two", devices=2, checkpoints=tmp_path)
        # float32 sums of 7 terms in another order, and 8 steps of Adam that follow them
        assert torch.allclose(torch.cat(one.heads), torch.cat(two.heads), rtol=0, atol=1e-5)
        for name, weights in (one.network or {}).items():
            assert torch.allclose(weights, two.network[name], rtol=0, atol=1e-3), name
        assert one.after.headline.value == pytest.approx(two.after.headline.value, abs=1e-6)
        losses = [np.genfromtxt(tmp_path / name / "metrics.csv", delimiter=",", names=True) for name in ("one", "two")]
        assert len(losses[0]) == 8
        np.testing.assert_allclose(losses[0]["loss"], losses[1]["loss"], rtol=1e-4)
        # the last epoch's checkpoint goes on in one process
        assert same_heads(fitted(judged, recipe, **kept, checkpoints=tmp_path), two)

    def test_an_error_in_a_process_is_the_error(self, small: JudgedSet, cache: Path) -> None:
        with pytest.raises(FitError, match=r"^epoch \d, batch \d: the loss is nan \(choices .*lower learning rate"):
            fitted(small, replace(self.RECIPE, learning_rate=1e30), cache=cache, devices=2)

    def test_how_a_batch_is_divided(self) -> None:
        from damlpips.calibration.ranking import KINDS, loss

        for kind in KINDS.values():
            torch.manual_seed(0)
            votes, (d0, d1), share = torch.arange(1.0, 8), torch.rand(2, 7), torch.rand(7)
            logit, weight = kind()(d0, d1), kind().weight(votes)
            whole = torch.nn.functional.binary_cross_entropy_with_logits(logit, share, weight=weight, reduction="sum")
            parts = [loss(logit[k::3], share[k::3], weight[k::3]).sum() / weight.sum() for k in range(3)]
            torch.testing.assert_close(sum(parts), whole / weight.sum())

    def test_more_than_there_are(self, small: JudgedSet) -> None:
        with pytest.raises(ValueError, match="devices: expected 1 to inf where the metric is on cpu, got 0"):
            fitted(small, devices=0)


class TestBadInput:
    def test_a_precision_that_is_none(self, small: JudgedSet) -> None:
        with pytest.raises(ValueError, match=r"precision: expected one of .*bf16-true for 'lin', got '16-true'"):
            fitted(small, precision="16-true")
        with pytest.raises(ValueError, match=r"32-true, 16-mixed, bf16-mixed for 'tune', got '64-true'"):
            fitted(small, replace(SHORT, variant="tune"), precision="64-true")

    def test_no_choices(self) -> None:
        for sets in ([], [JudgedSet("empty", ())]):
            with pytest.raises(ValueError, match="sets: expected choices to learn from, got none"):
                fit(sets, uniform())

    def test_another_kind_of_judgements(self, small: JudgedSet) -> None:
        noticed = JudgedSet("noticed", (SameOrNot(Path("a.png"), Path("b.png"), 1.0, "a"),))
        with pytest.raises(ValueError, match="noticed: expected choices or ratings, got same or not"):
            fit([small, noticed], uniform())

    @pytest.mark.parametrize("votes", [(0.0, 0.0), (-1.0, 2.0), (math.nan, 1.0), (math.inf, 1.0)])
    def test_votes_that_are_none_name_the_row(self, votes: tuple[float, float], small: JudgedSet) -> None:
        judgements = list(small.judgements)
        judgements[7] = replace(judgements[7], votes_a=votes[0], votes_b=votes[1])
        with pytest.raises(ValueError, match="voted, row 7: expected votes, 0 or more and not both 0"):
            fitted(replace(small, judgements=tuple(judgements)))

    def test_too_few_contents(self, small: JudgedSet) -> None:
        kept = tuple(c for c in small.judgements if c.content in ("0", "1", "2"))
        with pytest.raises(ValueError, match=r"held_out: 0.2 of 3 contents .* at least 4 contents"):
            fitted(replace(small, judgements=kept))

    def test_files_of_the_same_bytes_are_one_content(self, small: JudgedSet, tmp_path: Path) -> None:
        kept = [c for c in small.judgements if c.content in ("0", "1", "2", "3")]
        twin = tmp_path / "twin.png"
        twin.write_bytes(kept[0].a[0].read_bytes())
        kept = [replace(c, a=(twin, c.a[1]), b=(twin, c.b[1])) if c.content == "3" else c for c in kept]
        with pytest.raises(ValueError, match=r"0\.2 of 3 contents"):
            fitted(replace(small, judgements=tuple(kept)))

    def test_images_that_are_missing_damaged_or_of_two_sizes(self, small: JudgedSet, tmp_path: Path) -> None:
        from tests.support.pictures import image_file

        damaged = tmp_path / "damaged.png"
        damaged.write_bytes(b"no image")
        for path in (tmp_path / "missing.png", damaged, image_file(tmp_path / "large.png")):
            first = replace(small.judgements[0], a=(small.judgements[0].a[0], path))
            with pytest.raises(ScoringError, match=path.name):
                fitted(replace(small, judgements=(first, *small.judgements[1:])))

    def test_a_loss_that_is_not_finite_names_the_batch(self, small: JudgedSet) -> None:
        with pytest.raises(FitError, match=r"epoch 2, batch 1: the loss is (nan|inf) \(choices .*lower learning rate"):
            fitted(small, replace(SHORT, learning_rate=1e30))

    @pytest.mark.parametrize(
        ("metric", "message"),
        [
            (lambda: LPIPS("nano", heads="uniform", comparison="mean"), "comparison: .*'spatial', got 'mean'"),
            (lambda: LPIPS("nano", heads="uniform", channel_norm=False), "channel_norm: .*True, got False"),
            (lambda: LPIPS("nano", heads="uniform", tile=64), "tile: .*None, got 64"),
        ],
    )
    def test_metrics_that_heads_are_not_learned_for(self, metric: Any, message: str, small: JudgedSet) -> None:
        with pytest.raises(ValueError, match=message):
            fit([small], metric())

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *(("variant", "all"), ("swap", 1)),
            *(("loss", "mse"), ("learning_rate", 0.0), ("learning_rate", math.nan), ("learning_rate", math.inf)),
            *(("epochs", -1), ("decay_epochs", -1), ("batch", 0), ("dropout", 1.0), ("dropout", -0.1)),
            *(("held_out", 0.0), ("held_out", 1.0), ("seed", -1)),
        ],
    )
    def test_options_out_of_range(self, name: str, value: Any) -> None:
        with pytest.raises(ValueError, match=f"{name}: expected .*got"):
            Recipe(**{name: value})

    def test_another_suffix(self, small: JudgedSet, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"heads.pth: expected a name that ends in .safetensors"):
            save(fitted(small), tmp_path / "heads.pth")
        assert not list(tmp_path.iterdir())
