"""Distances of all pairs of two sets of images, each image run through the backbone once."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from damlpips.models import inputs
from damlpips.models.base import PerceptualDistance
from damlpips.models.encoder import Images
from damlpips.models.inputs import Pair
from damlpips.nets.encoded import Encoded
from damlpips.ops.execution import batches, recomputed

# Values of the images in one pass through the backbone, ten of 256 x 256: enough to keep it busy.
PASS_VALUES = 1 << 21
# Bytes of the feature maps on each side of a block. Comparing them takes a few times as much memory, which is less than
# a pass through most networks.
BLOCK_BYTES = 1 << 26


def distances(model: PerceptualDistance, x: Images, y: Images | None = None, *, block: int | None = None) -> Tensor:
    """Return the distance of each x_i and y_j, (N, M); without y of each x_i and x_j, each pair once and 0 for i = j.

    `damlpips.functional.pairwise` says what goes in and what is raised.
    """
    if block is not None and (isinstance(block, bool) or not isinstance(block, int)):
        raise TypeError(f"block: expected None or a number of pairs, got {block!r}")
    if block is not None and block < 1:
        raise ValueError(f"block: expected at least one pair, got {block}")
    if model.settings.video:
        raise ValueError("pairwise: compares images, got a module with video=True: use one without")
    alone = y is None or y is x
    rows = _encoded(model, x, what="x")
    columns = rows if y is None or y is x else _encoded(model, y, what="y")
    if rows[0].size != columns[0].size:
        sizes = " and ".join(f"{height} x {width}" for height, width in (rows[0].size, columns[0].size))
        raise ValueError(f"x and y: expected images of one size, got {sizes}: use resize=(height, width)")
    n, m = sum(map(len, rows)), sum(map(len, columns))
    matrix = torch.zeros(n * m, dtype=model.encoder.exact_dtype, device=rows[0].device)
    if found := list(_blocks(model, rows, columns, alone, block)):  # a single image has no pair
        places, scores = (torch.cat(parts) for parts in zip(*found, strict=True))
        matrix = matrix.index_put((places,), scores)
    matrix = matrix.reshape(n, m)
    return matrix + matrix.T if alone else matrix


def _encoded(model: PerceptualDistance, x: Images, *, what: str) -> list[Encoded]:
    """Run images through the backbone in parts; joining the parts would double the memory."""
    if isinstance(x, Encoded):
        model.prepared(x, x)  # checks it
        count = max(1, PASS_VALUES // x.seen[0].numel())
        return [x[part] for part in batches(x, count)]
    images, size = inputs.alone(x, model.settings, model.encoder, what=what)
    return [model.encode_checked(part, size) for part in images.split(max(1, PASS_VALUES // images[0].numel()))]


def _blocks(
    model: PerceptualDistance, rows: Sequence[Encoded], columns: Sequence[Encoded], alone: bool, block: int | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the positions in the flattened matrix and the scores of some pairs at a time; if `alone`, only i < j."""
    m = sum(map(len, columns))
    count = block or max(1, BLOCK_BYTES // rows[0][:1].nbytes)
    for start_a, a in _placed(rows):
        for start_b, b in _placed(columns):
            if alone and start_b < start_a:
                continue
            if alone and start_a == start_b:
                i, j = torch.triu_indices(len(a), len(a), offset=1, device=a.device)
            else:
                places = torch.arange(len(a) * len(b), device=a.device)
                i, j = places // len(b), places % len(b)
            for some_i, some_j in zip(i.split(count), j.split(count), strict=True):
                if len(some_i):  # one image has no pair with itself
                    yield (some_i + start_a) * m + some_j + start_b, _scores(model, a, b, some_i, some_j)


def _placed(parts: Sequence[Encoded]) -> Iterator[tuple[int, Encoded]]:
    start = 0
    for part in parts:
        yield start, part
        start += len(part)


def _scores(model: PerceptualDistance, a: Encoded, b: Encoded, i: Tensor, j: Tensor) -> Tensor:
    def compare(*_: Tensor) -> Tensor:
        return model.compared(Pair(a.take(i), b.take(j), a.size)).sum(1)

    # the intermediate results of all blocks would not fit in memory
    return recomputed(compare, [*a.features, a.seen, *b.features, b.seen])
