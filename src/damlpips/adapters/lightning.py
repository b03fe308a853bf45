"""The worst pairs of a validation as pictures in the log: a callback for Lightning."""

import heapq
import itertools
import math
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor

from damlpips.adapters.torchmetrics.accumulate import PerceptualMetric
from damlpips.models.base import PerceptualDistance
from damlpips.report import heat
from damlpips.report.figure import displayed

_PACKAGES = ("lightning.pytorch", "pytorch_lightning")

Pairs = Callable[[Any, Any], tuple[Tensor, Tensor] | None]


def _callback() -> Any:
    """Return the `Callback` of the package that is in use, or else of the one that is installed."""
    for package in sorted(_PACKAGES, key=lambda name: name not in sys.modules):
        try:
            return import_module(f"{package}.callbacks").Callback
        except ModuleNotFoundError as error:
            if error.name is None or not package.startswith(error.name):
                raise  # it is installed, and something that it needs is not
    raise ImportError("neither lightning nor pytorch_lightning is installed: pip install 'damlpips[lightning]'")


_Callback: Any = _callback()


class _Kept(NamedTuple):
    """A pair as it was scored, (1, 3, H, W) twice, on the CPU. Of equal scores the earlier pair counts as worse."""

    score: float
    order: int
    where: str
    img: Tensor
    ref: Tensor


