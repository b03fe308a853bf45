"""Networks of timm as backbones: built, loaded, and read at layers by number.

timm itself turns tokens into maps, leaves out prefix tokens and brings channels to the front. What sizes of images a
model takes is found by running it on the device "meta", where nothing is computed.
"""

import os
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from damlpips.nets.checkpoints import WeightsError
from damlpips.nets.table import Scaling
from damlpips.nets.weights import existing_file, load_tensors
from damlpips.ops.distance import working

# Of a network whose maps all have one size, as many are read as a convolutional one has stages.
DEPTHS = 4
# A side of the images by which sizes are found, in cells of the coarsest map: the networks that pad nothing need three.
PROBE_CELLS = 4
# Options of models by which they take images of any size; not all models have one, and some need none.
FLEXIBLE: tuple[dict[str, bool], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})

Size = tuple[int, int]


class Sizes(NamedTuple):
    """What sizes of images a network takes.

    Attributes:
        multiple: sides are multiples of it.
        least: the shortest side.
        fixed: the only size that it takes; None: any.
    """

    multiple: int
    least: int
    fixed: Size | None = None

    def nearest(self, size: Size) -> Size:
        """Return the size that is nearest to one and that the network takes.

        Example:
            >>> Sizes(14, 14).nearest((256, 20)), Sizes(1, 32).nearest((256, 45))
            ((252, 14), (256, 45))
        """
        if self.fixed is not None:
            return self.fixed
        height, width = (max(self.least, round(side / self.multiple) * self.multiple) for side in size)
        return height, width


class TimmNetwork(nn.Module):
    """A model of timm from images (N, C, H, W), already scaled, to its maps at some layers."""

    def __init__(self, model: Any, layers: Sequence[int], sizes: Sizes, *, norm: bool) -> None:
        super().__init__()
        self.model, self.layers, self.sizes, self.norm = model, list(layers), sizes, norm

    def forward(self, x: Tensor) -> list[Tensor]:
        size = x.shape[2], x.shape[3]
        taken = size if self.sizes == Sizes(1, self.sizes.least) else self.sizes.nearest(size)
        if taken != size:
            x = F.interpolate(working(x), taken, mode="bilinear", antialias=True).to(x.dtype)
        return _maps(self.model, x, self.layers, norm=self.norm)

    def extra_repr(self) -> str:
        return f"layers={self.layers}, norm={self.norm}, sizes={tuple(self.sizes)}"


def timm_network(
    name: str,
    layers: Sequence[int] | None,
    *,
    pretrained: bool,
    checkpoint_path: str | os.PathLike[str] | None,
    channels: int,
    norm: bool,
    options: dict[str, Any],
) -> tuple[TimmNetwork, Scaling]:
    """Return a model of timm and what it expects of images; the arguments are those of `Backbone.from_timm`."""
    timm = _timm()
    if not isinstance(name, str) or not timm.is_model(name.partition(".")[0]):
        raise ValueError(f"name: expected that of a model of timm (timm.list_models() has them), got {name!r}")
    file = None if checkpoint_path is None else existing_file(checkpoint_path, option="checkpoint_path")

    def create(*, pretrained: bool = False, **more: Any) -> Any:
        return timm.create_model(name, pretrained=pretrained, in_chans=channels, **options, **more).eval()

    blank, chosen, sizes, flexible = _blank(create, layers, channels)
    if file is not None or not pretrained:
        model = create(**flexible)
    else:
        try:
            model = create(pretrained=True, **flexible)
        except Exception as error:  # of the network, the hub's library, the file or the model
            cause = str(error).partition("\n")[0][:300]
            raise WeightsError(
                f"timm could not load pretrained weights of {name!r} ({type(error).__name__}: {cause}): on a machine"
                " without a network pass checkpoint_path=, the model's .safetensors or .pth file, or pretrained=False"
                " for random weights"
            ) from error
    known = set(model.state_dict())
    model.prune_intermediate_layers(chosen, prune_norm=not norm, prune_head=True)
    if file is not None:
        needed = {key: tuple(t.shape) for key, t in model.state_dict().items()}
        model.load_state_dict(load_tensors(file, needed, ignored_prefixes=known - needed.keys()))
    return TimmNetwork(model, chosen, sizes, norm=norm), _scaling(blank.pretrained_cfg, channels)


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise ImportError("networks of timm need timm: pip install 'damlpips[timm]'") from error
    return timm


