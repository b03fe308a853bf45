"""Scores for the pairs of a Ray data set, batch by batch: a class for `map_batches`, which does not need Ray itself."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from damlpips.checks import one_of
from damlpips.files import unspelled
from damlpips.models.registry import Metric
from damlpips.scoring.images import ScoringError, Still, decode_still
from damlpips.scoring.pairs import Pair
from damlpips.scoring.reading import Reading, ReadingOptions
from damlpips.scoring.rows import COLUMNS, INTEGER, NUMBER, SCORE, TEXT, Table
from damlpips.scoring.scorer import Item, Picture, Score, Scorer, layer_count, read_picture

if TYPE_CHECKING:
    from numpy import ndarray

ADDED = [column for column in COLUMNS if column.source is SCORE]
# a batch as Ray passes it on, a mapping of columns
Batch = Mapping[str, "ndarray"]


class ScorePairs:
    """Scores the pairs of a batch, and adds the scores to it.

    For `ray.data.Dataset.map_batches`, which builds it once in each actor:
    `pairs.map_batches(ScorePairs, fn_constructor_kwargs={"backbone": "alex"}, batch_size=32, compute=...)`.

    A batch is a mapping of columns, as Ray passes it by default, `batch_format="numpy"`. An image is a path (`str`,
    spelled as in rows of scores, see `damlpips.files.spelled`), the bytes of an image file, or an array, uint8 or float
    in [0, 1], (H, W, 3) or (H, W). Consecutive rows with one reference run it through the network once.

    The result has all columns of the batch and those of `damlpips score` that say how a pair scored: `score` (lower is
    closer), the layers, the size of the distorted image, the SHA-256 of the files, and `error`. Numbers are float64,
    integers int32; a missing number is NaN, a missing integer 0, a missing text empty.

    Args:
        metric: `"damlpips"` or `"lpips"`.
        reference, distorted: the columns that hold the images.
        root: the folder that paths are relative to, if any.
        batch_size: the most pairs that go through the network at once.
        device: a torch device; None for CUDA if the actor has a GPU (`num_gpus=1`), else the CPU.
        options: `alpha`, `colour`, `orientation` and `max_pixels` say how files are read, as for `read_image`; the
            others are those of `damlpips.DAMLPIPS` or `damlpips.LPIPS`: `backbone`, `weights`, `resize`, `tile`, ...

    Raises:
        ValueError: an unknown option. When it is called, KeyError: the batch lacks a column, or has one that would be
            overwritten. A bad image raises nothing: its row says what is wrong.

    Example:
        >>> import numpy as np
        >>> from damlpips.adapters.ray import ScorePairs
        >>> files = {"reference": ["landscape.png"] * 2, "distorted": ["landscape/blur_3.png", "no such.png"]}
        >>> scores = ScorePairs(root="docs/demo")({name: np.array(paths) for name, paths in files.items()})
        >>> [round(score, 1) for score in scores["score"].tolist()], scores["error"][1]
        ([0.9, nan], 'docs/demo/no such.png: No such file or directory')
    """

    def __init__(
        self,
        metric: str = "damlpips",
        *,
        reference: str = "reference",
        distorted: str = "distorted",
        root: str | Path | None = None,
        batch_size: int = 8,
        device: torch.device | str | None = None,
        **options: Any,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
        self._reading = Reading(
            **{name: options.pop(name) for name in ReadingOptions.__annotations__ if name in options}
        )
        self._columns = reference, distorted
        self._root = Path(root) if root is not None else None
        self._batch_size = batch_size
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        model = Metric(one_of("metric", metric, [known.value for known in Metric])).kind(**options)
        if (model.reduction, model.value_range) != ("none", (0.0, 1.0)):
            raise ValueError(
                "expected no reduction and no value_range: rows have a score each, and images their own range"
            )
        self._model = model.to(device).load()
        self._scorer = Scorer(self._model, torch.device(device))
        self._table = Table({}, layer_count(self._model))

    def __call__(self, batch: Batch) -> dict[str, "ndarray"]:
        """Return the batch with the columns of its scores added."""
        references, distorted = (self._column(batch, name) for name in self._columns)
        scores: list[Score] = []
        for start in range(0, len(distorted), self._batch_size):
            rows = range(start, min(start + self._batch_size, len(distorted)))
            scores += self._scorer.scores(self._items(references, distorted, rows))
        # a file of this name may have changed before the next batch
        self._scorer = Scorer(self._model, self._model.anchor.device)
        added = self._added(scores)
        if taken := sorted(added.keys() & batch.keys()):
            raise KeyError(f"the batch has columns {', '.join(taken)} already: rename or drop them")
        return {**batch, **added}

    def _column(self, batch: Batch, name: str) -> "ndarray":
        if name not in batch:
            raise KeyError(f"expected a column {name!r}, the batch has {', '.join(batch)}")
        return batch[name]

    def _items(self, references: "ndarray", distorted: "ndarray", rows: range) -> list[Item]:
        # equal references are read once, and share a name, by which the scorer recognises them
        names = [self._name(self._columns[0], references[row], row) for row in rows]
        for k in range(1, len(rows)):
            if _same(references[rows[k - 1]], references[rows[k]]):
                names[k] = names[k - 1]
        items: list[Item] = []
        for k, row in enumerate(rows):
            repeated = k > 0 and names[k] == names[k - 1]
            first = items[-1].reference if repeated else self._picture(references[row], names[k])
            shared = repeated or names[k] in names[k + 1 : k + 2]
            name = self._name(self._columns[1], distorted[row], row)
            pair = Pair(Path(names[k]), Path(name), name)
            items.append(Item(pair, shared, self._picture(distorted[row], name), first))
        return items

    def _name(self, column: str, value: Any, row: int) -> str:
        if not isinstance(value, (str, Path)):
            return f"{column} of row {row}"
        path = unspelled(value) if isinstance(value, str) else value
        return str(self._root / path if self._root is not None else path)

    def _picture(self, value: Any, name: str) -> Picture:
        if isinstance(value, (str, Path)):
            return read_picture(Path(name), self._reading)
        if isinstance(value, (bytes, bytearray, memoryview)):
            known = hashlib.sha256(value).hexdigest()
            return Picture.of(lambda: decode_still(bytes(value), name, deep=True, reading=self._reading), known)
        return Picture.of(lambda: Still(_pixels(value, name)), "")

    def _added(self, scores: Sequence[Score]) -> dict[str, "ndarray"]:
        import numpy as np

        # batches of NumPy know no null: what is missing is NaN, and 0 in whole numbers
        kinds: dict[str, Any] = {TEXT: object, INTEGER: np.int32, NUMBER: np.float64}
        rows = [self._table.values(ADDED, {SCORE: score}) for score in scores]
        return {
            name: np.array(
                [row[name] or 0 if column.type == INTEGER else row[name] for row in rows], kinds[column.type]
            )
            for column in ADDED
            for name in column.headers(self._table.layers)
        }


def _same(one: Any, other: Any) -> bool:
    """Return whether two values are the same image, if that can be told cheaply."""
    return type(one) is type(other) and isinstance(one, (str, Path, bytes)) and one == other


def _pixels(value: Any, name: str) -> torch.Tensor:
    """Return an array as (3, H, W), uint8 or float32 in [0, 1]."""
    import numpy as np

    if not isinstance(value, np.ndarray):
        raise ScoringError(f"{name}: expected a path, bytes or an array, got {type(value).__name__}")
    grey = value[..., None] if value.ndim == 2 else value
    if grey.ndim != 3 or grey.shape[2] not in (1, 3) or grey.size == 0:
        raise ScoringError(f"{name}: expected (H, W, 3) or (H, W), got {value.shape}")
    if value.dtype != np.uint8 and value.dtype.kind != "f":
        raise ScoringError(f"{name}: expected uint8 or floats in [0, 1], got {value.dtype}")
    if value.dtype != np.uint8:
        grey = grey.astype(np.float32)
        # so written, NaN is refused, too
        if not (grey.min() >= 0 and grey.max() <= 1):
            raise ScoringError(f"{name}: expected floats in [0, 1], got {grey.min():g} to {grey.max():g}")
    pixels = torch.from_numpy(np.ascontiguousarray(grey.transpose(2, 0, 1)).copy())
    return pixels.expand(3, -1, -1).contiguous()
