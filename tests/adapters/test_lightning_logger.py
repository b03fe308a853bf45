"""The callback in a real Trainer: in the event file stand the worst pairs of an epoch, and training is as before."""

import importlib
import inspect
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from tests.support import reference
from tests.support.reference import Tiny

pytest.importorskip("lightning")

import lightning
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from damlpips import DAMLPIPS, LPIPS, Backbone, DAMLPIPSMetric
from damlpips.adapters import lightning as adapter
from damlpips.adapters.lightning import PerceptualMapLogger, picture
from damlpips.report import heat

N, BATCH, SIDE = 10, 4, 20
PACKAGES = ("lightning.pytorch", "pytorch_lightning")


def images(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return noisy images, the later the noisier but for the order below, and clean ones."""
    clean, _ = reference.noise(N, SIDE, SIDE + 4, seed)
    clean = 0.3 + 0.4 * clean
    amount = torch.tensor([3, 9, 1, 0, 7, 2, 8, 4, 5.5, 5]).reshape(-1, 1, 1, 1) / 30
    generator = torch.Generator().manual_seed(seed + 1)
    return (clean + amount * torch.randn(clean.shape, generator=generator)).clamp(0, 1), clean


WORST = [1, 6, 4, 8]  # of the noise above, the worst first


def restorer(package: str = "lightning.pytorch", returns: str = "mapping", loaders: int = 1) -> Any:
    """Return a tiny LightningModule whose validation step returns the pair in one of several ways."""

    class Restorer(importlib.import_module(package).LightningModule):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.network = torch.nn.Conv2d(3, 3, 1)
            torch.nn.init.dirac_(self.network.weight)
            torch.nn.init.zeros_(self.network.bias)
            self.score = DAMLPIPSMetric()

        def training_step(self, batch: Any, _: int) -> Tensor:
            return (self.network(batch[0]) - batch[1]).square().mean()

        def validation_step(self, batch: Any, _: int, dataloader_idx: int = 0) -> Any:
            img, ref = batch
            img = self.network(img).clamp(0, 1)
            self.score.update(img, ref)
            self.log("score", self.score, add_dataloader_idx=False) if loaders == 1 else None
            results = {"img": img, "ref": ref}
            return {"mapping": results, "pair": (img, ref), "other": {"restored": img}, "nothing": None}[returns]

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return Restorer()


def loader(seed: int = 0) -> DataLoader:
    return DataLoader(TensorDataset(*images(seed)), batch_size=BATCH)


def trainer(logger: Any, *callbacks: Any, package: str = "lightning.pytorch", **options: Any) -> Any:
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    settings = {"max_epochs": 1, "num_sanity_val_steps": 0, **quiet, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kind = importlib.import_module(package).Trainer
        return kind(accelerator="cpu", logger=logger, callbacks=list(callbacks), **{"devices": 1, **settings})


def written(folder: Path) -> EventAccumulator:
    (file,) = folder.rglob("events.out.tfevents.*")
    events = EventAccumulator(str(file))
    events.Reload()
    return events


def image_in(events: EventAccumulator, tag: str) -> Tensor:
    """Return the only image under a tag, (3, H, W) in [0, 1]."""
    import io

    import numpy as np
    from PIL import Image

    (event,) = events.Images(tag)
    with Image.open(io.BytesIO(event.encoded_image_string)) as image:
        return torch.from_numpy(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1) / 255


def heat_map(img: Tensor, ref: Tensor) -> Tensor:
    """Return the map of a pair over the image in grey, (3, H, W)."""
    values = DAMLPIPS().spatial_map(img[None], ref[None])[0, 0].numpy()
    shown = heat.overlay(values, img.permute(1, 2, 0).numpy(), heat.limit(values))
    return torch.from_numpy(shown).permute(2, 0, 1)


def text_in(events: EventAccumulator, tag: str) -> str:
    (event,) = events.Tensors(f"{tag}/text_summary")
    return event.tensor_proto.string_val[0].decode()


class Recorder(Logger):
    """A logger that keeps what `log_image` is given."""

    name, version = "recorder", 0

    def __init__(self) -> None:
        super().__init__()
        self.images: dict[str, tuple[Any, int, str]] = {}

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...

    def log_metrics(self, *args: Any, **kwargs: Any) -> None: ...

    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        inspect.signature(WandbLogger.log_image).bind(self, key=key, images=images, step=step, **kwargs)
        assert all(len(values) == len(images) for values in kwargs.values())
        (pixels,), (caption,) = images, kwargs["caption"]
        self.images[key] = pixels, step, caption


@pytest.mark.parametrize("package", PACKAGES)
def test_the_worst_of_an_epoch_are_in_tensorboards_file(package: str, tmp_path: Path) -> None:
    model = restorer(package)
    callback = PerceptualMapLogger(model.score, k=3)
    writer = importlib.import_module(f"{package}.loggers").TensorBoardLogger(tmp_path)
    used = trainer(writer, callback, package=package, num_sanity_val_steps=2)
    used.fit(model, loader(), loader())
    writer.finalize("success")
    events = written(tmp_path)
    tags = [f"worst_damlpips/{place}" for place in (1, 2, 3)]
    assert sorted(events.Tags()["images"]) == tags

    with torch.no_grad():
        img = model.network(images()[0]).clamp(0, 1)
    ref = images()[1]
    scores = DAMLPIPS()(img, ref)
    assert scores.argsort(descending=True)[:3].tolist() == WORST[:3]
    for tag, n in zip(tags, WORST, strict=False):
        assert text_in(events, tag) == f"DAMLPIPS {scores[n]:.4f}, batch {n // BATCH}, image {n % BATCH}"
        assert events.Images(tag)[0].step == used.global_step == 3
        shown = image_in(events, tag)
        assert shown.shape == (3, SIDE, 3 * (SIDE + 4))
        expected = torch.cat([ref[n], img[n], heat_map(img[n], ref[n])], 2)
        # a PNG has bytes; in the map a colour's step is a 256th, and float32 decides
        assert (shown - expected).abs().max() < 2 / 255


def test_pairs_come_as_the_step_returns_them_or_by_a_function(tmp_path: Path) -> None:
    found = []
    by_hand = {"pairs": lambda outputs, batch: (outputs["restored"], batch[1])}
    for returns, options in (("mapping", {}), ("pair", {}), ("other", by_hand)):
        recorder = Recorder()
        trainer(recorder, PerceptualMapLogger(DAMLPIPS(), **options)).validate(
            restorer(returns=returns), loader(), verbose=False
        )
        assert list(recorder.images) == [f"worst_damlpips/{place}" for place in (1, 2, 3, 4)]
        found.append([caption for _, _, caption in recorder.images.values()])
        pixels, step, caption = recorder.images["worst_damlpips/1"]
        assert (pixels.shape, str(pixels.dtype), step) == ((SIDE, 3 * (SIDE + 4), 3), "uint8", 0)
        assert caption.endswith(f"batch {WORST[0] // BATCH}, image {WORST[0] % BATCH}")
    assert found[0] == found[1] == found[2]


def test_some_batches_can_be_passed_over() -> None:
    recorder = Recorder()
    callback = PerceptualMapLogger(DAMLPIPS(), pairs=lambda o, b: (o["img"], o["ref"]) if len(b[0]) < BATCH else None)
    trainer(recorder, callback).validate(restorer(), loader(), verbose=False)
    assert len(recorder.images) == 2
    assert all("batch 2," in caption for _, _, caption in recorder.images.values())


def test_each_data_loader_has_its_own(tmp_path: Path) -> None:
    recorder = Recorder()
    callback = PerceptualMapLogger(DAMLPIPS(), k=2, tag="worst")
    trainer(recorder, callback).validate(restorer(loaders=2), [loader(), loader(5)], verbose=False)
    expected = {}
    for k, seed in enumerate((0, 5)):
        scores, places = DAMLPIPS()(*images(seed)).sort(descending=True)
        for place in (1, 2):
            n = int(places[place - 1])
            caption = f"DAMLPIPS {scores[place - 1]:.4f}, batch {n // BATCH}, image {n % BATCH}"
            expected[f"worst/dataloader_{k}/{place}"] = caption
    assert {name: caption for name, (_, _, caption) in recorder.images.items()} == expected


def test_sanity_checks_are_not_logged() -> None:
    recorder = Recorder()
    seen = []
    callback = PerceptualMapLogger(DAMLPIPS(), pairs=lambda outputs, batch: seen.append(1))
    trainer(recorder, callback, num_sanity_val_steps=2, limit_val_batches=3, limit_train_batches=0).fit(
        restorer(), loader(), loader()
    )
    assert recorder.images == {}
    assert seen == []


def test_memory_does_not_grow_with_the_epoch() -> None:
    kept = []

    class Spy(lightning.Callback):
        def on_validation_batch_end(self, used: Any, *_: Any) -> None:
            (heap,) = callback._worst.values()
            pairs = [x for pair in heap for x in (pair.img, pair.ref)]
            kept.append((len(heap), sum(x.untyped_storage().nbytes() for x in pairs), {len(x) for x in pairs}))

    callback = PerceptualMapLogger(DAMLPIPS(), k=2)
    trainer(Recorder(), callback, Spy()).validate(restorer(), loader(), verbose=False)
    assert kept == [(2, 4 * 3 * SIDE * (SIDE + 4) * 4, {1})] * 3
    assert callback._worst == {}


@pytest.mark.parametrize("logger", ["csv", "none"])
def test_without_a_logger_for_images_there_is_one_warning(logger: str, tmp_path: Path) -> None:
    called = []
    callback = PerceptualMapLogger(DAMLPIPS(), pairs=lambda outputs, batch: called.append(1))
    used = trainer(CSVLogger(tmp_path) if logger == "csv" else False, callback)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            used.validate(restorer(), loader(), verbose=False)
    texts = [str(w.message) for w in caught if "PerceptualMapLogger" in str(w.message)]
    assert len(texts) == 1
    assert texts[0].endswith("got CSVLogger" if logger == "csv" else "got no logger")
    assert called == []


def test_training_is_the_same_with_and_without() -> None:
    outcomes = []
    for callbacks in ([], [PerceptualMapLogger(DAMLPIPS())]):
        model = restorer()
        torch.manual_seed(7)
        used = trainer(Recorder(), *callbacks, max_epochs=2)
        used.fit(model, DataLoader(TensorDataset(*images()), batch_size=BATCH, shuffle=True), loader())
        outcomes.append((model.state_dict(), used.callback_metrics["score"], torch.rand(1)))
    (weights, score, drawn), (others, other_score, other_drawn) = outcomes
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert torch.equal(score, other_score)
    assert torch.equal(drawn, other_drawn)


def test_a_network_loaded_in_validation_can_train_afterwards() -> None:
    """Lightning validates in inference mode, whose tensors no graph can hold."""
    module = LPIPS(Backbone(Tiny(), min_size=5, name="tiny"), heads="uniform")
    trainer(Recorder(), PerceptualMapLogger(module)).validate(restorer(), loader(), verbose=False)
    x, y = (v.requires_grad_() for v in images())
    for gradient in torch.autograd.grad(module(x, y).sum(), (x, y)):
        assert gradient.isfinite().all()


def test_other_kinds_of_images() -> None:
    """Bytes, other ranges, grey and sizes that differ are shown as they were scored."""
    x, y = (v[:1] for v in images())
    whole = picture(DAMLPIPS(), x, y)
    torch.testing.assert_close(picture(DAMLPIPS(value_range=(-1, 1)), 2 * x - 1, 2 * y - 1), whole, atol=1e-3, rtol=0)
    as_bytes = picture(DAMLPIPS(), (255 * x).to(torch.uint8), (255 * y).to(torch.uint8))
    assert (as_bytes - whole)[..., : 2 * (SIDE + 4)].abs().max() <= 1 / 255
    grey = picture(DAMLPIPS(grey="repeat", resize="reference"), x[:, :1, ::2, ::2], y[:, :1])
    assert grey.shape == whole.shape
    assert torch.equal(grey[0, :, : SIDE + 4], y[0, 0])
    assert torch.equal(grey[0, :, : 2 * (SIDE + 4)], grey[2, :, : 2 * (SIDE + 4)])


def test_wrong_options_and_results_are_refused() -> None:
    with pytest.raises(TypeError, match="got Conv2d"):
        PerceptualMapLogger(torch.nn.Conv2d(1, 1, 1))
    with pytest.raises(ValueError, match="video=True"):
        PerceptualMapLogger(DAMLPIPSMetric(video=True))
    with pytest.raises(ValueError, match="comparison='sort' has no places"):
        PerceptualMapLogger(LPIPS("nano", heads="uniform", comparison="sort"))
    for k in (0, 1.5, True):
        with pytest.raises(ValueError, match="k: expected a whole number"):
            PerceptualMapLogger(DAMLPIPS(), k=k)
    for returns, what in (("nothing", "got NoneType"), ("other", "got a mapping with 'restored'")):
        with pytest.raises(TypeError, match=what):
            trainer(Recorder(), PerceptualMapLogger(DAMLPIPS())).validate(restorer(returns=returns), loader())
    with pytest.raises(TypeError, match="expected two tensors"):
        trainer(Recorder(), PerceptualMapLogger(DAMLPIPS(), pairs=lambda o, b: (o["img"], None))).validate(
            restorer(), loader()
        )


def test_images_without_a_score_are_passed_over() -> None:
    x, y = images()
    x[1] = torch.nan
    recorder = Recorder()
    model = restorer()
    model.score = DAMLPIPSMetric(on_error="skip")
    with pytest.warns(UserWarning, match="skipped 1 image"):
        trainer(recorder, PerceptualMapLogger(model.score, k=2)).validate(
            model, DataLoader(TensorDataset(x, y), batch_size=BATCH), verbose=False
        )
    captions = [caption for _, _, caption in recorder.images.values()]
    assert [caption.split(", ", 1)[1] for caption in captions] == ["batch 1, image 2", "batch 1, image 0"]


def test_of_two_processes_the_first_logs_the_worst_of_its_share(tmp_path: Path) -> None:
    recorder = Recorder()

    class Note(lightning.Callback):
        def on_validation_end(self, used: Any, _: Any) -> None:
            lines = [f"{name}: {caption}" for name, (_, _, caption) in recorder.images.items()]
            (tmp_path / f"{used.global_rank}.txt").write_text("\n".join(lines))

    callback = PerceptualMapLogger(DAMLPIPS(), k=2)
    used = trainer(recorder, callback, Note(), devices=2, strategy="ddp_fork")
    used.validate(restorer(), loader(), verbose=False)
    # every second image is the first process's: 0, 2, 4, 6, 8, in batches of 4
    scores = DAMLPIPS()(*images())
    lines = [f"worst_damlpips/1: DAMLPIPS {scores[6]:.4f}, batch 0, image 3"]
    lines += [f"worst_damlpips/2: DAMLPIPS {scores[4]:.4f}, batch 0, image 2"]
    assert (tmp_path / "0.txt").read_text().splitlines() == lines
    assert (tmp_path / "1.txt").read_text() == ""


@pytest.mark.parametrize("package", PACKAGES)
def test_a_callback_belongs_to_the_package_in_use(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    importlib.import_module("pytorch_lightning")
    (other,) = set(PACKAGES) - {package}
    monkeypatch.setattr(adapter.sys, "modules", {k: v for k, v in sys.modules.items() if k != other})
    assert adapter._callback() is importlib.import_module(f"{package}.callbacks").Callback


def test_without_either_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name.split(".")[0])

    def broken(name: str) -> Any:
        raise ModuleNotFoundError("No module named 'yaml'", name="yaml")

    monkeypatch.setattr(adapter, "import_module", missing)
    with pytest.raises(ImportError, match=r"pip install 'damlpips\[lightning\]'"):
        adapter._callback()
    monkeypatch.setattr(adapter, "import_module", broken)
    with pytest.raises(ModuleNotFoundError, match="yaml"):
        adapter._callback()
