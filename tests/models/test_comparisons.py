"""What LPIPS can compare beside places, as an option: images, maps, errors, metrics, precision, compilation."""

import pickle
import re

import pytest
import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from damlpips import LPIPS, Backbone, LPIPSMetric, functional
from damlpips.ops import distance
from tests.support import reference
from tests.support.processes import python
from tests.support.reference import COMPARISONS, PLACELESS, SUMS, VARIANTS, Loud, Tiny, rounded, tiny

# --- images ---------------------------------------------------------------------------------------------------------


def test_flat_and_dead_images(variant, random_squeeze_weights) -> None:
    """Constant images: equal features everywhere, and zero ones; gradients stay finite, a score of itself zero."""
    flat = torch.stack([torch.full((3, 32, 32), level) for level in (0.0, 0.5, 1.0)])
    for metric in (
        LPIPS("nano", heads="uniform", **variant),
        LPIPS("squeeze", weights=random_squeeze_weights, heads="uniform", **variant),
    ):
        assert (metric(flat, flat) <= 1e-9).all()
        for other in (flat.flip(0), reference.noise(3, 32, 32)[0]):
            x, y = flat.clone().requires_grad_(), other.clone().requires_grad_()
            scores = metric(x, y)
            assert torch.isfinite(scores).all()
            for gradient in torch.autograd.grad(scores.sum(), [x, y]):
                assert torch.isfinite(gradient).all()


