"""Images of any size are compared tile by tile: the same scores, maps and gradients, and never a large tensor."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MetricCollection

from damlpips import DAMLPIPS, LPIPS, Backbone, DAMLPIPSMetric, LPIPSMetric
from damlpips.nets.geometry import geometry, named_geometry, tiling_of
from damlpips.nets.table import BACKBONES
from damlpips.ops.tiling import Axis, Cut, Field, Span, Step, Tile, Tiling, Window
from tests.support import reference
from tests.support.reference import Tiny

# What only the order of float32 sums changes: in convolutions, whose kernels are chosen by size, and over places.
SCORES = {"rtol": 1e-5, "atol": 1e-7}
# A gradient is a sum of such numbers of both signs, in relation to the largest.
GRADIENTS = 1e-4
# Sums in float64 in another order.
EXACT = {"rtol": 1e-9, "atol": 1e-12}

# Any backbone, and large images as they are.
OPTIONS: dict[type, dict[str, object]] = {
    **{kind: {"heads": "uniform"} for kind in (LPIPS, LPIPSMetric)},
    **{kind: {"viewing_side": None} for kind in (DAMLPIPS, DAMLPIPSMetric)},
}

TILED = [name for name in BACKBONES if reference.is_tiled(name)]


def pair(n: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return smooth shapes and the same with noise on one side: the statistics of tiles differ from those of all."""
    x, noise = reference.noise(n, height, width)
    x = F.interpolate(x[..., ::9, ::9], (height, width), mode="bicubic").clamp(0, 1)
    return x, (x + (noise - 0.5) * torch.linspace(0, 0.6, width)).clamp(0, 1)


def tiny(kind: type = LPIPS, **options) -> LPIPS | DAMLPIPS:
    return kind(Backbone(Tiny(), min_size=5, name="tiny"), **{**OPTIONS[kind], **options})


# --- windows and axes ------------------------------------------------------------------------------------------------

windows = st.builds(
    lambda kernel, stride, padding, dilation: Window(kernel, stride, padding, padding, dilation),
    *(st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2)),
)


@given(windows, st.booleans(), st.integers(1, 40))
def test_size_is_that_of_a_convolution_or_a_pooling(window: Window, ceil: bool, size: int) -> None:
    line = torch.zeros(1, 1, 1, size)
    across = {"stride": (1, window.stride), "dilation": (1, window.dilation)}
    if not ceil:
        if size + 2 * window.before > window.reach:
            found = F.conv2d(line, torch.zeros(1, 1, 1, window.kernel), padding=(0, window.before), **across)
            assert found.shape[3] == window.size(size)
        else:
            assert window.size(size) == 0
    elif window.before <= window.kernel // 2 and size + 2 * window.before > window.reach:
        window = Window(window.kernel, window.stride, window.before, window.after, window.dilation, ceil=True)
        found = F.max_pool2d(line, (1, window.kernel), padding=(0, window.before), ceil_mode=True, **across)
        assert found.shape[3] == window.size(size)


def test_fields_of_a_known_network() -> None:
    """AlexNet's, worked out by hand: receptive fields of 11, 51, 99, 131 and 163 pixels."""
    rows, columns = named_geometry("alex")
    assert rows == columns
    assert [field.last - field.first + 1 for field in rows.fields] == [11, 51, 99, 131, 163]
    assert [field.stride for field in rows.fields] == [4, 8, 16, 16, 16]
    assert rows.fields[0] == Field(4, -2, 8)
    assert rows.alignment == 16


def test_maps_of_unequal_strides_are_not_joined() -> None:
    halved = Step((0,), Window(2, 2))
    with pytest.raises(ValueError, match=r"maps of strides \[1, 2\] are joined"):
        Axis((Step(()), halved, Step((0, 1))), (2,))


