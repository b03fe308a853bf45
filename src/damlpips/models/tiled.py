"""Pairs compared tile by tile: sums over places are sums over tiles, in memory that does not grow with the image.

A place is compared as in the whole image, since its tile holds every pixel that it sees (`tiling`). Sums over a tile
are added up in float64. With gradients a tile keeps no graph: it runs again in the backward pass.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from damlpips.models.alignment import Motion, aligned
from damlpips.nets.encoded import Encoded
from damlpips.ops import colour, distance
from damlpips.ops.execution import recomputed
from damlpips.ops.tiling import Span, Tile, Tiling

# Computes something of a tile from the maps of both images, cut to the places that no other tile has.
Look = Callable[[Encoded, Encoded], tuple[Tensor, ...]]


@dataclass(frozen=True, eq=False)
class TiledPair:
    """Two images (1, 3, H, W) of one size, as the network sees them, and how to run a tile of either through it.

    Attributes:
        exact: the type of the results.
        motion: what moved between them; the tiles are those of the middle frame.
    """

    x: Tensor
    y: Tensor
    tiling: Tiling
    encode: Callable[[Tensor], Encoded]
    exact: torch.dtype
    motion: Motion | None = None

    @property
    def size(self) -> tuple[int, int]:
        """The height and the width of the images."""
        return self.x.shape[2], self.x.shape[3]

    @property
    def places(self) -> list[int]:
        """How many places each feature map of the whole image has."""
        return [height * width for height, width in self.tiling.sizes(self.size)]

    def rows(self, look: Look) -> Iterator[list[tuple[Tensor, ...]]]:
        """Yield what `look` finds in each tile, row by row."""
        for down, across in self.tiling.grid(self.size):
            # cut in two steps: a cut's gradient is as large as what it was cut from
            strips = self._strips(down.seen)
            yield [self._looked(look, Tile(down, cut), strips) for cut in across]

    def _strips(self, rows: Span) -> list[Tensor]:
        """Return some rows of both images."""
        if self.motion is None:
            return [_rows(image, rows) for image in (self.x, self.y)]
        return list(aligned(self.x, self.y, self.motion, rows))

    def total(self, look: Look) -> list[Tensor]:
        """Return the sum over tiles of each tensor that `look` finds."""
        totals: list[Tensor] | None = None
        for row in self.rows(look):
            for found in row:
                totals = list(found) if totals is None else [t + f for t, f in zip(totals, found, strict=True)]
        if totals is None:
            raise RuntimeError("an image has at least one tile")
        return totals

    def joined(self, look: Look) -> list[Tensor]:
        """Return each map that `look` finds, put together from the tiles."""
        bands = [[torch.cat(maps, 3) for maps in zip(*row, strict=True)] for row in self.rows(look)]
        return [torch.cat(maps, 2) for maps in zip(*bands, strict=True)]

    def _looked(self, look: Look, tile: Tile, strips: Sequence[Tensor]) -> tuple[Tensor, ...]:
        def run(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
            return look(own_part(self.encode(x), tile), own_part(self.encode(y), tile))

        return recomputed(run, [_columns(strip, tile.columns.seen) for strip in strips])


def own_part(encoded: Encoded, tile: Tile) -> Encoded:
    """Return the feature maps of a tile without its halo: the pixels and the places that belong to no other tile."""
    maps = [
        _cut(feature, down, across)
        for feature, down, across in zip(encoded.features, tile.rows.kept, tile.columns.kept, strict=True)
    ]
    own = (cut.own.within(cut.seen) for cut in (tile.rows, tile.columns))
    return replace(encoded, features=tuple(maps), seen=_cut(encoded.seen, *own))


def _rows(x: Tensor, span: Span) -> Tensor:
    return x[:, :, span.start : span.stop]


def _columns(x: Tensor, span: Span) -> Tensor:
    return x[:, :, :, span.start : span.stop]


def _cut(x: Tensor, down: Span, across: Span) -> Tensor:
    part = _columns(_rows(x, down), across)
    if part.shape[2:] != (down.length, across.length):
        raise RuntimeError(
            f"a tile's map has {x.shape[2]} x {x.shape[3]} places, fewer than the network's geometry says: expected"
            f" {down.stop} x {across.stop} at least"
        )
    return part


def _sum(x: Tensor) -> Tensor:
    """Sum over places, (N, C, H, W) to (N, C); in the tile's precision, then widened so that tiles can be added up."""
    return _wide(x.sum((2, 3)))


