"""What holds of every pair of videos: a score is the mean of its frames' scores, in whatever parts they are scored."""

import itertools
import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from damlpips import DAMLPIPS, LPIPS, Backbone, DAMLPIPSMetric, LPIPSMetric
from damlpips.functional import damlpips, pairwise
from tests.support.metrics import KINDS as METRICS
from tests.support.reference import Tiny

few = settings(deadline=None, max_examples=10)

BACKBONE = Backbone(Tiny(), min_size=5, name="tiny")
KINDS: dict[str, Any] = {
    "lpips-tiny": lambda **options: LPIPS(BACKBONE, heads="uniform", **options),
    "damlpips-tiny": lambda **options: DAMLPIPS(BACKBONE, **options),
    "damlpips-nano": lambda **options: DAMLPIPS(**options),
}


@pytest.fixture(scope="module", params=KINDS)
def modules(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """A module of images and the same of videos."""
    return KINDS[request.param](), KINDS[request.param](video=True)


@pytest.fixture(params=METRICS)
def metric(request: pytest.FixtureRequest) -> Any:
    return METRICS[request.param]


def videos(n: int, frames: int, seed: int = 0, side: int = 24) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, frames, 3, side, side + 3, generator=generator)
    return x, (x + 0.2 * torch.randn(x.shape, generator=generator)).clamp(0, 1)


@st.composite
def pairs(draw: st.DrawFn, frames: int | None = None) -> tuple[Tensor, Tensor]:
    length = frames or draw(st.integers(1, 4))
    x, y = videos(draw(st.integers(1, 3)), length, draw(st.integers(0, 2**16)), draw(st.integers(8, 24)))
    if draw(st.booleans()):
        x[:, 0] = draw(st.sampled_from([0.0, 1.0]))  # an empty frame
    if draw(st.booleans()):
        y[:, -1] = x[:, -1]  # an equal one
    return x, y


def near(found: Tensor, expected: Tensor) -> None:
    # float32: convolutions are blocked by the size of the batch
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@few
@given(pair=pairs())
def test_a_score_is_the_mean_of_the_frames(modules, pair) -> None:
    image, video = modules
    x, y = pair
    n, frames = x.shape[:2]
    layers = image.per_layer(x.flatten(0, 1), y.flatten(0, 1)).unflatten(0, (n, frames))
    near(video.per_layer(x, y), layers.mean(1))
    near(video(x, y), layers.sum(2).mean(1))
    maps = image.spatial_map(x.flatten(0, 1), y.flatten(0, 1)).unflatten(0, (n, frames))
    near(video.spatial_map(x, y), maps)
    assert maps.shape == (n, frames, 1, *x.shape[3:])


@few
@given(pair=pairs(frames=1))
def test_one_frame_is_the_image(modules, pair) -> None:
    image, video = modules
    x, y = pair
    near(video(x, y), image(x[:, 0], y[:, 0]))


@few
@given(pair=pairs(frames=1), frames=st.integers(2, 6))
def test_equal_frames_are_one_frame(modules, pair, frames) -> None:
    x, y = pair
    near(modules[1](x.expand(-1, frames, -1, -1, -1), y.expand(-1, frames, -1, -1, -1)), modules[1](x, y))


@few
@given(pair=pairs(), seed=st.integers(0, 99))
def test_the_order_of_frames_does_not_matter(modules, pair, seed) -> None:
    x, y = pair
    order = torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(seed))
    near(modules[1](x[:, order], y[:, order]), modules[1](x, y))


@few
@given(pair=pairs(), split=st.integers(1, 3))
def test_a_score_does_not_depend_on_its_batch(modules, pair, split) -> None:
    video = modules[1]
    parts = [video(a, b) for a, b in zip(*(v.split(split) for v in pair), strict=True)]
    near(torch.cat(parts), video(*pair))


@few
@given(pair=pairs())
def test_gradients_are_finite_and_those_of_the_frames(modules, pair) -> None:
    image, video = modules
    x, y = (v.requires_grad_() for v in pair)
    found = torch.autograd.grad(video(x, y).sum(), (x, y))
    scores = image(x.flatten(0, 1), y.flatten(0, 1))
    expected = torch.autograd.grad(scores.sum() / x.shape[1], (x, y))
    for gradient, reference in zip(found, expected, strict=True):
        assert torch.isfinite(gradient).all()
        scale = reference.abs().max()
        assert (gradient - reference).abs().max() <= 1e-4 * scale + 1e-8


def test_reductions_and_one_call() -> None:
    x, y = videos(3, 2)
    scores = DAMLPIPS(video=True)(x, y)
    near(DAMLPIPS(video=True, reduction="mean")(x, y), scores.mean())
    near(damlpips(x, y, video=True, reduction="sum"), scores.sum())


@pytest.mark.parametrize("options", [{"grey": "repeat"}, {"resize": 16}, {"deterministic": True}, {"tile": 64}])
def test_options_hold_for_frames(options) -> None:
    x, y = videos(2, 3, side=72 if "tile" in options else 24)
    x, y = ((v * 255).to(torch.uint8)[:, :, : 1 if "grey" in options else 3] for v in (x, y))
    frames = DAMLPIPS(**options)(x.flatten(0, 1), y.flatten(0, 1))
    near(DAMLPIPS(video=True, **options)(x, y), frames.unflatten(0, (2, 3)).mean(1))


def test_frames_go_through_in_parts() -> None:
    """Of videos of 256 x 256 the network never sees more than its best pass."""
    module = DAMLPIPS(video=True)
    seen = []
    handle = module.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(sum(map(len, inputs))))
    x = torch.rand(2, 11, 3, 256, 256)
    try:
        with torch.no_grad():
            module(x, x.flip(1))
            module.spatial_map(x[:1], x[:1].flip(1))
    finally:
        handle.remove()
    assert sum(seen) == 3 * 2 * 11
    assert max(seen) <= module.encoder.pass_count((256, 256)) < 11