@given(st.lists(windows, min_size=1, max_size=5), st.integers(1, 300), st.integers(0, 60), st.integers(1, 60))
def test_cuts_hold_every_place_once(chain: list[Window], size: int, more: int, least: int) -> None:
    steps = (Step(()), *(Step((k,), window) for k, window in enumerate(chain)))
    axis = Axis(steps, tuple(range(1, len(steps))))
    tile = max(axis.halo, axis.alignment) + more
    cuts = axis.cuts(size, tile, least)
    assert [pixel for cut in cuts for pixel in range(*cut.own)] == list(range(size))
    for cut in cuts:
        assert cut.own.length <= tile + axis.alignment
        assert cut.seen.start % axis.alignment == 0
        assert 0 <= cut.seen.start <= cut.own.start < cut.own.stop <= cut.seen.stop <= size
        assert (
            cut.seen.length <= max(cut.own.length + 2 * axis.halo, least) + 2 * axis.alignment or size == cut.own.stop
        )
        assert cut.seen.length >= min(least, size)
    for number, (field, places) in enumerate(zip(axis.fields, axis.sizes(size), strict=True)):
        found = [place + cut.seen.start // field.stride for cut in cuts for place in range(*cut.kept[number])]
        assert found == list(range(places))


def test_a_tile_is_a_rectangle() -> None:
    axis = Axis((Step(()), Step((0,), Window(3, 1, 1, 1))), (1,))
    tiling = Tiling(axis, axis, tile=10)
    assert tiling.fits((10, 10))
    assert not tiling.fits((10, 11))
    assert tiling.sizes((10, 21)) == ((10, 21),)
    ((down, across),) = tiling.grid((10, 21))
    assert (down.own, down.seen) == (Span(0, 10), Span(0, 10))
    assert [cut.own for cut in across] == [Span(0, 7), Span(7, 14), Span(14, 21)]
    assert across[1] == Cut(Span(7, 14), Span(6, 15), (Span(1, 8),))
    assert Tile(down, across[0]).columns.seen == Span(0, 8)


# --- geometry against what networks do -------------------------------------------------------------------------------


class Branches(nn.Module):
    """Steps of convolutions and poolings; a step may be read twice and joined, by sum or by channels."""

    def __init__(self, steps: list[nn.Module], joins: list[str], tapped: list[bool]) -> None:
        super().__init__()
        self.steps = nn.ModuleList(steps)
        self.sides = nn.ModuleList(nn.Conv2d(2, 2, 3, padding=1) for _ in steps)
        self.joins, self.tapped = joins, tapped

    def forward(self, x: Tensor) -> list[Tensor]:
        x, maps = F.conv2d(x, torch.full((2, 3, 1, 1), 0.3, dtype=x.dtype)), []
        for step, side, join, tapped in zip(self.steps, self.sides, self.joins, self.tapped, strict=True):
            x = step(x)
            if join == "sum":
                x = x + F.relu(side(x))
            elif join == "channels":
                x = F.conv2d(torch.cat([x, side(x).relu_()], 1), torch.full((2, 4, 1, 1), 0.4, dtype=x.dtype))
            if tapped:
                maps.append(x)
        return [*maps, x]


@st.composite
def networks(draw: Callable) -> Branches:
    steps: list[nn.Module] = []
    for _ in range(draw(st.integers(1, 4))):
        kernel = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
        stride = (draw(st.integers(1, 2)), draw(st.integers(1, 3)))
        ceil = draw(st.booleans())
        kind = draw(st.sampled_from(["convolution", "same", "largest", "average", "padding"]))
        if kind == "convolution":
            padding, dilation = draw(st.integers(0, 2)), (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
            steps.append(nn.Conv2d(2, 2, kernel, stride, padding, dilation))
        elif kind == "same":
            steps.append(nn.Conv2d(2, 2, kernel, padding="same"))
        elif kind == "largest":
            padding = draw(st.integers(0, min(kernel) // 2))
            steps.append(nn.MaxPool2d(kernel, stride, padding, ceil_mode=ceil))
        elif kind == "average":
            padding = draw(st.integers(0, min(kernel) // 2))
            steps.append(nn.AvgPool2d(kernel, stride, padding, ceil, count_include_pad=draw(st.booleans())))
        else:
            steps.append(nn.ZeroPad2d((*(draw(st.integers(0, 3)) for _ in range(4)),)))
    joins = [draw(st.sampled_from(["none", "sum", "channels"])) for _ in steps]
    return Branches(steps, joins, [draw(st.booleans()) for _ in steps])


def network_maps(network: nn.Module, image: Tensor) -> list[Tensor] | None:
    """Return what a network makes of an image; None where the image is too small for it."""
    try:
        return network(image)
    except RuntimeError:
        return None


def own_maps(run: Callable[[Tensor], list[Tensor]], tiling: Tiling, image: Tensor) -> list[Tensor]:
    """Return the maps put together from tiles."""
    bands = []
    for down, across in tiling.grid((image.shape[2], image.shape[3])):
        row = []
        for cut in across:
            maps = run(image[:, :, down.seen.start : down.seen.stop, cut.seen.start : cut.seen.stop])
            spans = zip(maps, down.kept, cut.kept, strict=True)
            row.append([m[:, :, a.start : a.stop, b.start : b.stop] for m, a, b in spans])
        bands.append([torch.cat(maps, 3) for maps in zip(*row, strict=True)])
    return [torch.cat(maps, 2) for maps in zip(*bands, strict=True)]


@pytest.mark.filterwarnings("ignore:.*even kernel lengths:UserWarning")
@settings(max_examples=150)
@given(networks(), st.integers(1, 90), st.integers(1, 90), st.integers(0, 8), st.integers(0, 3))
def test_tiles_hold_what_the_whole_image_gives(
    network: Branches, height: int, width: int, more: int, seed: int
) -> None:
    """Kernels, strides, dilations, paddings, joins, last windows that the image ends in; rows apart from columns."""
    network = network.double().eval()
    least = next(n for n in range(1, 400) if network_maps(network, torch.zeros(1, 3, n, n).double()) is not None)
    height, width = max(height, least), max(width, least)
    image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed)).double()
    backbone = Backbone(network, mean=(0, 0, 0), std=(1, 1, 1), min_size=least)
    rows, columns = geometry(backbone)
    tiling = tiling_of(
        backbone, max(rows.halo, columns.halo, rows.alignment, columns.alignment, least) + more, least=least
    )
    whole = backbone(image)
    assert [tuple(m.shape[2:]) for m in whole] == list(tiling.sizes((height, width)))
    torch.testing.assert_close(own_maps(backbone, tiling, image), whole, **EXACT)


@settings(max_examples=50)
@given(networks(), st.data())
def test_fields_are_the_pixels_that_a_place_sees(network: Branches, data: st.DataObject) -> None:
    """All of them, and no more: a halo that is too wide costs time."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 0.1)
            nn.init.zeros_(module.bias)
    network.steps = nn.ModuleList(
        # a maximum has a gradient at one pixel only
        nn.AvgPool2d(s.kernel_size, s.stride, s.padding) if isinstance(s, nn.MaxPool2d) else s
        for s in network.steps
    )
    network = network.double()
    backbone = Backbone(network, mean=(0, 0, 0), std=(1, 1, 1), min_size=100)
    image = torch.rand(1, 3, 100, 110).double().requires_grad_()
    number = data.draw(st.integers(0, len(backbone(image)) - 1))
    place = backbone(image)[number]
    row, column = (data.draw(st.integers(0, n - 1)) for n in place.shape[2:])
    (gradient,) = torch.autograd.grad(place[0, :, row, column].sum(), image)
    for axis, dim, index in zip(geometry(backbone), (2, 3), (row, column), strict=True):
        field, size = axis.fields[number], image.shape[dim]
        other = [d for d in range(4) if d != dim]
        seen = gradient.abs().amax(other).nonzero().flatten().tolist()
        first, last = index * field.stride + field.first, index * field.stride + field.last
        assert all(first <= pixel <= last for pixel in seen)
        if seen and first >= 0 and last < size and _has_no_gaps(network):
            assert (seen[0], seen[-1]) == (first, last)


def _has_no_gaps(network: Branches) -> bool:
    """Return whether a place's field is bounded by pixels that it sees: strides no wider than kernels."""
    return all(
        all(k >= s for k, s in zip(_two(step.kernel_size), _two(step.stride), strict=True))
        for step in network.steps
        if not isinstance(step, nn.ZeroPad2d)
    )


def _two(value: int | tuple[int, int]) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)


@settings(max_examples=20)
@given(st.sampled_from(TILED), st.integers(1, 700), st.integers(1, 700))
def test_sizes_of_the_table_s_networks(name: str, height: int, width: int) -> None:
    spec = BACKBONES[name]
    height, width = max(height, spec.min_size), max(width, spec.min_size)
    state = {key: torch.empty(shape, device="meta") for key, shape in spec.expected_keys().items()}
    maps = Backbone.from_table(name, state)(torch.empty(1, 3, height, width, device="meta"))
    sizes = tiling_of(name, 900, least=spec.min_size).sizes((height, width))
    assert list(sizes) == [tuple(m.shape[2:]) for m in maps]


@settings(max_examples=15)
@given(st.integers(1, 330), st.integers(1, 330), st.integers(0, 60))
def test_tiles_of_nano(height: int, width: int, more: int) -> None:
    backbone = LPIPS("nano", heads="uniform").double().backbone
    image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(height)).double()
    tiling = tiling_of("nano", 44 + more, least=1)
    torch.testing.assert_close(own_maps(backbone, tiling, image), backbone(image), **EXACT)


@pytest.mark.parametrize(
    ("model", "name"), [("alexnet", "alex"), ("squeezenet1_1", "squeeze"), ("resnet50", "resnet50")]
)
def test_tiles_of_the_table_s_networks(random_weights, model, name) -> None:
    """On the way to the border nothing of a tile's own padding is left, in networks with paddings at every step."""
    if name == "resnet50":
        backbone = Backbone.from_table(name, reference.random_state(model)).double()
    else:
        backbone = LPIPS(name, weights=random_weights(model), heads="uniform").double().backbone
    image = torch.rand(1, 3, 247, 449).double()
    tiling = tiling_of(name, 216, least=32)
    for found, expected in zip(own_maps(backbone, tiling, image), backbone(image), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


# --- networks that cannot be cut -------------------------------------------------------------------------------------


class Then(nn.Module):
    """A convolution, and then something else."""

    def __init__(self, step: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.step = nn.Conv2d(3, 4, 3), step

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.step(self.first(x))]


def _written(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, :, 0] = x.mean()
    return x


FARTHER = {
    "mean": lambda x: x - x.mean((2, 3), keepdim=True),
    "adaptive_avg_pool2d": lambda x: x * F.adaptive_avg_pool2d(x, 1),
    "interpolate": lambda x: F.interpolate(x, scale_factor=2),
    "pad": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "flip": lambda x: x.flip(3),
    "softmax": lambda x: x.flatten(2).softmax(2).reshape(x.shape),
    "add": lambda x: torch.add(x, torch.linspace(0, 1, x.shape[3])),  # places by number
    "cat": lambda x: torch.cat([x, x], 2),
    "batch_norm": nn.BatchNorm2d(4, track_running_stats=False),
    "instance_norm": nn.InstanceNorm2d(4),
    "group_norm": nn.GroupNorm(2, 4),
    "layer_norm": lambda x: F.layer_norm(x, x.shape[2:]),
    "linear": lambda x: F.linear(x, torch.ones(3, x.shape[3])),
    "conv2d": lambda x: F.conv2d(x, x[:, :, :3, :3].clone()),
}


@pytest.mark.parametrize("name", FARTHER)
def test_what_may_see_farther_is_refused(name) -> None:
    named = {"softmax": "flatten", "conv2d": "__getitem__"}.get(name, name)
    with pytest.raises(ValueError, match=f"backbone 'custom' cannot be run tile by tile: its step '{named}' is not"):
        LPIPS(Backbone(Then(FARTHER[name])), heads="uniform", tile=64)


def test_what_was_written_into_a_map_is_refused() -> None:
    with pytest.raises(ValueError, match="its step 'mean'"):
        tiling_of(Backbone(Then(_written)), 64, least=3)


LOCAL = {
    "permute": lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (4,)).permute(0, 3, 1, 2),
    "linear": lambda x: F.linear(x.permute(0, 2, 3, 1), torch.ones(5, 4)).permute(0, 3, 1, 2),
    "batch_norm": nn.BatchNorm2d(4),
    "dropout": nn.Dropout(),
    "scale": lambda x: x * torch.ones(4, 1, 1),
    "in place": lambda x: x.relu_().mul_(2),
    "cat": lambda x: torch.cat([x, x], dim=1),
    "hard": nn.Hardswish(),
}


@pytest.mark.parametrize("name", LOCAL)
def test_what_works_place_by_place_is_taken(name) -> None:
    backbone = Backbone(Then(LOCAL[name]), min_size=3)
    image = torch.rand(1, 3, 40, 50)
    found = own_maps(backbone, tiling_of(backbone, 8, least=3), image)
    torch.testing.assert_close(found, backbone(image), rtol=1e-5, atol=1e-5)


def test_preprocessing_is_watched_too() -> None:
    with pytest.raises(ValueError, match="its step 'mean'"):
        LPIPS(Backbone(Tiny(), preprocess=lambda x: x / x.mean()), heads="uniform", tile=64)


def test_maps_from_nowhere_are_refused() -> None:
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> list[Tensor]:
            return [torch.ones(1, 2, 5, 5)]

    with pytest.raises(ValueError, match="how its feature maps come from the image could not be followed"):
        LPIPS(Backbone(Constant()), heads="uniform", tile=64)


def test_efficientnet_is_refused_without_its_weights() -> None:
    message = "tile: backbone 'efficientnet_b0' cannot be run tile by tile: its step 'adaptive_avg_pool2d' is not known"
    with pytest.raises(ValueError, match=message):
        DAMLPIPS("efficientnet_b0", tile=1024)


# --- scores ----------------------------------------------------------------------------------------------------------

KINDS = {
    "lpips": lambda backbone, **options: LPIPS(backbone, heads="uniform", **options),
    "mean": lambda backbone, **options: LPIPS(backbone, heads="uniform", comparison="mean", **options),
    "spatial+mean": lambda backbone, **options: LPIPS(backbone, heads="uniform", comparison="spatial+mean", **options),
    "raw": lambda backbone, **options: LPIPS(backbone, heads="uniform", channel_norm=False, **options),
    "damlpips": lambda backbone, **options: DAMLPIPS(backbone, viewing_side=None, **options),
    "damlpips 1": lambda backbone, **options: DAMLPIPS(backbone, viewing_side=None, version=1, **options),
}
MAPPED = [kind for kind in KINDS if kind != "mean"]


def gradients(metric: nn.Module, x: Tensor, y: Tensor) -> list[Tensor]:
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    weights = torch.arange(1.0, len(x) + 1, dtype=x.dtype)
    return list(torch.autograd.grad((metric(x, y) * weights).sum(), [x, y]))


def same_gradients(found: list[Tensor], expected: list[Tensor], tolerance: float = GRADIENTS) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one - other).abs().max() <= tolerance * other.abs().max()
        assert other.abs().max() > 0


@pytest.mark.parametrize("size", [(201, 333), (97, 500), (321, 96)])
@pytest.mark.parametrize("kind", KINDS)
def test_scores_and_gradients_of_nano(kind, size) -> None:
    whole, tiled, (x, y) = KINDS[kind]("nano"), KINDS[kind]("nano", tile=96), pair(2, *size)
    torch.testing.assert_close(tiled.per_layer(x, y), whole.per_layer(x, y), **SCORES)
    same_gradients(gradients(tiled, x, y), gradients(whole, x, y))


@pytest.mark.parametrize("kind", MAPPED)
def test_maps_of_nano(kind) -> None:
    whole, tiled, (x, y) = KINDS[kind]("nano"), KINDS[kind]("nano", tile=96), pair(2, 201, 333)
    found, expected = tiled.spatial_map(x, y), whole.spatial_map(x, y)
    assert found.shape == (2, 1, 201, 333)
    # of single places: nothing averages their rounding out
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.max()))


