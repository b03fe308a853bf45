"""Processes that the tests start: a new Python, one that has everything imported, or several with gloo between them."""

import datetime
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist
from torch import multiprocessing as mp

TIMEOUT = datetime.timedelta(seconds=120)
PATIENCE = 300.0  # seconds

# Its children have everything imported, which takes up to ten seconds otherwise, and no threads of a test. Left out are
# pyiqa and piq: this package registers with them when they are imported.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        *("torch", "torchvision", "torchmetrics", "lightning", "matplotlib.pyplot", "scipy.stats", "pyarrow.parquet"),
        *("PIL.Image", "damlpips.cli", "damlpips.scoring.shards", "damlpips.models.lpips"),
    ]
)


def images(n: int = 7, size: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """The same images in every process."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n, 3, size, size, generator=generator)
    return x, (x + 0.3 * torch.rand(x.shape, generator=generator)).clamp(0, 1)


def python(code: str, *arguments: object) -> str:
    """Return what some code prints in a new Python, where it must not fail."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def _start(work: Callable[..., None], arguments: tuple, output: str, folder: str | None, environment: dict) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{output}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    if folder is not None:
        os.chdir(folder)
    torch.set_num_threads(1)
    work(*arguments)


class Forked:
    """A process that calls `work`, a function of a module; what it prints goes to files named after `output`."""

    def __init__(
        self,
        work: Callable[..., None],
        *arguments: object,
        output: Path,
        folder: Path | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._output = output
        given = work, arguments, str(output), folder and str(folder), dict(environment)
        self.process = SERVER.Process(target=_start, args=given)
        self.process.start()

    def wait(self) -> int:
        """Return its exit code."""
        self.process.join(PATIENCE)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f"it hangs; it said {self.err}")
        return self.process.exitcode

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def kill(self) -> None:
        self.process.kill()
        self.process.join(PATIENCE)

    @property
    def out(self) -> str:
        return Path(f"{self._output}.out").read_text(encoding="utf-8")

    @property
    def err(self) -> str:
        return Path(f"{self._output}.err").read_text(encoding="utf-8")


def _enter(
    rank: int, world: int, folder: str, backend: str, environment: dict[str, str], work: Callable[[int, int], Any]
) -> None:
    os.environ.update(environment)
    # the processes differ in their number of threads, as those of two machines may
    torch.set_num_threads(1 + rank % 2)
    if backend == "nccl":
        torch.cuda.set_device(rank)
    dist.init_process_group(
        backend, init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world, timeout=TIMEOUT
    )
    torch.save(work(rank, world), f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def run(world: int, work: Callable[[int, int], Any], backend: str = "gloo") -> list[Any]:
    """Return what `work(rank, world)` returns in each of `world` processes; it must come from a module."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = world, folder, backend, dict(os.environ), work
        mp.start_processes(_enter, arguments, nprocs=world, start_method="forkserver")
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(world)]


def _join(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world, timeout=TIMEOUT
    )


class Group:
    """Processes with gloo between them, for one call after another: to start them takes longer than most calls.

    They end when the last reference to the group is gone, or with this process.
    """

    def __init__(self, world: int) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.workers = [
            ProcessPoolExecutor(1, mp.get_context("spawn"), _join, (rank, world, self.folder.name))
            for rank in range(world)
        ]

    def run(self, work: Callable[[int, int], Any]) -> list[Any]:
        """Return what `work(rank, world)` returns in each process; it must come from a module."""
        running = [worker.submit(work, rank, len(self.workers)) for rank, worker in enumerate(self.workers)]
        return [call.result() for call in running]
