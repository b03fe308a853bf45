"""The displacement field: what is found of motions that are known, and what is not found where nothing moves."""

import math

import pytest
import torch
from torch import Tensor

from damlpips.ops import displacement
from damlpips.ops.displacement import Affine, Extent, Field
from damlpips.ops.windows import box, nearby, shrunk
from tests.support.moved import moved, picture

SIZE = 128


def luma(**motion) -> Tensor:
    return moved(picture(SIZE), **motion).mean(1, keepdim=True)


def found(x: Tensor, y: Tensor) -> Field:
    levels = [displacement.pyramid(image) for image in (x, y)]
    return displacement.refined(*levels, displacement.coarse_field(*levels))[0]


def explained(x: Tensor, y: Tensor) -> float:
    """Return what the coarse field explains, by which it is decided whether anything has moved."""
    levels = [displacement.pyramid(image) for image in (x, y)]
    a, b = (pyramid[displacement.GRID_LEVEL] for pyramid in levels)
    return float(displacement.explained(a, b, displacement.coarse_field(*levels).by))


def moved_share(x: Tensor, y: Tensor) -> float:
    levels = [displacement.pyramid(image) for image in (x, y)]
    field = displacement.coarse_field(*levels)
    return float(displacement.moved_share(torch.tensor([explained(x, y)]), displacement.extent(field).size))


@pytest.mark.parametrize(("right", "down"), [(1, 0), (0, -1), (3, -2), (-7, 5), (11, 12)])
def test_shifts_are_found_to_a_tenth_of_a_pixel(right: int, down: int) -> None:
    field = found(luma(), luma(shift=(right, down)))
    at = field.by[:, :, 6:-6, 6:-6] * SIZE
    expected = torch.tensor([right, down]).float()[None, :, None, None]
    assert (at - expected).square().sum(1).mean().sqrt() < 0.1 + 0.01 * math.hypot(right, down)
    extent = displacement.extent(field)
    assert float(extent.distance) * SIZE == pytest.approx(math.hypot(right, down), rel=0.05, abs=0.1)
    assert float(extent.strain) < 0.01


@pytest.mark.parametrize("degrees", [1.0, -4.0, 10.0])
def test_a_rotation_is_rigid(degrees: float) -> None:
    extent = displacement.extent(found(luma(), luma(degrees=degrees)))
    # root mean square over a square of the distance from its centre: side / sqrt(6)
    expected = 2 * math.sin(math.radians(abs(degrees)) / 2) / math.sqrt(6)
    assert float(extent.distance) == pytest.approx(expected, rel=0.05, abs=8e-4)  # a tenth of a pixel
    assert float(extent.strain) < 0.01


@pytest.mark.parametrize("zoom", [1.02, 0.95, 1.1])
def test_a_zoom_is_a_strain(zoom: float) -> None:
    extent = displacement.extent(found(luma(), luma(zoom=zoom)))
    # of the middle frame, to which both sides grow or shrink alike
    expected = 2 * abs(zoom - 1) / (zoom + 1)
    assert float(extent.strain) == pytest.approx(expected * math.sqrt(2), rel=0.06)
    assert float(extent.distance) == pytest.approx(expected / math.sqrt(6), rel=0.08)


def test_what_moved_explains_much_and_what_did_not_little() -> None:
    x = luma()
    generator = torch.Generator().manual_seed(1)
    still = {
        "noise": x + 0.05 * torch.randn(x.shape, generator=generator),
        "strong noise": x + 0.15 * torch.randn(x.shape, generator=generator),
        "blur": box(box(x, 5), 5),
        "contrast": 0.5 + 0.6 * (x - 0.5),
        "light": x + 0.1,
    }
    motions = {
        "shift": luma(shift=(1, 1)),
        "far": luma(shift=(12, -9)),
        "turn": luma(degrees=1),
        "zoom": luma(zoom=1.02),
        "shift and noise": luma(shift=(3, 2)) + 0.05 * torch.randn(x.shape, generator=generator),
        "shift and blur": box(luma(shift=(3, 2)), 5),
        "shift and contrast": 0.5 + 0.8 * (luma(shift=(3, 2)) - 0.5),
    }
    shares = {name: explained(x, y) for name, y in still.items()}
    assert max(shares.values()) < displacement.MOVED_FROM, shares
    shares = {name: explained(x, y) for name, y in motions.items()}
    assert min(shares.values()) > displacement.MOVED_TO, shares


