"""A cache of the feature maps of references, under their keys: a validation set comes again in every epoch.

Each module has a cache of its own: a key such as 17 stands for another image in another data set. It holds detached
maps on the module's device and survives `reset()` of a metric; it is never saved, copied or pickled, and is emptied
where the module goes to another device or type.
"""

import warnings
import zlib
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from damlpips import checks
from damlpips.models.settings import CACHE_BYTES
from damlpips.nets.encoded import Encoded
from damlpips.ops.execution import is_transformed
from damlpips.process import Lock

# An image is evicted only after this many times as many images as are kept were asked for without it. Otherwise epochs
# over more references than fit would evict each one just before it comes again, and never find any.
PATIENCE = 16

Keys = Sequence[Hashable] | Tensor

# One for all caches: held while a few images are looked up or copied.
_lock = Lock()


class _Mark(NamedTuple):
    """What identifies an image: its shape (C, H, W), and on a CPU a CRC-32 of its values."""

    shape: tuple[int, ...]
    checksum: int | None


class Named(NamedTuple):
    """An image with a key: the key, the slot in which its maps are kept, and what identifies it."""

    key: Hashable
    slot: Hashable
    mark: _Mark


@dataclass
class _Kept:
    """The feature maps of one image, in memory of their own, and when they were last used."""

    mark: _Mark
    maps: Encoded
    used: int


@dataclass(frozen=True)
class Wanted:
    """The references of a batch.

    Attributes:
        named: N of them.
        kept: the maps of those that are kept, by slot.
        new: what identifies each of `images`, by slot.
        images: to be run through the network, each once; where there are none, the encoded batch itself.
    """

    named: Sequence[Named]
    kept: dict[Hashable, Encoded]
    new: dict[Hashable, _Mark]
    images: Tensor | Encoded


def as_keys(keys: Any, n: int) -> tuple[Hashable, ...]:
    """Return the keys of `n` references as a tuple. Reading those of a tensor on an accelerator waits for it.

    Raises:
        TypeError: not a sequence of hashables, or of whole numbers.
        ValueError: not `n` of them.
    """
    if isinstance(keys, Tensor):
        if keys.is_floating_point() or keys.is_complex() or keys.dtype == torch.bool or keys.ndim != 1:
            raise TypeError(
                f"reference_key: expected {n} whole numbers (N,), got {keys.dtype} of shape {tuple(keys.shape)}"
            )
        keys = keys.tolist()
    if isinstance(keys, (str, bytes)) or not isinstance(keys, Sequence):
        raise TypeError(
            f"reference_key: expected a sequence of {n} keys, one a reference, got {type(keys).__name__}: a single key"
            " goes in a list"
        )
    if len(keys) != n:
        raise ValueError(f"reference_key: expected {n} keys, one a reference, got {len(keys)}")
    for key in keys:
        # a tensor is hashed by its identity: it would never be found again
        if key is None or isinstance(key, Tensor) or not isinstance(key, Hashable):
            raise TypeError(f"reference_key: expected keys such as str or int, got {type(key).__name__} among them")
    return tuple(keys)


