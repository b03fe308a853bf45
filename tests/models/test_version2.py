"""DAMLPIPS, version 2: the definition in loops, what it keeps of the rest, and what a motion changes."""

import itertools
import math
import warnings
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from damlpips import DAMLPIPS, LPIPS, Backbone, DAMLPIPSMetric
from damlpips.functional import pairwise
from damlpips.models import version2
from damlpips.models.alignment import Motion
from damlpips.ops import distance
from tests.support.moved import moved, picture
from tests.support.reference import noise

SIZE = 96


def cut(seed: int = 0, **motion) -> Tensor:
    return moved(picture(SIZE, seed=seed), **motion)


@pytest.fixture(scope="module")
def metric() -> DAMLPIPS:
    return DAMLPIPS(version=2)


@pytest.fixture(scope="module")
def batch() -> tuple[Tensor, Tensor]:
    """Pairs of which the first two moved, the third got noise, and the fourth is the same."""
    x = torch.cat([cut(seed) for seed in range(4)])
    generator = torch.Generator().manual_seed(0)
    distorted = (x[2:3] + 0.1 * torch.randn(x[2:3].shape, generator=generator)).clamp(0, 1)
    return x, torch.cat([cut(0, shift=(3, -2)), cut(1, degrees=3), distorted, x[3:]])


def plain_score(metric: DAMLPIPS, x: Tensor, y: Tensor, motion: tuple[float, float, float, float]) -> float:
    """Return the score of a pair of aligned images by the equations of the docstring, in Python's numbers.

    `motion` is (share, distance, strain, unexplained).
    """

    def u(d: float) -> float:
        return math.log1p(5 * d) / math.log1p(5)

    a, b = (images[0].double() for images in (metric.layers(x)[0], metric.layers(y)[0]))
    _, h, w = a.shape

    def deviation(image: Tensor) -> Tensor:
        def mean(values: Tensor, row: int, column: int) -> Tensor:
            window = [
                values[..., min(max(row + i, 0), h - 1), min(max(column + j, 0), w - 1)]
                for i in range(-2, 3)
                for j in range(-2, 3)
            ]
            return torch.stack(window).mean(0)

        off = image.clone()
        for row, column in itertools.product(range(h), range(w)):
            off[:, row, column] -= mean(image, row, column)
        square = off.square().sum(0)
        found = square.clone()
        for row, column in itertools.product(range(h), range(w)):
            found[row, column] = mean(square, row, column)
        return found

    square, masked = (a - b).square().sum(0), ((deviation(a) + 0.001) * (deviation(b) + 0.001)).sqrt()
    d = square / (masked + square / 20)
    means, spreads = (
        [f(m.flatten(1)) for m in (a, b)] for f in (lambda m: m.mean(1), lambda m: m.std(1, correction=0))
    )
    texture = sum((p - q).square().sum().item() for p, q in (means, spreads)) / 0.04
    score = 0.45 * (0.65 * u(d.square().mean().sqrt().item()) + 0.35 * u(texture))
    network = list(zip(metric.layers(x)[1:], metric.layers(y)[1:], strict=True))
    for f, g in network:
        compared = distance.compare(f, g, distance.Adaptive(0.25, 0.5))
        score += 0.55 / len(network) * (0.9 * u(compared.structure.item()) + 0.1 * u(compared.texture.item()))
    share, far, strain, left = motion
    extent = share * (far + strain / 2)
    seams = 2 * extent
    return score * ((1 + seams) * left / (left + seams) if extent else 1) + 0.8 * math.tanh(5 * extent) * (1 - left)


def motions(metric: DAMLPIPS, x: Tensor, y: Tensor) -> list[tuple[float, float, float, float]]:
    motion = metric._middle(x, y).motion
    assert motion is not None
    columns = motion.share, motion.distance, motion.strain, motion.unexplained
    return [tuple(float(c) for c in row) for row in zip(*columns, strict=True)]


def test_the_equations(metric, batch) -> None:
    small = [images[:, :, 20:60, 30:70].contiguous() for images in batch]
    a, b = metric.aligned(*small)
    expected = [
        plain_score(metric, a[k : k + 1], b[k : k + 1], motion) for k, motion in enumerate(motions(metric, *small))
    ]
    assert max(share for share, *_ in motions(metric, *small)) == 1
    torch.testing.assert_close(metric(*small), torch.tensor(expected).float(), rtol=1e-4, atol=1e-6)


