"""`damlpips score`: image files in, a table of distances out."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from damlpips.cli.model import Metric, bad_input, build, resizing
from damlpips.cli.options import check_outputs, find_device, print_table, to_standard_output, write
from damlpips.cli.program import app, printable

if TYPE_CHECKING:
    from damlpips.pairs import Pair
    from damlpips.scoring import Score

# Fewer pairs than this are scored before a reader has found the bar.
PAIRS_WORTH_A_BAR = 16

EXAMPLES = """[bold]Examples[/bold]

[cyan]damlpips score original.png compressed.jpg[/cyan]

[cyan]damlpips score original.png versions/ --csv scores.csv[/cyan]

[cyan]damlpips score originals/ restored/ --metric lpips --json - > scores.json[/cyan]

[cyan]damlpips score originals/ restored/ --pairs pairs.csv --csv scores.csv[/cyan]"""


@app.command(epilog=EXAMPLES)
def score(
    reference: Annotated[Path, typer.Argument(metavar="REF", help="The reference image, or a folder of them.")],
    distorted: Annotated[
        Path,
        typer.Argument(
            metavar="DIST", help="The image to judge, or a folder: paired by name with REF's, or all against one REF."
        ),
    ],
    pairs: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Score the pairs of a CSV file, in its order: a header with the columns reference and distorted"
            " (others are ignored), each a path within the folders REF and DIST.",
        ),
    ] = None,
    metric: Annotated[Metric, typer.Option(help="What to compute.")] = Metric.DAMLPIPS,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="The network: nano (embedded), alex, vgg, squeeze, vgg19, resnet50, convnext_tiny or efficientnet_b0."
            " Default: nano for damlpips, alex for lpips.",
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The network's weights, .pth or .safetensors. Default: found or downloaded."),
    ] = None,
    heads: Annotated[
        str | None,
        typer.Option(metavar="HEADS", help="LPIPS's learned weights: v0.1 (default), v0.0, uniform, or a file."),
    ] = None,
    resize: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="'reference' brings DIST to REF's size; a number scales both to that shorter side. Default: off,"
            " images of different sizes are an error.",
        ),
    ] = None,
    tile: Annotated[
        int | None,
        typer.Option(
            metavar="PIXELS", help="Compare larger images tile by tile, in memory that does not grow with them: 1024."
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(metavar="DEVICE", help="auto (CUDA if there is one), cpu, cuda or cuda:N.")
    ] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="The most pairs scored at once.")] = 8,
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the scores as CSV; '-' for standard output.")
    ] = None,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the scores as JSON; '-' for standard output.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print no table and no progress bar.")] = False,
) -> None:
    """Score images against a reference: two files, two folders, one file and a folder, or a list of pairs."""
    files = {"--csv": csv, "--json": json}
    check_outputs(files)
    with bad_input():
        from damlpips import scoring
        from damlpips.pairs import find_pairs

        found = find_pairs(reference, distorted, pairs)
        place = find_device(device)
        model = build(metric, backbone, weights=weights, heads=heads, resize=resizing(resize), tile=tile)
        model = model.to(place).load()
        results = scoring.score_pairs(model, found, batch_size=batch_size, device=place)
        scores = list(_with_progress(results, len(found), shown=not quiet))
        names = {"metric": metric.value, "backbone": model.source.name}
        for option, as_text in {"--csv": scoring.as_csv, "--json": scoring.as_json}.items():
            if (file := files[option]) is not None:
                write(option, file, as_text(scores, **names))
        if not quiet and not to_standard_output(files):
            _print_table(scores, scoring.mean(scores), f"{metric.value} ({model.source.name}), lower is closer")


def _with_progress(scores: "Iterable[Score]", total: int, *, shown: bool) -> "Iterator[Score]":
    console = Console(stderr=True)
    hidden = not (shown and console.is_terminal and total >= PAIRS_WORTH_A_BAR)
    with Progress(console=console, transient=True, disable=hidden) as progress:
        yield from progress.track(scores, total=total, description="scoring")


def _print_table(scores: "list[Score]", mean: float, title: str) -> None:
    table = Table(title=title, box=box.SIMPLE, min_width=len(title) + 2, title_justify="left")
    table.add_column("image", overflow="fold")
    table.add_column("score", justify="right", no_wrap=True)
    for number, s in enumerate(scores, 1):
        table.add_row(_name(s.pair), _number(s.score), end_section=number == len(scores))
    if len(scores) > 1:
        table.add_row("mean", _number(mean))
    print_table(table)


def _name(pair: "Pair") -> Text:
    """Return a file's name as text, so that brackets are no markup."""
    return Text(printable(pair.name))


def _number(value: float) -> str:
    """Return a score with at least four significant digits."""
    return f"{value:.6f}" if value == 0 or value >= 1e-3 else f"{value:.4g}"
