"""One run on several processes: each scores a share of the pairs and writes it to shards, which the first one joins.

A shard is a file with the rows of consecutive pairs. Its name says which pair is the first, not which process wrote it:
any number of processes can go on with the shards that any other number has left.
"""

import hashlib
import json
import os
import re
import secrets
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from glob import escape
from itertools import islice, pairwise, repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from damlpips.files import open_regular, reason
from damlpips.scoring.formats import OVERWRITE, JsonLines
from damlpips.scoring.images import ScoringError
from damlpips.scoring.journal import RowFile, Unchanged, explained, locked
from damlpips.scoring.pairs import Pair
from damlpips.scoring.rows import Scored, Table
from damlpips.scoring.scorer import Score
from damlpips.scoring.workers import Ranks


class Span(NamedTuple):
    """The pairs from `start` up to `stop`; it begins and ends where a batch does."""

    start: int
    stop: int


class Piece(NamedTuple):
    """Pairs whose rows a shard holds, and the pair that the shard begins with."""

    span: Span
    shard: int


def shard_of(file: Path, start: int) -> Path:
    """Return the shard of `file` that begins with the pair `start`.

    Example:
        >>> shard_of(Path("scores.csv"), 4096).name
        'scores.csv.part000000004096.rows.jsonl'
    """
    return file.with_name(f"{file.name}.part{start:012d}.rows.jsonl")


def shards_of(file: Path) -> list[int]:
    """Return the first pair of each shard of `file`, in order."""
    name = re.compile(re.escape(file.name) + r"\.part([0-9]{12,})\.rows\.jsonl")
    matches = (name.fullmatch(path.name) for path in file.parent.iterdir())
    return sorted(int(match[1]) for match in matches if match)


def _plan_of(file: Path) -> Path:
    return file.with_name(f"{file.name}.parts.json")


def remove(file: Path) -> None:
    """Remove all shards of `file`, and the plan."""
    unfinished = file.parent.glob(f".{escape(file.name)}.part*.tmp")
    for path in (*(shard_of(file, start) for start in shards_of(file)), _plan_of(file), *unfinished):
        path.unlink(missing_ok=True)


@contextmanager
def beside(file: Path | None, *, anew: bool) -> Iterator[Path]:
    """Give the file beside which shards are written, a temporary one for None; remove the shards on success."""
    if file is None:
        with ExitStack() as folders:
            with explained("a temporary folder"):
                folder = folders.enter_context(TemporaryDirectory(prefix="damlpips-"))
            yield Path(folder) / "scores"
        return
    file = file.resolve()
    if anew:
        remove(file)
    yield file
    with explained(str(file)):
        remove(file)


def write(file: Path, table: Table, start: int, scores: Iterable[Score]) -> Iterator[None]:
    """Write scores to the shard that begins with the pair `start`; yield when one is written."""
    path = shard_of(file, start)
    try:
        with locked(path), closing(RowFile(path, JsonLines(table), overwrite=True)) as rows:
            rows.opened()  # a shard may be empty
            for score in scores:
                rows.write(table.scored(score))
                yield
    except OSError as error:
        raise ScoringError(f"{path}: {reason(error)}") from error


