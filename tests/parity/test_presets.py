"""Presets are what the code that they are named after computes: by its formula, and by itself where it is installed."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.bench.peers import torchvision_gives
from damlpips import LPIPS, LPIPSMetric, from_description
from damlpips.models.presets import PRESETS
from damlpips.nets.table import BACKBONES
from damlpips.nets.weights import load_heads
from tests.support import reference

# float32: the scaling of the images is one product and one sum here, a difference and a quotient there, or two of each
SCORE = {"rtol": 1e-5, "atol": 1e-8}

FILES = {
    ("alex", "real"): "alex_weights",
    ("alex", "random"): "random_alex_weights",
    ("vgg", "random"): "random_vgg_weights",
}
CASES = [
    pytest.param(name, kind, marks=[pytest.mark.shared] * (kind == "real"), id=f"{name}-{kind}")
    for name, preset in PRESETS.items()
    for backbone, kind in FILES
    if backbone == preset.backbone
]


def noise(backbone: str) -> tuple[Tensor, Tensor]:
    side = 32 if backbone == "vgg" else 64  # vgg is the slowest by far
    return reference.noise(2, side, side)


def features(backbone: str, file: Path) -> nn.Sequential:
    state = {key.removeprefix("features."): value for key, value in load_file(file).items()}
    return reference.loaded_features(reference.TORCHVISION[backbone], state)


def heads(backbone: str) -> list[Tensor]:
    return [head.reshape(1, -1, 1, 1) for head in load_heads("v0.1", backbone, BACKBONES[backbone].channels)]


class Published:
    """LPIPS 0.1 as all of them have it: scaled by constants for [-1, 1], unit features, heads, mean over places."""

    def __init__(self, backbone: str, network: nn.Sequential) -> None:
        self.network, self.heads = network, heads(backbone)
        self.taps = [int(tap) for tap in BACKBONES[backbone].taps]

    def unit(self, x: Tensor) -> list[Tensor]:
        shift, scale = (torch.tensor(v).reshape(3, 1, 1) for v in ([-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]))
        x, maps = (x - shift) / scale, []
        for number, layer in enumerate(self.network):
            x = layer(x)
            if number in self.taps:
                maps.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return maps

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        pairs = zip(self.unit(x.clone()), self.unit(y.clone()), self.heads, strict=True)
        return sum((w * (a - b) ** 2).sum(1).mean((1, 2)) for a, b, w in pairs)


def as_it_is(lpips: Published, x: Tensor, y: Tensor) -> Tensor:
    return lpips(x, y)


def doubled(lpips: Published, x: Tensor, y: Tensor) -> Tensor:
    """Images in [0, 1] are brought to [-1, 1] first."""
    return lpips(2 * x - 1, 2 * y - 1)


def normalised(lpips: Published, x: Tensor, y: Tensor) -> Tensor:
    """BasicSR: torchvision's `normalize` with mean and std 0.5."""
    return lpips((x - 0.5) / 0.5, (y - 0.5) / 0.5)


def imagenet(lpips: Published, x: Tensor, y: Tensor) -> Tensor:
    """piq: images in [0, 1] less ImageNet's mean, by its std: twice that, less 1, in the terms above."""
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    scale, shift = torch.tensor([0.458, 0.448, 0.450]), torch.tensor([-0.030, -0.088, -0.188])
    x, y = (((v - mean) / std) * scale.reshape(3, 1, 1) + shift.reshape(3, 1, 1) for v in (x, y))
    return lpips(x, y)


FORMULAS = {
    "lpips": as_it_is,
    "lpips-vgg": as_it_is,
    "torchmetrics": as_it_is,
    "pyiqa": doubled,
    "pyiqa-vgg": doubled,
    "piq": imagenet,
    "basicsr": normalised,
    "3dgs": as_it_is,  # of images in [0, 1]
    "gsplat": doubled,
    "gsplat-vgg": as_it_is,
    "nerfstudio": doubled,
    "nerfstudio-2022": as_it_is,
    "taming": as_it_is,
    "cogvideox": as_it_is,
}


