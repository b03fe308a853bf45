"""What torchmetrics asks of every metric: values, copies, states, types, collections and wrappers.

The other tests of this folder are about what is this package's own; here any metric would do, and what a line of the
contract says holds for every row of `CASES`.
"""

import copy
import inspect
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchmetrics
from torch import Tensor
from torchmetrics import Metric, MetricCollection, MetricTracker, wrappers
from torchmetrics.image import PeakSignalNoiseRatio

from damlpips import functional
from damlpips.models.registry import SETTINGS
from tests.support import processes
from tests.support.metrics import KINDS, Make, images

FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "lpips": lambda x, y, backbone="nano", **options: functional.lpips(
        x, y, backbone=backbone, heads="uniform", **options
    ),
    "damlpips": functional.damlpips,
}

# options of a metric
CASES: dict[str, dict[str, Any]] = {
    "mean": {},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none"},
    "skipping": {"on_error": "skip"},
    "resized": {"resize": 36},
    "range": {"value_range": (-0.5, 2.0)},
    "tiles": {"tile": 48},
    "deterministic": {"deterministic": True},
    "half network": {"dtype": torch.bfloat16},
    "on the CPU": {"compute_on_cpu": True},
    "without a cache": {"compute_with_cache": False},
    "video": {"video": True},
}
BATCHES = [images(2, seed=seed) for seed in range(4)]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def make(kind: str) -> Make:
    return KINDS[kind]


def batches(options: dict[str, Any]) -> list[tuple[Tensor, Tensor]]:
    """Return batches for a metric of these options: of videos with two frames where it takes videos."""
    return [(x[None], y[None]) for x, y in BATCHES] if "video" in options else BATCHES


def expected(kind: str, options: dict[str, Any], *pairs: tuple[Tensor, Tensor]) -> Tensor:
    """Return what the function makes of all pairs at once."""
    known = SETTINGS[kind.upper()].names()
    x, y = (torch.cat(sides) for sides in zip(*pairs, strict=True))
    return FUNCTIONS[kind](x, y, **{"reduction": "mean", **{k: v for k, v in options.items() if k in known}})


def near(found: Tensor, wanted: Tensor) -> None:
    # a score may differ in its last bits between batch sizes, and a mean of float32 scores by a rounding each
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=0)


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_values_of_a_batch_and_of_all_are_the_functions(kind: str, make: Make, options: dict[str, Any]) -> None:
    metric, twin = pickle.loads(pickle.dumps(make(**options))), make(**options)
    pairs = batches(options)
    for pair in pairs:
        near(metric(*pair), expected(kind, options, pair))
    near(metric.compute(), expected(kind, options, *pairs))
    assert metric.update_count == len(pairs)
    twin.update(*pairs[0])
    near(twin.compute(), metric.clone()(*pairs[0]))
    near(metric.compute(), expected(kind, options, *pairs))  # which a copy's batch has not changed


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_a_metric_that_is_reset_is_as_new(make: Make, options: dict[str, Any]) -> None:
    metric, pairs = make(**options), batches(options)
    first = [metric(*pairs[0]), metric.compute()]
    metric(*pairs[1])
    metric.reset()
    assert (metric.update_count, metric.update_called, metric._computed) == (0, False, None)
    assert str(metric.metric_state) == str(make(**options).metric_state)
    with pytest.warns(UserWarning, match="was called before the ``update`` method"):
        torch.testing.assert_close(metric.compute(), make(**options).compute(), equal_nan=True)
    assert torch.equal(metric(*pairs[0]), first[0])
    assert torch.equal(metric.compute(), first[1])


def test_compute_is_remembered_until_the_next_update(make: Make) -> None:
    metric = make()
    metric.update(*BATCHES[0])
    value = metric.compute()
    assert metric.compute() is value
    metric.update(*BATCHES[1])
    assert metric.compute() != value
    forgetful = make(compute_with_cache=False)
    forgetful.update(*BATCHES[0])
    assert forgetful.compute() == value
    assert forgetful._computed is None


def test_images_may_be_given_by_name_and_nothing_else_may(make: Make) -> None:
    (x, y), metric = BATCHES[0], make()
    assert metric(img=x, ref=y) == metric(x, y)
    for call in (metric, metric.update):
        with pytest.raises(TypeError, match="unexpected keyword argument 'target'"):
            call(x, y, target=y)
        with pytest.raises(TypeError, match="missing 1 required positional argument: 'ref'"):
            call(x)
    assert metric.update_count == 2


