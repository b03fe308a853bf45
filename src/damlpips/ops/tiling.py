"""Which pixels a place of a feature map depends on, and how to cut an image into tiles that contain all of them.

Rows and columns are treated alike, one axis at a time. Integers in, integers out; no tensors, no networks.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple


@dataclass(frozen=True)
class Window:
    """What a convolution or a pooling reads along one axis.

    Place j of its output reads the places j stride - before + k dilation of its input, k = 0 to kernel - 1; those
    outside of the input are padding.

    Attributes:
        kernel: how many places it reads.
        stride: the distance between the windows of two neighbouring places of the output.
        before, after: the padding on either side.
        dilation: the distance between two places that it reads.
        ceil: whether a last window that is only partly inside the input counts (`ceil_mode`).
    """

    kernel: int = 1
    stride: int = 1
    before: int = 0
    after: int = 0
    dilation: int = 1
    ceil: bool = False

    @property
    def reach(self) -> int:
        """The distance between the first and the last place that it reads."""
        return self.dilation * (self.kernel - 1)

    def size(self, size: int) -> int:
        """Return the size of the output for an input of `size` places: 0 if the window does not fit."""
        room = size + self.before + self.after - self.reach - 1
        if not self.ceil:
            return max(0, room // self.stride + 1)
        count = math.ceil(room / self.stride) + 1
        # a window must begin in the input, or in the padding before it
        return max(0, count - 1 if (count - 1) * self.stride >= size + self.before else count)


class Step(NamedTuple):
    """A step of a network: the numbers of the steps that it reads, 0 being the image, and its window.

    Without a window it works place by place. A step with several sources combines maps of the same size.
    """

    sources: tuple[int, ...]
    window: Window | None = None


class Field(NamedTuple):
    """A receptive field: place j of a map depends on the pixels j stride + first to j stride + last of the image."""

    stride: int
    first: int
    last: int


class Span(NamedTuple):
    """Places start, start + 1, ..., stop - 1."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        """The number of places."""
        return self.stop - self.start

    def within(self, other: "Span") -> "Span":
        """Return the same places counted from the start of `other`."""
        return Span(self.start - other.start, self.stop - other.start)


class Cut(NamedTuple):
    """A tile along one axis.

    Attributes:
        own: the pixels that belong to no other tile.
        seen: the pixels that the network gets: `own` and a halo, which ends at the border of the image.
        kept: the places that belong to no other tile, in each feature map of `seen`. Together, the tiles keep every
            place of the image's map exactly once.
    """

    own: Span
    seen: Span
    kept: tuple[Span, ...]


@dataclass(frozen=True)
class Axis:
    """The geometry of a network along one axis: its steps, and the numbers of those that are feature maps.

    Raises:
        ValueError: a step combines maps of different strides.
    """

    steps: tuple[Step, ...]
    maps: tuple[int, ...]

    def __post_init__(self) -> None:
        _ = self._all_fields

    def with_image(self, reach: int) -> "Axis":
        """Return the same with one more map, of the image itself, whose places see `reach` pixels on either side."""
        image = Step((0,), Window(2 * reach + 1, before=reach, after=reach))
        return Axis((*self.steps, image), (*self.maps, len(self.steps)))

    def sizes(self, size: int) -> tuple[int, ...]:
        """Return the size of each feature map of an image of `size` pixels."""
        every = [size]
        for step in self.steps[1:]:
            read = every[step.sources[0]]
            every.append(read if step.window is None else step.window.size(read))
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
        """Tiles start at its multiples, so that the windows of every step are where they are in the whole image."""
        return math.lcm(*(field.stride for field in self._all_fields))

    @cached_property
    def halo(self) -> int:
        """How many pixels a tile needs beyond its own, on the side where it needs more."""
        return max(max(-f.first, f.last - (f.stride - 1)) for f in (Field(1, 0, 0), *self.fields))

    def cuts(self, size: int, tile: int, least: int = 1) -> tuple[Cut, ...]:
        """Return the tiles of an image of `size` pixels: about equal ones, of about `tile` pixels without halo.

        They start at multiples of `alignment`, so that some may exceed `tile` by up to that much.

        Args:
            least: the fewest pixels that the network accepts.
        """
        count = math.ceil(size / tile)
        unit = self.alignment
        inner = {unit * round(k * size / (count * unit)) for k in range(1, count)}
        bounds = [0, *sorted(bound for bound in inner if 0 < bound < size), size]
        return tuple(self._cut(Span(*pair), size, least) for pair in pairwise(bounds))

    def _cut(self, own: Span, size: int, least: int) -> Cut:
        # `own.start` is a multiple of every stride; the last tile gets the rest of the image
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
        rows, columns: the geometry of the network down and across.
        tile: about how long a side of a tile is in pixels, without its halo.
        least: the fewest pixels on each side that the network accepts.
    """

    rows: Axis
    columns: Axis
    tile: int
    least: int = 1

    def fits(self, size: tuple[int, int]) -> bool:
        """Return whether an image is no larger than a tile."""
        return max(size) <= self.tile

    def grid(self, size: tuple[int, int]) -> Iterator[tuple[Cut, tuple[Cut, ...]]]:
        """Yield each row of tiles of an image: its cut down, and the cuts across of its tiles."""
        across = self.columns.cuts(size[1], self.tile, self.least)
        for down in self.rows.cuts(size[0], self.tile, self.least):
            yield down, across

    def sizes(self, size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
        """Return the height and the width of each feature map of an image."""
        return tuple(zip(self.rows.sizes(size[0]), self.columns.sizes(size[1]), strict=True))