class PerceptualMapLogger(_Callback):
    """Log the k worst pairs of each validation epoch as pictures: reference, distorted image, and where they differ.

    A picture is (3, H, 3W). Its right third is the heat map of `damlpips map`: `spatial_map` in colours over the image
    in grey, each pair on its own scale. It says where the images differ, the score beside it by how much. Pictures
    are named `TAG/1`, the worst, to `TAG/k`; each of several validation data loaders has its own k,
    `TAG/dataloader_0/1` and so on. They go to

    - TensorBoard, and every logger whose `experiment` has `add_image`; scores as text under the same name;
    - loggers that have `log_image(key, images, step, caption=[...])`, as that of Weights & Biases.

    Where no logger takes images, there is one warning and nothing else. Sanity checks are not logged. Of several
    processes only the first logs, the worst of its share: no process waits for another.

    Only k pairs a loader are kept, on the CPU, however long the epoch. Training is unaffected: no gradients, no random
    numbers, no state in checkpoints. Each batch is scored once more and its scores are read back, which waits for the
    GPU; a network shared with the step's metric is in memory once.

    Args:
        model: a module or a metric of this package; of images, not videos. It is moved to the device of training.
        pairs: `pairs(outputs, batch)` returns `(img, ref)`, each (N, 3, H, W), or None to pass a batch over, from what
            `validation_step` returned. None: it returns that pair itself, or a mapping with `img` and `ref`.
        k: how many, at least 1.
        tag: what pictures are named by; None: `worst_damlpips` or `worst_lpips`.

    Raises:
        TypeError, ValueError: bad options; in validation what `validation_step` returned, or images that the module
            refuses.
        ImportError: matplotlib is not installed; on import, neither `lightning` nor `pytorch_lightning` is.

    Example:
        >>> from damlpips import DAMLPIPS
        >>> from damlpips.adapters.lightning import PerceptualMapLogger
        >>> callback = PerceptualMapLogger(DAMLPIPS(), pairs=lambda outputs, batch: (outputs["restored"], batch[1]))
        >>> callback.tag, callback.k
        ('worst_damlpips', 4)
    """

    def __init__(
        self,
        model: PerceptualDistance | PerceptualMetric,
        *,
        pairs: Pairs | None = None,
        k: int = 4,
        tag: str | None = None,
    ) -> None:
        super().__init__()
        heat.require_matplotlib("lightning")
        module = model.model if isinstance(model, PerceptualMetric) else model
        if not isinstance(module, PerceptualDistance):
            raise TypeError(f"model: expected a module or a metric of damlpips, got {type(model).__name__}")
        if module.video:
            raise ValueError("model: expected one of images, got one with video=True")
        if module.source.channels != 3:
            raise ValueError(f"model: expected one of images with 3 channels, got one with {module.source.channels}")
        if "spatial" not in (comparison := getattr(module, "comparison", "spatial")):
            raise ValueError(f"model: comparison={comparison!r} has no places to show: use one with 'spatial' in it")
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise ValueError(f"k: expected a whole number of at least 1, got {k!r}")
        self.model = module
        self.pairs = _returned if pairs is None else pairs
        self.k = k
        self.tag = f"worst_{type(module).__name__.lower()}" if tag is None else tag
        self._warned = False
        self._forget()

    def _forget(self) -> None:
        self._sinks: list[_Sink] = []
        self._worst: dict[int, list[_Kept]] = {}  # a heap for each data loader, the least bad first
        self._order = itertools.count(0, -1)

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Start over, on the first process and if a logger takes images."""
        self._forget()
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        self._sinks = [sink for logger in trainer.loggers if (sink := _sink(logger)) is not None]
        if self._sinks:
            with torch.inference_mode(False):  # a network that is loaded here may later serve training
                self.model.to(pl_module.device).load()
        elif not self._warned:
            self._warned = True
            named = ", ".join(type(logger).__name__ for logger in trainer.loggers) or "no logger"
            warnings.warn(
                f"{type(self).__name__} logs nothing: expected a logger whose experiment has add_image, or with"
                f" log_image, got {named}",
                UserWarning,
                stacklevel=2,
            )

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Score a batch, and keep those of its pairs that are among the k worst so far."""
        if not self._sinks:
            return
        heap = self._worst.setdefault(dataloader_idx, [])
        if (pair := self.pairs(outputs, batch)) is None:
            return
        img, ref = _checked(pair)
        with torch.inference_mode(False), torch.no_grad():
            scores = self.model.per_layer(img, ref).sum(1).tolist()
            for n, score in enumerate(scores):
                order = next(self._order)
                if not math.isfinite(score) or (len(heap) == self.k and (score, order) < heap[0][:2]):
                    continue
                # copied: a slice would hold its whole batch
                copies = (x[n : n + 1].detach().to("cpu", copy=True) for x in (img, ref))
                heapq.heappush(heap, _Kept(score, order, f"batch {batch_idx}, image {n}", *copies))
                if len(heap) > self.k:
                    heapq.heappop(heap)

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Log the pictures."""
        several = len(self._worst) > 1
        for loader, heap in sorted(self._worst.items()):
            tag = f"{self.tag}/dataloader_{loader}" if several else self.tag
            for rank, kept in enumerate(sorted(heap, key=lambda kept: kept[:2], reverse=True), start=1):
                with torch.inference_mode(False), torch.no_grad():
                    shown = picture(self.model, kept.img.to(pl_module.device), kept.ref.to(pl_module.device))
                caption = f"{type(self.model).__name__} {kept.score:.4f}, {kept.where}"
                for sink in self._sinks:
                    sink(f"{tag}/{rank}", shown, caption, trainer.global_step)
        self._forget()


def _returned(outputs: Any, batch: Any) -> Any:
    """Return the pair that `validation_step` returned."""
    if isinstance(outputs, Mapping) and {"img", "ref"} <= outputs.keys():
        return outputs["img"], outputs["ref"]
    if isinstance(outputs, Sequence) and len(outputs) == 2:
        return outputs
    what = f"a mapping with {', '.join(map(repr, outputs))}" if isinstance(outputs, Mapping) else type(outputs).__name__
    raise TypeError(
        f"validation_step: expected it to return (img, ref), or a mapping with 'img' and 'ref', got {what}: return"
        " them, or pass pairs=lambda outputs, batch: (img, ref)"
    )


def _checked(pair: Any) -> tuple[Tensor, Tensor]:
    if isinstance(pair, Sequence) and len(pair) == 2 and all(isinstance(x, Tensor) for x in pair):
        return pair[0], pair[1]
    kinds = ", ".join(type(x).__name__ for x in pair) if isinstance(pair, Sequence) else type(pair).__name__
    raise TypeError(f"pairs: expected two tensors (img, ref), got {kinds}")


# --- Pictures -------------------------------------------------------------------------------------------------------


def picture(model: PerceptualDistance, img: Tensor, ref: Tensor) -> Tensor:
    """Return the reference, the distorted image and the heat map side by side, (3, H, 3W) in [0, 1], on the CPU.

    Args:
        img, ref: one image each, (1, 3, H, W), as the module takes them.
    """
    x, y = (displayed(v[0], model.value_range) for v in model.checked(img, ref) if isinstance(v, Tensor))
    values = model.spatial_map(img, ref)[0, 0].float().cpu().numpy()
    coloured = heat.overlay(values, x.permute(1, 2, 0).numpy(), heat.limit(values))
    return torch.cat([y, x, torch.from_numpy(coloured).permute(2, 0, 1).float()], 2)


# --- Loggers --------------------------------------------------------------------------------------------------------

_Sink = Callable[[str, Tensor, str, int], None]


def _sink(logger: Any) -> _Sink | None:
    """Return what takes a name, a picture, its caption and the step to a logger; None where it takes no images."""
    if callable(log_image := getattr(logger, "log_image", None)):

        def log(name: str, shown: Tensor, caption: str, step: int) -> None:
            # bytes with channels last, which every image library takes
            pixels = (shown * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
            log_image(key=name, images=[pixels], step=step, caption=[caption])

        return log
    experiment: Any = getattr(logger, "experiment", None)
    if not callable(getattr(experiment, "add_image", None)):
        return None

    def add(name: str, shown: Tensor, caption: str, step: int) -> None:
        experiment.add_image(name, shown, step)
        if callable(add_text := getattr(experiment, "add_text", None)):
            add_text(name, caption, step)

    return add