@pytest.mark.parametrize(
    "option", ["dist_sync_on_step", "dist_sync_fn", "sync_on_compute", "compute_on_cpu", "compute_with_cache"]
)
def test_options_of_torchmetrics_are_checked_by_it(make: Make, option: str) -> None:
    with pytest.raises(ValueError, match=f"Expected keyword argument `{option}` to be an? "):
        make(**{option: 3})


def test_a_metric_cannot_be_iterated_over(make: Make) -> None:
    with pytest.raises((TypeError, NotImplementedError), match="iter"):
        iter(make())


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_a_metric_can_be_scripted(make: Make) -> None:
    metric = make()
    metric.update(*BATCHES[0])
    torch.jit.script(metric)
    assert metric.compute() > 0


# --- what its constants promise ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_a_differentiable_metric_has_a_gradient_that_leads_to_the_best(make: Make, options: dict[str, Any]) -> None:
    metric, ((x, y), *_) = make(**options), batches(options)
    x = x.clone().requires_grad_()
    value = metric(x, y)
    assert value.requires_grad is metric.is_differentiable is True
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0
    assert metric.higher_is_better is False
    nearer = (x - 0.02 * gradient / gradient.abs().amax()).detach().clamp(0, 1)
    assert metric(nearer, y).sum() < value.sum()
    assert metric(y, y).abs().max() == metric.plot_lower_bound == 0


# --- types ------------------------------------------------------------------------------------------------------------

# how far half of the bits of float32 may lead
PRECISION = {torch.float16: 2e-3, torch.bfloat16: 2e-2, torch.float32: 0.0, torch.float64: 1e-5}


@pytest.mark.parametrize("dtype", PRECISION)
@pytest.mark.parametrize("sets_dtype", [False, True], ids=["images alone", "set_dtype"])
def test_precision(kind: str, make: Make, sets_dtype: bool, dtype: torch.dtype) -> None:
    metric = make().set_dtype(dtype) if sets_dtype else make()
    for x, y in BATCHES:
        value = metric(x.to(dtype), y.to(dtype))
        # scores are float32 at least
        assert value.dtype == (torch.float64 if sets_dtype and dtype == torch.float64 else torch.float32)
        torch.testing.assert_close(value.float(), expected(kind, {}, (x, y)), rtol=PRECISION[dtype] + 1e-6, atol=0)
        torch.testing.assert_close(FUNCTIONS[kind](x.to(dtype), y.to(dtype)).mean(), make()(x.to(dtype), y.to(dtype)))
    total = metric.compute()
    assert total.dtype == value.dtype
    torch.testing.assert_close(total.float(), expected(kind, {}, *BATCHES), rtol=PRECISION[dtype] + 1e-5, atol=0)


# --- copies and states ------------------------------------------------------------------------------------------------

COPIES: dict[str, Callable[[Metric], Metric]] = {
    "clone": Metric.clone,
    "copy.deepcopy": copy.deepcopy,
    "pickle": lambda metric: pickle.loads(pickle.dumps(metric)),
}
# what has happened to a metric that is copied
PASTS: dict[str, Callable[[Metric], object]] = {
    "new": lambda metric: None,
    "updated": lambda metric: metric.update(*BATCHES[1]),
    "called with a graph": lambda metric: metric(BATCHES[1][0].clone().requires_grad_(), BATCHES[1][1]),
    "computed": lambda metric: (metric.update(*BATCHES[1]), metric.compute()),
    "reset": lambda metric: (metric.update(*BATCHES[1]), metric.reset()),
    "in double precision": lambda metric: metric.set_dtype(torch.float64).update(*BATCHES[1]),
}


@pytest.mark.parametrize("past", PASTS)
@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_copy_goes_on_by_itself(make: Make, reduction: str, way: str, past: str) -> None:
    metric = make(reduction=reduction)
    PASTS[past](metric)
    twin = COPIES[way](metric)
    assert twin is not metric
    assert type(twin) is type(metric)
    assert hash(twin) != hash(metric)
    assert (twin.update_count, twin.dtype) == (metric.update_count, metric.dtype)
    before = metric.compute().clone()
    assert torch.equal(twin.compute().nan_to_num(-1), before.nan_to_num(-1))
    twin.update(*BATCHES[2])
    assert torch.equal(metric.compute().nan_to_num(-1), before.nan_to_num(-1))
    metric.update(*BATCHES[2])
    assert torch.equal(twin.compute(), metric.compute())


