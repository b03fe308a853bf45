"""The program itself: its name, its usage errors and its exit codes."""

import sys
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from damlpips.files import printable as printable
from damlpips.scoring import workers
from damlpips.version import __version__

BAD_INPUT, FAILED_PAIRS, INTERRUPTED = 2, 3, 130


# the commands that several processes can run together
TOGETHER = ("score",)


class Commands(TyperGroup):
    """Commands whose usage errors are one line, too, and that exit with 130 when interrupted.

    Of several processes only the first prints what is wrong, and all exit with its status.
    """

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run a command; exit with its status."""
        standalone = extra.get("standalone_mode", True)
        extra["standalone_mode"] = False
        given = extra.get("args", args[0] if args else None)
        command = next(iter(sys.argv[1:] if given is None else given), None)
        try:
            team = workers.join() if command in TOGETHER else None
        except workers.RankError as error:
            complain(str(error))
            sys.exit(error.status)
        try:
            status = self._status(*args, **extra)
        except BaseException:
            if team is not None:
                team.leave(1)
            raise
        if team is not None:
            status = team.leave(status if isinstance(status, int) else 0)
        if not standalone:
            return status
        sys.exit(status if isinstance(status, int) else 0)

    def _status(self, *args: Any, **extra: Any) -> Any:
        try:
            return super().main(*args, **extra)
        except (KeyboardInterrupt, typer.Abort):
            return INTERRUPTED
        except workers.Ended:
            return 0
        except workers.RankError as error:
            complain(str(error))
            return error.status
        except Exception as error:
            # typer's own errors share no public class
            if not hasattr(error, "format_message"):
                raise
            context = getattr(error, "ctx", None)
            command = context.command_path if context is not None else "damlpips"
            message = error.format_message().rstrip(".")
            complain(f"{message} (see {command} --help)")
            return BAD_INPUT


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
    """Print on stderr what is wrong, and exit."""
    complain(message)
    raise typer.Exit(BAD_INPUT)


def complain(message: str) -> None:
    """Print on stderr what is wrong, and go on."""
    if (team := workers.here()) is not None and team.rank > 0:
        team.unsaid.append(message)
        return
    # names of files are untrusted text, which must not steer the terminal
    typer.echo(printable(f"damlpips: {message}", kept="\n"), err=True)
