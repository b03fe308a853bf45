"""`LearnedPerceptualImagePatchSimilarity` in the place of torchmetrics' own: arguments, results and errors."""

import copy
import inspect
import pickle
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.image import PeakSignalNoiseRatio
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity as Original

from benchmarks.bench.peers import torchvision_gives
from damlpips import LPIPSMetric
from damlpips.adapters.torchmetrics import LearnedPerceptualImagePatchSimilarity as Ours
from tests.support import reference

# float32: the scaling of the images is one product and one sum here, a difference and a quotient there
SCORE = {"rtol": 1e-5, "atol": 1e-8}

CASES = [
    pytest.param("alex", "alex_weights", marks=pytest.mark.shared, id="alex"),
    pytest.param("squeeze", "squeeze_weights", marks=pytest.mark.shared, id="squeeze"),
    pytest.param("vgg", "random_vgg_weights", id="vgg-random"),
]
# an older torchmetrics has only the reductions "mean" and "sum"; the replacement has what a new one has
needs_scores = pytest.mark.skipif(
    '"none"' not in inspect.getsource(Original.__init__), reason="this torchmetrics gives no scores of single images"
)
Both = Callable[..., tuple[Any, Any]]
state_of = cache(load_file)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # the original uses old options of torchvision


@pytest.fixture
def both(give: Callable[[str, str], Path]) -> Iterator[Callable[[str, str], Both]]:
    """Return a function that gives weights, and a function that builds the original and the replacement on them."""
    with ExitStack() as stack:

        def weighted(net: str, fixture: str) -> Both:
            state = state_of(give(net, fixture))
            network = reference.loaded_features(
                reference.TORCHVISION[net], {key.removeprefix("features."): value for key, value in state.items()}
            )
            stack.enter_context(torchvision_gives(network))
            return lambda *args, **kwargs: (Original(*args, **kwargs), Ours(*args, **kwargs))

        yield weighted


@pytest.fixture
def alex(both: Callable[[str, str], Both]) -> Both:
    return both("alex", "random_alex_weights")


def batches(normalize: bool, side: int = 64) -> list[tuple[Tensor, ...]]:
    x, y = reference.noise(5, side, side)
    x, y = (x, y) if normalize else (2 * x - 1, 2 * y - 1)
    return [(x[a:b], y[a:b]) for a, b in ((0, 2), (2, 3), (3, 5))]


def test_the_arguments_are_those_of_torchmetrics() -> None:
    for name in ("__init__", "update"):
        theirs, mine = (inspect.signature(getattr(kind, name)).parameters for kind in (Original, Ours))
        assert [(p.name, p.default, p.kind) for p in mine.values()] == [
            (p.name, p.default, p.kind) for p in theirs.values()
        ]
    for name in ("is_differentiable", "higher_is_better", "full_state_update", "plot_lower_bound", "plot_upper_bound"):
        assert getattr(Ours, name) == getattr(Original, name)


@pytest.mark.parametrize(("net", "fixture"), CASES)
@pytest.mark.parametrize(
    ("reduction", "normalize"),
    [
        *(("mean", False), ("mean", True), ("sum", True)),
        *(pytest.param(*case, marks=needs_scores) for case in (("none", False), (None, True))),
    ],
)
def test_results(net: str, fixture: str, reduction: str | None, normalize: bool, both: Any) -> None:
    old, new = both(net, fixture)(net, reduction, normalize)
    for x, y in batches(normalize, 32 if net == "vgg" else 64):
        torch.testing.assert_close(new(x, y), old(x, y), **SCORE)
    torch.testing.assert_close(new.compute(), old.compute(), **SCORE)
    for metric in (old, new):
        metric.reset()
        metric.update(*batches(normalize)[1])
    assert new.compute().shape == old.compute().shape == ()
    torch.testing.assert_close(new.compute(), old.compute(), **SCORE)


