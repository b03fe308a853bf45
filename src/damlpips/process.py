"""What concerns the whole process: locks and threads after a fork, and the memory that the C library keeps."""

import os
import threading
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

import torch

T = TypeVar("T")

_forked = False


def _after_fork() -> None:
    global _forked
    _forked = True


class Lock:
    """A lock that is free in a forked process, even if another thread of the parent held it."""

    def __init__(self) -> None:
        self._renew()
        _in_child(self._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_error: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._lock.release()


def _in_child(function: Callable[[], None]) -> None:
    if hasattr(os, "register_at_fork"):  # Windows has no forks
        os.register_at_fork(after_in_child=function)


def limit_threads_after_fork(call: Callable[[], T]) -> T:
    """Return what a call returns; the first one in a forked process has one thread, and so has all that follows.

    OpenMP's threads do not survive a fork, and OpenMP would wait for them forever; whether the parent had started any
    cannot be told from here. DataLoader workers have one thread from the start. A number of threads that is set after
    the first call is kept. A call that raises leaves everything as it was.
    """
    global _forked
    if not _forked:
        return call()
    threads = torch.get_num_threads()
    _forked = False
    torch.set_num_threads(1)
    try:
        found = call()
    except BaseException:
        _forked = True
        torch.set_num_threads(threads)
        raise
    if threads > 1:
        warnings.warn(
            f"scoring in a forked process: going on with 1 thread, not {threads}, since OpenMP's threads do not survive"
            " a fork; start processes with multiprocessing's 'spawn' to use more",
            RuntimeWarning,
            stacklevel=2,
        )
    return found


_in_child(_after_fork)


# Bytes. A freed block raises glibc's threshold if it is at most 32 MiB, with glibc's own header.
LARGEST_BLOCK = 31 << 20

_raised = False


def raise_malloc_threshold() -> None:
    """Let glibc reuse the memory that is freed between scores; once per process.

    At first, glibc returns blocks above 128 KiB to the system when they are freed, and the next call gets them back
    page by page. For small images that takes longer than the network. But the threshold grows to the size of the
    largest block that was freed: here 31 MiB, which are allocated, never touched, and freed. From then on glibc keeps
    up to twice as much, as in any program that has scored a large batch. Nothing changes where the environment sets the
    thresholds (`MALLOC_TRIM_THRESHOLD_`, `MALLOC_MMAP_THRESHOLD_`) or another allocator is in use.
    """
    global _raised
    if not _raised:
        _raised = True
        torch.empty(LARGEST_BLOCK, dtype=torch.uint8, device="cpu")
