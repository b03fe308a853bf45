"""The ways in which a pair of batches is compared. Each is a function of a checked pair, and they nest.

`Chunked(Referenced(whole, ...), 8)` compares eight pairs at a time and does not run a kept reference again. `base`
composes them, in one place.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from damlpips.models import alignment
from damlpips.models.definition import Definition
from damlpips.models.encoder import Encoder
from damlpips.models.inputs import Pair
from damlpips.models.references import ReferenceCache
from damlpips.models.tiled import TiledPair
from damlpips.nets.encoded import Encoded
from damlpips.ops import distance
from damlpips.ops.execution import batches, deterministic_sums
from damlpips.ops.tiling import Tiling

Runner = Callable[[Pair], Tensor]


@dataclass(frozen=True, eq=False)
class Whole:
    """Both batches through the network as a whole, then compared."""

    encode: Encoder
    compare: Callable[[Encoded, Encoded], Tensor]

    def __call__(self, pair: Pair) -> Tensor:
        return self.compare(*self.encode.pair(pair.x, pair.y, pair.size))


@dataclass(frozen=True, eq=False)
class Referenced:
    """As `Whole`, but second images whose feature maps are kept under their name do not go through the network."""

    encode: Encoder
    compare: Callable[[Encoded, Encoded], Tensor]
    cache: ReferenceCache
    to_keep: Callable[[Encoded], Encoded]

    def __call__(self, pair: Pair) -> Tensor:
        return self.compare(*self.encoded(pair))

    def encoded(self, pair: Pair) -> tuple[Encoded, Encoded]:
        """Return the feature maps of both batches, and keep those of new references."""
        wanted = self.cache.find(pair.names, pair.y)
        x, new = self.encode.pair(pair.x, wanted.images, pair.size)
        return x, self.cache.complete(wanted, self.to_keep(new) if wanted.new else new)


@dataclass(frozen=True, eq=False)
class Tiled:
    """One pair, tile by tile, in memory that does not grow with the images."""

    encode: Encoder
    definition: Definition
    compare: Callable[[TiledPair], Tensor]
    tiling: Tiling

    def __call__(self, pair: Pair) -> Tensor:
        x, y = (self.encode.seen(images, pair.size) for images in pair.images)
        motion = None
        if self.definition.aligns:
            motion = alignment.found(alignment.unit(self.encode, x), alignment.unit(self.encode, y))
        if motion is not None:
            x, y = (distance.working(self.encode.floats(images)) for images in (x, y))
        return self.compare(TiledPair(x, y, self.tiling, self._tile, self.encode.exact_dtype, motion))

    def _tile(self, seen: Tensor) -> Encoded:
        return self.definition.of_tile(self.encode.of_seen(seen, (seen.shape[2], seen.shape[3])))


class Compiled:
    """What compares images as the network sees them, through `torch.compile`.

    Made once for a module: it keeps the compiled program.
    """

    def __init__(self, encode: Encoder, compare: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._encode = encode
        self._program: Callable[[Tensor, Tensor], Tensor] = torch.compile(compare)

    def __call__(self, pair: Pair) -> Tensor:
        _ = self._encode.backbone  # loading a file is nothing to compile
        x, y = (self._encode.seen(images, pair.size) for images in pair.images)
        try:
            return self._program(x, y)
        except torch._dynamo.exc.BackendCompilerFailed as error:
            raise RuntimeError(
                f"compile=True: torch.compile failed on {self._encode.device}, which takes a C++ compiler on a CPU and"
                f" Triton on CUDA: install it, or use compile=False ({error})"
            ) from error


@dataclass(frozen=True, eq=False)
class Chunked:
    """A few pairs at a time."""

    run: Runner
    count: int

    def __call__(self, pair: Pair) -> Tensor:
        if len(pair) <= self.count:
            return self.run(pair)
        return torch.cat([self.run(pair[part]) for part in batches(pair, self.count)])


@dataclass(frozen=True, eq=False)
class InOneOrder:
    """With one order of every sum, so that nothing but the pair decides the last bits."""

    run: Runner
    device: torch.device

    def __call__(self, pair: Pair) -> Tensor:
        with deterministic_sums(self.device):
            return self.run(pair)
