"""pyiqa builds this package's metrics by name; against the installed pyiqa."""

import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import damlpips
from damlpips import DAMLPIPS
from damlpips.models.registry import in_libraries
from tests.support import reference
from tests.support.processes import python

pyiqa = pytest.importorskip("pyiqa")
VERSION = tuple(map(int, re.findall(r"\d+", pyiqa.__version__)[:3]))

NAMES = [
    *("damlpips", "damlpips-alex", "damlpips-vgg", "damlpips-squeeze"),
    *("lpips-fast", "lpips-fast-vgg", "lpips-fast-squeeze"),
]


def test_the_version_that_was_asked_for_is_imported() -> None:
    assert os.environ.get("PYIQA", pyiqa.__version__) == pyiqa.__version__


@pytest.fixture(scope="module", autouse=True)
def _registered():
    damlpips.register("pyiqa")


def create(name: str, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pyiqa.create_metric(name, device=torch.device("cpu"), **options)


def test_register_is_idempotent_and_leaves_pyiqas_own_alone() -> None:
    own = pyiqa.default_model_configs.DEFAULT_CONFIGS["lpips"].copy()
    before = pyiqa.list_models()
    assert damlpips.register("pyiqa") == NAMES
    assert damlpips.register("pyiqa") == NAMES
    assert pyiqa.list_models() == before
    assert pyiqa.default_model_configs.DEFAULT_CONFIGS["lpips"] == own
    assert set(NAMES) <= set(pyiqa.list_models(metric_mode="FR"))


@pytest.fixture(scope="module", params=NAMES)
def named(request: pytest.FixtureRequest, random_weights: Callable[[str], Path]) -> Callable[..., Any]:
    """Create the metric of a name, with random weights where its network has some of ImageNet's."""
    model = reference.TORCHVISION.get(in_libraries()[request.param].options["backbone"])
    weights = {"weights": random_weights(model)} if model else {}
    return lambda **options: create(request.param, **weights, **options)


def test_every_name_is_a_metric(named: Callable[..., Any], tmp_path: Path) -> None:
    metric, images = named(), reference.noise(3, 72, 64)
    x, y = ((255 * t).round() / 255 for t in images)
    assert metric.metric_name in pyiqa.list_models() == pyiqa.list_models(exclude_filters="nothing*")
    assert metric.metric_name in pyiqa.list_models("FR", filter=f"{metric.metric_name[:5]}*")
    assert metric.metric_name not in pyiqa.list_models("NR")
    assert (metric.metric_mode, metric.lower_better) == ("FR", True)
    assert metric.score_range.startswith("0, ")

    scores = metric(x, y)
    assert (scores.shape, scores.dtype, scores.requires_grad) == ((3, 1), torch.float32, False)
    assert scores.isfinite().all()
    assert (scores > 0).all()
    assert metric(x, x).eq(0).all()
    for again in (metric, named(), metric.train(), metric.eval()):
        assert torch.equal(again(x, y), scores)
    torch.testing.assert_close(torch.cat([metric(x[n, None], y[n, None]) for n in range(3)]), scores)

    for name, image in (("x", x), ("y", y)):
        Image.fromarray((255 * image[0]).round().to(torch.uint8).permute(1, 2, 0).numpy()).save(
            tmp_path / f"{name}.png"
        )
    files = [str(tmp_path / f"{name}.png") for name in "xy"]
    # older versions of pyiqa themselves take nothing but two files, or two tensors
    others = [] if VERSION < (0, 1, 16) else [[Image.open(file) for file in files], [files[0], y[:1]]]
    for pair in (files, *others):
        torch.testing.assert_close(metric(*pair), scores[:1], rtol=1e-5, atol=0)


@pytest.mark.filterwarnings("ignore:.*scored as it is.*:UserWarning")
@pytest.mark.parametrize("inputs", [torch.rand, torch.randn])
def test_every_name_is_a_loss(named: Callable[..., Any], inputs: Callable[..., Tensor]) -> None:
    x, y = inputs(2, 2, 3, 64, 64)
    x = x.clone().requires_grad_()
    loss = named(as_loss=True)
    value = loss(x, y)
    assert value.shape == ()
    value.backward()
    assert x.grad.isfinite().all()
    assert all(image.any() for image in x.grad)
    with torch.no_grad():
        assert loss(x - 0.02 * x.grad / x.grad.abs().amax(), y) < value


def test_scores_are_the_modules() -> None:
    x, y = reference.noise()
    metric = create("damlpips")
    assert metric.lower_better
    scores = metric(x, y)
    assert scores.shape == (2, 1)
    torch.testing.assert_close(scores[:, 0], DAMLPIPS()(x, y), rtol=0, atol=0)
    assert not scores.requires_grad
    torch.testing.assert_close(metric(x[:1], y[:1]), scores[:1])


def test_grey_images_are_repeated() -> None:
    x, y = (t[:, :1] for t in reference.noise())
    torch.testing.assert_close(create("damlpips")(x, y)[:, 0], DAMLPIPS(grey="repeat")(x, y), rtol=0, atol=0)


def test_range_is_pyiqas_to_check() -> None:
    x, y = reference.noise()
    with pytest.raises(AssertionError, match="normalized to"):
        create("damlpips")(x * 2, y)
    loss = create("damlpips", as_loss=True)
    with pytest.warns(UserWarning, match="expected values in .*scored as it is"):
        assert torch.isfinite(loss(x * 2 - 0.5, y))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"reduction": "mean"}, "reduction: pyiqa reduces a loss by itself: use as_loss=True, loss_reduction='mean'"),
        ({"video": True}, "video: pyiqa passes on images alone"),
        ({"rhoo": 0.5}, "unexpected keyword argument 'rhoo': did you mean 'rho'?"),
    ],
)
def test_options_that_cannot_work_are_refused_at_creation(options: dict, said: str) -> None:
    with pytest.raises(TypeError, match=re.escape(said)):
        create("damlpips", **options)


