"""LPIPS and DAMLPIPS as modules: the equations, the options, encoded images, types."""

import itertools
import math
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from damlpips import DAMLPIPS, LPIPS, Backbone, Encoded
from damlpips.nets.table import BACKBONES
from damlpips.nets.weights import load_heads
from tests.support import reference
from tests.support.reference import Tiny, rounded, tiny

KINDS = {
    "lpips": tiny,
    "damlpips": lambda **options: DAMLPIPS(Backbone(Tiny(), min_size=5), **options),
    "damlpips-nano": lambda **options: DAMLPIPS(**options),
    "damlpips 1": lambda **options: DAMLPIPS(version=1, **options),
}


@pytest.fixture(params=KINDS)
def make(request):
    return KINDS[request.param]


# --- the equations --------------------------------------------------------------------------------------------------


def against_the_equations(metric: DAMLPIPS, size: int) -> None:
    """Of version 1; those of version 2 are in `test_version2`."""
    # the order of the sums
    for dtype, tolerance in (
        (torch.float32, {"rtol": 1e-5, "atol": 1e-7}),
        (torch.float64, {"rtol": 1e-11, "atol": 0}),
    ):
        metric, (x, y) = metric.to(dtype), (image.to(dtype) for image in reference.noise(2, size, size))
        with torch.no_grad():
            maps = [metric.encode(image).features for image in (x, y)]
            layers = reference.damlpips_layers((x, y), *maps, rho=metric.rho, gamma=metric.gamma)
            expected = torch.from_numpy(layers)
            torch.testing.assert_close(metric.per_layer(x, y).double(), expected, **tolerance)
            torch.testing.assert_close(metric(x, y).double(), expected.sum(1), **tolerance)


@pytest.mark.parametrize(("rho", "gamma"), [(0.25, 0.5), (0.0, 0.0), (1.0, 2.0), (0.7, 1.0)])
def test_damlpips_is_its_equations(rho, gamma) -> None:
    against_the_equations(DAMLPIPS(Backbone(Tiny()), version=1, rho=rho, gamma=gamma), size=16)


def test_damlpips_of_the_embedded_backbone_is_its_equations() -> None:
    against_the_equations(DAMLPIPS(version=1), size=16)


@pytest.mark.shared
def test_damlpips_of_alexnet_is_its_equations(alex_weights) -> None:
    against_the_equations(DAMLPIPS("alex", version=1, weights=alex_weights), size=40)


def test_defaults() -> None:
    metric = DAMLPIPS()
    assert (metric.settings.version, metric.rho, metric.gamma, metric.viewing_side) == (2, 0.25, 0.5, 256)
    assert metric.source.name == "nano"


class Unit(nn.Module):
    """Feature maps of norm one at every place."""

    def __init__(self) -> None:
        super().__init__()
        self.tiny = Tiny()

    def forward(self, x):
        return [F.normalize(m, dim=1) for m in self.tiny(x)]


def test_relation_to_lpips() -> None:
    """rho = 1, gamma = 0 compare places as LPIPS without learned weights does, but for the norms: here they are one."""
    x, y = reference.noise(2, 24, 24)
    backbone = Backbone(Unit())
    lpips = LPIPS(backbone, heads="uniform").per_layer(x, y)
    weights = DAMLPIPS(backbone, rho=1.0, gamma=0.0).weights_for(x, y)
    a, b = backbone(x), backbone(y)
    for k, (u, v) in enumerate(zip(a, b, strict=True)):
        distances = (u - v).square().sum(1, keepdim=True)
        # peaks: d_p / S with S = (mean_p d_p^2)^(1/2)
        pooled = distances.square().mean((1, 2, 3), keepdim=True).sqrt()
        rounded(weights.place[k + 1], distances / pooled)
        rounded(distances.mean((1, 2, 3)), lpips[:, k])


