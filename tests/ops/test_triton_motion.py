"""Displacement fields by Triton's kernels: on a CUDA device, and interpreted on a CPU."""

from types import ModuleType

import pytest
import torch
from torch import Tensor

from damlpips.models import alignment
from damlpips.ops import displacement, fused
from damlpips.ops.displacement import Field
from tests.support.interpreted import DEVICE, INTERPRETED, interpret, marked
from tests.support.moved import moved, picture

# sides that do not halve evenly, and of which the coarsest level is one place or two
SIZE, SMALL = (29, 37), (16, 17)


@pytest.mark.skipif(INTERPRETED, reason="this is that process")
def test_in_the_interpreter() -> None:
    interpret(__file__, "kernel", 7)


def kernels() -> ModuleType:
    from damlpips.ops import triton_motion

    return triton_motion


def pair(h: int, w: int) -> tuple[Tensor, Tensor]:
    """Return images in colour, of which the first moved and turned, and the second got noise."""
    noise = 0.05 * torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    x = torch.cat([moved(picture(64, seed=seed)) for seed in range(2)])
    y = torch.cat([moved(picture(64), shift=(3, -2), degrees=3), (x[1:] + noise).clamp(0, 1)])
    x, y = (images[..., :h, :w].contiguous().to(DEVICE) for images in (x, y))
    return x, y


def levels(images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Return the pyramid of luma, and the same in float64."""
    exact = displacement.pyramid(images.double().mean(1, keepdim=True))
    return [m.float() for m in exact], exact


def coarse(x: list[Tensor], y: list[Tensor]) -> tuple[Field, Tensor]:
    found = alignment._coarse(alignment.Levels(x, y))
    assert found is not None
    return found


@marked
def test_kernel_finds_the_coarse_field() -> None:
    (x, exact_x), (y, exact_y) = map(levels, pair(*SIZE))
    found, share = kernels().coarse_field(x, y)
    expected, of_share = coarse(exact_x, exact_y)
    torch.testing.assert_close(found.by.double(), expected.by, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.trust.double(), expected.trust, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(share.double(), of_share, rtol=0, atol=1e-3)


@marked
def test_kernel_refines_it() -> None:
    (x, exact_x), (y, exact_y) = map(levels, pair(*SIZE))
    start, _ = coarse(exact_x, exact_y)
    _, (found, extent, _) = kernels().refined(x, y, start.by.float())
    expected, of_extent = displacement.refined(exact_x, exact_y, start)
    torch.testing.assert_close(found.by.double(), expected.by, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.trust.double(), expected.trust, rtol=1e-3, atol=1e-5)
    for one, other in zip(extent.unbind(1), of_extent, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-3, atol=1e-6)


@marked
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_kernel_aligns(layout: str) -> None:
    x, y = pair(*SIZE)
    by = 0.1 * torch.randn(2, 2, 8, 10, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    share = torch.tensor([0.5, 0.0], device=DEVICE)
    expected = displacement.plainly_aligned(*(t.double() for t in (x, y, by, share)))
    given = [t.contiguous(memory_format=torch.channels_last) if layout == "channels last" else t for t in (x, y)]
    found = kernels().aligned(*given, by, share)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=0, atol=1e-4)
    assert torch.equal(found[0][1], x[1])


@marked
def test_kernel_of_luma_and_of_what_is_left() -> None:
    x, y = pair(*SIZE)
    weights = (0.3, 0.6, 0.1)
    both = [kernels().luma(images, weights) for images in (x, y)]
    exact = [
        torch.einsum("nchw,c->nhw", images.double(), images.new_tensor(weights).double())[:, None] for images in (x, y)
    ]
    for one, other in zip(both, exact, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=0, atol=1e-6)
    a, b = (images.roll(1, 3) for images in exact)
    found = kernels().left_of(*both, a.float(), 0.9 * b.float())
    torch.testing.assert_close(found.double(), displacement.left_of(*exact, a, 0.9 * b), rtol=1e-4, atol=1e-6)


@marked
def test_kernel_keeps_to_its_memory_where_images_are_not_a_number() -> None:
    images = pair(*SMALL)
    broken = images[1].clone()
    broken[0, :, 5, 5] = torch.nan
    (x, exact_x), (y, exact_y) = map(levels, (images[0], broken))
    field, share = kernels().coarse_field(x, y)
    assert share[0].isnan()
    expected, of_share = coarse(*([m[1:] for m in exact] for exact in (exact_x, exact_y)))
    torch.testing.assert_close(field.by[1:].double(), expected.by, rtol=0, atol=1e-5)
    torch.testing.assert_close(share[1:].double(), of_share, rtol=0, atol=1e-3)
    _, (found, _, _) = kernels().refined(x, y, field.by)
    assert found.by[1:].isfinite().all()
    aligned = kernels().aligned(*images, found.by, share)
    assert torch.equal(aligned[0][0], images[0][0])


@marked
def test_kernel_has_the_gradients_of_the_operations() -> None:
    x, y = pair(*SIZE)
    by = 0.1 * torch.randn(2, 2, 8, 10, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    share = torch.tensor([0.5, 0.0], device=DEVICE)
    gradients = []
    for dtype in (torch.float32, torch.float64):
        images = [t.to(dtype).requires_grad_() for t in (x, y)]
        (of_x, pyramids) = zip(
            *(((luma := t.mean(1, keepdim=True)), displacement.pyramid(luma)) for t in images), strict=True
        )
        start = Field(by.to(dtype) / 10, by[:, :1].to(dtype).abs())
        if dtype == torch.float32:
            both = displacement._Aligned.apply(*images, by, share, kernels())
            _, _, *extent = displacement._Refined.apply(*of_x, *pyramids, start.by, kernels())
        else:
            both = displacement.plainly_aligned(*images, by.double(), share.double())
            _, extent = displacement.refined(*pyramids, start)
        weights = torch.linspace(-1, 1, both[0].numel(), dtype=dtype, device=DEVICE).reshape(both[0].shape)
        loss = (both[0] * weights).sum() - (both[1] * weights).sum() + sum(100 * e.sum() for e in extent)
        gradients.append(torch.autograd.grad(loss, images))
    for mine, theirs in zip(*gradients, strict=True):
        assert (mine - theirs).abs().max() <= 1e-3 * theirs.abs().max()


@pytest.mark.skipif(INTERPRETED, reason="kernels are chosen as where there are none")
def test_no_kernels_on_a_cpu() -> None:
    assert fused.motion_kernels(torch.rand(1, 1, 4, 4)) is None
