"""Judged sets of one's own: CSV files that name images and say what observers thought of them."""

from pathlib import Path

from damlpips.evaluation.datasets.folders import Tree, file_names
from damlpips.evaluation.datasets.forms import form_of, sets_of
from damlpips.evaluation.datasets.tables import DatasetError, rows_with_header
from damlpips.evaluation.judgements import JudgedSet


def detect(path: Path) -> bool:
    """Return whether a path is a CSV file, or a folder with some."""
    return bool(_tables(path))


def read(path: Path) -> list[JudgedSet]:
    """Return the sets of a CSV file, or of all those of a folder: one for each kind of judgement and name of a set."""
    tables = _tables(path)
    if not tables:
        raise DatasetError(f"{path}: expected a CSV file, or a folder with some")
    found = [(table, rows_with_header(table)) for table in tables]
    tree = Tree(path if path.is_dir() else path.parent)
    return sets_of(
        [(table.stem, form_of(rows[0].fields, f"{table}, line 1"), rows) for table, rows in found], tree.find
    )


def _tables(path: Path) -> list[Path]:
    if path.is_dir():
        return [path / name for name in file_names(path, (".csv",))]
    return [path] if path.suffix.lower() == ".csv" else []
