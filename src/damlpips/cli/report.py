"""`damlpips report`: rows of scores in, one HTML page out."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn

from damlpips.cli.model import DeviceOption, bad_input
from damlpips.cli.options import check_installed, check_outputs, find_device, progress_bar, write
from damlpips.cli.program import app, fail
from damlpips.files import spelled

EXAMPLES = """[bold]Examples[/bold]

[cyan]damlpips score originals/ --method ours=ours/ --method theirs=theirs/ -o scores.csv[/cyan]
[cyan]damlpips report scores.csv -o report.html[/cyan]

[cyan]damlpips report damlpips.parquet lpips.parquet --pairs 10 --title "Denoisers"[/cyan]

[cyan]damlpips report scores.csv --images /data/run-7 --no-maps[/cyan]"""


@app.command("report", epilog=EXAMPLES)
def report(
    rows: Annotated[
        list[Path],
        typer.Argument(metavar="ROWS...", help="What damlpips score wrote: .csv, .jsonl or .parquet, one or more."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The page; '-' for standard output.")] = Path(
        "report.html"
    ),
    title: Annotated[str, typer.Option(metavar="TEXT", help="The page's title.")] = "Image comparison",
    pairs: Annotated[
        int, typer.Option(metavar="K", min=0, max=1000, help="Show the best and the worst K pairs of each method.")
    ] = 6,
    side: Annotated[
        int, typer.Option(metavar="PIXELS", min=16, max=8192, help="Pictures on the page have at most this side.")
    ] = 480,
    images: Annotated[
        Path, typer.Option(metavar="DIR", help="Where relative paths in ROWS start. Default: the current folder.")
    ] = Path(),
    maps: Annotated[bool, typer.Option("--maps/--no-maps", help="Whether to compute heat maps.")] = True,
    weights: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A file that score had as --weights, for heat maps. May be repeated."),
    ] = None,
    heads: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A file that score had as --heads, for heat maps. May be repeated."),
    ] = None,
    device: DeviceOption = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing.")] = False,
) -> None:
    """Make one HTML page of scores: methods with intervals, how scores are spread, the best and worst pairs.

    The page is one file, which loads nothing from anywhere. Nothing is downloaded to make it; heat maps are drawn with
    the weights of the scores or not at all, and the page says what is missing and why.
    """
    check_installed("report", "report", ("jinja2", "matplotlib", "numpy", "scipy"))
    check_outputs({"--out": out})
    if any(out.exists() and path.exists() and out.samefile(path) for path in rows):
        fail(f"--out {out}: is one of the files of rows")
    if not images.is_dir():
        fail(f"--images {images}: no such folder")
    for option, files in (("--weights", weights), ("--heads", heads)):
        for file in files or []:
            if not file.is_file():
                fail(f"{option} {file}: no such file")
    with bad_input():
        from damlpips.report.page import render_report

        with _progress(shown=not quiet) as progress:
            page = render_report(
                rows,
                title=title,
                pairs=pairs,
                side=side,
                images=images,
                maps=maps,
                weights=weights or [],
                heads=heads or [],
                device=find_device(device),
                progress=progress,
            )
    write("--out", out, page)
    if not quiet and out != Path("-"):
        typer.echo(spelled(f"{out}: {_spelled(len(page.encode()))}"))


@contextmanager
def _progress(*, shown: bool) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that moves a progress bar on stderr."""
    with progress_bar(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), shown=shown) as bar:
        task = bar.add_task("drawing pairs", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _spelled(count: int) -> str:
    """Return a number of bytes as text."""
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"