def test_what_moved_is_close_and_what_is_distorted_is_not(metric, batch) -> None:
    moved_scores, (distorted, same) = metric(*batch)[:2], metric(*batch)[2:]
    assert same == 0
    assert (moved_scores > 0.02).all()
    assert (3 * moved_scores < distorted).all()
    assert (3 * moved_scores < DAMLPIPS(version=2, align=False)(*batch)[:2]).all()


def test_where_nothing_moves_align_makes_no_difference(metric, batch) -> None:
    x, y = (images[2:] for images in batch)
    torch.testing.assert_close(metric(x, y), DAMLPIPS(version=2, align=False)(x, y), rtol=0, atol=0)
    assert metric.displacement(x, y).abs().max() == 0
    for seen, image in zip(metric.aligned(x, y), (x, y), strict=True):
        torch.testing.assert_close(seen, image, rtol=0, atol=0)


def test_alone_and_in_a_batch(metric, batch) -> None:
    x, y = batch
    alone = torch.cat([metric(x[k : k + 1], y[k : k + 1]) for k in range(4)])
    torch.testing.assert_close(metric(x, y), alone, rtol=1e-5, atol=1e-7)


def test_symmetric(metric, batch) -> None:
    x, y = batch
    torch.testing.assert_close(metric(x, y), metric(y, x), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(metric.displacement(x, y), -metric.displacement(y, x), rtol=0, atol=1e-4)


def test_displacement_is_in_pixels_of_the_images(metric) -> None:
    x, y = cut(), cut(shift=(3, -2))
    expected = torch.tensor([3.0, -2.0])
    inner = metric.displacement(x, y)[0, :, 10:-10, 10:-10]
    assert inner.shape == (2, SIZE - 20, SIZE - 20)
    torch.testing.assert_close(inner.mean((1, 2)), expected, rtol=0, atol=0.1)
    # images that are averaged down before they are compared
    larger = DAMLPIPS(version=2, viewing_side=64)
    found = larger.displacement(x, y)
    assert found.shape == (1, 2, SIZE, SIZE)
    torch.testing.assert_close(found[0, :, 10:-10, 10:-10].mean((1, 2)), expected, rtol=0, atol=0.2)


def test_what_is_displaced_is_found_without_the_network(metric, batch) -> None:
    def run(*_: object, **__: object) -> None:
        raise AssertionError("the network ran")

    expected = metric.displacement(*batch), *metric.aligned(*batch)
    kept = metric.encode(batch[0])
    with mock.patch.object(type(metric.backbone), "forward", run):
        for x in (batch[0], kept):
            found = metric.displacement(x, batch[1]), *metric.aligned(x, batch[1])
            for one, other in zip(found, expected, strict=True):
                torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_layers_add_up(metric, batch) -> None:
    added, scores = metric.per_layer(*batch), metric(*batch)
    assert added.shape == (4, 1 + 3 + 1)
    torch.testing.assert_close(added.sum(1), scores)
    assert (added[:2, -1] > 0).all()
    assert (added[2:, -1] == 0).all()
    torch.testing.assert_close(metric.spatial_map(*batch).mean((1, 2, 3)), scores, rtol=1e-4, atol=1e-6)


def test_the_map_shows_where_the_aligned_images_differ(metric) -> None:
    x, y = cut(), cut(shift=(4, 0))
    y = y.clone()
    y[..., 40:60, 40:60] = 1 - y[..., 40:60, 40:60]
    found = metric.spatial_map(x, y)[0, 0]
    at = divmod(int(found.argmax()), SIZE)
    assert all(36 < place < 64 for place in at)


def test_weights_make_the_score(metric, batch) -> None:
    weights = metric.weights_for(*batch)
    layers = [metric.layers(images) for images in metric.aligned(*batch)]
    score = weights.motion.clone()
    for place, channel, layer, a, b in zip(
        weights.place, weights.channel, weights.layer.unbind(1), *layers, strict=True
    ):
        square = (channel[:, :, None, None] * (a - b).square()).sum(1, keepdim=True)
        score += layer * (place * square).mean((1, 2, 3))
    torch.testing.assert_close(score, metric(*batch), rtol=1e-4, atol=1e-6)


class TestEncoded:
    def test_in_either_place(self, metric, batch) -> None:
        x, y = batch
        expected = metric(x, y)
        for pair in ((metric.encode(x), y), (x, metric.encode(y)), (metric.encode(x), metric.encode(y))):
            torch.testing.assert_close(metric(*pair), expected, rtol=1e-5, atol=1e-6)

    def test_one_for_many(self, metric, batch) -> None:
        _, y = batch
        one = cut()
        expected = metric(one.expand(4, -1, -1, -1), y)
        torch.testing.assert_close(metric(metric.encode(one), y), expected, rtol=1e-5, atol=1e-6)

    def test_references_with_a_key(self, batch) -> None:
        metric = DAMLPIPS(version=2)
        x, y = batch
        expected = metric(y, x)
        for _ in range(2):
            torch.testing.assert_close(metric(y, x, reference_key=list("abcd")), expected, rtol=1e-5, atol=1e-6)

    def test_pairwise(self, metric, batch) -> None:
        x, y = batch
        matrix = pairwise(x, y, metric=metric)
        torch.testing.assert_close(matrix.diagonal(), metric(x, y), rtol=1e-4, atol=1e-6)

    def test_what_version_1_keeps_has_no_pixels(self, metric, batch) -> None:
        with pytest.raises(ValueError, match="keep the pixels that are aligned, got those of version 1"):
            metric(DAMLPIPS(metric.backbone, version=1).encode(batch[0]), batch[1])
        kept = LPIPS(metric.backbone, heads="uniform").encode(batch[0])
        torch.testing.assert_close(metric(kept, batch[1]), metric(*batch), rtol=1e-5, atol=1e-6)


class TestTiles:
    @pytest.mark.parametrize("motion", [{"shift": (5, -3)}, {"degrees": 3.0}, {}])
    @pytest.mark.parametrize("options", [{}, {"align": False}])
    def test_they_hold_what_the_whole_image_gives(self, motion, options) -> None:
        x, y = (moved(picture(200), **m) for m in ({}, motion))
        y = (y + 0.02 * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
        whole, tiled = (DAMLPIPS(version=2, viewing_side=None, tile=tile, **options) for tile in (None, 96))
        torch.testing.assert_close(tiled.per_layer(x, y), whole.per_layer(x, y), rtol=1e-4, atol=1e-7)
        # sums of a window round by the size of what is added; differences on plain ground are divided by little
        torch.testing.assert_close(tiled.spatial_map(x, y), whole.spatial_map(x, y), rtol=1e-3, atol=1e-3)

    def test_gradients(self) -> None:
        gradients = []
        for tile in (None, 96):
            x, y = moved(picture(160)).requires_grad_(), moved(picture(160), shift=(4, 1))
            DAMLPIPS(version=2, viewing_side=None, tile=tile)(x, y).sum().backward()
            gradients.append(x.grad)
        torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4 * float(gradients[0].abs().max()))

    def test_a_network_that_sees_less_than_the_windows_of_the_image(self) -> None:
        network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.Softplus())
        backbone = Backbone(network, taps=["1"], min_size=5)
        x, y = moved(picture(160)), moved(picture(160), degrees=2)
        whole, tiled = (DAMLPIPS(backbone, version=2, viewing_side=None, tile=tile) for tile in (None, 64))
        torch.testing.assert_close(tiled(x, y), whole(x, y), rtol=1e-5, atol=1e-7)