class Pointwise(nn.Module):
    """A network that sees one pixel at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.colours = nn.Conv2d(3, 8, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.colours(x).relu()]


@pytest.mark.parametrize("channel_norm", [True, False])
def test_moved_pixels(channel_norm) -> None:
    x, _ = reference.noise(2, 12, 12)
    y = x.flatten(2)[..., torch.randperm(144)].view_as(x)
    backbone = Backbone(Pointwise(), min_size=1)
    scores = {c: LPIPS(backbone, heads="uniform", comparison=c, channel_norm=channel_norm)(x, y) for c in COMPARISONS}
    assert (scores["spatial"] > 1e-3).all()
    for comparison in PLACELESS:
        assert (scores[comparison] < 1e-10).all()
        rounded(scores[f"spatial+{comparison}"], scores["spatial"])


def test_encoded_images_serve_every_comparison(variant) -> None:
    """What is arranged is arranged after the backbone: maps encoded by one module serve another."""
    x, y = reference.noise(2, 24, 24)
    backbone = Backbone(Tiny(), min_size=5)
    encoded = LPIPS(backbone, heads="uniform").encode(y)
    metric = LPIPS(backbone, heads="uniform", **variant)
    rounded(metric(x, encoded), metric(x, y))
    rounded(metric(metric.encode(x), encoded), metric(x, y))
    rounded(metric(x, encoded[:1].expand(2))[:1], metric(x[:1], y[:1]))


def test_deterministic_scores_are_those_of_their_pair(variant) -> None:
    x, y = reference.noise(3, 24, 24)
    metric = tiny(deterministic=True, **variant)
    scores = metric(x, y)
    for n in range(3):
        assert torch.equal(metric(x[n : n + 1], y[n : n + 1]), scores[n : n + 1])
    rounded(scores, tiny(**variant)(x, y))


def test_images_of_two_sizes_are_refused(variant) -> None:
    """Sorted or averaged they could be compared, at least in means: but a pair is a pair."""
    x, y = torch.rand(1, 3, 24, 24), torch.rand(1, 3, 24, 20)
    with pytest.raises(ValueError, match="must have one size, got 24 x 24 and 24 x 20"):
        tiny(**variant)(x, y)
    assert tiny(resize="reference", **variant)(x, y).shape == (1,)


# --- maps of the differences ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("comparison", PLACELESS)
def test_there_is_no_map_without_places(comparison) -> None:
    x, y = reference.noise(1, 24, 24)
    with pytest.raises(ValueError, match="where images differ is not defined") as error:
        tiny(comparison=comparison).spatial_map(x, y)
    for part in (f"comparison='{comparison}'", "comparison='spatial'", f"'spatial+{comparison}'"):
        assert part in str(error.value)


@pytest.mark.parametrize("channel_norm", [True, False])
@pytest.mark.parametrize("comparison", SUMS)
def test_the_map_of_a_sum_is_that_of_its_spatial_part(comparison, channel_norm) -> None:
    x, y = reference.noise(2, 24, 20)
    found = tiny(comparison=comparison, channel_norm=channel_norm).spatial_map(x, y)
    assert found.shape == (2, 1, 24, 20)
    assert torch.equal(found, tiny(channel_norm=channel_norm).spatial_map(x, y))


# --- options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("heads", ["v0.1", "v0.0", "heads.pth"])
@pytest.mark.parametrize(
    ("options", "spelled"),
    [
        ({"comparison": "sort"}, "got comparison='sort': use heads='uniform'"),
        ({"comparison": "spatial+mean"}, "got comparison='spatial+mean': use heads='uniform'"),
        ({"channel_norm": False}, "got channel_norm=False: use heads='uniform'"),
        (
            {"comparison": "mean", "channel_norm": False},
            "got comparison='mean', channel_norm=False: use heads='uniform'",
        ),
    ],
)
def test_learned_heads_are_for_published_lpips(heads, options, spelled) -> None:
    for make in (LPIPS, LPIPSMetric):
        with pytest.raises(ValueError, match=re.escape(spelled)) as error:
            make("alex", heads=heads, **options)
        assert f"heads={heads!r}" in str(error.value)


@pytest.mark.parametrize("comparison", ["Sort", "sort+spatial", "max", "", None, ["sort"]])
def test_an_unknown_comparison_lists_the_known(comparison) -> None:
    with pytest.raises(ValueError, match="unknown comparison") as error:
        tiny(comparison=comparison)
    for known in COMPARISONS:
        assert repr(known) in str(error.value)


def test_one_call_and_pickles(variant) -> None:
    x, y = reference.noise(2, 24, 24)
    metric = LPIPS("nano", heads="uniform", **variant)
    assert torch.equal(functional.lpips(x, y, backbone="nano", heads="uniform", **variant), metric(x, y))
    assert torch.equal(pickle.loads(pickle.dumps(metric))(x, y), metric(x, y))


# --- metrics --------------------------------------------------------------------------------------------------------


def nano_metric(**options: object) -> LPIPSMetric:
    return LPIPSMetric("nano", heads="uniform", **options)


def test_each_metric_of_a_collection_has_its_own_value() -> None:
    """Identical images score 0 in all: a collection that judged by the first values alone would merge them."""
    named = {f"{c} {n}": {"comparison": c, "channel_norm": n} for c, n in VARIANTS}
    metrics = MetricCollection({name: nano_metric(**options) for name, options in named.items()})
    x, y = reference.noise(2, 24, 24)
    metrics.update(x, x)
    metrics.update(x, y)
    values = metrics.compute()
    for name, options in named.items():
        scores = LPIPS("nano", heads="uniform", **options)(torch.cat([x, x]), torch.cat([x, y]))
        rounded(values[name], scores.mean())
    assert len({float(v) for v in values.values()}) == len(VARIANTS)


def test_metrics_of_two_comparisons_do_not_share_states(variant) -> None:
    published, other = nano_metric(), nano_metric(**variant)
    if tuple(variant.values()) == ("spatial", True):
        assert published.metric_state.keys() == other.metric_state.keys()
        return
    assert not published.metric_state.keys() & other.metric_state.keys()
    with pytest.raises(ValueError, match="another kind, backbone, weights or options"):
        published.merge_state(other)
    other.persistent(True)
    published.persistent(True)
    with pytest.raises(RuntimeError, match="another configuration"):
        published.load_state_dict(other.state_dict())
    nano_metric(**variant).load_state_dict(other.state_dict())


# --- precision, devices, compilation --------------------------------------------------------------------------------


def test_autocast_is_near_float32(variant) -> None:
    metric, (x, y) = tiny(**variant), reference.noise(2, 40, 40)
    scores = metric(x, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = metric(x, y)
    assert half.dtype == torch.float32
    # bfloat16 keeps eight bits of every feature; means and ranks of near features differ by little more than that
    torch.testing.assert_close(half, scores, rtol=0.05, atol=1e-4)


def test_half_precision_does_not_overflow(variant) -> None:
    metric, (x, y) = LPIPS(Backbone(Loud(8, mean=60, std=60)), heads="uniform", **variant), reference.noise(2, 16, 16)
    scores = metric(x, y)
    half = metric.half()(x.half(), y.half())
    assert metric.encode(x.half()).features[0].dtype == torch.float16
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, scores, rtol=0.02, atol=1e-4)


def test_half_precision_features_are_averaged_and_sorted_in_float32() -> None:
    """A mean rounded to eleven bits would be another before it is normalised."""
    a = torch.rand(2, 3, 16, 16).half()
    for arranged, expected in (
        (distance.averaged(a), a.double().mean((2, 3), keepdim=True)),
        (distance.ranked(a), a.double().flatten(2).sort().values[..., None]),
    ):
        assert arranged.dtype == torch.float32
        torch.testing.assert_close(arranged.double(), expected, rtol=1e-6, atol=0)


def test_nothing_waits_for_values_on_a_device(variant) -> None:
    """On the meta device there is nothing to read: whatever waits for a device's values fails."""
    metric = nano_metric(**variant).to("meta")
    x, y = (t.to("meta") for t in reference.noise(2, 24, 24))
    metric.update(x, y)
    assert metric.model.per_layer(x, y).device.type == "meta"


# In a process of its own, without the shape checks that pytest puts into the package: a graph cannot go through them.
COMPILED = """
import torch
from tests.support import reference
from tests.support.reference import Tiny
from damlpips import LPIPS, Backbone

torch.set_num_threads(1)
backbone = Backbone(Tiny(), min_size=5)
for options in {variants!r}:
    metric = LPIPS(backbone, heads="uniform", **options)
    compiled = torch.compile(metric, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in (24, 20):
        x, y = reference.noise(2, size, size)
        image = x.clone().requires_grad_()
        score = compiled(image, y)
        torch.testing.assert_close(score.detach(), metric(x, y), rtol=1e-5, atol=1e-8)
        (found,) = torch.autograd.grad(score.sum(), image)
        (expected,) = torch.autograd.grad(metric(image, y).sum(), image)
        assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
        print("equal:", options, size)
"""


def test_compiled_without_a_break() -> None:
    variants = [{"comparison": "mean"}, {"comparison": "sort", "channel_norm": False}]
    assert python(COMPILED.format(variants=variants)).count("equal:") == 2 * len(variants)
