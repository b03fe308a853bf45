"""A torchmetrics `Metric` whose state is a `ScoreStore`: all that is overridden of torchmetrics, each with its reason.

A metric needs `update` and `compute` alone; whatever else is overridden here, public or private, says what breaks
without it. Of private attributes `_defaults`, `_persistent`, `_computed`, `_update_count`, `_to_sync`, `_is_synced`,
`_device`, `_dtype` and `_dtype_convert` are used, and in `accumulate` `_enable_grad`, `_forward_cache` and `_plot`.

Tried with torchmetrics 1.4.3, the oldest that `pyproject.toml` allows and `make test` runs, and 1.9.0.
"""

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors
from torchmetrics.utilities.exceptions import TorchMetricsUserError

from damlpips.adapters.torchmetrics.score_store import ScoreStore
from damlpips.ops import exact_sums
from damlpips.ops.execution import exact_dtype
from damlpips.process import Lock

# Any state of this package's in a checkpoint, whatever its configuration or version.
_STATE_NAME = re.compile(r"(?:lpips|damlpips)_[0-9a-f]{12}_\w+")

# `update` of one metric from several threads adds to its store one at a time.
_adding = Lock()


class _NotCopied:
    """Holds a value that deep copies share; pickled with it."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __deepcopy__(self, memo: dict[int, Any]) -> "_NotCopied":
        return self


class StoreMetric(Metric):
    """A metric whose state is a `ScoreStore`, the same on any number of processes.

    The states' names carry `digest`: a `MetricCollection` merges metrics whose state names and first values agree, and
    so merges only those that compute the same; processes and checkpoints are told apart by it, too.
    """

    def __init__(self, kind: str, digest: str, keeps_all: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # what torch's defaults happen to be now is no property of a metric
        self._device, self._dtype = torch.device("cpu"), torch.float32
        self._prefix = f"{kind}_{digest}_"
        self._digest = int(digest, 16)
        self._keeps_all = keeps_all
        for name, value in ScoreStore.empty().to_dict(self._prefix).items():
            self.add_state(name, value, dist_reduce_fx="cat" if isinstance(value, list) else "sum")

    @property
    def store(self) -> ScoreStore:
        """What is kept of the scores: of this process, or while the metric is synced of all."""
        return self._store_of(self.metric_state)

    @store.setter
    def store(self, store: ScoreStore) -> None:
        self._restore(store.to_dict(self._prefix))

    def _store_of(self, states: dict[str, Any]) -> ScoreStore:
        return ScoreStore.from_dict(states, self._prefix, keeps_all=self._keeps_all, dtype=self._score_dtype)

    def _add(self, scores: Tensor, indices: Tensor | None) -> None:
        with _adding:
            self.store = self.store.add(scores, indices)

    def _restore(self, values: dict[str, Any]) -> None:
        for name, value in values.items():
            setattr(self, name, value)

    @property
    def _score_dtype(self) -> torch.dtype:
        return exact_dtype(self.dtype)

    def _rank(self) -> tuple[int, int]:
        """Return this process's rank among those that gather, and their number."""
        available = self.distributed_available_fn
        if not (callable(available) and available() and dist.is_available() and dist.is_initialized()):
            return 0, 1
        return dist.get_rank(self.process_group), dist.get_world_size(self.process_group)

    def _refuse_if_synced(self, call: str, why: str = "takes no scores") -> None:
        if self._is_synced:
            raise TorchMetricsUserError(f"{call}: call unsync() first, a synced state {why}")

    # --- around every call -------------------------------------------------------------------------------------------

    def _wrap_update(self, update: Callable) -> Callable:
        """Without it an update that fails is counted, and the last value forgotten."""
        wrapped = super()._wrap_update(update)

        @functools.wraps(update)
        def update_or_nothing(*args: Any, **kwargs: Any) -> None:
            before = {name: getattr(self, name) for name in ("_update_count", "_computed")}
            try:
                wrapped(*args, **kwargs)
            except BaseException:
                self._restore(before)
                raise

        return update_or_nothing

    def _wrap_compute(self, compute: Callable) -> Callable:
        """Without it `compute` fails between `sync` and `unsync`, returns an old value where only other processes had
        updates since (and these wait for this one), leaves the metric synced when it raises, and returns a single score
        of `reduction="none"` as () instead of (1,)."""
        wrapped = super()._wrap_compute(compute)

        @functools.wraps(compute)
        def compute_here(*args: Any, **kwargs: Any) -> Any:
            if self._is_synced:  # by the user, who will also unsync
                return compute(*args, **kwargs)
            if self._to_sync and self._rank()[1] > 1:
                self._computed = None
            try:
                value = wrapped(*args, **kwargs)
            finally:
                if self._is_synced:
                    self.unsync()
            return value.reshape(-1) if self._keeps_all and isinstance(value, Tensor) else value

        return compute_here

    # --- processes ---------------------------------------------------------------------------------------------------

    def _sync_dist(self, dist_sync_fn: Callable = gather_all_tensors, process_group: Any = None) -> None:
        """Without it processes that have scores wait for those that have none, the indices of an empty process have
        another type than the others', and metrics of other options are added up."""
        self.store = self._gathered(self.store, dist_sync_fn, process_group)
        self._computed = None  # it was this process's own value

    def _gathered(self, store: ScoreStore, gather: Callable | None = None, group: Any = None) -> ScoreStore:
        """Return the store of all processes: one collective for what has a fixed size, one for each list that any has.

        Every process takes the same path, which is decided by what all have gathered: none waits for one that is done.
        """
        group = group or self.process_group
        if dist.is_available() and dist.is_initialized() and dist.get_rank(group) < 0:
            raise ValueError(
                f"process {dist.get_rank()} is not in the metric's process_group: its scores are in no total; use"
                " sync_on_compute=False on it, or a group that it is in"
            )

        def everyones(x: Tensor) -> list[Tensor]:
            try:
                return (gather or self.dist_sync_fn or gather_all_tensors)(x.to(self.device), group=group)
            except RuntimeError as error:
                raise RuntimeError(
                    f"{type(self).__name__}: cannot gather the scores of all processes: one has died, has not called"
                    " compute() within the process group's timeout, or has its metric on another kind of device. The"
                    f" state of this process is as it was. ({error})"
                ) from error

        scores, indices = store.kept()
        # with the type of the scores, which `set_dtype` may have changed on one process alone
        kind = 2 * self._digest + (store.dtype == torch.float64)
        facts = torch.tensor([kind, len(scores), len(indices)], device=self.device)
        rows = torch.stack(everyones(torch.cat([facts, store.total, store.counts])))
        kinds, n_scores, n_indices = rows[:, :3].T.tolist()
        if len(set(kinds)) > 1:
            raise RuntimeError(
                "processes gather different metrics: of another kind, with other options or in another precision, or"
                f" computed in another order; their configurations are {', '.join(f'{k:013x}' for k in kinds)}"
            )
        total, counts = rows[:, 3:].sum(0).split([exact_sums.LIMBS, 3])
        home = "cpu" if self.compute_on_cpu else self.device
        lists: dict[str, Any] = {
            name: [part.to(home) for part in everyones(mine)] if any(lengths) else []
            for name, mine, lengths in (("scores", scores, n_scores), ("indices", indices, n_indices))
        }
        return replace(store, total=total, counts=counts, **lists)

    # --- merging -----------------------------------------------------------------------------------------------------

    def merge_state(self, incoming_state: "dict[str, Any] | Metric") -> None:
        """Add the state of another metric, or its `metric_state`, after this one's own.

        torchmetrics has none before version 1.5, puts the other's scores first and counts no updates.

        Raises:
            ValueError: neither a metric nor a dict; of another configuration, or incomplete.
            TorchMetricsUserError: one of the two is synced: it would count the other processes' scores again.
        """
        if not isinstance(incoming_state, (dict, Metric)):
            raise ValueError(f"merge_state: expected a metric or its metric_state, got {type(incoming_state).__name__}")
        for metric in (self, incoming_state):
            if isinstance(metric, StoreMetric):
                metric._refuse_if_synced("merge_state", "holds all processes' scores")
        updates = incoming_state.update_count if isinstance(incoming_state, Metric) else 1
        state = incoming_state.metric_state if isinstance(incoming_state, Metric) else incoming_state
        if missing := [name for name in self._defaults if name not in state]:
            raise ValueError(
                f"merge_state: no state {missing[0]!r}: the other metric has another kind, backbone, weights or options"
            )
        self._reduce_states(state)
        self._update_count, self._computed = self._update_count + updates, None

    def _reduce_states(self, incoming_state: dict[str, Any]) -> None:
        """Without it `Running` has the scores of `reduction="none"` in reverse order: the incoming come first."""
        self.store = self.store.merge(self._store_of(incoming_state))

    # --- resets, moves and copies ------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Forget all scores."""
        # torchmetrics empties the lists themselves, whoever else holds them: `Running` its windows, a caller
        self.store = self.store.emptied()
        super().reset()

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> Any:
        """Without it whole numbers become floats with `set_dtype`, and the backbone half precision with `half()`."""

        def move(x: Tensor) -> Tensor:
            device = fn(x.new_empty(0)).device
            return torch.empty_like(x, device=device) if x.is_meta else x.to(device)

        store = self.store
        if store.total.is_meta:  # from there nothing can be taken along
            store = ScoreStore.empty(keeps_all=store.keeps_all, dtype=store.dtype)
        this = super()._apply(fn if self._dtype_convert else move, exclude_state=tuple(self._defaults))
        self.store = store.to(self.device, self._score_dtype)
        # of the same device, or `reset` waits for an accelerator
        self._defaults |= ScoreStore.empty().to(self.device).to_dict(self._prefix)
        return this

    def __getstate__(self) -> dict[str, Any]:
        """Without it a metric with a process group cannot be copied: the group belongs to the process.

        A `__deepcopy__` would do, but `ClasswiseWrapper` passes on what it lacks, and its copies would be bare metrics.
        """
        return {**super().__getstate__(), "process_group": _NotCopied(self.process_group)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, "process_group": state["process_group"].value})

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def state_dict(  # type: ignore[override]
        self, destination: dict[str, Any] | None = None, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Any]:
        """Return the states that `persistent(True)` was called for, none by default, and whose share they are."""
        saved = super().state_dict(destination=destination, prefix=prefix, keep_vars=keep_vars)
        if any(self._persistent.values()):
            rank, world = self._rank()
            saved[f"{prefix}{self._prefix}share"] = torch.tensor([-1 if self._is_synced else rank, world], device="cpu")
        return saved

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, metadata: Any, strict: bool, *problems: list[str]
    ) -> None:
        """Without it whatever is saved by these names is taken over, on every process, and other states are let be."""
        saved = {
            key.removeprefix(prefix): state_dict.pop(key)
            for key in list(state_dict)
            if key.startswith(prefix) and _STATE_NAME.fullmatch(key.removeprefix(prefix))
        }
        try:
            if saved:
                self._load(saved)
        except ValueError as error:
            problems[-1].append(f"{prefix or type(self).__name__}: {error}")
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, *problems)

    def _load(self, saved: dict[str, Any]) -> None:
        """Take over saved states, as a whole or not at all."""
        share_name = f"{self._prefix}share"
        expected = {*self._defaults, share_name}
        if expected != saved.keys():
            raise ValueError(
                "the saved state belongs to a metric of another configuration (backbone, weights, options) or of"
                f" another version of damlpips: it has {', '.join(sorted(saved))}, expected"
                f" {', '.join(sorted(expected))}; leave these keys out to start from zero"
            )
        store, share = self._store_of(saved), saved[share_name]
        if not isinstance(share, Tensor) or share.shape != (2,):
            raise ValueError(f"{share_name}: expected a rank and a number of processes, got {share!r}")
        updated = bool(store.scores) or bool(store.counts.any())
        if updated and not self._is_mine(*share.tolist()):
            store, updated = store.emptied(), False
        self.store = store.to(self.device, self._score_dtype)
        self._update_count, self._computed = int(updated), None

    def _is_mine(self, saved_rank: int, saved_world: int) -> bool:
        """Return whether this process is the one to go on with a share, so that each score is counted once.

        Raises:
            ValueError: it is another process's share, and nobody has this one's.
        """
        rank, world = self._rank()
        if saved_rank == -1 or saved_world == 1:
            return rank == 0  # the whole: one process takes it, the others start from zero
        if (saved_rank, saved_world) == (rank, world):
            return True
        raise ValueError(
            f"the saved state holds the scores of process {saved_rank} of {saved_world} alone, this is process {rank}"
            f" of {world}: save it on all processes inside `with metric.sync_context():`, or one file a process; or"
            " leave its keys out to start from zero"
        )