def _wide(x: Tensor) -> Tensor:
    # Apple's GPUs have no float64
    return x if x.device.type == "mps" else x.double()


# --- LPIPS -----------------------------------------------------------------------------------------------------------

# Both images' feature maps to the maps of their distances, (1, 1, H, W) a layer.
Compare = Callable[[Sequence[Tensor], Sequence[Tensor]], list[Tensor]]


def lpips_layers(pair: TiledPair, compare: Compare, *, spatial: bool, mean: bool) -> Tensor:
    """Return what each layer adds to LPIPS, (1, L).

    Args:
        compare: how maps are compared.
        spatial: whether place is compared with place, tile by tile.
        mean: whether the channels' means over the whole image are compared, when all tiles are summed.
    """

    def look(x: Encoded, y: Encoded) -> tuple[Tensor, ...]:
        of_places = compare(x.features, y.features) if spatial else []
        of_channels = [distance.working(f) for f in (*x.features, *y.features)] if mean else []
        return tuple(map(_sum, [*of_places, *of_channels]))

    places = pair.places
    totals = iter(pair.total(look))
    added = []
    if spatial:
        added.append([next(totals)[:, 0] / count for count in places])
    if mean:
        # a mean is a map of one place
        a, b = ([(next(totals) / count)[:, :, None, None].to(pair.exact) for count in places] for _ in range(2))
        added.append([distance.pool(d) for d in compare(a, b)])
    return torch.stack([torch.stack(layers, 1).to(pair.exact) for layers in added]).sum(0)


def lpips_maps(pair: TiledPair, compare: Compare) -> list[Tensor]:
    """Return the map of each layer's distances, (1, 1, H, W)."""
    return pair.joined(lambda x, y: tuple(compare(x.features, y.features)))


# --- DAMLPIPS --------------------------------------------------------------------------------------------------------


class _Whole(NamedTuple):
    """What is known of a layer of the whole image: statistics whose energy is its mean, (1, 1, 1, 1), and its tint.

    The tint, (1, 3), is the mean colour; of feature maps the mean, which is not used.
    """

    statistics: distance.Statistics
    tint: Tensor


