"""The torchmetrics contract: state, reductions, collections, wrappers, failures."""

import copy
import gc
import pickle
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics import MetricCollection
from torchmetrics.wrappers import BootStrapper, MinMaxMetric, Running

from damlpips import DAMLPIPS, LPIPS, Backbone, DAMLPIPSMetric, LPIPSMetric
from damlpips.adapters.torchmetrics import shared_pass
from damlpips.adapters.torchmetrics.accumulate import PerceptualMetric
from tests.support.metrics import images, three
from tests.support.reference import Counting


def test_constants(make) -> None:
    metric = make()
    assert metric.higher_is_better is False
    assert metric.is_differentiable is True
    assert metric.full_state_update is False
    with pytest.raises(RuntimeError, match="Can't change const"):
        metric.higher_is_better = True


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_update_and_compute_reduce_the_module_scores(make, reduction: str) -> None:
    metric = make(reduction=reduction)
    parts = [images(3, seed=1), images(1, seed=2), images(2, seed=3)]
    for x, y in parts:
        metric.update(x, y)
    scores = torch.cat([metric.model(x, y) for x, y in parts])
    expected = {"mean": scores.double().mean().float(), "sum": scores.double().sum().float(), "none": scores}
    torch.testing.assert_close(metric.compute(), expected[reduction], rtol=0, atol=0)
    metric.reset()
    metric.update(*parts[0])
    torch.testing.assert_close(
        metric.compute(), {"mean": scores[:3].mean(), "sum": scores[:3].sum(), "none": scores[:3]}[reduction]
    )


def test_forward_is_update_plus_the_value_of_the_batch(make) -> None:
    one, two = make(), make()
    (x1, y1), (x2, y2) = images(3, seed=1), images(2, seed=2)
    torch.testing.assert_close(one(x1, y1), one.model(x1, y1).mean())
    torch.testing.assert_close(one(x2, y2), one.model(x2, y2).mean())
    two.update(x1, y1)
    two.update(x2, y2)
    assert one.compute() == two.compute()
    assert one.update_count == 2


def test_none_with_one_image_is_one_dimensional(make) -> None:
    metric = make(reduction="none")
    x, y = images(1)
    assert metric(x, y).shape == (1,)
    assert metric.compute().shape == (1,)
    assert metric.compute().shape == (1,)  # from the cache
    assert make(reduction="none").compute().shape == (0,)


def test_without_updates_mean_is_nan_and_sum_is_zero(make) -> None:
    assert torch.isnan(make(reduction="mean").compute())
    assert make(reduction="sum").compute() == 0


def test_update_keeps_no_graph_and_forward_gives_gradients(make) -> None:
    x, y = images(2)
    x.requires_grad_()
    for reduction in ("mean", "none"):
        metric = make(reduction=reduction)
        metric.update(x, y)
        value = metric(x, y)
        value.sum().backward()
        assert torch.isfinite(x.grad).all()
        assert x.grad.abs().sum() > 0
        x.grad = None
        for state in metric.metric_state.values():
            assert not any(s.requires_grad for s in (state if isinstance(state, list) else [state]))
        metric.clone()  # a cached value with a graph cannot be copied


def test_clone_pickle_and_hash(make) -> None:
    metric = make(reduction="none")
    metric.update(*images(2))
    for twin in (metric.clone(), copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):
        torch.testing.assert_close(twin.compute(), metric.compute(), rtol=0, atol=0)
        twin.update(*images(1, seed=5))
        assert twin.compute().shape == (3,)
        assert metric.compute().shape == (2,)
        assert twin.model.backbone is metric.model.backbone
    assert len(pickle.dumps(metric)) < 20_000
    assert hash(metric) != hash(make())


def test_train_changes_nothing(make) -> None:
    metric = make()
    x, y = images(2)
    before = metric(x, y)
    parent = nn.ModuleList([metric])
    parent.train()
    assert not metric.model.backbone.training
    assert not any(p.requires_grad for p in metric.model.backbone.parameters())
    assert metric(x, y) == before
    assert list(parent.parameters()) == []


