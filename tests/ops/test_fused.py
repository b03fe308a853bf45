"""The distances of a layer equal those of the plain functions, and their graph keeps hardly more than the features."""

import warnings
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, func
from torch.utils._python_dispatch import TorchDispatchMode

from damlpips import DAMLPIPS, LPIPS
from damlpips.ops import blockwise, distance, execution, fused
from tests.support import reference
from tests.support.features import WEIGHINGS, Case, cases, check, direct, plain

DISTANCES = {name: lambda a, b, w=w: tuple(fused.damlpips_distances(a, b, w)) for name, w in WEIGHINGS.items()}
DISTANCES["lpips"] = lambda a, b: fused.lpips_distance(a, b, torch.linspace(0.1, 1, a.shape[1], dtype=torch.float64))
DISTANCES["lpips uniform"] = lambda a, b: fused.lpips_distance(a, b, None)


@pytest.fixture(params=DISTANCES)
def of_layer(request: pytest.FixtureRequest) -> Callable:
    return DISTANCES[request.param]


def features(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).unbind(0)


# --- values and gradients -------------------------------------------------------------------------------------------


@given(cases())
def test_values_and_gradients_are_those_of_the_plain_functions(case: Case) -> None:
    check(case)


@given(cases(), st.integers(1, 80))
def test_in_blocks_of_any_size(case: Case, block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execution, "BLOCK", block)
        check(case)


@given(cases(dtypes=["float32", "bfloat16"]))
def test_features_of_one_place(case: Case) -> None:
    case = case._replace(shape=(*case.shape[:2], 1, 1))
    a, b = case.pair()
    for found, expected in zip(direct(case, a, b), plain(case, a.double(), b.double()), strict=True):
        # the spread over one place is a thousandth of the feature, and float32 rounds it by a tenth
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-9)


def test_gradients_beside_finite_differences(of_layer: Callable) -> None:
    a, b = (x.requires_grad_() for x in features(2, 3, 2, 3))
    assert torch.autograd.gradcheck(of_layer, (a, b), check_batched_grad=True)


def test_gradients_of_gradients(of_layer: Callable) -> None:
    a, b = (x.requires_grad_() for x in features(2, 2, 2, 2))
    assert torch.autograd.gradgradcheck(of_layer, (a, b))


def test_gradients_of_gradients_where_one_image_is_made_from_the_other(of_layer: Callable) -> None:
    """The gradient of a must not include the path through b."""
    a, _ = features(1, 2, 2, 2)
    assert torch.autograd.gradgradcheck(lambda a: of_layer(a, a.roll(1, 3) ** 2 + a), a.requires_grad_())


@pytest.mark.parametrize("needed", [0, 1])
def test_a_gradient_for_one_input_alone(of_layer: Callable, needed: int) -> None:
    maps = [x.requires_grad_() for x in features(2, 5, 4, 3)]
    both = torch.autograd.grad(total(of_layer(*maps)), maps)
    fixed = [x if k == needed else x.detach() for k, x in enumerate(maps)]
    (alone,) = torch.autograd.grad(total(of_layer(*fixed)), maps[needed])
    assert torch.equal(alone, both[needed])


@pytest.mark.parametrize("number", [0, 1])
def test_a_gradient_of_one_distance_alone(number: int) -> None:
    for weighing in WEIGHINGS.values():
        a, b = (x.requires_grad_() for x in features(2, 5, 4, 3))
        compared = distance.compare(a, b, weighing)
        expected = torch.autograd.grad([compared.structure, compared.texture][number].sum(), (a, b))
        found = torch.autograd.grad(fused.damlpips_distances(a, b, weighing)[number].sum(), (a, b))
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-13)  # float64: the order of the steps