def test_a_flat_image_explains_nothing() -> None:
    x = luma()
    flat = torch.full_like(x, 0.8)
    # not even where the field moves all that differs out of sight
    away = torch.tensor([0.9, 0.9])[None, :, None, None].expand(1, 2, 32, 32)
    assert displacement.explained(x, flat, away) == pytest.approx(0, abs=1e-3)
    assert moved_share(x, flat) == 0


def test_a_far_motion_has_to_explain_more() -> None:
    share = displacement.moved_share(torch.full((3,), 0.62), torch.tensor([0.0, 0.05, 0.3]))
    assert share[0] == 1
    assert share[2] == 0
    assert share[0] > share[1] > share[2]
    far = luma(shift=(20, -15)), luma(degrees=12), luma(zoom=1.12)
    assert min(moved_share(luma(), y) for y in far) == 1
    assert max(moved_share(luma(), y) for y in (luma().flip(3), luma().flip(2), 1 - luma())) < 0.1


def test_the_field_of_the_swapped_pair_is_the_negative() -> None:
    x, y = luma(), luma(shift=(4, -2), degrees=2)
    there, back = found(x, y), found(y, x)
    torch.testing.assert_close(there.by, -back.by, rtol=0, atol=1e-6)
    torch.testing.assert_close(there.trust, back.trust, rtol=1e-5, atol=1e-7)


def test_nothing_moves_between_equal_images() -> None:
    x = luma()
    assert found(x, x).by.abs().max() < 1e-7
    flat = torch.full_like(x, 0.5)
    assert found(flat, flat).by.abs().max() == 0
    for image in (x, flat):
        assert displacement.explained(image, image, torch.zeros(1, 2, 4, 4)) == 0


def test_a_pair_does_not_depend_on_its_batch() -> None:
    x, y = torch.cat([luma(), luma(zoom=1.1)]), torch.cat([luma(shift=(3, 1)), luma(degrees=3)])
    whole = found(x, y).by
    torch.testing.assert_close(whole, torch.cat([found(x[k : k + 1], y[k : k + 1]).by for k in range(2)]))


@pytest.mark.parametrize("size", [(33, 47), (16, 16), (20, 100), (1, 5)])
def test_any_size(size: tuple[int, int]) -> None:
    x, y = torch.rand(2, 2, 1, *size, generator=torch.Generator().manual_seed(0))
    field = found(x, y)
    assert field.by.isfinite().all()
    assert field.trust.isfinite().all()
    assert all(part.isfinite().all() for part in displacement.extent(field))


