"""Kernels that give the same bits whatever else the process does."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_order(device: torch.device) -> Iterator[None]:
    """Run what is inside with one order of every sum: one thread on the CPU, cuDNN's deterministic kernels on CUDA.

    Sums are split among threads, and cuDNN's choice by benchmark depends on what else runs. The number of threads is
    that of the calling thread alone, and comes back afterwards, as do cuDNN's settings.
    """
    if device.type == "cpu":
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
    elif device.type == "cuda":
        tf32 = torch.backends.cudnn.allow_tf32
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=tf32):
            yield
    else:
        yield
