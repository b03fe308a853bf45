"""Rows of frames: the table of `rows` with a row for each frame of a video, and its file that goes on."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO, NamedTuple

from damlpips.files import open_regular
from damlpips.scoring.frame_scores import FrameScores
from damlpips.scoring.images import ScoringError
from damlpips.scoring.journal import Check, RowFile, difference
from damlpips.scoring.pairs import Pair
from damlpips.scoring.rows import OVERWRITE, Csv, Row, Table
from damlpips.scoring.scorer import Score


class FrameTable(Table):
    """A row a frame: its number from 0, of how many, and its time in seconds beside the columns of a pair.

    A pair without a score has one row, without a number; a pair of images is one frame.
    """

    @property
    def columns(self) -> list[str]:
        first, *others = super().columns
        return [first, others[0], "frame", "frames", "time", *others[1:]]

    @property
    def numbers(self) -> list[str]:
        return [*super().numbers, "time"]

    @property
    def integers(self) -> list[str]:
        return [*super().integers, "frame", "frames"]

    def rows(self, score: Score) -> Iterator[Row]:
        """Yield the rows of a pair."""
        alone = score.error is None
        whole: Row = {
            **self.pair_row(score),
            "frame": 0 if alone else None,
            "frames": 1 if alone else None,
            "time": None,
        }
        if score.frames is None:
            yield {column: whole[column] for column in self.columns}
            return
        whole["frames"] = len(score.frames)
        for number, (layers, value, time) in enumerate(score.frames):
            row: Row = {
                **whole,
                **dict(zip(self.layer_names, layers, strict=True)),
                "frame": number,
                "score": value,
                "time": None if math.isnan(time) else time,
            }
            yield {column: row[column] for column in self.columns}


class _Rows(NamedTuple):
    """All rows of a pair: the first of them, what its frames scored, and where the last one ends."""

    first: Row
    frames: FrameScores
    end: int


class FrameFile(RowFile):
    """A file of rows of frames that goes on at the latest pair."""

    form: Csv

    def _whole_rows(self) -> int:
        with open_regular(self.path) as file:
            return sum(1 for _ in self._pairs(file))

    def _pairs(self, file: BinaryIO, wrong: Callable[[Row, int], str | None] = lambda *_: None) -> Iterator[_Rows]:
        """Yield the rows of each pair all of whose rows are there."""
        frames, first, pairs = FrameScores(), None, 0
        table = self.form.table
        for number, (row, end) in enumerate(self.form.rows(file, self.path), 1):
            count = row["frames"]
            if count is not None and row["frame"] != len(frames):
                raise ScoringError(f"{self.path}: row {number} is damaged (no frame {len(frames)}); {OVERWRITE}")
            if (difference := wrong(row, pairs)) is not None:
                raise ScoringError(f"{self.path}: row {number} {difference}; {OVERWRITE}")
            first = first or row
            if row["score"] is not None:
                layers = [float(row[name] or 0) for name in table.layer_names]
                frames.add(layers, float(row["score"]), math.nan)
            if count is None or len(frames) == count:
                yield _Rows(first, frames, end)
                frames, first, pairs = FrameScores(), None, pairs + 1

    def keep(self, count: int, pairs: Sequence[Pair], check: Check | None = None) -> Iterator[Score]:
        """Yield the scores of the first `count` pairs, as `RowFile.keep`, without those of their frames."""
        self._check_count(pairs)
        if self._anew:
            return
        table = self.form.table

        def wrong(row: Row, k: int) -> str | None:
            return difference(row, table, pairs[k]) if k < len(pairs) else None

        with open_regular(self.path) as file:
            for number, (rows, pair) in enumerate(zip(self._pairs(file, wrong), pairs, strict=False), 1):
                if check is not None and (changed := check(rows.first, pair)) is not None:
                    raise ScoringError(f"{self.path}: pair {number} {changed}; {OVERWRITE}")
                if number <= count:
                    self._end = rows.end
                    yield self._score(rows, pair)

    def _score(self, rows: _Rows, pair: Pair) -> Score:
        table = Table(self.form.table.settings, self.form.table.layers)
        if not pair.video or not len(rows.frames):
            return table.score(rows.first, pair)
        layers, score = rows.frames.mean()
        return table.score({**rows.first, "score": score, **dict(zip(table.layer_names, layers, strict=True))}, pair)