def test_type_changes_only_through_set_dtype(make) -> None:
    metric = make()
    x, y = images(2)
    metric.update(x, y)
    value = metric.compute()
    for cast in (metric.half, metric.double, metric.float, lambda: nn.ModuleList([metric]).half()):
        cast()
        assert metric.model.backbone.dtype == torch.float32
        assert metric.compute() == value
    metric.set_dtype(torch.float64)
    assert metric.model.backbone.dtype == torch.float64
    assert metric.compute().dtype == torch.float64
    metric.update(x, y)
    # float32 and float64 passes differ by float32's rounding in the filters
    torch.testing.assert_close(metric.compute().float(), value, rtol=1e-5, atol=0)


def test_dtype_of_the_network_stays_and_metrics_of_two_share_nothing(make) -> None:
    x, y = images(2)
    half, plain = make(dtype=torch.bfloat16), make()
    together = MetricCollection({"in_half": half, "in_full": plain})
    together.update(x, y)
    together.update(y, x)
    values = together.compute()
    assert together["in_half"].model.backbone.dtype == torch.bfloat16
    assert values["in_half"] != values["in_full"]
    torch.testing.assert_close(values["in_half"], values["in_full"], rtol=0.02, atol=0)  # eight bits of the features
    half.set_dtype(torch.float64)
    assert half.model.backbone.dtype == torch.bfloat16


@pytest.mark.cuda
def test_backbone_and_state_follow_the_device(make) -> None:
    metric = make().to("cuda")
    x, y = images(2)
    metric.update(x.cuda(), y.cuda())
    assert metric.model.backbone.device.type == "cuda"
    # CPU and CUDA convolutions sum in different orders
    torch.testing.assert_close(metric.compute().cpu(), make().model(x, y).mean(), rtol=1e-4, atol=1e-6)
    metric.to("cpu")
    assert metric.model.backbone.device.type == "cpu"
    metric.update(x, y)


@pytest.mark.cuda
def test_bad_values_on_cuda_raise_at_compute_and_nothing_waits(make) -> None:
    metric = make().to("cuda")
    x, y = (t.cuda() for t in images(3))
    x[1, 0, 0, 0] = float("nan")
    metric.update(x, y)
    torch.cuda.set_sync_debug_mode("error")
    try:
        metric.update(x, y)
        metric(x, y)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    with pytest.raises(ValueError, match="3 images could not be scored"):
        metric.compute()


