"""Two real processes: unequal numbers of updates, a last batch of one, a process without data, repeated images."""

import tempfile
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from damlpips import DAMLPIPS, DAMLPIPSMetric

WORLD = 2

# case -> for each rank its updates, each a slice of the images
CASES = {
    "equal": [[(0, 2)], [(2, 4)]],
    "unequal number of updates": [[(0, 2), (2, 4), (4, 5)], [(5, 7)]],
    "a last batch of one": [[(0, 3)], [(3, 6), (6, 7)]],
    "one rank without data": [[(0, 3), (3, 7)], []],
}


def images() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(7, 3, 32, 32, generator=generator)
    return x, (x + 0.3 * torch.rand(x.shape, generator=generator)).clamp(0, 1)


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD)
    x, y = images()
    results = {}
    for case, updates in CASES.items():
        for reduction in ("mean", "sum", "none"):
            metric = DAMLPIPSMetric(reduction=reduction)
            indexed = DAMLPIPSMetric(reduction=reduction)
            for begin, end in updates[rank]:
                metric.update(x[begin:end], y[begin:end])
                indexed.update(x[begin:end], y[begin:end], index=range(begin, end))
            # what a padded sampler does: every rank sees the first images once more
            indexed.update(x[:2], y[:2], index=[0, 1])
            results[case, reduction] = (metric.compute(), indexed.compute(), metric.compute())
            metric.update(x[:1], y[:1])  # goes on from its own state, not from the total
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results() -> list[dict]:
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(worker, (folder,), nprocs=WORLD)
        return [torch.load(Path(folder) / f"{rank}.pt") for rank in range(WORLD)]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("case", CASES)
def test_every_rank_has_the_value_of_one_process(results: list[dict], case: str, reduction: str) -> None:
    x, y = images()
    parts = [slice(*part) for rank in CASES[case] for part in rank]
    scores = torch.cat([DAMLPIPS()(x[part], y[part]) for part in parts])
    expected = {"mean": scores.double().mean().float(), "sum": scores.double().sum().float(), "none": scores}[reduction]
    for rank in range(WORLD):
        value, _, again = results[rank][case, reduction]
        # scores of one image may differ in the last bits between batch sizes and numbers of threads
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
        torch.testing.assert_close(again, value, rtol=0, atol=0)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("case", CASES)
def test_repeated_images_count_once_with_an_index(results: list[dict], case: str, reduction: str) -> None:
    x, y = images()
    scores = DAMLPIPS()(x, y)[: max(end for rank in CASES[case] for _, end in rank)]
    expected = {"mean": scores.double().mean().float(), "sum": scores.double().sum().float(), "none": scores}[reduction]
    for rank in range(WORLD):
        # scores of one image may differ in the last bits between batch sizes and numbers of threads
        torch.testing.assert_close(results[rank][case, reduction][1], expected, rtol=1e-6, atol=0)