@pytest.mark.parametrize("kind", ["lpips", "damlpips"])
@pytest.mark.parametrize(
    ("name", "model", "tile", "size"),
    [
        ("alex", "alexnet", 90, (213, 301)),
        ("squeeze", "squeezenet1_1", 107, (230, 225)),
        ("vgg", "vgg16", 96, (113, 169)),
    ],
)
def test_scores_and_gradients_on_random_weights(random_weights, kind, name, model, tile, size) -> None:
    options, (x, y) = {"weights": random_weights(model)}, pair(1, *size)
    whole, tiled = KINDS[kind](name, **options), KINDS[kind](name, **options, tile=tile)
    torch.testing.assert_close(tiled.per_layer(x, y), whole.per_layer(x, y), **SCORES)
    if name != "vgg":  # a minute, and nothing new
        same_gradients(gradients(tiled, x, y), gradients(whole, x, y))


def test_learned_heads_and_scalings(random_alex_weights) -> None:
    x, y = pair(1, 150, 260)
    for heads in ("v0.1", "v0.0"):
        options = {"weights": random_alex_weights, "heads": heads, "value_range": (-1.0, 1.0)}
        found, expected = (LPIPS("alex", **options, tile=t)(2 * x - 1, 2 * y - 1) for t in (100, None))
        torch.testing.assert_close(found, expected, **SCORES)


