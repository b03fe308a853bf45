"""One backbone pass for all metrics that see the same pair, as in a `MetricCollection`.

The feature maps of the last pair are kept as long as its images live, and only where two metrics could share them. They
are handed out again only for the very same, unchanged images.
"""

import threading
import weakref
from collections.abc import Hashable
from typing import TypeGuard

import torch
from torch import Tensor

from damlpips.models.base import PerceptualDistance
from damlpips.models.encoder import Images
from damlpips.models.inputs import Pair
from damlpips.models.references import Keys, as_keys
from damlpips.models.video import VideoPair
from damlpips.nets.encoded import Encoded
from damlpips.process import Lock

# The modules of all metrics. Where a backbone has a single user, nothing is kept.
_users: "weakref.WeakSet[PerceptualDistance]" = weakref.WeakSet()
_users_lock = Lock()  # a set cannot be iterated over while another thread adds to it


def enrol(model: PerceptualDistance) -> None:
    """Count a metric's module among those that may share passes."""
    with _users_lock:
        _users.add(model)


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
    # Inference tensors have no version: on the CPU their values are compared, elsewhere a change would go unnoticed.
    return isinstance(x, Tensor) and (x.device.type == "cpu" or not x.is_inference())


def shared(
    model: PerceptualDistance, x: Images, y: Images, pair: Pair | VideoPair, reference_key: Keys | None
) -> tuple[Pair | VideoPair, Keys | None]:
    """Return a pair of batches as feature maps, from one pass for all metrics that see it, and the keys still needed.

    What nobody else sees comes back as it is, and so do videos and images that are compared tile by tile, whose feature
    maps would be too large to be kept, and images with a mask.

    Args:
        x, y: the images as they came; a change of theirs is noticed.
        pair: what `model.prepared` made of them.
    """
    alone = pair, reference_key
    if not isinstance(pair, Pair) or pair.mask is not None or model.is_tiled(pair):
        return alone
    if not (_can_be_kept(x) and _can_be_kept(y)):
        return alone
    # two metrics cannot share a graph, which can be walked back only once
    if pair.is_optimised:
        return alone
    keyed = reference_key is not None
    conditions = model.sharing_key(pair.size, keyed=keyed)
    with _users_lock:
        others = [user for user in _users if user is not model]
    if not any(other.sharing_key(pair.size, keyed=keyed) == conditions for other in others):
        return alone
    keys = None if reference_key is None else as_keys(reference_key, len(pair))
    key = conditions, keys
    maps = None if _last.seen is None else _last.seen.maps_for(key, x, y)
    if maps is None:
        _last.seen = None  # freed before the next pass needs the memory
        maps = model.encoded(pair, keys)
        _last.seen = _Pass(key, x, y, maps)
    return Pair(*maps, pair.size), None
