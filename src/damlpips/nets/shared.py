"""One instance of each backbone per process.

Modules and metrics with the same backbone, weights, device and dtype hold the same object, which is freed with the last
of them. It is pickled by its source, not by value.
"""

import os
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch

from damlpips.checks import one_of
from damlpips.nets import weights as weight_files
from damlpips.nets.backbone import Backbone
from damlpips.nets.table import BACKBONES, TIMM, TRAINED_FOR, BackboneSpec
from damlpips.process import Lock

_instances: WeakValueDictionary[Hashable, Backbone] = WeakValueDictionary()
_timm_models: WeakValueDictionary[Hashable, Backbone] = WeakValueDictionary()
_lock = Lock()


class SharedBackbone(Backbone):
    """A backbone of the table, which several modules may use: it cannot be moved, and is pickled by its source."""

    source: "Source"

    def _apply(self, fn: Any, recurse: bool = True) -> Backbone:
        raise RuntimeError(
            f"backbone {self.name!r} is shared by every module of this process that uses it: move the module instead"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.source, str(self.device), self.dtype)


@dataclass(frozen=True)
class Source:
    """Where a module's backbone comes from: a row of the table and its weights, or a user's own `Backbone`.

    Attributes:
        backbone: its name in the table, or a user's own.
        weights: the path of the weights' file; None for those of the card.
        card: the name of a card, for a backbone of the table: what is known about its weights.

    Raises:
        ValueError: a name that is not in the table.
        TypeError: neither a name nor a `Backbone`, or `weights` for a backbone that takes none.
        WeightsError: `weights` is not a file that can be loaded.
    """

    backbone: str | Backbone
    weights: str | None = None
    card: str = ""

    @classmethod
    def of(
        cls, backbone: str | Backbone, weights: str | os.PathLike[str] | None, version: int | None = None
    ) -> "Source":
        """Check the options `backbone` and `weights` of a module, and return the source that they name.

        Args:
            version: of DAMLPIPS: the weights are those trained for it, if there are any.
        """
        if isinstance(backbone, SharedBackbone):
            source: Source = backbone.source
            if weights is None:
                return source
            backbone = source.name
        if isinstance(backbone, Backbone):
            if weights is not None:
                raise TypeError("weights: a Backbone object brings its own; load them into its network first")
            return cls(backbone)
        if not isinstance(backbone, str):
            raise TypeError(f"backbone: expected a name or a damlpips.Backbone, got {type(backbone).__name__}")
        if backbone.startswith(TIMM):
            return cls(_of_timm(backbone.removeprefix(TIMM), weights))
        one_of("backbone", backbone, BACKBONES)
        if weights is None:
            return cls(backbone, card=TRAINED_FOR.get((backbone, version), backbone))
        return cls(backbone, str(weight_files.existing_file(weights, option="weights")), card=backbone)

    @property
    def name(self) -> str:
        """The backbone's name."""
        return self.backbone if isinstance(self.backbone, str) else self.backbone.name

    @property
    def min_size(self) -> int:
        """The shortest side in pixels that the network accepts."""
        return self._spec.min_size

    @property
    def channels(self) -> int:
        """How many channels the network takes."""
        return self.backbone.channels if isinstance(self.backbone, Backbone) else 3

    @property
    def pass_values(self) -> int:
        """With how many image values a pass through the network on a CPU is fastest."""
        return self._spec.pass_values

    @property
    def _spec(self) -> BackboneSpec | Backbone:
        return BACKBONES[self.backbone] if isinstance(self.backbone, str) else self.backbone

    @property
    def is_here(self) -> bool:
        """Whether the backbone can be loaded without a download."""
        if isinstance(self.backbone, Backbone):
            return True
        return weight_files.find_backbone(self.card, self.weights) is not None

    def identity(self) -> str:
        """Return a text that identifies this source, the same in every process."""
        if isinstance(self.backbone, Backbone):
            return f"custom:{self.backbone.fingerprint()}"
        if self.weights is not None:
            return f"{self.backbone}:{weight_files.sha256(Path(self.weights))}"
        # nano has weights for each version of DAMLPIPS; torchvision's never change
        return f"{self.backbone}:{weight_files.backbone_card(self.card).get('sha256', 'default')}"

    def weights_digest(self) -> str:
        """Return the first eight digits of the SHA-256 of the weights, as published: the same in whatever file.

        Of a user's own `Backbone` those of its fingerprint; of a published file that is not here those it would have.
        """
        if isinstance(self.backbone, Backbone):
            return self.backbone.fingerprint()[:8]
        return weight_files.short_digest(self.card, self.weights)

    def get(self, device: torch.device, dtype: torch.dtype) -> Backbone:
        """Return the one instance for this source, `device` and `dtype`; loaded if no module holds it yet."""
        if isinstance(self.backbone, Backbone):
            return self.backbone.replica(device, dtype)
        key = (self, device, dtype)
        with _lock:
            if (instance := _instances.get(key)) is None:
                instance = self._load(self.backbone, device, dtype)
                _instances[key] = instance
            return instance

    def _load(self, name: str, device: torch.device, dtype: torch.dtype) -> Backbone:
        spec = BACKBONES[name]
        state = weight_files.load_backbone(self.card, self.weights, spec.expected_keys(), spec.ignored)
        backbone = SharedBackbone.from_table(name, state)
        Backbone._apply(backbone, lambda t: t.to(device, dtype if t.is_floating_point() else None))
        object.__setattr__(backbone, "source", self)
        return backbone


def _of_timm(name: str, weights: str | os.PathLike[str] | None) -> Backbone:
    """Return a model of timm with its pretrained weights or a file's; every module that names it gets the same."""
    if weights is not None:
        weights = weight_files.existing_file(weights, option="weights")
    key = name, weights and weight_files.sha256(weights)
    with _lock:
        if (backbone := _timm_models.get(key)) is None:
            backbone = Backbone.from_timm(name, checkpoint_path=weights)
            _timm_models[key] = backbone
        return backbone


def _restore(source: Source, device: str, dtype: torch.dtype) -> Backbone:
    return source.get(torch.device(device), dtype)
