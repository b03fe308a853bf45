"""What a contender is, and the check that those which claim the same score give it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

BASELINE = "lpips"
FORWARD, TRAINING = "forward", "training"
TASKS = (FORWARD, TRAINING)
# Scores that are claimed to be the same: float32 rounds sums of as many terms to a tenth of it.
TOLERANCE = 1e-5
CPU = torch.device("cpu")

Call = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Contender:
    """Something to be measured.

    Attributes:
        name: in the tables.
        call: two batches of images (N, 3, H, W), floats in [0, 1], to scores (N,), or to anything that can be summed.
        claims: all contenders with the same claim give the same scores; None: its own.
        is_score: whether it gives scores, which are checked.
        tasks: what it is measured at.
        above: it is measured with images of a longer side than this, in pixels.
    """

    name: str
    call: Call
    claims: str | None = None
    is_score: bool = True
    tasks: tuple[str, ...] = TASKS
    above: int = 0

    def takes_part(self, task: str, size: int) -> bool:
        return task in self.tasks and size > self.above


@dataclass(frozen=True)
class Field:
    """All contenders on one backbone, and why others are not among them, by name."""

    contenders: tuple[Contender, ...]
    left_out: dict[str, str]


@dataclass(frozen=True)
class Place:
    """Where and in what precision contenders run."""

    device: torch.device = CPU
    dtype: torch.dtype = torch.float32


class DisagreementError(Exception):
    """Two contenders that claim the same score do not give it."""


def check_agreement(scores: Mapping[str, Tensor], claims: Mapping[str, str | None]) -> None:
    """Raise unless contenders with the same claim gave the same scores.

    Args:
        scores: (N,) by name.
        claims: of each name.

    Raises:
        DisagreementError: two differ by more than 1e-5 and by more than 1e-5 of the score, or one is not finite.
    """
    first: dict[str, str] = {}
    for name, found in scores.items():
        claim = claims[name]
        if not bool(found.isfinite().all()):
            raise DisagreementError(f"{name} gave a score that is not finite: {found.tolist()}")
        if claim is None:
            continue
        expected = scores[first.setdefault(claim, name)]
        if found.shape != expected.shape:
            raise DisagreementError(
                f"{name} gave scores of shape {tuple(found.shape)}, {first[claim]} of {tuple(expected.shape)}"
            )
        apart = (found - expected).abs() / expected.abs().clamp(min=1)
        if float(apart.max()) > TOLERANCE:
            raise DisagreementError(
                f"{name} and {first[claim]} both claim {claim}, but differ by {float(apart.max()):.1e} (at most"
                f" {TOLERANCE:g} expected): {found.tolist()} and {expected.tolist()}"
            )