def test_a_hash_tells_metrics_and_their_states_apart(make: Make) -> None:
    metric, others, seen = make(reduction="none"), [make(), make(reduction="sum")], set()
    kept = []  # torchmetrics goes by the addresses of states: one that is freed gives its own to a later one
    for pair in BATCHES:
        seen.add(hash(metric))
        kept.append(metric.metric_state)
        metric.update(*pair)
    seen |= {hash(metric), *map(hash, others)}
    assert len(seen) == len(BATCHES) + 3
    assert hash(metric) == hash(metric)


def test_states_are_saved_when_asked_for_alone(make: Make) -> None:
    metric = make()
    for persistent in (False, True, False):
        metric.persistent(persistent)
        metric.update(*BATCHES[0])
        assert bool(metric.state_dict()) is persistent
    assert list(metric.parameters()) == list(metric.buffers()) == []


# --- merging ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("as_dict", [False, True], ids=["a metric", "its state"])
def test_new_metrics_merge(make: Make, reduction: str, as_dict: bool) -> None:
    def merged(one: Metric, two: Metric) -> Tensor:
        one.merge_state(two.metric_state if as_dict else two)
        return one.compute()

    updated = make(reduction=reduction)
    updated.update(*BATCHES[0])
    value = updated.compute()
    assert torch.equal(merged(make(reduction=reduction), updated), value)
    assert torch.equal(merged(updated.clone(), make(reduction=reduction)), value)
    empty = merged(make(reduction=reduction), make(reduction=reduction))
    torch.testing.assert_close(empty, make(reduction=reduction).compute(), equal_nan=True)


NO_STATES: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "text": lambda: "mean",
    "a tensor": lambda: torch.tensor(1.0),
    "a list": lambda: [make() for make in KINDS.values()],
    "a collection": lambda: MetricCollection({"lpips": KINDS["lpips"]()}),
    "another metric": lambda: PeakSignalNoiseRatio(data_range=1.0),
    "its state": lambda: PeakSignalNoiseRatio(data_range=1.0).metric_state,
    "a composition": lambda: KINDS["damlpips"]() + 1,
}


@pytest.mark.parametrize("other", NO_STATES)
def test_what_is_no_state_of_its_kind_is_a_value_error(make: Make, other: str) -> None:
    metric = make()
    metric.update(*BATCHES[0])
    before = metric.compute()
    with pytest.raises(ValueError, match=r"merge_state: (expected a metric or its metric_state, got|no state)"):
        metric.merge_state(NO_STATES[other]())
    assert (metric.compute(), metric.update_count) == (before, 1)


def test_lpips_and_damlpips_do_not_merge() -> None:
    one, two = (make() for make in KINDS.values())
    for metric, other in ((one, two), (two, one)):
        with pytest.raises(ValueError, match="the other metric has another kind"):
            metric.merge_state(other)


# --- collections ------------------------------------------------------------------------------------------------------


def collection(**options: Any) -> MetricCollection:
    return MetricCollection(
        {"psnr": PeakSignalNoiseRatio(data_range=1.0), **{name: make() for name, make in KINDS.items()}}, **options
    )


def test_a_collection_names_its_metrics_as_asked(kind: str) -> None:
    metrics = collection(prefix="val/", postfix="_all")
    names = {f"val/{name}_all" for name in ("psnr", *KINDS)}
    assert metrics(*BATCHES[0]).keys() == names
    assert metrics.compute().keys() == names
    assert metrics.clone(prefix="test/").compute().keys() == {name.replace("val", "test") for name in names}
    near(metrics.compute()[f"val/{kind}_all"], expected(kind, {}, BATCHES[0]))
    by_class = MetricCollection([make() for make in KINDS.values()], prefix="a ")
    assert by_class(*BATCHES[0]).keys() == {"a LPIPSMetric", "a DAMLPIPSMetric"}
    by_class.add_metrics({"again": KINDS[kind]()})
    by_class.reset()
    by_class.update(*BATCHES[0])
    assert by_class.compute()["a again"] == metrics.compute()[f"val/{kind}_all"]


def test_what_only_some_metrics_take_is_passed_to_them_alone(kind: str) -> None:
    metrics, (x, y) = collection(), BATCHES[0]
    for _ in range(2):
        metrics.update(x, y, index=[7, 8])  # which PSNR does not take
    assert metrics[kind].compute() == expected(kind, {}, (x, y))
    assert metrics["psnr"].update_count == 2
    with pytest.raises(TypeError, match="positional"):
        metrics.update(x, y, None, None, None)