def test_lpips_is_its_equation(random_squeeze_weights) -> None:
    """In float64, one place at a time; tests/parity/lpips compares with the original."""
    x, y = (image.double() for image in reference.noise(2, 24, 24))
    metric = LPIPS("squeeze", weights=random_squeeze_weights).double()
    a, b = metric.encode(x).features, metric.encode(y).features
    expected = torch.zeros(2, len(a), dtype=torch.float64)
    for layer, head in enumerate(metric.definition.heads):
        places = list(itertools.product(range(a[layer].shape[2]), range(a[layer].shape[3])))
        for n, (row, column) in itertools.product(range(2), places):
            u, v = (m[layer][n, :, row, column] for m in (a, b))
            u, v = u / (u.norm() + 1e-10), v / (v.norm() + 1e-10)
            expected[n, layer] += head @ (u - v) ** 2 / len(places)
    torch.testing.assert_close(metric.per_layer(x, y), expected, rtol=1e-11, atol=0)


# --- what the methods have to do with each other --------------------------------------------------------------------


def test_layers_sum_to_the_score(make) -> None:
    metric, (x, y) = make(), reference.noise(3, 32, 32)
    layers = metric.per_layer(x, y)
    others = metric.settings.version if isinstance(metric, DAMLPIPS) else 0  # the image, and in version 2 motion
    assert layers.shape == (3, others + len(metric.encode(x).features))
    assert (layers[:, :-1] > 0).all()
    assert (layers >= 0).all()
    rounded(layers.sum(1), metric(x, y))


def test_map_of_damlpips_has_the_score_as_its_mean() -> None:
    for metric in (KINDS["damlpips"](), DAMLPIPS(), DAMLPIPS(version=1)):
        x, y = reference.noise(3, 33, 50)
        found = metric.spatial_map(x, y)
        assert found.shape == (3, 1, 33, 50)
        assert (found >= 0).all()
        rounded(found.mean((1, 2, 3)), metric(x, y))


def test_map_of_lpips_has_a_mean_near_the_score(random_squeeze_weights) -> None:
    metric = LPIPS("squeeze", weights=random_squeeze_weights)
    x, y = reference.noise(3, 65, 80)
    found = metric.spatial_map(x, y)
    assert found.shape == (3, 1, 65, 80)
    # places at the border count for more pixels than those inside: a few per cent where differences are spread evenly
    torch.testing.assert_close(found.mean((1, 2, 3)), metric(x, y), rtol=0.05, atol=0)


def test_map_shows_the_place_of_a_difference(make) -> None:
    x, _ = reference.noise(1, 64, 64)
    y = x.clone()
    y[..., 40:56, 8:24] = 1 - y[..., 40:56, 8:24]
    found = make().spatial_map(x, y)[0, 0]
    row, column = divmod(int(found.argmax()), 64)
    assert 36 <= row < 60
    assert 4 <= column < 28
    assert found[44:52, 12:20].mean() > 5 * found[:16, 40:].mean()


def test_map_of_identical_images_is_zero(make) -> None:
    x, _ = reference.noise(2, 32, 32)
    # but for the last bit of a feature, which may depend on the place in a batch
    torch.testing.assert_close(make().spatial_map(x, x), torch.zeros(2, 1, 32, 32), rtol=0, atol=1e-10)


def test_weights_of_a_pair_reconstruct_its_score() -> None:
    for metric in (KINDS["damlpips"](), DAMLPIPS(), DAMLPIPS(version=1), DAMLPIPS(rho=0.0, gamma=0.0)):
        x, y = reference.noise(3, 32, 40)
        weights = metric.weights_for(x, y)
        a, b = metric.layers(x), metric.layers(metric.encode(y))
        total = torch.zeros(3)
        for k, (u, v) in enumerate(zip(a, b, strict=True)):
            n, c, h, w = u.shape
            assert weights.place[k].shape == (n, 1, h, w)
            assert weights.channel[k].shape == (n, c)
            inside = weights.place[k] * (weights.channel[k][:, :, None, None] * (u - v) ** 2).sum(1, keepdim=True)
            total += weights.layer[:, k] * inside.mean((1, 2, 3))
        assert weights.layer.shape == (3, len(a))
        assert all((w > 0).all() for w in (*weights.place, *weights.channel, weights.layer))
        rounded(total, metric(x, y))


