"""The table of a paper: methods by metrics, as LaTeX, Markdown or CSV, with a footnote that cites what was computed."""

import csv
import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path

from damlpips.files import printable
from damlpips.report.page.comparison import Comparison, MetricColumn, Scores, heading, places
from damlpips.report.page.figures import SAMPLES
from damlpips.scoring.images import ScoringError
from damlpips.scoring.sets import NAMES

# decimals: of decibels, and of everything else
OF_DECIBELS, OF_OTHERS = 2, 3
MOST_DIGITS = 15
NONE = "-"
LATEX = {
    "\\": r"\textbackslash{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}


@dataclass(frozen=True)
class Layout:
    """The options of `render_table`."""

    digits: int | None = None
    intervals: bool = False
    samples: int = SAMPLES


@dataclass(frozen=True)
class Entry:
    """A cell as it is shown: the mean, its place (1 the best, 0 none) and its interval, empty where there is none."""

    text: str
    place: int
    interval: str = ""


@dataclass(frozen=True)
class PaperTable:
    """What all formats show.

    Attributes:
        heads: the name of each metric, its unit, and the arrow to its better scores.
        rows: a method, and its entry for each metric.
        notes: what was computed, of what.
    """

    heads: tuple[tuple[str, str, str], ...]
    rows: tuple[tuple[str, tuple[Entry, ...]], ...]
    notes: tuple[str, ...]


def render_table(
    rows: Sequence[str | os.PathLike[str]],
    format: str = "markdown",
    *,
    digits: int | None = None,
    intervals: bool = False,
    samples: int = SAMPLES,
) -> str:
    """Return the table of what `damlpips score` wrote.

    The best mean of each metric is bold, the second underlined; means that look alike share a place. Where there is one
    method, nothing is marked.

    Args:
        rows: CSV, JSON Lines or Parquet files with a row a pair.
        format: "latex" (with booktabs), "markdown" or "csv"; the last has all digits and neither marks nor notes.
        digits: decimals; None for 2 of decibels, 3 of everything else, and all in CSV.
        intervals: whether 95 % intervals are shown: the bootstrap over references of `report.intervals`.
        samples: of the bootstrap.

    Raises:
        ScoringError: a file that cannot be read, is no table of rows or has none; a pair that comes twice.
        ValueError: an unknown format, or digits out of range.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> header = "reference,distorted,score,metric,backbone,method,sha256,reference_sha256,weights,options,error"
        >>> with TemporaryDirectory() as folder:
        ...     file = Path(folder) / "scores.csv"
        ...     _ = file.write_text(f"{header}\\nr.png,d.png,0.5,lpips,alex,a_b,,,alex:1,heads=v0.1,\\n")
        ...     print(render_table([file]).splitlines()[2])
        | a_b | 0.500 |
    """
    if format not in FORMATS:
        raise ValueError(f"format: expected one of {', '.join(FORMATS)}, got {format!r}")
    if digits is not None and not 0 <= digits <= MOST_DIGITS:
        raise ValueError(f"digits: expected 0 to {MOST_DIGITS}, got {digits}")
    if not rows:
        raise ScoringError("expected a file of rows, got none")
    found = Scores.of_files([Path(path) for path in rows]).compared(samples=samples)
    return FORMATS[format](found, Layout(digits, intervals, samples))


def table(found: Comparison, layout: Layout) -> PaperTable:
    """Return what a table shows of a comparison."""
    columns = [_entries(column, layout) for column in found.columns]
    heads = ((heading(c.name), printable(c.said.unit), c.said.arrow) for c in found.columns)
    rows = ((printable(name), tuple(column[k] for column in columns)) for k, name in enumerate(found.methods))
    return PaperTable(tuple(heads), tuple(rows), tuple(_notes(found, layout)))


def _entries(column: MetricColumn, layout: Layout) -> list[Entry]:
    decimals = layout.digits
    if decimals is None:
        decimals = OF_DECIBELS if column.said.unit == "dB" else OF_OTHERS

    def shown(value: float) -> str:
        return NONE if isnan(value) else f"{value + 0.0:.{decimals}f}"

    values = [cell.mean.value for cell in column.cells]
    texts = [shown(value) for value in values]
    ranks = places(values, texts, lower_is_closer=column.said.lower_is_closer)
    ends = [", ".join(map(shown, (cell.mean.low, cell.mean.high))) for cell in column.cells]
    return [
        Entry(text, place, between if layout.intervals and not isnan(cell.mean.low) else "")
        for text, place, between, cell in zip(texts, ranks, ends, column.cells, strict=True)
    ]


def _notes(found: Comparison, layout: Layout) -> Iterator[str]:
    one = len(found.methods) == 1
    yield (
        f"Means over {_counted(found.pairs, 'pair')} with {_counted(found.contents, 'reference')}"
        f"{'' if one else '; the best of each metric is bold, the second underlined'}."
    )
    if layout.intervals:
        if any(not isnan(cell.mean.low) for column in found.columns for cell in column.cells):
            yield f"In brackets 95 % intervals: a bootstrap over references, {layout.samples} samples."
        else:
            yield "There are no intervals: they need two references."
    for column in found.columns:
        yield f"{heading(column.name)}: {printable(column.said.description)}."
    for column in found.columns:
        if column.said.name in NAMES:
            counts = ", ".join(sorted({f"{cell.count:,}" for cell in column.cells if cell.count})) or "no"
            lacking = ", ".join(
                printable(m) for m, cell in zip(found.methods, column.cells, strict=True) if cell.failed
            )
            yield (
                f"{heading(column.name)} is of whole sets of {counts} images, on whose number it depends"
                f"{f'; that of {lacking} could not be computed' if lacking else ''}."
            )
            continue
        failed = [
            f"{cell.failed} of {cell.failed + cell.count} of {printable(method)}"
            for method, cell in zip(found.methods, column.cells, strict=True)
            if cell.failed
        ]
        if failed:
            yield f"Pairs without {heading(column.name)}, which count in no mean of it: {', '.join(failed)}."


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def in_latex(text: str) -> str:
    """Return a text as LaTeX sets it.

    Example:
        >>> print(in_latex("a_b&c"))
        a\\_b\\&c
    """
    return "".join(LATEX.get(character, character) for character in text)


def _latex(found: Comparison, layout: Layout) -> str:
    whole = table(found, layout)
    arrows = {"\u2193": r"$\downarrow$", "\u2191": r"$\uparrow$"}
    marks = {1: r"\textbf{%s}", 2: r"\underline{%s}"}
    heads = [
        " ".join((in_latex(name), *([f"({in_latex(unit)})"] if unit else []), arrows[arrow]))
        for name, unit, arrow in whole.heads
    ]
    lines = [" & ".join(("Method", *heads)) + r" \\"]
    body = [
        " & ".join(
            (
                # LaTeX takes a bracket or a star behind the end of a line for its own
                f"{'{}' if name.startswith(('[', '*')) else ''}{in_latex(name)}",
                *(
                    marks.get(entry.place, "%s") % entry.text
                    + (rf" {{\scriptsize [{entry.interval}]}}" if entry.interval else "")
                    for entry in entries
                ),
            )
        )
        + r" \\"
        for name, entries in whole.rows
    ]
    notes = [in_latex(note) for note in whole.notes]
    return "\n".join(
        (
            r"% \usepackage{booktabs}",
            rf"\begin{{tabular}}{{l{'c' * len(heads)}}}",
            *(r"\toprule", *lines, r"\midrule", *body, r"\bottomrule"),
            r"\end{tabular}",
            "",
            r"\smallskip",
            *(r"{\footnotesize", *notes, r"\par}"),
            "",
        )
    )


def _markdown(found: Comparison, layout: Layout) -> str:
    whole = table(found, layout)
    marks = {1: "**%s**", 2: "<u>%s</u>"}

    def cell(text: str) -> str:
        return re.sub(r"([\\|*<>`])", r"\\\1", text)

    heads = [f"{cell(name)}{f' ({cell(unit)})' if unit else ''} {arrow}" for name, unit, arrow in whole.heads]
    lines = [["method", *heads], ["---", *["---:"] * len(heads)]]
    for name, entries in whole.rows:
        shown = (
            marks.get(entry.place, "%s") % entry.text + (f" [{entry.interval}]" if entry.interval else "")
            for entry in entries
        )
        lines.append([cell(name), *shown])
    notes = ("- " + re.sub(r"([\\*<>`])", r"\\\1", note) for note in whole.notes)
    return "\n".join((*(f"| {' | '.join(line)} |" for line in lines), "", *notes, ""))


def _csv(found: Comparison, layout: Layout) -> str:
    def shown(value: float) -> str:
        return "" if isnan(value) else repr(value) if layout.digits is None else f"{value:.{layout.digits}f}"

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    ends = ("low", "high") if layout.intervals else ()
    writer.writerow(
        ["method", "pairs", *(n for c in found.columns for n in (c.name, *(f"{c.name} {e}" for e in ends)))]
    )
    for k, method in enumerate(found.methods):
        count = max(column.cells[k].count for column in found.columns if column.said.name not in NAMES)
        row: list[object] = [printable(method), count]
        for column in found.columns:
            mean = column.cells[k].mean
            row += [shown(getattr(mean, name)) for name in ("value", *ends)]
        writer.writerow(row)
    return text.getvalue()


FORMATS: dict[str, Callable[[Comparison, Layout], str]] = {"latex": _latex, "markdown": _markdown, "csv": _csv}
