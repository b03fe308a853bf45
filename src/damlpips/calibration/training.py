"""The fit: heads, and perhaps a network, learned on Lightning's Trainer; how well they agree before and after."""

import json
import logging
import math
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.multiprocessing.spawn import ProcessRaisedException
from torch.utils.data import DataLoader, Sampler

from damlpips.calibration.checkpoints import WholeCheckpoints
from damlpips.calibration.choices import Choices, read
from damlpips.calibration.differences import Progress, channels, network
from damlpips.calibration.images import loader
from damlpips.calibration.learner import FitError, Learner, Part
from damlpips.calibration.outcomes import MeanOutcome, Outcome, outcomes
from damlpips.calibration.recipe import DEFAULT_PRECISION, PRECISIONS, Recipe
from damlpips.calibration.split import held_out
from damlpips.calibration.subjects import Heads, Network, Subject
from damlpips.evaluation.figures import SetFigures
from damlpips.evaluation.judgements import JudgedSet
from damlpips.models.lpips import LPIPS
from damlpips.report.intervals import Difference
from damlpips.scoring.images import ScoringError
from damlpips.version import __version__

CHECKPOINT = "last"
LOGGERS = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]


@dataclass(frozen=True, eq=False)
class Fitted:
    """Heads that were learned, perhaps with the network below them, and how well they agree with people.

    Attributes:
        heads: of each layer, (C_l,), 0 or more.
        network: the network's weights by the names of its files; None where it stayed as it was.
        metric: what was fitted: a line of `describe()`; `before` is its figures.
        before, after: the figures on the choices of contents held out, with 95 % intervals over contents.
        difference: of the two.
        of_sets: the same of each set, in its own figure: SRCC of ratings, 2AFC of choices.
        mean: of the figures of all sets; None for one.
        learned_from: choices and contents.
        sets: name and number of choices of each.
        sha256: of the data: images, votes and contents.
    """

    heads: list[Tensor]
    network: dict[str, Tensor] | None
    recipe: Recipe
    backbone: str
    metric: str
    before: SetFigures
    after: SetFigures
    difference: Difference
    of_sets: tuple[Outcome, ...]
    mean: MeanOutcome | None
    learned_from: tuple[int, int]
    sets: tuple[tuple[str, int], ...]
    sha256: str


def fit(
    sets: Sequence[JudgedSet],
    metric: LPIPS,
    recipe: Recipe | None = None,
    *,
    cache: Path | None = None,
    workers: int = 0,
    checkpoints: Path | None = None,
    devices: int = 1,
    precision: str = DEFAULT_PRECISION,
    log: Path | None = None,
    samples: int = 1000,
    progress: Progress | None = None,
    shown: bool = False,
    callbacks: Sequence[Callback] = (),
) -> Fitted:
    """Learn heads, and perhaps the network below them, from choices between two pairs of images (2AFC).

    ::

        d_k = sum_lc w_lc mean_p (a^_lcp - b^_lcp)^2,    w >= 0,    p(the second is chosen) = G(d_0, d_1)

    The heads w, the parameters of G and, unless `Recipe.variant` is "lin", the weights of the network that makes a and
    b minimise the cross-entropy of p and the votes: see `Recipe.loss`. The metric itself is not changed. Contents are
    held out whole; images are of one content where a judgement or a file joins them. Ratings become choices between
    images of one content: see `damlpips.calibration.ratings.shares`.

    Args:
        sets: of choices or ratings, as `damlpips.evaluation.datasets.load` reads them.
        metric: a network known by name, on the device to learn on. What it weighs so far is what the figures before
            are of, for "scratch" on the network at random; learning starts from random heads, as published.
        recipe: the published one by default.
        cache: for "lin", a folder in which what is computed of the images is kept, 8 bytes a channel and pair; None:
            until the end.
        workers: processes that read images while others are learned from; 0: none. They change nothing but the time.
        checkpoints: a folder in which each epoch is kept; a fit that was interrupted goes on from there, to the same
            bits.
        devices: how many processes learn, each on a GPU or on the CPU, and a part of every batch. They end as one does,
            but for the order of sums. A program that asks for more than one needs `if __name__ == "__main__"`.
        precision: of Lightning's names, one of `PRECISIONS`.
        log: a folder for the loss of each batch: `metrics.csv`, and where tensorboard is installed what that shows.
        samples: bootstrap samples behind each interval.
        progress: called while the images are read.
        shown: whether Lightning shows its bar.
        callbacks: further ones of Lightning.

    Raises:
        ValueError: no choices, votes or scores that are none (names the row), too few contents, a metric that heads
            cannot be learned for.
        ScoringError: an image that cannot be read or compared.
        FitError: a loss that is not finite; checkpoints of another fit.

    Reference:
        Zhang, Isola, Efros, Shechtman, Wang, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric",
        CVPR 2018, arXiv 1801.03924: the variants "lin", "tune" and "scratch".
    """
    recipe = Recipe() if recipe is None else recipe
    _check(metric, recipe)
    _check_devices(devices, metric.encoder.device)
    # a network sees what its encoder makes of images, in float32
    known = [p for p in PRECISIONS if recipe.variant == "lin" or p == DEFAULT_PRECISION or "mixed" in p]
    if precision not in known:
        raise ValueError(f"precision: expected one of {', '.join(known)} for {recipe.variant!r}, got {precision!r}")
    if workers < 0:
        raise ValueError(f"workers: expected 0 or more, got {workers}")
    if cache is not None and recipe.variant != "lin":
        raise ValueError(f"cache: {recipe.variant!r} runs images again in each epoch and keeps nothing, got {cache}")
    choices = read(sets, most=recipe.rated_pairs, seed=recipe.seed)
    out = held_out(choices.contents, recipe.held_out, recipe.seed, choices.of_set)
    with ExitStack() as stack:
        subject: Subject
        if recipe.variant == "lin":
            subject = Heads(metric, choices, stack, cache=cache, workers=workers, progress=progress)
        else:
            subject = Network(metric, choices, recipe, stack, workers=workers)
        metric = subject.metric
        described = metric.describe()
        pairs = choices.pairs_of(choices.contents[out])
        before = subject.before(pairs, progress)
        learner = subject.learner(recipe, _fingerprint(choices, metric, recipe, precision))
        train(
            *(learner, Batches(Rows(choices, subject.of), np.flatnonzero(~out), recipe, subject.workers)),
            device=metric.encoder.device,
            devices=devices,
            checkpoints=checkpoints,
            callbacks=callbacks,
            precision=precision,
            enable_progress_bar=shown,
            logger=[] if log is None else _loggers(log),
            log_every_n_steps=1,
        )
        after = subject.after(learner, pairs)
    found = outcomes(choices, out, before, after, samples=samples, seed=recipe.seed)
    return Fitted(
        heads=learner.each_head(),
        network=learner.network_state(),
        recipe=recipe,
        backbone=str(metric.source.backbone),
        metric=described,
        before=found.choices.before,
        after=found.choices.after,
        difference=found.choices.difference,
        of_sets=found.of_sets,
        mean=found.mean,
        learned_from=(int((~out).sum()), len(np.unique(choices.contents[~out]))),
        sets=tuple((judged.judged_set.name, judged.choices) for judged in choices.sets),
        sha256=choices.sha256,
    )


