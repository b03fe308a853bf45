"""DAMLPIPS and LPIPS on networks that the package does not have, read from a folder that the environment names."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import extra_networks
from damlpips.evaluation.named import UnavailableMetricError, build

FILE = Path(extra_networks.__file__)
NAMES = [f"{network}{suffix}" for network in ("mobilenet", "efficientnet", "vgg") for suffix in ("", "_lpips")]
# a loader and its weights, a text
LOADER = """
import torch
class Network(torch.nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(scale))
    def forward(self, x):
        return [self.scale * x, x[..., ::2, ::2]]
def load(path):
    return Network(float(open(path).read()))
"""


@pytest.fixture(autouse=True)
def _read_anew() -> Iterator[None]:
    extra_networks.backbone.cache_clear()
    yield
    extra_networks.backbone.cache_clear()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mobilenet_v1.py").write_text(LOADER)
    (tmp_path / "mobilenet_v1_imagenet.safetensors").write_text("0.5")
    monkeypatch.setenv(extra_networks.VARIABLE, str(tmp_path))
    return tmp_path


def test_networks_come_from_the_folder(folder: Path) -> None:
    model = extra_networks.mobilenet()
    x, y = torch.rand(2, 1, 3, 40, 40)
    maps = model.backbone(x)
    assert torch.equal(maps[0], 0.5 * x)
    assert model(x, y).shape == (1,)
    # one network for both
    assert extra_networks.mobilenet_lpips().backbone is model.backbone
    assert extra_networks.mobilenet_lpips().heads == "uniform"


def test_other_weights_are_another_metric(folder: Path) -> None:
    before = extra_networks.mobilenet().configuration()
    (folder / "mobilenet_v1_imagenet.safetensors").write_text("0.25")
    extra_networks.backbone.cache_clear()
    assert extra_networks.mobilenet().configuration() != before


def test_no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(extra_networks.VARIABLE, raising=False)
    message = f"{extra_networks.VARIABLE} is not set: expected the folder of {extra_networks.VGG}"
    with pytest.raises(UnavailableMetricError, match=message):
        build(f"{FILE}:vgg")
    monkeypatch.setenv(extra_networks.VARIABLE, str(tmp_path))
    with pytest.raises(UnavailableMetricError, match=f"no efficientnet_lite.py in {tmp_path}"):
        build(f"{FILE}:efficientnet")


def test_a_loader_of_something_else(folder: Path) -> None:
    (folder / "mobilenet_v1.py").write_text("def load(path):\n    return 3")
    with pytest.raises(TypeError, match=r"mobilenet_v1\.py: expected load\(\) to return a torch\.nn\.Module, got int"):
        extra_networks.mobilenet()


@pytest.mark.shared
@pytest.mark.parametrize("name", NAMES)
def test_trained_networks(name: str, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shared / "weights" / "more"
    if not folder.is_dir():
        pytest.skip(f"no further networks at {folder}")
    monkeypatch.setenv(extra_networks.VARIABLE, str(folder))
    metric = build(f"{FILE}:{name}")
    x = torch.rand(2, 3, 64, 72)
    weak, strong = ((x + s * torch.randn_like(x)).clamp(0, 1) for s in (0.02, 0.2))
    assert metric.distances(x, x).tolist() == pytest.approx([0, 0], abs=1e-5)
    assert (metric.distances(x, strong) > metric.distances(x, weak)).all()
