"""Judged sets of one's own: CSV files that name images and say what observers thought of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from damlpips.evaluation.datasets.folders import Tree, file_names
from damlpips.evaluation.datasets.tables import DatasetError, Row, quoted, rows_with_header
from damlpips.evaluation.judgements import Choice, JudgedSet, Rating

RATING = ("ref", "dist", "score")
CHOICE = ("ref", "a", "b", "votes_a", "votes_b")

Judged = TypeVar("Judged", Rating, Choice)


def is_plain(path: Path) -> bool:
    """Return whether a path is a CSV file, or a folder with some."""
    return bool(_tables(path))


def read_plain(path: Path) -> list[JudgedSet]:
    """Return the sets of a CSV file, or of all those of a folder: one for each kind of judgement and name of a set."""
    tables = _tables(path)
    if not tables:
        raise DatasetError(f"{path}: expected a CSV file, or a folder with some")
    tree = Tree(path if path.is_dir() else path.parent)
    ratings: dict[str, list[Rating]] = {}
    choices: dict[str, list[Choice]] = {}
    for table in tables:
        rows = rows_with_header(table)
        columns = set(rows[0].fields)
        if columns.issuperset(RATING):
            _add(ratings, rows, _ratings(rows, tree), table)
        elif columns.issuperset(CHOICE):
            _add(choices, rows, _choices(rows, tree), table)
        else:
            expected = f"{','.join(RATING)} or {','.join(CHOICE)}"
            got = quoted(",".join(rows[0].fields))
            raise DatasetError(f"{table}, line 1: expected the columns {expected}, got {got}")
    return [
        *(JudgedSet(name, tuple(judged)) for name, judged in ratings.items()),
        *(JudgedSet(name, tuple(judged)) for name, judged in choices.items()),
    ]


def _tables(path: Path) -> list[Path]:
    if path.is_dir():
        return [path / name for name in file_names(path, (".csv",))]
    return [path] if path.suffix.lower() == ".csv" else []


def _add(sets: dict[str, list[Judged]], rows: Sequence[Row], judged: Sequence[Judged], table: Path) -> None:
    for row, one in zip(rows, judged, strict=True):
        sets.setdefault(row.fields.get("set") or table.stem, []).append(one)


def _ratings(rows: Sequence[Row], tree: Tree) -> list[Rating]:
    references, distorted = (_files(rows, column, tree) for column in ("ref", "dist"))
    return [
        Rating(r, d, row.number("score"), _content(row), row.fields.get("kind", ""))
        for row, r, d in zip(rows, references, distorted, strict=True)
    ]


def _choices(rows: Sequence[Row], tree: Tree) -> list[Choice]:
    references, ones, others = (_files(rows, column, tree) for column in ("ref", "a", "b"))
    return [
        Choice(r, a, b, *_votes(row), _content(row), row.fields.get("kind", ""))
        for row, r, a, b in zip(rows, references, ones, others, strict=True)
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
    return row.fields.get("content") or row.fields.get("group") or row.fields["ref"]