class TestAligned:
    def test_a_shift_by_whole_pixels(self) -> None:
        x, y = (moved(picture(SIZE), shift=(s, 0)) for s in (0, 6))
        u = torch.tensor([6 / SIZE, 0.0])[None, :, None, None].expand(1, 2, 32, 32)
        a, b = displacement.aligned(x, y, u, torch.ones(len(x)))
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4)
        # the middle frame: half of the way
        torch.testing.assert_close(a[..., 8:-8], moved(picture(SIZE), shift=(3, 0))[..., 8:-8], rtol=0, atol=1e-4)

    def test_where_one_image_does_not_reach_it_is_the_other(self) -> None:
        x, y = torch.rand(2, 1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        u = torch.tensor([0.25, 0.0])[None, :, None, None].expand(1, 2, 8, 8)  # 8 pixels
        a, b = displacement.aligned(x, y, u, torch.ones(len(x)))
        # x is seen from 4 pixels to the left, y from 4 to the right
        torch.testing.assert_close(a[..., 4:], x[..., :-4])
        torch.testing.assert_close(b[..., :-4], y[..., 4:])
        torch.testing.assert_close(a[..., :4], b[..., :4])
        torch.testing.assert_close(a[..., -4:], b[..., -4:])

    def test_without_displacement_nothing_changes(self) -> None:
        x, y = torch.rand(2, 2, 3, 20, 24, generator=torch.Generator().manual_seed(0))
        a, b = displacement.aligned(x, y, torch.zeros(2, 2, 5, 6), torch.ones(2))
        torch.testing.assert_close(a, x, rtol=0, atol=1e-5)
        torch.testing.assert_close(b, y, rtol=0, atol=1e-5)


class TestAffine:
    def field(self, coefficients: Tensor, h: int = 24, w: int = 32) -> Tensor:
        row, column = ((torch.arange(n) - (n - 1) / 2) / min(h, w) for n in (h, w))
        base = torch.stack([torch.ones(h, w), column.expand(h, w), row[:, None].expand(h, w)])
        return (coefficients[..., None, None] * base).sum(1)[None]

    def test_an_affine_field_is_its_own(self) -> None:
        c = torch.tensor([[0.02, 0.01, -0.05], [-0.03, 0.05, 0.01]])
        by = self.field(c)
        fit = displacement.affine(Field(by, torch.ones(1, 1, 24, 32)), 0.02)
        torch.testing.assert_close(fit.coefficients[0], c, rtol=2e-3, atol=1e-5)
        torch.testing.assert_close(fit.by, by, rtol=0, atol=2e-4)

    def test_what_moves_by_itself_and_what_is_not_trusted_counts_little(self) -> None:
        c = torch.tensor([[0.02, 0.0, 0.0], [0.0, 0.0, 0.0]])
        by, trust = self.field(c), torch.ones(1, 1, 24, 32)
        by[..., :6, :8] += 0.3
        by[..., 20:, :] -= 0.2
        trust[..., 20:, :] = 0
        fit = displacement.affine(Field(by, trust), 0.02, fits=6)
        assert (fit.by[..., 8:20, 10:] - 0.02 * torch.tensor([1.0, 0.0])[None, :, None, None]).abs().max() < 0.01

    def test_extent(self) -> None:
        trust = torch.ones(1, 1, 32, 32)
        turn = self.field(torch.tensor([[0.0, 0.0, -0.1], [0.0, 0.1, 0.0]]), 32, 32)
        grow = self.field(torch.tensor([[0.0, 0.1, 0.0], [0.0, 0.0, 0.1]]), 32, 32)
        for by, strain in ((turn, 0.0), (grow, 0.1 * math.sqrt(2))):
            extent: Extent = displacement.extent(Field(by, trust))
            assert float(extent.distance) == pytest.approx(0.1 / math.sqrt(6), rel=0.01)
            assert float(extent.strain) == pytest.approx(strain, rel=0.01, abs=1e-3)
        assert isinstance(displacement.affine(Field(turn, trust), 0.02), Affine)


class TestWindows:
    def test_box_is_the_mean_inside(self) -> None:
        x = torch.rand(1, 2, 9, 11, generator=torch.Generator().manual_seed(0))
        expected = torch.nn.functional.avg_pool2d(x, 5, 1)
        torch.testing.assert_close(box(x, 5)[..., 2:-2, 2:-2], expected)

    def test_shrunk_goes_on_beyond_the_edge(self) -> None:
        x = torch.arange(5.0).reshape(1, 1, 1, 5).expand(1, 1, 2, 5)
        torch.testing.assert_close(shrunk(x, 2), torch.tensor([0.5, 2.5, 4.0]).reshape(1, 1, 1, 3))

    def test_nearby_of_a_constant_is_the_constant(self) -> None:
        x = torch.full((1, 1, 13, 9), 0.3)
        torch.testing.assert_close(nearby(x), x)


def test_the_extent_has_the_gradient_that_undoes_a_shift() -> None:
    """Moved a little further, the image is further away: the gradient points there."""
    x, y = luma().requires_grad_(), luma(shift=(3, 0))
    displacement.extent(found(x, y)).distance.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    ahead = luma(shift=(0.2, 0)) - luma()  # x follows y
    assert float((x.grad * ahead).sum()) < 0


def test_what_seldom_moves_is_told_on_a_coarse_level() -> None:
    x = luma()
    noisy = x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    for y, expected in ((noisy, 0.0), (box(x, 5), 0.0), (luma(shift=(1, 1)), 1.0), (luma(degrees=1), 1.0)):
        levels = [displacement.pyramid(image) for image in (x, y)]
        field = displacement.coarse_field(*levels, displacement.HINT_LEVEL)
        a, b = (pyramid[displacement.HINT_LEVEL] for pyramid in levels)
        assert displacement.hinted_share(displacement.explained(a, b, field.by)) == expected
        # what follows goes on from there
        whole = displacement.coarse_field(*levels)
        rest = displacement.coarse_field(*levels, displacement.GRID_LEVEL, field)
        torch.testing.assert_close(rest, whole, rtol=0, atol=0)
