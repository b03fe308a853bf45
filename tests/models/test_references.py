"""References with a key: run through the network once, and the scores are what they would be without."""

import copy
import pickle
import threading
import warnings
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from damlpips import DAMLPIPS, LPIPS, Backbone, DAMLPIPSMetric
from damlpips.models.references import PATIENCE, ReferenceCache, as_keys
from tests.support import reference
from tests.support.metrics import KINDS as METRICS
from tests.support.metrics import three
from tests.support.modules import KINDS
from tests.support.processes import python
from tests.support.reference import Counting, rounded


@pytest.fixture(params=METRICS)
def make_metric(request):
    return METRICS[request.param]


@pytest.fixture
def network() -> Counting:
    return Counting()


@pytest.fixture
def backbone(network: Counting) -> Backbone:
    return Backbone(network, min_size=3)


def images(n: int, size: int = 16, seed: int = 0) -> tuple[Tensor, Tensor]:
    return reference.noise(n, size, size, seed)


def bytes_of_one(size: int = 16) -> int:
    """The maps of `Counting` and the image, in float32."""
    large, small = size - 2, (size - 1) // 2
    return 4 * (4 * large**2 + 4 * small**2 + 3 * size**2)


# --- the scores, and what runs --------------------------------------------------------------------------------------


@given(
    batches=st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=4), min_size=1, max_size=5),
    kind=st.sampled_from(sorted(KINDS)),
)
@settings(max_examples=40)
def test_any_batches_score_the_same_and_each_reference_runs_once(batches: list[list[int]], kind: str) -> None:
    network = Counting()
    keyed, plain = (KINDS[kind](Backbone(network, min_size=3)) for _ in range(2))
    distorted, references = images(6)
    known: set[int] = set()
    for k, keys in enumerate(batches):
        x, y = distorted[keys].roll(k, 2), references[keys]
        network.seen.clear()
        found = keyed.per_layer(x, y, reference_key=keys)
        assert sum(network.seen) == len(keys) + len({*keys} - known)
        known |= {*keys}
        rounded(found, plain.per_layer(x, y))  # another size of the batch, another order of sums
        rounded(keyed(x, y, reference_key=keys), plain(x, y))
    assert len(keyed.references) == len(known)
    assert keyed.references.misses == len(known)


def test_what_is_missing_runs_in_the_pass_of_the_images(network, backbone, make) -> None:
    module, (x, y) = make(backbone), images(4)
    network.seen.clear()
    module(x[:2], y[:2], reference_key=["a", "b"])
    assert network.seen == [4]
    module(x, y, reference_key=["a", "b", "c", "d"])
    assert network.seen == [4, 4 + 2]
    module(x, y, reference_key=["d", "c", "b", "a"][::-1])
    assert network.seen == [4, 6, 4]
    assert (module.references.hits, module.references.misses) == (6, 4)


@pytest.mark.parametrize("net", ["nano", "counting"])  # of the two only nano keeps channels last in memory
def test_deterministic_scores_are_equal_to_the_last_bit(backbone, make, net) -> None:
    module, (x, y) = make("nano" if net == "nano" else backbone, deterministic=True), images(5)
    expected = module(x, y)
    for rows in (slice(0, 3), slice(1, 5), slice(0, 5), slice(2, 3)):
        assert torch.equal(module(x[rows], y[rows], reference_key=range(5)[rows]), expected[rows])


@pytest.mark.parametrize("options", [{"resize": "reference"}, {"resize": 12}, {"resize": (11, 14)}, {"grey": "repeat"}])
def test_options_that_change_the_images(network, backbone, make, options) -> None:
    module, plain, (x, y) = make(backbone, **options), make(backbone, **options), images(3)
    if options.get("resize") == "reference":
        x = torch.nn.functional.avg_pool2d(x, 2)
    if "grey" in options:
        x, y = x[:, :1], y[:, :1]
    for keys, ran in ((["a", "b", "c"], 6), (["a", "b", "c"], 3)):
        network.seen.clear()
        found = module(x, y, reference_key=keys)
        assert sum(network.seen) == ran
        rounded(found, plain(x, y))


