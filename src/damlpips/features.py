"""Images in, feature maps out: the one core module that every score of this package runs through.

`BACKBONES` is the table of the networks that have a name; `Backbone` wraps any network, theirs or a user's.
"""

import copy
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.fx.proxy import TraceError

from damlpips.checks import ValueRange, one_of
from damlpips.nano import Nano


class Scaling(NamedTuple):
    """What a network was trained to expect of images in [0, 1]: (image - mean) / std, channel by channel."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


# torchvision's ImageNet statistics; LPIPS's own 'scaling layer' is the same map written for images in [-1, 1].
IMAGENET = Scaling((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# Images in [-1, 1], as LPIPS v0.0 fed them to networks by mistake; its heads were learned that way.
SYMMETRIC = Scaling((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IDENTITY = Scaling((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


# How many values of images a pass on a CPU takes best: two images of 256 x 256 pixels. With more the maps of a pass are
# more than its caches hold, and more than the C library hands out again without the system's help.
PASS_VALUES = 2 * 3 * 256 * 256


class _Steps(nn.Module):
    """Run a sequence of named modules up to the last tap and collect the maps at the taps."""

    def __init__(self, sequence: nn.Sequential, taps: Sequence[str]) -> None:
        super().__init__()
        self.sequence = sequence
        self.taps = frozenset(taps)
        self.last = list(dict(sequence.named_children())).index(taps[-1])

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for k, (name, module) in enumerate(self.sequence.named_children()):
            x = module(x)
            if name in self.taps:
                maps.append(x)
            if k == self.last:
                break
        return maps

    def extra_repr(self) -> str:
        return f"taps={sorted(self.taps)}"


class _Graph(nn.Module):
    """Collect the maps at any named nodes of a network, through torchvision's graph extractor."""

    def __init__(self, network: nn.Module, taps: Sequence[str]) -> None:
        super().__init__()
        from torchvision.models.feature_extraction import create_feature_extractor

        self.graph = create_feature_extractor(network, return_nodes=list(taps))
        self.taps = tuple(taps)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = self.graph(x)
        return [maps[tap] for tap in self.taps]

    def extra_repr(self) -> str:
        return f"taps={list(self.taps)}"


def _tapped(network: nn.Module, taps: Sequence[str]) -> nn.Module:
    """Return a module that maps a scaled image to the network's maps at `taps`."""
    children = list(dict(network.named_children()))
    if isinstance(network, nn.Sequential) and set(taps) <= set(children):
        if [c for c in children if c in taps] != list(taps):
            raise ValueError(f"taps: expected names in the order of the network and once each, got {list(taps)}")
        return _Steps(network, taps)
    try:
        return _Graph(network, taps)
    except Exception as error:  # symbolic tracing fails in many ways
        if isinstance(error, ValueError) and not isinstance(error, TraceError):
            raise ValueError(f"taps: {list(taps)} not found in {type(network).__name__}: {error}") from error
        raise ValueError(
            f"taps: {type(network).__name__} cannot be traced ({type(error).__name__}: {error}); wrap it in a module"
            " whose forward returns the list of feature maps, and leave taps out"
        ) from error