def test_encoded_frames_stand_in_for_a_video() -> None:
    x, y = videos(3, 4)
    image, video = DAMLPIPS(), DAMLPIPS(video=True)
    same = y[:1].expand(3, -1, -1, -1, -1)
    near(video(x, video.encode(y[0])), video(x, same))
    near(video(image.encode(y[0]), x), video(same, x))
    still = y[:, :1].expand(-1, 4, -1, -1, -1)[:1].expand(3, -1, -1, -1, -1)
    near(video(x, video.encode(y[0, :1])), video(x, still))
    metric = DAMLPIPSMetric(video=True, reduction="none")
    metric.update(x, video.encode(y[0]))
    near(metric.compute(), video(x, same))


def test_metric_counts_videos(metric) -> None:
    x, y = videos(4, 3)
    expected = metric(video=True).model(x, y)
    whole, parts = metric(video=True), metric(video=True, reduction="none")
    whole.update(x, y)
    near(whole.compute(), expected.mean())
    for rows in ([0, 1], [3], [2, 3]):  # the last comes twice
        parts.update(x[rows], y[rows], index=torch.tensor(rows))
    near(parts.compute(), expected)
    assert parts.compute().shape == (4,)
    near(metric(video=True)(x, y), expected.mean())


def test_metric_leaves_a_bad_video_out() -> None:
    x, y = videos(3, 2)
    x[1, 1, 0, 0, 0] = torch.nan
    metric = DAMLPIPSMetric(video=True, on_error="skip")
    metric.update(x, y)
    with pytest.warns(UserWarning, match="skipped 1 image"):
        near(metric.compute(), DAMLPIPS(video=True)(x[[0, 2]], y[[0, 2]]).mean())
    strict = DAMLPIPSMetric(video=True)
    with pytest.raises(ValueError, match="number 1 of the batch"):
        strict.update(x, y)
    assert strict.update_count == 0


def test_reference_keys_name_videos() -> None:
    x, y = videos(2, 3)
    metric = DAMLPIPSMetric(video=True, reduction="none")
    for _ in range(2):
        metric.update(x, y, reference_key=["a", "b"])
    assert (metric.model.references.misses, metric.model.references.hits) == (6, 6)
    near(metric.compute(), DAMLPIPS(video=True)(x, y).repeat(2))
    with pytest.raises(ValueError, match="another key"):
        metric.update(x, y.flip(1), reference_key=["a", "b"])
    with pytest.raises(ValueError, match="expected 2 keys"):
        metric.update(x, y, reference_key=["a"] * 6)


ONE, TWO = videos(1, 2)[0], videos(2, 2)[0]
REFUSED = {
    "images": (ONE[0], ONE[0], ValueError, "expected (N, T, 3, H, W) with video=True, got (2, 3, 24, 27)"),
    "an image": (ONE, ONE[0], ValueError, "second video: expected (N, T, 3, H, W)"),
    "not a tensor": (ONE.numpy(), ONE, TypeError, "got numpy.ndarray"),
    "numbers of videos": (ONE, TWO, ValueError, "got 1 of 2 and 2 of 2"),
    "numbers of frames": (ONE, ONE[:, :1], ValueError, "got 1 of 2 and 1 of 1"),
    "no frame": (ONE[:, :0], ONE[:, :0], ValueError, "got (1, 0, 3, 24, 27): there is no frame"),
    "channels": (
        ONE[:, :, :2],
        ONE[:, :, :2],
        ValueError,
        "expected (N, T, 3, H, W) with video=True, got (1, 2, 2, 24, 27)",
    ),
    "sizes": (ONE, ONE[..., 1:], ValueError, "must have one size, got 24 x 27 and 24 x 26"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_videos_are_refused(case) -> None:
    x, y, kind, message = REFUSED[case]
    metric = DAMLPIPSMetric(video=True)
    for call in (DAMLPIPS(video=True), DAMLPIPS(video=True).spatial_map, metric.update):
        with pytest.raises(kind, match=re.escape(message)):
            call(x, y)
    assert metric.update_count == 0


def test_a_video_without_the_option_is_told_of_it() -> None:
    for call in (DAMLPIPS(), DAMLPIPS().spatial_map, DAMLPIPSMetric().update):
        with pytest.raises(ValueError, match="need video=True"):
            call(ONE, ONE)
    with pytest.raises(ValueError, match="got a module with video=True"):
        pairwise(ONE[0], metric=DAMLPIPS(video=True))
    module = DAMLPIPS(video=True)
    with pytest.raises(ValueError, match="or a still, got 3"):
        module(ONE, module.encode(torch.rand(3, 3, 24, 27)))
    with pytest.raises(TypeError, match="got encoded frames in both"):
        module(module.encode(ONE[0]), module.encode(ONE[0]))


def test_metrics_of_images_share_their_pass_beside_one_of_videos() -> None:
    first = DAMLPIPSMetric()
    metrics = [first, LPIPSMetric(first.model.backbone, heads="uniform"), DAMLPIPSMetric(video=True)]
    (x,), (y,) = videos(1, 2)
    seen = []
    handle = metrics[0].model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(sum(map(len, inputs))))
    for m in metrics[:2]:
        m.update(x, y)
    handle.remove()
    assert sum(seen) == 4
    keys = [m.model.sharing_key((24, 27)) for m in metrics]
    assert [a == b for a, b in itertools.combinations(keys, 2)] == [True, False, False]
