"""Speed and memory beside `lpips`, torchmetrics, piq and pyiqa, and beside the network alone.

    python -m benchmarks.bench [--backbones NAME ...] [--sizes SIDE ...] [--batches N ...] [--json FILE] ...
    python -m benchmarks.bench --from-json FILE [--markdown FILE] [--plot FILE]

All run on the same seeded random weights and images, which cost the same as trained ones; no file is needed. Those that
claim the same score must give it within 1e-5 before anything is timed. Calls are interleaved in one process; a table
shows medians and, in brackets, the quartiles. With --json a run that was stopped goes on where it was: what the file
holds for the same machine, versions and code of this package is not measured again.
"""

import argparse
import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from .cells import Cell, Limits, Outcome, Store, UnreadableError, read
from .contenders import TASKS, DisagreementError, Place
from .harness import WARM_UPS
from .machine import default_gib, environment
from .report import by_environment, long_report, page
from .runner import Runner, described

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
BACKBONES = ("alex", "squeeze", "vgg", "nano")
# below it alex and its kin have a layer without a place
LEAST_SIDE = 32


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--backbones", nargs="+", choices=BACKBONES, default=BACKBONES, help="default: all; nano is compared with alex")
    add("--sizes", nargs="+", type=_number(LEAST_SIDE), default=(64, 256, 512, 1024, 2048), help="sides, in pixels")
    add("--batches", nargs="+", type=_number(1), default=(1, 8, 32), help="pairs of images in a call")
    add("--tasks", nargs="+", choices=TASKS, default=TASKS)
    add("--threads", type=_number(1), help="of the CPU; default: PyTorch's")
    add("--dtype", choices=DTYPES, default="float32", help="of the network's pass; the others use autocast")
    add("--device", type=torch.device, default=torch.device("cpu"))
    add("--budget", type=float, default=10.0, help="seconds of timed calls a cell, in 3 to 30 rounds (default: 10)")
    add("--memory-limit", type=float, metavar="GIB", help="default: half of the machine's, nine tenths of the GPU's")
    add("--call-limit", type=float, metavar="SECONDS", default=20.0, help="leave out longer calls (default: 20)")
    add("--json", type=Path, metavar="FILE", help="keep what was measured here, and go on from it")
    add("--from-json", type=Path, nargs="+", metavar="FILE", help="measure nothing, show what these hold")
    add("--markdown", type=Path, metavar="FILE", help="write tables with a column a contender")
    add("--plot", type=Path, metavar="FILE", help="draw time and memory against pixels")
    options = parser.parse_args(given)
    if options.device.type not in WARM_UPS:
        parser.error(f"--device: expected one of {', '.join(WARM_UPS)}, got {options.device.type}")
    if options.device.type == "cuda" and not torch.cuda.is_available():
        parser.error("--device: no CUDA device is available here")
    return options


def _number(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"expected at least {least}, got {value}")
        return value

    return number


def measured(options: argparse.Namespace, console: Console) -> list[Outcome]:
    """Return the outcomes of all cells that were asked for."""
    if options.threads:
        torch.set_num_threads(options.threads)
    gib = default_gib(options.device) if options.memory_limit is None else options.memory_limit
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    cells = [
        Cell(*cell, options.dtype)
        for cell in itertools.product(options.backbones, options.sizes, options.batches, options.tasks)
    ]
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=len(cells))
        runner = Runner(
            place=Place(options.device, DTYPES[options.dtype]),
            environment=environment(options.device),
            limits=Limits(gib, options.call_limit),
            budget=options.budget,
            store=Store(options.json),
            say=lambda text: console.print(text, highlight=False, soft_wrap=True),
        )
        found = []
        for outcome in runner.measure(cells):
            found.append(outcome)
            bar.update(task, advance=1, description=f"after {described(outcome.cell)}")
    return found


def main(given: Sequence[str] | None = None) -> None:
    options = arguments(given)
    try:
        if options.from_json:
            outcomes = [outcome for file in options.from_json for outcome in read(file)]
        else:
            outcomes = measured(options, Console(stderr=True))
        if options.markdown:
            options.markdown.write_text(page(outcomes), encoding="utf-8")
        if options.plot:
            _draw(options.plot, outcomes)
    except (DisagreementError, UnreadableError) as error:
        sys.exit(f"error: {error}")
    print(long_report(outcomes), end="")


def _draw(file: Path, outcomes: Sequence[Outcome]) -> None:
    from .plot import draw

    machines = list(by_environment(outcomes))
    if len(machines) > 1:
        raise UnreadableError(f"--plot draws one machine and version, got {len(machines)}: name fewer files")
    if len(dtypes := {outcome.cell.dtype for outcome in outcomes}) > 1:
        raise UnreadableError(f"--plot draws one precision, got {', '.join(sorted(dtypes))}: name other files")
    draw(file, machines[0][1])


if __name__ == "__main__":
    main()
