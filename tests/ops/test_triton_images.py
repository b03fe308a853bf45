"""Functions of images by Triton's kernels: on a CUDA device, and interpreted on a CPU."""

from types import ModuleType

import pytest
import torch
from torch import Tensor

from damlpips import checks
from damlpips.models import version2
from damlpips.ops import colour, distance, fused, masking
from tests.support.interpreted import DEVICE, INTERPRETED, interpret, marked


@pytest.mark.skipif(INTERPRETED, reason="this is that process")
def test_in_the_interpreter() -> None:
    interpret(__file__, "kernel", 18)


def triton_images() -> ModuleType:
    from damlpips.ops import triton_images

    return triton_images


def drawn(*shape: int, low: float = -0.2, high: float = 1.2) -> Tensor:
    """Return values of every part of the curves, and around their knees."""
    values = low + (high - low) * torch.rand(shape, generator=torch.Generator().manual_seed(0))
    values.flatten()[:4] = torch.tensor([0.0, 1.0, colour.DARK + 1e-4, colour.DARK - 1e-4])
    return values.to(DEVICE)


@marked
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", ["contiguous", "channels last", "cut out"])
def test_kernel_clamps_what_rounding_left(dtype: torch.dtype, layout: str) -> None:
    from damlpips.ops import triton_images

    bounds = (0.0, 1.0)
    near = checks.rounding(dtype, bounds)
    x = drawn(2, 3, 5, 7)
    x.flatten()[4:9] = torch.tensor([-near / 2, 1 + near / 2, torch.nan, torch.inf, 1 + 3 * near])
    x = x.to(dtype)
    if layout == "channels last":
        x = x.contiguous(memory_format=torch.channels_last)
    elif layout == "cut out":
        x = torch.cat([x, x], 3)[..., 1:8]
    found = triton_images.clamped(x, *bounds, near)
    torch.testing.assert_close(found, checks.clamped(x, bounds), rtol=0, atol=0, equal_nan=True)


@marked
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_kernel_gives_oklab_and_its_gradient(layout: str) -> None:
    from damlpips.ops import triton_images

    x = drawn(2, 3, 9, 23)
    x = x.contiguous(memory_format=torch.channels_last) if layout == "channels last" else x
    exact, x = x.double().requires_grad_(), x.requires_grad_()
    found, expected = triton_images.colours(x), colour.oklab(exact)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    (mine,), (theirs,) = (
        torch.autograd.grad((c * upstream.to(c)).sum(), image) for c, image in ((found, x), (expected, exact))
    )
    # float32's own relative error in the slope of a curve, times the largest of some terms of either sign
    torch.testing.assert_close(mine.double(), theirs, rtol=1e-4, atol=1e-4)


@marked
def test_kernel_of_colours_has_second_derivatives() -> None:
    from damlpips.ops import triton_images

    x = drawn(1, 3, 2, 2, low=0.1, high=0.9).requires_grad_()
    slopes = []
    for function in (triton_images.colours, colour.oklab):
        (slope,) = torch.autograd.grad(function(x).square().sum(), x, create_graph=True)
        slopes.append(torch.autograd.grad(slope.square().sum(), x)[0])
    torch.testing.assert_close(*slopes, rtol=1e-4, atol=1e-4)


@marked
@pytest.mark.parametrize("kind", ["floats", "symmetric", "bytes", "half", "channels last"])
def test_kernel_compares_images(kind: str) -> None:
    from damlpips.ops import triton_images

    x, y = drawn(2, 3, 31, 41, low=0, high=1), drawn(2, 3, 31, 41, low=0.1, high=0.8).flip(0)
    bounds = (-1.0, 1.0) if kind == "symmetric" else (0.0, 1.0)
    given = [bounds[0] + (bounds[1] - bounds[0]) * t for t in (x, y)]
    if kind == "bytes":
        given, bounds = [(255 * t).round().to(torch.uint8) for t in given], (0.0, 255.0)
        x, y = (t.float() / 255 for t in given)
    elif kind == "half":
        given = [t.half() for t in given]
        x, y = (t.float() for t in given)
    elif kind == "channels last":
        given = [t.contiguous(memory_format=torch.channels_last) for t in given]
    found = triton_images.image_distances(*given, *bounds, colour.PHOTOGRAPH_ENERGY)
    a, b = (colour.adapted_colours(t.double()) for t in (x, y))
    expected = distance.compare(a, b, distance.Fixed(colour.PHOTOGRAPH_ENERGY))
    for one, other in zip(found, (expected.structure, expected.texture), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-6)
    assert all((d == 0).all() for d in triton_images.image_distances(given[0], given[0], *bounds, 0.04))


