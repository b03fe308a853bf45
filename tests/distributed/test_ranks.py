"""Two and three real processes: whatever they get and in whatever order, the total is that of one process, to the bit.

Every pattern is run in all of its variants by the same processes, once for each number of them; the tests look at
what came out.
"""

import warnings
from typing import Any

import pytest
import torch
from torch import distributed as dist
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from torchmetrics import MetricCollection
from torchmetrics.utilities.exceptions import TorchMetricsUserError

from damlpips import DAMLPIPS, DAMLPIPSMetric, LPIPSMetric
from tests.support.mutations import or_message
from tests.support.processes import images, run

N = 7
REDUCTIONS = ("mean", "sum", "none")
WORLDS = (2, 3)
X, Y = images(N)


# pattern -> number of processes -> for each process its updates, each a slice of the images
PATTERNS: dict[str, dict[int, list[list[tuple[int, int]]]]] = {
    "equal updates": {2: [[(0, 2)], [(2, 4)]], 3: [[(0, 2)], [(2, 4)], [(4, 6)]]},
    "unequal numbers of updates": {
        2: [[(0, 2), (2, 4), (4, 5)], [(5, 7)]],
        3: [[(0, 1)], [(1, 2), (2, 3), (3, 5)], [(5, 6), (6, 7)]],
    },
    "a last batch of one": {2: [[(0, 3)], [(3, 6), (6, 7)]], 3: [[(0, 3)], [(3, 6)], [(6, 7)]]},
    "a process without data": {2: [[], [(0, 3), (3, 7)]], 3: [[(0, 3)], [], [(3, 7)]]},
    "all data on one process": {2: [[(0, 7)], []], 3: [[], [], [(0, 4), (4, 7)]]},
    "no data at all": {2: [[], []], 3: [[], [], []]},
}


def metric(reduction: str = "mean", **options: Any) -> DAMLPIPSMetric:
    return DAMLPIPSMetric(reduction=reduction, deterministic=True, **options)


def expected(reduction: str, parts: list[tuple[int, int]], **options: Any) -> torch.Tensor:
    """The value of one process that gets the parts in this order."""
    alone = metric(reduction, **options)
    for begin, end in parts:
        alone.update(X[begin:end], Y[begin:end])
    return alone.compute()


def patterns(rank: int, world: int) -> dict[Any, Any]:
    results: dict[Any, Any] = {}
    for pattern, updates in PATTERNS.items():
        for reduction in REDUCTIONS:
            plain, indexed = metric(reduction), metric(reduction)
            for begin, end in updates[world][rank]:
                plain.update(X[begin:end], Y[begin:end])
                indexed.update(X[begin:end], Y[begin:end], index=range(begin, end))
                # what a padded sampler does: images that another process has, too
                indexed.update(X[:2], Y[:2], index=[0, 1])
            first = plain.compute()
            plain.update(X[:1], Y[:1])  # goes on from its own state, not from the total
            results[pattern, reduction] = (first, plain.compute(), indexed.compute())
    return results


def sync_and_unsync(rank: int, world: int) -> dict[str, Any]:
    out: dict[str, Any] = {}
    one = metric(sync_on_compute=False)
    one.update(X[rank : rank + 1], Y[rank : rank + 1])
    out["own"] = one.compute()
    one.sync()
    out["total"] = one.compute()
    out["update"] = or_message(TorchMetricsUserError, one.update, X, Y)
    out["forward"] = or_message(TorchMetricsUserError, one.forward, X, Y)
    out["merge"] = or_message(TorchMetricsUserError, one.merge_state, metric())
    out["sync"] = or_message(TorchMetricsUserError, one.sync)
    one.unsync()
    out["own again"] = one.compute()
    with one.sync_context():
        out["in context"] = one.compute()
    one.update(X[6:], Y[6:])
    out["later"] = one.compute()
    one.sync()
    one.reset()
    out["reset"] = one.update_count, int(one.skipped)
    return out


def on_step(rank: int, world: int) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for reduction in REDUCTIONS:
        for indexed in (False, True):
            stepping = metric(reduction, dist_sync_on_step=True)
            values = []
            for step in range(2):
                mine = slice(step * world + rank, step * world + rank + 1)
                options = {"index": range(mine.start, mine.stop)} if indexed else {}
                values.append(stepping(X[mine], Y[mine], **options))
            out[reduction, indexed] = values, stepping.compute()
    return out