@pytest.mark.parametrize("on_error", ["raise", "skip"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_updates_on_an_accelerator_read_nothing_back(make, reduction: str, on_error: str) -> None:
    """On the meta device there is nothing to read: whatever waits for a device's values fails."""
    metric = make(reduction=reduction, on_error=on_error).to("meta")
    x, y = (t.to("meta") for t in images(3))
    metric.update(x, y)
    metric(x, y)
    metric.reset()
    metric.update(x, y, index=torch.tensor([4, 5, 6]))
    metric.update(x, y, index=torch.tensor([4, 5, 6], device="meta"))
    if reduction != "none":  # the scores of a batch in the order of their indices, each once: how many is not known
        metric(x, y, index=[4, 5, 6])
    with pytest.raises(RuntimeError, match=r"[Mm]eta"):
        metric.compute()


def on_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let metrics take the path on which values are not read in `update`."""
    monkeypatch.setattr(PerceptualMetric, "_raises_at_once", False)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_bad_images_on_an_accelerator_raise_at_compute(make, monkeypatch: pytest.MonkeyPatch, reduction: str) -> None:
    on_an_accelerator(monkeypatch)
    metric = make(reduction=reduction)
    x, y = images(3)
    x[1, 0, 0, 0] = float("nan")
    y[2] = 7.0
    metric.update(x, y)
    metric.update(*images(3))
    assert metric.skipped == 2
    where = ", at place 1, 2" if reduction == "none" else ""
    cause = r"NaN, infinite or outside value_range=\(0.0, 1.0\), or a score that is not finite"
    with pytest.raises(ValueError, match=rf"^2 images could not be scored{where} \({cause}\): the total is not valid"):
        metric.compute()
    metric.reset()
    metric.update(x, y, index=[30, 10, 20])
    with pytest.raises(ValueError, match="2 images could not be scored, with index 10, 20 "):
        metric.compute()
    metric.reset()
    value = metric(x, y)
    assert torch.equal(value.isnan(), torch.tensor([False, True, True]) if reduction == "none" else torch.tensor(True))
    metric.reset()
    metric.update(*images(3))
    metric.compute()


@pytest.mark.parametrize("accelerator", [False, True])
@pytest.mark.parametrize("call", ["update", "forward"])
@pytest.mark.parametrize("indexed", [False, True])
def test_skipped_images_leave_the_others_alone(
    make, monkeypatch: pytest.MonkeyPatch, indexed: bool, call: str, accelerator: bool
) -> None:
    if accelerator:
        on_an_accelerator(monkeypatch)
    x, y = images(5)
    scores = make().model(x, y)
    x[1, 2, 3, 4], y[3] = float("inf"), -1.0
    good = torch.tensor([True, False, True, False, True])
    for reduction, expected in (
        ("mean", scores[good].double().mean().float()),
        ("sum", scores[good].double().sum().float()),
        ("none", scores.where(good, torch.nan)),
    ):
        metric = make(reduction=reduction, on_error="skip")
        options = {"index": range(100, 105)} if indexed else {}
        value = getattr(metric, call)(x, y, **options)
        if call == "forward":
            torch.testing.assert_close(value, expected, equal_nan=True)
        assert metric.skipped == 2
        which = ", with index 101, 103" if indexed else ", at place 1, 3" if reduction == "none" else ""
        with pytest.warns(UserWarning, match=rf"skipped 2 images{which} \(NaN, infinite or outside"):
            torch.testing.assert_close(metric.compute(), expected, equal_nan=True)
        assert metric.skipped == 2
        metric.reset()
        assert metric.skipped == 0


def test_an_index_that_could_be_scored_once_is_not_skipped(make) -> None:
    x, y = images(2)
    scores = make().model(x, y)
    broken = x * float("nan")
    metric = make(on_error="skip")
    metric.update(broken, y, index=[0, 1])
    metric.update(x[:1], y[:1], index=[0])
    assert metric.skipped == 1
    with pytest.warns(UserWarning, match="skipped 1 image, with index 1 "):
        assert metric.compute() == scores[0]


def test_skipping_everything_is_no_score(make) -> None:
    x, y = images(2)
    for reduction, expected in (("mean", torch.tensor(torch.nan)), ("sum", torch.tensor(0.0))):
        metric = make(reduction=reduction, on_error="skip")
        metric.update(x * float("nan"), y)
        with pytest.warns(UserWarning, match="skipped 2 images"):
            torch.testing.assert_close(metric.compute(), expected, equal_nan=True)


def test_many_bad_images_are_named_up_to_a_limit(make) -> None:
    x, y = images(10)
    metric = make(reduction="none", on_error="skip")
    metric.update(x * float("nan"), y)
    with pytest.warns(UserWarning, match=r"skipped 10 images, at place 0, 1, 2, 3, 4, 5, 6, 7, \.\.\. "):
        metric.compute()


def test_the_image_that_raises_is_named(make) -> None:
    metric = make()
    x, y = images(3)
    x[2, 0] = 200.0
    with pytest.raises(ValueError, match=r"first image, number 2 of the batch: expected values in \(0.0, 1.0\), got 0"):
        metric.update(x, y)
    with pytest.raises(ValueError, match="first image, number 2 of the batch with index 9: expected values"):
        metric.update(x, y, index=[7, 8, 9])
    with pytest.raises(ValueError, match="second image, number 2 of the batch with index 9: expected values"):
        metric.update(y, x, index=[7, 8, 9])
    assert metric.skipped == 0


class Overflowing(nn.Module):
    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [x, x.mean((1, 2, 3), keepdim=True).mul(1e30).square().sub(1e60)]


def test_a_score_that_is_not_finite_counts_as_an_image_that_cannot_be_scored() -> None:
    backbone = Backbone(Overflowing(), min_size=3)
    x, y = images(2)
    with pytest.raises(ValueError, match=r"number 0 of the batch with index 5: its score is nan, not a finite number"):
        DAMLPIPSMetric(backbone, check_values=False).update(x, y, index=[5, 6])
    metric = DAMLPIPSMetric(backbone, on_error="skip")
    metric.update(x, y)
    assert metric.skipped == 2


@pytest.mark.parametrize("call", ["update", "forward"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_failed_call_changes_nothing(make, call: str, reduction: str) -> None:
    metric = make(reduction=reduction)
    x, y = images(2)
    metric.update(x, y)
    value, count = metric.compute(), metric.update_count
    state = copy.deepcopy(metric.metric_state)
    for bad in (
        (x * 255, y),
        (x, y[:1]),
        (x[:, :2], y[:, :2]),
        (x * float("nan"), y),
        (x[0], y[0]),
        (x, y, [1]),
        (x, y, [0.5, 1.5]),
    ):
        with pytest.raises((ValueError, TypeError)):
            (metric.update if call == "update" else metric)(*bad)
        assert metric.update_count == count
        assert metric._computed is not None
        assert str(metric.metric_state) == str(state)
    torch.testing.assert_close(metric.compute(), value, rtol=0, atol=0)
    metric.update(x, y)
    assert metric.update_count == count + 1


def test_index_counts_every_image_once(make) -> None:
    x, y = images(4)
    scores = make().model(x, y)
    for reduction, expected in (("mean", scores.mean()), ("sum", scores.sum()), ("none", scores)):
        metric = make(reduction=reduction)
        metric.update(x[2:], y[2:], index=torch.tensor([2, 3]))
        metric.update(x[:3], y[:3], index=[0, 1, 2])
        metric.update(x[3:], y[3:], index=[3])
        torch.testing.assert_close(metric.compute(), expected)
        assert metric(x[:1], y[:1], index=[0]).squeeze() == scores[0]
        torch.testing.assert_close(metric.compute(), expected)


def test_index_with_some_updates_only_is_an_error_for_none(make) -> None:
    x, y = images(2)
    for first, second in ((None, [0, 1]), ([0, 1], None)):
        metric = make(reduction="none")
        metric.update(x, y, first)
        with pytest.raises(ValueError, match=f"or with none, got scores with{'out' if first is None else ''} one"):
            metric.update(x, y, second)
        with pytest.raises(ValueError, match="or with none"):
            metric(x, y, second)
        assert metric.compute().shape == (2,)
        metric.reset()
        metric.update(x, y, second)
    one, two = make(reduction="none"), make(reduction="none")
    one.update(x, y)
    two.update(x, y, [0, 1])
    one.merge_state(two)
    with pytest.raises(ValueError, match="with every update or with none, got 2 of 4 scores with one"):
        one.compute()


def test_mean_takes_scores_with_and_without_an_index(make) -> None:
    x, y = images(3)
    metric = make()
    metric.update(x[:2], y[:2])
    metric.update(x, y, index=[0, 1, 2])
    metric.update(x[2:], y[2:], index=[2])
    scores = metric.model(x, y)
    torch.testing.assert_close(metric.compute(), torch.cat([scores[:2], scores]).mean())


@pytest.mark.parametrize(
    "index",
    [range(5, 7), (5, 6), torch.tensor([5, 6], dtype=torch.uint8), torch.tensor([5, 6], dtype=torch.int16)],
    ids=["range", "tuple", "uint8", "int16"],
)
def test_an_index_may_be_any_whole_numbers(make, index) -> None:
    x, y = images(2)
    metric = make(reduction="none")
    metric.update(x, y, index=index)
    metric.update(x[:1], y[:1], index=np.array([6]))
    assert metric.compute().shape == (2,)


@pytest.mark.parametrize(
    "index", [("a.png", "b.png"), [None, 1], "01", {"a": 1}, 5, [1], [[1, 2]], [True, False], [0.5, 1], [10**30, 1]]
)
def test_what_is_no_index_is_refused(make, index) -> None:
    x, y = images(2)
    metric = make()
    with pytest.raises(ValueError, match="index: expected 2 whole numbers, got "):
        metric.update(x, y, index=index)
    assert metric.update_count == 0


@pytest.mark.parametrize("index", [[2**31, 0], [0, -(2**31) - 1]])
def test_an_index_beyond_32_bits_is_refused(make, monkeypatch: pytest.MonkeyPatch, index: list[int]) -> None:
    x, y = images(2)
    metric = make()
    with pytest.raises(ValueError, match=f"index: expected numbers that fit int32, got {min(index)} to {max(index)}"):
        metric.update(x, y, index=index)
    metric._add(torch.zeros(2), torch.tensor(index))  # as from an accelerator, where an index is not read
    with pytest.raises(ValueError, match="1 of the numbers do not fit int32"):
        metric.compute()
    metric.reset()
    metric.update(x, y, index=[2**31 - 1, -(2**31)])
    metric.compute()


def test_collection_reports_each_its_own_value_when_first_batches_tie() -> None:
    """Identical images give 0 in every metric; a collection that judged by values alone would merge them for good."""
    metrics = MetricCollection(
        {
            "damlpips": DAMLPIPSMetric(),
            "damlpips rho=1": DAMLPIPSMetric(rho=1.0),
            "lpips": LPIPSMetric("nano", heads="uniform"),
            "lpips sum": LPIPSMetric("nano", heads="uniform", reduction="sum"),
        }
    )
    x, y = images(2)
    metrics.update(x, x)
    metrics.update(x, y)
    values = metrics.compute()
    assert values["damlpips"] == (DAMLPIPS()(x, y).double().sum() / 4).float()
    assert values["damlpips rho=1"] == (DAMLPIPS(rho=1.0)(x, y).double().sum() / 4).float()
    lpips = LPIPS("nano", heads="uniform")(x, y)
    assert values["lpips"] == (lpips.double().sum() / 4).float()
    assert values["lpips sum"] == lpips.double().sum().float()
    assert len({float(v) for v in values.values()}) == 4


@pytest.mark.parametrize("call", ["update", "forward"])
def test_collection_runs_a_shared_backbone_once(call: str) -> None:
    network = Counting()
    backbone = Backbone(network, min_size=3)
    metrics = three(backbone)
    network.seen.clear()
    for seed in range(3):
        x, y = images(2, seed=seed)
        getattr(metrics, call)(x, y)
        assert network.seen == [4] * (seed + 1)  # both images in one pass, once for all three metrics
    alone = DAMLPIPSMetric(backbone)
    for seed in range(3):
        alone.update(*images(2, seed=seed))
    assert metrics.compute()["damlpips"] == alone.compute()


def test_a_reused_buffer_is_not_taken_for_the_last_batch() -> None:
    network = Counting()
    backbone = Backbone(network, min_size=3)
    one, two = DAMLPIPSMetric(backbone), DAMLPIPSMetric(backbone, rho=0.5)
    x, y = images(2)
    memory = x.numpy()
    one.update(x, y)
    memory[:] = memory[:, :, ::-1].copy()  # behind torch's back: same tensor, same version
    two.update(x, y)
    assert two.compute() == DAMLPIPS(backbone, rho=0.5)(x.clone(), y).mean()
    one.reset()
    two.reset()
    one.update(x, y)
    x.mul_(0.5)
    two.update(x, y)
    assert two.compute() == DAMLPIPS(backbone, rho=0.5)(x.clone(), y).mean()


def test_feature_maps_of_a_pass_go_with_its_images() -> None:
    backbone = Backbone(Counting(), min_size=3)
    one, two = DAMLPIPSMetric(backbone), DAMLPIPSMetric(backbone, rho=0.5)
    x, y = images(2)
    one.update(x, y)
    kept = weakref.ref(shared_pass._last.seen.maps[0].features[0])
    assert kept() is not None
    del x
    gc.collect()
    assert kept() is None
    two.update(*images(2))


def test_a_single_metric_keeps_no_feature_maps() -> None:
    shared_pass._last.seen = None
    metric = DAMLPIPSMetric(Backbone(Counting(), min_size=3))
    x, y = images(2)
    metric.update(x, y)
    assert shared_pass._last.seen is None


def test_wrappers(make) -> None:
    x, y = images(4)
    scores = make().model(x, y)
    running = Running(make(), window=2)
    for k in range(3):
        running(x[k : k + 1], y[k : k + 1])
    torch.testing.assert_close(running.compute(), scores[1:3].mean())

    extremes = MinMaxMetric(make())
    for k in range(4):
        extremes.update(x[k : k + 1], y[k : k + 1])
        values = extremes.compute()
    means = [scores[: k + 1].mean() for k in range(4)]
    torch.testing.assert_close(values["max"], max(means))
    torch.testing.assert_close(values["min"], min(means))

    bootstrap = BootStrapper(make(), num_bootstraps=8, raw=True, sampling_strategy="multinomial")
    bootstrap.update(x, y)
    values = bootstrap.compute()
    assert values["raw"].shape == (8,)
    assert scores.min() <= values["raw"].min()
    assert values["raw"].max() <= scores.max()
    assert values["std"] > 0


class TestPlot:
    @pytest.fixture(autouse=True)
    def no_window(self) -> Iterator[None]:
        matplotlib = pytest.importorskip("matplotlib")
        matplotlib.use("Agg")
        yield
        matplotlib.pyplot.close("all")

    def test_one_value(self, make) -> None:
        metric = make()
        metric.update(*images(2))
        for _ in range(2):  # before and after `compute`
            _, axes = metric.plot()
            assert axes.get_ylabel() == f"{type(metric).__name__} (lower is closer)"
            (line,) = axes.lines
            assert [float(v) for v in line.get_ydata()] == [pytest.approx(float(metric.compute()))]

    def test_the_best_value_is_a_line_at_zero_below_all_others(self, make) -> None:
        _, axes = make().plot([torch.tensor(0.5), torch.tensor(0.3)])
        (best,) = axes.collections
        assert set(best.get_segments()[0][:, 1]) == {0.0}
        assert [(text.get_text().split(), text.get_position()[1]) for text in axes.texts] == [(["Optimal", "value"], 0)]
        low, high = axes.get_ylim()
        assert low < 0 < 0.5 < high

    def test_values_of_steps(self, make) -> None:
        metric = make()
        x, y = images(2)
        values = [metric(x, y) for _ in range(2)]
        _, axes = metric.plot([*values, 0.25])
        assert axes.lines[0].get_ydata().tolist() == pytest.approx([*map(float, values), 0.25])
        assert axes.get_xlabel() == "Step"
        with pytest.raises(ValueError, match="got none"):
            metric.plot([])

    def test_a_point_an_image(self, make) -> None:
        metric = make(reduction="none")
        metric.update(*images(3))
        _, axes = metric.plot()
        assert [float(line.get_ydata()[0]) for line in axes.lines] == pytest.approx(metric.compute().tolist())
        assert axes.get_legend() is None
        assert axes.get_xlabel() == "Image"

    def test_given_axes(self, make) -> None:
        from matplotlib.figure import Figure

        axes = Figure().subplots()
        assert make().plot(torch.tensor(0.5), ax=axes) == (None, axes)
        assert len(axes.lines) == 1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"reduction": "median"}, ValueError, "unknown reduction 'median': expected one of 'none', 'mean', 'sum'"),
        ({"on_error": "ignore"}, ValueError, "unknown on_error 'ignore': expected one of 'raise', 'skip'"),
        ({"nonsense": 1}, TypeError, "unexpected keyword argument 'nonsense': (DAM)?LPIPSMetric takes weights, "),
    ],
)
def test_bad_options(make, options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make(**options)


def test_functional_builds_the_network_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from damlpips import functional
    from damlpips.nets import shared

    functional._module.cache_clear()
    gc.collect()
    built = []
    original = shared.Source.get
    monkeypatch.setattr(shared.Source, "get", lambda self, *args: built.append(self) or original(self, *args))
    x, y = images(2)
    for _ in range(3):
        torch.testing.assert_close(functional.damlpips(x, y), DAMLPIPS()(x, y), rtol=0, atol=0)
        functional.lpips(x, y, backbone="nano", heads="uniform", value_range=[0.0, 1.0])
    of_functional = functional._module.cache_info()
    assert of_functional.misses == 2
    assert of_functional.hits == 4
    assert functional.damlpips(x, y, reduction="sum").shape == ()


def test_each_metric_of_a_collection_has_its_own_graph() -> None:
    backbone = Backbone(Counting(), min_size=3)
    metrics = MetricCollection({"damlpips": DAMLPIPSMetric(backbone), "lpips": LPIPSMetric(backbone, heads="uniform")})
    x, y = images(2)
    x.requires_grad_()
    for value in metrics(x, y).values():
        (gradient,) = torch.autograd.grad(value, x)
        assert gradient.abs().sum() > 0