def test_weights_adapt_to_the_pair() -> None:
    x, y = reference.noise(2, 32, 32)
    smooth = F.avg_pool2d(x, 9, 1, 4)
    one, other = DAMLPIPS().weights_for(x, y), DAMLPIPS().weights_for(smooth, y)
    for name in ("place", "channel"):
        network = zip(getattr(one, name)[1:], getattr(other, name)[1:], strict=True)
        assert all(not torch.allclose(a, b) for a, b in network)
    assert not torch.allclose(one.layer, other.layer)


def test_weights_of_identical_images_are_the_limit() -> None:
    x, _ = reference.noise(2, 32, 32)
    layer = DAMLPIPS(version=1).weights_for(x, x).layer
    limit = 0.8 * 20 / math.log(21)
    expected = torch.tensor([limit / 2, *[limit / 6] * 3]).expand(2, 4)
    torch.testing.assert_close(layer, expected, rtol=1e-6, atol=0)  # log(1 + 20 d) at d = 1e-8


def test_weights_of_layers_near_the_limit_are_smooth() -> None:
    """log(1 + 20 d) / d on both sides of where its limit takes over."""
    from damlpips.ops.distance import fuse, fusion_weight

    d = torch.logspace(-12, 0, 60, dtype=torch.float64)[:, None].repeat(1, 3)
    for texture in (torch.zeros_like(d), d):
        added = fuse(d, texture)
        found = fusion_weight(d, added) * d
        near_zero = d < 1e-8
        torch.testing.assert_close(found[~near_zero], added[~near_zero], rtol=1e-12, atol=0)
        # below the limit the texture's part of the slope is left out
        assert (found[near_zero] <= added[near_zero] * (1 + 1e-6)).all()
        assert (found[near_zero] >= 0.79 * added[near_zero]).all()


# --- encoded images -------------------------------------------------------------------------------------------------


def test_encoded_images_stand_in_either_place(make) -> None:
    metric, (x, y) = make(), reference.noise(3, 32, 40)
    encoded_x, encoded_y = metric.encode(x), metric.encode(y)
    expected = metric(x, y)
    for pair in ((encoded_x, y), (x, encoded_y), (encoded_x, encoded_y)):
        rounded(metric(*pair), expected)
        rounded(metric.per_layer(*pair), metric.per_layer(x, y))
        rounded(metric.spatial_map(*pair), metric.spatial_map(x, y))


def test_slices_of_encoded_images(make) -> None:
    metric, (x, y) = make(), reference.noise(3, 32, 32)
    encoded = metric.encode(y)
    assert isinstance(encoded, Encoded)
    assert len(encoded) == 3
    assert encoded.size == (32, 32)
    assert encoded.device == x.device
    for n in range(3):
        rounded(metric(x[n : n + 1], encoded[n : n + 1]), metric(x, y)[n : n + 1])
    rounded(metric(x[::2], encoded[::2]), metric(x, y)[::2])
    with pytest.raises(TypeError, match=r"expected a slice.*got int"):
        encoded[0]


def test_one_encoded_image_for_a_batch(make) -> None:
    metric, (x, y) = make(), reference.noise(3, 32, 32)
    encoded = metric.encode(y[:1])
    expected = metric(x, y[:1].expand(3, -1, -1, -1))
    rounded(metric(x, encoded.expand(3)), expected)
    rounded(metric(x, encoded), expected)
    rounded(metric(encoded, x), expected)
    rounded(metric(metric.encode(x), encoded), expected)
    rounded(metric.spatial_map(x, encoded), metric.spatial_map(x, y[:1].expand(3, -1, -1, -1)))
    with pytest.raises(ValueError, match="got 3"):
        metric.encode(x).expand(3)
    with pytest.raises(ValueError, match=r"as many images, got 3 and 2"):
        metric(x, metric.encode(y[:2]))