@pytest.mark.shared
@pytest.mark.parametrize("kind", [LPIPS, DAMLPIPS])
def test_photographs(photographs, alex_weights, squeeze_weights, kind) -> None:
    x, y = photographs(1, 257, 300)
    for name, weights in (("alex", alex_weights), ("squeeze", squeeze_weights)):
        options = {"heads": "v0.1"} if kind is LPIPS else {"viewing_side": None}
        whole, tiled = (kind(name, weights=weights, tile=t, **options) for t in (None, 128))
        torch.testing.assert_close(tiled.per_layer(x, y), whole.per_layer(x, y), **SCORES)
        # In float64: in float32 rounding may decide which of two features is the larger, or whether one is above zero,
        # and then another pixel has the gradient.
        exact = [gradients(metric.double(), x.double(), y.double()) for metric in (tiled, whole)]
        same_gradients(*exact, tolerance=1e-9)


@settings(max_examples=25)
@given(st.sampled_from([*KINDS]), st.integers(5, 40), st.integers(5, 40), st.integers(5, 12), st.integers(0, 9))
def test_scores_of_any_size_and_tile(kind: str, height: int, width: int, tile: int, seed: int) -> None:
    x, y = (image.double() for image in reference.noise(2, height, width, seed=seed))
    backbone = Backbone(Tiny(), min_size=5)
    found, expected = (KINDS[kind](backbone, tile=t).double().per_layer(x, y) for t in (tile, None))
    torch.testing.assert_close(found, expected, **EXACT)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_finite_differences(kind) -> None:
    metric = KINDS[kind](Backbone(Tiny(), min_size=5), tile=5).double()
    x, y = (image.double().requires_grad_() for image in reference.noise(1, 7, 11))
    # along random directions: one by one the pixels would take a minute
    options = {"fast_mode": True, "rtol": 1e-5, "atol": 1e-8}
    assert torch.autograd.gradcheck(metric, (x, y), **options)
    if kind in MAPPED:
        assert torch.autograd.gradcheck(metric.spatial_map, (x, y), **options)


