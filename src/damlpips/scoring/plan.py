"""`damlpips score` on several processes: the first one plans and joins, all of them score."""

import json
import os
import secrets
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Protocol

from damlpips.files import reason
from damlpips.scoring import shards
from damlpips.scoring.images import ScoringError
from damlpips.scoring.workers import Ranks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from damlpips.scoring.pairs import Pair
    from damlpips.scoring.rows import Table
    from damlpips.scoring.scorer import Score


class Scoring(Protocol):
    """What scores the pairs of a run from one to another."""

    def __call__(self, *, start: int, stop: int | None = None) -> "Iterable[Score]": ...


class Job:
    """The pairs of a run, and how they are scored.

    Args:
        score: scores some of the pairs.
        pairs: all of them.
        table: the columns of their rows.
        batch_size: of the run: every process begins and ends where a batch does.
    """

    def __init__(self, score: Scoring, pairs: "Sequence[Pair]", table: "Table", batch_size: int) -> None:
        self.score, self.pairs, self.table, self.batch_size = score, pairs, table, batch_size

    def fingerprint(self) -> str:
        return shards.fingerprint(self.table, self.pairs, self.batch_size)

    def write(self, file: Path, spans: "Iterable[shards.Span]") -> Iterator[None]:
        """Score pairs and write them to parts of `file`; yield when one is written."""
        for start, stop in spans:
            # up to the end of a batch, also of the last one, that lacks some
            scores = self.score(start=start, stop=-(-stop // self.batch_size) * self.batch_size)
            yield from shards.write(file, self.table, start, scores)


class Plan:
    """What the first process has found out: what there is already, and who scores what.

    Args:
        job: of the run.
        file: what the parts stand beside.
        start: the pairs before are in the file.
        ranks: the processes, None where there is one.
    """

    def __init__(self, job: Job, file: Path, *, start: int, ranks: Ranks | None) -> None:
        self._job, self._file, self._ranks = job, file, ranks
        self._pieces = shards.found(file, job.table, job.pairs, start=start, batch_size=job.batch_size)
        spans = shards.missing(self._pieces, start=start, total=len(job.pairs))
        self._shares = shards.shares(spans, 1 if ranks is None else ranks.world, job.batch_size)
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
        """Tell the others, by a file: who does not see it would write where it is not found."""
        mark = secrets.token_hex(8)
        path = _plan_of(self._file)
        try:
            path.write_text(json.dumps({"mark": mark, "job": self._job.fingerprint(), "shares": self._shares}))
        except OSError as error:
            raise ScoringError(f"{path}: {reason(error)}") from error
        ranks.tell("plan", [os.fsencode(self._file).hex(), mark])

    def scores(self, after: "Iterable[None]") -> "Iterator[Score]":
        """Yield the scores that all parts hold, in order, after they are all written."""
        deque(after, maxlen=0)
        new = [shards.Piece(span, span.start) for share in self._shares for span in share]
        return shards.joined(self._file, self._job.table, self._job.pairs, [*self._pieces, *new])


def help_out(ranks: Ranks, job: Job) -> None:
    """Score the share of a process that is not the first.

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


def _share(ranks: Ranks, job: Job, file: Path, mark: str) -> list[shards.Span]:
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
    return [shards.Span(*span) for span in told["shares"][ranks.rank]]


@contextmanager
def beside(file: Path | None, *, anew: bool) -> Iterator[Path]:
    """Give the file that parts stand beside, one in a passing folder if there is none; remove them when all is well."""
    if file is None:
        with TemporaryDirectory(prefix="damlpips-") as folder:
            yield Path(folder) / "scores"
        return
    file = file.resolve()
    if anew:
        _clean(file)
    yield file
    _clean(file)


def _clean(file: Path) -> None:
    shards.remove(file)
    _plan_of(file).unlink(missing_ok=True)


def _plan_of(file: Path) -> Path:
    return file.with_name(f"{file.name}.parts.json")