def test_types(metric, batch) -> None:
    x, y = batch
    expected = metric(x, y)
    torch.testing.assert_close(
        DAMLPIPS(version=2).double()(x.double(), y.double()).float(), expected, rtol=1e-3, atol=1e-5
    )
    assert metric(x.bfloat16(), y).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(metric(x, y), expected, rtol=0.05, atol=1e-3)
    bytes_x, bytes_y = ((255 * images).round().byte() for images in (x, y))
    torch.testing.assert_close(metric(bytes_x, bytes_y), metric(bytes_x / 255, bytes_y / 255), rtol=1e-4, atol=1e-6)
    other = DAMLPIPS(version=2, value_range=(-1, 1))(2 * x - 1, 2 * y - 1)
    torch.testing.assert_close(other, expected, rtol=1e-4, atol=1e-6)


def test_other_channels() -> None:
    """Images of two channels, by a network of one layer of them."""
    network = torch.nn.Sequential(torch.nn.Conv2d(2, 4, 3), torch.nn.Softplus())
    backbone = Backbone(network, taps=["1"], channels=2, min_size=5)
    x, y = cut()[:, :2], cut(shift=(4, 1))[:, :2]
    metric = DAMLPIPS(backbone, version=2)
    inner = metric.displacement(x, y)[0, :, 10:-10, 10:-10]
    torch.testing.assert_close(inner.mean((1, 2)), torch.tensor([4.0, 1.0]), rtol=0, atol=0.2)
    assert metric(x, y) < 0.5 * DAMLPIPS(backbone, version=2, align=False)(x, y)