# what two metrics have beside their kind, and whether one state does for both
TOGETHER: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "equal": ({}, {}, True),
    "mean and sum": ({}, {"reduction": "sum"}, True),
    "all scores": ({"reduction": "none"}, {"reduction": "none"}, True),
    "mean and all scores": ({}, {"reduction": "none"}, False),
    "another size": ({}, {"resize": 36}, False),
    "another way to fail": ({}, {"on_error": "skip"}, False),
    "another type": ({}, {"dtype": torch.bfloat16}, False),
}


@pytest.mark.parametrize(("one", "two", "shared"), TOGETHER.values(), ids=TOGETHER)
def test_a_compute_group_is_of_metrics_that_keep_the_same(
    kind: str, make: Make, one: dict[str, Any], two: dict[str, Any], shared: bool
) -> None:
    metrics = MetricCollection({"one": make(**one), "two": make(**two)})
    metrics = copy.deepcopy(metrics)
    for _ in range(2):
        for k, (x, y) in enumerate(BATCHES):
            metrics.update(x, y)
            assert (len(metrics.compute_groups) == 1) is shared
            values = metrics.compute()  # again after each update
            near(values["one"], expected(kind, one, *BATCHES[: k + 1]))
            near(values["two"], expected(kind, two, *BATCHES[: k + 1]))
        again = pickle.loads(pickle.dumps(metrics))
        assert torch.equal(again.compute()["two"], values["two"])
        metrics.reset()
    apart = MetricCollection({"one": make(**one), "two": make(**two)}, compute_groups=False)
    assert all(torch.equal(value, apart(*BATCHES[0])[name]) for name, value in metrics(*BATCHES[0]).items())


def test_metrics_of_a_group_skip_and_count_alike(make: Make) -> None:
    metrics = MetricCollection({name: make(on_error="skip") for name in ("one", "two")})
    x, y = BATCHES[0]
    for pair in (BATCHES[1], (x.where(y > y.amin((1, 2, 3), keepdim=True), torch.nan), y), BATCHES[2]):
        metrics.update(*pair)
    assert [metric.skipped for metric in metrics.values()] == [2, 2]
    with pytest.warns(UserWarning, match="skipped 2 images"):
        values = metrics.compute()
    assert values["one"] == values["two"] > 0


def test_a_collection_is_plotted() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    metrics = collection()
    steps = [metrics(*pair) for pair in BATCHES]
    assert len(metrics.plot()) == 3
    _, axes = metrics.plot(steps, together=True)
    drawn = {line.get_label(): line.get_ydata().tolist() for line in axes.lines}
    assert drawn["damlpips"] == pytest.approx([float(step["damlpips"]) for step in steps])
    matplotlib.pyplot.close("all")


# --- wrappers and arithmetic ------------------------------------------------------------------------------------------

Wrapped = tuple[Callable[[Make], Metric], Callable[[Tensor], Any]]

