"""Files read when they are needed, or ahead by threads."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")
Later = Callable[[], T]


class Reader(Generic[T]):
    """Reads files ahead, in threads; with 0 workers each when its contents are asked for."""

    def __init__(self, read: Callable[[Path], T], workers: int) -> None:
        self._read, self.workers = read, workers
        self._pool = ThreadPoolExecutor(workers) if workers else None

    def ask(self, path: Path) -> Later[T]:
        """Return a function that gives a file's contents; the file is read once, however often it is called."""
        if self._pool is None:
            return cache(lambda: self._read(path))
        return self._pool.submit(self._read, path).result

    def each(self, paths: Iterable[Path]) -> Iterator[T]:
        """Yield the contents of files in order; every worker has one to read meanwhile."""
        waiting: deque[Later[T]] = deque()
        for path in paths:
            waiting.append(self.ask(path))
            if len(waiting) > self.workers:
                yield waiting.popleft()()
        while waiting:
            yield waiting.popleft()()

    def __enter__(self) -> "Reader[T]":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)  # files not read yet are no longer needed
