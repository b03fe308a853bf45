"""Memory that the C library keeps instead of giving it back to the system after every call."""

import torch

# Bytes: the most that glibc learns from is 32 MiB, its book-keeping included.
LESSON = 31 << 20

_done = False


def keep_freed_memory() -> None:
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