def ours(name: str, file: Path, **options: Any) -> LPIPS:
    return LPIPS.preset(name, weights=file, **options)


def in_range_of(name: str, images: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    low, high = PRESETS[name].value_range
    return tuple(low + (high - low) * image for image in images)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_it_is_the_formula_of_its_code(name: str, kind: str, request: pytest.FixtureRequest) -> None:
    backbone = PRESETS[name].backbone
    file = request.getfixturevalue(FILES[backbone, kind])
    x, y = in_range_of(name, noise(backbone))
    lpips = Published(backbone, features(backbone, file))
    with torch.no_grad():
        torch.testing.assert_close(ours(name, file, check_values=True)(x, y), FORMULAS[name](lpips, x, y), **SCORE)


def of_lpips(net: str) -> Callable[[Tensor, Tensor], Tensor]:
    import lpips

    return lpips.LPIPS(net=net, verbose=False)


def of_torchmetrics(net: str = "alex", **options: bool) -> Callable[[Tensor, Tensor], Tensor]:
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    metric = LearnedPerceptualImagePatchSimilarity(net_type=net, **options)
    # one image at a time: an old torchmetrics gives no scores of single images
    return lambda x, y: torch.stack([metric(a[None], b[None]) for a, b in zip(x, y, strict=True)])


def of_pyiqa(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    import pyiqa

    return pyiqa.create_metric(name, device=torch.device("cpu"))


def of_piq() -> Callable[[Tensor, Tensor], Tensor]:
    import piq

    return piq.LPIPS(reduction="none")


def of_basicsr() -> Callable[[Tensor, Tensor], Tensor]:
    from torchvision.transforms.functional import normalize

    metric = of_lpips("vgg")
    return lambda x, y: metric(*(normalize(v, [0.5] * 3, [0.5] * 3) for v in (x, y)))


# what the code calls, as it calls it
CALLS: dict[str, Callable[[], Callable[[Tensor, Tensor], Tensor]]] = {
    "lpips": lambda: of_lpips("alex"),
    "lpips-vgg": lambda: of_lpips("vgg"),
    "torchmetrics": of_torchmetrics,
    "pyiqa": lambda: of_pyiqa("lpips"),
    "pyiqa-vgg": lambda: of_pyiqa("lpips-vgg"),
    "piq": of_piq,
    "basicsr": of_basicsr,
    "gsplat": lambda: of_torchmetrics("alex", normalize=True),
    "gsplat-vgg": lambda: of_torchmetrics("vgg", normalize=False),
    "nerfstudio": lambda: of_torchmetrics(normalize=True),
    "nerfstudio-2022": of_torchmetrics,
}


@pytest.fixture
def installed(request: pytest.FixtureRequest) -> Iterator[Callable[[str, str], Path]]:
    """Return a function that lets the installed packages have given weights instead of a download."""
    with contextlib.ExitStack() as stack:

        def give(backbone: str, kind: str) -> Path:
            file = request.getfixturevalue(FILES[backbone, kind])
            network = features(backbone, file)

            def into(module: Any, *_: Any) -> None:
                with torch.no_grad():
                    for layer, head in zip(module.lins, heads(module.pnet_type), strict=True):
                        layer.model[-1].weight.copy_(head)

            for instead in (
                torchvision_gives(network),
                mock.patch("pyiqa.archs.lpips_arch.load_pretrained_network", into),
                mock.patch("piq.perceptual.vgg16", return_value=mock.Mock(features=network)),
                mock.patch("torch.hub.load_state_dict_from_url", return_value=heads("vgg")),
            ):
                stack.enter_context(instead)
            return file

        yield give


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("name", "kind"), [case for case in CASES if case.values[0] in CALLS])
def test_it_is_what_the_installed_package_returns(name: str, kind: str, installed: Callable[[str, str], Path]) -> None:
    backbone = PRESETS[name].backbone
    file = installed(backbone, kind)
    x, y = in_range_of(name, noise(backbone))
    with torch.no_grad():
        torch.testing.assert_close(ours(name, file)(x, y), CALLS[name]()(x, y).flatten(), **SCORE)


@pytest.mark.parametrize("backbone", ["alex", "vgg"])
def test_their_heads_are_those_of_lpips(backbone: str) -> None:
    """By bytes in torchmetrics, by the digits in a file's name in pyiqa, by a digest in taming and CogVideo."""
    import lpips
    import torchmetrics.functional.image.lpips as of_torchmetrics
    from pyiqa.archs.lpips_arch import default_model_urls

    content = (Path(lpips.__file__).parent / f"weights/v0.1/{backbone}.pth").read_bytes()
    assert (Path(of_torchmetrics.__file__).parent / f"lpips_models/{backbone}.pth").read_bytes() == content
    digest = hashlib.sha256(content).hexdigest()
    assert default_model_urls[f"0.1_{backbone}"].endswith(f"LPIPS_v0.1_{backbone}-{digest[:8]}.pth")
    if backbone == "vgg":  # taming/util.py and sat/sgm/modules/autoencoding/lpips/util.py: MD5_MAP
        assert hashlib.md5(content).hexdigest() == "d507d7349b931f0638a25a48a722f98a"


def test_every_preset_has_a_formula() -> None:
    assert set(FORMULAS) == set(PRESETS)


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if preset.fed_as])
def test_a_mistake_is_reproduced_for_bytes_too(name: str, request: pytest.FixtureRequest) -> None:
    backbone = PRESETS[name].backbone
    file = request.getfixturevalue(FILES[backbone, "random"])
    x, y = ((255 * image).round().to(torch.uint8) for image in noise(backbone))
    metric = ours(name, file)
    with torch.no_grad():
        found = metric(x, y)
        torch.testing.assert_close(found, metric(x / 255, y / 255), **SCORE)
        right = LPIPS(backbone, weights=file)(x, y)
    assert ((found - right).abs() > 0.02 * right).all()  # it is no rounding


