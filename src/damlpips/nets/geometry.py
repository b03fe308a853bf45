"""The geometry of a network, found by watching it process an image, so that no table of strides has to be kept.

Convolutions, poolings and steps that work place by place are known. Any other step may look beyond a tile, and is
refused by name.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from damlpips.nets.backbone import Backbone
from damlpips.nets.table import BACKBONES
from damlpips.ops.tiling import Axis, Step, Tiling, Window

# The least size of the image that a network is watched with. The sides differ, so that rows and columns cannot be
# confused, and are long enough for several places in deep maps: a single one could be mistaken for a constant.
PROBE = (96, 128)

# These functions compute each number from the numbers at the same place of their inputs.
POINTWISE = frozenset(
    {"relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "elu", "elu_", "selu", "celu", "gelu", "silu", "mish"}
    | {"sigmoid", "sigmoid_", "logsigmoid", "tanh", "tanh_", "softplus", "softsign", "hardtanh", "hardtanh_"}
    | {"hardswish", "hardsigmoid", "threshold", "exp", "log", "log1p", "sqrt", "rsqrt", "square", "abs", "neg"}
    | {"add", "add_", "__add__", "__radd__", "__iadd__", "sub", "sub_", "__sub__", "__rsub__", "__isub__", "rsub"}
    | {"mul", "mul_", "__mul__", "__rmul__", "__imul__", "div", "div_", "__truediv__", "__rtruediv__", "__rdiv__"}
    | {"__itruediv__", "__neg__", "reciprocal", "addcmul", "addcdiv", "pow", "__pow__", "clamp", "clamp_", "clip"}
    | {"clamp_min", "clamp_max", "maximum", "minimum", "lerp", "where", "to", "float", "double", "half", "bfloat16"}
    | {"type", "contiguous", "clone", "detach", "requires_grad_"}
)

Windows = tuple[Window, Window]
# The dimensions of a tensor that are its rows and its columns.
Places = tuple[int, int]


class _Call(NamedTuple):
    """The arguments of a step, and the dimensions of rows and columns in those that come from the image."""

    args: Sequence[Any]
    kwargs: dict[str, Any]
    places: Places

    def named(self, *names: str) -> dict[str, Any]:
        """Return the arguments by their names."""
        return {**dict(zip(names, self.args, strict=False)), **self.kwargs}


class _Farther(Exception):
    """A step may depend on more than a window around each place."""


def _convolution(call: _Call) -> Windows:
    given = call.named("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    kernel, padding = given["weight"].shape[2:], given.get("padding", 0)
    strides, dilations = _pair(given.get("stride", 1)), _pair(given.get("dilation", 1))

    def along(axis: int) -> Window:
        reach = dilations[axis] * (kernel[axis] - 1)
        if padding == "same":
            before, after = reach // 2, reach - reach // 2
        else:
            before = after = 0 if padding == "valid" else _pair(padding)[axis]
        return Window(kernel[axis], strides[axis], before, after, dilations[axis])

    return along(0), along(1)


def _pooling(names: Sequence[str], call: _Call) -> Windows:
    given = call.named(*names)
    kernel = _pair(given["kernel_size"])
    stride = _pair(given.get("stride") or kernel)
    padding, dilation = _pair(given.get("padding", 0)), _pair(given.get("dilation", 1))
    ceil = bool(given.get("ceil_mode", False))

    def along(axis: int) -> Window:
        return Window(kernel[axis], stride[axis], padding[axis], padding[axis], dilation[axis], ceil)

    return along(0), along(1)


def _padding(call: _Call) -> Windows:
    given = call.named("input", "pad", "mode", "value")
    pad = [*given["pad"], 0, 0, 0, 0]
    if given.get("mode", "constant") != "constant" or any(given["pad"][4:]):
        raise _Farther  # mirrored and repeated pixels come from farther away
    return Window(before=pad[2], after=pad[3]), Window(before=pad[0], after=pad[1])


def _pair(value: Any) -> tuple[int, int]:
    return (int(value[0]), int(value[-1])) if isinstance(value, (list, tuple)) else (int(value), int(value))


def _joined(call: _Call) -> None:
    given = call.named("tensors", "dim")
    if given.get("dim", 0) % given["tensors"][0].ndim in call.places:
        raise _Farther


def _over_channels(call: _Call) -> None:
    """Check a step over the last dimension, which must be that of channels."""
    shape = call.named("input", "normalized_shape").get("normalized_shape", (0,))
    if call.args[0].ndim - 1 in call.places or (isinstance(shape, (list, tuple)) and len(shape) > 1):
        raise _Farther


def _frozen(call: _Call) -> None:
    """Check a step that works place by place except in training."""
    names = ("input", "running_mean", "running_var", "weight", "bias", "training")
    if call.named(*names).get("training", False):
        raise _Farther


def _nothing(call: _Call) -> None:
    pass


# From the name of a step to a function that returns its windows, or None if it works place by place.
RULES: dict[str, Callable[[_Call], Windows | None]] = {
    "conv2d": _convolution,
    "max_pool2d": partial(_pooling, ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode")),
    "avg_pool2d": partial(_pooling, ("input", "kernel_size", "stride", "padding", "ceil_mode")),
    "pad": _padding,
    "cat": _joined,
    "concat": _joined,
    "linear": _over_channels,
    "layer_norm": _over_channels,
    "batch_norm": _frozen,
    "dropout": _frozen,
    "permute": _nothing,
    **dict.fromkeys(POINTWISE, _nothing),
}
# All tensors among the inputs of these are maps; the inputs of the others are a map and weights.
JOINING = POINTWISE | {"cat", "concat"}


class _Known(NamedTuple):
    """A tensor that comes from the image: the step that made it, and the dimensions of its rows and columns."""

    tensor: Tensor  # kept alive, since another tensor could get the id of one that was freed
    step: int
    places: Places


class _Watch(TorchFunctionMode):
    """Follow an image through a network, and record the windows of each step, down and across."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.rows, self.columns = [Step(())], [Step(())]
        self.known = {id(image): _Known(image, 0, (2, 3))}

    def __torch_function__(
        self, func: Callable, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [value for value in _flat((args, kwargs.values())) if isinstance(value, Tensor)]
        sources = [self.known[id(t)] for t in tensors if id(t) in self.known]
        # before the step, which may change its input in place
        constants = [tuple(t.shape) for t in tensors if id(t) not in self.known]
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", str(func))
        # a step that returns only sizes, types or devices makes no map
        if sources and (name == "__setitem__" or any(isinstance(value, Tensor) for value in _flat((result,)))):
            try:
                self._record(name, _Call(args, kwargs, sources[0].places), sources, constants, result)
            except _Farther:
                raise ValueError(
                    f"its step {name!r} is not known to see only a window around each place, as convolutions and"
                    " poolings do"
                ) from None
        return result

    def _record(
        self, name: str, call: _Call, sources: list[_Known], constants: list[tuple[int, ...]], result: Any
    ) -> None:
        steps = tuple(dict.fromkeys(source.step for source in sources))
        rule = RULES.get(name)
        if rule is None or not isinstance(result, Tensor) or {source.places for source in sources} != {call.places}:
            raise _Farther
        windows = rule(call)
        places = call.places
        if windows is not None and (places != (2, 3) or len(sources) > 1):  # the kernel, too, comes from the image
            raise _Farther
        if name in JOINING and any(_has_places(shape, places, result.ndim) for shape in constants):
            raise _Farther  # a constant that differs between places
        if name == "permute":
            order = [dim % result.ndim for dim in _flat((call.args[1:], call.kwargs.values()))]
            places = (order.index(places[0]), order.index(places[1]))
        down, across = windows if windows is not None else (None, None)
        self.rows.append(Step(steps, down))
        self.columns.append(Step(steps, across))
        self.known[id(result)] = _Known(result, len(self.rows) - 1, places)


def _flat(values: Any) -> Iterator[Any]:
    """Yield the values, and those inside of lists, tuples and dicts' values."""
    for value in values:
        if isinstance(value, (list, tuple, type({}.values()))):
            yield from _flat(value)
        else:
            yield value


def _has_places(shape: tuple[int, ...], places: Places, ndim: int) -> bool:
    """Return whether a tensor, broadcast to `ndim` dimensions, has more than one row or column."""
    padded = (1,) * (ndim - len(shape)) + shape
    return any(padded[dim] != 1 for dim in places)


def geometry(backbone: Backbone) -> tuple[Axis, Axis]:
    """Return which pixels the feature maps of a backbone depend on, down and across.

    Raises:
        ValueError: it has a step that is not known to be local, combines maps of different strides, or returns a map
            that was computed outside of torch.
    """
    height, width = (max(backbone.min_size, side) for side in PROBE)
    image = torch.zeros(1, backbone.channels, height, width, device=backbone.device)
    watch = _Watch(image)
    try:
        with torch.no_grad(), watch:
            maps = backbone(image)
        found = [watch.known.get(id(m)) for m in maps]
        if not all(known is not None and known.places == (2, 3) for known in found):
            raise ValueError("how its feature maps come from the image could not be followed")
        steps = tuple(known.step for known in found if known is not None)
        axes = Axis(tuple(watch.rows), steps), Axis(tuple(watch.columns), steps)
        sizes = list(zip(axes[0].sizes(height), axes[1].sizes(width), strict=True))
        if sizes != [tuple(m.shape[2:]) for m in maps]:
            raise ValueError(f"its maps' sizes are not those that its steps give, {sizes}")
    except ValueError as error:
        raise ValueError(
            f"tile: backbone {backbone.name!r} cannot be run tile by tile: {error}; a tile that does not hold all that"
            " a place sees would score otherwise than the whole image"
        ) from error
    return axes


@lru_cache(maxsize=32)
def named_geometry(name: str) -> tuple[Axis, Axis]:
    """Return the geometry of a backbone of the table, for which its weights are not needed."""
    # Each tensor is one zero, expanded. With the device "meta", torch would first import what takes 1 s and 150 MB.
    state = {
        key: torch.zeros((), dtype=torch.float32, device="cpu").expand(shape)
        for key, shape in BACKBONES[name].expected_keys().items()
    }
    return geometry(Backbone.from_table(name, state))


def tiling_of(backbone: str | Backbone, tile: int, *, least: int, reach: int = 0) -> Tiling:
    """Return how images are cut for a backbone, given by name or as an object.

    Args:
        tile: about how long a side of a tile is in pixels, without its halo.
        least: the fewest pixels on each side that the network accepts.
        reach: of a map of the image itself that is compared, too: each of its places sees so many pixels on either
            side. It is the last map of the tiling; 0: there is none.

    Raises:
        ValueError: the tile is smaller than its halo would be; or as `geometry`.
    """
    rows, columns = named_geometry(backbone) if isinstance(backbone, str) else geometry(backbone)
    if reach:
        rows, columns = (axis.with_image(reach) for axis in (rows, columns))
    needed = max(1, *(max(axis.halo, axis.alignment) for axis in (rows, columns)), least)
    if tile < needed:
        name = backbone if isinstance(backbone, str) else backbone.name
        raise ValueError(
            f"tile: expected None or at least {needed} pixels, as many as a place of backbone {name!r} may see beyond"
            f" its tile or as the network needs, got {tile}: smaller tiles would be little but halo"
        )
    return Tiling(rows, columns, tile, least)