@pytest.mark.parametrize("kind", [LPIPS, DAMLPIPS])
def test_gradients_of_one_image(kind) -> None:
    (x, y), metric = reference.noise(2, 20, 30), tiny(kind, tile=8)
    both = gradients(metric, x, y)
    weights = torch.tensor([1.0, 2.0])
    x.requires_grad_()
    (first,) = torch.autograd.grad((metric(x, y) * weights).sum(), x)
    (second,) = torch.autograd.grad((metric(y, x) * weights).sum(), x)  # both are symmetric
    same_gradients([first, second], [both[0], both[0]])


@pytest.mark.parametrize("kind", [LPIPS, DAMLPIPS])
@pytest.mark.parametrize("value", [0.0, 1.0, 0.3])
def test_identical_and_flat_images(kind, value) -> None:
    x = torch.full((1, 3, 120, 250), value)
    whole, tiled = (kind("nano", tile=t, **OPTIONS[kind]) for t in (None, 96))
    assert (tiled(x, x) == 0).all()
    assert all(g.isfinite().all() for g in gradients(tiled, x, x))
    y = (x + 0.2).clamp(0, 1) * 0.9
    torch.testing.assert_close(tiled(x, y), whole(x, y), **SCORES)


@pytest.mark.parametrize("kind", [LPIPS, DAMLPIPS])
def test_images_that_fit_a_tile_take_the_same_way(kind) -> None:
    x, y = reference.noise(2, 30, 40)
    assert torch.equal(tiny(kind, tile=40)(x, y), tiny(kind)(x, y))
    assert torch.equal(tiny(kind, tile=40).spatial_map(x, y), tiny(kind).spatial_map(x, y))
    assert not torch.equal(tiny(kind, tile=39)(x, y), tiny(kind, tile=39)(y, x.flip(3)))