def test_maps_of_one_range_do_not_stand_in_for_those_of_another(random_alex_weights: Path) -> None:
    wrong, right = ours("nerfstudio-2022", random_alex_weights), ours("nerfstudio", random_alex_weights)
    x, y = noise("alex")
    with pytest.raises(ValueError, match="`fed_as` than this module's"):
        right(x, wrong.encode(y))
    assert torch.equal(wrong(x, wrong.encode(y)), wrong(x, y))


def test_presets_are_cited_and_reduced(random_vgg_weights: Path) -> None:
    metric = ours("3dgs", random_vgg_weights)
    assert "; [0, 1]; fed as -1,1; " in metric.describe()
    assert from_description(metric.describe(), weights=random_vgg_weights).settings == metric.settings
    accumulated = LPIPSMetric.preset("3dgs", weights=random_vgg_weights)
    assert accumulated.describe() == metric.describe()
    x, y = noise("vgg")
    with torch.no_grad():
        torch.testing.assert_close(accumulated(x, y), metric(x, y).mean())


def test_unknown_presets_are_refused() -> None:
    for make in (LPIPS.preset, LPIPSMetric.preset):
        with pytest.raises(ValueError, match=r"unknown preset '4dgs': expected one of 'lpips', .*'3dgs'"):
            make("4dgs")


def test_losses_of_their_code(random_vgg_weights: Path) -> None:
    """taming adds LPIPS to each pixel's L1 and takes the mean of all, which is L1 + 1.0 LPIPS."""
    x, y = in_range_of("taming", noise("vgg"))
    y.requires_grad_()
    lpips = Published("vgg", features("vgg", random_vgg_weights))
    theirs = ((x - y).abs() + 1.0 * lpips(x, y).reshape(-1, 1, 1, 1)).mean()
    mine = nn.functional.l1_loss(x, y) + 1.0 * ours("taming", random_vgg_weights, reduction="mean")(x, y)
    torch.testing.assert_close(mine, theirs, **SCORE)
    (expected,), (found,) = (torch.autograd.grad(loss, y) for loss in (theirs, mine))
    # of the largest entry: where features agree to a few bits, the gradient is what rounding left
    assert (expected - found).abs().max() <= 1e-4 * expected.abs().max()
