"""Validate under accelerate on as many CPU processes as it was started with; run by test_accelerate.py."""

import os
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, TensorDataset

from damlpips import DAMLPIPSMetric

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.support.processes import images

N = 7


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    x, y = images(N)
    loader = accelerator.prepare(DataLoader(TensorDataset(x, y, torch.arange(N)), batch_size=2))
    metric = DAMLPIPSMetric(deterministic=True).to(accelerator.device)
    for distorted, reference, index in loader:
        metric.update(distorted, reference, index=index)
    torch.save({"value": metric.compute(), "processes": accelerator.num_processes}, folder / f"{os.environ['RANK']}.pt")
    accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