@pytest.mark.parametrize("kind", [LPIPS, DAMLPIPS])
def test_a_pair_does_not_know_its_batch(kind) -> None:
    (x, y), metric = reference.noise(3, 30, 40), tiny(kind, tile=16)
    alone = torch.cat([metric(a, b) for a, b in zip(x.split(1), y.split(1), strict=True)])
    assert torch.equal(metric(x, y), alone)
    assert metric(x[:1], y[:1]).shape == (1,)
    exact = tiny(kind, tile=16, deterministic=True)
    assert torch.equal(exact(x, y)[1:2], exact(x[1:2], y[1:2]))


@pytest.mark.parametrize("kind", [LPIPS, DAMLPIPS])
def test_bytes_grey_and_resizing(kind) -> None:
    x, y = ((255 * image).round().to(torch.uint8) for image in reference.noise(1, 30, 40))
    torch.testing.assert_close(tiny(kind, tile=16)(x, y), tiny(kind)(x, y), **SCORES)
    options = {"grey": "repeat", "resize": "reference"}
    found, expected = (tiny(kind, **options, tile=t)(x[:, :1, :20, :20], y[:, :1]) for t in (16, None))
    torch.testing.assert_close(found, expected, **SCORES)
    found, expected = (tiny(kind, resize=25, tile=t)(x, y) for t in (24, None))
    torch.testing.assert_close(found, expected, **SCORES)