def _check(metric: LPIPS, recipe: Recipe) -> None:
    """Refuse what heads from a file are not loaded for, or what is not a mean of places."""
    settings = metric.settings
    channels(metric)
    wanted = {"comparison": "spatial", "channel_norm": True, "video": False, "tile": None}
    for name, value in wanted.items():
        if getattr(settings, name) != value:
            raise ValueError(f"{name}: heads are learned for {name}={value!r}, got {getattr(settings, name)!r}")
    if settings.heads == "v0.0":
        raise ValueError("heads: expected 'uniform', 'v0.1' or a file, got 'v0.0', whose network sees other values")
    if recipe.variant != "lin" and metric.encoder.dtype != torch.float32:
        raise ValueError(f"dtype: a network is learned from float32 (see `precision`), got {metric.encoder.dtype}")


def _check_devices(devices: int, device: torch.device) -> None:
    # several GPUs are the first ones
    most = math.inf if device.type == "cpu" else 1 if device.index else torch.cuda.device_count()
    if not 1 <= devices <= most:
        raise ValueError(f"devices: expected 1 to {most:g} where the metric is on {device}, got {devices}")


def _fingerprint(choices: Choices, metric: LPIPS, recipe: Recipe, precision: str) -> str:
    """Return all that a fit depends on: what its checkpoints are good for."""
    how = {"recipe": asdict(recipe), "precision": precision, "version": __version__}
    return json.dumps({"data": choices.sha256, "network": network(metric), **how}, sort_keys=True, default=str)


class Rows:
    """Batches of choices by their rows: what distances are made of for the own ones, shares and votes of all."""

    def __init__(self, choices: Choices, of: Callable[..., Any]) -> None:
        self.choices, self.of = choices, of

    def __call__(self, part: Part) -> tuple[Any, ...]:
        rows, of = part.rows, self.choices
        pairs = self.of(of.first[rows[part.own]], of.second[rows[part.own]])
        return pairs, *map(torch.from_numpy, (of.share[rows], of.votes[rows])), part


class _Shuffled(Sampler):
    """A process's part of each batch, in an order that the seed and the epoch decide, whatever the processes."""

    def __init__(self, rows: np.ndarray, recipe: Recipe, rank: int, world: int) -> None:
        self.rows, self.recipe, self.place, self.epoch = rows, recipe, (rank, world), 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.rows) // self.recipe.batch)

    def __iter__(self) -> Iterator[Part]:
        order = np.random.default_rng([self.recipe.seed, self.epoch]).permutation(self.rows)
        batches = (order[k : k + self.recipe.batch] for k in range(0, len(order), self.recipe.batch))
        yield from (Part.of(rows, *self.place) for rows in batches)


