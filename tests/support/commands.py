"""The command line within this process, in one of its own, or in several that start at once as the ranks of one run."""

import csv
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from damlpips.cli import app
from tests.support.processes import Forked

# what CI systems set, and asks rich for colours where there is no terminal
FORCING = ("FORCE_COLOR", "GITHUB_ACTIONS", "PY_COLORS", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "NO_COLOR")


def run(*arguments: object) -> Result:
    """Run `damlpips` in this process."""
    return CliRunner().invoke(app, list(map(str, arguments)))


def refused(message: str, *arguments: object) -> None:
    """Assert that a run exits with 2 and one line on stderr that matches."""
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert re.fullmatch(r"damlpips: .*\n", result.stderr), result.stderr
    assert re.search(message, result.stderr), result.stderr


def contents(folder: Path) -> dict[Path, bytes | None]:
    """Return what is in a folder: the bytes of each file, None for anything else."""
    return {path: path.read_bytes() if path.is_file() else None for path in folder.glob("*")}


def refused_output(message: str, out: Path, *arguments: object) -> None:
    """Assert that a run is refused as in `refused`, and leaves the folder of its output as it was."""
    before = contents(out.parent)
    refused(message, *arguments, "--out", out)
    assert contents(out.parent) == before


def variables(**others: str) -> dict[str, str]:
    """Return the environment of a process that nothing asks for colours."""
    kept = {name: value for name, value in os.environ.items() if name not in FORCING}
    return {**kept, "TERM": "xterm-256color", "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8", **others}


def piped(*arguments: object, code: str = "", **others: str) -> subprocess.CompletedProcess[str]:
    """Run `damlpips`, or some code, in a process without a terminal."""
    command = ["-c", code] if code else ["-m", "damlpips"]
    return subprocess.run(
        [sys.executable, *command, *map(str, arguments)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
        env=variables(**others),
    )


def outputs(folder: Path, *kinds: str) -> tuple[dict[str, Path], list[object]]:
    """Return a file of each kind in a folder, and the options that ask for them."""
    files = {kind: folder / f"s.{kind}" for kind in kinds or ("csv", "jsonl", "parquet", "json")}
    return files, [part for kind, file in files.items() for part in (f"--{kind}", file)]


def csv_rows(file: Path) -> list[dict[str, str]]:
    with open(file, newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def json_rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def _enter(arguments: Sequence[str], pause: float) -> None:
    if pause:
        _slow_down(pause)
    sys.argv = ["damlpips", *arguments]
    from damlpips.__main__ import main

    main()


def _slow_down(pause: float) -> None:
    """Wait so many seconds before each batch is compared."""
    from damlpips.models.base import PerceptualDistance

    compare = PerceptualDistance.per_layer

    def later(*arguments: Any, **options: Any) -> Any:
        time.sleep(pause)
        return compare(*arguments, **options)

    PerceptualDistance.per_layer = later  # type: ignore[method-assign]


# Seconds a batch, for a process that is to be met at work: on a busy machine it may be looked at a few times a second.
SLOWLY = 0.05


class Command(Forked):
    """A command that runs in a process of its own; `pause` makes it wait so many seconds before each batch."""

    def __init__(
        self, *arguments: object, output: Path, folder: Path | None = None, pause: float = 0, **environment: object
    ) -> None:
        variables = {**os.environ, **{k: str(v) for k, v in environment.items()}}
        super().__init__(_enter, list(map(str, arguments)), pause, output=output, folder=folder, environment=variables)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def ranks(
    world: int,
    *arguments: object,
    folder: Path,
    others: Sequence[object] = (),
    timeout: float = 60,
    pause: float = 0,
) -> list[Command]:
    """Start the processes of one run; all but the first are given `others` besides."""
    folder.mkdir(exist_ok=True)
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": world}
    return [
        Command(
            *(*arguments, *(others if rank else ())),
            output=folder / str(rank),
            pause=pause,
            RANK=rank,
            LOCAL_RANK=rank,
            DAMLPIPS_RANK_TIMEOUT=timeout,
            **place,
        )
        for rank in range(world)
    ]


def caught(
    start: Callable[[], list[Command]], true: Callable[[], object], again: Callable[[], object]
) -> list[Command]:
    """Return processes at work while something is true; started `again` if they ended before it was seen."""
    for _ in range(20):
        team = start()
        while any(command.process.is_alive() for command in team):
            if true():
                return team
            time.sleep(0.001)
        again()
    raise AssertionError("it never happened")
