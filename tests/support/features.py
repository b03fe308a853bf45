"""Pairs of feature maps, and what the heads of a layer make of them, beside float64 and the plain functions."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor

from damlpips.ops import distance, fused

WEIGHINGS = {
    "default": distance.Adaptive(0.25, 0.5),
    "places": distance.Adaptive(1.0, 0.0),
    "channels": distance.Adaptive(0.0, 2.0),
    "image": distance.Fixed(0.04),
}
LAYOUTS = ("contiguous", "channels last", "cut out", "every second")
DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Case(NamedTuple):
    """What a pair of feature maps is drawn from."""

    shape: tuple[int, int, int, int]
    dtype: str
    layouts: tuple[str, str]
    scale: float
    dead: bool
    equal: bool
    head: bool
    weighing: str
    seed: int

    def pair(self) -> tuple[Tensor, Tensor]:
        """Rectified features; some places, one channel and, of several, one image may be zero throughout."""
        generator = torch.Generator().manual_seed(self.seed)
        maps = []
        for layout in self.layouts:
            a = self.scale * torch.randn(self.shape, generator=generator, dtype=torch.float64).relu()
            if self.dead:
                a[:, :, 0] = 0
                a[:, 0] = 0
                a[1:2] = 0
            a = maps[0].double() if self.equal and maps else a
            maps.append(laid_out(a.to(DTYPES[self.dtype]), layout))
        return maps[0], maps[1]

    def weights(self) -> Tensor | None:
        generator = torch.Generator().manual_seed(self.seed)
        return torch.rand(self.shape[1], generator=generator) if self.head else None

    def upstream(self, outputs: int) -> list[Tensor]:
        """Return what gradients are weighted with, one for each output."""
        generator = torch.Generator().manual_seed(self.seed)
        return list(torch.randn(outputs, self.shape[0], generator=generator, dtype=torch.float64))


def laid_out(a: Tensor, layout: str) -> Tensor:
    """Return the same features with other strides."""
    n, c, h, w = a.shape
    if layout == "channels last":
        return a.contiguous(memory_format=torch.channels_last)
    if layout == "cut out":  # of a larger batch with more channels
        whole = torch.full((n + 1, c + 2, h, w), torch.nan, dtype=a.dtype, device=a.device)
        whole[1:, 1:-1] = a
        return whole[1:, 1:-1]
    if layout == "every second":  # place; neighbours in memory are another map's
        whole = torch.full((n, c, h, 2 * w), torch.nan, dtype=a.dtype, device=a.device)
        whole[..., ::2] = a
        return whole[..., ::2]
    return a.contiguous()


@st.composite
def cases(draw: st.DrawFn, *, dtypes: Sequence[str] = tuple(DTYPES), channels: int = 9, sides: int = 6) -> Case:
    """Draw a pair. At least two places: a channel's spread over one is at the kink of a clamp."""
    n, c, h, w = (draw(st.integers(1, most)) for most in (3, channels, sides, sides))
    dtype = draw(st.sampled_from(dtypes))
    equal = draw(st.booleans())
    layout = draw(st.sampled_from(LAYOUTS))
    other = layout if equal else draw(st.sampled_from(LAYOUTS))  # sums in one order: equal to the bit
    weighing = draw(st.sampled_from(sorted(WEIGHINGS)))
    # the gradients of the image's layer grow with it: half precision's range ends
    scale = draw(st.sampled_from([1.0] if weighing == "image" else [1e-2, 1.0, 30.0]))
    dead, head, seed = draw(st.booleans()), draw(st.booleans()), draw(st.integers(0, 2**16))
    return Case((n, c, h, max(w, 2 if h == 1 else 1)), dtype, (layout, other), scale, dead, equal, head, weighing, seed)


def plain(case: Case, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return LPIPS's distance, structure and texture by the plain functions."""
    compared = distance.compare(a, b, WEIGHINGS[case.weighing])
    head = case.weights()
    lpips = distance.pool(distance.lpips_map(a, b, None if head is None else head.to(a.device)))
    return lpips, compared.structure, compared.texture


def direct(case: Case, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the same by the fused."""
    head = case.weights()
    lpips = fused.lpips_distance(a, b, None if head is None else head.to(a.device))
    return lpips, *fused.damlpips_distances(a, b, WEIGHINGS[case.weighing])


def check(case: Case, device: str = "cpu") -> None:
    """Compare values and gradients of the heads with the plain functions in float64 on the same features."""
    a, b = (x.to(device).requires_grad_() for x in case.pair())
    exact = [x.detach().double().requires_grad_() for x in (a, b)]
    dtype = distance.working(a).dtype
    found, expected = direct(case, a, b), plain(case, *exact)
    for value, reference, upstream in zip(found, expected, case.upstream(3), strict=True):
        upstream = upstream.to(device)
        assert value.dtype == dtype
        # float32: sums in another order; texture compares spreads, of which a thousandth of the features is left
        close(value, reference, 1e-12 if dtype == torch.float64 else 2e-5)
        gradients = torch.autograd.grad(value, (a, b), upstream.to(dtype), retain_graph=True)
        references = torch.autograd.grad(reference, exact, upstream, retain_graph=True)
        for gradient, x, right in zip(gradients, (a, b), references, strict=True):
            assert gradient.dtype == x.dtype
            assert gradient.shape == x.shape
            # and the gradients come back in the features' precision, rounded or, by Triton's interpreter, cut off
            precision = torch.finfo(x.dtype).eps + (1e-10 if dtype == torch.float64 else 1e-4)
            # the size that gradients have where their parts do not cancel, as with a single channel they do
            size = upstream.abs().max() / x.detach().double().abs().max().clamp(min=1e-6) / x[0, 0].numel()
            scale = _faintness(x) if value is found[0] else 1.0
            close(gradient * scale, right * scale, precision, least=precision * float(size))
            if case.equal:
                assert not gradient.any()
        if case.equal:
            assert not value.any()


def _faintness(x: Tensor) -> Tensor:
    """Return the norm of each place's features as a share of the largest, 1 where all are zero.

    The parts of LPIPS's gradients that cancel grow, and with them their rounding, as the norm falls.
    """
    norm = x.detach().double().square().sum(1, keepdim=True).sqrt()
    return torch.where(norm > 0, norm / norm.max().clamp(min=1e-6), 1.0)


def close(found: Tensor, expected: Tensor, share: float, least: float = 1e-12) -> None:
    """Compare up to a share of the largest value; NaN is never close."""
    found, expected = found.detach().double(), expected.detach()
    worst = float((found - expected).abs().max())
    assert worst <= share * float(expected.abs().max()) + least, (found, expected)
