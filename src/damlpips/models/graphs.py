"""Comparisons recorded as CUDA graphs: the kernels of a shape are launched at once, without Python between them."""

import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from damlpips.checks import is_optimised
from damlpips.models.inputs import Pair, clamped
from damlpips.ops.execution import is_followed

# Shapes that are kept; that which was not used for longest goes first. Each keeps its images and feature maps.
MOST = 4
# A kernel is compiled, chosen and loaded before it is recorded.
WARM_UPS = 3

Runner = Callable[[Pair], Tensor]


def can_be_recorded(pair: Pair) -> bool:
    """Return whether the comparison of a pair can be recorded: of images on CUDA, and outside of other recordings.

    Under autocast the copies of weights in half precision would be part of the recording.
    """
    if not pair.is_images or pair.given[0].device.type != "cuda" or is_followed(*pair.given):
        return False
    return not torch.is_autocast_enabled("cuda") and not torch.cuda.is_current_stream_capturing()


class Graphed:
    """Another way of comparing, recorded once for each shape of images and then replayed.

    A recording has images and gradients of its own: what comes is copied there, and results are copied from there.
    Between the forward and the backward pass of a pair, others are compared without it, since it holds one pair's
    feature maps.
    """

    def __init__(self, run: Runner) -> None:
        self._run = run
        self._recorded: OrderedDict[Hashable, _Forward | _Training] = OrderedDict()

    def __call__(self, pair: Pair) -> Tensor:
        x, y = pair.given
        needed = is_optimised(x), is_optimised(y)
        cudnn = torch.backends.cudnn
        key = (
            *(of for t in (x, y) for of in (t.shape, t.stride(), t.dtype, t.device)),
            *(needed, pair.size, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic),
        )
        if key not in self._recorded:
            if len(self._recorded) == MOST:
                self._recorded.popitem(last=False)
            kind = _Training if any(needed) else _Forward
            self._recorded[key] = kind(self._run, pair)
        self._recorded.move_to_end(key)
        return self._recorded[key](pair)


class _Forward:
    """A recording without gradients."""

    def __init__(self, run: Runner, pair: Pair) -> None:
        # tensors made in inference mode could not be written to outside of it
        with torch.inference_mode(False), torch.no_grad(), torch.cuda.device(pair.given[0].device):
            x, y = pair.images
            self._own = x.clone(), y.clone()
            own = Pair(*self._own, pair.size, in_range=pair.in_range)
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(WARM_UPS):
                    run(own)
            torch.cuda.current_stream().wait_stream(aside)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._found = run(own)

    def __call__(self, pair: Pair) -> Tensor:
        for own, given in zip(self._own, pair.given, strict=True):
            if pair.bounds is None:
                own.copy_(given)
            else:
                clamped(given, pair.bounds, own)
        self._graph.replay()
        return self._found.clone()


class _Pass:
    """A forward pass whose backward pass may come: kept by the graph that will run it."""


class _Leaving(torch.autograd.Function):
    """Copy a recording's results; once the graph that holds them has gone backward, the recording is free again."""

    @staticmethod
    def forward(ctx: Any, found: Tensor, recording: "_Training") -> Tensor:
        ctx.pass_ = _Pass()
        recording.taken_by = weakref.ref(ctx.pass_)
        return found.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        if ctx.pass_ is None:
            raise RuntimeError(
                "cuda_graphs=True: expected one backward pass, got a second one, whose feature maps may be another"
                " batch's: use cuda_graphs=False"
            )
        ctx.pass_ = None
        return gradient, None


class _Entering(torch.autograd.Function):
    """Hand images to a recording, and a copy of their gradient back, which the next backward pass does not change."""

    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        return images.view_as(images)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.clone()


class _Training:
    """A recording of a forward and a backward pass."""

    def __init__(self, run: Runner, pair: Pair) -> None:
        self._run = run
        self.taken_by: Callable[[], _Pass | None] = lambda: None

        def compare(x: Tensor, y: Tensor) -> Tensor:
            return run(Pair(x, y, pair.size, in_range=pair.in_range))

        with torch.cuda.device(pair.given[0].device):
            own = [x.detach().clone().requires_grad_(is_optimised(x)) for x in pair.images]
            with warnings.catch_warnings():
                # it warms up on one stream and records on another, and waits in between
                warnings.filterwarnings("ignore", "The AccumulateGrad node's stream does not match")
                self._graphed = torch.cuda.make_graphed_callables(compare, tuple(own), num_warmup_iters=WARM_UPS)

    def __call__(self, pair: Pair) -> Tensor:
        if self.taken_by() is not None:
            return self._run(pair)
        given = [_Entering.apply(x) if is_optimised(x) else x for x in pair.images]
        found: Tensor = _Leaving.apply(self._graphed(*given), self)
        return found
