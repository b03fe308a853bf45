"""Images in, feature maps out: every score of this package goes through this module."""

import copy
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.fx.proxy import TraceError

from damlpips.checks import ValueRange, is_optimised, one_of
from damlpips.nets.table import BACKBONES, IMAGENET, PASS_VALUES, SYMMETRIC, TIMM, Scaling
from damlpips.ops.execution import exact_dtype, is_followed, is_transformed
from damlpips.ops.fused import kernels_run

if TYPE_CHECKING:
    from damlpips.nets.half import HalfNetwork  # which needs Triton

# Of the images and maps of the table's networks. On a CPU they take a third to nine tenths of the time that they take
# with channels first; most of it is saved in pooling.
MEMORY_FORMAT = torch.channels_last


class _Steps(nn.Module):
    """Run a sequence of named modules up to the last tap, and collect the outputs of the taps."""

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
    """Collect the outputs of any named nodes of a network, with torchvision's feature extractor."""

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
    except Exception as error:  # symbolic tracing raises errors of many types
        if isinstance(error, ValueError) and not isinstance(error, TraceError):
            raise ValueError(f"taps: {list(taps)} not found in {type(network).__name__}: {error}") from error
        raise ValueError(
            f"taps: {type(network).__name__} cannot be traced ({type(error).__name__}: {error}); wrap it in a module"
            " whose forward returns the list of feature maps, and leave taps out"
        ) from error


