"""One backbone pass for all metrics that see the same pair, as in a `MetricCollection`.

The feature maps of the last pair are kept as long as its images live, and only where two metrics could share them. They
are handed out again only for the very same, unchanged images.
"""

import functools
import threading
import weakref
from collections.abc import Hashable
from typing import TypeGuard

import torch
from torch import Tensor

from damlpips import checks
from damlpips.checks import is_optimised
from damlpips.models.base import Images, PerceptualDistance
from damlpips.models.references import Keys, as_keys
from damlpips.nets.encoded import Encoded
from damlpips.process import Lock

# The modules that belong to metrics: with a single user of a backbone nothing is kept.
_users: "weakref.WeakSet[PerceptualDistance]" = weakref.WeakSet()
_users_lock = Lock()  # a set that grows in one thread cannot be listed in another


def enrol(model: PerceptualDistance) -> None:
    """Count a metric's module among those that may share passes."""
    with _users_lock:
        _users.add(model)


def _others(model: PerceptualDistance) -> list[PerceptualDistance]:
    with _users_lock:
        return [user for user in _users if user is not model]


class _Snapshot:
    """A tensor as it was: the object, its version, and on the CPU its values."""

    def __init__(self, x: Tensor, forget: "weakref.ReferenceType[_Pass]") -> None:
        def died(_: object) -> None:
            if (owner := forget()) is not None:
                owner.maps = None

        self.tensor = weakref.ref(x, died)
        self.version = _version(x)
        # NumPy can write into a CPU tensor's memory without any trace in the version
        self.values = x.detach().clone() if x.device.type == "cpu" else None

    def is_still(self, x: Tensor) -> bool:
        same = self.tensor() is x and self.version == _version(x)
        return same and (self.values is None or torch.equal(self.values, x))


def _version(x: Tensor) -> int | None:
    return None if x.is_inference() else x._version


class _Pass:
    """The feature maps of one pair."""

    def __init__(self, key: Hashable, x: Tensor, y: Tensor, maps: tuple[Encoded, Encoded]) -> None:
        self.key = key
        self.maps: tuple[Encoded, Encoded] | None = maps
        me = weakref.ref(self)
        self.x, self.y = _Snapshot(x, me), _Snapshot(y, me)

    def maps_for(self, key: Hashable, x: Tensor, y: Tensor) -> tuple[Encoded, Encoded] | None:
        return self.maps if self.key == key and self.x.is_still(x) and self.y.is_still(y) else None


class _Last(threading.local):
    seen: _Pass | None = None


_last = _Last()


def _can_be_kept(x: object) -> TypeGuard[Tensor]:
    # Inference tensors have no version: on the CPU their values are compared, elsewhere a change would go unseen.
    return isinstance(x, Tensor) and (x.device.type == "cpu" or not x.is_inference())


def encoded_pair(
    model: PerceptualDistance, x: Images, y: Images, reference_key: Keys | None = None
) -> tuple[Images, Images]:
    """Return `model.compare(x, y)`, from the last pass where another metric has just run these images through it.

    Images that are compared tile by tile come back checked: there are no whole maps of them to share. So do those that
    nobody else sees and that the module runs through the network in a way of its own; with keys they come back as they
    were, to be given to the module with their keys.
    """
    if model.tiling is not None:
        pair = model.checked(x, y)
        if isinstance(pair[0], Tensor) and model.is_tiled(checks.size_of(pair[0])):
            return pair
    if not (_can_be_kept(x) and _can_be_kept(y)) or y.ndim != 4:
        return model.compare(x, y, reference_key=reference_key)
    keys = None if reference_key is None else as_keys(reference_key, len(y))
    compare = functools.partial(model.compare, reference_key=keys)
    size = checks.size_of(y)
    conditions = model.encoding_key(size)
    if not any(other.encoding_key(size) == conditions for other in _others(model)):
        if not model.takes_images(x, y):
            return compare(x, y)
        pair = model.checked(x, y)
        return pair if keys is None else (x, y)  # a key stands for the image as it came
    # one graph for two metrics could be walked back only once
    if is_optimised(x) or is_optimised(y):
        return compare(x, y)
    key = conditions, keys
    if _last.seen is not None and (maps := _last.seen.maps_for(key, x, y)) is not None:
        return maps
    _last.seen = None  # freed before the next pass needs the memory
    maps = compare(x, y)
    _last.seen = _Pass(key, x, y, maps)
    return maps
