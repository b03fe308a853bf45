"""What results are compared with: the original LPIPS, torchvision's networks, DAMLPIPS in loops; a tiny metric."""

import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from damlpips import LPIPS, Backbone
from damlpips.nets.geometry import named_geometry
from damlpips.nets.nano import Nano
from damlpips.nets.table import BACKBONES

# the backbones that are torchvision's networks, with its names for them
TORCHVISION = {name: spec.model for name, spec in BACKBONES.items() if spec.model is not None}

# what LPIPS can compare
COMPARISONS = ("spatial", "mean", "sort", "spatial+mean", "spatial+sort")
SUMS = ("spatial+mean", "spatial+sort")
PLACELESS = ("mean", "sort")
VARIANTS = [*itertools.product(COMPARISONS, (True, False))]


def is_tiled(backbone: str) -> bool:
    """Return whether a backbone of the table can be run tile by tile."""
    try:
        named_geometry(backbone)
    except ValueError:
        return False
    return True


def read_image(file: Path) -> Tensor:
    """Return an image file as (1, 3, H, W) in [0, 1]."""
    from PIL import Image

    with Image.open(file) as image:
        return torch.from_numpy(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1)[None].float() / 255


def noise(n: int = 2, height: int = 64, width: int = 64, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return a batch of independent noise in [0, 1] and the same distorted."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 3, height, width, generator=generator)
    return x, (x + 0.3 * torch.randn(x.shape, generator=generator)).clamp(0, 1)


def features(model: str) -> nn.Module:
    """Return torchvision's `model` without its classifier, on the meta device: no memory, no time."""
    from torchvision import models

    with torch.device("meta"):
        network = models.get_model(model, weights=None)
    if hasattr(network, "features"):
        return network.features
    # a ResNet has no `features`: everything but its last two children is convolutional
    network.avgpool = network.fc = nn.Identity()
    return network


def random_state(model: str, seed: int = 0) -> dict[str, Tensor]:
    """Return random weights of the features of torchvision's `model`, through which activations keep their size.

    He et al., "Delving deep into rectifiers", arXiv 1502.01852: variance 2 / fan-in.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(name: str, like: Tensor) -> Tensor:
        values = torch.randn(like.shape, generator=generator)
        if not like.is_floating_point():
            return torch.zeros(like.shape, dtype=like.dtype)
        if name.endswith("running_var"):
            return 1 + 0.5 * values.tanh()
        if like.ndim in (2, 4):
            return values * math.sqrt(2 / like[0].numel())
        if name.endswith("weight"):  # of a normalisation
            return 1 + 0.1 * values
        return 0.1 * values

    return {name: draw(name, tensor) for name, tensor in features(model).state_dict().items()}


def nano_state(seed: int = 0) -> dict[str, Tensor]:
    """Return random weights of the embedded backbone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Nano().state_dict()


def loaded_features(model: str, state: Mapping[str, Tensor]) -> nn.Module:
    """Return torchvision's features with `state`, in eval mode."""
    network = features(model)
    network.load_state_dict(state, assign=True)
    return network.eval().requires_grad_(False)


@cache
def _original(net: str, version: str) -> Any:
    import lpips

    # The random numbers of the trunk and its classifier are overwritten or never used: left out, they cost no time.
    skipped = dict.fromkeys(("normal_", "kaiming_uniform_", "kaiming_normal_"), mock.DEFAULT)
    with warnings.catch_warnings(), mock.patch.multiple(nn.init, **skipped):
        warnings.simplefilter("ignore", UserWarning)  # it uses an option of torchvision's that has a new name
        return lpips.LPIPS(net=net, version=version, pnet_rand=True, verbose=False)


def lpips_reference(
    net: str,
    state: Mapping[str, Tensor],
    *,
    version: str = "0.1",
    heads: bool = True,
    spatial: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Any:
    """Return the original `lpips.LPIPS` with the backbone weights of `state` (`features.*`) in its slices.

    The instance is kept, and set up anew by every call.
    """
    reference = _original(net, version).float()
    left = {name.removeprefix("features."): tensor for name, tensor in state.items()}
    for part in reference.net.children():
        # a slice names its layers by their index in torchvision's features
        part.load_state_dict({name: left.pop(name) for name in part.state_dict()}, strict=True)
    assert not left, f"not in the original: {sorted(left)}"
    reference.spatial = spatial
    reference.lpips = heads
    reference = reference.to(dtype)
    # Decimal numbers kept in float32: in float64 they have to be written again, or they agree to 1e-8 only.
    reference.scaling_layer.shift = torch.tensor([-0.030, -0.088, -0.188], dtype=dtype)[None, :, None, None]
    reference.scaling_layer.scale = torch.tensor([0.458, 0.448, 0.450], dtype=dtype)[None, :, None, None]
    return reference


def damlpips_layers(
    pixels: Sequence[Tensor],
    x: Sequence[Tensor],
    y: Sequence[Tensor],
    *,
    rho: float = 0.25,
    gamma: float = 0.5,
    eps: float = 1e-10,
) -> np.ndarray:
    """Return DAMLPIPS's (N, 1 + L), in float64 and one place and channel at a time.

    Args:
        pixels: the two batches as the network saw them, in [0, 1].
        x, y: their feature maps.

    e_p = (|a_p|^2 + |b_p|^2) / 2,  E = mean_p e_p,  E_c = mean_p (a_cp^2 + b_cp^2) / 2
    s_p = rho e_p + (1 - rho) E + eps,  g_c = (mean_c E_c / (E_c + 0.001 mean_c E_c))^gamma
    S = (mean_p [ sum_c g_c (a_cp - b_cp)^2 / s_p ]^2)^(1/2)
    T = sum_c g_c [ (mean a_c - mean b_c)^2 + (std a_c - std b_c)^2 ] / (E + eps)
    contribution w (0.8 u(S) + 0.2 u(T)), u(d) = log(1 + 20 d) / log 21, w = 1/2 for the image, 1/2L for a layer;
    for the image s = 0.04 and g = 1, a and b in Oklab without three quarters of their means.
    """
    scores = np.zeros((len(x[0]), 1 + len(x)))
    for n in range(len(scores)):
        colours = [_adapted_oklab(p[n].double().flatten(1).numpy()) for p in pixels]
        scores[n, 0] = _contribution(*colours, pool=0.04, gain=[1.0] * 3) / 2
        for layer, maps in enumerate(zip(x, y, strict=True), 1):
            a, b = (m[n].double().flatten(1).numpy() for m in maps)
            channels, places = a.shape
            energy = [sum(a[c, p] ** 2 + b[c, p] ** 2 for c in range(channels)) / 2 for p in range(places)]
            mean_energy = sum(energy) / places
            pool = [rho * e + (1 - rho) * mean_energy + eps for e in energy]
            channel_energy = [float(a[c] @ a[c] + b[c] @ b[c]) / (2 * places) for c in range(channels)]
            mean_channel = sum(channel_energy) / channels
            gain = [((mean_channel + eps) / (e + 0.001 * mean_channel + eps)) ** gamma for e in channel_energy]
            scores[n, layer] = _contribution(a, b, pool=pool, gain=gain) / (2 * len(x))
    return scores


def _contribution(a: np.ndarray, b: np.ndarray, *, pool: float | list[float], gain: list[float]) -> float:
    channels, places = a.shape
    pool = [pool] * places if isinstance(pool, float) else pool
    structure, texture = 0.0, 0.0
    for p in range(places):
        structure += (sum(gain[c] * (a[c, p] - b[c, p]) ** 2 for c in range(channels)) / pool[p]) ** 2
    for c in range(channels):
        spreads = []
        for m in (a[c], b[c]):
            mean, power = sum(m) / places, float(m @ m) / places
            spreads.append(math.sqrt(max(power - mean**2, 0) + 1e-6 * power + 1e-20))
        texture += gain[c] * ((sum(a[c]) / places - sum(b[c]) / places) ** 2 + (spreads[0] - spreads[1]) ** 2)
    texture /= sum(pool) / places
    structure = (structure / places) ** (1 / 2)
    return (0.8 * math.log(1 + 20 * structure) + 0.2 * math.log(1 + 20 * texture)) / math.log(21)


def _adapted_oklab(pixels: np.ndarray) -> np.ndarray:
    """Return (3, P) of sRGB in Oklab, a pixel at a time, less three quarters of the mean."""
    toe = (6 / 29) ** 3
    lab = np.zeros_like(pixels)
    for p, rgb in enumerate(pixels.T):
        r, g, b = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in rgb)
        cones = (
            0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b,
            0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b,
            0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b,
        )
        # CIELAB's line: it meets the root at the toe with the same slope
        long, middle, short = (
            v ** (1 / 3) if v > toe else toe ** (1 / 3) + (v - toe) / (3 * toe ** (2 / 3)) for v in cones
        )
        lab[:, p] = (
            0.2104542553 * long + 0.7936177850 * middle - 0.0040720468 * short,
            1.9779984951 * long - 2.4285922050 * middle + 0.4505937099 * short,
            0.0259040371 * long + 0.7827717662 * middle - 0.8086757660 * short,
        )
    return lab - 0.75 * lab.mean(1, keepdims=True)


class Tiny(nn.Module):
    """A small smooth network: two maps, from images of at least 5 pixels."""

    def __init__(self, channels: int = 4, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first = nn.Conv2d(3, channels, 3)
            self.second = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> list[Tensor]:
        first = torch.nn.functional.softplus(self.first(x))
        return [first, torch.nn.functional.softplus(self.second(first))]


class Loud(nn.Module):
    """Channels of about 1000: a float16 sum over places, or of the squares of a few, would overflow."""

    def __init__(self, channels: int, mean: float, std: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            nn.init.normal_(self.conv.weight, mean=mean, std=std)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.conv(x)]


class Counting(nn.Module):
    """A network that counts the images and the calls that reach it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.seen: list[int] = []

    def __deepcopy__(self, memo):
        return self

    def forward(self, x: Tensor) -> list[Tensor]:
        self.seen.append(len(x))
        first = self.conv(x).relu()
        return [first, first[:, :, ::2, ::2]]


def tiny(**options: object) -> LPIPS:
    return LPIPS(Backbone(Tiny(), min_size=5, name="tiny"), heads="uniform", **options)


def rounded(found: Tensor, expected: Tensor) -> None:
    """Compare what differs only in the order of float32 operations."""
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