# Both images' adapted colours, and what else is known of their places, to the map of their distances.
CompareImages = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class TiledDamlpips:
    """DAMLPIPS of a pair, tile by tile.

    The weights of channels and places depend on means over the whole image, so tiles run through the network twice:
    once for the statistics, which this object is made of, and once for the distances.

    Args:
        images: how images are compared by their colours and the last map of each tile, which is not a network's.
            None: in place, by the energy of photographs.
    """

    def __init__(
        self,
        pair: TiledPair,
        weighing: distance.Adaptive,
        fuse: distance.Fuse,
        images: CompareImages | None = None,
    ) -> None:
        self.pair, self.weighing, self.fuse, self.images = pair, weighing, fuse, images
        network = pair.places if images is None else pair.places[:-1]
        self.counts = [pair.size[0] * pair.size[1], *network]
        self.x, self.y = self._statistics()

    def _statistics(self) -> tuple[list[_Whole], list[_Whole]]:
        def look(x: Encoded, y: Encoded) -> tuple[Tensor, ...]:
            return (*_moments(self._layers(x)), *_moments(self._layers(y)))

        totals = iter(self.pair.total(look))
        x, y = (
            [
                _whole(next(totals) / count, next(totals) / count, self.pair.exact, is_image=number == 0)
                for number, count in enumerate(self.counts)
            ]
            for _ in range(2)
        )
        return x, y

    def _maps(self, x: Encoded, y: Encoded) -> list[Tensor]:
        """Return the distances of a tile's places, of each layer."""
        maps = []
        for number, (a, b) in enumerate(zip(self._layers(x), self._layers(y), strict=True)):
            if number == 0:
                a, b = colour.adapted(a, self.x[0].tint), colour.adapted(b, self.y[0].tint)
                if self.images is not None:
                    maps.append(self.images(a, b, x.features[-1], y.features[-1]))
                    continue
            place, channel = self._weights(number, a, b)
            maps.append(distance.adaptive_map(a, b, place, channel if number > 0 else None))
        return maps

    def _layers(self, x: Encoded) -> list[Tensor]:
        """Return the colours of a tile, not adapted yet, and the network's maps."""
        exact = distance.working(x.features[0]).dtype
        return [colour.uniform(x.pixels(exact)), *map(distance.working, x.features[: len(self.counts) - 1])]

    def _weights(self, number: int, a: Tensor | None = None, b: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the weights of a layer's places and channels; without maps a place has the mean energy."""
        of_a, of_b = self.x[number].statistics, self.y[number].statistics
        if number == 0:
            places = of_a.mean[:, :, None, None] if a is None else a
            return distance.Fixed(colour.PHOTOGRAPH_ENERGY).weights(of_a._replace(energy=places[:, :1]), of_b)
        if a is not None and b is not None:
            of_a, of_b = (s._replace(energy=_energy(m)) for s, m in ((of_a, a), (of_b, b)))
        return self.weighing.weights(of_a, of_b)

    def _added(self, structure: list[Tensor]) -> Tensor:
        texture = [
            # the mean of 1 / weight is that of a place with the mean energy
            distance.texture_distance(a.statistics, b.statistics, *self._weights(number))
            for number, (a, b) in enumerate(zip(self.x, self.y, strict=True))
        ]
        return self.fuse(torch.stack(structure, 1), torch.stack(texture, 1))

    def layers(self) -> Tensor:
        """Return what each layer adds to the score, (1, 1 + L)."""

        def look(x: Encoded, y: Encoded) -> tuple[Tensor, ...]:
            return tuple(_sum(_wide(d).pow(distance.PEAK_POWER)) for d in self._maps(x, y))

        totals = self.pair.total(look)
        return self._added(
            [_root(t[:, 0] / count).to(self.pair.exact) for t, count in zip(totals, self.counts, strict=True)]
        )

    def maps(self) -> tuple[list[Tensor], Tensor]:
        """Return the map of each layer's distances, (1, 1, H, W), and what each adds to the score, (1, 1 + L)."""
        maps = self.pair.joined(lambda x, y: tuple(self._maps(x, y)))
        return maps, self._added([distance.peak_pool(d) for d in maps])


def _moments(layers: list[Tensor]) -> list[Tensor]:
    """Return the sums over places of each layer's channels and of their squares."""
    image, *features = layers
    # in float64: taking off the tint may leave only a small part of the image's power
    return [_sum(m) for layer in (_wide(image), *features) for m in (layer, layer.square())]


def _energy(a: Tensor) -> Tensor:
    return a.square().sum(1, keepdim=True)


def _whole(mean: Tensor, power: Tensor, exact: torch.dtype, *, is_image: bool) -> _Whole:
    tint = mean
    if is_image:
        # of a - k m, where m is the mean of a: its mean, (1 - k) m, and the mean of its square
        k = colour.ADAPTATION
        mean, power = (1 - k) * tint, power - (2 * k - k * k) * tint.square()
    mean, power = mean.to(exact), power.to(exact)
    return _Whole(distance.Statistics(power.sum(1)[:, None, None, None], mean, power), tint.to(exact))


def _root(mean: Tensor) -> Tensor:
    """Undo the power of `distance.peak_pool`; where the mean is zero, so are the value and its gradient."""
    empty = mean == 0
    return torch.where(empty, 0.0, torch.where(empty, 1.0, mean).pow(1 / distance.PEAK_POWER))
