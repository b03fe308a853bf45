"""Several metrics in one run: those that stand beside the first, and what the rows say of them all.

The pixels of a batch are read once for all metrics, and modules of this package that can share feature maps share one
pass through their network.
"""

import json
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from damlpips.files import shown
from damlpips.models import inputs
from damlpips.models.base import PerceptualDistance
from damlpips.models.inputs import Pair
from damlpips.nets.encoded import Encoded

# of a digest that tells settings apart
DIGITS = 12


@dataclass(frozen=True)
class Said:
    """What rows say of a metric.

    Attributes:
        name: of its column.
        lower_is_closer: whether it is a distance.
        description: a line to cite.
        digest: of everything that its scores depend on besides the images.
        unit: of its scores, if they have one.
    """

    name: str
    lower_is_closer: bool
    description: str
    digest: str = ""
    unit: str = ""

    @classmethod
    def of(
        cls, name: str, description: str, identity: Mapping[str, Any], *, lower_is_closer: bool, unit: str = ""
    ) -> "Said":
        """Return what rows say of a metric whose scores depend on `identity`."""
        text = json.dumps(identity, sort_keys=True, default=repr)
        return cls(name, lower_is_closer, description, sha256(text.encode()).hexdigest()[:DIGITS], unit)

    @property
    def arrow(self) -> str:
        """Which way better scores lie."""
        return "\u2193" if self.lower_is_closer else "\u2191"


def as_text(metrics: Sequence[Said]) -> str:
    """Return what the column `metrics` says: a list as JSON. It is in every row, and therefore short."""
    found = [
        {
            "name": m.name,
            "closer": "lower" if m.lower_is_closer else "higher",
            "description": m.description,
            "digest": m.digest,
            **({"unit": m.unit} if m.unit else {}),
        }
        for m in metrics
    ]
    # rows spell some of the texts with a backslash in their own way
    return json.dumps(found, separators=(",", ":")).replace(r"\\", r"\u005c")


def from_text(text: str) -> list[Said]:
    """Return the metrics that the column `metrics` says; none where it is empty.

    Raises:
        ValueError: it is no such text.
    """
    try:
        return [
            Said(
                *(str(each["name"]), {"lower": True, "higher": False}[each["closer"]], str(each["description"])),
                *(str(each["digest"]), str(each.get("unit", ""))),
            )
            for each in (json.loads(text) if text else [])
        ]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"metrics: expected a list of metrics as JSON, got {shown(text, 80)}") from error


def difference(found: str, wanted: str) -> str:
    """Return how what a file says of its metrics differs from what a run would."""
    try:
        one, other = (from_text(text) for text in (found, wanted))
    except ValueError as error:
        return str(error)
    names, here = ([metric.name for metric in metrics] for metrics in (one, other))
    if names != here:
        return f"has the metrics {', '.join(names)}, this run {', '.join(here)}"
    old, new = next(pair for pair in zip(one, other, strict=True) if pair[0] != pair[1])
    if old.description != new.description:
        return f"was scored with {old.description}, this run has {new.description}"
    return f"was scored with {old.description} of other settings (digest {old.digest}, this run's is {new.digest})"


@dataclass(frozen=True, eq=False)
class OtherMetric:
    """A metric whose scores stand beside those of the first one.

    Attributes:
        said: what the rows say of it.
        scores: of each pair of a batch, (N,); may raise what it likes.
        model: if it is a module of this package.
    """

    said: Said
    scores: "Callable[[Batch, Passes], Tensor]"
    model: PerceptualDistance | None = None

    @classmethod
    def of_module(cls, model: PerceptualDistance, said: Said) -> "OtherMetric":
        """Return a module of this package, with `reduction="none"`."""
        return cls(said, lambda batch, passes: passes.layers(model, batch).sum(1), model)

    @classmethod
    def of_function(cls, function: Callable[[Tensor, Tensor], Tensor], said: Said) -> "OtherMetric":
        """Return a function of (distorted, reference), (N, 3, H, W) in [0, 1], that returns N scores."""

        def scores(batch: "Batch", _: "Passes") -> Tensor:
            x, y = batch.in_range(0.0, 1.0, floats=True)
            if x.shape != y.shape:
                raise ValueError(f"expected images of one size, got {_size(x)} and {_size(y)}")
            return function(x, y)

        return cls(said, scores)

    def each(self, batch: "Batch", passes: "Passes") -> list[float | str]:
        """Return the score of each pair, or why it has none."""
        try:
            with torch.no_grad():
                found = self.scores(batch, passes).detach().to("cpu", torch.float64).tolist()
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # libraries raise what they like for images that they refuse
            if len(batch) > 1:
                return [self.each(batch.only(k), passes)[0] for k in range(len(batch))]
            return [f"{self.said.name}: {' '.join(str(error).split()) or type(error).__name__}"]
        return [value if math.isfinite(value) else f"{self.said.name}: {_not_finite(value)}" for value in found]