class Backbone(nn.Module):
    """A frozen network that turns images into feature maps at several layers.

    phi_1(x), ..., phi_L(x) = taps(network((x - mean) / std)), x scaled to [0, 1] first.

    The network is copied, frozen and kept in eval mode: scores do not change when the original is trained, or when
    `.train()` or `requires_grad_()` is called on a module that holds the backbone. Gradients flow to the images only.

    Args:
        network: a module from images (N, C, H, W) to feature maps. With `taps`, any network whose named modules (of an
            `nn.Sequential`) or traced nodes (torchvision's `get_graph_node_names` lists them) can be read; without,
            its `forward` must return the feature maps (N, C_l, H_l, W_l) as a list, a tuple or a dict.
        taps: names of the layers to read, from fine to coarse.
        channels: C, how many channels the network takes: 3 for colours; 1, 4 or any other for medical or multispectral
            images or latents, whose range is the metric's `value_range`. DAMLPIPS compares images of other than three
            channels as they are, not in Oklab.
        mean, std: with which the network expects images in [0, 1] to be normalised, a number each channel. None:
            ImageNet's for three channels; others are not normalised.
        preprocess: a differentiable function of images in [0, 1], in place of `mean` and `std`.
        min_size: the least number of pixels on each side.
        name: how errors refer to it.

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
    _half: "HalfNetwork | None"
    pass_values = PASS_VALUES

    def __init__(
        self,
        network: nn.Module,
        taps: Sequence[str] | None = None,
        *,
        channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        preprocess: Callable[[Tensor], Tensor] | None = None,
        min_size: int = 1,
        name: str = "custom",
    ) -> None:
        super().__init__()
        if not isinstance(network, nn.Module):
            raise TypeError(f"network: expected a torch.nn.Module, got {type(network).__name__}")
        if isinstance(taps, str) or (taps is not None and len(taps) == 0):
            raise ValueError(f"taps: expected a list of layer names, got {taps!r}")
        if isinstance(channels, bool) or not isinstance(channels, int) or channels < 1:
            raise ValueError(f"channels: expected a whole number of at least 1, got {channels!r}")
        plain = IMAGENET if channels == 3 else Scaling((0.0,) * channels, (1.0,) * channels)
        scaling = Scaling(*(tuple(b if a is None else a) for a, b in zip((mean, std), plain, strict=True)))
        if {len(scaling.mean), len(scaling.std)} != {channels} or min(scaling.std) <= 0:
            raise ValueError(
                f"mean, std: expected {channels} numbers each, one a channel, std positive, got {mean!r} and {std!r}"
            )
        network = copy.deepcopy(network).eval()
        for module in network.modules():
            # an in-place activation after a tap would overwrite the map that was read there
            if getattr(module, "inplace", False):
                module.inplace = False  # type: ignore[assignment]
        self._set_up(
            network if taps is None else _tapped(network, taps),
            scaling,
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
        # the device and the type of a network without tensors
        self._home: Tensor = torch.empty(0, dtype=torch.float32, device="cpu") if home is None else home
        self.scaling = scaling
        self.channels = len(scaling.mean)
        self.min_size = min_size
        self.name = name
        self.preprocess = None
        self._replicas: dict[tuple[torch.device, torch.dtype], Backbone] = {}
        self._place_constants()

    def _place_constants(self) -> None:
        """Copy the constants of the scaling to the device once: in `forward`, that would stall a CUDA stream."""
        self._dtype = self.dtype  # looked up once, not in every pass
        layout: torch.memory_format = getattr(self.network, "memory_format", torch.preserve_format)
        # in float32 and above, CUDA's kernels are faster with channels first
        on_cuda = self.device.type == "cuda" and self._dtype in (torch.float32, torch.float64)
        self._memory_format = torch.preserve_format if on_cuda else layout
        # weights in the layout of the images need no conversion in each call
        self.network.to(memory_format=torch.contiguous_format if on_cuda else layout)
        # scaled in half precision, neighbouring pixel values would be rounded to the same number
        self._exact = exact_dtype(self._dtype)
        self._constants = {
            scaling: tuple(
                torch.tensor(values, dtype=self._exact, device=self.device).reshape(-1, 1, 1) for values in scaling
            )
            for scaling in {self.scaling, SYMMETRIC}
        }
        self._factors: dict[tuple[Scaling, ValueRange], tuple[Tensor, Tensor]] = {}
        # a user's network may have convolutions of any kind, and a `preprocess` of its own
        of_table, in_half = layout is MEMORY_FORMAT, self._dtype in (torch.float16, torch.bfloat16)
        self._half = None
        if of_table and in_half and kernels_run(self.device):
            from damlpips.nets.half import half_network

            self._half = half_network(self.network)

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
        network.memory_format = MEMORY_FORMAT  # type: ignore[assignment]
        backbone._set_up(network, spec.scaling, spec.min_size, name)
        return backbone

    @classmethod
    def from_timm(
        cls,
        name: str,
        layers: Sequence[int] | None = None,
        *,
        pretrained: bool = True,
        checkpoint_path: str | os.PathLike[str] | None = None,
        channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        norm: bool = False,
        **options: Any,
    ) -> "Backbone":
        """Return a model of timm as a backbone: convolutional, or a transformer whose tokens become maps.

        phi_l(x) = the model's intermediate features at layer l, (N, C_l, H_l, W_l), without prefix tokens (class,
        registers), as timm's `forward_intermediates` returns them.

        Images of any size are compared. A transformer needs sides that are multiples of its patches, and its embedding
        of positions is resampled; images of other sizes are resampled, bilinearly and with antialiasing, to the nearest
        such size, 256 to 252 for patches of 14. A model that takes one size only gets all images in that size.

        Args:
            name: of the model, with or without a tag: `"resnet18"`, `"vit_small_patch14_reg4_dinov2.lvd142m"`.
            layers: the numbers of the layers to read, from fine to coarse; negative ones count from the end. None: each
                stage of a model whose maps shrink, four evenly spaced blocks of one whose maps do not.
            pretrained: whether timm's weights are loaded, or downloaded; without, and without a file, they are random.
            checkpoint_path: the model's own weights, a `.safetensors` or `.pth` file with timm's keys, checked key by
                key; the classifier's are not needed.
            channels: of the images; timm spreads the first layer's weights over them.
            mean, std: as for `Backbone`. None: the model's; for other than three channels the mean of its colours', for
                each.
            norm: whether the model's last normalisation is applied to the maps, where timm can.
            options: of `timm.create_model`.

        Raises:
            ImportError: timm is not installed.
            ValueError: an unknown name, or layers that the model does not have.
            WeightsError: weights could not be downloaded, or a file is damaged or another model's.

        Reference:
            Wightman, "PyTorch Image Models", 2019, doi 10.5281/zenodo.4414861.
        """
        from damlpips.nets.timm import timm_network

        network, scaling = timm_network(
            name,
            layers,
            pretrained=pretrained,
            checkpoint_path=checkpoint_path,
            channels=channels,
            norm=norm,
            options=options,
        )
        return cls(
            network,
            channels=channels,
            mean=scaling.mean if mean is None else mean,
            std=scaling.std if std is None else std,
            min_size=network.sizes.least,
            name=f"{TIMM}{name}",
        )

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
        """Return this backbone on `device` and in `dtype`: itself if it already is, else a copy that is made once."""
        if (self.device, self.dtype) == (device, dtype):
            return self
        if (device, dtype) not in self._replicas:
            self._replicas[device, dtype] = self._copied(device, dtype)
        return self._replicas[device, dtype]

    def _copied(self, device: torch.device, dtype: torch.dtype) -> "Backbone":
        twin = Backbone.__new__(Backbone)
        nn.Module.__init__(twin)
        network = copy.deepcopy(self.network).to(device, dtype)
        twin._set_up(network, self.scaling, self.min_size, self.name, torch.empty(0, device=device, dtype=dtype))
        twin.preprocess = copy.deepcopy(self.preprocess)
        if isinstance(twin.preprocess, nn.Module):
            twin.preprocess.to(device, twin._exact)
        return twin

    def learnable(self) -> "Backbone":
        """Return a copy whose weights can be learned; it stays in eval mode, with the statistics that it has."""
        twin = self._copied(self.device, self.dtype)
        twin.network.requires_grad_()
        return twin

    def table_state(self) -> dict[str, Tensor]:
        """Return a copy of the weights on the CPU, with the names that files of this network of the table have."""
        spec = BACKBONES[self.name]
        network = self.network.sequence if isinstance(self.network, _Steps) else self.network
        state = {spec.prefix + name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}
        return {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}

    def fingerprint(self) -> str:
        """Return a digest of the network's structure and weights that is the same in every process."""
        digest = hashlib.sha256(repr((self.network, self.scaling, _described(self.preprocess))).encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def train(self, mode: bool = True) -> "Backbone":
        """Stay in eval mode, whatever mode a parent module sets."""
        return self

    def requires_grad_(self, requires_grad: bool = True) -> "Backbone":
        """Stay frozen."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "Backbone":
        return self  # it is frozen: every copy of a module can use the same instance

    def forward(
        self,
        images: Shaped[Tensor, "n c h w"],
        *more: Shaped[Tensor, "m c h w"],
        value_range: ValueRange = (0.0, 1.0),
        scaling: Scaling | None = None,
    ) -> list[Tensor]:
        """Return the feature maps of a batch of images, from fine to coarse.

        Args:
            images: (N, C, H, W), floats in `value_range` or uint8 in 0..255.
            more: further batches of the same size and type, joined to the first.
            scaling: replaces the backbone's own, as LPIPS v0.0 needs.
        """
        bounds = (0.0, 255.0) if images.dtype == torch.uint8 else value_range
        scaling = self.scaling if scaling is None else scaling
        if self._takes_half(images, *more):
            assert self._half is not None
            return self._half([images, *more], *self._kept_linear(scaling, bounds))
        if more:
            images = torch.cat([images, *more])
        images = images.to(self._exact)
        if self.preprocess is not None:
            images = self.preprocess((images - bounds[0]) / (bounds[1] - bounds[0]))
        else:
            factor, shift = self._linear(scaling, bounds)
            images = torch.addcmul(shift, images, factor)
        # a tensor inside `vmap` has no layout of its own
        layout = torch.preserve_format if is_transformed(images) else self._memory_format
        # the same name again, so that the memory of the previous tensor is freed
        images = images.to(self._dtype, memory_format=layout)
        return self._listed(self.network(images))

    def _linear(self, scaling: Scaling, bounds: ValueRange) -> tuple[Tensor, Tensor]:
        """Return f and s with ((x - low) / (high - low) - mean) / std = f x + s, (C, 1, 1) each."""
        mean, std = self._constants[scaling]
        low, high = bounds
        factor = 1 / (std * (high - low))
        return factor, -(mean * (high - low) + low) * factor

    def _kept_linear(self, scaling: Scaling, bounds: ValueRange) -> tuple[Tensor, Tensor]:
        """Return `_linear` as (C,) each, made once."""
        if (scaling, bounds) not in self._factors:
            with torch.inference_mode(False), torch.no_grad():
                factor, shift = self._linear(scaling, bounds)
                self._factors[scaling, bounds] = factor.flatten(), shift.flatten()
        return self._factors[scaling, bounds]

    def _takes_half(self, *batches: Tensor) -> bool:
        """Return whether images go through the network by fewer steps: see `damlpips.nets.half`."""
        if self._half is None or is_followed(*batches) or not kernels_run(self.device) or not self._half.fits(batches):
            return False
        # of several batches in one pass none has a graph
        return len(batches) == 1 or not any(map(is_optimised, batches))

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
    """Return a text that distinguishes functions and is the same in every process: name, code and plain constants."""
    if function is None or isinstance(function, nn.Module):
        return repr(function)
    code = getattr(function, "__code__", None)
    name = f"{function.__module__}.{getattr(function, '__qualname__', type(function).__qualname__)}"
    constants = [c for c in code.co_consts if isinstance(c, (int, float, str, tuple))] if code else []
    return f"{name} {code.co_code.hex() if code else ''} {constants}"
