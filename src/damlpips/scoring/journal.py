"""Files of rows that grow as scores come, and go on where a run was killed."""

import errno
import os
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from filelock import FileLock, Timeout

from damlpips.files import open_regular, reason, write_whole
from damlpips.scoring.formats import OVERWRITE, Csv, JsonLines
from damlpips.scoring.frames import digest_if_readable
from damlpips.scoring.images import ScoringError
from damlpips.scoring.pairs import Pair
from damlpips.scoring.rows import PairRows, Row, Scored
from damlpips.scoring.scorer import is_chunk_start

# tells what is wrong with the row of a pair
Check = Callable[[Row, Pair], str | None]
# seconds: the last holder may remove the lock file just when it is locked, and it has to be made again
PATIENCE = 0.1


class InUseError(ScoringError):
    """Another process writes the file; the message names both."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Be the only process that writes `path`, which need not exist.

    The lock is on a file beside it, since the file itself may be replaced. A killed process leaves that file behind,
    but no lock. Nothing is locked on file systems without locks and in folders without write permission.

    Raises:
        InUseError: another process has the lock, or this one has it already.

    Example:
        >>> with locked(Path("scores.csv")):
        ...     pass
    """
    place = lock_of(path)
    lock = FileLock(place)
    try:
        place.parent.stat()  # filelock would make the folder
        lock.acquire(timeout=PATIENCE, poll_interval=PATIENCE / 4)
    except Timeout as error:
        holder = ""
        with suppress(OSError):
            holder = place.read_text("utf-8", "replace")[:300]
        raise InUseError(f"{path}: is being written by another run{holder and f' ({holder})'}") from error
    except OSError as error:  # without write permission no rows can be written either, and that is reported there
        if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP):
            place.unlink(missing_ok=True)
    try:
        if lock.is_locked:
            with suppress(OSError):  # Windows allows no writing to a locked file
                place.write_text(f"process {os.getpid()} on {socket.gethostname()}", "utf-8")
        yield
    finally:
        if lock.is_locked:
            with suppress(OSError):
                place.unlink()  # before the release: afterwards it may be another process's
            lock.release()


def lock_of(path: Path) -> Path:
    """Return the file that is locked while `path` is written.

    Example:
        >>> lock_of(Path("scores.csv")).name
        'scores.csv.lock'
    """
    path = path.resolve()  # one lock, whatever the name by which the file is reached
    return path.with_name(f"{path.name}.lock")


