"""What a metric keeps: its size, merging, saving and loading, copies; on one process."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from torchmetrics.utilities.exceptions import TorchMetricsUserError
from torchmetrics.wrappers import Running

from damlpips.adapters.torchmetrics.accumulate import PerceptualMetric
from tests.support.metrics import Make, images
from tests.support.processes import python


def held(metric: PerceptualMetric) -> tuple[int, int]:
    """The bytes of all states, and the number of tensors."""
    tensors = [t for s in metric.metric_state.values() for t in (s if isinstance(s, list) else [s])]
    return sum(t.untyped_storage().nbytes() for t in tensors), len(tensors)


@pytest.mark.parametrize(
    ("reduction", "indexed", "a_score"), [("mean", False, 0), ("sum", False, 0), ("none", False, 4), ("none", True, 8)]
)
def test_bytes_a_score(make: Make, reduction: str, indexed: bool, a_score: int) -> None:
    metric = make(reduction=reduction)
    empty, _ = held(metric)
    assert empty == 15 * 8
    n = 0
    for seed in range(40):
        batch = 1 + seed % 5
        metric.update(*images(batch, seed=seed), index=range(n, n + batch) if indexed else None)
        n += batch
        size, tensors = held(metric)
        assert size == empty + a_score * n
        assert tensors <= 2 + 2 * n.bit_length()
    assert metric.compute().numel() == (n if reduction == "none" else 1)


def test_order_of_updates_survives_the_joining_of_their_scores(make: Make) -> None:
    metric = make(reduction="none")
    x, y = images(13)
    scores = metric.model(x, y)
    parts = [slice(*p) for p in ((0, 1), (1, 5), (5, 6), (6, 7), (7, 12), (12, 13))]
    for part in parts:
        metric.update(x[part], y[part])
    # scores of one image may differ in the last bits between batch sizes
    torch.testing.assert_close(metric.compute(), scores, rtol=1e-6, atol=0)


GROWTH = """
import gc, resource, sys, torch
from damlpips import Backbone, DAMLPIPSMetric

torch.set_num_threads(1)
network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3))
metric = DAMLPIPSMetric(Backbone(network, taps=["0"], min_size=3), align=False, reduction=sys.argv[1])
x, y = torch.rand(1, 3, 32, 32, requires_grad=True), torch.rand(1, 3, 32, 32)

def run(begin, end):
    for k in range(begin, end):
        call = metric if k % 10 == 0 else metric.update
        call(x, y, index=[k] if sys.argv[2] == "indexed" else None)
    gc.collect()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

before = run(0, 1000)
print((run(1000, 3000) - before) * 1024)
"""


@pytest.mark.parametrize(("reduction", "indexed"), [("mean", ""), ("none", ""), ("none", "indexed")])
def test_thousands_of_updates_leave_memory_flat(reduction: str, indexed: str) -> None:
    # 2,000 scores and indices are 16 kB, which malloc rounds up; the feature maps of their graphs would be 60 MB
    assert int(python(GROWTH, reduction, indexed)) < 4 * 2**20


class Generator(torch.autograd.Function):
    """An image with a graph behind it, which lives as long as its token."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, tokens: list[weakref.ref]) -> torch.Tensor:
        ctx.token = torch.nn.Identity()
        tokens.append(weakref.ref(ctx.token))
        return x.clone()

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient, None