def test_images_looked_at_from_afar(network, backbone) -> None:
    module, (x, y) = DAMLPIPS(backbone, viewing_side=12), images(3, size=40)
    for _ in range(2):
        rounded(module(x, y, reference_key=range(3)), DAMLPIPS(backbone, viewing_side=12)(x, y))
    assert module.references.nbytes == 3 * bytes_of_one(12)


# --- what a key stands for ------------------------------------------------------------------------------------------


def test_a_key_with_an_image_of_another_size_is_refused(make, backbone) -> None:
    module = make(backbone)
    module(*images(2), reference_key=["first", "second"])
    message = (
        r"reference_key 'second': got an image of shape \(3, 20, 20\), expected \(3, 16, 16\), as it came with before;"
        r" a key stands for one image: use another key, or clear_references\(\) first"
    )
    with pytest.raises(ValueError, match=message):
        module(*images(2, size=20), reference_key=["third", "second"])
    module.clear_references()
    module(*images(2, size=20), reference_key=["third", "second"])


def test_a_key_with_another_image_is_refused_on_a_cpu(make, backbone) -> None:
    module, (x, y) = make(backbone), images(2)
    module(x, y, reference_key=[0, 1])
    for other in (y.flip(3), y.flip(0), y.roll(1, 2), y * 0.999):
        with pytest.raises(ValueError, match="reference_key 0: got an image of other values than it came with before"):
            module(x, other, reference_key=[0, 1])
    changed = y.clone()
    changed[1, 2, 3, 4] += 1 / 255
    with pytest.raises(ValueError, match="reference_key 1: got an image of other values"):
        module(x, changed, reference_key=[0, 1])
    with pytest.raises(ValueError, match="reference_key 'new': got an image of other values"):
        module(x, y, reference_key=["new", "new"])
    # the same values in another layout of memory are the same image
    rounded(module(x, y.to(memory_format=torch.channels_last), reference_key=[0, 1]), module(x, y))


def test_a_changed_buffer_does_not_change_what_is_kept(make, backbone) -> None:
    module, (x, y) = make(backbone), images(2)
    expected, kept = module(x, y), y.clone()
    module(x, y, reference_key=[0, 1])
    y.zero_()
    rounded(module(x, kept, reference_key=[0, 1]), expected)


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [
        ("ab", TypeError, "expected a sequence of 2 keys, one a reference, got str: a single key goes in a list"),
        (7, TypeError, "expected a sequence of 2 keys, one a reference, got int"),
        ({1, 2}, TypeError, "got set"),
        ([1, 2, 3], ValueError, "expected 2 keys, one a reference, got 3"),
        ([], ValueError, "expected 2 keys, one a reference, got 0"),
        (torch.arange(3), ValueError, "expected 2 keys, one a reference, got 3"),
        ([1, None], TypeError, "expected keys such as str or int, got NoneType among them"),
        ([1, [2]], TypeError, "expected keys such as str or int, got list among them"),
        ([1, torch.tensor(2)], TypeError, "expected keys such as str or int, got Tensor among them"),
        (torch.rand(2), TypeError, r"expected 2 whole numbers \(N,\), got torch.float32 of shape \(2,\)"),
        (torch.arange(4).reshape(2, 2), TypeError, r"got torch.int64 of shape \(2, 2\)"),
        (torch.tensor([True, False]), TypeError, "got torch.bool"),
    ],
)
def test_bad_keys(make, backbone, keys, error, message) -> None:
    module, (x, y) = make(backbone), images(2)
    with pytest.raises(error, match=f"reference_key: .*{message}"):
        module(x, y, reference_key=keys)
    assert len(module.references) == 0


def test_keys_of_any_kind() -> None:
    assert as_keys(torch.tensor([3, 4], dtype=torch.int32), 2) == (3, 4)
    assert as_keys(["a", ("b", 1)], 2) == ("a", ("b", 1))
    assert as_keys(range(2), 2) == (0, 1)


