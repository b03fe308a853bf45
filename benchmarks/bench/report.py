"""Outcomes as Markdown: every measurement in one long table, or for a page, tables with a column a contender."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from .cells import Cell, Measured, Outcome
from .contenders import BASELINE, TASKS
from .harness import Spread, ratio
from .networks import STAND_IN, TORCHVISION

NOTHING = "-"
MIB = 1 << 20
# how a contender compares to the baseline
InTimes = Callable[[Measured, Measured], str]
LABELS = ("side", "pairs", "task", "dtype")


def long_report(outcomes: Iterable[Outcome]) -> str:
    """Return each machine and a row for each measurement of it: medians, in brackets the quartiles."""
    columns = ("backbone", *LABELS, "metric", "ms", f"time / {BASELINE}", "peak MiB", f"memory / {BASELINE}")
    return "\n".join(
        section
        for environment, mine in by_environment(outcomes)
        for section in (_machine(environment), _table(columns, [row for o in mine for row in _long_rows(o)]))
    )


def page(outcomes: Iterable[Outcome]) -> str:
    """Return each machine, and for each backbone a table of time and one of memory, as ratios to the baseline's."""
    return "\n".join(section for environment, mine in by_environment(outcomes) for section in _page(environment, mine))


def by_environment(outcomes: Iterable[Outcome]) -> Iterator[tuple[dict[str, object], list[Outcome]]]:
    """Yield each environment with its outcomes, sorted by backbone as they came, precision, task and size."""
    groups: list[tuple[dict[str, object], list[Outcome]]] = []
    for outcome in outcomes:
        mine = next((mine for environment, mine in groups if environment == outcome.environment), None)
        if mine is None:
            groups.append((outcome.environment, mine := []))
        mine.append(outcome)
    for environment, mine in groups:
        backbones = list(dict.fromkeys(o.cell.backbone for o in mine))
        yield environment, sorted(mine, key=lambda o: _place_of(o.cell, backbones))


def _place_of(cell: Cell, backbones: list[str]) -> tuple[object, ...]:
    return backbones.index(cell.backbone), cell.dtype, TASKS.index(cell.task), cell.size, cell.batch


def _machine(environment: dict[str, object]) -> str:
    rows = [(str(key), str(value)) for key, value in environment.items() if value is not None]
    return _table(("machine", ""), rows)


def _long_rows(outcome: Outcome) -> Iterator[tuple[str, ...]]:
    cell, baseline = outcome.cell, outcome.of(BASELINE)
    for found in outcome.measured:
        start = (cell.backbone, *_labels(cell), _name(found.name, cell.backbone))
        if found.skipped:
            yield (*start, f"skipped: {found.skipped}", NOTHING, NOTHING, NOTHING)
        else:
            in_times = [NOTHING if baseline is None else spell(found, baseline) for spell in (_time, _memory)]
            yield (*start, _ms(found), in_times[0], _mib(found), in_times[1])


def _page(environment: dict[str, object], outcomes: Sequence[Outcome]) -> Iterator[str]:
    yield _machine(environment)
    for backbone in dict.fromkeys(o.cell.backbone for o in outcomes):
        mine = [o for o in outcomes if o.cell.backbone == backbone]
        fullest = sorted(mine, key=lambda o: -len(o.measured))  # in whose order the columns are
        names = list(dict.fromkeys(m.name for o in fullest for m in o.measured if m.name != BASELINE))
        baseline = _name(BASELINE, backbone)
        yield f"### {backbone}\n"
        yield f"Time, in times of {baseline}'s:\n"
        columns = (*LABELS, f"{baseline}, ms", *names)
        yield _table(columns, [(*_labels(o.cell), *_compared(o, names, _ms, "ms", _time)) for o in mine])
        yield f"Peak memory, in times of {baseline}'s:\n"
        columns = (*LABELS, f"{baseline}, MiB", *names)
        yield _table(columns, [(*_labels(o.cell), *_compared(o, names, _mib, "MiB", _memory)) for o in mine])
        reasons = {name: why for o in mine for name, why in o.left_out.items()}
        yield from (f"Without {name}: {why}.\n" for name, why in reasons.items())


def _labels(cell: Cell) -> tuple[str, ...]:
    return str(cell.size), str(cell.batch), cell.task, cell.dtype


def _name(name: str, backbone: str) -> str:
    return f"{name} ({STAND_IN})" if name == BASELINE and backbone not in TORCHVISION else name


def _compared(
    outcome: Outcome, names: Sequence[str], spell: Callable[[Measured], str], unit: str, in_times: InTimes
) -> Iterator[str]:
    """Yield the baseline's cell, then those of contenders as ratios to it; as they are where it was not measured."""
    baseline = outcome.of(BASELINE)
    yield _absent(outcome, BASELINE) if baseline is None else spell(baseline)
    for name in names:
        if (found := outcome.of(name)) is None:
            yield _absent(outcome, name)
        else:
            yield f"{spell(found)} {unit}" if baseline is None else in_times(found, baseline)


def _absent(outcome: Outcome, name: str) -> str:
    return "skipped" if any(m.name == name for m in outcome.measured) else NOTHING


def _ms(found: Measured) -> str:
    return _spelled(Spread.of(1000 * s for s in found.seconds))


def _mib(found: Measured) -> str:
    return f"{_bytes(found) / MIB:.1f}"


def _time(found: Measured, baseline: Measured) -> str:
    return _spelled(ratio(found.seconds, baseline.seconds), digits=2)


def _memory(found: Measured, baseline: Measured) -> str:
    return f"{_bytes(found) / _bytes(baseline):.2f}"


def _bytes(found: Measured) -> int:
    if not found.peak_bytes:
        raise ValueError(f"{found.name}: no memory was measured, got {found.peak_bytes}")
    return found.peak_bytes


def _spelled(spread: Spread, digits: int | None = None) -> str:
    low, median, high = (f"{v:.{digits}f}" if digits is not None else _three_digits(v) for v in spread)
    return f"{median} ({low} to {high})"


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
