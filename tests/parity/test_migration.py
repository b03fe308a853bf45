"""What docs/how-to/migrate.md says of other packages: the same scores on the same weights, called as users do."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from benchmarks.bench.peers import torchvision_gives
from damlpips import LPIPS, LPIPSMetric
from damlpips.functional import lpips as lpips_of
from damlpips.nets.table import BACKBONES
from damlpips.nets.weights import load_heads
from tests.support import reference

# float32, in another order of operations
SCORE = {"rtol": 1e-5, "atol": 1e-8}
MAP = {"rtol": 1e-4, "atol": 1e-6}


def heads(net: str) -> list[Tensor]:
    return [head.reshape(1, -1, 1, 1) for head in load_heads("v0.1", net, BACKBONES[net].channels)]


@pytest.fixture(scope="module")
def alex(random_weights: Callable[[str], Path]) -> Path:
    return random_weights("alexnet")


@pytest.fixture
def no_downloads() -> Iterator[None]:
    """Let torchvision give random weights, and pyiqa and piq the heads that are in every package."""

    def into(module: Any, *_: Any) -> None:
        with torch.no_grad():
            for layer, head in zip(module.lins, heads(module.pnet_type), strict=True):
                layer.model[-1].weight.copy_(head)

    network = reference.loaded_features("alexnet", reference.random_state("alexnet"))
    vgg = reference.loaded_features("vgg16", reference.random_state("vgg16"))
    with (
        torchvision_gives(network),
        mock.patch("pyiqa.archs.lpips_arch.load_pretrained_network", into),
        mock.patch("piq.perceptual.vgg16", return_value=mock.Mock(features=vgg)),
        mock.patch("torch.hub.load_state_dict_from_url", return_value=heads("vgg")),
    ):
        yield


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_from_lpips(alex: Path, no_downloads: None) -> None:
    import lpips

    x, y = reference.noise(3)
    old, maps = lpips.LPIPS(net="alex", verbose=False), lpips.LPIPS(net="alex", spatial=True, verbose=False)
    new, wide = LPIPS("alex", weights=alex), LPIPS("alex", weights=alex, value_range=(-1, 1))
    with torch.no_grad():
        assert old(x, y, normalize=True).shape == (3, 1, 1, 1)
        torch.testing.assert_close(new(x, y), old(x, y, normalize=True).flatten(), **SCORE)
        torch.testing.assert_close(new(y, x), new(x, y), **SCORE)
        torch.testing.assert_close(wide(2 * x - 1, 2 * y - 1), old(2 * x - 1, 2 * y - 1).flatten(), **SCORE)
        layers = old(x, y, normalize=True, retPerLayer=True)[1]
        torch.testing.assert_close(new.per_layer(x, y), torch.cat([d.flatten(1) for d in layers], 1), **SCORE)
        torch.testing.assert_close(new.spatial_map(x, y), maps(x, y, normalize=True), **MAP)
        # what is warned about here is a number there
        assert old(x, y).flatten()[0] != old(2 * x - 1, 2 * y - 1).flatten()[0]
    with pytest.warns(UserWarning, match="value_range"):
        new(2 * x - 1, 2 * y - 1)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_from_torchmetrics(alex: Path, no_downloads: None) -> None:
    from torchmetrics.functional.image import learned_perceptual_image_patch_similarity
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    x, y = reference.noise(3)
    for old, new in (
        (LearnedPerceptualImagePatchSimilarity(normalize=True), LPIPSMetric(weights=alex)),
        (
            LearnedPerceptualImagePatchSimilarity("alex", reduction="sum", normalize=True),
            LPIPSMetric("alex", weights=alex, reduction="sum"),
        ),
    ):
        for rows in ([0, 1], [2]):
            old.update(x[rows], y[rows])
            new.update(x[rows], y[rows])
        torch.testing.assert_close(new.compute(), old.compute(), **SCORE)
    old, new = LearnedPerceptualImagePatchSimilarity(), LPIPSMetric(weights=alex, value_range=(-1, 1))
    torch.testing.assert_close(new(2 * x - 1, 2 * y - 1), old(2 * x - 1, 2 * y - 1), **SCORE)
    # one image: () there, (1,) here
    old = learned_perceptual_image_patch_similarity(x[:1], y[:1], normalize=True, reduction="none")
    new = lpips_of(x[:1], y[:1], weights=str(alex))
    assert (old.shape, new.shape) == ((), (1,))
    torch.testing.assert_close(new.mean(), old, **SCORE)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_from_piq(no_downloads: None, random_vgg_weights: Path) -> None:
    import piq

    from damlpips.adapters.piq import create_metric

    x, y = reference.noise(2, 40, 40)
    with torch.no_grad():
        torch.testing.assert_close(LPIPS("vgg", weights=random_vgg_weights, reduction="mean")(x, y), piq.LPIPS()(x, y))
        each = piq.LPIPS(reduction="none")(x, y)
        torch.testing.assert_close(LPIPS("vgg", weights=random_vgg_weights)(x, y), each, **SCORE)
        named = create_metric("lpips-fast-vgg", weights=random_vgg_weights, reduction="none")
        torch.testing.assert_close(named(x, y), each, **SCORE)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_from_pyiqa(alex: Path, no_downloads: None) -> None:
    import pyiqa

    import damlpips

    damlpips.register("pyiqa")
    x, y = reference.noise(2)
    device = torch.device("cpu")
    old = pyiqa.create_metric("lpips", device=device)(x, y)
    assert old.shape == (2, 1)
    new = pyiqa.create_metric("lpips-fast", device=device, weights=alex)
    torch.testing.assert_close(new(x, y), old, **SCORE)
    torch.testing.assert_close(LPIPS("alex", weights=alex)(x, y), old.flatten(), **SCORE)
    loss = pyiqa.create_metric("lpips", device=device, as_loss=True)(x.requires_grad_(), y)
    torch.testing.assert_close(LPIPS("alex", weights=alex, reduction="mean")(x, y), loss.squeeze(), **SCORE)