@pytest.mark.parametrize("call", ["update", "forward"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_no_graph_is_kept(make: Make, reduction: str, call: str) -> None:
    metric = make(reduction=reduction)
    x, y = images(2)
    x.requires_grad_()
    tokens: list[weakref.ref] = []
    made = Generator.apply(x, tokens)
    value = getattr(metric, call)(made, y)
    assert tokens[0]() is not None
    del made, value
    gc.collect()
    assert tokens[0]() is None


def test_forward_does_not_enable_gradients(make: Make) -> None:
    metric = make()
    x, y = images(2)
    x.requires_grad_()
    with torch.no_grad():
        assert not metric(x, y).requires_grad
    with torch.inference_mode():
        assert not metric(x, y).requires_grad
    assert metric(x, y).requires_grad
    assert metric.compute() == make().to("cpu")(x, y).detach()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("indexed", [False, True])
def test_merged_state_is_that_of_one_metric(make: Make, reduction: str, indexed: bool) -> None:
    x, y = images(6)
    one, two, both = (make(reduction=reduction) for _ in range(3))
    for metric, part in ((one, slice(0, 2)), (two, slice(2, 6))):
        options = {"index": range(10 + part.start, 10 + part.stop)} if indexed else {}
        metric.update(x[part], y[part], **options)
        both.update(x[part], y[part], **options)
    one.compute()  # must not be given again
    for state in (two, dict(two.metric_state)):
        merged = one.clone()
        merged.merge_state(state)
        assert torch.equal(merged.compute(), both.compute())
        assert merged.update_count == 2
    assert torch.equal(two.compute(), two.clone().compute())


def test_what_cannot_be_merged_is_refused_and_changes_nothing(make: Make) -> None:
    metric = make()
    metric.update(*images(2))
    before = str(metric.metric_state), metric.compute()
    for other, error, message in (
        (make(reduction="none"), ValueError, "no state .*: the other metric has another kind, backbone, weights or"),
        (make(value_range=(0.0, 2.0)), ValueError, "the other metric has another kind, backbone, weights or options"),
        ({}, ValueError, "no state"),
        (3, ValueError, "expected a metric or its metric_state, got int"),
    ):
        with pytest.raises(error, match=message):
            metric.merge_state(other)
    synced = make()
    synced._is_synced = True
    for one, two in ((metric, synced), (synced, metric)):
        with pytest.raises(TorchMetricsUserError, match=r"call unsync\(\) first"):
            one.merge_state(two)
    assert (str(metric.metric_state), metric.compute()) == before


def test_running_windows_of_every_reduction(make: Make) -> None:
    x, y = images(4)
    for reduction in ("mean", "sum", "none"):
        window = Running(make(reduction=reduction), window=2)
        alone = make(reduction=reduction)
        for n in range(4):
            window.update(x[n : n + 1], y[n : n + 1])
            if n >= 2:
                alone.update(x[n : n + 1], y[n : n + 1])
        assert torch.equal(window.compute(), alone.compute())


# --- saved and loaded -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("indexed", [False, True])
def test_a_loaded_state_goes_on_where_it_was(make: Make, reduction: str, indexed: bool, tmp_path) -> None:
    x, y = images(6)

    def update(metric: PerceptualMetric, begin: int, end: int) -> None:
        metric.update(x[begin:end], y[begin:end], index=range(begin, end) if indexed else None)

    metric = make(reduction=reduction)
    update(metric, 0, 3)
    assert metric.state_dict() == {}
    metric.persistent(True)
    torch.save(metric.state_dict(), tmp_path / "state.pt")
    update(metric, 3, 6)
    resumed = make(reduction=reduction)
    resumed.compute()
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert resumed.update_called
    update(resumed, 3, 6)
    assert torch.equal(resumed.compute(), metric.compute())


def saved(make: Make, **options: object) -> dict[str, object]:
    metric = make(**options)
    metric.persistent(True)
    metric.update(*images(2))
    return metric.state_dict()


def test_states_that_do_not_fit_are_refused_and_change_nothing(make: Make) -> None:
    good = saved(make)
    total, counts, scores, indices, share = (
        next(k for k in good if k.endswith(f"_{name}")) for name in ("total", "counts", "scores", "indices", "share")
    )
    kind = total.split("_")[0]
    metric = make()
    metric.update(*images(3))
    before = str(metric.metric_state), metric.compute(), metric.update_count
    for bad, message in (
        (saved(make, value_range=(0.0, 2.0)), "belongs to a metric of another configuration"),
        (saved(make, reduction="none"), "belongs to a metric of another configuration"),
        # as version 0.1.0 had it
        ({f"{kind}_0123456789ab_{k}": torch.zeros(()) for k in ("total", "count", "bad")}, "or of another version"),
        ({k: v for k, v in good.items() if k != counts}, f"expected .*{counts}"),
        ({**good, total: torch.zeros(12)}, rf"{total}: expected torch.int64 of shape \(12,\), got tensor"),
        ({**good, counts: torch.zeros(2, dtype=torch.int64)}, rf"{counts}: expected torch.int64 of shape \(3,\)"),
        ({**good, scores: torch.zeros(3)}, f"{scores}: expected a list of one-dimensional tensors"),
        ({**good, indices: [3]}, f"{indices}: expected a list of one-dimensional tensors"),
        ({**good, share: None}, f"{share}: expected a rank and a number of processes, got None"),
        ({**good, share: torch.tensor([1, 2])}, "the scores of process 1 of 2 alone, this is process 0 of 1"),
    ):
        for strict in (True, False):
            with pytest.raises(RuntimeError, match=message):
                metric.load_state_dict(bad, strict=strict)
        assert (str(metric.metric_state), metric.compute(), metric.update_count) == before
    metric.load_state_dict(good)
    assert metric.update_count == 1


def test_states_inside_a_model(make: Make) -> None:
    def model() -> torch.nn.Module:
        return torch.nn.ModuleDict({"network": torch.nn.Conv2d(3, 3, 1), "scores": torch.nn.ModuleList([make()])})

    trained = model()
    trained["scores"][0].update(*images(2))
    assert trained.state_dict().keys() == {"network.weight", "network.bias"}
    fresh = model()
    fresh.load_state_dict(trained.state_dict())  # nothing saved: starts from zero
    assert not fresh["scores"][0].update_called
    trained["scores"][0].persistent(True)
    fresh.load_state_dict(trained.state_dict())
    assert fresh["scores"][0].compute() == trained["scores"][0].compute()


def test_a_state_in_another_precision_is_taken_over(make: Make) -> None:
    metric = make(reduction="none").set_dtype(torch.float64)
    metric.persistent(True)
    metric.update(*images(2))
    single = make(reduction="none")
    single.load_state_dict(metric.state_dict())
    assert single.compute().dtype == torch.float32
    assert torch.equal(single.compute(), metric.compute().float())


# --- copies -----------------------------------------------------------------------------------------------------------


class Group:
    """Stands for a process group, which belongs to its process."""

    def __reduce__(self) -> None:
        raise TypeError("cannot pickle a process group")


def test_a_copy_shares_the_process_group_and_nothing_else(make: Make) -> None:
    group = Group()
    metric = make(process_group=group, reduction="none")
    metric.update(*images(2))
    for twin in (copy.deepcopy(metric), metric.clone()):
        assert twin.process_group is group
        twin.update(*images(1))
        assert len(twin.compute()) == 3
        assert len(metric.compute()) == 2
    with pytest.raises(TypeError, match="process group"):
        pickle.dumps(metric)


# --- the meta device, where a large model is made before its memory is ------------------------------------------------


def made_there(make: Make) -> torch.nn.ModuleList:
    with torch.device("meta"):
        return torch.nn.ModuleList([torch.nn.Linear(1, 1), make(), make(reduction="none")])


def moved_there(make: Make) -> torch.nn.ModuleList:
    model = torch.nn.ModuleList([torch.nn.Linear(1, 1), make(), make(reduction="none")])
    for metric in model[1:]:
        metric.update(*images(2, seed=5))
    return model.to("meta")


@pytest.mark.parametrize("model", [made_there, moved_there])
@pytest.mark.parametrize("reset_before", [False, True])
def test_a_metric_of_a_model_on_the_meta_device(make: Make, model, reset_before: bool) -> None:
    on_meta, pair = model(make), images(3)
    for metric in on_meta[1:] if reset_before else ():
        metric.reset()
    for metric in on_meta.to_empty(device="cpu")[1:]:
        metric.reset()
        metric.update(*pair)
        fresh = make(reduction=metric.reduction)
        fresh.update(*pair)
        assert torch.equal(metric.compute(), fresh.compute())
        assert metric.device == torch.device("cpu")


def test_feature_share_is_refused(make: Make) -> None:
    from torchmetrics.wrappers import FeatureShare

    with pytest.raises(
        NotImplementedError, match="share one pass through the network by themselves, so use a MetricCollection"
    ):
        FeatureShare([make()])