def test_encoding_carries_the_graph_or_not(make) -> None:
    metric, (x, y) = make(), reference.noise(1, 32, 32)
    y.requires_grad_()
    (through,) = torch.autograd.grad(metric(x, metric.encode(y)).sum(), y)
    (direct,) = torch.autograd.grad(metric(x, y).sum(), y)
    assert (through - direct).abs().max() <= 1e-5 * direct.abs().max()  # another batch size, another order of sums
    assert not metric(x, metric.encode(y).detach()).requires_grad
    with torch.no_grad():
        encoded = metric.encode(y)
    assert not metric(x, encoded).requires_grad


def test_encoded_images_do_not_follow_the_tensor_they_came_from(make) -> None:
    x, y = reference.noise(2, 32, 32)
    metric = make()
    expected, encoded = metric(x, y), metric.encode(y)
    y.fill_(0.5)
    rounded(metric(x, encoded), expected)


def test_encoded_images_of_the_same_backbone_are_exchanged() -> None:
    x, y = reference.noise(2, 32, 32)
    lpips = LPIPS("nano", heads="uniform")
    for damlpips in (DAMLPIPS(lpips.backbone, rho=0.5), DAMLPIPS(version=1, rho=0.5)):
        rounded(lpips(x, damlpips.encode(y)), lpips(x, y))
        rounded(damlpips(lpips.encode(x), y), damlpips(x, y))
    with pytest.raises(ValueError, match="was encoded by another backbone, weights"):
        DAMLPIPS()(lpips.encode(x), y)


def test_encoded_images_of_another_origin_are_refused(random_squeeze_weights, random_alex_weights) -> None:
    x, y = reference.noise(1)
    metric = LPIPS("squeeze", weights=random_squeeze_weights)
    for other in (
        LPIPS("squeeze", weights=random_squeeze_weights, heads="v0.0"),
        LPIPS("alex", weights=random_alex_weights),
        DAMLPIPS(Backbone(Tiny())),
        DAMLPIPS(),
    ):
        for pair, what in (((x, other.encode(y)), "second image"), ((other.encode(x), y), "first image")):
            with pytest.raises(ValueError, match=f"{what}: was encoded by another backbone.*'squeeze'"):
                metric(*pair)


# --- options --------------------------------------------------------------------------------------------------------


def test_reductions(make) -> None:
    x, y = reference.noise(3, 32, 32)
    scores = make()(x, y)
    assert scores.shape == (3,)
    assert make()(x[:1], y[:1]).shape == (1,)
    for reduction, expected in (("none", scores), ("mean", scores.mean()), ("sum", scores.sum())):
        found = make(reduction=reduction)(x, y)
        assert found.shape == expected.shape
        rounded(found, expected)
        assert make(reduction=reduction).per_layer(x, y).shape[0] == 3


def test_grey_images(make) -> None:
    metric, (x, y) = make(grey="repeat"), reference.noise(2, 32, 32)
    grey_x, grey_y = x[:, :1], y[:, :1]
    expected = make()(grey_x.repeat(1, 3, 1, 1), grey_y.repeat(1, 3, 1, 1))
    rounded(metric(grey_x, grey_y), expected)
    rounded(metric(grey_x, metric.encode(grey_y)), expected)
    rounded(metric(grey_x, y), make()(grey_x.repeat(1, 3, 1, 1), y))
    rounded(metric(x, y), make()(x, y))