def merging(rank: int, world: int) -> torch.Tensor:
    """Every process merges what two of its metrics have seen, then all gather."""
    one, two = metric(), metric()
    one.update(X[rank : rank + 1], Y[rank : rank + 1])
    one.compute()
    two.update(X[rank + world : rank + world + 1], Y[rank + world : rank + world + 1])
    one.merge_state(two)
    return one.compute()


def between(rank: int, world: int) -> list[torch.Tensor]:
    """Between two values only the first process has an update; its own cache tells the others nothing."""
    one = metric()
    one.update(X[rank : rank + 1], Y[rank : rank + 1])
    values = [one.compute()]
    if rank == 0:
        one.update(X[world : world + 1], Y[world : world + 1])
    values.append(one.compute())
    if rank == 0:
        one.plot()  # of what is known: the others are not asked
    return values


def groups(rank: int, world: int) -> dict[str, Any]:
    members = [list(range(world - 1)), [world - 1]]
    made = [dist.new_group(ranks) for ranks in members]
    mine = int(rank == world - 1)
    one = metric("none", process_group=made[mine])
    one.update(X[rank : rank + 1], Y[rank : rank + 1])
    other = metric(process_group=made[1 - mine])
    other.update(X[:1], Y[:1])
    twin = one.clone()
    return {"value": one.compute(), "not a member": or_message(ValueError, other.compute), "twin": twin.compute()}


def mismatch(rank: int, world: int) -> dict[str, Any]:
    one = DAMLPIPSMetric(rho=0.25 + 0.5 * (rank == 0))
    one.update(X, Y)
    error = or_message(RuntimeError, one.compute)
    precise = metric().set_dtype(torch.float64 if rank == 0 else torch.float32)
    return {
        "error": error,
        "own": or_message(RuntimeError, one.sync),
        "state": one.update_count,
        "precision": or_message(RuntimeError, precise.compute),
    }


class Pictures(Dataset):
    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, int]:
        return X[index], Y[index], index


def padded_sampler(rank: int, world: int) -> dict[str, Any]:
    data = Pictures()
    results: dict[str, Any] = {"repeated": len(DistributedSampler(data)) * world - N}
    for indexed in (False, True):
        one = metric()
        for x, y, index in DataLoader(data, batch_size=2, sampler=DistributedSampler(data, shuffle=True, seed=5)):
            one.update(x, y, index=index if indexed else None)
        results["indexed" if indexed else "plain"] = one.compute()
    return results


def skipping(rank: int, world: int) -> dict[str, Any]:
    x, y = images(N)
    x[2] = torch.nan
    out: dict[str, Any] = {}
    for reduction in REDUCTIONS:
        for indexed in (False, True):
            one = metric(reduction, on_error="skip")
            mine = slice(rank, None, world)
            one.update(x[mine], y[mine], index=torch.arange(N)[mine] if indexed else None)
            before = one.skipped
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                value = one.compute()
            messages = [str(w.message) for w in caught if "skipped" in str(w.message)]
            out[reduction, indexed] = value, before, one.skipped, messages
    return out


def raising(rank: int, world: int) -> dict[str, Any]:
    """A flag that one process's accelerator has raised stops all of them."""
    one = metric()
    one.update(X[:2], Y[:2])
    if rank == 1:
        one._add(torch.tensor([torch.nan]), None)
    error = or_message(ValueError, one.compute)
    return {"error": error, "update": one.update(X[:1], Y[:1]), "count": one.update_count}


def checkpoints(rank: int, world: int) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for indexed in (False, True):
        one = metric()
        one.persistent(True)

        def update(target: DAMLPIPSMetric, begin: int, indexed: bool = indexed) -> None:
            mine = slice(begin + rank, begin + rank + 1)
            target.update(X[mine], Y[mine], index=range(mine.start, mine.stop) if indexed else None)

        update(one, 0)
        share = one.state_dict()
        with one.sync_context():
            total = one.state_dict()
        update(one, world)
        out["whole", indexed] = one.compute()
        for name, saved in (("share", share), ("total", total)):
            resumed = metric()
            resumed.load_state_dict(saved)
            update(resumed, world)
            out[name, indexed] = resumed.compute()
        out["shares", indexed] = [None] * world
        dist.all_gather_object(out["shares", indexed], share)
        stranger = metric()
        other = out["shares", indexed][(rank + 1) % world]
        out["another's", indexed] = or_message(RuntimeError, stranger.load_state_dict, other), stranger.update_count
    return out