def _not_finite(value: float) -> str:
    return "infinite, the images are equal" if value > 0 else f"{value}, not a finite number"


def _size(images: Tensor) -> str:
    return f"{images.shape[3]} x {images.shape[2]}"


class Batch:
    """The pixels of some pairs, as they were read: uint8, or floats in [0, 1].

    Args:
        distorted, references: (3, H, W) each; a single reference is that of all pairs.
        path: of the reference if all pairs of a run's neighbourhood share it: its feature maps are worth keeping.
        masks: which pixels count, (1, H, W) of bool for each pair; none: all.
    """

    def __init__(
        self,
        distorted: Sequence[Tensor],
        references: Sequence[Tensor],
        device: torch.device,
        path: Path | None = None,
        masks: Sequence[Tensor] = (),
    ) -> None:
        self.x = torch.stack(list(distorted)).to(device)
        self.y = torch.stack(list(references)).to(device)
        self.mask = torch.stack(list(masks)).to(device) if masks else None
        self.path = path
        self.maps: dict[Hashable, tuple[Encoded, Encoded]] = {}

    def __len__(self) -> int:
        return len(self.x)

    def only(self, k: int) -> "Batch":
        """Return one pair of it."""
        y = self.y[k] if len(self.y) == len(self.x) else self.y[0]
        return Batch([self.x[k]], [y], self.x.device, self.path, () if self.mask is None else [self.mask[k]])

    @property
    def is_shared(self) -> bool:
        """Whether the feature maps of the reference stand in for it."""
        return self.path is not None and self.x.shape[2:] == self.y.shape[2:]

    def in_range(self, low: float, high: float, *, floats: bool = False) -> tuple[Tensor, Tensor]:
        """Return the distorted images and as many references: uint8, or floats in a range."""
        x, y = self.x, self.y.expand(len(self.x), -1, -1, -1)
        # 8 bits beside 16
        if floats or x.dtype != y.dtype:
            x, y = (v / 255 if v.dtype == torch.uint8 else v for v in (x, y))
        return ranged(x, low, high), ranged(y, low, high)


def ranged(images: Tensor, low: float, high: float) -> Tensor:
    """Return images that are uint8, or floats in [0, 1], as a module with that range takes them."""
    if images.dtype == torch.uint8 or (low, high) == (0.0, 1.0):
        return images
    return (low + images * (high - low)).clamp(low, high)


class Passes:
    """Modules of this package, and the feature maps that they share: of a batch, and of the last shared reference."""

    def __init__(self, models: Sequence[PerceptualDistance]) -> None:
        self.models = models
        self._path: Path | None = None
        self._references: dict[Hashable, Encoded] = {}

    def layers(self, model: PerceptualDistance, batch: Batch) -> Tensor:
        """Return what each layer adds to the score of each pair, (N, L)."""
        if batch.is_shared and batch.path != self._path:
            self._references.clear()  # before the next ones are made: they may be large
            self._path = batch.path
        if batch.mask is not None:
            return model.per_layer(*batch.in_range(*model.value_range), mask=batch.mask)
        if len(self.models) > 1:
            x, y = batch.in_range(*model.value_range)
            pair = model.prepared(x, y)
            if isinstance(pair, Pair) and not model.is_tiled(pair):
                key = model.sharing_key(pair.size)
                if sum(other.sharing_key(pair.size) == key for other in self.models) > 1:
                    return model.compared(Pair(*self._shared(model, batch, pair, key), pair.size))
        if not batch.is_shared:
            # encoded maps cannot be resized, and only images let the model say what is wrong with a pair
            return model.per_layer(*batch.in_range(*model.value_range))
        x, y = (ranged(v, *model.value_range) for v in (batch.x, batch.y))
        kept = self._references.get(model)
        if kept is None:
            kept = self._references[model] = model.encode(y)
        return model.per_layer(x, kept.expand(len(x)))

    def _shared(self, model: PerceptualDistance, batch: Batch, pair: Pair, key: Hashable) -> tuple[Encoded, Encoded]:
        """Return the feature maps of both batches, from one pass for all modules with this key."""
        if key not in batch.maps:
            if not batch.is_shared:
                batch.maps[key] = model.encoded(pair)
            else:
                if key not in self._references:
                    reference, size = inputs.alone(ranged(batch.y, *model.value_range), model.settings, model.encoder)
                    self._references[key] = model.encoder(reference, size)
                batch.maps[key] = model.encoder(pair.x, pair.size), self._references[key].expand(len(batch))
        return batch.maps[key]
