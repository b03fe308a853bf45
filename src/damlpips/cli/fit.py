"""`damlpips fit`: choices between two images, or ratings, in; heads of LPIPS out, and perhaps a network."""

import os
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from damlpips.calibration import recipe as published
from damlpips.calibration.recipe import DEFAULT_PRECISION, LOSSES, PRECISIONS, VARIANTS, Recipe
from damlpips.cli.agree import KNOWN_LAYOUTS, load_sets
from damlpips.cli.model import DeviceOption, bad_input, in_options, starting
from damlpips.cli.options import check_installed, check_outputs, find_device, progress_bar
from damlpips.cli.program import app, complain, fail
from damlpips.evaluation.datasets import DatasetError
from damlpips.evaluation.datasets.layouts import AUTO
from damlpips.files import reason
from damlpips.nets.table import BACKBONES

if TYPE_CHECKING:
    from damlpips.calibration import Fitted
    from damlpips.evaluation.judgements import JudgedSet
    from damlpips.report.intervals import Difference, Interval

EXAMPLES = """[bold]Examples[/bold]

[cyan]damlpips fit dataset/2afc/train --backbone alex -o heads.safetensors[/cyan]

[cyan]damlpips fit choices.csv --backbone nano --loss likelihood --learning-rate 0.01 -o heads.safetensors[/cyan]

[cyan]damlpips fit dataset/2afc/train --variant tune --workers 4 --device cuda -o tuned.safetensors[/cyan]

[cyan]damlpips score REF DIST --metric lpips --backbone alex --heads heads.safetensors[/cyan]

Exit status: 0; 2 for bad input; 130 when interrupted: with --checkpoints the same
command goes on from the last epoch."""


Variant = Enum("Variant", {value: value for value in VARIANTS}, type=str)  # type: ignore[misc]
Loss = Enum("Loss", {value: value for value in LOSSES}, type=str)  # type: ignore[misc]
Precision = Enum("Precision", {value: value for value in PRECISIONS}, type=str)  # type: ignore[misc]
DEFAULT = Recipe()