def test_videos(batch) -> None:
    x, y = batch
    frames = DAMLPIPS(version=2)(x, y)
    videos = DAMLPIPS(version=2, video=True)
    torch.testing.assert_close(videos(x[None], y[None]), frames.mean()[None], rtol=1e-5, atol=1e-6)


def test_without_reading_a_value() -> None:
    """Off the CPU nothing waits for values: the meta device has none."""
    metric = DAMLPIPS(version=2).to("meta")
    x, y = (images.to("meta") for images in noise(2, 64, 64))
    assert metric.per_layer(x, y).shape == (2, 5)


def test_followed_operations_give_the_same(metric, batch) -> None:
    """What follows each operation takes every pair as moved, and samples in other ways."""
    x, y = batch
    expected = metric(x, y)
    each = torch.vmap(lambda a, b: metric(a[None], b[None])[0])
    torch.testing.assert_close(each(x, y), expected, rtol=1e-4, atol=1e-6)
    tangent = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    value, along = torch.func.jvp(lambda a: metric(a, y), (x,), (tangent,))
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)
    gradient = torch.func.grad(lambda a: metric(a, y).sum())(x)
    # of those that moved, forward mode also follows the field, which gradients hold fixed
    torch.testing.assert_close((gradient * tangent)[2:].sum((1, 2, 3)), along[2:], rtol=1e-3, atol=1e-5)
    assert along.isfinite().all()
    assert gradient[:2].abs().amax((1, 2, 3)).min() > 0


def test_equal_images_with_a_graph(metric) -> None:
    x, y = (cut().requires_grad_() for _ in range(2))
    score = metric(x, y)
    score.sum().backward()
    assert score.item() == 0
    assert x.grad.isfinite().all()


def descended(metric: DAMLPIPS, start: Tensor, goal: Tensor, steps: int, rate: float) -> Tensor:
    image = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([image], lr=rate)
    for _ in range(steps):
        optimiser.zero_grad()
        metric(image, goal).sum().backward()
        optimiser.step()
        with torch.no_grad():
            image.clamp_(0, 1)
    return image.detach()


def test_as_a_loss_it_pulls_an_image_to_its_reference(metric, batch) -> None:
    goal = batch[0][2:3]
    start = (goal + 0.1 * torch.randn(goal.shape, generator=torch.Generator().manual_seed(3))).clamp(0, 1)
    found = descended(metric, start, goal, 200, 0.01)
    assert metric(found, goal) < 0.2 * metric(start, goal)
    assert (found - goal).square().mean() < 0.05 * (start - goal).square().mean()


def test_as_a_loss_it_undoes_a_shift(metric) -> None:
    goal, start = cut(), cut(shift=(2, 1))
    found = descended(metric, start, goal, 100, 0.01)
    before, after = (metric.displacement(image, goal).square().sum(1).mean().sqrt() for image in (start, found))
    assert after < 0.7 * before
    assert metric(found, goal) < 0.7 * metric(start, goal)
    assert (found - goal).square().mean() < 0.5 * (start - goal).square().mean()


