"""Results as text: tables of cells for people, CSV and JSON in full precision for programs."""

import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from damlpips.checks import one_of
from damlpips.evaluation.agreement import CHALLENGE, Agreement, Mean, Result
from damlpips.evaluation.figures import FIGURES, breakdown
from damlpips.evaluation.judgements import JudgedSet
from damlpips.files import spelled
from damlpips.report.intervals import Difference, Interval
from damlpips.version import __version__

NOTHING = "-"
# what a set's ceilings are called as rows
CEILINGS = {"human": "one observer", "majority": "most observers"}
# what the tables of all figures can have rows for
PARTS = ("set", "kind", "content")

CSV_COLUMNS = (
    *("metric", "set", "by", "part", "judgements", "figure", "value", "low", "high"),
    *("baseline", "difference", "difference_low", "difference_high", "p"),
)


@dataclass(frozen=True)
class Table:
    """A table of cells, and notes below it; the first `labels` columns say what the row is, the others hold numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    labels: int = 1
    notes: tuple[str, ...] = ()


def all_tables(agreement: Agreement, *, by: str | None = None) -> list[Table]:
    """Return the tables that have something to show; with `by`, one of `PARTS`, those of all figures, too."""
    found = []
    if agreement.sets:
        found.append(main_table(agreement))
        if agreement.baseline is not None:
            found.append(difference_table(agreement))
        if by is not None:
            found += part_tables(agreement, by)
    if agreement.challenge:
        found.append(challenge_table(agreement))
    return found


def main_table(agreement: Agreement) -> Table:
    """Return the headline figures: a row a metric, then the ceilings; a column a set, then their mean."""

    def of_set(result: Result) -> str:
        return _interval(result.figures.headline)

    rows = [_over_sets(agreement, name, of_set, lambda mean: _interval(mean.figure)) for name in agreement.metrics]
    ceilings = [_ceilings(agreement, judged) for judged in agreement.sets]
    for name, label in CEILINGS.items():
        if any(name in of for of in ceilings):
            rows.append((label, *(_number(of.get(name, math.nan)) for of in ceilings), NOTHING))
    return _with_means(agreement, "Agreement with people (95 % interval); higher is better", rows)


def difference_table(agreement: Agreement) -> Table:
    """Return how far each metric's headline figures exceed the baseline's, with p values."""

    def of_set(result: Result) -> str:
        return _difference(result.differences.get(result.figures.headline_name))

    metrics = [name for name in agreement.metrics if name != agreement.baseline]
    rows = [_over_sets(agreement, name, of_set, lambda mean: _difference(mean.difference)) for name in metrics]
    title = f"Difference to {agreement.baseline} (95 % interval), two-sided p; above 0 is better"
    return _with_means(agreement, title, rows)


def _over_sets(
    agreement: Agreement, metric: str, of_set: Callable[[Result], str], of_mean: Callable[[Mean], str]
) -> tuple[str, ...]:
    """Return a metric's row: a cell a set, and that of the mean."""
    results = [agreement.results.get((metric, judged.name)) for judged in agreement.sets]
    mean = agreement.means.get(metric)
    return (metric, *(of_set(r) if r else NOTHING for r in results), of_mean(mean) if mean else NOTHING)


def _with_means(agreement: Agreement, title: str, rows: list[tuple[str, ...]]) -> Table:
    """Return a table with a column a set, and the means unless there are none."""
    columns = ("metric", *(f"{s.name} ({_headline(s)})" for s in agreement.sets), "mean")
    kept = len(columns) if agreement.means else len(columns) - 1
    return Table(title, columns[:kept], tuple(row[:kept] for row in rows), notes=_without_interval(agreement))


def _without_interval(agreement: Agreement) -> tuple[str, ...]:
    """Return why some sets have no interval, and what becomes of them in that of the mean."""
    names = [judged.name for judged in agreement.sets if len(set(judged.contents)) == 1]
    if not names:
        return ()
    why = f"No interval for {', '.join(names)}: all images are of one content, an interval needs two."
    if not agreement.means:
        return (why,)
    if len(names) == len(agreement.sets):
        return (f"{why} Nor is there one for the mean.",)
    return (f"{why} In that of the mean {'it is' if len(names) == 1 else 'they are'} held fixed.",)


def part_tables(agreement: Agreement, by: str) -> list[Table]:
    """Return a table of all figures for each set.

    By `set` it has a row for each metric, with intervals; by `kind` of distortion or `content` a row for each metric
    and part, without.
    """
    one_of("by", by, PARTS)
    tables = []
    for judged in agreement.sets:
        results = [r for (_, name), r in agreement.results.items() if name == judged.name]
        names = tuple(FIGURES[judged.kind_of_judgement].figures)
        if by == "set":
            rows = [(r.metric, *(_interval(r.figures.figures[name]) for name in names)) for r in results]
            columns: tuple[str, ...] = ("metric", *names)
        else:
            rows = [
                (r.metric, label or NOTHING, str(part.judgements), *(_number(part.figures[name]) for name in names))
                for r in results
                for label, part in breakdown(judged, r.distances, by).items()
            ]
            columns = ("metric", by, "n", *names)
        counts = _count(len(judged.judgements), "judgement"), _count(len(set(judged.contents)), "content")
        tables.append(Table(f"{judged.name}: {' of '.join(counts)}", columns, tuple(rows), 1 if by == "set" else 2))
    return tables


def challenge_table(agreement: Agreement) -> Table:
    """Return how many cases of the challenge set each metric passes, a column a kind of case."""
    kinds = list(dict.fromkeys(kind for rates in agreement.challenge.values() for kind in rates))
    rows = [
        (metric, *(f"{rates[kind].successes} of {rates[kind].cases}" for kind in kinds))
        for metric, rates in agreement.challenge.items()
    ]
    return Table("Challenge: cases in which the metric finds closer what people do", ("metric", *kinds), tuple(rows))