@app.command(epilog=EXAMPLES)
def fit(
    sets: Annotated[
        list[Path], typer.Argument(metavar="SET...", help="Judged sets of choices or ratings: folders or files.")
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE.safetensors",
            help="Where the heads go; beside it a card, FILE.json, and a learned network, FILE.weights.safetensors.",
        ),
    ],
    variant: Annotated[
        Variant,
        typer.Option(
            help="lin: the heads, on a network that stays as it is; tune: the network as well; scratch: the same, from"
            " weights at random."
        ),
    ] = Variant[DEFAULT.variant],
    backbone: Annotated[
        str, typer.Option(metavar="NAME", help=f"{', '.join(BACKBONES)}.", autocompletion=starting(BACKBONES))
    ] = "alex",
    weights: Annotated[Path | None, typer.Option(metavar="FILE", help="The network's weights.")] = None,
    heads: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="What the new heads are compared with: uniform, v0.1 or a file.")
    ] = "uniform",
    layout: Annotated[str, typer.Option(metavar="NAME", help=f"{', '.join(KNOWN_LAYOUTS)}.")] = AUTO,
    loss: Annotated[
        Loss, typer.Option(help="ranking: a small network between distances and votes; likelihood: none.")
    ] = Loss[DEFAULT.loss],
    learning_rate: Annotated[float, typer.Option(help="Of Adam.")] = published.LEARNING_RATE,
    epochs: Annotated[int, typer.Option(help="At the full learning rate.")] = published.EPOCHS,
    decay_epochs: Annotated[int, typer.Option(help="With one that falls.")] = published.DECAY_EPOCHS,
    batch: Annotated[int, typer.Option(help="Choices in a step.")] = published.BATCH,
    dropout: Annotated[float, typer.Option(help="The share of differences left out in training.")] = published.DROPOUT,
    swap: Annotated[bool, typer.Option("--swap", help="The images of a choice change places at random.")] = False,
    held_out: Annotated[float, typer.Option(help="The share of contents held out.")] = published.HELD_OUT,
    rated_pairs: Annotated[
        int, typer.Option(help="Of ratings, the most choices that are made between the images of a content.")
    ] = published.RATED_PAIRS,
    seed: Annotated[int, typer.Option(help="The same seed gives the same heads.")] = 0,
    cache: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Keep what lin computes of the images, for the next fit.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read images; 0: none beside this one.")] = 0,
    checkpoints: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Keep each epoch; go on from the last one if there is any.")
    ] = None,
    log: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Write the loss of each batch to FOLDER: metrics.csv, and for TensorBoard."
        ),
    ] = None,
    device: DeviceOption = "auto",
    devices: Annotated[
        int, typer.Option(metavar="N", help="Learn in N processes, one a GPU, or all of them on the CPU.")
    ] = 1,
    precision: Annotated[
        Precision, typer.Option(help="Lightning's names; mixed: the parameters stay in float32.")
    ] = Precision[DEFAULT_PRECISION],
    samples: Annotated[int, typer.Option(min=1, help="Bootstrap samples behind each interval.")] = 1000,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print no figures and no progress bar.")] = False,
) -> None:
    """Learn LPIPS, its heads or its network, too, from choices between two images (2AFC) or ratings, as published."""
    check_outputs({"--out": out})
    check_installed("fit", "fit", ("scipy", "numpy", "lightning"))
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        fail("torchrun: expected one process, which starts the others: leave torchrun out, and use --devices N")
    if out.suffix != ".safetensors":
        fail(f"--out {out}: expected a name that ends in .safetensors")
    if backbone not in BACKBONES:
        fail(f"--backbone {backbone}: expected {', '.join(BACKBONES)}")
    if variant.value != "lin" and cache is not None:
        fail(f"--cache {cache}: only --variant lin keeps something of the images")
    if variant.value == "scratch" and weights is not None:
        fail(f"--weights {weights}: --variant scratch starts from weights at random")
    named = ("learning_rate", "epochs", "decay_epochs", "batch", "dropout", "held_out", "rated_pairs", "swap", "seed")
    given = locals()
    try:
        recipe = Recipe(variant=variant.value, loss=loss.value, **{name: given[name] for name in named})
    except ValueError as error:
        fail(in_options(str(error), given))
    with bad_input():
        from damlpips.calibration import fit as fitted_to
        from damlpips.calibration import save
        from damlpips.models.lpips import LPIPS

        try:
            judged = _used(load_sets(sets, layout))
            metric = LPIPS(backbone, heads=heads, weights=None if weights is None else str(weights))
            metric = metric.to(find_device(device))
            columns = (TextColumn("reading"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            with progress_bar(*columns, shown=not quiet) as bar:
                task = bar.add_task("")

                def move(done: int, total: int) -> None:
                    bar.update(task, completed=done, total=total)
                    if done == total:  # Lightning's own bar follows
                        bar.stop()

                found = fitted_to(
                    *(judged, metric, recipe),
                    cache=cache,
                    workers=workers,
                    checkpoints=checkpoints,
                    devices=devices,
                    precision=precision.value,
                    log=log,
                    samples=samples,
                    progress=move,
                    shown=not quiet and sys.stdout.isatty(),
                )
        except (DatasetError, ValueError) as error:
            fail(in_options(str(error), given))
        try:
            save(found, out)
        except OSError as error:
            fail(f"--out {out}: {reason(error)}")
    if not quiet:
        _print(found, out)


def _used(sets: "list[JudgedSet]") -> "list[JudgedSet]":
    """Return the sets that can be learned from; say of the others that they are left out."""
    from damlpips.calibration.choices import USED
    from damlpips.evaluation.judgements import HELD

    wanted = " or ".join(HELD[kind] for kind in USED)
    for judged in sets:
        if judged.kind_of_judgement not in USED:
            complain(f"{judged.name} is left out: {judged.what}, expected {wanted}")
    found = [judged for judged in sets if judged.kind_of_judgement in USED]
    if not found:
        fail(f"no {wanted} to learn from")
    return found


def _print(found: "Fitted", out: Path) -> None:
    from damlpips.calibration.weights import weights_path

    choices, contents = found.learned_from
    if found.network is not None:
        typer.echo(f"{weights_path(out)}: the network")
    typer.echo(f"{out}: {found.backbone}, learned from {choices} choices of {contents} contents")
    typer.echo(
        f"{found.after.headline_name} of {found.after.judgements} choices of {found.after.contents} contents held out:"
    )
    _print_change(found.before.headline, found.after.headline, found.difference)
    for name, ceiling in found.after.ceilings.items():
        typer.echo(f"  {name:<10} {ceiling:.3f}")
    # of one set of choices it is the same again
    if found.mean is None and all(
        outcome.after.headline_name == found.after.headline_name for outcome in found.of_sets
    ):
        return
    for outcome in found.of_sets:
        after = outcome.after
        typer.echo(
            f"{after.headline_name} of {after.name}, {after.judgements} judgements of {after.contents} contents:"
        )
        _print_change(outcome.before.headline, after.headline, outcome.difference)
    if found.mean is not None:
        typer.echo(f"mean of {len(found.of_sets)} sets:")
        _print_change(found.mean.before, found.mean.after, found.mean.difference)


def _print_change(before: "Interval", after: "Interval", difference: "Difference") -> None:
    for name, figure in (("before", before), ("after", after)):
        typer.echo(f"  {name:<10} {figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})")
    d = difference
    typer.echo(f"  {'difference':<10} {d.value:+.3f} ({d.low:+.3f} to {d.high:+.3f}), p = {d.p:.2g}")