@given(
    st.integers(0, 5),
    st.tuples(st.integers(-6, 6), st.integers(-6, 6)),
    st.sampled_from([0.0, 0.5, 2.0, -5.0]),
    st.sampled_from([0.0, 0.02, 0.2]),
)
@settings(max_examples=25, deadline=None)
def test_a_distance_of_what_moves_and_is_distorted(
    seed: int, shift: tuple[int, int], degrees: float, sigma: float
) -> None:
    metric = DAMLPIPS(version=2)
    x, y = cut(seed), cut(seed, shift=shift, degrees=degrees)
    y = (y + sigma * torch.randn(y.shape, generator=torch.Generator().manual_seed(seed))).clamp(0, 1).requires_grad_()
    score = metric(x, y)
    assert 0 <= score < 3
    torch.testing.assert_close(metric(y, x), score, rtol=1e-4, atol=1e-5)
    score.sum().backward()
    assert y.grad.isfinite().all()
    assert metric(x, x) == 0


class TestMasking:
    def test_differences_hide_in_contrast(self) -> None:
        generator = torch.Generator().manual_seed(0)
        busy, flat = torch.rand(1, 3, 32, 32, generator=generator), torch.full((1, 3, 32, 32), 0.5)
        error = 0.02 * torch.randn(flat.shape, generator=generator)
        in_busy, in_flat = (distance.peak_pool(version2.masked_map(a, a + error)[0]) for a in (busy, flat))
        assert 20 * in_busy < in_flat

    def test_the_gradient_of_the_map(self) -> None:
        a, b = torch.rand(2, 1, 3, 7, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        assert torch.autograd.gradcheck(
            lambda a, b: version2.masked_map(a, b)[0], (a.requires_grad_(), b.requires_grad_())
        )


class TestSeams:
    def motion(self, unexplained: float, distance: float, share: float = 1.0) -> Motion:
        return Motion(torch.zeros(1, 2, 2, 2), *(torch.tensor([v]) for v in (share, distance, 0.0, unexplained)))

    def test_what_a_far_motion_leaves_counts_less(self) -> None:
        near, far = (version2.seen_share(self.motion(0.05, d)) for d in (0.005, 0.1))
        assert near > 0.8
        assert far < 0.3

    def test_what_does_not_move_counts_in_full(self) -> None:
        assert version2.seen_share(self.motion(1.0, 0.1, share=0.0)) == 1
        assert version2.seen_share(self.motion(1.0, 0.1)) == 1


class TestOptions:
    def test_versions_have_their_own_scores_and_digests(self, batch) -> None:
        scores = [DAMLPIPS(version=v)(*batch)[0] for v in (1, 2)]
        assert abs(scores[0] - scores[1]) > 0.1
        digests = [
            DAMLPIPSMetric(**o)._prefix for o in ({"version": 1}, {"version": 2}, {"version": 2, "align": False})
        ]
        assert len(set(digests)) == 3
        assert DAMLPIPSMetric(version=2, align=True)._prefix == digests[1]
        assert DAMLPIPSMetric(version=1, align=False)._prefix == digests[0]

    def test_repr_says_which(self) -> None:
        assert "version=1" in repr(DAMLPIPS(version=1))
        assert "align" not in repr(DAMLPIPS(version=2))
        assert "version=2, align=False" in repr(DAMLPIPS(version=2, align=False))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"version": 3}, "version: expected one of 1, 2, got 3"),
            ({"version": True}, "version: expected one of 1, 2, got True"),
            ({"version": "2"}, "version: expected one of 1, 2, got '2'"),
            ({"version": 1, "align": True}, "align: version 1 of DAMLPIPS compares place with place: use version=2"),
        ],
    )
    def test_bad_values(self, options, message) -> None:
        with pytest.raises(ValueError, match=message):
            DAMLPIPS(**options)

    def test_align_is_a_bool(self) -> None:
        with pytest.raises(TypeError, match="align: expected True, False, or None"):
            DAMLPIPS(version=2, align=1)

    @pytest.mark.parametrize("options", [{"version": 1}, {"version": 2, "align": False}])
    def test_nothing_is_aligned(self, options, batch) -> None:
        metric = DAMLPIPS(**options)
        for method in (metric.displacement, metric.aligned):
            with pytest.raises(ValueError, match="nothing is aligned with"):
                method(*batch)

    def test_a_warning_of_values_out_of_range_comes_once(self, batch) -> None:
        metric = DAMLPIPS(version=2)
        with pytest.warns(UserWarning, match="scored as it is"):
            metric(batch[0] * 1.5, batch[1])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            metric(batch[0] * 1.5, batch[1])
