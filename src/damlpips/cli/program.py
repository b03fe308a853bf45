"""The program itself: its name, its usage errors and its exit codes."""

import sys
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from damlpips import __version__

BAD_INPUT, FAILED_PAIRS, INTERRUPTED = 2, 3, 130


class Commands(TyperGroup):
    """Commands whose usage errors, too, are one line; and that exit with 130 when interrupted."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run a command; exit with its status."""
        standalone = extra.get("standalone_mode", True)
        extra["standalone_mode"] = False
        try:
            status = super().main(*args, **extra)
        except (KeyboardInterrupt, typer.Abort):
            status = INTERRUPTED
        except Exception as error:
            # typer's own errors have no common public class
            if not hasattr(error, "format_message"):
                raise
            context = getattr(error, "ctx", None)
            command = context.command_path if context is not None else "damlpips"
            message = error.format_message().rstrip(".")
            typer.echo(f"damlpips: {message} (see {command} --help)", err=True)
            status = BAD_INPUT
        if not standalone:
            return status
        sys.exit(status if isinstance(status, int) else 0)


app = typer.Typer(
    name="damlpips",
    cls=Commands,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"damlpips {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def damlpips(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Perceptual distance between images: DAMLPIPS and LPIPS. Lower is closer."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def fail(message: str) -> NoReturn:
    """Say on stderr what is wrong, and exit."""
    complain(message)
    raise typer.Exit(BAD_INPUT)


def complain(message: str) -> None:
    """Say on stderr what is wrong, and go on."""
    # the names of files are others' text: it must not steer a terminal
    typer.echo(printable(f"damlpips: {message}", kept="\n"), err=True)


def printable(text: str, kept: str = "") -> str:
    """Return a text without what would steer a terminal."""
    return "".join(c if c.isprintable() or c in kept else "\ufffd" for c in text)