def collection(rank: int, world: int) -> dict[str, torch.Tensor]:
    made = MetricCollection(
        {
            "damlpips": metric(),
            "sum": metric("sum"),
            "lpips": LPIPSMetric("nano", heads="uniform", deterministic=True, compute_on_cpu=True, reduction="none"),
            "precise": metric("none", rho=0.5).set_dtype(torch.float64),
        }
    )
    for n in range(rank, N - 1, world):
        made.update(X[n : n + 1], Y[n : n + 1])
    if rank == 0:
        made(X[N - 1 :], Y[N - 1 :])
    return made.compute()


SCENARIOS = {
    f.__name__: f
    for f in (
        *(patterns, sync_and_unsync, on_step, merging, between, groups, mismatch, padded_sampler, skipping, raising),
        *(checkpoints, collection),
    )
}


def everything(rank: int, world: int) -> dict[str, Any]:
    results = {}
    for name, scenario in SCENARIOS.items():
        results[name] = scenario(rank, world)
        dist.barrier()
    return results


@pytest.fixture(scope="module", params=WORLDS, ids=lambda world: f"{world} processes")
def outcome(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return run(request.param, everything)


def of_all(outcome: list[dict[str, Any]], scenario: str) -> list[Any]:
    return [results[scenario] for results in outcome]


def same_bits(value: torch.Tensor, wanted: torch.Tensor) -> None:
    assert value.dtype == wanted.dtype
    assert value.shape == wanted.shape
    torch.testing.assert_close(value, wanted, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_pattern_gives_the_value_of_one_process(outcome, pattern: str, reduction: str) -> None:
    world = len(outcome)
    parts = PATTERNS[pattern][world]
    wanted = expected(reduction, [part for mine in parts for part in mine])
    # every process has added image 0 since
    later = expected(reduction, [part for mine in parts for part in [*mine, (0, 1)]])
    for results in of_all(outcome, "patterns"):
        first, second, _ = results[pattern, reduction]
        same_bits(first, wanted)
        same_bits(second, later)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_repeated_images_count_once_with_an_index(outcome, pattern: str, reduction: str) -> None:
    seen = {n for mine in PATTERNS[pattern][len(outcome)] for begin, end in mine for n in (*range(begin, end), 0, 1)}
    wanted = expected(reduction, [(n, n + 1) for n in sorted(seen)])
    for results in of_all(outcome, "patterns"):
        same_bits(results[pattern, reduction][2], wanted)


def test_a_padded_sampler_biases_the_mean_and_an_index_undoes_it(outcome) -> None:
    world = len(outcome)
    right = expected("mean", [(0, N)])
    for results in of_all(outcome, "padded_sampler"):
        assert results["repeated"] == -N % world > 0
        assert abs(results["plain"] - right) > 1e-4
        same_bits(results["indexed"], right)


def test_sync_and_unsync(outcome) -> None:
    world = len(outcome)
    total = expected("mean", [(0, world)])
    for rank, results in enumerate(of_all(outcome, "sync_and_unsync")):
        own = expected("mean", [(rank, rank + 1)])
        assert own != total
        for name in ("own", "own again"):
            same_bits(results[name], own)
        for name in ("total", "in context"):
            same_bits(results[name], total)
        same_bits(results["later"], expected("mean", [(rank, rank + 1), (6, 7)]))
        for name in ("update", "forward", "merge"):
            assert "call unsync() first" in results[name]
        assert "already been synced" in results["sync"]
        assert results["reset"] == (0, 0)


@pytest.mark.parametrize("indexed", [False, True], ids=["plain", "indexed"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_dist_sync_on_step(outcome, reduction: str, indexed: bool) -> None:
    world = len(outcome)
    for results in of_all(outcome, "on_step"):
        values, total = results[reduction, indexed]
        for step, value in enumerate(values):
            same_bits(value, expected(reduction, [(step * world, (step + 1) * world)]))
        in_order = range(2 * world) if indexed else [step * world + r for r in range(world) for step in range(2)]
        same_bits(total, expected(reduction, [(n, n + 1) for n in in_order]))


def test_merge_state_then_gather(outcome) -> None:
    for value in of_all(outcome, "merging"):
        same_bits(value, expected("mean", [(0, 2 * len(outcome))]))


def test_one_process_alone_goes_on_between_two_values(outcome) -> None:
    world = len(outcome)
    for first, second in of_all(outcome, "between"):
        same_bits(first, expected("mean", [(0, world)]))
        same_bits(second, expected("mean", [(0, world + 1)]))


def test_process_groups(outcome) -> None:
    world = len(outcome)
    for rank, results in enumerate(of_all(outcome, "groups")):
        last = rank == world - 1
        wanted = expected("none", [(world - 1, world)] if last else [(n, n + 1) for n in range(world - 1)])
        same_bits(results["value"], wanted)
        same_bits(results["twin"], wanted)
        assert results["not a member"].startswith(f"process {rank} is not in the metric's process_group")


def test_different_metrics_are_not_added_up(outcome) -> None:
    for results in of_all(outcome, "mismatch"):
        assert "processes gather different metrics" in results["error"]
        assert "or in another precision" in results["precision"]
        assert results["own"] == results["error"]  # unsynced: the failed attempt left nothing behind
        assert results["state"] == 1


@pytest.mark.parametrize("indexed", [False, True], ids=["plain", "indexed"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_skipped_images_are_counted_over_all_processes(outcome, reduction: str, indexed: bool) -> None:
    world = len(outcome)
    order = [n for r in range(world) for n in range(r, N, world)]
    if indexed:
        order = list(range(N))
    wanted = expected(reduction, [(n, n + 1) for n in order if n != 2])
    for rank, results in enumerate(of_all(outcome, "skipping")):
        value, before, after, messages = results[reduction, indexed]
        if reduction == "none":
            assert value.isnan().nonzero().flatten().tolist() == [order.index(2)]
            value = value[~value.isnan()]
        same_bits(value, wanted)
        assert before == (rank == 2 % world)
        assert after == 1
        assert len(messages) == (rank == 0)
        if messages:
            assert messages[0].startswith("DAMLPIPSMetric skipped 1 image")
            assert (", with index 2 " in messages[0]) is indexed


def test_a_bad_image_on_one_process_stops_all(outcome) -> None:
    for results in of_all(outcome, "raising"):
        assert results["error"].startswith("1 image could not be scored")
        assert results["count"] == 2


@pytest.mark.parametrize("indexed", [False, True], ids=["plain", "indexed"])
def test_saved_state_is_counted_once(outcome, indexed: bool) -> None:
    world = len(outcome)
    for rank, results in enumerate(of_all(outcome, "checkpoints")):
        for name in ("whole", "share", "total"):
            same_bits(results[name, indexed], expected("mean", [(0, 2 * world)]))
        error, count = results["another's", indexed]
        assert f"the scores of process {(rank + 1) % world} of {world} alone, this is process {rank}" in error
        assert count == 0
    # and in a process of its own
    alone = metric()
    with pytest.raises(RuntimeError, match=rf"process 1 of {world} alone, this is process 0 of 1"):
        alone.load_state_dict(of_all(outcome, "checkpoints")[0]["shares", indexed][1])


def test_a_collection_gathers_each_of_its_metrics(outcome) -> None:
    world = len(outcome)
    order = [list(range(r, N - 1, world)) + ([N - 1] if r == 0 else []) for r in range(world)]
    in_order = [n for mine in order for n in mine]
    double = DAMLPIPS(deterministic=True, rho=0.5).double()
    for results in of_all(outcome, "collection"):
        same_bits(results["damlpips"], expected("mean", [(0, N)]))
        same_bits(results["sum"], expected("sum", [(0, N)]))
        same_bits(results["precise"], double(X, Y)[in_order])
        assert results["lpips"].shape == (N,)


def nccl_patterns(rank: int, world: int) -> dict[Any, Any]:
    x, y = (t.cuda() for t in images(N))
    results: dict[Any, Any] = {}
    for pattern, updates in PATTERNS.items():
        for reduction in REDUCTIONS:
            one = metric(reduction).cuda()
            for begin, end in updates[world][rank]:
                one.update(x[begin:end], y[begin:end])
            results[pattern, reduction] = one.compute().cpu()
    return results


@pytest.mark.cuda
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices")
def test_patterns_with_nccl_on_two_devices() -> None:
    x, y = (t.cuda() for t in images(N))
    for results in run(2, nccl_patterns, backend="nccl"):
        for pattern, parts in PATTERNS.items():
            for reduction in REDUCTIONS:
                alone = metric(reduction).cuda()
                for begin, end in (part for mine in parts[2] for part in mine):
                    alone.update(x[begin:end], y[begin:end])
                same_bits(results[pattern, reduction], alone.compute().cpu())
