"""What a row of one's own tables may hold, by its columns: a rating, a choice, or a comparison of two pairs."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from damlpips.evaluation.datasets.folders import Wanted
from damlpips.evaluation.datasets.tables import DatasetError, Row
from damlpips.evaluation.judgements import Choice, JudgedSet, Judgement, Rating
from damlpips.files import shown

# the images of a row, in the order of its columns
Files = tuple[Path, ...]

# the columns of two pairs of images
COMPARED = ("p1", "p2", "q1", "q2")
# the column of how many observers there were
COUNT = "votes"
# by how much a sum of shares may miss it
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Form:
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


def _judged(row: Row, files: Files, content: str, kind: str) -> Judgement:
    reference, a, b = files
    share = row.number("judge")
    if not 0 <= share <= 1:
        raise DatasetError(f"{row.where}, column 'judge': expected a share of observers, 0 to 1, got {share:g}")
    count = row.number(COUNT) if row.fields.get(COUNT) else 1.0
    if not count > 0:
        raise DatasetError(f"{row.where}, column {COUNT!r}: expected a number of observers above 0, got {count:g}")
    return Choice((reference, a), (reference, b), (1 - share) * count, share * count, content, kind)


def _comparison(row: Row, files: Files, content: str, kind: str) -> Judgement:
    p1, p2, q1, q2 = files
    # of the pair that differs more: the others are for the closer one
    votes_p, votes_q = _votes(row, "votes_p", "votes_q")
    return Choice((p1, p2), (q1, q2), votes_q, votes_p, content, kind)


def _votes(row: Row, *columns: str) -> tuple[float, float]:
    one, other = (row.number(column) for column in columns)
    named = " and ".join(map(repr, columns))
    if min(one, other) < 0 or one + other == 0:
        raise DatasetError(f"{row.where}, columns {named}: expected votes, got {one:g} and {other:g}")
    if row.fields.get(COUNT) and not math.isclose(one + other, count := row.number(COUNT), rel_tol=TOLERANCE):
        raise DatasetError(
            f"{row.where}, columns {named}: {one:g} and {other:g}, expected a sum of {count:g} as in column {COUNT!r}"
        )
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
    Form(("ref", "dist"), ("score",), Rating, _rating, _references),
    Form(("ref", "a", "b"), ("votes_a", "votes_b"), Choice, _choice, _references),
    Form(("ref", "a", "b"), ("judge",), Choice, _judged, _references),
    Form(("ref", "p0", "p1"), ("judge",), Choice, _judged, _references),
    Form(COMPARED, ("votes_p", "votes_q"), Choice, _comparison, _linked),
)


def form_of(columns: Iterable[str], where: str) -> Form:
    """Return what a table holds, by its columns."""
    there = set(columns)
    for form in FORMS:
        if there >= set(form.columns):
            return form
    expected = " or ".join(",".join(form.columns) for form in FORMS)
    raise DatasetError(f"{where}: expected the columns {expected}, got {shown(','.join(columns))}")


def sets_of(
    tables: Iterable[tuple[str, Form, Sequence[Row]]], find: Callable[[Iterable[Wanted]], list[Path]]
) -> list[JudgedSet]:
    """Return a set for each kind of judgement and name of a set, over all tables.

    Args:
        tables: of each the name of the set where a row has no column `set`, what it holds, and its rows.
        find: the paths of images by where they are named, and how.
    """
    found: dict[Form, dict[str, list[Row]]] = {form: {} for form in FORMS}
    for name, form, rows in tables:
        for row in rows:
            found[form].setdefault(row.fields.get("set") or name, []).append(row)
    sets: dict[tuple[type[Judgement], str], list[Judgement]] = {}
    for form, of_form in found.items():
        for name, rows in of_form.items():
            sets.setdefault((form.kind_of_judgement, name), []).extend(_judgements(form, rows, find))
    return [JudgedSet(name, tuple(judgements)) for (_, name), judgements in sets.items()]


def _judgements(form: Form, rows: Sequence[Row], find: Callable[[Iterable[Wanted]], list[Path]]) -> list[Judgement]:
    by_column = [
        find((f"{row.where}, column {column!r}", row.fields[column]) for row in rows) for column in form.images
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
