"""The table's networks of convolutions, rectifiers and pooling, in half precision on a CUDA device, in fewer steps.

Imported only there: it needs Triton. A convolution, its bias and its rectifier are one kernel of cuDNN's; what comes
before the first convolution, scaling, rounding and layout, is part of it (`damlpips.ops.triton_network`). Each step
reads its input once and writes its output once. PyTorch's own modules take twice the time: of VGG's, a third is spent
on bias and rectifier.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from damlpips.checks import is_optimised
from damlpips.nets.nano import Nano
from damlpips.ops import triton_network
from damlpips.ops.execution import gradients_with_graph
from damlpips.ops.triton_network import MOST, MOST_ROWS, First

Step = Callable[[Tensor], Tensor]
Size = tuple[int, int]


class _ConvRelu(torch.autograd.Function):
    """relu(conv(x) + bias), of which a graph keeps input and output."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: Size, padding: Size) -> Tensor:
        out = _conv_relu(x, weight, bias, stride, padding)
        ctx.save_for_backward(x, weight, out)
        ctx.options = stride, padding
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight, out = ctx.saved_tensors
        stride, padding = ctx.options
        through = torch.ops.aten.threshold_backward(gradient, out, 0)
        found, _, _ = torch.ops.aten.convolution_backward(
            through, x, weight, None, stride, padding, (1, 1), False, (0, 0), 1, (True, False, False)
        )
        return found, None, None, None, None


def _conv_relu(x: Tensor, weight: Tensor, bias: Tensor, stride: Size, padding: Size) -> Tensor:
    if x.device.type == "cuda":
        return torch.cudnn_convolution_relu(x, weight, bias, stride, padding, (1, 1), 1)
    return torch.conv2d(x, weight, bias, stride, padding).relu_()


@dataclass(frozen=True, eq=False)
class ConvRelu:
    """A convolution and its rectifier."""

    convolution: nn.Conv2d

    def __call__(self, x: Tensor) -> Tensor:
        layer: Any = self.convolution
        run = _ConvRelu.apply if is_optimised(x) else _conv_relu
        found: Tensor = run(x, layer.weight, layer.bias, layer.stride, layer.padding)
        return found


class _MaxPool(torch.autograd.Function):
    """Max pooling, of which a graph keeps a byte a value of the result."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, pool: "MaxPool") -> Tensor:
        out, index = triton_network.max_pool(x, pool.size, pool.stride, pool.out_size(x), True)
        # the graph of the step before keeps x, too
        ctx.save_for_backward(x, index)
        ctx.pool = pool
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, index = ctx.saved_tensors
        if torch.is_grad_enabled():  # for second derivatives
            return *gradients_with_graph(ctx.pool.plain, (x,), (gradient,)), None
        return triton_network.max_pool_gradient(gradient, index, ctx.pool.size, ctx.pool.stride, x.shape[2:]), None


@dataclass(frozen=True, eq=False)
class MaxPool:
    """The maximum of square windows."""

    size: int
    stride: int
    ceil: bool

    def __call__(self, x: Tensor) -> Tensor:
        if is_optimised(x):
            found: Tensor = _MaxPool.apply(x, self)
            return found
        return triton_network.max_pool(x, self.size, self.stride, self.out_size(x), False)[0]

    def plain(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, self.size, self.stride, ceil_mode=self.ceil)

    def out_size(self, x: Tensor) -> Size:
        height, width = (self._length(side) for side in x.shape[2:])
        return height, width

    def _length(self, side: int) -> int:
        beyond = side - self.size
        if not self.ceil:
            return beyond // self.stride + 1
        # the last window begins within the map
        return min(-(-beyond // self.stride), (side - 1) // self.stride) + 1


@dataclass(frozen=True, eq=False)
class Fire:
    """SqueezeNet's module."""

    squeeze: ConvRelu
    narrow: ConvRelu
    wide: ConvRelu

    def __call__(self, x: Tensor) -> Tensor:
        x = self.squeeze(x)
        return torch.cat([self.narrow(x), self.wide(x)], 1)