@marked
@pytest.mark.parametrize("size", [(29, 19), (2, 3)])
def test_kernel_masks_differences(size: tuple[int, int]) -> None:
    a, b = colour.uniform(drawn(2, 3, *size, low=0, high=1)), colour.uniform(drawn(2, 3, *size, low=0.1, high=0.8))
    b[1] = a[1]
    found, expected = triton_images().masked_map(a, b)[:2], masking.plain_masked_map(a.double(), b.double())
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-6)
    assert (found[0][1] == 0).all()


@marked
@pytest.mark.parametrize(("through", "size"), [("both", (11, 9)), ("d", (2, 3)), ("place", (1, 1))])
def test_kernel_of_masking_has_gradients(through: str, size: tuple[int, int]) -> None:
    a, b = colour.uniform(drawn(2, 3, *size, low=0, high=1)), colour.uniform(drawn(2, 3, *size, low=0.1, high=0.8))
    by = torch.randn(2, 2, 1, *size, generator=torch.Generator().manual_seed(2)).to(DEVICE)
    by = [None if through == "place" else by[0], None if through == "d" else 1e-3 * by[1]]
    _, _, contrasts = triton_images().masked_map(a, b)
    found = triton_images().masked_gradients(a, b, contrasts, *by, (True, True))
    exact = [t.double().requires_grad_() for t in (a, b)]
    loss = sum((m * g).sum() for m, g in zip(masking.plain_masked_map(*exact), by, strict=True) if g is not None)
    for mine, theirs in zip(found, torch.autograd.grad(loss, exact), strict=True):
        assert (mine - theirs).abs().max() <= 1e-4 * theirs.abs().max()
    (one,) = (g for g in triton_images().masked_gradients(a, b, contrasts, *by, (False, True)) if g is not None)
    assert torch.equal(one, found[1])


@marked
def test_kernel_compares_masked_images() -> None:
    x, y = drawn(2, 3, 21, 27, low=0, high=1), drawn(2, 3, 21, 27, low=0.1, high=0.8).flip(0)
    y[1] = x[1] * 0.9
    found = triton_images().masked_image_distances(x, y, colour.PHOTOGRAPH_ENERGY)
    expected = version2.compared_image(*(colour.adapted_colours(t.double()) for t in (x, y)))
    for one, other in zip(found, (expected.structure, expected.texture), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-6)
    assert all((d == 0).all() for d in triton_images().masked_image_distances(x, x, 0.04))


@marked
@pytest.mark.parametrize("channels", [3, 40, 112])
def test_kernels_compare_features_without_gradients(channels: int) -> None:
    from damlpips.ops import triton_kernels

    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(2, channels, 7, 9, generator=generator).relu().to(DEVICE) for _ in range(2))
    a[0, 1], b[0, 1] = 0, 0
    weighing = distance.Adaptive(0.25, 0.5)
    found = triton_kernels.distances(a, b, weighing)
    expected = distance.compare(a.double(), b.double(), weighing)
    for one, other in zip(found, (expected.structure, expected.texture), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-6)
    assert all((d == 0).all() for d in triton_kernels.distances(a, a, weighing))


@pytest.mark.skipif(INTERPRETED, reason="kernels are chosen as where there are none")
def test_no_kernels_on_a_cpu() -> None:
    assert fused.image_kernels(torch.rand(1, 3, 4, 4)) is None