def as_markdown(table: Table) -> str:
    """Return a table as Markdown, its columns aligned."""
    header = tuple(_cell(column) for column in table.columns)
    rows = [tuple(_cell(cell) for cell in row) for row in table.rows]
    widths = [max(3, *(len(row[k]) for row in (header, *rows))) for k in range(len(header))]
    rule = tuple("-" * w if k < table.labels else "-" * (w - 1) + ":" for k, w in enumerate(widths))

    def line(cells: tuple[str, ...]) -> str:
        padded = [
            c.ljust(w) if k < table.labels else c.rjust(w) for k, (c, w) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |\n"

    notes = "".join(f"\n{' '.join(note.split())}\n" for note in table.notes)
    return f"{table.title}\n\n{''.join(map(line, (header, rule, *rows)))}{notes}"


def as_csv(agreement: Agreement, *, by: str | None = None) -> str:
    """Return a CSV table with a header and a row a figure, in full precision; a value that there is none of is empty.

    With `by`, `kind` or `content`, it has the figures of each, too.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(_records(agreement, by))
    return text.getvalue()


def as_json(agreement: Agreement, *, by: str | None = None) -> str:
    """Return a JSON object with everything that a figure depends on, and the rows of `as_csv` as objects."""
    sets = [
        {
            "name": spelled(judged.name),
            "figure": _headline(judged),
            "judgements": len(judged.judgements),
            "contents": len(set(judged.contents)),
            "ceilings": _ceilings(agreement, judged),
        }
        for judged in agreement.sets
    ]
    found = {
        "version": __version__,
        "samples": agreement.samples,
        "seed": agreement.seed,
        "shorter_side": agreement.shorter_side,
        "metrics": [{"name": name, "identity": identity} for name, identity in agreement.metrics.items()],
        "sets": sets,
        "figures": list(_records(agreement, by)),
        "failures": [
            {"metric": f.metric, "set": spelled(f.judged_set), "reason": spelled(f.reason)} for f in agreement.failures
        ],
    }
    return json.dumps(found, indent=2, allow_nan=False) + "\n"


def _records(agreement: Agreement, by: str | None) -> Iterator[dict[str, Any]]:
    """Yield the rows of the CSV table; a figure that is not defined is None."""
    for row in _rows(agreement, by):
        yield {name: _written(value) for name, value in row.items()}


def _written(value: Any) -> Any:
    if isinstance(value, str):
        return spelled(value)
    return None if isinstance(value, float) and math.isnan(value) else value


def _rows(agreement: Agreement, by: str | None) -> Iterator[dict[str, Any]]:
    for (metric, judged), result in agreement.results.items():
        of_set = {"metric": metric, "set": judged, "by": "set", "part": "", "judgements": result.figures.judgements}
        for name, figure in result.figures.figures.items():
            differences = _difference_columns(agreement.baseline, result.differences.get(name))
            yield {**of_set, "figure": name, **_interval_columns(figure), **differences}
        parts = breakdown(result.judged_set, result.distances, by) if by in ("kind", "content") else {}
        for label, part in parts.items():
            of_part = {**of_set, "by": by, "part": label, "judgements": part.judgements}
            for name, value in part.figures.items():
                yield {**of_part, "figure": name, "value": value}
    for metric, mean in agreement.means.items():
        of_mean = {"metric": metric, "set": "", "by": "mean", "part": "", "figure": "mean"}
        differences = _difference_columns(agreement.baseline, mean.difference)
        yield {**of_mean, **_interval_columns(mean.figure), **differences}
    for metric, rates in agreement.challenge.items():
        for kind, rate in rates.items():
            of_case = {"metric": metric, "set": CHALLENGE, "by": "kind", "part": kind, "judgements": rate.cases}
            yield {**of_case, "figure": "success", "value": rate.share}


def _interval_columns(figure: Interval) -> dict[str, float]:
    return {"value": figure.value, "low": figure.low, "high": figure.high}


def _difference_columns(baseline: str | None, difference: Difference | None) -> dict[str, Any]:
    if difference is None:
        return {}
    ends = {"difference_low": difference.low, "difference_high": difference.high}
    return {"baseline": baseline, "difference": difference.value, **ends, "p": difference.p}


def _headline(judged: JudgedSet) -> str:
    return next(iter(FIGURES[judged.kind_of_judgement].figures))


def _ceilings(agreement: Agreement, judged: JudgedSet) -> Mapping[str, float]:
    """Return a set's ceilings, which every result on it has."""
    results = (agreement.results.get((metric, judged.name)) for metric in agreement.metrics)
    return next((r.figures.ceilings for r in results if r is not None), {})


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _number(value: float) -> str:
    return NOTHING if math.isnan(value) else f"{value:.3f}"


def _interval(figure: Interval) -> str:
    ends = "" if math.isnan(figure.low) else f" ({figure.low:.2f} to {figure.high:.2f})"
    return f"{_number(figure.value)}{ends}"


def _difference(difference: Difference | None) -> str:
    if difference is None or math.isnan(difference.value):
        return NOTHING
    if math.isnan(difference.low):
        return f"{difference.value:+.3f}"
    p = "p < 0.001" if difference.p < 0.001 else f"p {difference.p:.3f}"
    return f"{difference.value:+.3f} ({difference.low:+.2f} to {difference.high:+.2f}), {p}"


def _cell(text: str) -> str:
    """Return a text that breaks neither a cell nor a row."""
    return " ".join(text.split()).replace("|", "\\|")