@dataclass(frozen=True, eq=False)
class LowPass:
    """Nano's low-pass, at every second pixel."""

    kernel: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        return F.conv2d(x, self.kernel.expand(channels, 1, 3, 3), stride=2, padding=1, groups=channels)


class _First(torch.autograd.Function):
    """The first convolution; a graph keeps its output."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, factor: Tensor, shift: Tensor, layer: First) -> Tensor:
        out = triton_network.first([images], factor, shift, layer)
        ctx.save_for_backward(images, out, factor, shift)
        ctx.layer = layer
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        images, out, factor, shift = ctx.saved_tensors
        if torch.is_grad_enabled():  # for second derivatives
            plain = partial(ctx.layer.plain, factor=factor, shift=shift)
            (found,) = gradients_with_graph(plain, (images,), (gradient,))
        else:
            found = triton_network.first_gradient(gradient, out, images, factor, ctx.layer)
        return found, None, None, None


class HalfNetwork:
    """A network in few steps.

    Args:
        first: its first convolution.
        steps: what follows the first convolution and its rectifier.
        taps: numbers of the steps whose results are the feature maps; 0 is the first convolution.
    """

    def __init__(self, first: First, steps: Sequence[Step], taps: Sequence[int]) -> None:
        self.first, self.steps, self.taps = first, tuple(steps), frozenset(taps)

    def __call__(self, batches: Sequence[Tensor], factor: Tensor, shift: Tensor) -> list[Tensor]:
        """Return the feature maps of some batches of images of one size, one batch if it has a graph."""
        if is_optimised(batches[0]):
            x = _First.apply(batches[0], factor, shift, self.first)
        else:
            x = triton_network.first(batches, factor, shift, self.first)
        maps = [x] if 0 in self.taps else []
        for k, step in enumerate(self.steps, 1):
            x = step(x)
            if k in self.taps:
                maps.append(x)
        return maps

    def fits(self, batches: Sequence[Tensor]) -> bool:
        """Return whether the kernels can number all places of the first map, and of the images."""
        if any(max(len(x), x.shape[2]) > MOST_ROWS for x in batches):
            return False
        return sum(len(x) * x.shape[2] * x.shape[3] for x in batches) < MOST


def half_network(network: nn.Module) -> HalfNetwork | None:
    """Return a network of the table in few steps; None where it is made of anything else."""
    if isinstance(network, Nano):
        return _nano(network)
    sequence = getattr(network, "sequence", None)
    if isinstance(sequence, nn.Sequential):
        return _sequence(sequence, network.taps)  # type: ignore[arg-type]
    return None


def _nano(network: Nano) -> HalfNetwork:
    left, right, _, _ = network.margin
    low_pass = LowPass(network.low_pass)
    stages = [step for stage in network.stages for step in (low_pass, ConvRelu(stage))]  # type: ignore[arg-type]
    taps = [k for k, step in enumerate(stages, 1) if isinstance(step, ConvRelu)]
    return HalfNetwork(First.of(network.stem, (left, right)), stages, taps)


def _sequence(sequence: nn.Sequential, taps: frozenset[str]) -> HalfNetwork | None:
    from torchvision.models.squeezenet import Fire as TorchvisionFire

    steps: list[Step] = []
    tapped: list[int] = []
    first: Any = None
    waiting: Any = None
    for name, module in sequence.named_children():
        if len(tapped) == len(taps):
            break
        if isinstance(module, nn.Conv2d) and waiting is None and module.groups == 1:
            waiting = module
        elif isinstance(module, nn.ReLU) and waiting is not None:
            if first is None:
                first = waiting
            else:
                steps.append(ConvRelu(waiting))
            waiting = None
        elif isinstance(module, nn.MaxPool2d) and waiting is None and module.padding == 0:
            steps.append(MaxPool(module.kernel_size, module.stride, module.ceil_mode))  # type: ignore[arg-type]
        elif isinstance(module, TorchvisionFire) and waiting is None:
            steps.append(Fire(*map(ConvRelu, (module.squeeze, module.expand1x1, module.expand3x3))))
        else:
            return None
        if name in taps:
            if waiting is not None:
                return None
            tapped.append(len(steps))
    if first is None or first.in_channels != 3:
        return None
    return HalfNetwork(First.of(first), steps, tapped)
