"""Which pixels a place of a feature map sees, and how an image is cut so that each tile's places see all of theirs.

One axis at a time: rows and columns are cut alike. Whole numbers in, whole numbers out; no tensor, no network.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple


@dataclass(frozen=True)
class Window:
    """What a convolution or a pooling does along one axis.

    Place j of its output reads places j stride - before + k dilation of its input, k = 0 to kernel - 1; those outside
    of the input are padding.

    Attributes:
        kernel: how many places it reads.
        stride: the step from one output place to the next, in places of the input.
        before, after: padding on either side.
        dilation: the step between the places that it reads.
        ceil: whether a last window that the input ends in counts (`ceil_mode`).
    """

    kernel: int = 1
    stride: int = 1
    before: int = 0
    after: int = 0
    dilation: int = 1
    ceil: bool = False

    @property
    def reach(self) -> int:
        """The distance from the first to the last place that it reads."""
        return self.dilation * (self.kernel - 1)

    def size(self, size: int) -> int:
        """Return how many places come of `size` places; none where the window does not fit."""
        room = size + self.before + self.after - self.reach - 1
        if not self.ceil:
            return max(0, room // self.stride + 1)
        count = math.ceil(room / self.stride) + 1
        # a window has to begin in the input, or in the padding before it
        return max(0, count - 1 if (count - 1) * self.stride >= size + self.before else count)


class Step(NamedTuple):
    """A step of a network: what it reads, by number, the image being 0; and through which window, None: place by place.

    A step with several sources joins maps of one size.
    """

    sources: tuple[int, ...]
    window: Window | None = None


class Field(NamedTuple):
    """The receptive field: place j of a map sees pixels j stride + first to j stride + last; padding has no pixels."""

    stride: int
    first: int
    last: int


class Span(NamedTuple):
    """Places start, start + 1, ..., stop - 1."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        """How many there are."""
        return self.stop - self.start

    def within(self, other: "Span") -> "Span":
        """Return the same places counted from the start of `other`."""
        return Span(self.start - other.start, self.stop - other.start)


class Cut(NamedTuple):
    """A tile along one axis.

    Attributes:
        own: the pixels that belong to no other tile.
        seen: the pixels that the network sees: `own` and a halo, which ends at the image's border.
        kept: of each feature map that the network makes of `seen`, the places that belong to no other tile. Over all
            tiles they are every place of the map once.
    """

    own: Span
    seen: Span
    kept: tuple[Span, ...]


@dataclass(frozen=True)
class Axis:
    """The geometry of a network along one axis: its steps, and which of them are the feature maps.

    Raises:
        ValueError: steps that join maps of unequal strides.
    """

    steps: tuple[Step, ...]
    maps: tuple[int, ...]

    def __post_init__(self) -> None:
        _ = self._all_fields

    def _each(self, sizes: list[int]) -> list[int]:
        for step in self.steps[1:]:
            size = sizes[step.sources[0]]
            sizes.append(size if step.window is None else step.window.size(size))
        return sizes

    def sizes(self, size: int) -> tuple[int, ...]:
        """Return how many places each feature map of an image of `size` pixels has."""
        every = self._each([size])
        return tuple(every[m] for m in self.maps)

    @cached_property
    def _all_fields(self) -> tuple[Field, ...]:
        fields = [Field(1, 0, 0)]
        for step in self.steps[1:]:
            sources = [fields[s] for s in step.sources]
            strides = {s.stride for s in sources}
            if len(strides) > 1:
                raise ValueError(f"maps of strides {sorted(strides)} are joined")
            (stride,) = strides
            window = step.window or Window()
            fields.append(
                Field(
                    stride * window.stride,
                    min(s.first for s in sources) - stride * window.before,
                    max(s.last for s in sources) + stride * (window.reach - window.before),
                )
            )
        return tuple(fields)

    @property
    def fields(self) -> tuple[Field, ...]:
        """The receptive field of each feature map."""
        return tuple(self._all_fields[m] for m in self.maps)

    @cached_property
    def alignment(self) -> int:
        """A tile starts at a multiple of it: then each step's windows lie where they lie in the whole image."""
        return math.lcm(*(field.stride for field in self._all_fields))

    @cached_property
    def halo(self) -> int:
        """How far beyond the pixels of its own a tile has to see, on the side where it is more."""
        return max(max(-f.first, f.last - (f.stride - 1)) for f in (Field(1, 0, 0), *self.fields))

    def cuts(self, size: int, tile: int, least: int = 1) -> tuple[Cut, ...]:
        """Return the tiles of an image of `size` pixels, each with about `tile` of its own.

        The tiles are about equal. They begin at multiples of `alignment`, which makes one longer than `tile` by that
        much at most.

        Args:
            least: the fewest pixels that the network takes.
        """
        count = math.ceil(size / tile)
        unit = self.alignment
        inner = {unit * round(k * size / (count * unit)) for k in range(1, count)}
        bounds = [0, *sorted(bound for bound in inner if 0 < bound < size), size]
        return tuple(self._cut(Span(*pair), size, least) for pair in pairwise(bounds))

    def _cut(self, own: Span, size: int, least: int) -> Cut:
        # `own.start` is a multiple of each stride; at the image's end the last tile has what is left
        places = [
            Span(min(own.start // f.stride, n), n if own.stop == size else min(own.stop // f.stride, n))
            for f, n in zip(self.fields, self.sizes(size), strict=True)
        ]
        seen = [
            Span(p.start * f.stride + f.first, (p.stop - 1) * f.stride + f.last + 1)
            for f, p in zip(self.fields, places, strict=True)
            if p.length
        ]
        stop = min(size, max([own.stop, *(s.stop for s in seen)]))
        start = max(0, min([own.start, stop - least, *(s.start for s in seen)]))
        start -= start % self.alignment
        whole = Span(start, min(size, max(stop, start + least)))
        kept = tuple(
            p.within(Span(start // f.stride, start // f.stride)) for f, p in zip(self.fields, places, strict=True)
        )
        return Cut(own, whole, kept)


class Tile(NamedTuple):
    """A rectangle of an image."""

    rows: Cut
    columns: Cut


@dataclass(frozen=True)
class Tiling:
    """How images of any size are cut for one network.

    Attributes:
        rows, columns: the network's geometry down and across.
        tile: about how many pixels of its own a tile has a side.
        least: the fewest pixels a side that the network takes.
    """

    rows: Axis
    columns: Axis
    tile: int
    least: int = 1

    def fits(self, size: tuple[int, int]) -> bool:
        """Return whether an image is no larger than a tile."""
        return max(size) <= self.tile

    def grid(self, size: tuple[int, int]) -> Iterator[tuple[Cut, tuple[Cut, ...]]]:
        """Return each row of tiles of an image: its cut down, and its tiles' cuts across."""
        across = self.columns.cuts(size[1], self.tile, self.least)
        for down in self.rows.cuts(size[0], self.tile, self.least):
            yield down, across

    def sizes(self, size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
        """Return the height and the width of each feature map of an image."""
        return tuple(zip(self.rows.sizes(size[0]), self.columns.sizes(size[1]), strict=True))