def test_what_is_looked_at_is_cut() -> None:
    """Images are averaged down to the viewing side first; a panorama is still long then."""
    x, y = reference.noise(1, 40, 300)
    metric, whole = (tiny(DAMLPIPS, viewing_side=20, tile=t) for t in (30, None))
    with recorded(metric) as sizes:
        torch.testing.assert_close(metric(x, y), whole(x, y), **SCORES)
    assert max(max(size) for size in sizes) < 60
    square = reference.noise(1, 40, 50)
    with recorded(metric) as sizes:
        assert torch.equal(metric(*square), whole(*square))
    assert sizes == [(20, 25)]


def test_an_encoded_image_is_compared_whole() -> None:
    x, y = reference.noise(1, 30, 40)
    backbone = Backbone(Tiny(), min_size=5)
    tiled, whole = (LPIPS(backbone, heads="uniform", tile=t) for t in (16, None))
    assert torch.equal(tiled(tiled.encode(x), y), whole(whole.encode(x), y))


# --- metrics ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [LPIPSMetric, DAMLPIPSMetric])
def test_metrics(kind) -> None:
    whole, tiled = (kind("nano", **OPTIONS[kind], tile=t) for t in (None, 96))
    with recorded(tiled.model) as sizes:
        for image in (pair(2, 120, 250), pair(1, 90, 90)):
            tiled.update(*image)
    assert (120, 250) not in sizes
    assert (90, 90) in sizes
    for image in (pair(2, 120, 250), pair(1, 90, 90)):
        whole.update(*image)
    torch.testing.assert_close(tiled.compute(), whole.compute(), **SCORES)
    whole.merge_state(tiled)  # tile changes no score: the states are of one kind


def test_metrics_of_a_collection() -> None:
    x, y = pair(2, 120, 250)
    options = {"viewing_side": None, "tile": 96}
    metrics = MetricCollection({"l": LPIPSMetric("nano", heads="uniform", tile=96), "d": DAMLPIPSMetric(**options)})
    metrics.update(x, y)
    found = metrics.compute()
    torch.testing.assert_close(found["l"], LPIPS("nano", heads="uniform")(x, y).mean(), **SCORES)
    torch.testing.assert_close(found["d"], DAMLPIPS(viewing_side=None)(x, y).mean(), **SCORES)


# --- memory ----------------------------------------------------------------------------------------------------------


@contextmanager
def recorded(metric: nn.Module) -> Iterator[list[tuple[int, int]]]:
    """Yield the sizes of the images that the network sees, in a list that grows."""
    sizes: list[tuple[int, int]] = []
    network = metric.backbone.network
    handle = network.register_forward_pre_hook(lambda _, given: sizes.append(tuple(given[0].shape[2:])))
    try:
        yield sizes
    finally:
        handle.remove()


