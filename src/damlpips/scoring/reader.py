"""Pairs in chunks that are the same wherever a run starts, and their files read ahead by threads."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Generic, TypeVar

from damlpips.scoring.pairs import Pair

T = TypeVar("T")
Later = Callable[[], T]


def chunks(
    pairs: Iterable[Pair], size: int, start: int = 0, stop: int | None = None
) -> Iterator[list[tuple[Pair, bool]]]:
    """Yield `size` pairs at a time from the pair `start` up to `stop`, each with whether one beside it has its
    reference.

    Chunks end at multiples of `size`, and before and behind a video.

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
    for number, (pair, shared) in enumerate(islice(_with_neighbours(pairs), start, stop), start):
        if chunk and (number % size == 0 or pair.video or chunk[-1][0].video):
            yield chunk
            chunk = []
        chunk.append((pair, shared))
    if chunk:
        yield chunk


def is_chunk_start(pairs: Sequence[Pair], place: int, size: int) -> bool:
    """Return whether a chunk may begin at a place, or end before it.

    Example:
        >>> a, b, c = (Pair(Path("r"), Path(d), d, video=d == "q") for d in "pqr")
        >>> [is_chunk_start([a, b, c], k, 4) for k in range(4)]
        [True, True, True, False]
    """
    return place % size == 0 or any(pair.video for pair in pairs[place - 1 : place + 1])


def _with_neighbours(pairs: Iterable[Pair]) -> Iterator[tuple[Pair, bool]]:
    before: Path | None = None
    pair: Pair | None = None
    for after in pairs:
        if pair is not None:
            yield pair, pair.reference in (before, after.reference)
            before = pair.reference
        pair = after
    if pair is not None:
        yield pair, pair.reference == before


class Reader(Generic[T]):
    """Read files when they are needed, or before, in threads.

    Args:
        read: what reads one.
        workers: how many threads; 0 reads a file when its result is asked for.
    """

    def __init__(self, read: Callable[[Path], T], workers: int) -> None:
        self._read = read
        self._pool = ThreadPoolExecutor(workers) if workers else None

    def ask(self, path: Path) -> Later[T]:
        """Return what gives a file's contents; the file is read once, however often it is called."""
        if self._pool is None:
            return cache(lambda: self._read(path))
        return self._pool.submit(self._read, path).result

    def __enter__(self) -> "Reader[T]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            # what nobody waits for any more is not worth reading
            self._pool.shutdown(cancel_futures=True)
