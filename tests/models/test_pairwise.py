"""Distances of all pairs: those of the pairs alone, each image run through the network once, in bounded memory."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from damlpips import DAMLPIPS, LPIPS, Backbone, DAMLPIPSMetric
from damlpips.functional import pairwise as matrix
from damlpips.models import pairwise
from damlpips.models.base import PerceptualDistance
from tests.support import reference
from tests.support.modules import KINDS
from tests.support.reference import Counting, rounded


def images(n: int, size: int = 16, seed: int = 0) -> Tensor:
    x, y = reference.noise((n + 1) // 2, size, size, seed)
    return torch.cat([x, y])[:n]


def loop(module, x: Tensor, y: Tensor) -> Tensor:
    rows = [torch.cat([module(x[i : i + 1], y[j : j + 1]) for j in range(len(y))]) for i in range(len(x))]
    return torch.stack(rows)


@pytest.fixture
def small_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two images of 16 x 16 a pass."""
    monkeypatch.setattr(pairwise, "PASS_VALUES", 2 * 3 * 16 * 16)


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pairs are compared at a time."""
    found: list[int] = []
    real = PerceptualDistance.compared
    monkeypatch.setattr(PerceptualDistance, "compared", lambda self, pair: found.append(len(pair)) or real(self, pair))
    return found


# --- distances ------------------------------------------------------------------------------------------------------


@given(
    n=st.integers(1, 5),
    m=st.integers(0, 5),
    block=st.none() | st.integers(1, 7),
    each_pass=st.integers(1, 6),
    kind=st.sampled_from(sorted(KINDS)),
)
@settings(max_examples=40)
def test_equal_to_the_loop_of_pairs(n: int, m: int, block: int | None, each_pass: int, kind: str) -> None:
    """With m = 0, of one set with itself."""
    network = Counting()
    module = KINDS[kind](Backbone(network, min_size=3))
    x, y = images(n), images(m, seed=1) if m else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairwise, "PASS_VALUES", each_pass * 3 * 16 * 16)
        network.seen.clear()
        found = matrix(x, y, metric=module, block=block)
    assert sum(network.seen) == n + m
    assert max(network.seen) <= each_pass
    rounded(found, loop(module, x, x if y is None else y))  # another size of the batch, another order of sums
    if y is None:
        assert torch.equal(found, found.T)
        assert (found.diagonal() == 0).all()


def test_named_metrics(random_alex_weights) -> None:
    x, y = images(3, size=40), images(2, size=40, seed=1)
    rounded(matrix(x, y), loop(DAMLPIPS(), x, y))
    rounded(matrix(x, y, metric="damlpips", rho=0.5), loop(DAMLPIPS(rho=0.5), x, y))
    module = LPIPS("alex", weights=random_alex_weights)
    rounded(matrix(x, y, metric="lpips", backbone="alex", weights=random_alex_weights), loop(module, x, y))


def test_bytes_resized_and_grey_images(make) -> None:
    x, y = (images(n, size=24, seed=n)[:, :1].mul(255).to(torch.uint8) for n in (3, 2))
    module = make("nano", grey="repeat", resize=16)
    rounded(matrix(x, y, metric=module), loop(module, x, y))
    wide = torch.cat([y, y], 3)
    module = make("nano", grey="repeat", resize=(16, 20))
    rounded(matrix(x, wide, metric=module), loop(module, x, wide))


def test_in_float64(make) -> None:
    module, x = make("nano").double(), images(4).double()
    # float64: the order of the sums
    torch.testing.assert_close(matrix(x, metric=module), loop(module, x, x), rtol=1e-11, atol=1e-14)
    assert matrix(x[:1], metric=module).dtype == torch.float64


def test_deterministic_is_equal_to_the_last_bit(make, small_passes) -> None:
    module, x = make("nano", deterministic=True), images(5)
    found = matrix(x, metric=module, block=3)
    expected = loop(module, x, x)
    above = torch.ones(5, 5).triu(1).bool()
    assert torch.equal(found[above], expected[above])


def test_images_that_are_encoded(make, small_passes) -> None:
    network = Counting()
    module, x, y = make(Backbone(network, min_size=3)), images(5), images(3, seed=1)
    expected = matrix(x, y, metric=module)
    a, b = module.encode(x), module.encode(y)
    network.seen.clear()
    rounded(matrix(a, b, metric=module), expected)
    rounded(matrix(a, metric=module), matrix(a, a, metric=module))
    assert network.seen == []
    rounded(matrix(x, b, metric=module), expected)
    assert sum(network.seen) == 5


def test_one_reference_and_its_candidates(make) -> None:
    network = Counting()
    module, x, y = make(Backbone(network, min_size=3)), images(4), images(1, seed=1)
    network.seen.clear()
    found = matrix(x, y, metric=module)
    assert sum(network.seen) == 5
    assert found.shape == (4, 1)
    rounded(found[:, 0], module(x, y.expand(4, -1, -1, -1)))


def test_the_same_images_twice_are_compared_once(make, compared) -> None:
    module, x = make("nano"), images(4)
    rounded(matrix(x, x, metric=module), matrix(x, metric=module))
    assert sum(compared) == 2 * (4 * 3 // 2)


@pytest.mark.cuda
def test_on_cuda(make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    x, y = images(5).cuda(), images(3, seed=1).cuda()
    module = make("nano").to("cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = matrix(x, y, metric=module)
        matrix(x, metric=module)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert found.device.type == "cuda"
    # CPU and CUDA convolutions sum in different orders
    torch.testing.assert_close(found.cpu(), loop(make("nano"), x.cpu(), y.cpu()), rtol=1e-4, atol=1e-6)
    assert matrix(x, y).device.type == "cuda"


def test_on_a_device_nothing_is_read_back(make, small_passes) -> None:
    module, x = make("nano").to("meta"), images(5).to("meta")
    assert matrix(x, metric=module).shape == (5, 5)
    assert matrix(x, x[:2], metric=module).shape == (5, 2)


# --- memory ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [1, 5, None])
def test_blocks_hold_no_more_pairs_than_asked_for(make, monkeypatch, compared, block) -> None:
    module, x = make("nano"), images(6)
    if block is None:
        monkeypatch.setattr(pairwise, "BLOCK_BYTES", 4 * module.encode(x[:1]).nbytes)
    matrix(x, metric=module, block=block)
    assert max(compared) == (block or 4)
    assert sum(compared) == 15


# --- gradients ------------------------------------------------------------------------------------------------------


def test_gradients_are_those_of_the_loop(make, small_passes) -> None:
    module, x, y = make("nano"), images(3).requires_grad_(), images(4, seed=1).requires_grad_()
    weights = torch.rand(3, 4)
    found = torch.autograd.grad((matrix(x, y, metric=module, block=3) * weights).sum(), (x, y))
    expected = torch.autograd.grad((loop(module, x, y) * weights).sum(), (x, y))
    for a, b in zip(found, expected, strict=True):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()  # another batch, another order of sums
    weights = torch.rand(3, 3).fill_diagonal_(0)  # LPIPS is at its minimum there
    (found,) = torch.autograd.grad((matrix(x, metric=module) * weights).sum(), x)
    (expected,) = torch.autograd.grad((loop(module, x, x) * weights).sum(), x)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_no_graph_where_none_is_asked_for(make) -> None:
    module, x = make("nano"), images(3)
    assert not matrix(x, metric=module).requires_grad
    with torch.no_grad():
        assert not matrix(x.requires_grad_(), metric=module).requires_grad


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"metric": "ssim"}, ValueError, "unknown metric 'ssim': expected one of 'lpips', 'damlpips'"),
        ({"metric": DAMLPIPSMetric()}, TypeError, "expected 'lpips' or 'damlpips', or a module, got DAMLPIPSMetric"),
        ({"metric": DAMLPIPS(), "rho": 0.5}, TypeError, "options: a module brings its own, got rho"),
        ({"reduction": "mean"}, TypeError, "reduction: a matrix of distances has none"),
        ({"block": 0}, ValueError, "block: expected at least one pair, got 0"),
        ({"block": 2.0}, TypeError, "block: expected None or a number of pairs, got 2.0"),
        ({"block": True}, TypeError, "block: expected None or a number of pairs, got True"),
        ({"nonsense": 1}, TypeError, "nonsense"),
    ],
)
def test_bad_options(options, error, message) -> None:
    with pytest.raises(error, match=message):
        matrix(images(2), **options)


def test_bad_images(make) -> None:
    module, x = make("nano"), images(2)
    with pytest.raises(ValueError, match=r"x: expected \(N, 3, H, W\), got \(3, 16, 16\): add a batch dimension"):
        matrix(x[0], metric=module)
    with pytest.raises(TypeError, match=r"y: expected a torch.Tensor \(N, 3, H, W\), got builtins.list"):
        matrix(x, [x], metric=module)
    with pytest.raises(ValueError, match="at least one image, got an empty batch"):
        matrix(x, x[:0], metric=module)
    with pytest.raises(ValueError, match="y: expected values in"):
        matrix(x, x + 1, metric=make("nano", check_values=True))
    for resize in (None, "reference"):
        with pytest.raises(
            ValueError, match=r"x and y: expected images of one size, got 16 x 16 and 20 x 20: use resize="
        ):
            matrix(x, images(2, size=20), metric=make("nano", resize=resize))
    with pytest.raises(ValueError, match="encoded by another backbone"):
        matrix(make(Backbone(Counting(), min_size=3)).encode(x), metric=module)
