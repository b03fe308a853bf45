"""Networks of other than three channels: latents, medical and multispectral images."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from damlpips import DAMLPIPS, LPIPS, Backbone, DAMLPIPSMetric, functional
from damlpips.adapters.piq import create_metric
from damlpips.ops import colour

CHANNELS = (1, 2, 4, 12)
KINDS: dict[str, Any] = {"damlpips": DAMLPIPS, "lpips": lambda b, **o: LPIPS(b, heads="uniform", **o)}


def backbone(channels: int, **options: Any) -> Backbone:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(channels, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU())
    return Backbone(network, taps=["1", "3"], channels=channels, min_size=5, **options)


def pair(channels: int) -> tuple[Tensor, Tensor]:
    x, y = torch.rand(2, 2, channels, 40, 44, generator=torch.Generator().manual_seed(1))
    return x, y


USES: dict[str, Callable[[Any, Tensor, Tensor], Tensor]] = {
    "score": lambda m, x, y: m(x, y),
    "layers": lambda m, x, y: m.per_layer(x, y).sum(1),
    "encoded": lambda m, x, y: m(m.encode(x), m.encode(y)),
    "keys": lambda m, x, y: m(x, y, reference_key=["a", "b"]),
    "pairwise": lambda m, x, y: functional.pairwise(x, y, metric=m).diag(),
    "one by one": lambda m, x, y: torch.cat([m(x[k : k + 1], y[k : k + 1]) for k in range(len(x))]),
    "bytes": lambda m, x, y: m(*((255 * v).round().to(torch.uint8) for v in (x, y))),
    "swapped": lambda m, x, y: m(y, x),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_use(kind: str, channels: int, use: str) -> None:
    module, (x, y) = KINDS[kind](backbone(channels)), pair(channels)
    if use == "bytes":
        x, y = ((255 * v).round() / 255 for v in (x, y))
    torch.testing.assert_close(USES[use](module, x, y), module(x, y), rtol=1e-4, atol=1e-7)
    assert module(x, x).eq(0).all()
    assert module(x, y).gt(0).all()


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("kind", KINDS)
def test_tiles_resizing_videos_and_metrics(kind: str, channels: int) -> None:
    own, (x, y) = backbone(channels), pair(channels)
    whole = {"viewing_side": None} if kind == "damlpips" else {}
    expected = KINDS[kind](own, **whole)(x, y)
    torch.testing.assert_close(KINDS[kind](own, tile=16, **whole)(x, y), expected, rtol=1e-4, atol=1e-7)
    assert KINDS[kind](own, resize=20)(x, y).isfinite().all()
    torch.testing.assert_close(
        KINDS[kind](own, video=True, **whole)(x[None], y[None]), expected.mean(0, keepdim=True), rtol=1e-4, atol=1e-7
    )
    metric = DAMLPIPSMetric(own)
    metric.update(x, y)
    torch.testing.assert_close(metric.compute(), DAMLPIPS(own)(x, y).mean())
    torch.testing.assert_close(create_metric("damlpips", backbone=own)(x, y), DAMLPIPS(own)(x, y).mean())
    optimised = x.clone().requires_grad_()
    KINDS[kind](own)(optimised, y).sum().backward()
    assert optimised.grad is not None
    assert optimised.grad.isfinite().all()


def test_latents_in_their_own_range() -> None:
    x, y = (8 * v - 4 for v in pair(4))
    module = DAMLPIPS(backbone(4), value_range=(-4, 4), check_values=True)
    torch.testing.assert_close(module(x, y), DAMLPIPS(backbone(4))(*pair(4)), rtol=1e-4, atol=1e-7)


def test_the_image_is_compared_as_it_is() -> None:
    x, _ = pair(4)
    image = DAMLPIPS(backbone(4)).layers(x)[0]
    torch.testing.assert_close(image, x - 0.75 * x.mean((2, 3), keepdim=True))
    assert torch.equal(x, pair(4)[0])  # and not changed
    rgb, _ = pair(3)
    assert torch.equal(DAMLPIPS(backbone(3)).layers(rgb)[0], colour.adapted(colour.oklab(rgb)))


def test_normalisation() -> None:
    own = backbone(2, mean=(0.5, 0.25), std=(0.5, 2.0))
    seen = own.network.sequence[0]((pair(2)[0] - torch.tensor([[[0.5]], [[0.25]]])) / torch.tensor([[[0.5]], [[2.0]]]))
    torch.testing.assert_close(own(pair(2)[0])[0], seen.relu())
    plain = backbone(2)
    torch.testing.assert_close(plain(pair(2)[0])[0], plain.network.sequence[0](pair(2)[0]).relu())


@pytest.mark.parametrize("channels", [0, -1, 1.5, True, "3"])
def test_a_number_of_channels_that_is_none(channels: Any) -> None:
    with pytest.raises(ValueError, match=r"channels: expected a whole number of at least 1, got"):
        Backbone(nn.Conv2d(3, 1, 1), channels=channels)


@pytest.mark.parametrize("options", [{"mean": (0.5,)}, {"std": (1.0, 1.0, 1.0)}, {"std": (1.0, 0.0)}])
def test_normalisation_of_another_number(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="mean, std: expected 2 numbers each, one a channel"):
        backbone(2, **options)


# --- what is said of other shapes -----------------------------------------------------------------------------------

SAID: dict[str, tuple[int, bool, tuple[int, ...], str]] = {
    # channels of the network, whether videos are compared, what comes, what is said
    "latents": (
        3,
        False,
        (2, 4, 40, 40),
        r"composite RGBA over a background, .*latents and .*Backbone\(..., channels=4\)",
    ),
    "multispectral": (
        3,
        False,
        (2, 12, 40, 40),
        r"12 channels need a network of your own, Backbone\(..., channels=12\)",
    ),
    "colours for grey": (
        1,
        False,
        (2, 3, 40, 40),
        r"expected \(N, 1, H, W\), got \(2, 3, 40, 40\): the backbone takes 1",
    ),
    "grey for latents": (
        4,
        False,
        (2, 1, 40, 40),
        r"expected \(N, 4, H, W\), got \(2, 1, 40, 40\): the backbone takes 4",
    ),
    "channels last": (4, False, (2, 40, 40, 4), r"channels come last; use x.permute\(0, 3, 1, 2\)"),
    "frames after channels": (
        3,
        True,
        (2, 3, 8, 40, 40),
        r"got \(2, 3, 8, 40, 40\): frames come before channels; use x.transpose\(1, 2\)",
    ),
    "videos of latents": (
        3,
        True,
        (2, 5, 4, 40, 40),
        r"expected \(N, T, 3, H, W\) with video=True, got \(2, 5, 4, 40, 40\): .*channels=4",
    ),
    "channels last in videos": (3, True, (2, 8, 40, 40, 3), r"channels come last; use x.movedim\(-1, -3\)"),
    "no frames": (3, True, (2, 0, 3, 40, 40), r"got \(2, 0, 3, 40, 40\): there is no frame"),
    "images for videos": (
        3,
        True,
        (2, 3, 40, 40),
        r"images need video=False, the frames of one video x.unsqueeze\(0\)",
    ),
    "videos for images": (3, False, (2, 5, 3, 40, 40), r"videos \(N, T, 3, H, W\) need video=True"),
}


@pytest.mark.parametrize("case", SAID)
def test_what_came_is_said_as_it_came(case: str) -> None:
    channels, video, shape, said = SAID[case]
    x = torch.rand(shape)
    for module in (DAMLPIPS(backbone(channels), video=video), DAMLPIPSMetric(backbone(channels), video=video).update):
        with pytest.raises(ValueError, match=said):
            module(x, x)