def test_gradients(alex: Both) -> None:
    found = []
    for metric in alex(normalize=True):
        x, y = (image.clone().requires_grad_() for image in batches(True)[0])
        found.append(torch.autograd.grad(metric(x, y), [x, y]))
    for theirs, mine in zip(*found, strict=True):
        assert (mine - theirs).abs().max() <= 1e-4 * theirs.abs().max()  # what rounding left


BAD = torch.full((1, 3, 64, 64), 0.5)
IMAGES = {
    "too bright": (BAD, BAD + 0.500001),
    "too dark": (BAD - 0.500001, BAD),
    "bytes as floats": (255 * BAD, 255 * BAD),
    "far below": (BAD - 3, BAD),
    "NaN": (BAD * torch.nan, BAD),
    "grey": (BAD[:, :1], BAD[:, :1]),
    "no batch": (BAD[0], BAD[0]),
    "fine": (BAD, BAD),
}


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("what", IMAGES)
def test_what_the_original_refuses_is_refused(what: str, normalize: bool, alex: Both) -> None:
    """And nothing else is: below -1 is all that is checked without `normalize`."""
    outcomes = []
    for metric in alex(normalize=normalize):
        metric.update(*batches(normalize)[0])
        said = ""
        try:
            metric.update(*IMAGES[what])
        except ValueError as error:
            said = str(error).split(". Got")[0].split(", and")[0]
        outcomes.append((said, metric.compute()))
    (theirs, before), (mine, after) = outcomes
    assert mine == theirs
    torch.testing.assert_close(after, before, **SCORE)


def test_an_empty_batch_is_refused(alex: Both) -> None:
    with pytest.raises(ValueError, match=r"got \(0, 3, 64, 64\) with values \[\]"):
        alex()[1].update(BAD[:0], BAD[:0])


@pytest.mark.parametrize(
    "arguments",
    [
        *({"net_type": "resnet"}, {"normalize": 1}, {"sync": True}, {"dist_sync_on_step": "yes"}),
        pytest.param({"reduction": "median"}, marks=needs_scores),
    ],
)
def test_bad_arguments_are_the_same_errors(arguments: dict[str, Any], alex: Both) -> None:
    messages = []
    for kind in (Original, Ours):
        with pytest.raises(ValueError, match=r".") as error:
            kind(**arguments)
        messages.append(str(error.value))
    assert messages[0] == messages[1]


def test_in_a_collection(alex: Both) -> None:
    """By position and by name, beside others, in one group with an equal one; a pass is shared with `LPIPSMetric`."""
    old, new = alex(normalize=True)
    others = {
        "again": Ours(normalize=True),
        "sum": Ours(reduction="sum", normalize=True),
        "signed": Ours(),
        "own": LPIPSMetric(),
        "psnr": PeakSignalNoiseRatio(data_range=1.0),
    }
    collection = MetricCollection({"lpips": new, **others})
    for x, y in batches(True):
        old.update(x, y)
        collection.update(x, y)
    found = collection.compute()
    torch.testing.assert_close(found["lpips"], old.compute(), **SCORE)
    assert torch.equal(found["again"], found["lpips"])
    torch.testing.assert_close(found["sum"], 5 * found["lpips"], **SCORE)
    torch.testing.assert_close(found["own"], found["lpips"], **SCORE)
    assert (found["signed"] - found["lpips"]).abs() > 1e-3  # [0, 1] taken for [-1, 1]
    assert any({"lpips", "again"} <= set(names) for names in collection.compute_groups.values())
    new.reset()
    new.update(img1=x, img2=y)


@pytest.mark.usefixtures("alex")
def test_copies_and_states() -> None:
    metric = Ours("alex", None)
    metric.update(*batches(False)[0])
    for again in (metric.clone(), copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):
        assert torch.equal(again.compute(), metric.compute())
    assert metric.state_dict() == {}
    assert (metric.normalize, metric.reduction) == (False, "none")