def found(file: Path, table: Table, pairs: Sequence[Pair], *, start: int, batch_size: int) -> list[Piece]:
    """Return what the shards of `file` hold of the pairs from `start` on, in whole batches, none of them twice.

    Raises:
        ScoringError: another process writes a shard; it holds rows of another run, or of images that have changed.
    """
    pieces: list[Piece] = []
    for shard in shards_of(file):
        path = shard_of(file, shard)
        with locked(path):
            rows, rest = RowFile(path, JsonLines(table)), pairs[shard:]
            if rows.count > len(rest):
                raise ScoringError(
                    f"{path}: holds {rows.count} rows, this run has {len(rest)} pairs from there; {OVERWRITE}"
                )
            deque(rows.keep(rows.count, rest, Unchanged()), maxlen=0)
        stop = shard + rows.count
        first = start if shard == start else max(start, -(-shard // batch_size) * batch_size)
        last = stop if stop == len(pairs) else stop - stop % batch_size
        if first < last:
            pieces.append(Piece(Span(first, last), shard))
            start = last
    return pieces


def missing(pieces: Sequence[Piece], *, start: int, total: int) -> list[Span]:
    """Return the pairs from `start` on that no piece has.

    Example:
        >>> missing([Piece(Span(8, 16), shard=8)], start=0, total=20)
        [Span(start=0, stop=8), Span(start=16, stop=20)]
    """
    bounds = [start, *(bound for piece in pieces for bound in piece.span), total]
    return [Span(*gap) for gap in zip(bounds[::2], bounds[1::2], strict=True) if gap[0] < gap[1]]


def shares(spans: Sequence[Span], count: int, batch_size: int) -> list[list[Span]]:
    """Divide pairs, in order, into `count` shares of whole batches; the first shares may have one batch more.

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
    """Return the batches from `first` up to `last`, counted over all spans."""
    cut, before = [], 0
    for span in spans:
        begin = span.start - span.start % batch_size  # after a video a run may go on within a batch
        low, high = (max(0, bound - before) * batch_size + begin for bound in (first, last))
        low, high = max(low, span.start), min(high, span.stop)
        if low < high:
            cut.append(Span(low, high))
        before += _batches(span, batch_size)
    return cut


def _batches(span: Span, batch_size: int) -> int:
    return -(-span.stop // batch_size) - span.start // batch_size


def joined(file: Path, table: Table, pairs: Sequence[Pair], pieces: Iterable[Piece]) -> Iterator[Scored]:
    """Yield the rows that shards hold, in the order of the pairs."""
    for span, shard in sorted(pieces):
        path, count = shard_of(file, shard), 0
        try:
            with open_regular(path) as opened:
                rows = islice(JsonLines(table).rows(opened, path), span.start - shard, span.stop - shard)
                for read, pair in zip(rows, pairs[span.start : span.stop], strict=False):
                    yield Scored(pair, read.row)
                    count += 1
        except OSError as error:
            raise ScoringError(f"{path}: {reason(error)}") from error
        if count < span.stop - span.start:
            raise ScoringError(
                f"{path}: expected {span.stop - shard} rows, there are only {span.start - shard + count}"
            )


class Job(NamedTuple):
    """The pairs of a run, and how they are scored: `score` takes from and up to which pair, `start` and `stop`.

    Every process begins and ends where a batch does.
    """

    score: Callable[..., Iterable[Score]]
    pairs: Sequence[Pair]
    table: Table
    batch_size: int

    def fingerprint(self) -> str:
        """Return what is the same for two processes only if they score the same pairs in the same way."""
        table = self.table
        found = hashlib.sha256(repr((sorted(table.settings.items()), table.layers, self.batch_size)).encode())
        for pair in self.pairs:
            parts = str(pair.reference), str(pair.distorted), pair.method, str(pair.video), ""
            found.update("\0".join(parts).encode(errors="surrogateescape"))
        return found.hexdigest()

    def write(self, file: Path, spans: Iterable[Span]) -> Iterator[None]:
        """Score pairs and write them to shards of `file`; yield when one is written."""
        for start, stop in spans:
            # up to the end of a batch, even if the last one has fewer pairs
            scores = self.score(start=start, stop=-(-stop // self.batch_size) * self.batch_size)
            yield from write(file, self.table, start, scores)


class Plan:
    """Who scores what, as the first process decides from what there is already beside a file.

    Args:
        start: the first pair that the file itself lacks.
        ranks: the processes; None if there is only one.
    """

    def __init__(self, job: Job, file: Path, *, start: int, ranks: Ranks | None) -> None:
        self._job, self._file, self._ranks = job, file, ranks
        self._pieces = found(file, job.table, job.pairs, start=start, batch_size=job.batch_size)
        spans = missing(self._pieces, start=start, total=len(job.pairs))
        self._shares = shares(spans, 1 if ranks is None else ranks.world, job.batch_size)
        # how many pairs were scored before
        self.done = len(job.pairs) - sum(span.stop - span.start for span in spans)

    def work(self) -> Iterator[None]:
        """Score this process's share and wait for the others; yield once for each pair that any of them has scored."""
        written = self._job.write(self._file, self._shares[0])
        return written if self._ranks is None else self._with_others(self._ranks, written)

    def _with_others(self, ranks: Ranks, written: Iterator[None]) -> Iterator[None]:
        self._tell(ranks)
        seen = 0
        for _ in written:
            seen, before = ranks.count(), seen
            yield from repeat(None, seen - before)
            ranks.look()
        ready = False
        while not ready:
            ready = ranks.add("done", 0) == ranks.world - 1
            seen, before = ranks.count(0, now=True), seen
            yield from repeat(None, seen - before)
            if not ready:
                ranks.pause()

    def _tell(self, ranks: Ranks) -> None:
        """Tell the others the plan, in a file: a process that cannot see it could not write shards here either."""
        mark = secrets.token_hex(8)
        path = _plan_of(self._file)
        with explained(str(path)):
            path.write_text(json.dumps({"mark": mark, "job": self._job.fingerprint(), "shares": self._shares}))
        ranks.tell("plan", [os.fsencode(self._file).hex(), mark])

    def rows(self, after: Iterable[None]) -> Iterator[Scored]:
        """Finish `after`, the work, then yield the rows of all shards in order."""
        deque(after, maxlen=0)
        new = [Piece(span, span.start) for share in self._shares for span in share]
        return joined(self._file, self._job.table, self._job.pairs, [*self._pieces, *new])


def help_out(ranks: Ranks, job: Job) -> None:
    """Score the share of this process, which is not the first.

    Raises:
        ScoringError: this process does not see what the first one does.
        Ended: there is nothing to do.
    """
    name, mark = ranks.ask("plan")
    file = Path(os.fsdecode(bytes.fromhex(name)))
    for _ in job.write(file, _share(ranks, job, file, mark)):
        ranks.count()
        ranks.look()
    ranks.count(0, now=True)
    ranks.add("done", 1)


def _share(ranks: Ranks, job: Job, file: Path, mark: str) -> list[Span]:
    try:
        told: dict[str, Any] = json.loads(_plan_of(file).read_text())
    except (OSError, ValueError):
        told = {}
    if told.get("mark") != mark:
        raise ScoringError(
            f"{_plan_of(file)}: is not what rank 0 wrote: the processes need one file system, and an output file on it"
            f" that all of them see by that path ({socket.gethostname()} does not)"
        )
    if told["job"] != job.fingerprint():
        raise ScoringError("sees other pairs than rank 0, or other weights: expected the same command and files")
    return [Span(*span) for span in told["shares"][ranks.rank]]
