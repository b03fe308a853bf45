"""A run's rows in several files, each of pairs that follow each other: written at once, taken up again, joined.

A part is named by its first pair alone, not by the process that wrote it: any number of processes goes on with the
parts that any other number has left.
"""

import hashlib
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import NamedTuple

from damlpips.files import open_regular, reason
from damlpips.scoring.images import ScoringError
from damlpips.scoring.journal import RowFile, Unchanged
from damlpips.scoring.locks import InUseError, locked
from damlpips.scoring.pairs import Pair
from damlpips.scoring.rows import OVERWRITE, JsonLines, Table
from damlpips.scoring.scorer import Score


class Span(NamedTuple):
    """Pairs by their numbers, from `start` up to `stop`; it begins and ends where a batch does."""

    start: int
    stop: int


class Piece(NamedTuple):
    """Pairs whose rows a part holds, and the number of that part's first row."""

    span: Span
    part: int


def part_of(file: Path, start: int) -> Path:
    """Return where the rows from a pair on wait to be put into `file`.

    Example:
        >>> part_of(Path("scores.csv"), 4096).name
        'scores.csv.part000000004096.rows.jsonl'
    """
    return file.with_name(f"{file.name}.part{start:012d}.rows.jsonl")


def parts_of(file: Path) -> list[int]:
    """Return the first pairs of the parts that stand beside `file`, in order."""
    name = re.compile(re.escape(file.name) + r"\.part([0-9]{12,})\.rows\.jsonl")
    matches = (name.fullmatch(path.name) for path in file.parent.iterdir())
    return sorted(int(match[1]) for match in matches if match)


def remove(file: Path) -> None:
    """Remove all parts of `file`."""
    for start in parts_of(file):
        part_of(file, start).unlink(missing_ok=True)


def write(file: Path, table: Table, start: int, scores: Iterable[Score]) -> Iterator[None]:
    """Write scores to the part that begins with the pair `start`; yield when one is written.

    Raises:
        ScoringError: the part cannot be written, or another process writes it.
    """
    path = part_of(file, start)
    try:
        with locked(path):
            rows = RowFile(path, JsonLines(table), overwrite=True)
            rows.write([])  # an empty part is one, too
            try:
                for score in scores:
                    rows.write([score])
                    yield
            finally:
                rows.close()
    except InUseError as error:
        raise ScoringError(str(error)) from error
    except OSError as error:
        raise ScoringError(f"{path}: {reason(error)}") from error


def found(file: Path, table: Table, pairs: Sequence[Pair], *, start: int, batch_size: int) -> list[Piece]:
    """Return what the parts beside `file` hold of the pairs from `start` on, in whole batches, none of them twice.

    Raises:
        ScoringError: another process writes a part; it holds rows of another run, or of images that have changed.
    """
    pieces: list[Piece] = []
    for part in parts_of(file):
        path = part_of(file, part)
        try:
            with locked(path):
                stop = part + _kept(path, table, pairs[part:])
        except InUseError as error:
            raise ScoringError(str(error)) from error
        first = start if part == start else max(start, _up(part, batch_size))
        last = stop if stop == len(pairs) else stop - stop % batch_size
        if first < last:
            pieces.append(Piece(Span(first, last), part))
            start = last
    return pieces


def _kept(path: Path, table: Table, pairs: Sequence[Pair]) -> int:
    rows = RowFile(path, JsonLines(table))
    if rows.count > len(pairs):
        raise ScoringError(f"{path}: holds {rows.count} rows, this run has {len(pairs)} pairs from there; {OVERWRITE}")
    deque(rows.keep(rows.count, pairs, Unchanged()), maxlen=0)
    return rows.count


def missing(pieces: Sequence[Piece], *, start: int, total: int) -> list[Span]:
    """Return the pairs from `start` on that no piece has.

    Example:
        >>> missing([Piece(Span(8, 16), part=8)], start=0, total=20)
        [Span(start=0, stop=8), Span(start=16, stop=20)]
    """
    spans = []
    for piece in pieces:
        if start < piece.span.start:
            spans.append(Span(start, piece.span.start))
        start = piece.span.stop
    return [*spans, Span(start, total)] if start < total else spans


def shares(spans: Sequence[Span], count: int, batch_size: int) -> list[list[Span]]:
    """Divide pairs into `count` shares of whole batches, equally many or one fewer, in order; the first have the most.

    Example:
        >>> shares([Span(0, 20)], 2, batch_size=8)
        [[Span(start=0, stop=16)], [Span(start=16, stop=20)]]
        >>> shares([Span(0, 8), Span(16, 32)], 2, batch_size=8)
        [[Span(start=0, stop=8), Span(start=16, stop=24)], [Span(start=24, stop=32)]]
        >>> shares([Span(3, 17)], 2, batch_size=8)
        [[Span(start=3, stop=16)], [Span(start=16, stop=17)]]
    """
    batches = sum(_batches(span, batch_size) for span in spans)
    bounds = [-(-number * batches // count) for number in range(count + 1)]
    return [_cut(spans, first, last, batch_size) for first, last in pairwise(bounds)]


def _cut(spans: Sequence[Span], first: int, last: int, batch_size: int) -> list[Span]:
    """Return the batches from the first to the last, of those of all spans."""
    cut, before = [], 0
    for span in spans:
        begin = span.start - span.start % batch_size  # behind a video a run may go on within a batch
        low, high = (max(0, bound - before) * batch_size + begin for bound in (first, last))
        low, high = max(low, span.start), min(high, span.stop)
        if low < high:
            cut.append(Span(low, high))
        before += _batches(span, batch_size)
    return cut


def joined(file: Path, table: Table, pairs: Sequence[Pair], pieces: Iterable[Piece]) -> Iterator[Score]:
    """Yield the scores that parts hold, in the order of the pairs.

    Raises:
        ScoringError: a part lacks rows that it had.
    """
    for span, part in sorted(pieces):
        path, count = part_of(file, part), 0
        try:
            with open_regular(path) as opened:
                rows = islice(JsonLines(table).rows(opened, path), span.start - part, span.stop - part)
                for (row, _), pair in zip(rows, pairs[span.start : span.stop], strict=False):
                    yield table.score(row, pair)
                    count += 1
        except OSError as error:
            raise ScoringError(f"{path}: {reason(error)}") from error
        if count < span.stop - span.start:
            raise ScoringError(f"{path}: expected {span.stop - part} rows, there are only {span.start - part + count}")


def fingerprint(table: Table, pairs: Iterable[Pair], batch_size: int) -> str:
    """Return what two processes have in common that score the same pairs in the same way."""
    found = hashlib.sha256(repr((sorted(table.settings.items()), table.layers, batch_size)).encode())
    for pair in pairs:
        found.update(
            "\0".join((str(pair.reference), str(pair.distorted), pair.method, str(pair.video), "")).encode(
                errors="surrogateescape"
            )
        )
    return found.hexdigest()


def _up(number: int, batch_size: int) -> int:
    return -(-number // batch_size) * batch_size


def _batches(span: Span, batch_size: int) -> int:
    return -(-span.stop // batch_size) - span.start // batch_size
