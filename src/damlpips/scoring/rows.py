"""Rows of scores: their columns, and how CSV and JSON Lines spell them."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import BinaryIO

from damlpips.files import MOST_SHOWN
from damlpips.scoring.images import ScoringError
from damlpips.scoring.pairs import Pair
from damlpips.scoring.scorer import Score

Value = str | float | int | None
Row = dict[str, Value]

# what is the same in all rows of a run
SETTINGS = ("metric", "backbone", "weights", "options")
INTEGERS = ("width", "height")
QUOTE = '"'
OVERWRITE = "--overwrite starts anew"


@dataclass(frozen=True)
class Table:
    """The columns of a run's rows, and what its rows have in common.

    Args:
        settings: the values of `SETTINGS`.
        layers: how many columns `layer_0`, `layer_1`, ... there are.
    """

    settings: Mapping[str, str]
    layers: int

    @property
    def layer_names(self) -> list[str]:
        return [f"layer_{k}" for k in range(self.layers)]

    @property
    def numbers(self) -> list[str]:
        return ["score", *self.layer_names]

    @property
    def integers(self) -> list[str]:
        return list(INTEGERS)

    @property
    def columns(self) -> list[str]:
        before = ["reference", "distorted", "score", "metric", "backbone", "method"]
        after = ["width", "height", "sha256", "reference_sha256", "weights", "options", "error"]
        return [*before, *self.layer_names, *after]

    def rows(self, score: Score) -> Iterator[Row]:
        """Yield the rows of a score, their columns in order: one."""
        row = self.pair_row(score)
        yield {column: row[column] for column in self.columns}

    def pair_row(self, score: Score) -> Row:
        """Return what a score says, in any order."""
        height, width = score.size or (None, None)
        layers: Sequence[float | None] = score.layers or [None] * self.layers
        return {
            **self.settings,
            **dict(zip(self.layer_names, layers, strict=True)),
            "reference": str(score.pair.reference),
            "distorted": str(score.pair.distorted),
            "score": score.score,
            "method": score.pair.method,
            "width": width,
            "height": height,
            "sha256": score.sha256,
            "reference_sha256": score.reference_sha256,
            "error": score.error or "",
        }

    def score(self, row: Row, pair: Pair) -> Score:
        """Return the score that a row holds."""
        value, *layers = [_number(row[name]) for name in self.numbers]
        height, width = _number(row["height"]), _number(row["width"])
        return Score(
            pair,
            value,
            tuple(n for n in layers if n is not None),
            None if height is None or width is None else (int(height), int(width)),
            str(row["sha256"]),
            str(row["reference_sha256"]),
            str(row["error"]) or None,
        )


def _number(value: Value) -> float | None:
    return None if value is None else float(value)


class Csv:
    """Rows as CSV: a header, then a row a pair; a missing number is an empty field."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def header(self) -> str:
        return self._line(self.table.columns)

    def text(self, row: Row) -> str:
        return self._line([repr(v) if isinstance(v, float) else "" if v is None else v for v in row.values()])

    def rows(self, file: BinaryIO, path: Path) -> Iterator[tuple[Row, int]]:
        """Yield each row of an open file and where it ends; what was cut off is left out.

        Raises:
            ScoringError: other columns, or no such table at all.
        """
        columns, header = self.table.columns, self.header().encode()
        if (head := file.read(len(header))) != header:
            found = (head + file.readline(MOST_SHOWN)).decode("utf-8", "replace").splitlines()[0]
            raise ScoringError(_other_columns(path, found.split(","), columns))
        lines = _Lines(file, len(header))
        reader = csv.reader(lines, strict=True)
        for number in count(1):
            try:
                cells = next(reader, None)
                if cells is None or not lines.whole:
                    return
                row: Row = {c: self._value(c, cell) for c, cell in zip(columns, cells, strict=True)}
            except (csv.Error, ValueError) as error:
                if isinstance(error, csv.Error) and lines.at_end():
                    return  # cut off within a name in quotes
                raise ScoringError(f"{path}: row {number} is damaged ({error}); {OVERWRITE}") from error
            yield row, lines.place

    def _value(self, column: str, cell: str) -> Value:
        if column in self.table.integers:
            return int(cell) if cell else None
        if column in self.table.numbers:
            return float(cell) if cell else None
        return cell

    @staticmethod
    def _line(cells: Sequence[Value]) -> str:
        return ",".join(_quoted(str(cell)) for cell in cells) + "\n"


def _quoted(cell: str) -> str:
    # not `csv.writer`, which before Python 3.13 leaves a carriage return bare, where readers see a new row
    return f'"{cell.replace(QUOTE, QUOTE * 2)}"' if set(cell) & {",", QUOTE, "\n", "\r"} else cell


class JsonLines:
    """Rows as JSON Lines: an object a pair; a missing number is null."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def header(self) -> str:
        return ""

    def text(self, row: Row) -> str:
        return json.dumps(row) + "\n"

    def rows(self, file: BinaryIO, path: Path) -> Iterator[tuple[Row, int]]:
        """Yield each row of an open file and where it ends; as `Csv.rows`."""
        lines = _Lines(file)
        for number, line in enumerate(lines, 1):
            if not lines.whole:
                return
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ScoringError(f"{path}: row {number} is damaged ({error}); {OVERWRITE}") from error
            if not isinstance(row, dict) or list(row) != self.table.columns:
                found = list(row) if isinstance(row, dict) else None
                raise ScoringError(_other_columns(path, found, self.table.columns))
            for name in (*self.table.numbers, *self.table.integers):
                if not (row[name] is None or type(row[name]) in (int, float)):
                    raise ScoringError(f"{path}: row {number} is damaged ({name} is no number); {OVERWRITE}")
            yield row, lines.place


class _Lines:
    """The lines of a file as text; where the last one ended, and whether it did."""

    def __init__(self, file: BinaryIO, place: int = 0) -> None:
        self._file = file
        self.place = place
        self.whole = True

    def __iter__(self) -> Iterator[str]:
        for line in self._file:
            self.place += len(line)
            self.whole = line.endswith(b"\n")
            yield line.decode("utf-8", "surrogateescape")

    def at_end(self) -> bool:
        return not self._file.read(1)


def _other_columns(path: Path, found: Sequence[str] | None, columns: Sequence[str]) -> str:
    known = [c for c in columns if found is None or c not in found]
    new = [c for c in found or () if c not in columns]
    what = f"lacks {', '.join(known)}" if known else "has them in another order"
    if new and found is not None and not known:
        what = f"has {', '.join(new)[:200]} besides"
    return f"{path}: holds no rows of this run: expected the columns of this version and metric, it {what}; {OVERWRITE}"
