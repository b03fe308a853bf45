"""What the commands share: packages that they need, devices by name, files to write, tables and bars to print."""

import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.measure import Measurement
from rich.progress import Progress, ProgressColumn
from rich.table import Table

from damlpips.cli.program import fail
from damlpips.scoring import workers
from damlpips.scoring.reading import ALPHA, COLOUR, ORIENTATION, Reading

if TYPE_CHECKING:
    import torch


def in_place_of(
    parameter: str, options: Sequence[inspect.Parameter], make: Callable[[dict[str, Any]], Any]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that lets a command have options in the place of one of its parameters.

    Args:
        parameter: what is replaced.
        options: with what typer reads of them.
        make: makes what the parameter is given of their values by name.
    """

    def decorated(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command)
        parameters = [q for p in signature.parameters.values() for q in (options if p.name == parameter else [p])]

        @functools.wraps(command)
        def run(**values: Any) -> None:
            given = {option.name: values.pop(option.name) for option in options}
            command(**{parameter: make(given)}, **values)

        # typer reads both
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorated


def option(name: str, default: Any, annotation: Any) -> inspect.Parameter:
    """Return an option for `in_place_of`."""
    return inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=annotation)


READING = Reading()


def _choice(name: str, known: Sequence[str], said: str) -> inspect.Parameter:
    """Return an option of `Reading` that has one of a few values."""
    values: Any = Enum(name, {value: value for value in known}, type=str)  # type: ignore[misc]
    return option(name, values(getattr(READING, name)), Annotated[values, typer.Option(help=said)])


# Lets a command have the options of `Reading`, in the place of its parameter `reading`.
takes_reading = in_place_of(
    "reading",
    [
        _choice("alpha", ALPHA, "Transparent pixels: an error, or laid over a white or black background."),
        _choice("colour", COLOUR, "The colours that an image states, by a profile or numbers: to sRGB, or ignored."),
        _choice("orientation", ORIENTATION, "The rotation that a file's metadata state: applied, or ignored."),
        option(
            "max_pixels",
            None,
            Annotated[
                int | None,
                typer.Option(
                    metavar="N", min=1, help="The most pixels of an image. Default: 89 million, Pillow's limit."
                ),
            ],
        ),
    ],
    lambda given: Reading(**{name: getattr(value, "value", value) for name, value in given.items()}),
)


def check_outputs(files: Mapping[str, Path | None]) -> None:
    """Fail now for outputs that cannot be written, rather than after the last image is scored."""
    if sum(file == Path("-") for file in files.values()) > 1:
        fail(f"{' and '.join(files)}: only one of them can be standard output")
    for option, file in files.items():
        if file is None or file == Path("-"):
            continue
        if file.is_dir():
            fail(f"{option} {file}: is a folder, expected a file")
        if not file.parent.is_dir():
            fail(f"{option} {file}: no such folder as {file.parent}")


def check_installed(command: str, extra: str, packages: Iterable[str]) -> None:
    """Fail now if a package is missing, which an extra brings."""
    if any(find_spec(package) is None for package in packages):
        fail(f"{command} needs: pip install 'damlpips[{extra}]'")


def to_standard_output(files: Mapping[str, Path | None]) -> bool:
    """Return whether one of the files is standard output, to which nothing else is then printed."""
    return any(file == Path("-") for file in files.values())


def write(option: str, file: Path, text: str) -> None:
    """Write a text to the file that an option names, or to standard output."""
    from damlpips.files import reason, write_whole

    if file == Path("-"):
        # as bytes: UTF-8, whatever the terminal's encoding is
        typer.echo(text.encode(), nl=False)
        return
    try:
        write_whole(file, text)
    except BrokenPipeError:  # a named pipe that nobody reads any more
        raise
    except OSError as error:
        fail(f"{option} {file}: {reason(error)}")


def find_device(name: str) -> "torch.device":
    """Return the device that a name stands for, if this machine has it; each of several processes gets its own."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if name not in ("cpu", "cuda") and not (kind == "cuda" and number.isdecimal()):
        fail(f"--device {name}: expected auto, cpu, cuda or cuda:N")
    if kind == "cuda" and not torch.cuda.is_available():
        fail(f"--device {name}: CUDA is not available here; use --device cpu")
    if number and int(number) >= torch.cuda.device_count():
        fail(f"--device {name}: there is only cuda:0 to cuda:{torch.cuda.device_count() - 1}")
    if name == "cuda" and workers.here() is not None:
        # a launcher may make only one device visible to each process
        name = f"cuda:{workers.local_rank() % torch.cuda.device_count()}"
    return torch.device(name)


def progress_bar(*columns: ProgressColumn, shown: bool) -> Progress:
    """Return a bar on stderr, which is for terminals only."""
    console = Console(stderr=True)
    hidden = not (shown and console.is_terminal)
    console.quiet = hidden  # before version 14.3 rich ends even a hidden bar with an empty line
    return Progress(*columns, console=console, transient=True, disable=hidden)


def print_table(table: Table) -> None:
    """Print a table, folded to the width of the terminal; in full if there is no terminal."""
    console = Console()
    if not console.is_terminal:
        # nothing to wrap at: one line for each row
        widest = console.options.update(width=sys.maxsize)
        console.width = max(console.width, Measurement.get(console, widest, table).maximum)
    console.print(table)