class Batches(lightning.LightningDataModule):
    """Batches of some rows; of several processes each has every n-th choice of a batch."""

    def __init__(self, of: Rows, rows: np.ndarray, recipe: Recipe, workers: int) -> None:
        super().__init__()
        self.of, self.rows, self.recipe, self.workers = of, rows, recipe, workers

    def train_dataloader(self) -> DataLoader:
        assert self.trainer is not None
        place = self.trainer.global_rank, self.trainer.world_size
        return loader(self.of, _Shuffled(self.rows, self.recipe, *place), self.workers)


def train(
    learner: Learner,
    data: Batches,
    device: torch.device,
    devices: int,
    checkpoints: Path | None,
    callbacks: Sequence[Callback],
    **options: Any,
) -> None:
    """Let a learner learn, in place.

    Args:
        device: what its batches are on.
        devices: how many processes learn.
        checkpoints: where each epoch is kept, and where learning goes on.
        callbacks, options: of Lightning's `Trainer`.

    Raises:
        FitError: as `fit`. KeyboardInterrupt: Ctrl-C.
    """
    keeping = [] if checkpoints is None else [_each_epoch(checkpoints)]
    last = None if checkpoints is None else _last(checkpoints, learner)
    on_ctrl_c = signal.getsignal(signal.SIGINT)
    with _quietly():
        trainer = lightning.Trainer(
            accelerator="cpu" if device.type == "cpu" else "gpu",
            devices=devices if devices > 1 or device.index is None else [device.index],
            # from a new interpreter: nothing of this one's threads and devices, and the data are mapped, not copied
            strategy=_Processes(start_method="spawn") if devices > 1 else "auto",
            max_epochs=learner.recipe.all_epochs,
            callbacks=[*keeping, *callbacks],
            plugins=[WholeCheckpoints()],
            enable_checkpointing=bool(keeping),
            enable_model_summary=False,
            use_distributed_sampler=False,
            **options,
        )
        # nothing in a checkpoint needs more, where Lightning offers it
        safely = {"weights_only": True} if "weights_only" in signature(trainer.fit).parameters else {}
        try:
            trainer.fit(learner, datamodule=data, ckpt_path=last, **safely)
        except ProcessRaisedException as error:
            raise _of_process(error) from error
        except SystemExit as error:  # Lightning's answer to Ctrl-C, which it then ignores
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, on_ctrl_c)
            raise KeyboardInterrupt from error
        if trainer.interrupted:  # the same, before Lightning 2.3
            raise KeyboardInterrupt
    if not all(bool(weights.isfinite().all()) for weights in learner.parameters()):
        rate = learner.recipe.learning_rate
        raise FitError(f"the weights are not finite after the last batch: try a lower learning rate than {rate:g}")


class _Processes(DDPStrategy):
    """Processes that Lightning starts, each as quiet as this one."""

    def setup_environment(self) -> None:
        _quiet()
        super().setup_environment()


def _of_process(error: ProcessRaisedException) -> Exception:
    """Return what a process raised: of an error only the text comes back, as the last line of a traceback."""
    kind, _, message = str(error).strip().splitlines()[-1].partition(": ")
    expected = {f"{known.__module__}.{known.__qualname__}": known for known in (FitError, ScoringError)}
    return expected[kind](message) if kind in expected else error


def _last(folder: Path, learner: Learner) -> Path | None:
    """Return the checkpoint in a folder, None if there is none; refuse one that is damaged, or of another fit."""
    path = folder / f"{CHECKPOINT}.ckpt"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            return None
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch has many kinds of errors for a damaged file
        raise FitError(f"checkpoints: {path} cannot be used ({' '.join(str(error).split())}): delete it") from error
    if not isinstance(found, dict) or found.get("fingerprint") != learner.fingerprint:
        raise FitError(f"checkpoints: {path} is of another fit (data, network, recipe or version): name another folder")
    return path


def _each_epoch(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(
        dirpath=folder,
        filename=CHECKPOINT,
        every_n_epochs=1,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )


def _loggers(folder: Path) -> list[Logger]:
    kinds: list[Any] = [CSVLogger, TensorBoardLogger] if find_spec("tensorboard") else [CSVLogger]
    return [kind(folder, name="", version="") for kind in kinds]


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep Lightning from its remarks on devices and workers."""
    levels = [logger.level for logger in LOGGERS]
    with warnings.catch_warnings():
        _quiet()
        try:
            yield
        finally:
            for logger, level in zip(LOGGERS, levels, strict=True):
                logger.setLevel(level)


def _quiet() -> None:
    warnings.filterwarnings("ignore", module="lightning")
    for logger in LOGGERS:
        logger.setLevel(logging.ERROR)