def test_keys_do_not_hide_bad_images(make, backbone) -> None:
    module, (x, y) = make(backbone), images(2)
    module(x, y, reference_key=[0, 1])
    with pytest.raises(ValueError, match="add a batch dimension"):
        module(x, y[0], reference_key=[0, 1])
    with pytest.raises(TypeError, match="both be floats"):
        module(x, (y * 255).to(torch.uint8), reference_key=[0, 1])
    with pytest.raises(ValueError, match="as many images, got 1 and 2"):
        module(x[:1], y, reference_key=[0, 1])
    with pytest.raises(ValueError, match="one size, got 12 x 12 and 16 x 16"):
        module(x[..., :12, :12], y, reference_key=[0, 1])
    with pytest.raises(TypeError, match="reference_key: expected images to go with it, got an Encoded"):
        module(x, module.encode(y), reference_key=[0, 1])
    with pytest.raises(ValueError, match="second image: expected values in"):
        make(backbone, check_values=True)(x, y + 1, reference_key=[2, 3])
    assert len(module.references) == 2


# --- conditions -----------------------------------------------------------------------------------------------------


def test_maps_of_other_conditions_are_not_served(network, backbone, make) -> None:
    module, (x, y) = make(backbone), images(2)
    ran = []

    def score(x: Tensor, y: Tensor) -> None:
        network.seen.clear()
        found = module(x, y, reference_key=[0, 1])
        ran.append(sum(network.seen))
        rounded(found, module(x, y))

    score(x, y)
    score((x * 255).to(torch.uint8), (y * 255).to(torch.uint8))
    with torch.autocast("cpu", torch.bfloat16):
        score(x, y)
    score(x, y)
    assert ran == [4, 4, 4, 2]


def test_a_move_to_another_type_or_device_forgets(make) -> None:
    module, (x, y) = make("nano"), images(2)
    module(x, y, reference_key=[0, 1])
    module.to("cpu").float()
    assert len(module.references) == 2  # nothing has moved
    module.double()
    assert len(module.references) == 0
    torch.testing.assert_close(
        module(x.double(), y.double(), reference_key=[0, 1]), module(x.double(), y.double()), rtol=1e-12, atol=0
    )
    module.to("meta")
    assert len(module.references) == 0
    for _ in range(2):  # nothing is read back from the device
        assert module(x.to("meta"), y.to("meta"), reference_key=[0, 1]).shape == (2,)
    assert (module.references.hits, module.references.misses) == (2, 2)


@pytest.mark.cuda
@pytest.mark.parametrize("make", [METRICS["lpips"], partial(DAMLPIPSMetric, version=1)], ids=["lpips", "damlpips 1"])
def test_on_cuda(network, make) -> None:
    metric = make(Backbone(network, min_size=3)).to("cuda")
    x, y = (t.cuda() for t in images(3))
    metric.update(x[:1], y[:1], reference_key=["a"])
    for ran in (5, 3):
        network.seen.clear()
        torch.cuda.set_sync_debug_mode("error")
        try:
            metric.update(x, y, reference_key=["a", "b", "c"])
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert sum(network.seen) == ran
    metric.reset()
    metric.update(x, y, reference_key=["a", "b", "c"])
    # the same device and algorithm, another size of the batch
    torch.testing.assert_close(metric.compute(), metric.model(x, y).mean(), rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match=r"expected \(3, 16, 16\)"):
        metric.update(*(t.cuda() for t in images(1, size=20)), reference_key=["a"])
    metric.to("cpu")
    assert len(metric.model.references) == 0
    metric.update(x.cpu(), y.cpu(), reference_key=["a", "b", "c"])


@pytest.mark.cuda
def test_on_cuda_what_may_have_moved_runs_again(network) -> None:
    metric = DAMLPIPSMetric(Backbone(network, min_size=3), reduction="none").to("cuda")
    x, y = (t.cuda() for t in images(3))
    for _ in range(2):
        network.seen.clear()
        metric.update(x, y, reference_key=["a", "b", "c"], index=range(3))
        assert sum(network.seen) == 6
        torch.testing.assert_close(metric.compute(), metric.model(x, y))
        metric.reset()