class ReferenceCache:
    """Feature maps of images with a key, within a number of bytes; the least recently used are evicted first.

    A key stands for one image: of another size it is refused, and on a CPU with any other value, too. On an accelerator
    values are not compared, since reading them would stall it.

    Args:
        limit: bytes that the maps may take; 0 keeps none.

    Attributes:
        nbytes: bytes that the maps take.
        hits, misses: how many images were found, and how many were run through the network, since it was emptied.
    """

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self.limit = checks.byte_limit("reference_cache", limit)
        self._warned = False
        self._clock = 0  # counts images that were asked for
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()
        self.nbytes = self.hits = self.misses = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return ReferenceCache, (self.limit,)  # the maps are of use to this module in this process only

    def __len__(self) -> int:
        return len(self._kept)

    def __repr__(self) -> str:
        return (
            f"ReferenceCache(limit={self.limit}): {len(self)} images in {self.nbytes} bytes,"
            f" {self.hits} hits, {self.misses} misses"
        )

    def clear(self) -> None:
        """Forget all images."""
        with _lock:
            self._kept.clear()
            self.nbytes = self.hits = self.misses = 0

    def named(self, keys: Any, images: Tensor | Encoded, conditions: Hashable) -> list[Named]:
        """Check the keys of a batch of references, and return what to look for.

        Args:
            keys: N of them.
            images: (N, 3, H, W), checked.
            conditions: what feature maps depend on beside the image; those of other conditions are not found.

        Raises:
            TypeError, ValueError: the keys, see `as_keys`; feature maps; images that gradients are taken for.
            ValueError: a key whose image is another than before, or than another of the batch.
        """
        if isinstance(images, Encoded):
            raise TypeError("reference_key: expected images to go with it, got an Encoded, which needs no key")
        if checks.is_optimised(images):
            raise ValueError(
                "reference_key: expected references without gradients, since what is kept has none: detach() them, or"
                " leave reference_key out"
            )
        if is_transformed(images):
            raise ValueError(
                "reference_key: expected images whose values can be kept, not inside torch.func: use encode()"
            )
        names = as_keys(keys, len(images))
        named = [
            Named(name, (conditions, images.dtype, name), _mark(image))
            for name, image in zip(names, images, strict=True)
        ]
        with _lock:
            before = {slot: self._kept[slot].mark for _, slot, _ in named if slot in self._kept}
        for key, slot, mark in named:
            _recognise(key, before.setdefault(slot, mark), mark)
        return named

    def find(self, named: Sequence[Named], images: Any) -> Wanted:
        """Return which of a batch's references are kept, and which have to be run.

        Raises:
            ValueError: another thread came first, with another image of the same key.
        """
        maps: dict[Hashable, Encoded] = {}
        new: dict[Hashable, _Mark] = {}
        chosen: list[Tensor] = []
        with _lock:
            for n, (key, slot, mark) in enumerate(named):
                if (kept := self._kept.get(slot)) is not None:
                    _recognise(key, kept.mark, mark)
                    maps[slot] = kept.maps
                elif slot not in new:
                    new[slot] = mark
                    chosen.append(images[n : n + 1])
            for _, slot, _ in named:
                self._clock += 1
                if slot in maps:
                    self._kept[slot].used = self._clock
                    self._kept.move_to_end(slot)
                    self.hits += 1
            self.misses += len(new)
        if not new:
            return Wanted(named, maps, new, Encoded.joined([maps[slot] for _, slot, _ in named]))
        # joined, since indices would be copied to the device first
        return Wanted(named, maps, new, images if len(new) == len(images) else torch.cat(chosen))

    def complete(self, wanted: Wanted, encoded: Encoded) -> Encoded:
        """Return the maps of all references of a batch, given those of `wanted.images`, and keep what is new."""
        if not wanted.new:
            return encoded
        encoded = encoded.detach()
        maps = dict(wanted.kept)
        for row, (slot, mark) in enumerate(wanted.new.items()):
            maps[slot] = encoded[row : row + 1]
            self._keep(slot, mark, maps[slot])
        if len(wanted.new) == len(wanted.named):
            return encoded
        return Encoded.joined([maps[slot] for _, slot, _ in wanted.named])

    def _keep(self, slot: Hashable, mark: _Mark, maps: Encoded) -> None:
        with _lock:
            if slot in self._kept:  # another thread was faster
                return
            if fits := self._make_room(maps.nbytes):
                # Copied: a slice would keep its whole batch alive. Not as inference tensors: gradients may pass later.
                with torch.inference_mode(False), torch.no_grad():
                    self._kept[slot] = _Kept(mark, maps.copy(), self._clock)
                self.nbytes += maps.nbytes
        if not fits and self.limit and not self._warned:
            self._warned = True
            warnings.warn(
                f"references with a key: {len(self)} of them take {self.nbytes} of reference_cache={self.limit} bytes,"
                " the others are run through the network each time; a larger reference_cache keeps more",
                UserWarning,
                stacklevel=2,
            )

    def _make_room(self, nbytes: int) -> bool:
        """Evict images that have not been used for a long time; return whether there is room for one more."""
        while self.nbytes + nbytes > self.limit:
            if not self._kept:
                return False
            slot, oldest = next(iter(self._kept.items()))
            if self._clock - oldest.used < PATIENCE * len(self._kept):
                return False
            del self._kept[slot]
            self.nbytes -= oldest.maps.nbytes
        return True


def _mark(image: Tensor) -> _Mark:
    if image.device.type != "cpu":
        return _Mark(tuple(image.shape), None)
    values = image.detach().contiguous().view(torch.uint8)
    # takes about a thirtieth of the time of the smallest network
    return _Mark(tuple(image.shape), zlib.crc32(values.numpy().data))


def _recognise(key: Hashable, before: _Mark, now: _Mark) -> None:
    if before == now:
        return
    if before.shape != now.shape:
        what = f"an image of shape {now.shape}, expected {before.shape}, as it came with before"
    else:
        what = "an image of other values than it came with before"
    raise ValueError(
        f"reference_key {key!r}: got {what}; a key stands for one image: use another key, or clear_references() first"
    )
