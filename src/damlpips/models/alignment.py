"""What moved between two images, as the network sees them, and both brought to the middle of the way."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from damlpips.models.encoder import Encoder, Size, resized, scaled_to
from damlpips.models.inputs import Pair
from damlpips.nets.encoded import Encoded
from damlpips.ops import displacement, distance
from damlpips.ops.displacement import Field
from damlpips.ops.execution import full_precision, on_cpu
from damlpips.ops.tiling import Span

# Fields are found on images of this shorter side at most, which is what DAMLPIPS looks at.
FIELD_SIDE = 256
# The luma of ITU-R BT.601.
LUMA = (0.299, 0.587, 0.114)


class Motion(NamedTuple):
    """What moved in N pairs; of a pair in which nothing did, the share is 0.

    Attributes:
        field: the displacement from x to y, (N, 2, h, w), right and down, in shares of the shorter side.
        share: how far the pair counts as moved, (N,), 0 to 1.
        distance, strain: how much it moved, (N,) each; see `displacement.Extent`.
        unexplained: the share of the local differences that is left in the middle frame, (N,).
    """

    field: Tensor
    share: Tensor
    distance: Tensor
    strain: Tensor
    unexplained: Tensor

    @property
    def extent(self) -> Tensor:
        """How far the pair moved and how far its deformation moves the edges of the image, (N,); 0 without motion."""
        return self.share * displacement.Extent(self.distance, self.strain).size


class Middle(NamedTuple):
    """Both images in the middle frame, (N, C, H, W) in [0, 1], and what moved."""

    x: Tensor
    y: Tensor
    motion: Motion


def found(x: Tensor, y: Tensor) -> Motion | None:
    """Return what moved from x to y, (N, C, H, W) in [0, 1]; None where it is known that nothing did.

    The size of the motion has gradients; the field, the share and what is unexplained are held fixed.
    """
    with full_precision(x.device):
        levels = _levels(x, y)
        luma = _middle(levels.x[0], levels.y[0], levels)
    return None if luma is None else luma.motion


def middle(x: Tensor, y: Tensor) -> Middle | None:
    """Return what `found` does, and the images aligned."""
    with full_precision(x.device):
        return _middle(x, y, _levels(x, y))


class Levels(NamedTuple):
    """The luma of both images, fine to coarse."""

    x: list[Tensor]
    y: list[Tensor]

    def take(self, indices: Tensor) -> "Levels":
        """Return those of some pairs."""
        return Levels([m[indices] for m in self.x], [m[indices] for m in self.y])


def _luma(images: Tensor) -> Tensor:
    """Return the luma of images in colour, the mean of others, no larger than a field is found on."""
    if images.shape[1] == 3:
        red, green, blue = images.split(1, 1)
        luma = torch.add(torch.add(red * LUMA[0], green, alpha=LUMA[1]), blue, alpha=LUMA[2])
    else:
        luma = images.mean(1, keepdim=True)
    size = luma.shape[2], luma.shape[3]
    return luma if min(size) <= FIELD_SIDE else resized(luma, scaled_to(size, FIELD_SIDE))


def _levels(x: Tensor, y: Tensor) -> Levels:
    return Levels(*(displacement.pyramid(_luma(images)) for images in (x, y)))


def _middle(x: Tensor, y: Tensor, levels: Levels) -> Middle | None:
    with torch.no_grad():
        hint = displacement.coarse_field(*levels, displacement.HINT_LEVEL)
        hinted = displacement.hinted_share(_explained(levels, displacement.HINT_LEVEL, hint))
        if on_cpu(hinted) and not hinted.any():
            return None
        field = displacement.coarse_field(*levels, displacement.GRID_LEVEL, hint)
        share = displacement.moved_share(
            _explained(levels, displacement.GRID_LEVEL, field), displacement.extent(field).size
        )
        share = share * hinted
    if not on_cpu(share):  # reading values would make an accelerator wait, and stop what follows the operations
        return _refined(x, y, levels, field, share)
    moved = share.nonzero()[:, 0]
    if len(moved) == 0:
        return None
    if len(moved) == len(share):
        return _refined(x, y, levels, field, share)
    part = _refined(x[moved], y[moved], levels.take(moved), Field(field.by[moved], field.trust[moved]), share[moved])
    none = torch.zeros_like(share)
    still = Motion(torch.zeros_like(field.by), none, none, none, torch.ones_like(share))

    def put(whole: Tensor, some: Tensor) -> Tensor:
        return whole.index_copy(0, moved, some)

    return Middle(put(x, part.x), put(y, part.y), Motion(*map(put, still, part.motion)))


def _explained(levels: Levels, level: int, field: Field) -> Tensor:
    return displacement.explained(levels.x[level], levels.y[level], field.by)


def _refined(x: Tensor, y: Tensor, levels: Levels, field: Field, share: Tensor) -> Middle:
    field = displacement.refined(*levels, field)
    motion = Motion(field.by.detach(), share, *displacement.extent(field), torch.ones_like(share))
    a, b = aligned(x, y, motion)
    with torch.no_grad():
        fine = levels.x[0], levels.y[0]
        # what is aligned has the luma aligned, unless that is smaller
        luma = map(_luma, (a, b)) if fine[0].shape[2:] == x.shape[2:] else aligned(*fine, motion)
        unexplained = displacement.left_of(*fine, *luma)
    return Middle(a, b, motion._replace(unexplained=unexplained))


def aligned(x: Tensor, y: Tensor, motion: Motion, rows: Span | None = None) -> tuple[Tensor, Tensor]:
    """Return images in the middle frame, or some rows of them; those in which nothing moved are as they were."""
    share = motion.share[:, None, None, None]
    both = displacement.aligned(x, y, motion.field.to(x.dtype) * share.to(x.dtype), rows)
    part = slice(None) if rows is None else slice(*rows)
    if on_cpu(share) and (share > 0).all():
        return both
    a, b = (torch.where(share > 0, moved, image[:, :, part]) for moved, image in zip(both, (x, y), strict=True))
    return a, b


class Aligned(NamedTuple):
    """The feature maps of two batches in the middle frame, and what moved; None where nothing did."""

    x: Encoded
    y: Encoded
    motion: Motion | None


def encoded(encoder: Encoder, pair: Pair, still: Callable[[Pair], tuple[Encoded, Encoded]]) -> Aligned:
    """Return the feature maps of a pair of batches, aligned.

    Args:
        still: encodes, as it is, a pair of which one side is encoded or may be kept.
    """
    if pair.is_images and not pair.names:
        return of_seen(encoder, *seen_pair(encoder, pair), pair.size)
    x, y = still(pair)
    both = middle(*(unit(encoder, _checked(side)) for side in (x, y)))
    return Aligned(x, y, None) if both is None else Aligned(*_replaced(encoder, x, y, both), both.motion)


def of_seen(encoder: Encoder, x: Tensor, y: Tensor, size: Size) -> Aligned:
    """Return the feature maps of images that have the size that the network sees, aligned."""
    both = middle(unit(encoder, x), unit(encoder, y))
    if both is None:
        return Aligned(*encoder.pair_of_seen(x, y, size), None)
    x, y = (in_range(encoder, images) for images in (both.x, both.y))
    return Aligned(*encoder.pair_of_seen(x, y, size), both.motion)


def seen_pair(encoder: Encoder, pair: Pair) -> tuple[Tensor, Tensor]:
    """Return both batches as the network sees them, before they are aligned."""
    x, y = (_checked(v) if isinstance(v, Encoded) else encoder.seen(v, pair.size) for v in (pair.x, pair.y))
    return x, y


def unit(encoder: Encoder, images: Tensor) -> Tensor:
    """Return images in [0, 1]."""
    low, high = encoder.settings.value_range
    images = distance.working(encoder.floats(images))
    return images if (low, high) == (0, 1) else (images - low) / (high - low)


def in_range(encoder: Encoder, images: Tensor) -> Tensor:
    """Return images in [0, 1] in `value_range`."""
    low, high = encoder.settings.value_range
    return images if (low, high) == (0, 1) else low + images * (high - low)


def _checked(encoded: Encoded) -> Tensor:
    """Return the images that the network saw."""
    if encoded.adapted:
        raise ValueError(
            "encoded images: expected those of a DAMLPIPS of version 2 or of LPIPS, which keep the pixels that are"
            " aligned, got those of version 1: encode them with this module"
        )
    return encoded.seen


def _replaced(encoder: Encoder, x: Encoded, y: Encoded, both: Middle) -> tuple[Encoded, Encoded]:
    """Return feature maps with those of aligned images in place of those that moved."""
    share = both.motion.share
    everyone = not on_cpu(share)
    moved = torch.arange(len(share), device=share.device) if everyone else share.nonzero()[:, 0]
    a, b = (in_range(encoder, images[moved]) for images in (both.x, both.y))
    of_middle = encoder.pair_of_seen(a, b, x.size)

    def put(whole: Tensor, part: Tensor) -> Tensor:
        return part if everyone else whole.index_copy(0, moved, part.to(whole.dtype))

    def replaced(side: Encoded, part: Encoded) -> Encoded:
        maps = tuple(put(*each) for each in zip(side.features, part.features, strict=True))
        return replace(side, features=maps, seen=put(distance.working(encoder.floats(side.seen)), part.seen))

    return replaced(x, of_middle[0]), replaced(y, of_middle[1])