# --- memory ---------------------------------------------------------------------------------------------------------


def test_kept_maps_take_the_bytes_that_are_counted(make, backbone) -> None:
    module = make(backbone)
    module(*images(5), reference_key=range(5))
    kept = [t for k in module.references._kept.values() for t in (*k.maps.features, k.maps.seen)]
    assert len({t.untyped_storage().data_ptr() for t in kept}) == len(kept)  # no slices of a batch
    assert sum(t.untyped_storage().nbytes() for t in kept) == module.references.nbytes == 5 * bytes_of_one()


def test_version_1_keeps_a_reference_in_adapted_colours(backbone) -> None:
    x, y = images(3)
    module, other = DAMLPIPS(backbone, version=1), LPIPS(backbone, heads="uniform")
    expected = module(x, y)
    a, b = module.encode(x), module.encode(y)
    assert a.adapted
    assert not other.encode(x).adapted
    assert torch.equal(a.seen, module.layers(x)[0])
    for first in (x, a, other.encode(x)):  # what either module encoded stands in for the images in both
        for second in (y, b, other.encode(y)):
            rounded(module(first, second), expected)
            rounded(other(first, second), other(x, y))


@given(
    sizes=st.lists(st.integers(4, 20), min_size=1, max_size=12),
    limit=st.integers(0, 5 * bytes_of_one()),
)
@settings(max_examples=30)
def test_the_limit_is_never_exceeded(sizes: list[int], limit: int) -> None:
    module = LPIPS(Backbone(Counting(), min_size=3), heads="uniform", reference_cache=limit)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for key, size in enumerate(sizes):
            x, y = images(1, size=size, seed=key)
            rounded(module(x, y, reference_key=[key]), module(x, y))
            kept = [t for k in module.references._kept.values() for t in (*k.maps.features, k.maps.seen)]
            assert sum(t.untyped_storage().nbytes() for t in kept) == module.references.nbytes <= limit


@pytest.mark.filterwarnings("ignore:references with a key:UserWarning")
def test_epochs_over_more_references_than_fit_find_those_that_do(backbone, make) -> None:
    module = make(backbone, reference_cache=4 * bytes_of_one() + 1)
    x, y = images(10)
    for epoch in range(4):
        hits = module.references.hits
        order = torch.arange(10) if epoch < 2 else torch.randperm(10)  # in order, and shuffled
        for rows in order.split(2):
            module(x[rows], y[rows], reference_key=rows)
        assert len(module.references) == 4
        assert module.references.hits - hits == (4 if epoch else 0)


@pytest.mark.filterwarnings("ignore:references with a key:UserWarning")
def test_references_that_are_not_asked_for_any_more_make_room(backbone, make) -> None:
    module = make(backbone, reference_cache=2 * bytes_of_one())
    (x, y), (_, others) = images(2), images(2, seed=1)
    module(x, y, reference_key=["old 0", "old 1"])
    turns = 0
    while not module.references.hits and turns < 3 * PATIENCE:
        module(x, others, reference_key=["new 0", "new 1"])
        turns += 1
    # two images a turn, and two are kept; in the turn after they are taken in they are found
    assert turns == PATIENCE + 1
    assert len(module.references) == 2


