"""The state of a metric: what is kept of scores, and how it is gathered, merged, moved, saved and loaded."""

import copy
import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors
from torchmetrics.utilities.exceptions import TorchMetricsUserError

from damlpips.ops import exact_sums
from damlpips.process import Lock

# Any state of this package's in a checkpoint, whatever its configuration or version.
_STATE_NAME = re.compile(r"(?:lpips|damlpips)_[0-9a-f]{12}_\w+")

_INT32 = torch.iinfo(torch.int32)

# `update` of one metric from several threads adds to its states one at a time.
_adding = Lock()


class ScoreState(Metric):
    """Scores of images, added up exactly or kept, with or without an index each.

    States:
        total: int64 (12,), the exact sum of scores without an index; see `damlpips.ops.exact_sums`.
        counts: int64 (3,), of scores in `total`, of images left out of it that could not be scored, and of indices that
            do not fit int32.
        scores, indices: lists of float32 and int32 tensors, the scores with an index and, where all are kept, those
            without. NaN stands for an image that could not be scored.

    Their names carry `digest`: a `MetricCollection` merges metrics whose state names and first values agree, and so
    merges only those that compute the same; processes and checkpoints are told apart by it, too.
    """

    def __init__(self, kind: str, digest: str, keeps_all: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._prefix = f"{kind}_{digest}_"
        self._digest = int(digest, 16)
        self._keeps_all = keeps_all
        self.add_state(self._name("total"), exact_sums.zero(), dist_reduce_fx="sum")
        self.add_state(self._name("counts"), torch.zeros(3, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state(self._name("scores"), [], dist_reduce_fx="cat")
        self.add_state(self._name("indices"), [], dist_reduce_fx="cat")

    def _name(self, state: str) -> str:
        return self._prefix + state

    def _state(self, state: str) -> Any:
        return getattr(self, self._name(state))

    def _set(self, state: str, value: Any) -> None:
        setattr(self, self._name(state), value)

    @property
    def _score_dtype(self) -> torch.dtype:
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    def _kept(self) -> tuple[Tensor, Tensor]:
        """Return the kept scores and their indices as one tensor each; none may have an index, or all."""
        scores, indices = (
            torch.cat(chunks) if (chunks := self._state(state)) else torch.empty(0, dtype=dtype, device=self.device)
            for state, dtype in (("scores", self._score_dtype), ("indices", torch.int32))
        )
        return scores, indices

    def _add(self, scores: Tensor, indices: Tensor | None) -> None:
        """Add scores (N,), NaN where an image could not be scored, and their indices. Nothing in it waits."""
        scores = scores.detach().to(self._score_dtype)
        with _adding:
            if indices is None and not self._keeps_all:
                good = scores.isfinite()
                counted = torch.stack([good.sum(), (~good).sum()])
                states = {
                    "total": self._state("total") + exact_sums.exact_sum(scores.where(good, 0)),
                    "counts": self._state("counts") + F.pad(counted, (0, 1)),
                }
            else:
                states = {"scores": self._appended("scores", scores)}
                if indices is not None:
                    unfit = (~self._fits(indices)).sum(0, keepdim=True)
                    states["counts"] = self._state("counts") + F.pad(unfit, (2, 0))
                    states["indices"] = self._appended("indices", indices.to(torch.int32))
            for state, value in states.items():
                self._set(state, value)

    @staticmethod
    def _fits(indices: Tensor) -> Tensor:
        return (indices >= _INT32.min) & (indices <= _INT32.max)

    def _appended(self, state: str, values: Tensor) -> list[Tensor]:
        """Return a list with one more, whose tensors at least halve in size from each to the next: a few, always."""
        chunks = [*self._state(state)]  # others may hold the list: a collection, a wrapper, `forward`
        if self.compute_on_cpu:
            values = values.cpu()
        while chunks and len(chunks[-1]) < 2 * len(values):
            values = torch.cat([chunks.pop(), values])
        return [*chunks, values]

    def _copy_state_dict(self) -> dict[str, Any]:
        return self.metric_state  # states are replaced, never changed: there is nothing to copy

    # --- processes ---------------------------------------------------------------------------------------------------

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the states of all processes, as torchmetrics does; they are not to be updated until `unsync`."""
        try:
            super().sync(*args, **kwargs)
        except BaseException:
            if not self._is_synced:
                self._cache = None
            raise
        self._computed = None  # it was this process's own value

    def unsync(self, should_unsync: bool = True) -> None:
        """Go back to this process's own states."""
        super().unsync(should_unsync)
        if should_unsync:
            self._computed = None

    def _sync_dist(self, dist_sync_fn: Callable = gather_all_tensors, process_group: Any = None) -> None:
        """Gather all states with one collective for what has a fixed size and one for each list that any process has.

        Every process takes the same path, which is decided by what all have gathered: none waits for one that is done.
        """
        group = process_group or self.process_group
        gather = self._reporting(functools.partial(dist_sync_fn, group=group))
        _check_member(group)
        scores, indices = self._kept()
        # with the type of the scores, which `set_dtype` may have changed on one process alone
        kind = 2 * self._digest + (scores.dtype == torch.float64)
        facts = torch.tensor([kind, len(scores), len(indices)], device=self.device)
        rows = torch.stack(gather(torch.cat([facts, self._state("total"), self._state("counts")])))
        kinds, n_scores, n_indices = rows[:, :3].T.tolist()
        if len(set(kinds)) > 1:
            raise RuntimeError(
                "processes gather different metrics: of another kind, with other options or in another precision, or"
                f" computed in another order; their configurations are {', '.join(f'{k:013x}' for k in kinds)}"
            )
        gathered_scores = torch.cat(gather(scores.to(self.device))) if any(n_scores) else scores
        gathered_indices = torch.cat(gather(indices.to(self.device))) if any(n_indices) else indices
        self._set("total", rows[:, 3 : 3 + exact_sums.LIMBS].sum(0))
        self._set("counts", rows[:, 3 + exact_sums.LIMBS :].sum(0))
        home = "cpu" if self.compute_on_cpu else self.device
        self._set("scores", [gathered_scores.to(home)])
        self._set("indices", [gathered_indices.to(home)])

    def _reporting(self, gather: Callable[[Tensor], list[Tensor]]) -> Callable[[Tensor], list[Tensor]]:
        def gather_or_report(x: Tensor) -> list[Tensor]:
            try:
                return gather(x)
            except RuntimeError as error:
                raise RuntimeError(
                    f"{type(self).__name__}: cannot gather the scores of all processes: one has died, has not called"
                    " compute() within the process group's timeout, or has its metric on another kind of device. The"
                    f" state of this process is as it was. ({error})"
                ) from error

        return gather_or_report

    def merge_state(self, incoming_state: "dict[str, Any] | Metric") -> None:
        """Add the state of another metric, or its `metric_state`, after this one's own.

        Raises:
            TypeError: neither a metric nor a dict.
            ValueError: of another configuration, or incomplete.
            TorchMetricsUserError: one of the two is synced: it would count the other processes' scores again.
        """
        if self._is_synced or (isinstance(incoming_state, Metric) and incoming_state._is_synced):
            raise TorchMetricsUserError("merge_state: call unsync() first, a synced state holds all processes' scores")
        if not isinstance(incoming_state, (dict, Metric)):
            raise TypeError(f"merge_state: expected a metric or its metric_state, got {type(incoming_state).__name__}")
        updates = incoming_state.update_count if isinstance(incoming_state, Metric) else 1
        state = incoming_state.metric_state if isinstance(incoming_state, Metric) else incoming_state
        if missing := [name for name in self._defaults if name not in state]:
            raise ValueError(
                f"merge_state: no state {missing[0]!r}: the other metric has another kind, backbone, weights or options"
            )
        self._reduce_states(state)
        self._update_count += updates
        self._computed = None

    def _reduce_states(self, incoming_state: dict[str, Any]) -> None:
        # torchmetrics' own puts the incoming lists first
        for state in ("total", "counts"):
            self._set(state, self._state(state) + incoming_state[self._name(state)].to(self.device))
        for state in ("scores", "indices"):
            for chunk in incoming_state[self._name(state)]:
                self._set(state, self._appended(state, chunk.to(self.device)))

    # --- moves and resets --------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Forget all scores."""
        for name, default in self._defaults.items():
            if isinstance(default, list):
                setattr(self, name, [])  # torchmetrics would empty the list itself, whoever else holds it
        super().reset()

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> Any:
        """Follow moves between devices; only `set_dtype` changes the backbone's type, nothing that of whole numbers."""

        def move(x: Tensor) -> Tensor:
            return x.to(fn(x.new_empty(0)).device)  # the values themselves may not pass through another type

        this = super()._apply(fn if self._dtype_convert else move, exclude_state=tuple(self._defaults))
        for name, default in self._defaults.items():
            state = getattr(self, name)
            self._defaults[name] = move(default) if isinstance(default, Tensor) else default
            setattr(self, name, move(state) if isinstance(state, Tensor) else [move(s) for s in state])
        self._set("scores", [s.to(self._score_dtype) for s in self._state("scores")])
        return this

    def __deepcopy__(self, memo: dict[int, Any]) -> "ScoreState":
        memo[id(self.process_group)] = self.process_group  # one of the process: it cannot be copied
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return twin

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def state_dict(  # type: ignore[override]
        self, destination: dict[str, Any] | None = None, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Any]:
        """Return the states that `persistent(True)` was called for, none by default, and whose share they are."""
        saved = super().state_dict(destination=destination, prefix=prefix, keep_vars=keep_vars)
        if any(self._persistent.values()):
            rank, world = self._place()
            saved[prefix + self._name("share")] = torch.tensor([-1 if self._is_synced else rank, world])
        return saved

    def _place(self) -> tuple[int, int]:
        """Return this process's rank among those that gather, and their number."""
        available = self.distributed_available_fn
        if not (callable(available) and available() and dist.is_available() and dist.is_initialized()):
            return 0, 1
        return dist.get_rank(self.process_group), dist.get_world_size(self.process_group)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        saved = {
            key.removeprefix(prefix): state_dict.pop(key)
            for key in list(state_dict)
            if key.startswith(prefix) and _STATE_NAME.fullmatch(key.removeprefix(prefix))
        }
        if saved:
            try:
                self._load(saved)
            except ValueError as error:
                error_msgs.append(f"{prefix or type(self).__name__}: {error}")
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def _load(self, saved: dict[str, Any]) -> None:
        """Take over saved states, as a whole or not at all."""
        expected = {*self._defaults, self._name("share")}
        if expected != saved.keys():
            raise ValueError(
                "the saved state belongs to a metric of another configuration (backbone, weights, options) or of"
                f" another version of damlpips: it has {', '.join(sorted(saved))}, expected"
                f" {', '.join(sorted(expected))}; leave these keys out to start from zero"
            )
        share = saved.pop(self._name("share"))
        states = {name: self._checked(name, value) for name, value in saved.items()}
        if not isinstance(share, Tensor) or share.shape != (2,):
            raise ValueError(f"{self._name('share')}: expected a rank and a number of processes, got {share!r}")
        updated = bool(states[self._name("counts")].any()) or bool(states[self._name("scores")])
        if updated and not self._is_mine(*share.tolist()):
            states = {name: [] if isinstance(d, list) else d.clone() for name, d in self._defaults.items()}
            updated = False
        for name, value in states.items():
            setattr(self, name, value)
        self._update_count = int(updated)
        self._computed = None

    def _checked(self, name: str, value: Any) -> Any:
        default = self._defaults[name]
        if isinstance(default, Tensor):
            if not isinstance(value, Tensor) or value.dtype != default.dtype or value.shape != default.shape:
                raise ValueError(f"{name}: expected {default.dtype} of shape {tuple(default.shape)}, got {value!r:.80}")
            return value.to(self.device)
        dtype = self._score_dtype if name == self._name("scores") else torch.int32
        if not isinstance(value, list) or not all(isinstance(v, Tensor) and v.ndim == 1 for v in value):
            raise ValueError(f"{name}: expected a list of one-dimensional tensors, got {value!r:.80}")
        return [v.to(self.device, dtype) for v in value]

    def _is_mine(self, saved_rank: int, saved_world: int) -> bool:
        """Return whether this process is the one to go on with a share, so that each score is counted once.

        Raises:
            ValueError: it is another process's share, and nobody has this one's.
        """
        rank, world = self._place()
        if saved_rank == -1 or saved_world == 1:
            return rank == 0  # the whole: one process takes it, the others start from zero
        if (saved_rank, saved_world) == (rank, world):
            return True
        raise ValueError(
            f"the saved state holds the scores of process {saved_rank} of {saved_world} alone, this is process {rank}"
            f" of {world}: save it on all processes inside `with metric.sync_context():`, or one file a process; or"
            " leave its keys out to start from zero"
        )


def _check_member(group: Any) -> None:
    if dist.is_available() and dist.is_initialized() and dist.get_rank(group) < 0:
        raise ValueError(
            f"process {dist.get_rank()} is not in the metric's process_group: its scores are in no total; use"
            " sync_on_compute=False on it, or a group that it is in"
        )
