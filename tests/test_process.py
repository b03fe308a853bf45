"""One shared backbone under threads, in forked and spawned processes, and in DataLoader workers."""

import copy
import multiprocessing
import os
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from damlpips import DAMLPIPS, LPIPS, Backbone, DAMLPIPSMetric, functional, process
from damlpips.adapters.torchmetrics import shared_pass, store_metric
from damlpips.nets import shared
from tests.support import reference
from tests.support.processes import python

PATIENCE = 120


def images(n: int = 4, size: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    return reference.noise(n, size, size)


# --- threads ----------------------------------------------------------------------------------------------------------


def test_modules_in_several_threads_share_a_backbone_and_score_right(random_alex_weights: Path) -> None:
    x, y = images(8)
    modules = [
        *(LPIPS("alex", weights=random_alex_weights), DAMLPIPS("alex", weights=random_alex_weights)),
        *(LPIPS("nano", heads="uniform"), DAMLPIPS()),
    ]
    wanted = [[module(x[n : n + 1], y[n : n + 1]) for n in range(8)] for module in modules]

    def score(k: int) -> torch.Tensor:
        m, n = k % 4, (k // 4) % 8
        module = modules[m] if k % 3 else copy.deepcopy(modules[m])
        return module(x[n : n + 1], y[n : n + 1])

    with ThreadPoolExecutor(8) as pool:
        for k, value in enumerate(pool.map(score, range(96))):
            assert torch.equal(value, wanted[k % 4][(k // 4) % 8])


def test_a_backbone_that_several_threads_ask_for_is_loaded_once(random_alex_weights: Path) -> None:
    start = threading.Barrier(8)

    def build(_: int) -> Backbone:
        start.wait()
        return LPIPS("alex", weights=random_alex_weights).backbone

    with ThreadPoolExecutor(8) as pool:
        assert len({id(backbone) for backbone in list(pool.map(build, range(8)))}) == 1


def test_a_metric_updated_from_several_threads_loses_no_score() -> None:
    x, y = images(4)
    metrics = {r: DAMLPIPSMetric(reduction=r, deterministic=True) for r in ("mean", "sum", "none")}
    others = [DAMLPIPSMetric(rho=0.5) for _ in range(2)]  # more than one on a backbone: passes are shared
    with ThreadPoolExecutor(8) as pool:
        jobs = [
            pool.submit(metric.update, x[k % 4 : k % 4 + 1], y[k % 4 : k % 4 + 1])
            for k in range(48)
            for metric in (*metrics.values(), *others)
        ]
        jobs += [pool.submit(DAMLPIPSMetric, rho=0.1) for _ in range(20)]
        for job in jobs:
            job.result()
    once = DAMLPIPS(deterministic=True)(x, y)
    assert torch.equal(metrics["mean"].compute(), once.double().mean().float())
    assert torch.equal(metrics["sum"].compute(), (12 * once.double().sum()).float())
    assert torch.equal(metrics["none"].compute().sort().values, once.repeat(12).sort().values)


# --- processes --------------------------------------------------------------------------------------------------------

FORK = """
import multiprocessing, sys, threading, warnings
import torch
from damlpips import DAMLPIPS, LPIPS, DAMLPIPSMetric
from damlpips.nets import shared

torch.set_num_threads(2)
x, y = torch.rand(4, 3, 128, 128), torch.rand(4, 3, 128, 128)
module, metric = DAMLPIPS(), DAMLPIPSMetric()
scores = module(x, y)  # OpenMP has its threads now

def child(results):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        own = module(x, y)
        metric.update(x, y)
        fresh = LPIPS("nano", heads="uniform")(x, y)
    results.put((own.tolist(), metric.compute().item(), fresh.shape, [str(w.message) for w in caught]))

shared._lock._lock.acquire()  # as if another thread were loading
context = multiprocessing.get_context("fork")
results = context.Queue()
process = context.Process(target=child, args=(results,), daemon=True)
process.start()
own, mean, shape, messages = results.get(timeout=100)
torch.testing.assert_close(torch.tensor(own), scores)
torch.testing.assert_close(torch.tensor(mean), scores.mean())
assert shape == (4,)
(message,) = messages
assert message.startswith("scoring in a forked process: going on with 1 thread, not 2"), message
assert torch.get_num_threads() == 2
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_forked_process_scores_right_whatever_its_parent_was_doing() -> None:
    python(FORK)


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let this be a forked process, with two threads."""
    monkeypatch.setattr(process, "_forked", True)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_a_forked_process_keeps_the_threads_it_asks_for(forked: None) -> None:
    with pytest.warns(RuntimeWarning, match="going on with 1 thread, not 2"):
        functional.damlpips(*images())
    assert torch.get_num_threads() == 1
    torch.set_num_threads(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        functional.damlpips(*images())
    assert torch.get_num_threads() == 2


def score_apart(module: nn.Module, metric: DAMLPIPSMetric, results) -> None:
    x, y = images()
    metric.update(x, y)
    results.put((module(x, y).tolist(), metric.compute().item()))


def test_a_refused_call_in_a_forked_process_changes_nothing(forked: None) -> None:
    x = torch.full((1, 3, 32, 32), 7.0)  # out of range
    metric, module = DAMLPIPSMetric(), DAMLPIPS(check_values=True)
    for refused, images in ((module, (x, x)), (module.encode, (x,)), (module, (x, x[0])), (metric.update, (x, x))):
        with pytest.raises(ValueError, match="expected"):
            refused(*images)
        assert torch.get_num_threads() == 2
    with pytest.warns(RuntimeWarning, match="forked process"):
        DAMLPIPS().encode(x / 7)
    assert torch.get_num_threads() == 1


def test_a_spawned_process_gets_module_and_metric(random_alex_weights: Path) -> None:
    x, y = images()
    module = LPIPS("alex", weights=random_alex_weights, deterministic=True)
    metric = DAMLPIPSMetric(deterministic=True)
    metric.update(x, y)
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=score_apart, args=(module, metric, results), daemon=True)
    process.start()
    scores, mean = results.get(timeout=PATIENCE)
    process.join()
    assert scores == module(x, y).tolist()
    assert mean == metric.compute().item()


class Scored(Dataset):
    """A data set that scores in the worker, as a filter of training data would."""

    def __init__(self) -> None:
        self.x, self.y = images()
        self.module = DAMLPIPS(deterministic=True)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, n: int) -> torch.Tensor:
        return self.module(self.x[n : n + 1], self.y[n : n + 1])


@pytest.mark.parametrize("method", sorted({"fork", "spawn"} & set(multiprocessing.get_all_start_methods())))
def test_data_loader_workers_score(method: str) -> None:
    data = Scored()
    wanted = data.module(data.x, data.y)
    loader = DataLoader(data, batch_size=2, num_workers=2, multiprocessing_context=method, timeout=PATIENCE)
    assert torch.equal(torch.cat(list(loader)).flatten(), wanted)


def test_locks_are_free_after_a_fork() -> None:
    for lock in (shared._lock, shared_pass._users_lock, store_metric._adding):
        assert isinstance(lock, process.Lock)
    lock = process.Lock()
    lock._lock.acquire()
    lock._renew()  # what a child does
    with lock:
        assert lock._lock.locked()
    assert not lock._lock.locked()
