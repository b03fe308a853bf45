"""What belongs to the process as a whole: locks and threads after a fork, and memory that the C library keeps."""

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
    """A lock that is free in a forked process, whoever held it in the parent."""

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
    if hasattr(os, "register_at_fork"):  # there are no forks on Windows
        os.register_at_fork(after_in_child=function)


def limit_threads_after_fork() -> None:
    """Go on with one thread in a forked process, once: OpenMP would wait for threads that stayed with the parent.

    The pool is lost wherever the parent has run anything in several threads, which cannot be told from here. DataLoader
    workers have one thread from the start. A number of threads that is set after the first score stays.
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


# Bytes: the most that glibc learns from is 32 MiB, its book-keeping included.
LESSON = 31 << 20


_done = False


def raise_malloc_threshold() -> None:
    """Let glibc hand freed memory out again, once in a process.

    What a program frees above a threshold, 128 KiB at first, goes back to the system, and the next call gets it anew,
    page by page: for small images that takes longer than the network. The threshold grows to the largest block that was
    freed. One of 31 MiB is asked for here, never touched, and freed: from then on up to twice as much stays at hand, as
    in any program that has scored a large batch. Where the thresholds were set by the environment
    (`MALLOC_TRIM_THRESHOLD_`, `MALLOC_MMAP_THRESHOLD_`) or memory is another allocator's, nothing changes.
    """
    global _done
    if not _done:
        _done = True
        torch.empty(LESSON, dtype=torch.uint8, device="cpu")
