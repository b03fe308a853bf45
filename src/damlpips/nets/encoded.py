"""Feature maps of a batch of images, standing in for the images in either place of a comparison."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from damlpips.checks import ValueRange


@dataclass(frozen=True, eq=False)
class Encoded:
    """The feature maps of a batch of images, standing in for the images in either place of a comparison.

    Attributes:
        features: one (N, C_l, H_l, W_l) a layer.
        size: height and width of the images, in pixels.
        origin: identifies what made it; only a module with the same backbone, weights and scaling can use it.
        seen: the images that the network saw, (N, 3, h, w): scaled down if they were large, in `value_range` or uint8.
        value_range: of the images if they are floats.
        adapted: whether `seen` holds the adapted colours that DAMLPIPS compares; of a reference it keeps these, so that
            they are computed once.
    """

    features: tuple[Tensor, ...]
    size: tuple[int, int]
    origin: Hashable
    seen: Tensor
    value_range: ValueRange
    adapted: bool = False

    @property
    def bounds(self) -> ValueRange:
        """The range of `seen`."""
        return (0.0, 255.0) if self.seen.dtype == torch.uint8 else self.value_range

    def pixels(self, dtype: torch.dtype, part: slice = slice(None)) -> Tensor:
        """Return the images that the network saw, or some of them, in [0, 1]."""
        low, high = self.bounds
        pixels = self.seen[part].to(dtype)
        return pixels if (low, high) == (0, 1) else (pixels - low) / (high - low)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Encoded":
        return replace(self, features=tuple(change(f) for f in self.features), seen=change(self.seen))

    def __len__(self) -> int:
        return self.features[0].shape[0]

    def __getitem__(self, index: slice) -> "Encoded":
        """Return some of the images, by slice."""
        if not isinstance(index, slice):
            raise TypeError(f"Encoded: expected a slice, as in encoded[2:3], got {type(index).__name__}")
        return self._each(lambda t: t[index])

    def take(self, indices: Tensor) -> "Encoded":
        """Return the images with the indices (K,), in this order; an image may occur more than once."""

        def taken(t: Tensor) -> Tensor:
            if t.is_contiguous():
                return t.index_select(0, indices)
            # stays channels last: the layout decides the order of sums, and so their last bits
            return t.permute(0, 2, 3, 1).index_select(0, indices).permute(0, 3, 1, 2)

        return self._each(taken)

    @staticmethod
    def joined(parts: "Sequence[Encoded]") -> "Encoded":
        """Concatenate batches of one module and one size."""
        first = parts[0]
        if len(parts) == 1:
            return first
        layers = zip(*(part.features for part in parts), strict=True)
        return replace(
            first, features=tuple(torch.cat(layer) for layer in layers), seen=torch.cat([part.seen for part in parts])
        )

    @property
    def nbytes(self) -> int:
        """The bytes of a copy: of the feature maps and of the images that the network saw."""
        return sum(t.numel() * t.element_size() for t in (*self.features, self.seen))

    def expand(self, n: int) -> "Encoded":
        """Return one image repeated `n` times, without copying its maps."""
        if len(self) != 1:
            raise ValueError(f"Encoded: only one image can be expanded, got {len(self)}")
        return self._each(lambda t: t.expand(n, -1, -1, -1))

    @property
    def device(self) -> torch.device:
        """The device of the feature maps."""
        return self.features[0].device

    def copy(self) -> "Encoded":
        """Return a copy that shares no memory with this one."""
        return self._each(Tensor.clone)

    def detach(self) -> "Encoded":
        """Return the same, detached from the graph."""
        return self._each(Tensor.detach)

    def to(self, device: torch.device | str) -> "Encoded":
        """Return the same on another device."""
        return self._each(lambda t: t.to(device))
