"""Masks: what is outside changes nothing, what is inside is compared by the same equations."""

import itertools
import math
import re
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from damlpips import DAMLPIPS, LPIPS, DAMLPIPSMetric, LPIPSMetric, functional
from damlpips.ops import coverage, displacement
from damlpips.ops.displacement import Field
from tests.support.masks import MASKS, alpha, rectangle, silhouette
from tests.support.modules import KINDS
from tests.support.moved import moved, picture

SIDE = 96
KIND = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def modules() -> dict[str, Any]:
    return {kind: make("nano") for kind, make in KINDS.items()}


@pytest.fixture(scope="module")
def batch() -> tuple[Tensor, Tensor]:
    """Pairs of which the first two moved, the third got noise, and the fourth darker."""
    x = torch.cat([moved(picture(SIDE, seed=seed)) for seed in range(4)])
    noise = 0.1 * torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    y = [
        moved(picture(SIDE), shift=(3, -2)),
        moved(picture(SIDE, seed=1), degrees=3),
        (x[2:3] + noise).clamp(0, 1),
        0.8 * x[3:],
    ]
    return x, torch.cat(y)


def forms(module: Any, x: Tensor, y: Tensor, mask: Tensor | None) -> list[Tensor]:
    found = [module(x, y, mask=mask), module.per_layer(x, y, mask=mask), module.spatial_map(x, y, mask=mask)]
    if isinstance(module, DAMLPIPS) and module.definition.aligns:
        found += [module.displacement(x, y, mask=mask), *module.aligned(x, y, mask=mask)]
    return found + weights(module, x, y, mask)


def weights(module: Any, x: Tensor, y: Tensor, mask: Tensor | None) -> list[Tensor]:
    if not isinstance(module, DAMLPIPS):
        return []
    place, channel, layer, motion = module.weights_for(x, y, mask=mask)
    return [*place, *channel, layer, motion]


