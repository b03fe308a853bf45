"""Judged sets of one's own: CSV files that name images and say what observers thought of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from damlpips.evaluation.datasets.folders import Tree, file_names
from damlpips.evaluation.datasets.tables import DatasetError, Row, rows_with_header
from damlpips.evaluation.judgements import Choice, JudgedSet, Judgement, Rating
from damlpips.files import shown

# the images of a row, in the order of its columns
Files = tuple[Path, ...]

# the columns of two pairs of images
COMPARED = ("p1", "p2", "q1", "q2")


@dataclass(frozen=True)
class _Form:
    """What a table holds.

    Attributes:
        images: the columns that name images.
        opinions: the columns that hold what observers said.
        kind_of_judgement: the class of what its rows say.
        judgement: a row, its images, content and kind to a judgement.
        contents: rows and their images to the content of each row that does not name one.
    """

    images: tuple[str, ...]
    opinions: tuple[str, ...]
    kind_of_judgement: type[Judgement]
    judgement: Callable[[Row, Files, str, str], Judgement]
    contents: Callable[[Sequence[Row], Sequence[Files]], list[str]]

    @property
    def columns(self) -> tuple[str, ...]:
        return self.images + self.opinions


def _rating(row: Row, files: Files, content: str, kind: str) -> Judgement:
    reference, distorted = files
    return Rating(reference, distorted, row.number("score"), content, kind)


def _choice(row: Row, files: Files, content: str, kind: str) -> Judgement:
    reference, a, b = files
    return Choice((reference, a), (reference, b), *_votes(row, "votes_a", "votes_b"), content, kind)


def _comparison(row: Row, files: Files, content: str, kind: str) -> Judgement:
    p1, p2, q1, q2 = files
    # of the pair that differs more: the others are for the closer one
    votes_p, votes_q = _votes(row, "votes_p", "votes_q")
    return Choice((p1, p2), (q1, q2), votes_q, votes_p, content, kind)


def _votes(row: Row, *columns: str) -> tuple[float, float]:
    one, other = (row.number(column) for column in columns)
    if min(one, other) < 0 or one + other == 0:
        named = " and ".join(map(repr, columns))
        raise DatasetError(f"{row.where}, columns {named}: expected votes, got {one:g} and {other:g}")
    return one, other


def _references(rows: Sequence[Row], _files: Sequence[Files]) -> list[str]:
    """Return that each reference is a content."""
    return [row.fields["ref"] for row in rows]


def _linked(rows: Sequence[Row], files: Sequence[Files]) -> list[str]:
    """Return that images are of one content that were compared, with each other or with images of that content.

    Its name is that of the first of them by name: neither the order of rows nor that of pairs matters.
    """
    above: dict[Path, Path] = {}

    def top(path: Path) -> Path:
        while above.setdefault(path, path) != path:
            above[path] = path = above[above[path]]
        return path

    for compared in files:
        tops = [top(path) for path in compared]
        for each in tops:
            above[each] = min(tops)
    names = {
        path: row.fields[column]
        for row, compared in zip(rows, files, strict=True)
        for column, path in zip(COMPARED, compared, strict=True)
    }
    return [names[top(compared[0])] for compared in files]


FORMS = (
    _Form(("ref", "dist"), ("score",), Rating, _rating, _references),
    _Form(("ref", "a", "b"), ("votes_a", "votes_b"), Choice, _choice, _references),
    _Form(COMPARED, ("votes_p", "votes_q"), Choice, _comparison, _linked),
)


def detect(path: Path) -> bool:
    """Return whether a path is a CSV file, or a folder with some."""
    return bool(_tables(path))


def read(path: Path) -> list[JudgedSet]:
    """Return the sets of a CSV file, or of all those of a folder: one for each kind of judgement and name of a set."""
    tables = _tables(path)
    if not tables:
        raise DatasetError(f"{path}: expected a CSV file, or a folder with some")
    tree = Tree(path if path.is_dir() else path.parent)
    # by form and set, over all files
    found: dict[_Form, dict[str, list[Row]]] = {form: {} for form in FORMS}
    for table in tables:
        rows = rows_with_header(table)
        of_form = found[_form(rows[0], table)]
        for row in rows:
            of_form.setdefault(row.fields.get("set") or table.stem, []).append(row)
    sets: dict[tuple[type[Judgement], str], list[Judgement]] = {}
    for form, of_form in found.items():
        for name, rows in of_form.items():
            sets.setdefault((form.kind_of_judgement, name), []).extend(_judgements(form, rows, tree))
    return [JudgedSet(name, tuple(judgements)) for (_, name), judgements in sets.items()]


def _tables(path: Path) -> list[Path]:
    if path.is_dir():
        return [path / name for name in file_names(path, (".csv",))]
    return [path] if path.suffix.lower() == ".csv" else []


def _form(first: Row, table: Path) -> _Form:
    """Return what a table holds, by its columns."""
    for form in FORMS:
        if first.fields.keys() >= set(form.columns):
            return form
    expected = " or ".join(",".join(form.columns) for form in FORMS)
    got = shown(",".join(first.fields))
    raise DatasetError(f"{table}, line 1: expected the columns {expected}, got {got}")


def _judgements(form: _Form, rows: Sequence[Row], tree: Tree) -> list[Judgement]:
    by_column = [
        tree.find((f"{row.where}, column {column!r}", row.fields[column]) for row in rows) for column in form.images
    ]
    files = list(zip(*by_column, strict=True))
    assumed = form.contents(rows, files)
    contents = [row.fields.get("content") or content for row, content in zip(rows, assumed, strict=True)]
    kinds = _kinds(rows, contents)
    return [form.judgement(*each) for each in zip(rows, files, contents, kinds, strict=True)]


def _kinds(rows: Sequence[Row], contents: Sequence[str]) -> list[str]:
    """Return the kind of distortion of each row of a set: its `kind`, or its `group` where there is no such column.

    Groups that are the contents under other names say nothing about kinds.
    """
    kinds = [row.fields.get("kind", row.fields.get("group", "")) for row in rows]
    of_contents = set(zip(kinds, contents, strict=True))
    one_to_one = len(of_contents) == len({kind for kind, _ in of_contents}) == len({c for _, c in of_contents})
    named = any("kind" in row.fields for row in rows)
    return [""] * len(rows) if one_to_one and not named else kinds
