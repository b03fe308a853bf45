"""Judged sets of one's own: CSV files that name images and say what observers thought of them."""

from collections.abc import Sequence
from pathlib import Path

from damlpips.evaluation.datasets.folders import Tree, file_names
from damlpips.evaluation.datasets.tables import DatasetError, Row, rows_with_header
from damlpips.evaluation.judgements import Choice, JudgedSet, Rating
from damlpips.files import shown

RATING = ("ref", "dist", "score")
CHOICE = ("ref", "a", "b", "votes_a", "votes_b")


def detect(path: Path) -> bool:
    """Return whether a path is a CSV file, or a folder with some."""
    return bool(_tables(path))


def read(path: Path) -> list[JudgedSet]:
    """Return the sets of a CSV file, or of all those of a folder: one for each kind of judgement and name of a set."""
    tables = _tables(path)
    if not tables:
        raise DatasetError(f"{path}: expected a CSV file, or a folder with some")
    tree = Tree(path if path.is_dir() else path.parent)
    # by set, over all files
    ratings: dict[str, list[Row]] = {}
    choices: dict[str, list[Row]] = {}
    for table in tables:
        rows = rows_with_header(table)
        of_kind = ratings if _holds_ratings(rows[0], table) else choices
        for row in rows:
            of_kind.setdefault(row.fields.get("set") or table.stem, []).append(row)
    return [
        *(JudgedSet(name, tuple(_ratings(rows, tree))) for name, rows in ratings.items()),
        *(JudgedSet(name, tuple(_choices(rows, tree))) for name, rows in choices.items()),
    ]


def _tables(path: Path) -> list[Path]:
    if path.is_dir():
        return [path / name for name in file_names(path, (".csv",))]
    return [path] if path.suffix.lower() == ".csv" else []


def _holds_ratings(first: Row, table: Path) -> bool:
    """Return whether a table holds ratings; otherwise it holds choices."""
    for columns in (RATING, CHOICE):
        if first.fields.keys() >= set(columns):
            return columns is RATING
    expected = f"{','.join(RATING)} or {','.join(CHOICE)}"
    got = shown(",".join(first.fields))
    raise DatasetError(f"{table}, line 1: expected the columns {expected}, got {got}")


def _ratings(rows: Sequence[Row], tree: Tree) -> list[Rating]:
    references, distorted = (_files(rows, column, tree) for column in ("ref", "dist"))
    return [
        Rating(r, d, row.number("score"), _content(row), kind)
        for row, r, d, kind in zip(rows, references, distorted, _kinds(rows), strict=True)
    ]


def _choices(rows: Sequence[Row], tree: Tree) -> list[Choice]:
    references, ones, others = (_files(rows, column, tree) for column in ("ref", "a", "b"))
    return [
        Choice(r, a, b, *_votes(row), _content(row), kind)
        for row, r, a, b, kind in zip(rows, references, ones, others, _kinds(rows), strict=True)
    ]


def _files(rows: Sequence[Row], column: str, tree: Tree) -> list[Path]:
    return tree.find((f"{row.where}, column {column!r}", row.fields[column]) for row in rows)


def _votes(row: Row) -> tuple[float, float]:
    a, b = row.number("votes_a"), row.number("votes_b")
    if min(a, b) < 0 or a + b == 0:
        raise DatasetError(f"{row.where}, columns 'votes_a' and 'votes_b': expected votes, got {a:g} and {b:g}")
    return a, b


def _content(row: Row) -> str:
    """Return what the row says about its content, or else that each reference is one."""
    return row.fields.get("content") or row.fields["ref"]


def _kinds(rows: Sequence[Row]) -> list[str]:
    """Return the kind of distortion of each row of a set: its `kind`, or its `group` where there is no such column.

    Groups that are the contents under other names say nothing about kinds.
    """
    kinds = [row.fields.get("kind", row.fields.get("group", "")) for row in rows]
    of_contents = {(kind, _content(row)) for kind, row in zip(kinds, rows, strict=True)}
    one_to_one = len(of_contents) == len({kind for kind, _ in of_contents}) == len({c for _, c in of_contents})
    named = any("kind" in row.fields for row in rows)
    return [""] * len(rows) if one_to_one and not named else kinds
