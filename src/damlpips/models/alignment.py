"""What moved between two images, as the network sees them, and both brought to the middle of the way."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from damlpips.checks import is_optimised
from damlpips.models.encoder import Encoder, Size, resized, scaled_to
from damlpips.models.inputs import Pair
from damlpips.nets.encoded import Encoded
from damlpips.ops import coverage, displacement, distance
from damlpips.ops.displacement import Field
from damlpips.ops.execution import full_precision, on_cpu
from damlpips.ops.fused import motion_kernels
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


def found(x: Tensor, y: Tensor, mask: Tensor | None = None) -> Motion | None:
    """Return what moved from x to y, (N, C, H, W) in [0, 1]; None where it is known that nothing did.

    With a mask, (N, 1, H, W), it is what moved of what that covers; beyond it, images are continued.

    The size of the motion has gradients; the field, the share and what is unexplained are held fixed.
    """
    with full_precision(x.device):
        levels = _levels(x, y, mask)
        luma = _middle(levels.x[0], levels.y[0], levels, None if levels.masks is None else levels.masks[0])
    return None if luma is None else luma.motion


def middle(x: Tensor, y: Tensor, mask: Tensor | None = None) -> Middle | None:
    """Return what `found` does, and the images aligned."""
    with full_precision(x.device):
        return _middle(x, y, _levels(x, y, mask), mask)


class Levels(NamedTuple):
    """The luma of both images, fine to coarse, and how much of each place a mask covers, None for all."""

    x: list[Tensor]
    y: list[Tensor]
    masks: list[Tensor] | None = None

    def take(self, indices: Tensor) -> "Levels":
        """Return those of some pairs."""
        masks = None if self.masks is None else [m[indices] for m in self.masks]
        return Levels([m[indices] for m in self.x], [m[indices] for m in self.y], masks)


def _luma(images: Tensor) -> Tensor:
    """Return the luma of images in colour, the mean of others, no larger than a field is found on."""
    if images.shape[1] != 3:
        luma: Tensor = images.mean(1, keepdim=True)
    elif not is_optimised(images) and (kernels := motion_kernels(images)) is not None:
        luma = kernels.luma(images, LUMA)
    else:
        red, green, blue = images.split(1, 1)
        luma = torch.add(torch.add(red * LUMA[0], green, alpha=LUMA[1]), blue, alpha=LUMA[2])
    size = luma.shape[2], luma.shape[3]
    return luma if min(size) <= FIELD_SIDE else resized(luma, scaled_to(size, FIELD_SIDE))


def _levels(x: Tensor, y: Tensor, mask: Tensor | None) -> Levels:
    of_x, of_y = (displacement.pyramid(_luma(images)) for images in (x, y))
    if mask is None:
        return Levels(of_x, of_y)
    return Levels(of_x, of_y, displacement.pyramid(coverage.on_grid(mask, of_x[0])))


def _middle(x: Tensor, y: Tensor, levels: Levels, mask: Tensor | None = None) -> Middle | None:
    with torch.no_grad():
        coarse = _coarse(levels)
    if coarse is None:
        return None
    field, share = coarse
    if not on_cpu(share):  # reading values would make an accelerator wait, and stop what follows the operations
        return _refined(x, y, levels, field, share, mask)
    moved = share.nonzero()[:, 0]
    if len(moved) == 0:
        return None
    if len(moved) == len(share):
        return _refined(x, y, levels, field, share, mask)
    # what is refined has the masks of its levels
    some = Field(field.by[moved], field.trust[moved])
    of_some = None if mask is None else mask[moved]
    part = _refined(x[moved], y[moved], levels.take(moved), some, share[moved], of_some)
    none = torch.zeros_like(share)
    still = Motion(torch.zeros_like(field.by), none, none, none, torch.ones_like(share))

    def put(whole: Tensor, some: Tensor) -> Tensor:
        return whole.index_copy(0, moved, some)

    return Middle(put(x, part.x), put(y, part.y), Motion(*map(put, still, part.motion)))


def _coarse(levels: Levels) -> tuple[Field, Tensor] | None:
    """Return the field on the coarse levels, and how far each pair counts as moved; None where none does."""
    luma = levels.x, levels.y
    kernels = None if levels.masks is not None else motion_kernels(levels.x[0], levels.y[0])
    if kernels is not None:
        found: tuple[Field, Tensor] = kernels.coarse_field(*luma)
        return found
    hint = displacement.coarse_field(*luma, displacement.HINT_LEVEL, masks=levels.masks)
    hinted = displacement.hinted_share(_explained(levels, displacement.HINT_LEVEL, hint))
    if on_cpu(hinted) and not hinted.any():
        return None
    field = displacement.coarse_field(*luma, displacement.GRID_LEVEL, hint, levels.masks)
    explained = _explained(levels, displacement.GRID_LEVEL, field)
    return field, displacement.moved_share(explained, displacement.extent(field).size) * hinted


def _explained(levels: Levels, level: int, field: Field) -> Tensor:
    mask = None if levels.masks is None else levels.masks[level]
    return displacement.explained(levels.x[level], levels.y[level], field.by, mask)


def _refined(x: Tensor, y: Tensor, levels: Levels, field: Field, share: Tensor, mask: Tensor | None) -> Middle:
    field, extent = displacement.refined(levels.x, levels.y, field, levels.masks)
    if levels.masks is not None:
        with torch.no_grad():
            share = share * displacement.kept_share(levels.masks[0], field.by)
    motion = Motion(field.by.detach(), share, *extent, torch.ones_like(share))
    a, b = aligned(x, y, motion)
    if mask is not None:
        a, b = _continued(a, b, mask, motion)
    with torch.no_grad():
        fine = levels.x[0], levels.y[0]
        # what is aligned has the luma aligned, unless that is smaller
        of_a, of_b = map(_luma, (a, b)) if fine[0].shape[2:] == x.shape[2:] else aligned(*fine, motion)
        masks = None if levels.masks is None else (levels.masks[0], mask_in_middle(levels.masks[0], motion))
        unexplained = displacement.left_of(*fine, of_a, of_b, masks)
    return Middle(a, b, motion._replace(unexplained=unexplained))


def aligned(x: Tensor, y: Tensor, motion: Motion, rows: Span | None = None) -> tuple[Tensor, Tensor]:
    """Return images in the middle frame, or some rows of them; those in which nothing moved are as they were."""
    return displacement.aligned(x, y, motion.field, motion.share, rows)


def mask_in_middle(mask: Tensor, motion: Motion | None) -> Tensor:
    """Return how much of each place of the middle frame a mask, (N, 1, H, W), covers in both images."""
    if motion is None:
        return mask
    return torch.where(motion.share[:, None, None, None] > 0, _seen_in(mask, motion)[2], mask)


def _seen_in(mask: Tensor, motion: Motion) -> tuple[Tensor, Tensor, Tensor]:
    """Return how much of each place of the middle frame a mask covers in the first image, in the second, in both."""
    with torch.no_grad():
        u = motion.field.to(mask.dtype) * motion.share[:, None, None, None].to(mask.dtype)
        at = displacement.halfway(u, mask)
        a, b = (displacement.sampled(mask, p) for p in at)
        both = torch.minimum(a, b)
        # never nothing at all: what is left after a part of the way may be less than after all of it
        return a, b, torch.where(both.amax((1, 2, 3), keepdim=True) > 0, both, mask)


def _continued(a: Tensor, b: Tensor, mask: Tensor, motion: Motion) -> tuple[Tensor, Tensor]:
    """Return aligned images that are continued from what the mask covers in both."""
    *each, both = _seen_in(mask, motion)
    moved = motion.share[:, None, None, None] > 0

    def of(image: Tensor, own: Tensor) -> Tensor:
        # what is covered in this image only in part is continued there already
        kept = torch.where(own > 0, both / own.clamp(min=coverage.LEAST), 0).clamp(max=1)
        found = torch.lerp(coverage.continued(image, both), image, kept.to(image.dtype))
        return torch.where(moved, found, image)

    return of(a, each[0]), of(b, each[1])


class Aligned(NamedTuple):
    """The feature maps of two batches in the middle frame, and what moved; None where nothing did.

    Attributes:
        mask: how much of each place counts, at the size of the images; None: all.
    """

    x: Encoded
    y: Encoded
    motion: Motion | None
    mask: Tensor | None = None


def encoded(encoder: Encoder, pair: Pair, still: Callable[[Pair], tuple[Encoded, Encoded]]) -> Aligned:
    """Return the feature maps of a pair of batches, aligned.

    Args:
        still: encodes, as it is, a pair of which one side is encoded or may be kept.
    """
    # on a GPU, which is not asked what moved, all go through the network again: nothing that is kept saves a pass
    if pair.is_images and (not pair.names or pair.given[0].device.type == "cuda"):
        return of_seen(encoder, *seen_pair(encoder, pair), pair.size)
    x, y = still(pair)
    both = middle(*(unit(encoder, _checked(side)) for side in (x, y)))
    return Aligned(x, y, None) if both is None else Aligned(*_replaced(encoder, x, y, both), both.motion)


def of_seen(encoder: Encoder, x: Tensor, y: Tensor, size: Size, mask: Tensor | None = None) -> Aligned:
    """Return the feature maps of images that have the size that the network sees, aligned.

    Args:
        mask: how much of each place counts, (N, 1, *size); None: all.
    """
    both = middle(unit(encoder, x), unit(encoder, y), coverage.on_grid(mask, x))
    if both is None:
        return Aligned(*encoder.pair_of_seen(x, y, size), None, mask)
    x, y = (in_range(encoder, images) for images in (both.x, both.y))
    mask = None if mask is None else mask_in_middle(mask, both.motion)
    return Aligned(*encoder.pair_of_seen(x, y, size), both.motion, mask)


def masked(encoder: Encoder, pair: Pair, *, aligns: bool) -> Aligned:
    """Return the feature maps of a pair of batches with a mask."""
    x, y = seen_pair(encoder, pair)
    mask = coverage.on_grid(pair.mask, x.new_empty(()).expand(1, 1, *pair.size))
    if aligns:
        return of_seen(encoder, x, y, pair.size, mask)
    return Aligned(*encoder.pair_of_seen(x, y, pair.size), None, mask)


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
