"""`damlpips agree`: judged image sets in, a table of how well metrics agree with people out."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from damlpips.cli.options import check_installed, check_outputs, find_device, progress_bar, to_standard_output, write
from damlpips.cli.program import app, complain, fail
from damlpips.evaluation.datasets import LAYOUTS, DatasetError, load
from damlpips.evaluation.datasets.layouts import AUTO
from damlpips.files import reason, replacing, spelled

if TYPE_CHECKING:
    import torch

    from damlpips.evaluation import tables
    from damlpips.evaluation.agreement import Agreement
    from damlpips.evaluation.judgements import JudgedSet
    from damlpips.evaluation.named import NamedMetric

# Something is missing from the tables.
INCOMPLETE = 3
KNOWN_LAYOUTS = (AUTO, *LAYOUTS)


class Rows(str, Enum):
    """What the tables of all figures have rows for."""

    SET = "set"
    KIND = "kind"
    CONTENT = "content"


class Format(str, Enum):
    """The formats of plots."""

    PDF = "pdf"
    SVG = "svg"
    PNG = "png"


EXAMPLES = """[bold]Examples[/bold]

[cyan]damlpips agree tid2013/ kadid10k/ --metric damlpips --metric lpips-alex[/cyan]

[cyan]damlpips agree my_scores.csv --metric damlpips --metric piq:ssim --baseline piq:ssim[/cyan]

[cyan]damlpips agree tid2013/ --shorter-side 256 --by kind --csv figures.csv --plot plots/[/cyan]

[cyan]damlpips agree tid2013/ --metric damlpips --metric my_metrics.py:contrast[/cyan]

[cyan]damlpips agree kept_aside/ --metric lpips-alex:heads=heads.safetensors --baseline lpips-alex:spatial[/cyan]

[cyan]damlpips agree --challenge challenge/ --metric damlpips --metric lpips-squeeze[/cyan]

[cyan]damlpips agree --list[/cyan]

