"""Networks that are learned with their heads: distances and gradients as the metric's, and truth found."""

import copy
import json
import math
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from PIL import Image
from torch.multiprocessing import ProcessRaisedException

import damlpips
from damlpips import DAMLPIPS, LPIPS, LPIPSMetric
from damlpips.calibration import Fitted, Recipe, fit, save
from damlpips.calibration.choices import read
from damlpips.calibration.images import ImageFiles
from damlpips.calibration.learner import FitError, NetworkLearner, Part
from damlpips.calibration.training import _of_process
from damlpips.calibration.weights import at_random
from damlpips.evaluation.judgements import Choice, JudgedSet
from damlpips.files import digest
from damlpips.nets.table import BACKBONES
from damlpips.scoring.images import ScoringError
from tests.support.reference import lpips_reference, random_state, tiny
from tests.support.voted import cast_set, voted_set

VOTES = 10
# few choices: larger steps, and no regularisation
LARGE: dict[str, Any] = {"learning_rate": 3e-3, "epochs": 4, "decay_epochs": 4, "dropout": 0.0, "loss": "likelihood"}
SHORT = Recipe(variant="tune", learning_rate=1e-3, epochs=1, decay_epochs=1, batch=8)
SCRATCH = replace(SHORT, variant="scratch")
WRITTEN = ("lpips.json", "lpips.safetensors", "lpips.weights.safetensors")


@pytest.fixture(scope="module")
def cast(tmp_path_factory: pytest.TempPathFactory) -> JudgedSet:
    return cast_set(tmp_path_factory.mktemp("cast"), 60, 3, votes=VOTES)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> JudgedSet:
    return cast_set(tmp_path_factory.mktemp("small"), 8, 2, votes=VOTES, seed=1)