def test_the_least_recently_used_goes_first() -> None:
    cache = ReferenceCache(2 * bytes_of_one())
    module = LPIPS(Backbone(Counting(), min_size=3), heads="uniform")
    module.references = cache
    x, y = images(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for key in (0, 1, *[0] * PATIENCE * 2, 2):
            module(x[:1], y[key : key + 1], reference_key=[key])
    assert [place[-1] for place in cache._kept] == [0, 2]


def test_what_does_not_fit_is_said_once(backbone, make) -> None:
    module, (x, y) = make(backbone, reference_cache=bytes_of_one()), images(3)
    size = bytes_of_one()
    with pytest.warns(UserWarning, match=f"1 of them take {size} of reference_cache={size} bytes") as caught:
        module(x, y, reference_key=[0, 1, 2])
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module(x, y, reference_key=[0, 1, 2])
    module = make(backbone, reference_cache=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rounded(module(x, y, reference_key=[0, 1, 2]), module(x, y))  # off is meant
    assert len(module.references) == 0


def test_copies_pickles_and_state_dicts_hold_no_maps(make_metric) -> None:
    metric = make_metric("nano", reference_cache=123_456_789)
    metric.update(*images(2), reference_key=[0, 1])
    metric.persistent(True)
    assert not any("reference" in name for name in metric.state_dict())
    assert len(pickle.dumps(metric)) < 20_000
    for twin in (metric.clone(), copy.deepcopy(metric), pickle.loads(pickle.dumps(metric)), copy.copy(metric.model)):
        module = getattr(twin, "model", twin)
        assert len(module.references) == (0 if twin is not module else 2)
        assert module.references.limit == 123_456_789
    assert len(metric.model.references) == 2
    assert len(copy.deepcopy(metric.model).references) == 0


# --- gradients ------------------------------------------------------------------------------------------------------


def test_gradients_reach_the_image_and_not_what_is_kept(make) -> None:
    module, (x, y) = make("nano"), images(2)
    x.requires_grad_()
    (expected,) = torch.autograd.grad(module(x, y).sum(), x)
    for _ in range(2):
        (found,) = torch.autograd.grad(module(x, y, reference_key=[0, 1]).sum(), x)
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()  # another batch, another order of sums
    for kept in module.references._kept.values():
        assert not any(t.requires_grad for t in (*kept.maps.features, kept.maps.seen))


def test_a_reference_that_is_optimised_is_refused(make) -> None:
    module, (x, y) = make("nano"), images(2)
    y.requires_grad_()
    with pytest.raises(ValueError, match=r"expected references without gradients.*detach\(\) them"):
        module(x, y, reference_key=[0, 1])
    with torch.no_grad():
        module(x, y, reference_key=[0, 1])
    assert not module(x, y.detach(), reference_key=[0, 1]).requires_grad


@pytest.mark.parametrize("keys", [[0, 1], [1, 2], [2, 3]], ids=["kept", "partly", "new"])
def test_maps_of_a_validation_without_gradients_serve_a_loss(make, keys) -> None:
    module, (x, y) = make("nano"), images(4)
    with torch.inference_mode():
        module(x[:2] + 0, y[:2] + 0, reference_key=[0, 1])
    assert not any(kept.maps.seen.is_inference() for kept in module.references._kept.values())
    image = x[keys].clone().requires_grad_()
    (expected,) = torch.autograd.grad(module(image, y[keys]).sum(), image)
    (found,) = torch.autograd.grad(module(image, y[keys], reference_key=keys).sum(), image)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()  # another batch, another order of sums


# --- metrics --------------------------------------------------------------------------------------------------------


def test_the_second_epoch_of_a_metric_runs_no_reference(network, backbone, make_metric) -> None:
    metric, (x, y) = make_metric(backbone), images(6)
    expected = metric.model(x, y).mean()
    for ran in (12, 6, 6):
        network.seen.clear()
        for start in (0, 2, 4):
            rows = slice(start, start + 2)
            keys = torch.arange(6)[rows]
            if start:
                metric.update(x[rows], y[rows], index=keys, reference_key=keys)
            else:
                metric(x[rows], y[rows], index=keys, reference_key=keys)
        assert sum(network.seen) == ran
        rounded(metric.compute(), expected)
        metric.reset()
    metric.clear_references()
    assert len(metric.model.references) == 0


def test_an_update_that_fails_leaves_the_scores(backbone, make_metric) -> None:
    metric, (x, y) = make_metric(backbone), images(2)
    metric.update(x, y, reference_key=["a", "b"])
    value = metric.compute()
    with pytest.raises(ValueError, match="reference_key 'a'"):
        metric.update(*images(1, size=20), reference_key=["a"])
    with pytest.raises(ValueError, match="expected 2 keys"):
        metric.update(x, y, reference_key=["a"])
    assert metric.update_count == 1
    assert metric.compute() == value


def test_a_reference_that_cannot_be_scored_is_left_out_every_time(backbone, make_metric) -> None:
    metric, (x, y) = make_metric(backbone, on_error="skip"), images(3)
    y[1, 0, 2, 2] = float("nan")
    for _ in range(2):
        metric.update(x, y, reference_key=[0, 1, 2])
        assert metric.skipped == 1
        with pytest.warns(UserWarning, match="skipped 1 image"):
            metric.compute()
        metric.reset()


@pytest.mark.parametrize("call", ["update", "forward"])
def test_metrics_of_a_collection_share_the_pass(network, backbone, call) -> None:
    metrics = three(backbone)
    parts = [images(2, seed=seed) for seed in range(3)]
    expected = {name: torch.cat([metric.model(x, y) for x, y in parts]).mean() for name, metric in metrics.items()}
    for ran in (4, 2):
        network.seen.clear()
        for k, (x, y) in enumerate(parts):
            getattr(metrics, call)(x, y, reference_key=[f"{k} a", f"{k} b"])
        assert network.seen == [ran] * 3
        for name, value in metrics.compute().items():
            rounded(value, expected[name])
        metrics.reset()
    # what is kept is kept once
    assert sum(len(metric.model.references) for metric in metrics.values()) == 6
    twins = metrics.clone(prefix="validation_")
    assert sum(len(metric.model.references) for metric in twins.values()) == 0


def test_a_pass_is_not_shared_between_keys(network, backbone) -> None:
    one, two = DAMLPIPSMetric(backbone), DAMLPIPSMetric(backbone, rho=0.5)
    x, y = images(2)
    network.seen.clear()
    one.update(x, y, reference_key=[0, 1])
    two.update(x, y, reference_key=[2, 3])
    two.update(x, y)
    assert network.seen == [4, 4, 4]
    assert len(two.model.references) == 2


def test_an_encoded_reference_for_all_images_of_an_update(network, backbone, make_metric) -> None:
    metric, (x, y) = make_metric(backbone, reduction="none"), images(3)
    encoded = metric.model.encode(y[:1])
    network.seen.clear()
    metric.update(x, encoded, index=[3, 4, 5])
    assert network.seen == [3]
    rounded(metric.compute(), metric.model(x, y[:1].expand(3, -1, -1, -1)))
    metric.reset()
    metric.update(metric.model.encode(x[:1]), y)
    rounded(metric.compute(), metric.model(x[:1].expand(3, -1, -1, -1), y))


def test_several_threads_at_once(network, backbone) -> None:
    module, (x, y) = LPIPS(backbone, heads="uniform", reference_cache=20 * bytes_of_one()), images(8)
    expected, errors = module(x, y), []

    def work(seed: int) -> None:
        order = torch.randperm(8, generator=torch.Generator().manual_seed(seed))
        try:
            for rows in order.repeat(6).split(3):
                rounded(module(x[rows], y[rows], reference_key=rows), expected[rows])
        except Exception as error:  # a thread's error would be lost
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(module.references) == 8
    assert module.references.nbytes == 8 * bytes_of_one()


# In a process of its own, without the shape checks that pytest puts into the package: a graph cannot go through them.
COMPILED = """
import torch
from tests.support import reference
from tests.support.reference import Tiny
from damlpips import DAMLPIPS, Backbone

torch.set_num_threads(1)
x, y = reference.noise(2, 24, 24)
metric = DAMLPIPS(Backbone(Tiny()))
compiled = torch.compile(metric, backend="aot_eager")
for _ in range(2):
    # the same operations, but for what the compiler decomposes and reorders
    torch.testing.assert_close(compiled(x, y, reference_key=["a", "b"]), metric(x, y), rtol=1e-5, atol=0)
print(metric.references.hits, metric.references.misses)
"""


def test_compiled() -> None:
    assert python(COMPILED).split() == ["2", "2"]
