"""A process that dies, or never comes: the others get an error when the process group gives up, and keep theirs."""

import datetime
import os
import signal
import time
from multiprocessing.queues import Queue
from typing import Any

import pytest
import torch
from torch import distributed as dist

from damlpips import DAMLPIPSMetric
from tests.support.processes import SERVER, images

TIMEOUT = 8.0
# how long a test waits before it says that they hang
PATIENCE = 100.0


def validate(rank: int, world: int, rendezvous: str, fault: str, reports: "Queue[Any]") -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{rendezvous}",
        rank=rank,
        world_size=world,
        timeout=datetime.timedelta(seconds=TIMEOUT),
    )
    x, y = images(4)
    metric = DAMLPIPSMetric()
    metric.update(x[:2], y[:2])
    dist.barrier()
    if rank == world - 1:
        if fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(PATIENCE)
        return
    metric.update(x[2:], y[2:])
    state = {k: str(v) for k, v in metric.metric_state.items()}
    try:
        metric.compute()
    except RuntimeError as error:
        message = str(error)
    else:
        message = "no error"
    kept = state == {k: str(v) for k, v in metric.metric_state.items()}
    metric.sync_on_compute = metric._to_sync = False
    reports.put((message, kept, metric.compute().item()))


@pytest.mark.parametrize("fault", ["killed", "stuck"])
@pytest.mark.parametrize("world", [2, 3], ids=lambda world: f"{world} processes")
def test_a_lost_process_is_an_error_for_the_others(world: int, fault: str, tmp_path) -> None:
    reports: Queue[Any] = SERVER.Queue()
    started = [
        SERVER.Process(target=validate, args=(rank, world, str(tmp_path / "rendezvous"), fault, reports), daemon=True)
        for rank in range(world)
    ]
    try:
        for process in started:
            process.start()
        for _ in range(world - 1):
            message, kept, own = reports.get(timeout=PATIENCE)
            said = "DAMLPIPSMetric: cannot gather the scores of all processes: one has died, has not"
            assert message.startswith(said)
            assert kept
            x, y = images(4)
            alone = DAMLPIPSMetric()
            alone.update(x, y)
            # batches of other sizes may change the last bits of a score
            assert own == pytest.approx(alone.compute().item(), rel=1e-6)
    finally:
        for process in started:
            process.kill()
            process.join()