class _Blank(NamedTuple):
    """A model on the device "meta", and how it takes images."""

    model: Any
    layers: list[int]
    sizes: Sizes
    flexible: dict[str, bool]


def _blank(create: Callable[..., Any], layers: Sequence[int] | None, channels: int) -> _Blank:
    """Return a model without numbers, made with the option by which it takes images of any size, if it has one."""
    blanks = []
    for flexible in FLEXIBLE:
        try:
            with torch.device("meta"):
                model = create(**flexible)
        except TypeError:  # it does not have this option
            continue
        chosen = _chosen(layers, [info["reduction"] for info in model.feature_info])
        blanks.append(_Blank(model, chosen, _sizes(model, chosen, channels), flexible))
        if blanks[-1].sizes.fixed is None:
            break
    return blanks[-1]


def _chosen(layers: Sequence[int] | None, strides: Sequence[int]) -> list[int]:
    """Return the numbers of the layers that are read, from 0."""
    count = len(strides)
    if layers is None:
        if len(set(strides)) > 1 or count <= DEPTHS:
            return list(range(count))
        return [count * (k + 1) // DEPTHS - 1 for k in range(DEPTHS)]
    whole = not isinstance(layers, str) and all(type(k) is int and -count <= k < count for k in layers)
    chosen = [k % count for k in layers] if whole else []
    if not chosen or chosen != sorted(set(chosen)):
        raise ValueError(
            f"layers: expected numbers of this model's layers, from 0 to {count - 1}, from fine to coarse and once"
            f" each, got {layers!r}"
        )
    return chosen


def _sizes(model: Any, layers: Sequence[int], channels: int) -> Sizes:
    """Find what sizes a model on the device "meta" takes."""
    strides = [info["reduction"] for info in model.feature_info]
    stride, native = max(strides), model.pretrained_cfg["input_size"][1:]

    def takes(height: int, width: int) -> bool:
        try:
            maps = _maps(model, torch.zeros(1, channels, height, width, device="meta"), layers)
        except (RuntimeError, AssertionError, ValueError):
            return False
        return all(0 not in m.shape for m in maps)

    side = PROBE_CELLS * stride
    for multiple in sorted({1, *strides}):
        # multiples of it, and of nothing larger: just above and just below one of the stride
        odd = [(side + multiple, side + stride - multiple), (side + stride - multiple, side + 3 * multiple)]
        if all(takes(*size) for size in odd):
            sides = range(multiple, side + 1, multiple)
            return Sizes(multiple, sides[bisect_left(sides, True, key=lambda s: takes(s, s))])
    if not takes(*native):
        raise ValueError(f"this model of timm returns no maps for its own size of image, {native[0]} x {native[1]}")
    return Sizes(1, 1, native)


def _maps(model: Any, x: Tensor, layers: Sequence[int], *, norm: bool = False) -> list[Tensor]:
    maps: list[Tensor] = model.forward_intermediates(x, indices=list(layers), norm=norm, intermediates_only=True)
    return maps


def _scaling(cfg: dict[str, Any], channels: int) -> Scaling:
    """Return a model's normalisation; of other than three channels each has the mean of the colours', as weights do."""
    mean, std = cfg["mean"], cfg["std"]
    if channels == len(mean):
        return Scaling(tuple(mean), tuple(std))
    return Scaling((sum(mean) / len(mean),) * channels, (sum(std) / len(std),) * channels)