# how a wrapper is made, and what it gives for four batches of scores (4, 2)
WRAPPERS: dict[str, Wrapped] = {
    "minimum and maximum": (
        lambda make: wrappers.MinMaxMetric(make()),
        lambda s: {"raw": s.mean(), "min": s.mean(), "max": s.mean()},
    ),
    "running": (lambda make: wrappers.Running(make(), window=3), lambda s: s[1:].mean()),
    "running sum": (lambda make: wrappers.Running(make(reduction="sum"), window=1), lambda s: s[3].sum()),
    "classes": (
        lambda make: wrappers.ClasswiseWrapper(make(reduction="none"), prefix="image "),
        lambda s: {f"image {n}": score for n, score in enumerate(s.flatten())},
    ),
    "sum of two": (lambda make: make() + make(reduction="sum"), lambda s: s.mean() + s.sum()),
    "arithmetic": (lambda make: abs(1 - 2 * make()), lambda s: (1 - 2 * s.mean()).abs()),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrapped(kind: str, make: Make, wrapper: str) -> None:
    build, value_of = WRAPPERS[wrapper]
    wrapped = build(make)
    wanted = value_of(torch.stack([expected(kind, {"reduction": "none"}, pair) for pair in BATCHES]))
    for _ in range(2):
        for pair in BATCHES:
            wrapped.update(*pair)
        for one in (wrapped, *(copied(wrapped) for copied in COPIES.values())):
            assert type(one) is type(wrapped)
            # 1 - 2 s cancels where s is near 1/2: it has the rounding of s itself
            torch.testing.assert_close(one.compute(), wanted, rtol=1e-5, atol=1e-6)
        wrapped.reset()


def test_one_of_all_scores(kind: str, make: Make) -> None:
    second = make(reduction="none")[1]  # torchmetrics cannot pickle it
    second.update(*BATCHES[0])
    near(second.compute(), expected(kind, {"reduction": "none"}, BATCHES[0])[1])


def test_several_tasks_and_changed_inputs(kind: str, make: Make) -> None:
    (x, y), value = BATCHES[0], expected(kind, {}, BATCHES[0])
    tasks = wrappers.MultitaskWrapper({"clean": make(), "noisy": make()})
    found = tasks({"clean": y, "noisy": x}, {"clean": y, "noisy": y})
    assert found == {"clean": torch.tensor(0.0), "noisy": value}
    transformer = getattr(wrappers, "LambdaInputTransformer", None)
    if transformer is None:
        pytest.skip(f"torchmetrics {torchmetrics.__version__} has none")
    near(transformer(make(), lambda p: p / 255, lambda t: t / 255)(255 * x, 255 * y), value)


@pytest.mark.parametrize("collected", [False, True], ids=["a metric", "a collection"])
def test_a_tracker_knows_that_less_is_better(make: Make, collected: bool) -> None:
    # older versions take the greatest value for the best unless they are told
    asks = inspect.signature(MetricTracker).parameters["maximize"].default is None
    tracker = MetricTracker(MetricCollection({"m": make()}) if collected else make(), *([] if asks else [False]))
    values = []
    for noise in (0.3, 0.1, 0.2):
        tracker.increment()
        x, y = BATCHES[0]
        value = tracker(y + noise * (x - y), y)
        values.append(value["m"] if collected else value)
    best, step = tracker.best_metric(return_step=True)
    assert (best["m"] if collected else best) == pytest.approx(float(min(values)))
    assert (step["m"] if collected else step) == 1
    every = tracker.compute_all()
    torch.testing.assert_close(every["m"] if collected else every, torch.stack(values))


def test_a_bootstrap_draws_scores_again(kind: str, make: Make) -> None:
    """Without `index`: an image that is drawn twice is to count twice."""
    torch.manual_seed(0)
    x, y = (torch.cat(sides) for sides in zip(*BATCHES, strict=True))
    bootstrap = wrappers.BootStrapper(make(), num_bootstraps=20, raw=True, sampling_strategy="multinomial")
    values = bootstrap(x, y)
    scores = expected(kind, {"reduction": "none"}, (x, y))
    assert scores.min() < values["raw"].min() < values["mean"] < values["raw"].max() < scores.max()
    # the standard error of a mean of eight, to what twenty draws tell of it
    assert 0.5 < values["std"] / (scores.std(correction=0) / len(scores) ** 0.5) < 1.5


# --- processes --------------------------------------------------------------------------------------------------------

STEPS = [(kind, on_step, reduction) for kind in KINDS for on_step in (False, True) for reduction in ("mean", "none")]


def stepping(rank: int, world: int) -> dict[Any, Any]:
    """Return the values of this process's batches and of all, of metrics that were pickled before and after."""
    out = {}
    for kind, on_step, reduction in STEPS:
        metric = pickle.loads(pickle.dumps(KINDS[kind](dist_sync_on_step=on_step, reduction=reduction)))
        values = [metric(*BATCHES[k]) for k in range(rank, len(BATCHES), world)]
        out[kind, on_step, reduction] = values, pickle.loads(pickle.dumps(metric)).compute(), metric.compute()
    metrics = collection(prefix="val/")
    for k in range(rank, len(BATCHES), world):
        metrics.update(*BATCHES[k])
    return out | {"collection": metrics.compute()}


@pytest.fixture(scope="module")
def stepped() -> list[dict[Any, Any]]:
    return processes.run(2, stepping)


@pytest.mark.parametrize(("kind", "on_step", "reduction"), STEPS)
def test_two_processes(stepped: list[dict[Any, Any]], kind: str, on_step: bool, reduction: str) -> None:
    def of(*numbers: int) -> Tensor:
        return expected(kind, {"reduction": reduction}, *(BATCHES[n] for n in numbers))

    for rank, outcome in enumerate(stepped):
        values, of_a_copy, total = outcome[kind, on_step, reduction]
        for step, value in enumerate(values):
            near(value, of(2 * step, 2 * step + 1) if on_step else of(2 * step + rank))
        near(total, of(0, 2, 1, 3))  # process by process
        assert torch.equal(of_a_copy, total)
        if reduction == "mean":
            assert outcome["collection"][f"val/{kind}"] == total
