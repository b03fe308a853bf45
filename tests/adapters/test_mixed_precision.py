"""Half precision beside float32, as autocast makes it of a network's output, through every entry of the package."""

import warnings
from collections.abc import Callable
from typing import Any

import lightning
import piq
import pyiqa
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MetricCollection, MetricTracker
from torchmetrics.wrappers import Running

import damlpips
from damlpips import DAMLPIPS, LPIPS, DAMLPIPSMetric, LPIPSMetric, functional
from damlpips.adapters.lightning import PerceptualMapLogger
from damlpips.adapters.piq import create_metric

damlpips.register()
HALVES = (torch.float16, torch.bfloat16)


def collection() -> MetricCollection:
    return MetricCollection({"d": DAMLPIPSMetric(), "l": LPIPSMetric("nano", heads="uniform")})


def by_pyiqa(**options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pyiqa.create_metric("damlpips", device=torch.device("cpu"), **options)


def updated(metric: Any, *pair: Tensor) -> Any:
    metric.update(*pair)
    return metric.compute()


def tracked(*pair: Tensor) -> Any:
    tracker = MetricTracker(DAMLPIPSMetric())
    tracker.increment()
    return updated(tracker, *pair)


# how a score is made of a pair
ENTRIES: dict[str, Callable[..., Any]] = {
    "DAMLPIPS": lambda x, y: DAMLPIPS()(x, y),
    "LPIPS": lambda x, y: LPIPS("nano", heads="uniform")(x, y),
    "per layer": lambda x, y: DAMLPIPS().per_layer(x, y),
    "map": lambda x, y: DAMLPIPS().spatial_map(x, y),
    "tiles": lambda x, y: LPIPS("nano", heads="uniform", tile=48)(x, y),
    "resized": lambda x, y: DAMLPIPS(resize=40)(x, y),
    "deterministic": lambda x, y: DAMLPIPS(deterministic=True)(x, y),
    "video": lambda x, y: DAMLPIPS(video=True)(x[None], y[None]),
    "functional": lambda x, y: functional.damlpips(x, y),
    "functional lpips": lambda x, y: functional.lpips(x, y, backbone="nano", heads="uniform"),
    "pairwise": lambda x, y: functional.pairwise(x, y),
    "metric, update": lambda x, y: updated(DAMLPIPSMetric(), x, y),
    "metric, forward": lambda x, y: DAMLPIPSMetric()(x, y),
    "metric, keys": lambda x, y: DAMLPIPSMetric()(x, y, reference_key=["a", "b"]),
    "metric of videos": lambda x, y: updated(DAMLPIPSMetric(video=True), x[None], y[None]),
    "collection, update": lambda x, y: updated(collection(), x, y),
    "collection, forward": lambda x, y: collection()(x, y),
    "running": lambda x, y: updated(Running(DAMLPIPSMetric(), window=2), x, y),
    "tracker": tracked,
    "piq loss": lambda x, y: piq.DAMLPIPS()(x, y),
    "piq function": lambda x, y: piq.damlpips(x, y),
    "piq by name": lambda x, y: create_metric("damlpips")(x, y),
    "pyiqa": lambda x, y: by_pyiqa()(x, y),
    "pyiqa loss": lambda x, y: by_pyiqa(as_loss=True)(x, y),
}
LOSSES = ("DAMLPIPS", "LPIPS", "functional", "metric, forward", "piq loss", "piq function", "pyiqa loss")


def pair() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, 64, 64, generator=generator)
    # pyiqa itself refuses 1.0 in half precision, where its limit, 1 + 1e-6, is rounded to 1
    return 0.99 * x, (x + 0.2 * torch.rand(x.shape, generator=generator)).clamp(0, 0.99)


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("entry", ENTRIES)
def test_half_beside_float_is_float(entry: str, half: torch.dtype) -> None:
    x, y = pair()
    for first, second in ((x.to(half), y), (x, y.to(half))):
        expected = ENTRIES[entry](first.float(), second.float())
        torch.testing.assert_close(ENTRIES[entry](first, second), expected, rtol=0, atol=0)


@pytest.mark.parametrize("entry", ENTRIES)
def test_under_autocast(entry: str) -> None:
    """The network runs in half precision there, and everything else as without."""
    x, y = pair()
    expected = ENTRIES[entry](x, y)
    with torch.autocast("cpu", torch.bfloat16):
        found = ENTRIES[entry](x.bfloat16(), y)
    # bfloat16 has 8 bits: feature maps, and so scores, are off by a few thousandths of the largest
    largest = max(float(v.max()) for v in (expected.values() if isinstance(expected, dict) else [expected]))
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.02 * largest)


@pytest.mark.parametrize("entry", LOSSES)
def test_a_loss_under_autocast_is_differentiable(entry: str) -> None:
    x, y = pair()
    network = torch.nn.Conv2d(3, 3, 1)
    with torch.autocast("cpu", torch.bfloat16):
        restored = network(x).clamp(0, 1)
        assert restored.dtype == torch.bfloat16
        loss = ENTRIES[entry](restored, y).mean()
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in network.parameters())


@pytest.mark.parametrize("other", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("entry", [name for name in ENTRIES if name not in ("pairwise", "pyiqa")])
def test_bytes_beside_floats_stay_an_error(entry: str, other: torch.dtype) -> None:
    x, y = pair()
    with pytest.raises(TypeError, match=r"both be floats or both uint8, got torch.uint8 and .*: bytes b become floats"):
        ENTRIES[entry]((255 * x).to(torch.uint8), y.to(other))


# --- Lightning ------------------------------------------------------------------------------------------------------


class Restorer(lightning.LightningModule):
    """The README's example: loss, metric, collection and pictures of one network's output."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = torch.nn.Conv2d(3, 3, 3, padding=1)
        self.loss = DAMLPIPS(reduction="mean")
        self.score = DAMLPIPSMetric()
        self.scores = collection()
        self.types: set[torch.dtype] = set()

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        restored = self.network(batch[0])
        self.types.add(restored.dtype)
        return self.loss(restored, batch[1])

    def validation_step(self, batch: list[Tensor], _: int) -> dict[str, Tensor]:
        restored = self.network(batch[0])
        self.log("loss", self.loss(restored, batch[1]))
        restored = restored.clamp(0, 1)
        self.score.update(restored, batch[1], index=batch[2])
        self.scores.update(restored, batch[1])
        self.log("damlpips", self.score)
        self.log_dict(self.scores)
        return {"img": restored, "ref": batch[1]}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


@pytest.mark.filterwarnings("ignore:.*scored as it is.*:UserWarning")  # what the network restores at first
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "32-true"])
def test_a_real_trainer(precision: str, tmp_path: Any) -> None:
    x, y = pair()
    loader = DataLoader(TensorDataset(x, y, torch.arange(len(x))), batch_size=1)
    model = Restorer()
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        precision=precision,
        logger=TensorBoardLogger(tmp_path),
        callbacks=[PerceptualMapLogger(model.score, k=1)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, loader, loader)
    assert model.types == {torch.float32 if precision == "32-true" else torch.bfloat16}
    logged = trainer.callback_metrics
    assert logged.keys() >= {"loss", "damlpips", "d", "l"}
    assert all(value.isfinite() and value > 0 for value in logged.values())
    assert torch.equal(logged["damlpips"], logged["d"])
