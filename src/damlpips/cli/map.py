"""`damlpips map`: two image files in, a picture of where they differ out."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from damlpips.cli.model import DEFAULT, Chosen, DeviceOption, bad_input, takes_metric
from damlpips.cli.options import (
    READING,
    check_installed,
    check_outputs,
    find_device,
    takes_reading,
)
from damlpips.cli.program import app, fail
from damlpips.files import reason, spelled
from damlpips.scoring.reading import Reading

if TYPE_CHECKING:
    from torch import Tensor

    from damlpips.models.base import PerceptualDistance
    from damlpips.report.figure import Measured

EXAMPLES = """[bold]Examples[/bold]

[cyan]damlpips map original.png compressed.jpg -o map.png[/cyan]

[cyan]damlpips map original.png restored.png --metric lpips --limit 2 -o map.pdf[/cyan]"""


@app.command("map", epilog=EXAMPLES)
@takes_metric
@takes_reading
def draw_map(
    reference: Annotated[Path, typer.Argument(metavar="REF", help="The reference image.")],
    distorted: Annotated[Path, typer.Argument(metavar="DIST", help="The image to judge.")],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="FILE", help="The picture; its ending says the format: .png, .svg, .pdf."),
    ],
    chosen: Chosen = DEFAULT,
    device: DeviceOption = "auto",
    reading: Reading = READING,
    limit: Annotated[
        float | None,
        typer.Option(
            metavar="VALUE",
            help="Where the colour bar ends, so that pictures compare. Default: what 1 % of the places exceed.",
        ),
    ] = None,
    displacement: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A second picture: how far each place has moved. DAMLPIPS of version 2."),
    ] = None,
    dpi: Annotated[int, typer.Option(min=30, max=1200, help="Pixels an inch; a picture is 7 to 11 inches wide.")] = 150,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing.")] = False,
) -> None:
    """Draw two images, where they differ, and what each layer of the network adds to their distance."""
    _check_outputs({"--out": out} | ({} if displacement is None else {"--displacement": displacement}))
    if limit is not None and not 0 < limit < float("inf"):
        fail(f"--limit {limit}: expected a finite number above 0")
    with bad_input():
        model = chosen.build().to(find_device(device)).load()
        if displacement is not None and not getattr(model.definition, "aligns", False):
            fail("--displacement: only DAMLPIPS of version 2 finds how far things moved: use --version 2")
        images, rotated = _read(model, distorted, reference, reading)
        measured = _measured(model, images, distorted, rotated)
    _save(measured, out, distorted=distorted, reference=reference, limit=limit, dpi=dpi)
    if displacement is not None:
        _save_displacement(model, images, displacement, dpi=dpi)
    if not quiet:
        typer.echo(spelled(f"{measured.metric} {measured.score:.6g}, lower is closer: {out}"))


def _check_outputs(files: dict[str, Path]) -> None:
    """Fail now rather than after the images are compared."""
    check_installed("map", "viz", ["matplotlib"])
    from damlpips.report.figure import suffix_of

    for name, file in files.items():
        try:
            suffix_of(file)
        except ValueError as error:
            fail(f"{name} {error}")
    check_outputs(files)
    if len({file.resolve() for file in files.values()}) < len(files):
        fail(f"{' and '.join(files)}: expected two files, got {next(iter(files.values()))} for both")


def _read(
    model: "PerceptualDistance", distorted: Path, reference: Path, reading: Reading
) -> "tuple[list[Tensor], str]":
    """Return both images, on the model's device, and what there is to say of their orientation."""
    from damlpips.scoring.images import read_still
    from damlpips.scoring.orientation import remark

    files = distorted, reference
    stills = [read_still(path, deep=True, reading=reading) for path in files]
    images = [still.pixels.to(model.anchor.device) for still in stills]
    if images[0].dtype != images[1].dtype:  # 8 bits beside more
        images = [image if image.is_floating_point() else image.float() / 255 for image in images]
    return images, remark([(path, still.orientation) for path, still in zip(files, stills, strict=True)])


def _measured(model: "PerceptualDistance", images: "list[Tensor]", distorted: Path, rotated: str) -> "Measured":
    from damlpips.report.figure import measure
    from damlpips.scoring.orientation import explained
    from damlpips.scoring.reading import ScoringError, note

    try:
        measured = measure(model, *images)
    except (ValueError, TypeError) as error:
        raise ScoringError(f"{distorted}: {explained(error, rotated)}") from error
    if rotated:
        note(rotated)
    return measured


def _save_displacement(model: "PerceptualDistance", images: "list[Tensor]", file: Path, *, dpi: int) -> None:
    from damlpips.models.damlpips import DAMLPIPS
    from damlpips.report.arrows import plot_displacement
    from damlpips.report.figure import save

    assert isinstance(model, DAMLPIPS)  # checked with the options
    try:
        save(plot_displacement(model, *images), file, dpi=dpi)
    except OSError as error:
        fail(f"--displacement {file}: {reason(error)}")


def _save(measured: "Measured", out: Path, *, distorted: Path, reference: Path, limit: float | None, dpi: int) -> None:
    from damlpips.report.figure import draw, save

    names = {"distorted_name": spelled(distorted.name), "reference_name": spelled(reference.name)}
    with warnings.catch_warnings():
        # letters that the font lacks are drawn as boxes
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        figure = draw(measured, **names, limit=limit)
        try:
            save(figure, out, dpi=dpi)
        except OSError as error:
            fail(f"--out {out}: {reason(error)}")