def test_gradients_are_finite_and_zero_where_nothing_differs(of_layer: Callable) -> None:
    flat, noise = torch.full((2, 3, 4, 4), 0.7), features(2, 3, 4, 4, dtype=torch.float32)[0]
    for maps in (torch.zeros(2, 3, 4, 4), flat, noise, 1e-30 * noise):
        for other in (maps.clone(), torch.zeros_like(maps), noise, flat):
            a, b = maps.clone().requires_grad_(), other.clone().requires_grad_()
            for gradient in torch.autograd.grad(total(of_layer(a, b)), (a, b)):
                assert torch.isfinite(gradient).all()
                assert not (torch.equal(maps, other) and gradient.any())


def test_the_head_of_lpips_can_be_learned() -> None:
    a, b = features(2, 5, 4, 3)
    w = torch.rand(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: fused.lpips_distance(a, b, w), w)


def total(found: Tensor | tuple[Tensor, ...]) -> Tensor:
    return sum(x.sum() for x in found) if isinstance(found, tuple) else found.sum()


# --- memory ---------------------------------------------------------------------------------------------------------


def test_a_graph_keeps_the_features_and_hardly_anything_else(of_layer: Callable) -> None:
    kept: list[Tensor] = []
    a, b = (x.requires_grad_() for x in features(2, 32, 16, 16))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        found = of_layer(a, b)
        large = [t.data_ptr() for t in kept if t.numel() >= a.numel()]
        assert sorted(large) == sorted([a.data_ptr(), b.data_ptr()])
        # DAMLPIPS, of each image: two numbers a place, five a channel, and the structure
        assert sum(t.numel() for t in kept) <= 2 * a.numel() + 2 * (2 * 16 * 16 + 5 * 32 + 1)
        total(found).backward()
    assert torch.isfinite(a.grad).all()


class Memory(TorchDispatchMode):
    """See how much memory the tensors have that operations return, but for some, in bytes."""

    def __init__(self, *known: Tensor) -> None:
        super().__init__()
        self.known = {x.untyped_storage().data_ptr() for x in known}
        self.found: dict[int, int] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        if isinstance(output, Tensor):  # a view has the memory of what it shows
            storage = output.untyped_storage()
            self.found[storage.data_ptr()] = max(storage.nbytes(), self.found.get(storage.data_ptr(), 0))
        return output

    def above(self, limit: int) -> list[int]:
        return [size for place, size in self.found.items() if place not in self.known and size > limit]


BLOCK = 5000  # features; maps are smaller