Exit status: 0; 2 for bad input, or when no metric could be computed; 3 when some could not, each named on standard
error, and the tables hold the others; 130 when interrupted: the cache keeps what was computed."""


@app.command(epilog=EXAMPLES)
def agree(
    sets: Annotated[
        list[Path] | None,
        typer.Argument(metavar="SET...", help="Judged sets: folders as published, CSV files, or shards."),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A metric, see --list; lpips-BACKBONE:heads=FILE (and ,weights=FILE); or FILE.py:NAME, a callable that"
            " makes one; repeat it for more."
            " Default: damlpips, and lpips-alex where its weights are.",
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Also print how much better each metric is than this one, with p values."),
    ] = None,
    layout: Annotated[
        str,
        typer.Option(metavar="NAME", help=f"How the sets lie on disk: {', '.join(KNOWN_LAYOUTS)}.."),
    ] = AUTO,
    shorter_side: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="PIXELS", help="Average larger images down to this shorter side first. Default: as they are."
        ),
    ] = None,
    by: Annotated[
        Rows | None, typer.Option(help="Also print all figures, a row for each set, kind of distortion or content.")
    ] = None,
    challenge: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Also, or only, count the cases that metrics pass in a challenge set."),
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write all figures as CSV; '-' for standard output.")
    ] = None,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write all figures as JSON; '-' for standard output.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Draw a plot of each set into a folder.")] = None,
    plot_format: Annotated[Format, typer.Option(help="The format of the plots.")] = Format.PDF,
    cache: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where distances are kept between runs. Default: in the user's cache."),
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Keep no distances, use none kept before.")] = False,
    device: Annotated[
        str, typer.Option(metavar="DEVICE", help="auto (CUDA if there is one), cpu, cuda or cuda:N.")
    ] = "auto",
    samples: Annotated[int, typer.Option(min=1, help="Bootstrap samples behind each interval.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Which samples: the same seed gives the same intervals.")] = 0,
    list_names: Annotated[bool, typer.Option("--list", help="List the metrics by name, and exit.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print no table and no progress bar.")] = False,
) -> None:
    """Measure how well metrics agree with people: on mean opinion scores, choices (2AFC), and JND."""
    files = {"--csv": csv, "--json": json}
    check_outputs(files)
    check_installed("agree", "agree", ("scipy", "numpy", "openpyxl", *(["matplotlib"] if plot is not None else [])))
    if list_names:
        from damlpips.evaluation.named import names as known

        for name in known():
            typer.echo(name)
        return
    if not sets and challenge is None:
        fail("expected a judged set, or --challenge FOLDER (see damlpips agree --help)")
    if cache is not None and no_cache:
        fail("--cache and --no-cache: expected one of them")
    if plot is not None and plot.exists() and not plot.is_dir():
        fail(f"--plot {plot}: is a file, expected a folder")
    part = by.value if by is not None else None
    with _bad_input():
        from damlpips.evaluation import agreement
        from damlpips.evaluation import challenge as challenges
        from damlpips.evaluation import tables as texts
        from damlpips.evaluation.cache import DistanceCache
        from damlpips.nets.weights import find_backbone

        judged = load_sets(sets or [], layout)
        cases = challenges.load(challenge) if challenge is not None else []
        chosen = metric or ["damlpips", *(["lpips-alex"] if find_backbone("alex") is not None else [])]
        names = list(dict.fromkeys([*chosen, *([baseline] if baseline else [])]))
        metrics = _build(names, find_device(device))
        keeping: DistanceCache | nullcontext[None] = nullcontext() if no_cache else DistanceCache(cache)
        with keeping as kept, _progress(shown=not quiet) as progress:
            found = agreement.agree(
                *(metrics, judged, cases),
                baseline=baseline,
                cache=kept,
                shorter_side=shorter_side,
                samples=samples,
                seed=seed,
                # the table on the terminal needs no more
                headline_only=not any((csv, json, plot, by is Rows.SET)),
                progress=progress,
            )
        for failure in found.failures:
            complain(f"{failure.metric} is left out of {failure.judged_set}: {failure.reason}")
        if not (found.results or found.challenge):
            fail("no metric could be computed")
        for option, as_text in {"--csv": texts.as_csv, "--json": texts.as_json}.items():
            if (file := files[option]) is not None:
                write(option, file, as_text(found, by=part))
        if plot is not None:
            _draw(found, plot, plot_format.value)
        if not quiet and not to_standard_output(files):
            for table in texts.all_tables(found, by=part):
                _print(table)
    if len(metrics) < len(names) or found.failures:
        raise typer.Exit(INCOMPLETE)


@contextmanager
def _bad_input() -> Iterator[None]:
    """Turn what the package raises for bad input into one message and exit status 2."""
    from damlpips.evaluation.cache import CacheError
    from damlpips.scoring.images import ScoringError

    try:
        yield
    except (ScoringError, DatasetError, CacheError) as error:
        fail(str(error))


def load_sets(paths: Sequence[Path], layout: str) -> "list[JudgedSet]":
    """Return the sets of all paths, with names that tell them apart."""
    if layout not in KNOWN_LAYOUTS:
        fail(f"--layout {layout}: expected {', '.join(KNOWN_LAYOUTS)}")
    found = [(path, judged) for path in dict.fromkeys(paths) for judged in load(path, layout)]
    named = Counter(judged.name for _, judged in found)
    at_path = Counter((path, judged.name) for path, judged in found)

    def name(path: Path, judged: "JudgedSet") -> str:
        # ratings and choices of one name may lie in one folder
        own = judged.name if at_path[path, judged.name] == 1 else f"{judged.name}, {judged.what}"
        return own if named[judged.name] == at_path[path, judged.name] else f"{path}: {own}"

    return [replace(judged, name=name(path, judged)) for path, judged in found]


def _build(names: Sequence[str], device: "torch.device") -> "list[NamedMetric]":
    """Return the metrics that can be built; say of the others why they cannot."""
    from damlpips.evaluation.custom import MetricFileError
    from damlpips.evaluation.named import UnavailableMetricError, UnknownMetricError, build

    metrics = []
    for name in names:
        try:
            metrics.append(build(name, device=device))
        except UnknownMetricError as error:
            fail(f"{error} (see damlpips agree --list)")
        except MetricFileError as error:
            fail(str(error))
        except UnavailableMetricError as error:
            complain(f"left out: {error}")
    if not metrics:
        fail("no metric could be built")
    return metrics


@contextmanager
def _progress(*, shown: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Yield what moves a bar on stderr: it takes what is being done, how many steps are done, and of how many."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with progress_bar(*columns, shown=shown) as bar:
        tasks: dict[str, TaskID] = {}

        def move(doing: str, done: int, total: int) -> None:
            if doing not in tasks:
                # one bar at a time: the one before is full
                for task in tasks.values():
                    bar.update(task, visible=False)
                tasks[doing] = bar.add_task(spelled(doing), total=total)
            bar.update(tasks[doing], completed=done)

        yield move


def _draw(found: "Agreement", folder: Path, suffix: str) -> None:
    """Write one plot for each set, under the set's name."""
    from damlpips.evaluation.plots import render

    taken: set[str] = set()
    for judged in found.sets:
        results = [r for (_, name), r in found.results.items() if name == judged.name]
        if not results:
            continue
        stem = re.sub(r"[^\w.-]+", "-", judged.name).strip(".-") or "set"
        while stem in taken:
            stem += "_"
        taken.add(stem)
        file = folder / f"{stem}.{suffix}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            content = render(results, suffix=suffix)
            with replacing(file) as whole:
                whole.write_bytes(content)
        except OSError as error:
            fail(f"--plot {file}: {reason(error)}")


def _print(table: "tables.Table") -> None:
    """Print a table: on a terminal in as many parts as its width requires, elsewhere as Markdown."""
    from damlpips.evaluation.tables import as_markdown

    console = Console()
    if not console.is_terminal:
        typer.echo("\n".join(map(spelled, as_markdown(table).split("\n"))))
        return
    for part in _fitting(table, console):
        console.print(part)
    for note in table.notes:
        console.print(Text(spelled(note)))


def _fitting(table: "tables.Table", console: Console) -> list[Table]:
    """Return the fewest parts of a table, cut between its columns, that fit the width of the terminal."""
    numbers = range(table.labels, len(table.columns))
    for count in range(len(numbers), 0, -1):
        parts = [_rich(table, numbers[k : k + count]) for k in range(0, len(numbers), count)]
        unlimited = console.options.update(width=10_000)
        if all(Measurement.get(console, unlimited, part).maximum <= console.width for part in parts):
            break
    return parts


def _rich(table: "tables.Table", numbers: Sequence[int]) -> Table:
    """Return the labels and some of the numbers of a table."""
    kept = [*range(table.labels), *numbers]
    part = Table(title=Text(spelled(table.title)), title_justify="left", box=box.SIMPLE)
    for k in kept:
        is_label = k < table.labels
        part.add_column(
            Text(spelled(table.columns[k])),
            justify="left" if is_label else "right",
            overflow="fold",
            no_wrap=not is_label,
        )
    for row in table.rows:
        part.add_row(*(Text(spelled(row[k])) for k in kept))
    return part