@KIND
def test_a_mask_that_covers_all_changes_rounding_only(modules, batch, kind) -> None:
    everything = torch.ones(1, 1, SIDE, SIDE, dtype=torch.bool)
    plain, masked = (forms(modules[kind], *batch, mask) for mask in (None, everything))
    still = [images[2:] for images in batch]  # beyond the edge of what moved, weights are of differences near zero
    weighed = [weights(modules[kind], *still, mask) for mask in (None, everything)]
    count = len(plain) - len(weighed[0])
    # the sums have another order, and the field is the solution of equations made of them
    for a, b in zip([*plain[:count], *weighed[0]], [*masked[:count], *weighed[1]], strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(masked[0], plain[0], rtol=1e-6, atol=1e-6)


@KIND
@pytest.mark.parametrize("name", MASKS)
def test_what_is_outside_changes_nothing(modules, batch, kind, name) -> None:
    mask = MASKS[name](SIDE, SIDE)
    found = forms(modules[kind], *batch, mask)
    generator = torch.Generator().manual_seed(1)
    others: list[Any] = [math.nan, math.inf, -7.0, torch.rand(4, 3, SIDE, SIDE, generator=generator)]
    for one, other in itertools.islice(itertools.permutations(others, 2), 0, None, 6):
        x, y = batch[0].where(mask, one), batch[1].where(mask, other)
        for a, b in zip(found, forms(modules[kind], x, y, mask), strict=True):
            assert a.isfinite().all()
            assert torch.equal(a, b)


@KIND
@pytest.mark.parametrize("name", MASKS)
def test_symmetric_and_zero_for_the_same(modules, batch, kind, name) -> None:
    (x, y), mask, module = batch, MASKS[name](SIDE, SIDE), modules[kind]
    # sums of two differ by their order
    torch.testing.assert_close(module(x, y, mask=mask), module(y, x, mask=mask), rtol=1e-5, atol=1e-6)
    assert (module(x, y, mask=mask) > 0).all()
    assert torch.equal(module(x, y.where(~mask, x), mask=mask), torch.zeros(4))
    assert torch.equal(module(x, x, mask=mask), torch.zeros(4))


@KIND
@pytest.mark.parametrize("name", MASKS)
def test_the_map(modules, batch, kind, name) -> None:
    """It is zero outside; where nothing moves its mean is the score of DAMLPIPS, and near that of LPIPS."""
    mask = MASKS[name](SIDE, SIDE)
    still = [images[2:] for images in batch]
    found, scores = modules[kind].spatial_map(*still, mask=mask), modules[kind](*still, mask=mask)
    assert not found.where(~mask, 0).any()
    mean = found.sum((1, 2, 3)) / mask.sum()
    if kind == "lpips":
        # coarse maps are drawn smoothly, and a thin mask picks a part of them
        torch.testing.assert_close(mean, scores, rtol=0.35, atol=0)
    else:
        torch.testing.assert_close(mean, scores, rtol=1e-5, atol=0)
    assert not modules[kind].spatial_map(*batch, mask=mask)[2:].where(~mask, 0).any()


def area_mean(mask: Tensor, rows: int, columns: int) -> Tensor:
    """Return the mean of the pixels of each place, (rows, columns), in loops."""
    height, width = mask.shape
    found = torch.zeros(rows, columns, dtype=torch.float64)
    for i, j in itertools.product(range(rows), range(columns)):
        top, left = i * height // rows, j * width // columns
        below, right = -(-(i + 1) * height // rows), -(-(j + 1) * width // columns)
        found[i, j] = mask[top:below, left:right].double().mean()
    return found


def listed(m: Tensor, weight: Tensor) -> list[tuple[Tensor, float]]:
    """Return the places of a map (C, H, W) that count, each with its share."""
    share = weight / weight.sum()
    places = itertools.product(range(m.shape[1]), range(m.shape[2]))
    return [(m[:, i, j].double(), float(share[i, j])) for i, j in places if share[i, j] > 0]


def mean(places: list[tuple[Tensor, float]], of: Callable[[Tensor], Any] = lambda v: v) -> Any:
    return sum(share * of(value) for value, share in places)


@pytest.mark.parametrize("name", ["rectangle", "silhouette", "thin"])
def test_lpips_is_a_weighted_mean(name) -> None:
    mask = MASKS[name](48, 40)
    x, y = torch.rand(2, 1, 3, 48, 40, generator=torch.Generator().manual_seed(0))
    module = LPIPS("nano", heads="uniform")
    pair = module.prepared(x, y, mask)
    expected = []
    for a, b in zip(module.encode(pair.x).features, module.encode(pair.y).features, strict=True):
        weight = area_mean(mask[0, 0], *a.shape[2:])
        layer = 0.0
        for (p, share), (q, _) in zip(listed(a[0], weight), listed(b[0], weight), strict=True):
            layer += share * float((p / (p.norm() + 1e-10) - q / (q.norm() + 1e-10)).square().sum())
        expected.append(layer)
    torch.testing.assert_close(module.per_layer(x, y, mask=mask)[0], torch.tensor(expected), rtol=1e-5, atol=0)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("name", ["rectangle", "silhouette", "thin"])
def test_damlpips_is_its_equations(name, version) -> None:
    """Means, energies, spreads, contrast, colours and peaks are over what the mask covers."""
    mask = MASKS[name](48, 40)
    x, y = torch.rand(2, 1, 3, 48, 40, generator=torch.Generator().manual_seed(0))
    module = DAMLPIPS(version=version, align=False)
    pair = module.prepared(x, y, mask)
    gain = 20 if version == 1 else 5
    inside = mask[0, 0]

    def u(d: float) -> float:
        return math.log1p(gain * d) / math.log1p(gain)

    def texture(a: list[tuple[Tensor, float]], b: list[tuple[Tensor, float]]) -> Tensor:
        means, powers = ([mean(m, of) for m in (a, b)] for of in (lambda v: v, torch.square))
        spread = [((p - m.square()).clamp(min=0) + 1e-6 * p + 1e-20).sqrt() for m, p in zip(means, powers, strict=True)]
        return (means[0] - means[1]).square() + (spread[0] - spread[1]).square()

    def contrast(image: Tensor) -> Tensor:
        height, width = inside.shape

        def window(i: int, j: int) -> list[tuple[int, int]]:
            near = itertools.product(range(i - 2, i + 3), range(j - 2, j + 3))
            places = [(min(max(p, 0), height - 1), min(max(q, 0), width - 1)) for p, q in near]
            return [place for place in places if inside[place]]

        off = torch.zeros(image.shape[1:], dtype=torch.float64)
        for i, j in inside.nonzero().tolist():
            off[i, j] = (image[:, i, j] - torch.stack([image[:, p, q] for p, q in window(i, j)]).mean(0)).square().sum()
        found = torch.zeros_like(off)
        for i, j in inside.nonzero().tolist():
            found[i, j] = torch.stack([off[p] for p in window(i, j)]).mean()
        return found

    from damlpips.ops.colour import oklab

    colours = []
    for images in (pair.x, pair.y):
        image = oklab(images.double())[0]
        colours.append(image - 0.75 * mean(listed(image, inside.double()))[:, None, None])
    a, b = (listed(m, inside.double()) for m in colours)
    if version == 1:
        of_image = 0.8 * u(math.sqrt(mean(list(zip_squares(a, b, 0.04)), torch.square)))
        of_image = 0.5 * (of_image + 0.2 * u(float(texture(a, b).sum()) / 0.04))
    else:
        square = (colours[0] - colours[1]).square().sum(0)
        d = square / (((contrast(colours[0]) + 1e-3) * (contrast(colours[1]) + 1e-3)).sqrt() + square / 20)
        peak = math.sqrt(float(d[inside].square().mean()))
        of_image = 0.45 * (0.65 * u(peak) + 0.35 * u(float(texture(a, b).sum()) / 0.04))
    expected = [of_image]
    maps = [module.encode(images).features for images in (pair.x, pair.y)]
    for p, q in zip(*maps, strict=True):
        weight = area_mean(inside, *p.shape[2:])
        a, b = listed(p[0], weight), listed(q[0], weight)
        energy = (mean(a, torch.square) + mean(b, torch.square)) / 2
        channel = ((energy.mean() + 1e-10) / (energy + 1e-3 * energy.mean() + 1e-10)).sqrt()
        squares = []
        for (v, share), (w, _) in zip(a, b, strict=True):
            own = float((v.square() + w.square()).sum()) / 2
            at = 0.25 * own + 0.75 * float(energy.sum()) + 1e-10
            squares.append(share * (float((channel * (v - w).square()).sum()) / at) ** 2)
        structure = math.sqrt(sum(squares))
        of_texture = float((channel * texture(a, b)).sum()) / (float(energy.sum()) + 1e-10)
        kappa, whole = (0.2, 0.5) if version == 1 else (0.1, 0.55)
        expected.append(whole / len(maps[0]) * ((1 - kappa) * u(structure) + kappa * u(of_texture)))
    found = module.per_layer(x, y, mask=mask)[0][: len(expected)]
    # the network's features and Oklab are float32 there
    torch.testing.assert_close(found, torch.tensor(expected), rtol=2e-5, atol=1e-7)


def zip_squares(
    a: list[tuple[Tensor, float]], b: list[tuple[Tensor, float]], energy: float
) -> list[tuple[Tensor, float]]:
    return [((v - w).square().sum() / energy, share) for (v, share), (w, _) in zip(a, b, strict=True)]


@KIND
def test_a_rectangle_is_near_its_crop(modules, batch, kind) -> None:
    """Not equal: beyond a crop's border the network sees zeros, beyond a mask's the continued image."""
    still = [images[2:] for images in batch]
    crop = [images[..., 24:72, 24:72] for images in still]
    # of 48 x 48 pixels most are near the border; LPIPS scores the darker image low, so that little makes a difference
    most = 0.3 if kind == "lpips" else 0.15
    torch.testing.assert_close(modules[kind](*still, mask=rectangle()), modules[kind](*crop), rtol=most, atol=0)


@pytest.mark.parametrize("name", ["alex", "squeeze", "damlpips"])
def test_a_rectangle_is_near_its_crop_in_photographs(photographs, shared, name) -> None:
    weights = {"alex": "alexnet", "squeeze": "squeezenet1_1"}
    file = shared / "weights" / f"{weights.get(name)}_features.safetensors"
    module = DAMLPIPS() if name == "damlpips" else LPIPS(name, weights=file)
    x, y = photographs(4, 208, 208)
    crop = [images[..., 40:168, 40:168] for images in (x, y)]
    torch.testing.assert_close(module(x, y, mask=rectangle(208, 208, 40)), module(*crop), rtol=0.3, atol=0)


def test_only_what_is_covered_is_followed() -> None:
    """The left half moves, the right half gets noise: the masks of the halves tell them apart."""
    metric = DAMLPIPS()
    x, shifted = moved(picture(SIDE)), moved(picture(SIDE), shift=(4, 0))
    left = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.bool)
    left[..., : SIDE // 2] = True
    noisy = (x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    y = shifted.where(left, noisy)
    found = metric.displacement(x, y, mask=left)[0, 0, 16:-16, 16 : SIDE // 2 - 16]
    torch.testing.assert_close(found, torch.full_like(found, 4), rtol=0, atol=0.5)
    assert not metric.displacement(x, y, mask=~left).any()
    assert torch.equal(metric.displacement(x, shifted, mask=~left) != 0, torch.ones(1, 2, SIDE, SIDE, dtype=torch.bool))
    # what has only moved is nearly right, and what is noisy is not
    whole = metric.per_layer(x, y)[0].sum()
    assert metric(x, y, mask=left) < 0.7 * whole < metric(x, y, mask=~left)


def test_a_moving_object() -> None:
    """An object moves before a background that stays: with its mask the motion is the object's."""
    metric = DAMLPIPS()
    background, large = moved(picture(SIDE, seed=5)), picture(SIDE)
    opaque = alpha()
    x, y = (torch.lerp(background, moved(large, shift=shift), opaque) for shift in ((0, 0), (5, 0)))
    inside = silhouette()
    found = metric.displacement(x, y, mask=inside)
    middle = torch.nn.functional.avg_pool2d(inside.float(), 25, 1, 12) > 0.99
    assert middle.sum() > 20
    torch.testing.assert_close(found[:, :1][middle], torch.full((int(middle.sum()),), 5.0), rtol=0, atol=1)
    reversed_ = metric.displacement(y, x, mask=inside)
    torch.testing.assert_close(reversed_, -found, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("apart", [0, 3, 6])
def test_masks_that_a_motion_leaves(apart) -> None:
    """Of lines narrower than the motion nothing is left to compare in the middle frame: they are compared in place."""
    metric = DAMLPIPS()
    x, y = moved(picture(SIDE)), moved(picture(SIDE), shift=(6, 0))
    mask = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.bool)
    mask[..., 40] = mask[..., 40 + apart] = True
    for found in forms(metric, x, y, mask):
        assert found.isfinite().all()
    if apart < 6:
        assert not metric.displacement(x, y, mask=mask).any()
        assert metric(x, y, mask=mask) > 2 * metric(x, y)
    torch.testing.assert_close(metric(x, y, mask=mask), metric(y, x, mask=mask), rtol=1e-5, atol=1e-6)


def test_a_field_that_leaves_the_mask_has_no_extent() -> None:
    by, none = torch.rand(2, 2, 12, 16), torch.zeros(2, 1, 12, 16)
    for found in displacement.extent(Field(by, none, none)):
        assert found.isfinite().all()


def test_thin_masks_of_whatever_moves(batch) -> None:
    """Scores are finite where fields lead out of the mask, and nothing moves where they do."""
    metric = DAMLPIPS()
    x = batch[0]
    others = [*batch[1:], 0.5 * x + 0.25, x.flip(3), x.roll(1, 0), x.transpose(2, 3)]
    lines = (torch.arange(SIDE) % 40 < 1).expand(1, 1, SIDE, SIDE)
    for mask, y in itertools.product((lines, lines.transpose(2, 3), MASKS["pixel"]()), others):
        assert metric(x, y, mask=mask).isfinite().all()
        assert metric.spatial_map(x, y, mask=mask).isfinite().all()


def test_where_values_are_not_read(modules, batch) -> None:
    """As on an accelerator: all pairs are refined, those in which nothing moved as well."""
    masks = torch.cat([make() for make in MASKS.values()])
    expected = forms(modules["damlpips"], *batch, masks)
    with mock.patch("damlpips.models.alignment.on_cpu", return_value=False):
        found = forms(modules["damlpips"], *batch, masks)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_an_empty_mask_that_is_not_read_scores_nan(batch) -> None:
    with mock.patch("damlpips.models.inputs.on_cpu", return_value=False):
        for make in KINDS.values():
            found = make("nano")(*batch, mask=empty(4, 2, SIDE, SIDE))
            assert found.isnan().tolist() == [False, False, True, False]
        metric = DAMLPIPSMetric()
        with pytest.raises(ValueError, match="number 2 of the batch: its score is nan"):
            metric.update(*batch, mask=empty(4, 2, SIDE, SIDE))


@KIND
@pytest.mark.parametrize("name", ["silhouette", "pixel"])
def test_gradients(batch, kind, name) -> None:
    """They are those of the score, finite, and none is outside."""
    module, mask = KINDS[kind]("nano").double(), MASKS[name](SIDE, SIDE)
    # those of what has moved hold the field fixed
    x, y = (images[2:].double() for images in batch)
    x = x.where(mask, math.nan).requires_grad_()
    (gradient,) = torch.autograd.grad(module(x, y, mask=mask).sum(), x)
    assert gradient.isfinite().all()
    assert gradient.any()
    assert not gradient.where(~mask, 0).any()
    way = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        above, below = (module(x + step * way, y, mask=mask).sum() for step in (1e-6, -1e-6))
    torch.testing.assert_close((gradient * way).sum(), (above - below) / 2e-6, rtol=1e-4, atol=1e-8)


def test_gradients_of_what_moved(batch) -> None:
    x, y = (images.clone().requires_grad_() for images in batch)
    mask = silhouette()
    for gradient in torch.autograd.grad(DAMLPIPS()(x, y, mask=mask).sum(), (x, y)):
        assert gradient.isfinite().all()
        assert gradient.flatten(1).any(1).all()
        assert not gradient.where(~mask, 0).any()


@KIND
def test_a_batch_has_the_scores_of_its_pairs(modules, batch, kind) -> None:
    masks = torch.cat([make(SIDE, SIDE) for make in MASKS.values()])
    alone = [modules[kind](a[None], b[None], mask=m[None]) for a, b, m in zip(*batch, masks, strict=True)]
    torch.testing.assert_close(modules[kind](*batch, mask=masks), torch.cat(alone), rtol=1e-5, atol=1e-6)
    exact = KINDS[kind]("nano", deterministic=True)
    alone = [exact(a[None], b[None], mask=m[None]) for a, b, m in zip(*batch, masks, strict=True)]
    assert torch.equal(exact(*batch, mask=masks), torch.cat(alone))


@KIND
def test_one_mask_for_all(modules, batch, kind) -> None:
    mask = silhouette()
    expected = modules[kind](*batch, mask=mask.expand(4, -1, -1, -1))
    assert torch.equal(modules[kind](*batch, mask=mask), expected)


@KIND
def test_types_and_ranges(modules, batch, kind) -> None:
    mask = silhouette()
    bytes_ = [(images * 255).round().to(torch.uint8).where(mask, 200) for images in batch]
    expected = modules[kind](*(images / 255 for images in bytes_), mask=mask)
    # what continues bytes is rounded to bytes
    torch.testing.assert_close(modules[kind](*bytes_, mask=mask), expected, rtol=0.01, atol=1e-3)
    wide = KINDS[kind]("nano", value_range=(-1, 1))
    torch.testing.assert_close(wide(*(2 * (i / 255) - 1 for i in bytes_), mask=mask), expected, rtol=1e-4, atol=1e-5)
    half = [images.to(torch.bfloat16) for images in batch]
    expected = modules[kind](*(images.float() for images in half), mask=mask)
    torch.testing.assert_close(modules[kind](*half, mask=mask).float(), expected, rtol=0.03, atol=3e-3)


@KIND
def test_grey(batch, kind) -> None:
    mask, module = silhouette(), KINDS[kind]("nano", grey="repeat")
    grey = [images.mean(1, keepdim=True) for images in batch]
    whole = [images.repeat(1, 3, 1, 1) for images in grey]
    assert torch.equal(module(*grey, mask=mask), module(*whole, mask=mask))


@pytest.mark.parametrize("version", [1, 2])
def test_a_mask_is_averaged_down_with_the_images(version) -> None:
    """At the viewing side what is outside changes nothing either, and the score is near that of the smaller images."""
    metric = DAMLPIPS(version=version, viewing_side=48)
    x = moved(picture(SIDE))
    y = (x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    mask = silhouette()
    found = metric(x, y, mask=mask)
    assert torch.equal(metric(x.where(mask, math.nan), y.where(mask, 1), mask=mask), found)
    small = [torch.nn.functional.interpolate(v, (48, 48), mode="bilinear", antialias=True) for v in (x, y)]
    expected = metric(*small, mask=mask[..., ::2, ::2])
    # whose mask is that of every second pixel
    torch.testing.assert_close(found, expected, rtol=0.15, atol=0)
    resized = DAMLPIPS(version=version, resize=48)
    torch.testing.assert_close(resized(x, y, mask=mask), found, rtol=1e-4, atol=0)
    assert resized.spatial_map(x, y, mask=mask).shape == (1, 1, 48, 48)


@KIND
def test_videos(modules, batch, kind) -> None:
    x, y = (images[None].expand(2, -1, -1, -1, -1) for images in batch)
    module = KINDS[kind]("nano", video=True)
    masks = torch.stack([torch.cat([make(SIDE, SIDE) for make in MASKS.values()]), silhouette().expand(4, -1, -1, -1)])
    expected = torch.stack([modules[kind](*batch, mask=mask).mean() for mask in masks])
    torch.testing.assert_close(module(x, y, mask=masks), expected, rtol=1e-5, atol=1e-6)
    # one of all frames, one of all videos
    assert torch.equal(module(x, y, mask=masks[1:, :1])[1], module(x, y, mask=masks)[1])
    assert module.spatial_map(x, y, mask=masks).shape == (2, 4, 1, SIDE, SIDE)


@pytest.mark.parametrize("options", [{"compile": True}, {"cuda_graphs": True}])
def test_goes_without_a_compiler_and_recorded_graphs(batch, options) -> None:
    module = LPIPS("nano", heads="uniform", **options)
    expected = LPIPS("nano", heads="uniform")(*batch, mask=silhouette())
    assert torch.equal(module(*batch, mask=silhouette()), expected)
    assert module._compiled is None
    assert module._graphed is None


def test_comparison_of_means(batch) -> None:
    mask = silhouette()
    both, place = (LPIPS("nano", heads="uniform", comparison=c) for c in ("spatial+mean", "spatial"))
    means = LPIPS("nano", heads="uniform", comparison="mean")
    torch.testing.assert_close(both(*batch, mask=mask), place(*batch, mask=mask) + means(*batch, mask=mask))
    assert (means(*batch, mask=mask) != means(*batch)).all()


def test_images_that_fit_a_tile(batch) -> None:
    module = DAMLPIPS(tile=128)
    assert torch.equal(module(*batch, mask=silhouette()), DAMLPIPS()(*batch, mask=silhouette()))


@pytest.mark.parametrize("make", [lambda: LPIPS("nano", heads="uniform"), lambda: DAMLPIPS(align=False)])
def test_export(batch, make) -> None:
    class Masked(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.metric = make()

        def forward(self, x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
            return self.metric(x, y, mask=mask)

    module, mask = Masked().eval(), silhouette().expand(4, -1, -1, -1).contiguous()
    program = torch.export.export(module, (*batch, mask)).module()
    torch.testing.assert_close(program(*batch, mask), module(*batch, mask), rtol=1e-5, atol=1e-7)


# --- one-call forms and metrics --------------------------------------------------------------------------------------


def test_in_one_call(modules, batch) -> None:
    mask = silhouette()
    found = functional.lpips(*batch, mask=mask, backbone="nano", heads="uniform")
    assert torch.equal(found, modules["lpips"](*batch, mask=mask))
    assert torch.equal(functional.damlpips(*batch, mask=mask), modules["damlpips"](*batch, mask=mask))


def test_metrics_average_over_pairs(modules, batch) -> None:
    masks = torch.cat([make(SIDE, SIDE) for make in MASKS.values()])
    metric = DAMLPIPSMetric()
    x = batch[0].where(masks, math.nan)  # what is outside is not looked at
    metric.update(x[:2], batch[1][:2], mask=masks[:2])
    metric.update(x[2:], batch[1][2:], index=[2, 3], mask=masks[2:])
    expected = modules["damlpips"](*batch, mask=masks)
    torch.testing.assert_close(metric.compute(), expected.mean(), rtol=1e-5, atol=0)
    step = LPIPSMetric("nano", heads="uniform")
    torch.testing.assert_close(step(*batch, mask=masks), modules["lpips"](*batch, mask=masks).mean())


def test_metrics_in_a_collection_see_the_mask(batch) -> None:
    from torchmetrics import MetricCollection

    mask = silhouette()
    metrics = MetricCollection({"a": LPIPSMetric("nano", heads="uniform"), "b": DAMLPIPSMetric()})
    metrics.update(*batch)  # whose maps are kept for both
    metrics.reset()
    metrics.update(*batch, mask=mask)
    found = metrics.compute()
    torch.testing.assert_close(found["a"], KINDS["lpips"]("nano")(*batch, mask=mask).mean())
    torch.testing.assert_close(found["b"], KINDS["damlpips"]("nano")(*batch, mask=mask).mean())


def test_metrics_refuse_what_is_wrong_inside(batch) -> None:
    mask = silhouette()
    x = batch[0].clone()
    x[1:2] = x[1:2].where(~mask, 5)
    metric = DAMLPIPSMetric()
    with pytest.raises(ValueError, match="first image, number 1 of the batch"):
        metric.update(x, batch[1], mask=mask)
    skipping = DAMLPIPSMetric(on_error="skip")
    skipping.update(x, batch[1], mask=mask)
    assert skipping.skipped == 1


def test_metrics_of_videos(batch) -> None:
    x, y = (images[None] for images in batch)
    metric = LPIPSMetric("nano", heads="uniform", video=True)
    metric.update(x.where(silhouette(), math.nan), y, mask=silhouette()[None])
    expected = KINDS["lpips"]("nano")(*batch, mask=silhouette()).mean()
    torch.testing.assert_close(metric.compute(), expected, rtol=1e-5, atol=0)


# --- what is refused -------------------------------------------------------------------------------------------------


def empty(n: int, number: int, *size: int) -> Tensor:
    mask = torch.ones(n, 1, *size, dtype=torch.bool)
    mask[number] = False
    return mask


GOOD = torch.ones(4, 1, SIDE, SIDE, dtype=torch.bool)
REFUSED = {
    "float": (GOOD.float(), TypeError, "expected torch.bool, got torch.float32: use mask > 0.5"),
    "bytes": (GOOD.byte(), TypeError, "expected torch.bool, got torch.uint8: use mask != 0"),
    "array": (GOOD.numpy(), TypeError, "a torch.Tensor of bool, got numpy.ndarray"),
    "no channel": (GOOD[:, 0], ValueError, "expected (4, 1, 96, 96), or 1 in place of 4, got (4, 96, 96)"),
    "three channels": (GOOD.expand(-1, 3, -1, -1), ValueError, "got (4, 3, 96, 96)"),
    "two": (GOOD[:2], ValueError, "got (2, 1, 96, 96)"),
    "size": (GOOD[..., 1:], ValueError, "got (4, 1, 96, 95)"),
    "device": (GOOD.to("meta"), ValueError, "mask is on meta, the images are on cpu"),
    "empty": (empty(4, 2, SIDE, SIDE), ValueError, "got none in number 2"),
}


@KIND
@pytest.mark.parametrize("name", REFUSED)
def test_bad_masks(modules, batch, kind, name) -> None:
    mask, error, message = REFUSED[name]
    for call in (modules[kind], modules[kind].per_layer, modules[kind].spatial_map):
        with pytest.raises(error, match=re.escape(message)):
            call(*batch, mask=mask)


@KIND
def test_encoded_images(modules, batch, kind) -> None:
    x, y = batch
    for pair in ((modules[kind].encode(x), y), (x, modules[kind].encode(y))):
        with pytest.raises(TypeError, match=r"mask: expected images, got an Encoded .* have seen what is outside"):
            modules[kind](*pair, mask=silhouette())


@KIND
def test_keys(modules, batch, kind) -> None:
    with pytest.raises(ValueError, match="mask: expected no reference_key beside it"):
        modules[kind](*batch, list("abcd"), mask=silhouette())
    metric = LPIPSMetric("nano", heads="uniform")
    with pytest.raises(ValueError, match="mask: expected no reference_key beside it"):
        metric.update(*batch, reference_key=list("abcd"), mask=silhouette())


def test_tiles(batch) -> None:
    with pytest.raises(ValueError, match=r"compared whole, got 96 x 96 pixels with tile=64: .*use tile=None"):
        DAMLPIPS(tile=64, viewing_side=None)(*batch, mask=silhouette())


def test_sorted_features(batch) -> None:
    with pytest.raises(ValueError, match=r"mask: comparison='spatial.sort' sorts"):
        LPIPS("nano", heads="uniform", comparison="spatial+sort")(*batch, mask=silhouette())


def test_sizes_that_differ(batch) -> None:
    x, y = batch
    for resize in ("reference", 64):
        with pytest.raises(
            ValueError, match=r"mask: expected images of one size.*got 96 x 80 and 96 x 96: resize them"
        ):
            DAMLPIPS(resize=resize)(x[..., :80], y, mask=silhouette())
    with pytest.raises(ValueError, match="the two images must have one size"):
        DAMLPIPS()(x[..., :80], y, mask=silhouette())


def test_pairwise(batch) -> None:
    with pytest.raises(TypeError, match="mask"):
        functional.pairwise(batch[0], mask=silhouette())


def test_videos_without_a_place(batch) -> None:
    module = LPIPS("nano", heads="uniform", video=True)
    x = batch[0][None]
    with pytest.raises(ValueError, match="got none in number 0, frame 2"):
        module(x, x, mask=empty(4, 2, SIDE, SIDE)[None])
    with pytest.raises(ValueError, match=re.escape("expected (1, 4, 1, 96, 96), or 1 in place of 4")):
        module(x, x, mask=silhouette())


def test_continued_images() -> None:
    """A plane stays one, what is covered is kept, and a constant is continued as such."""
    flat = torch.full((1, 3, 33, 47), 0.3)
    mask = silhouette(33, 47).float()
    torch.testing.assert_close(coverage.continued(flat, mask), flat)
    image = torch.rand(2, 3, 33, 47)
    found = coverage.continued(image, mask.expand(2, -1, -1, -1))
    assert torch.equal(found.where(mask > 0, 0), image.where(mask > 0, 0))
    assert found.amin() >= image.amin() - 1e-6
    assert found.amax() <= image.amax() + 1e-6
