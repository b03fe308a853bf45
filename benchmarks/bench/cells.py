"""What is measured, what was, and the JSON file that keeps it: one cell a backbone, size, batch and task."""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

# Up to one pair of this size every cell is tried; from there on cost grows with the pixels.
PROBE_SIDE = 256
GIB = 1 << 30


@dataclass(frozen=True)
class Cell:
    """One comparison; all contenders of it are interleaved.

    Attributes:
        size: the side of the images, in pixels.
        batch: the number of pairs.
        task: "forward" or "training".
        dtype: what the networks run in, "float32" or "bfloat16".
    """

    backbone: str
    size: int
    batch: int
    task: str
    dtype: str = "float32"

    @property
    def pixels(self) -> int:
        """Of one of the two batches."""
        return self.batch * self.size**2

    @property
    def input_bytes(self) -> int:
        """Of both batches, float32."""
        return 2 * 3 * 4 * self.pixels


@dataclass(frozen=True)
class Limits:
    """What a call may cost, or it is left out.

    Attributes:
        gib: of memory, the images included.
        seconds: of one call.
    """

    gib: float
    seconds: float


@dataclass(frozen=True)
class Measured:
    """What one contender took, or why it was not measured."""

    name: str
    seconds: tuple[float, ...] = ()
    peak_bytes: int | None = None
    skipped: str | None = None


@dataclass(frozen=True)
class Outcome:
    """A cell that was measured, where, and what each contender took.

    Attributes:
        left_out: why a package is not among the contenders, by name.
    """

    cell: Cell
    environment: dict[str, Any]
    limits: Limits
    measured: tuple[Measured, ...]
    left_out: dict[str, str] = field(default_factory=dict)

    def of(self, name: str) -> Measured | None:
        """Return what a contender took, None where it was not measured."""
        return next((m for m in self.measured if m.name == name and not m.skipped), None)

    def answers(self, cell: Cell, environment: dict[str, Any], limits: Limits, names: Sequence[str]) -> bool:
        """Whether measuring the cell again, with the same contenders on the same machine, would tell nothing new."""
        same = (self.cell, self.environment) == (cell, environment) and [m.name for m in self.measured] == list(names)
        return same and (self.limits == limits or not any(m.skipped for m in self.measured))


@dataclass(frozen=True)
class Cost:
    """What one call is expected to take."""

    seconds: float
    peak_bytes: float

    def refusal(self, cell: Cell, limits: Limits) -> str | None:
        """Say why a cell is too large for a contender; None where it is not."""
        gib = (self.peak_bytes + cell.input_bytes) / GIB
        if gib > limits.gib:
            return f"about {gib:.2g} GiB, more than {limits.gib:g} GiB"
        if self.seconds > limits.seconds:
            return f"about {self.seconds:.2g} s a call, more than {limits.seconds:g} s"
        return None


def expected_cost(outcomes: Iterable[Outcome], cell: Cell, name: str) -> Cost | None:
    """Return what a contender should take in a cell, in proportion to the largest known cell that is not larger.

    None where it was measured in no such cell of the same backbone, task and precision.
    """
    known = [
        (outcome.cell.pixels, found)
        for outcome in outcomes
        if _of_a_kind(outcome.cell, cell) and outcome.cell.pixels <= cell.pixels and (found := outcome.of(name))
    ]
    if not known:
        return None
    pixels, found = max(known, key=lambda pair: pair[0])
    growth = cell.pixels / pixels
    return Cost(growth * min(found.seconds), growth * (found.peak_bytes or 0))


def _of_a_kind(first: Cell, second: Cell) -> bool:
    return (first.backbone, first.task, first.dtype) == (second.backbone, second.task, second.dtype)


class Store:
    """Outcomes, kept in a JSON file where one is named; each new one replaces that of the same cell and machine."""

    def __init__(self, file: Path | None = None) -> None:
        self.file = file
        self.outcomes: list[Outcome] = read(file) if file is not None and file.exists() else []

    def add(self, outcome: Outcome) -> None:
        key = (outcome.cell, outcome.environment)
        self.outcomes = [o for o in self.outcomes if (o.cell, o.environment) != key] + [outcome]
        if self.file is not None:
            self._write()

    def here(self, environment: dict[str, Any]) -> list[Outcome]:
        """Return what was measured in an environment."""
        return [outcome for outcome in self.outcomes if outcome.environment == environment]

    def answer(self, cell: Cell, environment: dict[str, Any], limits: Limits, names: Sequence[str]) -> Outcome | None:
        """Return the outcome of a cell that need not be measured again, None where it has to be."""
        return next((o for o in self.outcomes if o.answers(cell, environment, limits, names)), None)

    def _write(self) -> None:
        assert self.file is not None
        # a file that was cut off would lose hours: written aside, then put in its place
        part = self.file.with_name(self.file.name + ".part")
        part.write_text(json.dumps([asdict(outcome) for outcome in self.outcomes], indent=1) + "\n", encoding="utf-8")
        os.replace(part, self.file)


class UnreadableError(Exception):
    """A file does not hold what this tool wrote."""


def read(file: Path) -> list[Outcome]:
    """Return the outcomes that a file holds.

    Raises:
        UnreadableError: it cannot be read, or is not what `Store` writes.
    """
    try:
        return [_outcome(entry) for entry in json.loads(file.read_text(encoding="utf-8"))]
    except OSError as error:
        raise UnreadableError(f"{file}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise UnreadableError(
            f"{file}: expected the JSON of an earlier run, got {error!r}: delete it or name another file"
        ) from error


def _outcome(entry: dict[str, Any]) -> Outcome:
    return Outcome(
        Cell(**entry["cell"]),
        entry["environment"],
        Limits(**entry["limits"]),
        tuple(Measured(**{**m, "seconds": tuple(m["seconds"])}) for m in entry["measured"]),
        entry["left_out"],
    )