@contextmanager
def largest_saved() -> Iterator[dict[int, int]]:
    """Yield the memory that is kept for the backward pass: the bytes of each storage, by its address."""
    storages: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        yield storages


@pytest.mark.parametrize("kind", ["lpips", "damlpips"])
def test_the_network_never_sees_more_than_a_tile_and_its_halo(kind) -> None:
    metric = KINDS[kind]("nano", tile=96)
    (axis, _), passes = named_geometry("nano"), 2 if kind == "damlpips" else 1
    limit, tiles = metric.tiling.tile + 2 * axis.halo + 2 * axis.alignment, 0
    for size in ((200, 301), (500, 301)):
        with recorded(metric) as sizes, torch.no_grad():
            metric(*reference.noise(1, *size))
        assert max(max(s) for s in sizes) <= limit
        tiles = -(-size[0] // 96) * -(-size[1] // 96)
        assert len(sizes) == 2 * tiles * passes


@pytest.mark.parametrize("kind", ["lpips", "damlpips", "damlpips 1"])
def test_a_graph_keeps_no_maps(kind) -> None:
    """Kept are the images, which are there anyway, and numbers of the size of a map's channels.

    Where images are aligned, also their luma at a shorter side of 256 pixels, through which the motion has gradients.
    """
    x, y = reference.noise(1, 300, 400)
    metric = KINDS[kind]("nano", tile=96)
    x.requires_grad_()
    images = {x.untyped_storage().data_ptr(), y.untyped_storage().data_ptr()}
    with recorded(metric) as sizes, largest_saved() as storages:
        score = metric(x, y)
    forward = len(sizes)
    largest = 4 * 256 * 342 if kind == "damlpips" else 4 * 300
    assert images & storages.keys()
    assert max((size for address, size in storages.items() if address not in images), default=0) <= largest
    with recorded(metric) as sizes:
        score.sum().backward()
    assert len(sizes) == forward  # every tile has run again
    assert max(max(s) for s in sizes) < 400
    assert (x.grad != 0).any()


# --- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [LPIPS, DAMLPIPS, LPIPSMetric, DAMLPIPSMetric])
@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (43, ValueError, "tile: expected None or at least 44 pixels, .* backbone 'nano' .* got 43"),
        (0, ValueError, "tile: expected None or at least 44 pixels, .* got 0"),
        (-512, ValueError, "tile: .* got -512"),
        (512.0, TypeError, r"tile: expected None or a number of pixels, got 512\.0"),
        (True, TypeError, "tile: expected None or a number of pixels, got True"),
        ("512", TypeError, "tile: .* got '512'"),
        ((512, 512), TypeError, r"tile: .* got \(512, 512\)"),
    ],
)
def test_bad_tiles(kind, value, error, message) -> None:
    with pytest.raises(error, match=message):
        kind("nano", tile=value, **OPTIONS[kind])


@pytest.mark.parametrize("comparison", ["sort", "spatial+sort"])
def test_sorted_features_need_all_places(comparison) -> None:
    message = rf"tile: comparison='{comparison.replace('+', '.')}' sorts the features of all places at once"
    with pytest.raises(ValueError, match=message):
        LPIPS("nano", heads="uniform", comparison=comparison, tile=128)


@pytest.mark.parametrize("name", TILED)
def test_a_tile_no_smaller_than_its_halo_is_taken(name) -> None:
    (axis, _), least = named_geometry(name), BACKBONES[name].min_size
    needed = max(axis.halo, axis.alignment, least)
    assert tiling_of(name, needed, least=least).tile == needed
    with pytest.raises(ValueError, match=f"at least {needed} pixels"):
        tiling_of(name, needed - 1, least=least)


@pytest.mark.cuda
@pytest.mark.parametrize("kind", KINDS)
def test_on_a_gpu(kind) -> None:
    """cuDNN chooses kernels by size; with TF32 off they differ in the order of sums alone."""
    x, y = (image.cuda() for image in pair(2, 201, 333))
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        whole, tiled = KINDS[kind]("nano").cuda(), KINDS[kind]("nano", tile=96).cuda()
        torch.testing.assert_close(tiled(x, y), whole(x, y), rtol=1e-4, atol=1e-6)
