"""Validate with a real Trainer on as many CPU processes as asked for; run by test_lightning.py.

Usage: lightning_validation.py PROCESSES FOLDER, which gets `RANK.pt` from each process, and two checkpoints taken in
mid-validation.
"""

import os
import sys
import warnings
from pathlib import Path

import lightning
import torch
from torch.utils.data import DataLoader, TensorDataset

from damlpips import DAMLPIPSMetric, LPIPSMetric

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.support.processes import images

N = 9
BATCH = 2


class OneByOne(torch.nn.Conv2d):
    """A convolution whose result for an image does not depend, to the last bit, on how many others are in its batch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([super(OneByOne, self).forward(image) for image in x.split(1)])


class Restorer(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.network = OneByOne(3, 3, 3, padding=1)
        self.plain = DAMLPIPSMetric(deterministic=True)
        self.indexed = DAMLPIPSMetric(deterministic=True)
        self.stepped = LPIPSMetric("nano", heads="uniform", deterministic=True)
        self.save_at: tuple[int, Path] | None = None

    def validation_step(self, batch: tuple[torch.Tensor, ...], number: int) -> None:
        x, y, index = batch
        restored = self.network(x).sigmoid()
        self.plain.update(restored, y)
        self.indexed.update(restored, y, index=index)
        self.stepped(restored, y, index=index)
        for name in ("plain", "indexed", "stepped"):
            self.log(name, getattr(self, name), on_step=name == "stepped", on_epoch=True)
        if self.save_at is not None and number == self.save_at[0]:
            # every process holds a share: saved is the whole
            with self.plain.sync_context(), self.indexed.sync_context(), self.stepped.sync_context():
                self.trainer.save_checkpoint(self.save_at[1])


def validate(processes: int, model: Restorer, checkpoint: Path | None = None) -> dict[str, torch.Tensor]:
    x, y = images(N)
    loader = DataLoader(TensorDataset(x, y, torch.arange(N)), batch_size=BATCH)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.validate(model, loader, ckpt_path=checkpoint, verbose=False, weights_only=checkpoint is not None)
    return dict(trainer.callback_metrics)


def main(processes: int, folder: Path) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    results = {}
    for name in ("without", "with"):
        model = Restorer()
        model.save_at = (1, folder / f"{name}.ckpt")
        for metric in (model.plain, model.indexed, model.stepped):
            metric.persistent(name == "with")
        results[name] = validate(processes, model)
    # a validation starts from its first batch again: indices make up for it
    results["resumed"] = validate(processes, Restorer(), folder / "with.ckpt")
    torch.save(results, folder / f"{os.environ.get('LOCAL_RANK', 0)}.pt")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
