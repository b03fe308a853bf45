"""Files of rows that grow as scores come, and go on where a run was killed."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from damlpips.files import open_regular, reason
from damlpips.scoring.frames import digest_if_readable
from damlpips.scoring.images import ScoringError
from damlpips.scoring.pairs import Pair
from damlpips.scoring.reader import is_chunk_start
from damlpips.scoring.rows import OVERWRITE, Csv, JsonLines, Row, Table
from damlpips.scoring.scorer import Score, write_whole

# what is wrong with a row of a pair
Check = Callable[[Row, Pair], str | None]


class RowFile:
    """A file of rows that grows; what a run wrote before it was killed is kept.

    Args:
        path: the file.
        form: how its rows are written.
        overwrite: whether what is there goes, whatever it is.
        option: what the user named it by, for errors.

    Raises:
        ScoringError: there is a file without rows of `form`.
        OSError: it cannot be read.
    """

    def __init__(self, path: Path, form: Csv | JsonLines, *, overwrite: bool = False, option: str = "") -> None:
        self.path = path
        self.name = f"{option} {path}".strip()
        self.form = form
        self._file: BinaryIO | None = None
        self._anew = overwrite or not path.exists() or path.stat().st_size == 0
        # the end of what is kept
        self._end = len(form.header().encode())
        self.count = 0 if self._anew else self._whole_rows()

    def _whole_rows(self) -> int:
        with open_regular(self.path) as file:
            return sum(1 for _ in self.form.rows(file, self.path))

    def keep(self, count: int, pairs: Sequence[Pair], check: Check | None = None) -> Iterator[Score]:
        """Yield the scores of the first `count` rows; later writing cuts off the others.

        Raises:
            ScoringError: a row, kept or not, is not of its pair, or of another run; says what differs.
        """
        self._check_count(pairs)
        if self._anew:
            return
        with open_regular(self.path) as file:
            rows = zip(self.form.rows(file, self.path), pairs, strict=False)
            for number, ((row, end), pair) in enumerate(rows, 1):
                wrong = difference(row, self.form.table, pair) or (check(row, pair) if check else None)
                if wrong is not None:
                    raise ScoringError(f"{self.path}: row {number} {wrong}; {OVERWRITE}")
                if number <= count:
                    self._end = end
                    yield self.form.table.score(row, pair)

    def _check_count(self, pairs: Sequence[Pair]) -> None:
        if self.count > len(pairs):
            raise ScoringError(f"{self.path}: holds {self.count} rows, this run has {len(pairs)} pairs; {OVERWRITE}")

    def write(self, scores: Sequence[Score]) -> None:
        """Add rows, and hand them to the system: they outlive this process.

        Raises:
            OSError: the file cannot be written.
        """
        if self._file is None:
            self._file = self._opened()
        self._file.writelines(encoded(self.form, scores))
        self._file.flush()

    def _opened(self) -> BinaryIO:
        if self._anew:
            # whole or not at all: a header is never cut off
            write_whole(self.path, self.form.header())
        file = open(self.path, "r+b")  # noqa: SIM115
        file.truncate(self._end)
        file.seek(0, os.SEEK_END)
        return file

    def finish(self) -> None:
        """Leave no rows that are not kept, and close the file."""
        if self._file is None and not self._anew and self.path.stat().st_size != self._end:
            self._file = self._opened()
        self.close()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class RowStream:
    """Rows for a pipe or a device: written, never read.

    Args:
        form: how rows are written.
        put: takes bytes.
    """

    def __init__(self, form: Csv | JsonLines, put: Callable[[bytes], object], *, name: str = "") -> None:
        self.form = form
        self.name = name
        self._put = put
        self._begun = False

    def write(self, scores: Sequence[Score]) -> None:
        """Hand on rows, the first ones behind the header."""
        header = b"" if self._begun else self.form.header().encode()
        self._begun = True
        self._put(header + b"".join(encoded(self.form, scores)))


def encoded(form: Csv | JsonLines, scores: Sequence[Score]) -> Iterator[bytes]:
    """Yield the text of each row."""
    for score in scores:
        for row in form.table.rows(score):
            yield form.text(row).encode("utf-8", "surrogateescape")


class Outputs:
    """Everything that a run's rows go to, the files all at the same row.

    Args:
        files: what a killed run goes on with.
        streams: what gets every row, also those that were scored before.
        pairs: of the run.
        batch_size: of the run. A batch that was begun is scored whole again, since the last bits of a score depend on
            its batch.
    """

    def __init__(
        self, files: Sequence[RowFile], streams: Sequence[RowStream], pairs: Sequence[Pair], *, batch_size: int
    ) -> None:
        self._files, self._streams, self._pairs = files, streams, pairs
        whole = min((f.count for f in files), default=0)
        while whole < len(pairs) and not is_chunk_start(pairs, whole, batch_size):
            whole -= 1
        self.kept = whole

    def kept_scores(self) -> Iterator[Score]:
        """Yield what was scored before.

        Raises:
            ScoringError: a file holds rows of another run, or images have changed; no file was touched.
        """
        for other in self._files[1:]:
            deque(other.keep(self.kept, self._pairs), maxlen=0)
        if self._files:
            for score in self._files[0].keep(self.kept, self._pairs, Unchanged()):
                self._put(self._streams, score)
                yield score

    def write(self, score: Score) -> None:
        """Add a score to everything.

        Raises:
            ScoringError: a file cannot be written.
        """
        self._put((*self._files, *self._streams), score)

    def _put(self, places: Sequence[RowFile | RowStream], score: Score) -> None:
        for place in places:
            try:
                place.write([score])
            except OSError as error:
                raise ScoringError(f"{place.name}: {reason(error)}") from error

    def finish(self) -> None:
        for file in self._files:
            file.finish()

    def close(self) -> None:
        for file in self._files:
            file.close()


def difference(row: Row, table: Table, pair: Pair) -> str | None:
    """Return in what a row is not one of this run for a pair."""
    for column, wanted in table.settings.items():
        if row[column] != wanted:
            return _options_differ(str(row[column]), wanted) if column == "options" else _differs(column, row, wanted)
    for column, wanted in (
        ("reference", str(pair.reference)),
        ("distorted", str(pair.distorted)),
        ("method", pair.method),
    ):
        if row[column] != wanted:
            return _differs(column, row, wanted)
    return None


def _differs(column: str, row: Row, wanted: str) -> str:
    return f"has {column} {row[column]!r}, this run {wanted!r}"


def _options_differ(found: str, wanted: str) -> str:
    one, other = (dict(part.partition("=")[::2] for part in text.split(" ")) for text in (found, wanted))
    names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    of_file, of_run = (" ".join(f"{n}={side.get(n, '')}" for n in names) for side in (one, other))
    return f"was scored with {of_file}, this run has {of_run}"


class Unchanged:
    """Tell whether the files of a row are those that were scored."""

    def __init__(self) -> None:
        self._last: tuple[Path, str] | None = None

    def __call__(self, row: Row, pair: Pair) -> str | None:
        """Return which file of a row has changed since."""
        if self._last is None or self._last[0] != pair.reference:
            self._last = pair.reference, digest_if_readable(pair.reference)
        if row["reference_sha256"] != self._last[1]:
            return f"was scored with another {pair.reference}: the file has changed"
        if row["sha256"] != digest_if_readable(pair.distorted):
            return f"was scored with another {pair.distorted}: the file has changed"
        return None