def test_a_score_needs_no_memory_of_the_features_size(of_layer: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    maps = features(2, 32, 40, 40, dtype=torch.float32)
    monkeypatch.setattr(execution, "BLOCK", BLOCK)
    for a, b in (maps, [x.bfloat16() for x in maps]):
        with Memory(a, b) as seen, torch.no_grad():
            of_layer(a, b)
        assert seen.above(0)
        assert not seen.above(BLOCK * 4)


def test_gradients_need_no_other_memory_of_the_features_size(
    of_layer: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = (x.requires_grad_() for x in features(2, 32, 40, 40, dtype=torch.float32))
    monkeypatch.setattr(execution, "BLOCK", BLOCK)
    found = total(of_layer(a, b))
    with Memory(a, b) as seen:
        gradients = torch.autograd.grad(found, (a, b))
    assert seen.above(BLOCK * 4) == [x.untyped_storage().nbytes() for x in gradients]


def test_features_of_inference_mode_serve_as_reference(of_layer: Callable) -> None:
    a, b = features(2, 5, 4, 3)
    with torch.inference_mode():
        fixed = b.clone()
    a.requires_grad_()
    (found,) = torch.autograd.grad(total(of_layer(a, fixed)), a)
    (expected,) = torch.autograd.grad(total(of_layer(a, b)), a)
    assert torch.equal(found, expected)


def test_features_that_were_changed_are_not_differentiated(of_layer: Callable) -> None:
    a, b = features(2, 5, 4, 3)
    found = total(of_layer(a.requires_grad_(), b))
    b.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        found.backward()


# --- compilers and transforms ---------------------------------------------------------------------------------------

TRANSFORMS = {
    "vmap": lambda f, a, b: func.vmap(f, (0, None))(torch.stack([a, b, 2 * a]), b),
    "grad": lambda f, a, b: func.grad(lambda a: f(a, b).sum())(a),
    "vmap of grad": lambda f, a, b: func.vmap(func.grad(lambda a: f(a, b).sum()))(torch.stack([a, b, 2 * a])),
    "grad of vmap": lambda f, a, b: func.grad(lambda a: func.vmap(f, (0, None))(torch.stack([a, b]), b).sum())(a),
    "jacrev": lambda f, a, b: func.jacrev(f, 1)(a, b),
    "jacfwd": lambda f, a, b: func.jacfwd(f, 1)(a, b),
    "jvp": lambda f, a, b: func.jvp(lambda a: f(a, b), (a,), (b,))[1],
    "jacobian": lambda f, a, b: torch.autograd.functional.jacobian(lambda a: f(a, b), a, vectorize=True),
    "hessian": lambda f, a, b: torch.autograd.functional.hessian(lambda a: f(a, b).sum(), a),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("weighing", ["default", "image", None])
def test_transforms(transform: str, weighing: str | None) -> None:
    maps = features(2, 3, 2, 3)
    if weighing is None:
        pair = (
            lambda a, b: fused.lpips_distance(a, b, None),
            lambda a, b: distance.pool(distance.lpips_map(a, b, None)),
        )
    else:
        w = WEIGHINGS[weighing]
        pair = (
            lambda a, b: torch.stack(tuple(fused.damlpips_distances(a, b, w))).prod(0),
            lambda a, b: (lambda c: c.structure * c.texture)(distance.compare(a, b, w)),
        )
    found, expected = (TRANSFORMS[transform](f, *maps) for f in pair)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-13)  # float64: the order of the steps


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace.*")
def test_traced(of_layer: Callable) -> None:
    a, b = features(2, 3, 4, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch means to drop it
        traced = torch.jit.trace(lambda a, b: of_layer(a, b), (a, b))
    other = features(2, 3, 4, 3, seed=1)
    torch.testing.assert_close(total(traced(*other)), total(of_layer(*other)), rtol=1e-12, atol=0)


# --- in the modules -------------------------------------------------------------------------------------------------


def test_scores_are_those_of_the_plain_functions(random_squeeze_weights) -> None:
    x, y = reference.noise(2, 40, 48)
    metric = DAMLPIPS(version=1)
    compared = metric.definition.compared(*metric.compare(x, y))
    fused = distance.fuse(*(torch.stack([getattr(c, k) for c in compared], 1) for k in ("structure", "texture")))
    reference.rounded(metric.per_layer(x, y), fused)
    lpips = LPIPS("squeeze", weights=random_squeeze_weights)
    maps = lpips.definition.maps(*(encoded.features for encoded in lpips.compare(x, y)))
    reference.rounded(lpips.per_layer(x, y), torch.stack([distance.pool(d) for d in maps], 1))


def test_modules_use_the_fused_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    for name in ("lpips", "statistics"):
        whole = getattr(blockwise, name)
        monkeypatch.setattr(blockwise, name, lambda *args, n=name, f=whole: calls.append(n) or f(*args))
    x, y = reference.noise(1, 32, 32)
    DAMLPIPS(version=1)(x, y)
    assert calls == ["statistics"] * 4
    calls.clear()
    DAMLPIPS()(x, y)  # whose image layer is one of its own
    assert calls == ["statistics"] * 3
    calls.clear()
    LPIPS("nano", heads="uniform")(x, y)
    assert calls == ["lpips"] * 3
    calls.clear()
    LPIPS("nano", heads="uniform", channel_norm=False)(x, y)
    LPIPS("nano", heads="uniform", comparison="sort")(x, y)
    assert calls == []
