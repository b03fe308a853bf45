"""torchmetrics' LPIPS, dropped in, on two processes of unequal shares: what one process computes."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from damlpips.adapters.torchmetrics import LearnedPerceptualImagePatchSimilarity
from tests.support.processes import images, run

PARTS = [(0, 3), (3, 5)]


def computed(begin: int, end: int) -> dict[str, Tensor]:
    found = {}
    x, y = images(5)
    for reduction in ("mean", "sum", "none"):
        metric = LearnedPerceptualImagePatchSimilarity("vgg", reduction, normalize=True)
        metric.update(x[begin:end], y[begin:end])
        found[reduction] = metric.compute()
    return found


def of_rank(rank: int, world: int) -> dict[str, Tensor]:
    return computed(*PARTS[rank])


def test_all_processes_compute_what_one_does(
    random_vgg_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(random_vgg_weights, tmp_path / "vgg16_features.safetensors")
    monkeypatch.setenv("DAMLPIPS_WEIGHTS_DIR", str(tmp_path))
    expected = computed(0, 5)
    for found in run(len(PARTS), of_rank):
        for reduction, value in expected.items():
            # float32: batches of other sizes run through the network by other kernels
            torch.testing.assert_close(found[reduction], value, rtol=1e-5, atol=1e-8)