OPTIONS = {
    "resize": {"resize": 40},
    "reference size": {"resize": "reference"},
    "deterministic": {"deterministic": True},
    "half": {"dtype": torch.bfloat16},
    "tile": {"tile": 64, "viewing_side": None},
    "view": {"viewing_side": 40},
    "values": {"check_values": True},
    "colours alone": {"grey": None},
    "no cache": {"reference_cache": 0},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_options_that_are_accepted_work(options: dict) -> None:
    x, y = reference.noise(2, 72, 80)
    torch.testing.assert_close(create("damlpips", **options)(x, y)[:, 0], DAMLPIPS(**options)(x, y), rtol=0, atol=0)
    assert create("damlpips", as_loss=True, **options)(x, y).shape == ()


def test_one_reference_for_several_images_says_what_pyiqa_can_do() -> None:
    x, y = reference.noise(4)
    metric = create("damlpips")
    with pytest.raises(ValueError, match=r"got 1 and 4: one reference for all is ref.expand\(4, -1, -1, -1\)"):
        metric(x, y[:1])
    assert metric(x, y[:1].expand(4, -1, -1, -1)).shape == (4, 1)


IMPORTS = {
    "damlpips first": "import damlpips, pyiqa",
    "pyiqa first": "import pyiqa, damlpips",
    "a part of pyiqa": "import damlpips; from pyiqa.api_helpers import create_metric; import pyiqa",
    "pyiqa asked for before": "import damlpips, importlib.util; importlib.util.find_spec('pyiqa'); import pyiqa",
    "registered by hand, too": "import damlpips; damlpips.register('pyiqa'); import pyiqa",
    "the adapter first": "import damlpips.adapters.pyiqa, pyiqa",
}


@pytest.mark.parametrize("imports", IMPORTS.values(), ids=IMPORTS)
def test_importing_both_is_enough(imports: str) -> None:
    code = (
        "import warnings; warnings.filterwarnings('error', 'damlpips')\n"
        f"{imports}; import torch; print('damlpips-vgg' in pyiqa.list_models('FR'));"
        "x = torch.rand(1, 3, 64, 64); print(float(pyiqa.create_metric('damlpips', device=torch.device('cpu'))(x, x)))"
    )
    assert python(code).split()[:2] == ["True", "0.0"]


@pytest.mark.skipif(VERSION < (0, 1, 16), reason="pyiqa reads plugins from 0.1.16 on")
def test_a_plugin_of_pyiqa_loads_no_network() -> None:
    code = (
        "import sys, pyiqa; from pyiqa.utils.registry import ARCH_REGISTRY;"
        "print('damlpips' in pyiqa.list_models(), 'DamlpipsNet' in ARCH_REGISTRY, 'damlpips' in pyiqa.list_models(),"
        " any(name in sys.modules for name in ('damlpips.models.base', 'damlpips.adapters.pyiqa_networks')))"
    )
    assert python(code).split() == ["False", "True", "True", "False"]


def test_a_name_that_is_taken_does_not_break_an_import() -> None:
    code = (
        "from pyiqa.default_model_configs import DEFAULT_CONFIGS; DEFAULT_CONFIGS['damlpips'] = {'metric_opts': {}}\n"
        "import warnings\n"
        "with warnings.catch_warnings(record=True) as told: warnings.simplefilter('always'); import damlpips\n"
        "print(damlpips.__name__, *(w.message for w in told if w.category is RuntimeWarning))"
    )
    said = "damlpips could not be registered with pyiqa: pyiqa knows a metric 'damlpips' already"
    assert f"damlpips {said}" in python(code)


@pytest.mark.parametrize("identical", [False, True])
def test_as_loss_gives_finite_gradients(identical: bool) -> None:
    x, y = reference.noise()
    x = (y.clone() if identical else x).requires_grad_()
    loss = create("damlpips", as_loss=True)(x, y)
    assert loss.shape == ()
    loss.backward()
    assert torch.isfinite(x.grad).all()
    assert (x.grad.abs().sum() > 0) != identical


def test_loss_weight_and_reduction() -> None:
    x, y = reference.noise()
    scores = DAMLPIPS()(x, y)
    weight = torch.tensor([[1.0], [3.0]])
    loss = create("damlpips", as_loss=True, loss_weight=weight, loss_reduction="sum")(x, y)
    torch.testing.assert_close(loss, (scores * weight[:, 0]).sum())
    torch.testing.assert_close(create("damlpips", as_loss=True, loss_reduction="none")(x, y)[:, 0], scores)


@pytest.mark.cuda
def test_images_follow_the_metric_between_devices() -> None:
    x, y = reference.noise()
    metric = pyiqa.create_metric("damlpips", device=torch.device("cuda"))
    on_cuda = metric(x, y)
    assert on_cuda.device.type == "cuda"
    # convolutions sum in another order on another device
    torch.testing.assert_close(metric.to("cpu")(x, y).cpu(), on_cuda.cpu(), rtol=1e-4, atol=1e-6)


def test_a_name_taken_by_another_is_not_overwritten(monkeypatch) -> None:
    configs = pyiqa.default_model_configs.DEFAULT_CONFIGS
    monkeypatch.setitem(configs, "damlpips", {"metric_opts": {"type": "Another"}})
    with pytest.raises(RuntimeError, match="knows a metric 'damlpips' already"):
        damlpips.register("pyiqa")
    assert configs["damlpips"]["metric_opts"]["type"] == "Another"