class Backbone(nn.Module):
    """A frozen network that turns images into feature maps at several layers.

    phi_1(x), ..., phi_L(x) = taps(network((x - mean) / std)), x scaled to [0, 1] first.

    The network is copied, frozen and set to eval for good: training the original, calling `.train()` on a module that
    holds the backbone, or `requires_grad_()` changes no score. Gradients flow to the images only.

    Args:
        network: a module from images (N, 3, H, W) to feature maps. With `taps` it may be any network whose named
            modules (`nn.Sequential`) or traced nodes (torchvision's `get_graph_node_names` lists them) are to be read;
            without, its `forward` must return the feature maps (N, C_l, H_l, W_l) itself, as a list, a tuple or a dict.
        taps: names of the layers to read, from fine to coarse.
        mean, std: what the network expects of images in [0, 1]; ImageNet's by default.
        preprocess: instead of `mean` and `std`, a function of images in [0, 1], differentiable.
        min_size: the least number of pixels of a side.
        name: what errors call it.

    Raises:
        TypeError: `network` is not a module.
        ValueError: `taps` are not in the network, or out of order.

    Example:
        >>> import torch
        >>> from damlpips import Backbone, DAMLPIPS
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3, 2))
        >>> metric = DAMLPIPS(Backbone(network, taps=["1", "2"], min_size=5))
        >>> metric(torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)).shape
        torch.Size([2])
    """

    preprocess: Callable[[Tensor], Tensor] | None
    pass_values = PASS_VALUES

    def __init__(
        self,
        network: nn.Module,
        taps: Sequence[str] | None = None,
        *,
        mean: Sequence[float] = IMAGENET.mean,
        std: Sequence[float] = IMAGENET.std,
        preprocess: Callable[[Tensor], Tensor] | None = None,
        min_size: int = 1,
        name: str = "custom",
    ) -> None:
        super().__init__()
        if not isinstance(network, nn.Module):
            raise TypeError(f"network: expected a torch.nn.Module, got {type(network).__name__}")
        if isinstance(taps, str) or (taps is not None and len(taps) == 0):
            raise ValueError(f"taps: expected a list of layer names, got {taps!r}")
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ValueError(f"mean, std: expected three numbers each, std positive, got {mean!r} and {std!r}")
        network = copy.deepcopy(network).eval()
        for module in network.modules():
            # an in-place activation behind a tap would overwrite the map that was read there
            if getattr(module, "inplace", False):
                module.inplace = False  # type: ignore[assignment]
        self._set_up(
            network if taps is None else _tapped(network, taps),
            Scaling((mean[0], mean[1], mean[2]), (std[0], std[1], std[2])),
            min_size,
            name,
        )
        if isinstance(preprocess, nn.Module):
            preprocess = copy.deepcopy(preprocess).eval().requires_grad_(False)
        self.preprocess = preprocess

    def _set_up(
        self, network: nn.Module, scaling: Scaling, min_size: int, name: str, home: Tensor | None = None
    ) -> None:
        self.training = False
        self.network = network.eval().requires_grad_(False)
        self._home: Tensor = torch.empty(0) if home is None else home  # where a network without any tensor runs
        self.scaling = scaling
        self.min_size = min_size
        self.name = name
        self.preprocess = None
        self._replicas: dict[tuple[torch.device, torch.dtype], Backbone] = {}
        self._place_constants()

    def _place_constants(self) -> None:
        """Put the scaling's numbers on the device once: made in `forward`, they would stall a CUDA stream."""
        self._dtype = self.dtype  # looked for once, not in every pass
        layout: torch.memory_format = getattr(self.network, "memory_format", torch.preserve_format)
        # in float32 and above CUDA's kernels are made for the other one
        on_cuda = self.device.type == "cuda" and self._dtype in (torch.float32, torch.float64)
        self._memory_format = torch.preserve_format if on_cuda else layout
        # kernels then have nothing to bring into order in each call
        self.network.to(memory_format=torch.contiguous_format if on_cuda else layout)
        # the scaling is done in float32 at least: in half precision it would round neighbouring pixel values together
        self._exact = torch.float64 if self._dtype == torch.float64 else torch.float32
        self._constants = {
            scaling: tuple(
                torch.tensor(values, dtype=self._exact, device=self.device).reshape(3, 1, 1) for values in scaling
            )
            for scaling in {self.scaling, SYMMETRIC}
        }

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Backbone":
        super()._apply(fn, recurse)
        self._home = fn(self._home)
        self._place_constants()
        return self

    @classmethod
    def from_table(cls, name: str, state: dict[str, Tensor]) -> "Backbone":
        """Build the backbone `name` of the table with the weights `state`."""
        spec = BACKBONES[one_of("backbone", name, BACKBONES)]
        backbone = cls.__new__(cls)
        nn.Module.__init__(backbone)
        with torch.device("meta"):
            network = spec.build()
        network.load_state_dict({k.removeprefix(spec.prefix): v for k, v in state.items()}, assign=True)
        if spec.taps:
            network = _Steps(cast(nn.Sequential, network), spec.taps)
        network.memory_format = spec.memory_format  # type: ignore[assignment]
        backbone._set_up(network, spec.scaling, spec.min_size, name)
        return backbone

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return next(self._tensors(), self._home).device

    @property
    def dtype(self) -> torch.dtype:
        """The floating type that the network runs in."""
        return next((t.dtype for t in self._tensors() if t.is_floating_point()), self._home.dtype)

    def _tensors(self) -> Iterator[Tensor]:
        yield from self.network.parameters()
        yield from self.network.buffers()

    def replica(self, device: torch.device, dtype: torch.dtype) -> "Backbone":
        """Return this backbone on `device` and in `dtype`: itself where it is there already, else one shared copy."""
        if (self.device, self.dtype) == (device, dtype):
            return self
        if (device, dtype) not in self._replicas:
            twin = Backbone.__new__(Backbone)
            nn.Module.__init__(twin)
            network = copy.deepcopy(self.network).to(device, dtype)
            twin._set_up(network, self.scaling, self.min_size, self.name, torch.empty(0, device=device, dtype=dtype))
            twin.preprocess = copy.deepcopy(self.preprocess)
            if isinstance(twin.preprocess, nn.Module):
                twin.preprocess.to(device, twin._exact)
            self._replicas[device, dtype] = twin
        return self._replicas[device, dtype]

    def fingerprint(self) -> str:
        """Return a digest of the network's structure and weights, the same in every process."""
        digest = hashlib.sha256(repr((self.network, self.scaling, _described(self.preprocess))).encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def train(self, mode: bool = True) -> "Backbone":
        """Stay in eval mode, whatever a parent module asks for."""
        return self

    def requires_grad_(self, requires_grad: bool = True) -> "Backbone":
        """Stay frozen."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "Backbone":
        return self  # frozen: one instance serves every copy of a module

    def forward(
        self,
        images: Shaped[Tensor, "n 3 h w"],
        *,
        value_range: ValueRange = (0.0, 1.0),
        scaling: Scaling | None = None,
    ) -> list[Tensor]:
        """Return the feature maps of a batch of images, from fine to coarse.

        Args:
            images: (N, 3, H, W), floats in `value_range` or uint8 in 0..255.
            scaling: in place of the backbone's own (LPIPS v0.0 needs it).
        """
        low, high = (0.0, 255.0) if images.dtype == torch.uint8 else value_range
        images = images.to(self._exact)
        width = high - low
        if self.preprocess is not None:
            images = self.preprocess((images - low) / width)
        else:
            mean, std = self._constants[self.scaling if scaling is None else scaling]
            # ((x - low) / width - mean) / std in one pass
            factor = 1 / (std * width)
            images = torch.addcmul(-(mean * width + low) * factor, images, factor)
        # to the same name: what came before need not be kept
        images = images.to(self._dtype, memory_format=self._memory_format)
        return self._listed(self.network(images))

    def _listed(self, maps: Any) -> list[Tensor]:
        if isinstance(maps, dict):
            maps = list(maps.values())
        if not isinstance(maps, (list, tuple)) or not maps or any(m.ndim != 4 for m in maps):
            raise TypeError(
                f"backbone {self.name!r}: expected its network to return feature maps (N, C, H, W), got"
                f" {type(maps).__name__}: name the layers to read with taps="
            )
        return list(maps)

    def extra_repr(self) -> str:
        return f"name={self.name!r}, min_size={self.min_size}"


def _described(function: Callable | None) -> str:
    """Return what tells one function from another, the same in every process: a name, code and plain constants."""
    if function is None or isinstance(function, nn.Module):
        return repr(function)
    code = getattr(function, "__code__", None)
    name = f"{function.__module__}.{getattr(function, '__qualname__', type(function).__qualname__)}"
    constants = [c for c in code.co_consts if isinstance(c, (int, float, str, tuple))] if code else []
    return f"{name} {code.co_code.hex() if code else ''} {constants}"


@dataclass(frozen=True, eq=False)
class Encoded:
    """The feature maps of a batch of images, standing in for the images in either place of a comparison.

    Attributes:
        features: one (N, C_l, H_l, W_l) a layer.
        size: height and width of the images, in pixels.
        origin: what made it; only a module with the same backbone, weights and scaling can use it.
        seen: the images as the network saw them (N, 3, h, w), scaled down where they were large; in `value_range`, or
            uint8.
        value_range: of the images where they are floats.
        adapted: whether `seen` holds the images in the adapted colours that DAMLPIPS compares, which it keeps of a
            reference so that they are computed once.
    """

    features: tuple[Tensor, ...]
    size: tuple[int, int]
    origin: Hashable
    seen: Tensor
    value_range: ValueRange
    adapted: bool = False

    def pixels(self, dtype: torch.dtype, part: slice = slice(None)) -> Tensor:
        """Return the images, or some of them, as the network saw them, in [0, 1]."""
        low, high = (0.0, 255.0) if self.seen.dtype == torch.uint8 else self.value_range
        pixels = self.seen[part].to(dtype)
        return pixels if (low, high) == (0, 1) else (pixels - low) / (high - low)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Encoded":
        return replace(self, features=tuple(change(f) for f in self.features), seen=change(self.seen))

    def __len__(self) -> int:
        return self.features[0].shape[0]

    def __getitem__(self, index: slice) -> "Encoded":
        """Return some of the images, by slice."""
        if not isinstance(index, slice):
            raise TypeError(f"Encoded: expected a slice, as in encoded[2:3], got {type(index).__name__}")
        return self._each(lambda t: t[index])

    def take(self, places: Tensor) -> "Encoded":
        """Return the images at `places`, (K,) whole numbers, in this order; an image may be taken more than once."""

        def taken(t: Tensor) -> Tensor:
            if t.is_contiguous():
                return t.index_select(0, places)
            # kept as they lie in memory, channels last: it decides the order of sums, and so their last bits
            return t.permute(0, 2, 3, 1).index_select(0, places).permute(0, 3, 1, 2)

        return self._each(taken)

    @staticmethod
    def joined(parts: "Sequence[Encoded]") -> "Encoded":
        """Return one batch of several, all of one module and one size."""
        first = parts[0]
        if len(parts) == 1:
            return first
        layers = zip(*(part.features for part in parts), strict=True)
        return replace(
            first, features=tuple(torch.cat(layer) for layer in layers), seen=torch.cat([part.seen for part in parts])
        )

    @property
    def nbytes(self) -> int:
        """Bytes that a copy takes: of the feature maps and of the images as the network saw them."""
        return sum(t.numel() * t.element_size() for t in (*self.features, self.seen))

    def expand(self, n: int) -> "Encoded":
        """Return one image standing in for `n` of it, without copying its maps."""
        if len(self) != 1:
            raise ValueError(f"Encoded: only one image can be expanded, got {len(self)}")
        return self._each(lambda t: t.expand(n, -1, -1, -1))

    @property
    def device(self) -> torch.device:
        """The device of the feature maps."""
        return self.features[0].device

    def copy(self) -> "Encoded":
        """Return the same in memory of its own."""
        return self._each(Tensor.clone)

    def detach(self) -> "Encoded":
        """Return the same without the graph."""
        return self._each(Tensor.detach)

    def to(self, device: torch.device | str) -> "Encoded":
        """Return the same on another device."""
        return self._each(lambda t: t.to(device))


@dataclass(frozen=True)
class BackboneSpec:
    """A row of the table.

    Attributes:
        build: makes the network without weights.
        taps: children of the network whose outputs are the feature maps; none where it returns a list of them itself.
        channels: of each map.
        min_size: the least side in pixels for which every map has a place.
        scaling: what the network expects of images in [0, 1].
        prefix: what the keys of the features begin with in a full model's file.
        ignored: prefixes of keys in a full model's file that the features do not need.
        memory_format: of images and maps; on a CPU channels last takes a third to nine tenths of the other's time, most
            of it saved in pooling.
        pass_values: how many values of images a pass on a CPU takes best.
    """

    build: Callable[[], nn.Module]
    taps: tuple[str, ...]
    channels: tuple[int, ...]
    min_size: int
    scaling: Scaling = IMAGENET
    prefix: str = "features."
    ignored: tuple[str, ...] = ("classifier.",)
    memory_format: torch.memory_format = torch.channels_last
    pass_values: int = PASS_VALUES

    def expected_keys(self) -> dict[str, tuple[int, ...]]:
        """Return the name and the shape of every tensor of the network's state dict."""
        with torch.device("meta"):
            return {self.prefix + name: tuple(t.shape) for name, t in self.build().state_dict().items()}


def _torchvision(model: str) -> Callable[[], nn.Module]:
    """Return a builder of the convolutional part of torchvision's `model`."""

    def build() -> nn.Module:
        from torchvision import models

        return models.get_model(model, weights=None).features

    return build


def _resnet50() -> nn.Module:
    from torchvision import models

    children = dict(models.resnet50(weights=None).named_children())
    return nn.Sequential(OrderedDict((k, v) for k, v in children.items() if k not in ("avgpool", "fc")))


# LPIPS's taps for alex, vgg and squeeze: after the ReLU before each pooling, or of each later stage (arXiv 1801.03924).
# The others by the same rule: the last map of each resolution.
BACKBONES = {
    "nano": BackboneSpec(Nano, (), Nano.channels, 1, prefix="", ignored=(), pass_values=4 * PASS_VALUES),
    "alex": BackboneSpec(
        _torchvision("alexnet"),
        ("1", "4", "7", "9", "11"),
        (64, 192, 384, 256, 256),
        31,
        pass_values=4 * PASS_VALUES,
    ),
    "vgg": BackboneSpec(
        _torchvision("vgg16"),
        ("3", "8", "15", "22", "29"),
        (64, 128, 256, 512, 512),
        16,
        pass_values=PASS_VALUES // 2,
    ),
    "squeeze": BackboneSpec(
        _torchvision("squeezenet1_1"),
        ("1", "4", "7", "9", "10", "11", "12"),
        (64, 128, 256, 384, 384, 512, 512),
        17,
    ),
    "vgg19": BackboneSpec(
        _torchvision("vgg19"),
        ("3", "8", "17", "26", "35"),
        (64, 128, 256, 512, 512),
        16,
        pass_values=PASS_VALUES // 2,
    ),
    "resnet50": BackboneSpec(
        _resnet50,
        ("relu", "layer1", "layer2", "layer3", "layer4"),
        (64, 256, 512, 1024, 2048),
        1,
        prefix="",
        ignored=("fc.",),
    ),
    "convnext_tiny": BackboneSpec(_torchvision("convnext_tiny"), ("1", "3", "5", "7"), (96, 192, 384, 768), 32),
    "efficientnet_b0": BackboneSpec(
        _torchvision("efficientnet_b0"), ("1", "2", "3", "5", "7"), (16, 24, 40, 112, 320), 1
    ),
}
