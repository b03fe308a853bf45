"""Pairs in chunks that are the same wherever a run starts, and their files read ahead by threads."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Generic, TypeVar

from damlpips.scoring.pairs import Pair

T = TypeVar("T")
Later = Callable[[], T]


def chunks(
    pairs: Sequence[Pair], size: int, start: int = 0, stop: int | None = None
) -> Iterator[list[tuple[Pair, bool]]]:
    """Yield `size` pairs at a time, from `start` up to `stop`, each with whether a neighbour has the same reference.

    Chunks end at multiples of `size`, and before and after a video.

    Example:
        >>> a, b, c = (Pair(Path(r), Path(d), d) for r, d in ["xp", "xq", "yr"])
        >>> [[(pair.name, shared) for pair, shared in chunk] for chunk in chunks([a, b, c], 2)]
        [[('p', True), ('q', True)], [('r', False)]]
        >>> [[(pair.name, shared) for pair, shared in chunk] for chunk in chunks([a, b, c], 1, start=1)]
        [[('q', True)], [('r', False)]]
        >>> [[(pair.name, shared) for pair, shared in chunk] for chunk in chunks([a, b, c], 1, stop=1)]
        [[('p', True)]]
    """
    chunk: list[tuple[Pair, bool]] = []
    for k in range(*slice(start, stop).indices(len(pairs))):
        if chunk and is_chunk_start(pairs, k, size):
            yield chunk
            chunk = []
        neighbours = *pairs[max(0, k - 1) : k], *pairs[k + 1 : k + 2]
        chunk.append((pairs[k], any(pair.reference == pairs[k].reference for pair in neighbours)))
    if chunk:
        yield chunk


def is_chunk_start(pairs: Sequence[Pair], number: int, size: int) -> bool:
    """Return whether a chunk may begin with a pair, or end before it.

    Example:
        >>> a, b, c = (Pair(Path("r"), Path(d), d, video=d == "q") for d in "pqr")
        >>> [is_chunk_start([a, b, c], k, 4) for k in range(4)]
        [True, True, True, False]
    """
    return number % size == 0 or any(pair.video for pair in pairs[number - 1 : number + 1])


class Reader(Generic[T]):
    """Reads files when they are needed, or ahead, in threads.

    Args:
        read: reads one.
        workers: how many threads; 0 reads a file when its contents are asked for.
    """

    def __init__(self, read: Callable[[Path], T], workers: int) -> None:
        self._read = read
        self._pool = ThreadPoolExecutor(workers) if workers else None

    def ask(self, path: Path) -> Later[T]:
        """Return a function that gives a file's contents; the file is read once, however often it is called."""
        if self._pool is None:
            return cache(lambda: self._read(path))
        return self._pool.submit(self._read, path).result

    def __enter__(self) -> "Reader[T]":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)  # nobody waits for these files any more
