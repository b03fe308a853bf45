"""`torch.func` and forward-mode differentiation of the modules: equal to a batch, and to gradients taken in reverse."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, func
from torch.autograd import forward_ad

from damlpips import DAMLPIPS, LPIPS, functional
from damlpips.models.base import PerceptualDistance

# vmap of torch's own resampling, and its forward mode
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop", "ignore:.*torch.jit.*:FutureWarning")

MODULES: dict[str, Callable[[], PerceptualDistance]] = {
    "lpips": lambda: LPIPS("nano", heads="uniform"),
    "sorted": lambda: LPIPS("nano", heads="uniform", comparison="spatial+sort"),
    "damlpips": lambda: DAMLPIPS(),
    "damlpips 1": lambda: DAMLPIPS(version=1),
    "viewed smaller": lambda: DAMLPIPS(viewing_side=40),
    "resized": lambda: DAMLPIPS(resize=50),
    "deterministic": lambda: DAMLPIPS(deterministic=True),
    "tiles": lambda: DAMLPIPS(tile=48, viewing_side=None),
}


class Case:
    """A module in float64, a pair, a direction, and the gradient by the first images as autograd has it."""

    def __init__(self, name: str) -> None:
        self.module = MODULES[name]().double()
        generator = torch.Generator().manual_seed(0)
        self.x, self.y, self.t = torch.rand(3, 2, 3, 52, 60, generator=generator, dtype=torch.float64)
        leaf = self.x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(self.total(leaf), leaf, create_graph=True)
        self.gradient = gradient.detach()
        (self.curvature,) = torch.autograd.grad((gradient * self.t).sum(), leaf)
        self.along = (self.gradient * self.t).sum((1, 2, 3))

    def one(self, x: Tensor, y: Tensor) -> Tensor:
        return self.module(x[None], y[None])[0]

    def total(self, x: Tensor) -> Tensor:
        return self.module(x, self.y).sum()

    def to_y(self, x: Tensor) -> Tensor:
        return self.module(x, self.y)

    def by_dual_numbers(self) -> Tensor:
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(self.to_y(forward_ad.make_dual(self.x, self.t))).tangent


# what is found, and what it equals
TRANSFORMS: dict[str, Callable[[Case], tuple[Tensor, Tensor]]] = {
    "vmap": lambda c: (func.vmap(c.one)(c.x, c.y), c.to_y(c.x)),
    "vmap, one y": lambda c: (func.vmap(c.one, (0, None))(c.x, c.y[0]), c.module(c.x, c.y[:1].expand(2, -1, -1, -1))),
    "vmap of map": lambda c: (
        func.vmap(lambda x, y: c.module.spatial_map(x[None], y[None])[0])(c.x, c.y),
        c.module.spatial_map(c.x, c.y),
    ),
    "grad": lambda c: (func.grad(c.total)(c.x), c.gradient),
    "gradients a sample": lambda c: (func.vmap(func.grad(c.one))(c.x, c.y), c.gradient),
    "grad of vmap": lambda c: (func.grad(lambda x: func.vmap(c.one)(x, c.y).sum())(c.x), c.gradient),
    "vjp": lambda c: (func.vjp(c.to_y, c.x)[1](torch.ones(2, dtype=torch.float64))[0], c.gradient),
    "jacrev": lambda c: (func.jacrev(c.to_y)(c.x).sum(1), c.gradient),
    "jvp": lambda c: (func.jvp(c.to_y, (c.x,), (c.t,))[1], c.along),
    "vmap of jvp": lambda c: (
        func.vmap(lambda x, y, t: func.jvp(lambda x: c.one(x, y), (x,), (t,))[1])(c.x, c.y, c.t),
        c.along,
    ),
    "jacfwd": lambda c: (func.jacfwd(lambda s: c.to_y(c.x + s * c.t))(c.t.new_zeros(())), c.along),
    "dual numbers": lambda c: (c.by_dual_numbers(), c.along),
    "hessian times a vector": lambda c: (func.jvp(func.grad(c.total), (c.x,), (c.t,))[1], c.curvature),
}


@pytest.fixture(scope="module", params=MODULES)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_module(case: Case, transform: str) -> None:
    found, expected = TRANSFORMS[transform](case)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9 * float(expected.abs().max()))


@pytest.mark.parametrize("backbone", ["alex", "squeeze"])
@pytest.mark.shared
def test_the_published_networks(backbone: str, alex_weights, squeeze_weights, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAMLPIPS_WEIGHTS_DIR", str(alex_weights.parent))
    module, (x, y) = LPIPS(backbone), torch.rand(2, 2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(module(leaf, y).sum(), leaf)
    found = func.vmap(func.grad(lambda x, y: module(x[None], y[None]).sum()))(x, y)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6 * float(expected.abs().max()))


def test_functional_forms_and_encoded_images(case: Case) -> None:
    x, y = case.x.float(), case.y.float()
    expected = functional.damlpips(x, y)  # a network cannot be built inside vmap, which forbids random numbers
    found = func.vmap(lambda x, y: functional.damlpips(x[None], y[None])[0])(x, y)
    torch.testing.assert_close(found, expected)
    target = case.module.encode(case.y[:1])
    found = func.vmap(func.grad(lambda x: case.module(x[None], target).sum()))(case.x)
    expected = func.vmap(func.grad(case.one), (0, None))(case.x, case.y[0])
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9 * float(expected.abs().max()))


def test_keys_are_refused() -> None:
    module, x = DAMLPIPS(), torch.rand(2, 3, 48, 48)
    with pytest.raises(ValueError, match=r"reference_key: .* not inside torch.func"):
        func.vmap(lambda x, y: module(x[None], y[None], reference_key=["a"]))(x, x)