def resampled(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(x, size, mode="bilinear", antialias=True)


def test_resize_to_the_reference(make) -> None:
    metric = make(resize="reference")
    x, y = reference.noise(2, 48, 40)[0], reference.noise(2, 30, 33)[1]
    expected = make()(resampled(x, (30, 33)), y)
    rounded(metric(x, y), expected)
    rounded(metric(x, metric.encode(y)), expected)
    rounded(metric(y, x), make()(resampled(y, (48, 40)), x))
    rounded(metric(x, x.flip(3)), make()(x, x.flip(3)))


@pytest.mark.parametrize(("resize", "size"), [(32, (32, 48)), (80, (80, 120)), ((20, 25), (20, 25)), (64, (64, 96))])
def test_resize_both(make, resize, size) -> None:
    x, y = reference.noise(2, 64, 96)
    metric = make(resize=resize)
    expected = make()(resampled(x, size), resampled(y, size)) if size != (64, 96) else make()(x, y)
    rounded(metric(x, y), expected)
    rounded(metric(metric.encode(x), metric.encode(y)), expected)
    assert metric.encode(x).size == size
    assert metric.spatial_map(x, y).shape[2:] == size
    # images of two sizes may meet in one
    if isinstance(resize, tuple):
        rounded(metric(x, resampled(y, (50, 50))), make()(resampled(x, size), resampled(resampled(y, (50, 50)), size)))


@pytest.mark.parametrize("resize", ["reference", 24])
def test_resized_bytes_and_halves_stay_what_they_are(make, resize) -> None:
    x, y = reference.noise(1, 48, 48)[0], reference.noise(1, 36, 36)[1]
    if resize != "reference":
        y = resampled(y, (48, 48))
    expected = make(resize=resize)(x, y)
    pixels = [(image * 255).round().to(torch.uint8) for image in (x, y)]
    # resized pixels are rounded to bytes again: half a step of 1/255 in each
    torch.testing.assert_close(make(resize=resize)(*pixels), expected, rtol=0.02, atol=0)
    torch.testing.assert_close(make(resize=resize)(x.half(), y.half()), expected, rtol=0.02, atol=0)


def test_resize_makes_small_images_large_enough(random_alex_weights) -> None:
    metric = LPIPS("alex", weights=random_alex_weights, resize=40)
    assert metric(*reference.noise(1, 16, 16)).shape == (1,)
    metric = LPIPS("alex", weights=random_alex_weights, resize="reference")
    assert metric(reference.noise(1, 16, 16)[0], reference.noise(1, 40, 40)[1]).shape == (1,)


def test_options_of_damlpips_count() -> None:
    x, y = reference.noise(1, 32, 32)
    x = x * torch.linspace(0.05, 1, 32)  # energy that varies from place to place
    scores = [DAMLPIPS(**o)(x, y).item() for o in ({}, {"rho": 0.0}, {"rho": 1.0}, {"gamma": 0.0}, {"gamma": 1.0})]
    assert len({round(score, 5) for score in scores}) == len(scores)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rho": -0.1}, r"rho: expected a share from 0 to 1, got -0\.1"),
        ({"rho": 1.1}, r"rho: .* got 1\.1"),
        ({"rho": float("nan")}, r"rho: .* got nan"),
        ({"gamma": -1.0}, r"gamma: expected a finite exponent of at least 0, got -1\.0"),
        ({"gamma": float("inf")}, r"gamma: .* got inf"),
        ({"gamma": float("nan")}, r"gamma: .* got nan"),
    ],
)
def test_options_of_damlpips_have_bounds(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        DAMLPIPS(**options)


def test_configuration_and_repr_name_backbone_and_heads() -> None:
    modules = [LPIPS("alex", heads=heads) for heads in ("v0.1", "v0.0", "uniform")]
    assert len({str(module.configuration()) for module in modules}) == 3
    assert repr(modules[1]).startswith("LPIPS(backbone='alex', ")
    assert "heads='v0.0'" in repr(modules[1])
    own = DAMLPIPS(Backbone(Tiny(), name="mine"))
    assert own.configuration()["backbone"] != DAMLPIPS().configuration()["backbone"]
    assert repr(own).startswith("DAMLPIPS(backbone='mine', ")
    assert "viewing_side=256" in repr(own)


# --- types ----------------------------------------------------------------------------------------------------------


def test_double(make) -> None:
    x, y = reference.noise(2, 32, 32)
    metric = make().double()
    exact = metric(x.double(), y.double())
    assert exact.dtype == torch.float64
    rounded(make()(x, y).double(), exact)
    assert not torch.equal(make()(x, y).double(), exact)
    back = metric.float()
    assert torch.equal(back(x, y), make()(x, y))


def test_heads_are_not_rounded_to_half_precision(random_squeeze_weights) -> None:
    metric = LPIPS("squeeze", weights=random_squeeze_weights)
    x, y = reference.noise(1)
    before = metric(x, y)
    metric.half()
    a, b = ([F.normalize(m.float(), dim=1) for m in metric.encode(image).features] for image in (x, y))
    heads = load_heads("v0.1", "squeeze", tuple(m.shape[1] for m in a))
    layers = [(h[:, None, None] * (u - v) ** 2).sum(1).mean() for u, v, h in zip(a, b, heads, strict=True)]
    # half-precision heads would differ by 1e-4
    rounded(metric.per_layer(metric.encode(x), metric.encode(y))[0], torch.stack(layers))
    assert torch.equal(metric.float()(x, y), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_images(make, dtype) -> None:
    """A module in float32 sees the very values of half-precision images."""
    metric, (x, y) = make(), (image.to(dtype) for image in reference.noise(2, 32, 32))
    score = metric(x, y)
    assert score.dtype == torch.float32
    assert torch.equal(score, metric(x.float(), y.float()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_module(make, dtype) -> None:
    """The network runs in half precision, the rest in float32."""
    x, y = reference.noise(2, 32, 32)
    metric = make().to(dtype)
    assert metric.backbone.dtype == dtype
    score = metric(x, y)
    assert score.dtype == torch.float32
    torch.testing.assert_close(score, make()(x, y), rtol=0.02, atol=0)  # eight bits of the features
    assert metric(x.to(dtype), y.to(dtype)).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_dtype_is_what_the_network_runs_in(make, dtype) -> None:
    """As a module cast to it, and whatever the module is cast to."""
    x, y = reference.noise(2, 32, 32)
    metric = make(dtype=dtype)
    score = metric(x, y)
    assert metric.backbone.dtype == metric.encode(x).features[0].dtype == dtype
    assert score.dtype == torch.float32
    assert torch.equal(score, make().to(dtype)(x, y))
    assert torch.equal(metric.half()(x, y), score)
    assert torch.equal(metric.float()(x.to(dtype), y.to(dtype)), make().to(dtype)(x.to(dtype), y.to(dtype)))
    twin = pickle.loads(pickle.dumps(metric))
    assert torch.equal(twin(x, y), score)


def test_images_may_lie_in_memory_as_they_like(make) -> None:
    metric, (x, y) = make(), reference.noise(2, 32, 40)
    expected = metric(x, y)
    rounded(metric(x.contiguous(memory_format=torch.channels_last), y), expected)
    rounded(metric(x.transpose(2, 3).contiguous().transpose(2, 3), y), expected)
    rounded(metric(x[:1].expand(2, -1, -1, -1), y), metric(x[:1].repeat(2, 1, 1, 1), y))


def test_images_are_not_changed(make) -> None:
    x, y = reference.noise(2, 32, 32)
    before = x.clone(), y.clone()
    make(resize=24)(x, y)
    make().spatial_map(x, y)
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])


def test_inference_mode(make) -> None:
    metric, (x, y) = make(), reference.noise(1, 32, 32)
    with torch.inference_mode():
        assert torch.equal(metric(x, y), make()(x, y))
    x.requires_grad_()
    metric(x, y).sum().backward()
    assert x.grad.abs().max() > 0


# --- every backbone of the table, from a file -----------------------------------------------------------------------


@pytest.mark.parametrize("name", reference.TORCHVISION)
def test_every_backbone_scores_by_both_metrics(name, tmp_path) -> None:
    from safetensors.torch import save_file

    prefix = BACKBONES[name].prefix
    file = tmp_path / "weights.safetensors"
    save_file({prefix + k: v for k, v in reference.random_state(reference.TORCHVISION[name]).items()}, file)
    x, y = reference.noise(2, 40, 40)
    for metric in (DAMLPIPS(name, weights=file), LPIPS(name, weights=file, heads="uniform")):
        scores = metric(x, y)
        assert (scores > 1e-3).all()
        assert (metric(x, x).abs() < 1e-6).all()  # places in a batch may round apart
        rounded(metric(y, x), scores)
        image = x.clone().requires_grad_()
        metric(image, y).sum().backward()
        assert torch.isfinite(image.grad).all()
        assert image.grad.abs().max() > 0
    weights = DAMLPIPS(name, weights=file).weights_for(x, y)
    assert [w.shape for w in weights.channel] == [(2, c) for c in (3, *BACKBONES[name].channels)]
