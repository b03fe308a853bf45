"""Measures cells: refuses what is too large, checks that scores agree, then memory, then time."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from . import harness
from .cells import PROBE_SIDE, Cell, Cost, Limits, Measured, Outcome, Store, expected_cost
from .contenders import Contender, Field, Place, check_agreement
from .lineup import field as contenders_on

Say = Callable[[str], None]


@dataclass
class Runner:
    """Measures cells one after another.

    Attributes:
        environment: what the outcomes are kept under.
        budget: seconds of timed calls for a cell.
        say: is told what happens.
    """

    place: Place
    environment: dict[str, object]
    limits: Limits
    budget: float
    store: Store
    say: Say
    _agreed: set[tuple[str, int]] = field(default_factory=set)

    def measure(self, cells: Sequence[Cell]) -> Iterator[Outcome]:
        """Yield the outcome of each cell, from the store where it is known.

        Raises:
            DisagreementError: contenders that claim the same score do not give it; nothing of the cell is timed.
        """
        with tempfile.TemporaryDirectory() as folder:
            for backbone in dict.fromkeys(cell.backbone for cell in cells):
                in_float32 = contenders_on(backbone, Path(folder), Place(self.place.device))
                entrants = in_float32
                if self.place.dtype != torch.float32:
                    entrants = contenders_on(backbone, Path(folder), self.place)
                for name, why in entrants.left_out.items():
                    self.say(f"{backbone}: without {name}: {why}")
                # a small one says what a larger one will cost
                mine = sorted((c for c in cells if c.backbone == backbone), key=lambda cell: (cell.pixels, cell.size))
                for cell in mine:
                    yield self._outcome(cell, entrants, in_float32)

    def _outcome(self, cell: Cell, entrants: Field, in_float32: Field) -> Outcome:
        taking_part = [c for c in entrants.contenders if c.takes_part(cell.task, cell.size)]
        names = [c.name for c in taking_part]
        if known := self.store.answer(cell, self.environment, self.limits, names):
            self.say(f"{described(cell)}: known")
            return known
        refusals = {c.name: r for c in taking_part if (r := self._expected(cell, c).refusal(cell, self.limits))}
        fitting = [c for c in taking_part if c.name not in refusals]
        found = {name: Measured(name, skipped=why) for name, why in refusals.items()}
        if fitting:
            x, y = harness.images(cell.batch, cell.size, self.place.device)
            self._check_agreement(cell, in_float32, {c.name for c in fitting}, x[:1], y[:1])
            found.update(self._measured(cell.task, fitting, x, y))
        measured = tuple(found[name] for name in names)
        outcome = Outcome(cell, self.environment, self.limits, measured, entrants.left_out)
        self.store.add(outcome)
        self.say(f"{described(cell)}: measured{f', without {len(refusals)} too large' if refusals else ''}")
        return outcome

    def _expected(self, cell: Cell, contender: Contender) -> Cost:
        """Return what a call should cost: from smaller cells, else from one pair of small images.

        Images so small that they would be the ones to judge from cost nothing.
        """
        if cost := expected_cost(self.store.here(self.environment), cell, contender.name):
            return cost
        if cell.pixels <= PROBE_SIDE**2:
            return Cost(0.0, 0.0)
        side = min(cell.size, PROBE_SIDE)
        x, y = harness.images(1, side, self.place.device)
        call = partial(harness.run, cell.task, contender.call, x, y)
        peak = harness.peak_bytes(call, self.place.device)
        growth = cell.pixels / side**2
        return Cost(growth * harness.clock_of(self.place.device)(call), growth * peak)

    def _check_agreement(self, cell: Cell, in_float32: Field, names: set[str], x: Tensor, y: Tensor) -> None:
        if (cell.backbone, cell.size) in self._agreed:
            return
        claims = {c.name: c.claims for c in in_float32.contenders if c.name in names and c.is_score}
        with torch.no_grad(), full_precision():
            scores = {c.name: c.call(x, y) for c in in_float32.contenders if c.name in claims}
        check_agreement(scores, claims)
        self._agreed.add((cell.backbone, cell.size))

    def _measured(self, task: str, fitting: Sequence[Contender], x: Tensor, y: Tensor) -> dict[str, Measured]:
        device = self.place.device
        calls = {c.name: partial(harness.run, task, c.call, x, y) for c in fitting}
        found: dict[str, Measured] = {}
        peaks: dict[str, int] = {}
        for name, call in calls.items():
            try:
                for _ in range(harness.WARM_UPS[device.type]):
                    call()
                peaks[name] = harness.peak_bytes(call, device)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                found[name] = Measured(name, skipped="out of memory")
        rest = {name: call for name, call in calls.items() if name not in found}
        seconds = harness.interleaved(rest, harness.clock_of(device), budget=self.budget)
        return found | {name: Measured(name, tuple(seconds[name]), peaks[name]) for name in rest}


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether memory ran out; on the CPU, PyTorch raises a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


@contextmanager
def full_precision() -> Iterator[None]:
    """Do without TF32, which rounds to a thousandth, and differently in every kernel; times are taken with it."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def described(cell: Cell) -> str:
    pairs = f"{cell.batch} pair{'s' if cell.batch > 1 else ''}"
    return f"{cell.backbone}, {pairs} of {cell.size} x {cell.size}, {cell.task}, {cell.dtype}"
