"""What concerns the whole process: locks and threads after a fork, and the memory that the C library keeps."""

import os
import threading
import warnings
from collections.abc import Callable
from types import TracebackType

import torch

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


def limit_threads_after_fork() -> None:
    """Limit a forked process to one thread, the first time this is called: OpenMP would wait forever for the others.

    OpenMP's threads do not survive a fork, and whether the parent had started any cannot be told from here. DataLoader
    workers have one thread from the start. A number of threads that is set after the first call is kept. To be called
    just before a score is computed, when nothing can be refused any more.
    """
    global _forked
    if not _forked:
        return
    _forked = False
    if (threads := torch.get_num_threads()) > 1:
        torch.set_num_threads(1)
        warnings.warn(
            f"scoring in a forked process: going on with 1 thread, not {threads}, since OpenMP's threads do not survive"
            " a fork; start processes with multiprocessing's 'spawn' to use more",
            RuntimeWarning,
            stacklevel=2,
        )


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