@pytest.fixture(scope="module")
def files(small: JudgedSet, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Heads and a network from a fit, as options."""
    folder = tmp_path_factory.mktemp("files")
    save(fitted(small), folder / "lpips.safetensors")
    return {"heads": str(folder / WRITTEN[1]), "weights": str(folder / WRITTEN[2])}


def uniform() -> LPIPS:
    return LPIPS("nano", heads="uniform")


def fitted(judged: JudgedSet, recipe: Recipe = SHORT, **options: Any) -> Fitted:
    return fit([judged], uniform(), recipe, samples=20, **options)


def same(a: Fitted, b: Fitted) -> bool:
    pairs = [*zip(a.heads, b.heads, strict=True), *((w, b.network[name]) for name, w in a.network.items())]
    return all(torch.equal(x, y) for x, y in pairs)


class TestDistances:
    def test_without_dropout_they_are_those_of_the_metric(self, small: JudgedSet) -> None:
        metric = LPIPS("nano", heads="uniform")
        learner, of = started(metric, small)
        with torch.no_grad():
            learner.heads.fill_(1)
            found = torch.stack(learner.distances(*of), 1)
        for choice, distances in zip(small.judgements, found, strict=True):
            for pair, distance in zip(choice.pairs, distances, strict=True):
                # float32 in both; sums in another order, and in batches of another size
                torch.testing.assert_close(metric(*map(pixels_of, pair))[0], distance, rtol=1e-5, atol=1e-8)

    def test_gradients_are_those_of_the_lpips_package(
        self, random_weights: Callable[[str], Path], tmp_path: Path
    ) -> None:
        judged = voted_set(tmp_path, 3, 2, lambda d: np.full(len(d), 0.5), VOTES, size=40)
        learner, of = started(LPIPS("alex", heads="uniform", weights=random_weights("alexnet")), judged)
        reference = copy.deepcopy(lpips_reference("alex", random_state("alexnet")))
        for module, head in zip(reference.lins, learner.each_head(), strict=True):
            module.model[-1].weight.data = head.reshape(1, -1, 1, 1)
        reference.requires_grad_().zero_grad()
        torch.stack(learner.distances(*of)).sum().backward()
        for choice in judged.judgements:
            reference(
                *(torch.cat([pixels_of(pair[k]) for pair in choice.pairs]) for k in (0, 1)), normalize=True
            ).sum().backward()
        theirs = {name.split(".", 1)[1]: p.grad for name, p in reference.net.named_parameters()}
        ours = {name.split("sequence.")[1]: p.grad for name, p in learner.network.named_parameters()}
        assert ours.keys() == theirs.keys()
        # float32 in both; sums over all places and pairs in another order
        for name, gradient in ours.items():
            torch.testing.assert_close(gradient, theirs[name], rtol=1e-3, atol=1e-5 * float(theirs[name].abs().max()))
        heads = torch.cat([module.model[-1].weight.grad.flatten() for module in reference.lins])
        torch.testing.assert_close(learner.heads.grad, heads, rtol=1e-4, atol=1e-7)

    def test_dropout_leaves_out_places_and_keeps_the_mean(self, small: JudgedSet) -> None:
        learner, of = started(uniform(), replace(small, judgements=small.judgements[:1]), dropout=0.5)
        learner.masks = torch.Generator().manual_seed(0)
        with torch.no_grad():
            dropped = torch.stack([torch.cat(learner.distances(*of)) for _ in range(400)])
            learner.recipe = replace(learner.recipe, dropout=0.0)
            whole = torch.cat(learner.distances(*of))
        assert (dropped.std(0) > 0).all()
        # five standard errors
        assert ((dropped.mean(0) - whole).abs() < 5 * dropped.std(0) / 20).all()

    def test_images_of_several_sizes_in_one_batch(self, tmp_path: Path) -> None:
        choices = []
        for k, size in enumerate([24, 31, 24, 40]):
            judged = voted_set(tmp_path / str(k), 1, 2, lambda d: np.full(len(d), 0.5), VOTES, seed=k, size=size)
            choices.append(replace(judged.judgements[0], content=str(k)))
        # two pairs of different sizes in one choice
        choices.append(Choice(choices[0].a, choices[1].b, 1, 1, "0"))
        metric = uniform()
        learner, of = started(metric, JudgedSet("sizes", tuple(choices)))
        with torch.no_grad():
            learner.heads.fill_(1)
            found = torch.stack(learner.distances(*of), 1)
        expected = torch.stack([torch.cat([metric(*map(pixels_of, pair)) for pair in c.pairs]) for c in choices])
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)  # as above


class TestTruth:
    @pytest.mark.parametrize("variant", ["tune", "scratch"])
    def test_it_finds_what_the_votes_follow(self, variant: str, cast: JudgedSet, tmp_path: Path) -> None:
        found = fit([cast], uniform(), Recipe(variant=variant, **LARGE), samples=20)
        # a figure is a mean over choices of shares of VOTES votes, whose deviation is at most 1/2 a vote
        noise = 0.5 / math.sqrt(VOTES * found.after.judgements)
        assert found.difference.value > 3 * noise
        save(found, tmp_path / "lpips.safetensors")
        assert sorted(path.name for path in tmp_path.iterdir()) == list(WRITTEN)
        # the figures before of another fit are those of the files, by the module itself
        files = {"heads": str(tmp_path / WRITTEN[1]), "weights": str(tmp_path / WRITTEN[2])}
        tuned = LPIPS("nano", **files)
        again = fit([cast], tuned, Recipe(epochs=1, decay_epochs=0), samples=20)
        assert again.before.headline.value == found.after.headline.value
        x = pixels_of(cast.judgements[0].a[1])
        assert tuned(x, x).item() == 0
        card = json.loads((tmp_path / WRITTEN[0]).read_text())
        assert card["variant"] == variant
        assert (card["sha256"], card["weights_sha256"]) == tuple(digest(Path(path)) for path in files.values())

    def test_random_votes_give_one_half_on_contents_held_out(self, cast: JudgedSet) -> None:
        rng = np.random.default_rng(0)
        tossed = [replace(c, votes_a=float(v), votes_b=1.0 - v) for c in cast.judgements for v in [rng.integers(2)]]
        recipe = Recipe(variant="tune", **{**LARGE, "epochs": 2, "decay_epochs": 1})
        found = fitted(replace(cast, judgements=tuple(tossed)), recipe)
        assert abs(found.after.headline.value - 0.5) < 3 * 0.5 / math.sqrt(found.after.judgements)

    def test_all_weights_are_learned_and_heads_are_never_below_zero(self, small: JudgedSet) -> None:
        lowest = []

        class Watch(Callback):
            def on_train_batch_start(self, _trainer: Any, module: Any, *_: Any) -> None:
                lowest.append(module.heads.min().item())

        found = fitted(small, callbacks=[Watch()])
        assert len(lowest) == 2
        assert min(lowest) == 0
        assert min(float(w.min()) for w in found.heads) == 0
        before = uniform().backbone.table_state()
        assert found.network.keys() == before.keys() == BACKBONES["nano"].expected_keys().keys()
        # the low-pass is no weight
        unchanged = [name for name, w in found.network.items() if torch.equal(w, before[name])]
        assert unchanged == ["low_pass"]

    def test_swapping_the_images_at_random_changes_nothing_of_a_symmetric_loss(self, small: JudgedSet) -> None:
        recipe = replace(SHORT, loss="likelihood", dropout=0.0)
        plain, swapped = fitted(small, recipe), fitted(small, replace(recipe, swap=True))
        # the logit of swapped distances is the negative, but for rounding; Adam's first steps follow signs
        for name, weights in plain.network.items():
            torch.testing.assert_close(weights, swapped.network[name], rtol=0, atol=1e-4)
        asymmetric = replace(SHORT, dropout=0.0)
        assert not same(fitted(small, asymmetric), fitted(small, replace(asymmetric, swap=True)))


class TestFiles:
    def test_every_form_loads_them(self, files: dict[str, str], small: JudgedSet) -> None:
        x, y = map(pixels_of, small.judgements[0].a)
        expected = LPIPS("nano", **files)(x, y)
        assert expected != uniform()(x, y)
        metric = LPIPSMetric("nano", **files)
        metric.update(x, y)
        torch.testing.assert_close(metric.compute(), expected[0])
        assert DAMLPIPS("nano", weights=files["weights"])(x, y) != DAMLPIPS("nano")(x, y)

    def test_piq_loads_them(self, files: dict[str, str], small: JudgedSet) -> None:
        pytest.importorskip("piq")
        from damlpips.adapters.piq import create_metric

        x, y = map(pixels_of, small.judgements[0].a)
        expected = LPIPS("nano", **files)(x, y)
        theirs = create_metric("lpips-fast", backbone="nano", reduction="none", **files)
        torch.testing.assert_close(theirs(x, y), expected)

    def test_pyiqa_loads_them(self, files: dict[str, str], small: JudgedSet) -> None:
        pyiqa = pytest.importorskip("pyiqa")
        damlpips.register()
        x, y = map(pixels_of, small.judgements[0].a)
        theirs = pyiqa.create_metric("lpips-fast", backbone="nano", device="cpu", **files)
        torch.testing.assert_close(theirs(x, y).flatten(), LPIPS("nano", **files)(x, y))


class TestRuns:
    def test_an_interrupted_run_goes_on_to_the_same_bits(self, small: JudgedSet, tmp_path: Path) -> None:
        class Stop(Callback):
            def on_train_epoch_start(self, trainer: Any, _module: Any) -> None:
                if trainer.current_epoch == 1:
                    raise RuntimeError("stopped")

        recipe = replace(SCRATCH, swap=True)
        before = torch.get_rng_state()
        whole = fitted(small, recipe)
        with pytest.raises(RuntimeError, match="stopped"):
            fitted(small, recipe, checkpoints=tmp_path, callbacks=[Stop()])
        assert same(fitted(small, recipe, checkpoints=tmp_path), whole)
        assert torch.equal(torch.get_rng_state(), before)
        with pytest.raises(FitError, match="is of another fit"):
            fitted(small, replace(recipe, variant="tune"), checkpoints=tmp_path)

    def test_processes_that_read_change_nothing(self, small: JudgedSet) -> None:
        assert same(fitted(small, workers=2), fitted(small))

    def test_a_file_that_another_process_cannot_read_is_named_in_one_line(self) -> None:
        error = ScoringError("lost.png: damaged image")
        # as `torch.multiprocessing` says it
        text = "".join(["Traceback (most recent call last):\n", *traceback.format_exception_only(error)])
        found = _of_process(ProcessRaisedException(f"\n\n-- Process 1 terminated with an error:\n{text}\n", 1, 1))
        assert (type(found), str(found)) == (ScoringError, str(error))

    def test_the_metric_and_its_shared_network_stay_as_they_are(self, small: JudgedSet) -> None:
        metric = uniform()
        before = {name: w.clone() for name, w in metric.backbone.state_dict().items()}
        fit([small], metric, SHORT, samples=20)
        assert all(torch.equal(w, before[name]) for name, w in metric.backbone.state_dict().items())
        assert not any(p.requires_grad for p in metric.backbone.parameters())

    def test_the_seed_decides_where_scratch_starts(self) -> None:
        assert torch.equal(*(at_random("nano", 0)["stem.weight"] for _ in range(2)))
        assert not torch.equal(*(at_random("nano", seed)["stem.weight"] for seed in range(2)))
        assert at_random("squeeze", 0).keys() == BACKBONES["squeeze"].expected_keys().keys()


class TestBadInput:
    def test_a_loss_that_is_not_finite_names_the_batch(self, small: JudgedSet) -> None:
        with pytest.raises(
            FitError, match=r"epoch \d, batch \d: the loss is (nan|inf) \(choices .*lower learning rate"
        ):
            fitted(small, replace(SHORT, learning_rate=1e30))

    @pytest.mark.parametrize(
        ("metric", "recipe", "options", "message"),
        [
            (uniform, SHORT, {"cache": Path("cache")}, "cache: 'tune' .* keeps nothing, got cache"),
            (uniform, SHORT, {"workers": -1}, "workers: expected 0 or more, got -1"),
            (lambda: uniform().double(), SHORT, {}, "dtype: .*float32.*, got torch.float64"),
            (tiny, SHORT, {}, "backbone: expected one of nano, alex"),
            (
                lambda: LPIPS("resnet50", heads="uniform"),
                SCRATCH,
                {},
                "'resnet50' has batch norm",
            ),
        ],
    )
    def test_what_is_not_learned(
        self, metric: Any, recipe: Recipe, options: dict[str, Any], message: str, small: JudgedSet
    ) -> None:
        with pytest.raises(ValueError, match=message):
            fit([small], metric(), recipe, **options)

    def test_weights_where_the_start_is_random(self, small: JudgedSet, random_weights: Callable[[str], Path]) -> None:
        metric = LPIPS("alex", heads="uniform", weights=random_weights("alexnet"))
        with pytest.raises(ValueError, match="weights: 'scratch' starts at random, expected None, got"):
            fit([small], metric, SCRATCH)

    @pytest.mark.parametrize("workers", [0, 1])
    def test_images_that_are_damaged_too_small_or_of_two_sizes(
        self, workers: int, small: JudgedSet, tmp_path: Path
    ) -> None:
        damaged, wide = tmp_path / "damaged.png", tmp_path / "wide.png"
        damaged.write_bytes(b"no image")
        Image.fromarray(np.zeros((24, 25, 3), np.uint8)).save(wide)
        for path, row in ((damaged, 0), (wide, -1)):
            judgements = list(small.judgements)
            judgements[row] = replace(judgements[row], a=(judgements[row].a[0], path))
            with pytest.raises(ScoringError, match=path.name) as caught:
                fitted(replace(small, judgements=tuple(judgements)), workers=workers)
            assert "\n" not in str(caught.value)
        with pytest.raises(ScoringError, match=r"png: 24 x 24 pixels, expected sides of at least 31"):
            fit([small], LPIPS("alex", heads="uniform"), SCRATCH, workers=workers)


def started(metric: LPIPS, judged: JudgedSet, **recipe: Any) -> tuple[NetworkLearner, Any]:
    """A learner before its first step, and all choices as a batch."""
    choices = read([judged], most=1, seed=0)
    learner = NetworkLearner(metric, Recipe(variant="tune", **{"dropout": 0.0, **recipe}), "")
    images = ImageFiles(choices.pairs, 1, choices.where).of(choices.first, choices.second)
    return learner, (images, Part.of(np.arange(len(choices)), 0, 1))


def pixels_of(path: Path) -> torch.Tensor:
    """An image file, (1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)[None].float() / 255
