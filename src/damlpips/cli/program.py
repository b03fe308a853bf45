"""The program itself: its name, its usage errors and its exit codes."""

import errno
import os
import sys
from contextlib import suppress
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from damlpips.files import reason, spelled
from damlpips.scoring import workers
from damlpips.version import __version__

ABOVE_LIMIT, BAD_INPUT, FAILED_PAIRS, INTERRUPTED = 1, 2, 3, 130
# as a shell says of a program that SIGPIPE ended: who read the output has read enough
CLOSED_PIPE = 141
# what a disk says that takes no more; a file-size limit (EFBIG) and a quota are like a full disk
FULL = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG", "EIO", "EROFS") if hasattr(errno, name)}


# the commands that several processes can run together
TOGETHER = ("score",)


class Commands(TyperGroup):
    """Commands whose usage errors are one line, too, and that exit with 130 when interrupted.

    They end quietly, with 141, when nobody reads what they print any more. Of several processes only the first prints
    what is wrong, and all exit with its status.
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
        status = _printed(status if isinstance(status, int) else 0)
        if team is not None:
            status = team.leave(status)
            # torchrun prints a page about any other status, and ends with 1 anyway
            if status == CLOSED_PIPE and "TORCHELASTIC_RUN_ID" in os.environ:
                status = 0
        if not standalone:
            return status
        sys.exit(status)

    def _status(self, *args: Any, **extra: Any) -> Any:
        try:
            return self._answered(*args, **extra)
        except BrokenPipeError:
            return CLOSED_PIPE

    def _answered(self, *args: Any, **extra: Any) -> Any:
        try:
            return super().main(*args, **extra)
        except SystemExit as error:
            # typer and rich exit with 1 where nobody reads their output
            if isinstance(error.__context__, BrokenPipeError):
                raise error.__context__ from None
            raise
        except (KeyboardInterrupt, typer.Abort):
            return INTERRUPTED
        except workers.Ended:
            return 0
        except workers.RankError as error:
            complain(str(error))
            return error.status
        except OSError as error:
            if error.errno not in FULL:
                raise
            complain(f"{error.filename or 'standard output'}: {reason(error)}")
            return BAD_INPUT
        except Exception as error:
            # typer's own errors share no public class
            if not hasattr(error, "format_message"):
                raise
            context = getattr(error, "ctx", None)
            command = context.command_path if context is not None else "damlpips"
            message = error.format_message().rstrip(".")
            complain(f"{message} (see {command} --help)")
            return BAD_INPUT


def _printed(status: int) -> int:
    """Write out what was printed; return the status, or what says that it could not be written."""
    for stream in filter(None, (sys.__stdout__, sys.__stderr__)):
        try:
            stream.flush()
        except OSError as error:
            # Python would try again when it ends, and complain
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            if isinstance(error, BrokenPipeError):
                status = CLOSED_PIPE
            elif not status:
                complain(f"standard output: {reason(error)}")
                status = BAD_INPUT
    return status


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


def fail(message: str, *lines: str) -> NoReturn:
    """Print on stderr what is wrong, and exit."""
    complain(message, *lines)
    raise typer.Exit(BAD_INPUT)


def complain(message: str, *lines: str) -> None:
    """Print on stderr what is wrong, with more lines below, and go on."""
    if (team := workers.here()) is not None and team.rank > 0:
        team.unsaid.append("\n".join((message, *lines)))
        return
    # names of files are untrusted text, which must neither steer the terminal nor pass for another line
    typer.echo("\n".join(map(spelled, (f"damlpips: {message}", *lines))), err=True)