class RowFile:
    """A file of rows that grows; what a run wrote before it was killed is kept, without `overwrite`.

    Raises:
        ScoringError: there is a file, but not with rows of `form`.
        OSError: it cannot be read.
    """

    def __init__(self, path: Path, form: Csv | JsonLines, *, overwrite: bool = False, option: str = "") -> None:
        self.path = path
        self.name = f"{option} {path}".strip()
        self.form = form
        self._file: FileIO | None = None
        self._anew = overwrite or not path.exists() or path.stat().st_size == 0
        # the end of what is kept
        self._end = len(form.header().encode())
        # how many pairs it holds all rows of
        self.count = 0 if self._anew else sum(1 for _ in self._pairs())

    def _pairs(self, pairs: Sequence[Pair] = ()) -> Iterator[tuple[Row, int]]:
        """Yield a row for each complete pair, and where its rows end.

        Raises:
            ScoringError: a row is not that of its pair among `pairs`, or of another run; says what differs.
        """
        table, together, before = self.form.table, PairRows(self.form.table), 0
        with open_regular(self.path) as file:
            for number, read in enumerate(self.form.rows(file, self.path), 1):
                try:
                    whole = together.add(read.row)
                except ValueError as error:
                    raise ScoringError(f"{self.path}: row {number} is damaged ({error}); {OVERWRITE}") from error
                if before < len(pairs) and (wrong := table.difference(read.row, pairs[before])) is not None:
                    raise ScoringError(f"{self.path}: row {number} {wrong}; {OVERWRITE}")
                if whole is not None:
                    before += 1
                    yield whole, read.end

    def keep(self, count: int, pairs: Sequence[Pair], check: Check = lambda *_: None) -> Iterator[Scored]:
        """Yield what the file holds of the first `count` pairs; later writing cuts off the others.

        Raises:
            ScoringError: a row, kept or not, is not that of its pair, or of another run; says what differs.
        """
        if self.count > len(pairs):
            raise ScoringError(f"{self.path}: holds {self.count} rows, this run has {len(pairs)} pairs; {OVERWRITE}")
        if self._anew:
            return
        what = "pair" if self.form.table.per_frame else "row"
        for number, ((row, end), pair) in enumerate(zip(self._pairs(pairs), pairs, strict=False), 1):
            if (wrong := check(row, pair)) is not None:
                raise ScoringError(f"{self.path}: {what} {number} {wrong}; {OVERWRITE}")
            if number <= count:
                self._end = end
                yield Scored(pair, row)

    def write(self, scored: Scored) -> None:
        """Add the rows of a pair and hand them to the system, so that they outlive this process; all or none."""
        file = self.opened()
        self._check_there(file)
        before = file.tell()
        try:
            for row in encoded(self.form, scored):
                write_all(file, row)
        except OSError:  # a full disk takes a part of a row
            with suppress(OSError):
                file.truncate(before)
            raise

    def opened(self) -> FileIO:
        """Return the file, opened at the end of what is kept."""
        if self._file is None:
            if self._anew:
                # whole or not at all, so that the header is never cut off
                write_whole(self.path, self.form.header())
            # without a buffer, which would hold what a full disk did not take, and fail once more when it is closed
            self._file = FileIO(self.path, "r+")
            self._file.truncate(self._end)
            self._file.seek(0, os.SEEK_END)
        return self._file

    def _check_there(self, file: FileIO) -> None:
        """Raise an OSError if the file is no longer that of its name: what is written to it would be lost."""
        try:
            there = os.path.samestat(os.fstat(file.fileno()), self.path.stat())
        except FileNotFoundError:
            there = False
        if not there:
            raise OSError(errno.ESTALE, "was removed, moved or replaced while it was written")

    def finish(self) -> None:
        """Cut off what is not kept, and close the file."""
        if self._file is None and not self._anew and self.path.stat().st_size != self._end:
            self.opened()
        if self._file is not None:
            self._check_there(self._file)
        self.close()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def write_all(file: FileIO, content: bytes) -> None:
    """Write to a file without a buffer, which may take a part at a time."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


class RowStream:
    """Rows that go to a pipe or a device: written, never read."""

    def __init__(self, form: Csv | JsonLines, put: Callable[[bytes], object], *, name: str = "") -> None:
        self.form = form
        self.name = name
        self._put = put
        self._header = form.header().encode()

    def write(self, scored: Scored) -> None:
        """Write the rows of a pair, after the header if they are the first."""
        self._put(self._header + b"".join(encoded(self.form, scored)))
        self._header = b""


def encoded(form: Csv | JsonLines, scored: Scored) -> Iterator[bytes]:
    """Yield the rows of a pair one by one: a long video has many."""
    return (form.text(row).encode() for row in form.table.rows(scored))


class Outputs:
    """Everything that the rows of a run are written to; all files are kept at the same row.

    Args:
        files: what a killed run goes on with. An incomplete batch is scored again as a whole, since the last bits of a
            score depend on its batch.
        streams: get every row, including those that were scored before.
    """

    def __init__(
        self, files: Sequence[RowFile], streams: Sequence[RowStream], pairs: Sequence[Pair], *, batch_size: int
    ) -> None:
        self._files, self._streams, self._pairs = files, streams, pairs
        whole = min((f.count for f in files), default=0)
        while whole < len(pairs) and not is_chunk_start(pairs, whole, batch_size):
            whole -= 1
        self.kept = whole

    def kept_rows(self) -> Iterator[Scored]:
        """Yield what was scored before, and write it to the streams.

        Raises:
            ScoringError: a file holds rows of another run, or images have changed; no file was touched.
        """
        for other in self._files[1:]:
            deque(other.keep(self.kept, self._pairs), maxlen=0)
        for first in self._files[:1]:
            for scored in first.keep(self.kept, self._pairs, Unchanged()):
                self._put(self._streams, scored)
                yield scored

    def write(self, scored: Scored) -> None:
        """Add the rows of a pair to everything."""
        self._put((*self._files, *self._streams), scored)

    def _put(self, places: Sequence[RowFile | RowStream], scored: Scored) -> None:
        for place in places:
            with explained(place.name):
                place.write(scored)

    def finish(self) -> None:
        for file in self._files:
            with explained(file.name):
                file.finish()

    def close(self) -> None:
        for file in self._files:
            with explained(file.name):
                file.close()


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Turn what the system says of an output into a ScoringError that names it; not of a pipe that nobody reads."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ScoringError(f"{name}: {reason(error)}") from error


class Unchanged:
    """Tells whether the files of a row are still those that were scored."""

    def __init__(self) -> None:
        self._reference: tuple[Path, str] | None = None

    def __call__(self, row: Row, pair: Pair) -> str | None:
        """Return which file of a row has changed."""
        if self._reference is None or self._reference[0] != pair.reference:
            self._reference = pair.reference, digest_if_readable(pair.reference)
        if row["reference_sha256"] != self._reference[1]:
            return f"was scored with another {pair.reference}: the file has changed"
        if row["sha256"] != digest_if_readable(pair.distorted):
            return f"was scored with another {pair.distorted}: the file has changed"
        return None
