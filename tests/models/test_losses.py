"""Scores as losses: they lead an image to its reference, and their gradients are right and finite everywhere."""

import pytest
import torch
from torch import nn

from damlpips import DAMLPIPS, LPIPS, Backbone
from tests.support import reference
from tests.support.processes import python
from tests.support.reference import Loud, Tiny


def scene(size: int) -> torch.Tensor:
    """A shaded background, a disk and a fine grating."""
    axis = torch.linspace(0, 1, size)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    background = torch.stack([0.3 + 0.5 * x, 0.6 - 0.3 * y, 0.4 + 0.3 * torch.sin(9 * x * y)])
    disk = ((x - 0.6) ** 2 + (y - 0.4) ** 2 < 0.06).float()
    image = background * (1 - disk) + disk * torch.tensor([0.8, 0.2, 0.3])[:, None, None]
    return (image + 0.08 * torch.sin(60 * x + 25 * y))[None].clamp(0, 1)


def psnr(x: torch.Tensor, y: torch.Tensor) -> float:
    return -10 * torch.log10((x - y).square().mean()).item()


def optimised(metric: nn.Module, size: int = 40, steps: int = 200) -> tuple[float, float]:
    """Lead noise to a scene; return how many times the score fell and by how many dB the PSNR rose."""
    target = scene(size)
    encoded = metric.encode(target)
    x = torch.rand(target.shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    start, start_psnr = metric(x, encoded).item(), psnr(x.detach(), target)
    optimiser = torch.optim.Adam([x], lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        optimiser.zero_grad()
        metric(x, encoded).sum().backward()
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            x.clamp_(0, 1)
    return start / metric(x, encoded).item(), psnr(x.detach(), target) - start_psnr


def test_damlpips_leads_noise_to_the_reference() -> None:
    falls, rise = optimised(DAMLPIPS())
    assert falls > 10
    assert rise > 2


def test_lpips_leads_noise_to_the_reference() -> None:
    falls, _ = optimised(LPIPS("nano", heads="uniform"), size=32)
    assert falls > 10


@pytest.mark.shared
@pytest.mark.parametrize("kind", [LPIPS, DAMLPIPS])
def test_alexnet_leads_noise_to_the_reference(kind, alex_weights) -> None:
    falls, rise = optimised(kind("alex", weights=alex_weights))
    assert falls > 10
    assert rise > (0 if kind is LPIPS else 2)


# --- right ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tiny", "nano"])
def test_gradients_are_those_of_finite_differences(make, name) -> None:
    """Through images, network, norms, weights and fusion: the weights adapt, and the gradient goes through them too."""
    metric = make(Backbone(Tiny()) if name == "tiny" else "nano").double()
    x, y = (image.double().requires_grad_() for image in reference.noise(1, 5, 6))
    assert torch.autograd.gradcheck(metric, (x, y), rtol=1e-5, atol=1e-8)


def test_gradients_of_map_and_layers(make) -> None:
    metric = make(Backbone(Tiny())).double()
    x, y = (image.double().requires_grad_() for image in reference.noise(1, 6, 5))
    assert torch.autograd.gradcheck(metric.per_layer, (x, y), rtol=1e-5, atol=1e-8)
    assert torch.autograd.gradcheck(metric.spatial_map, (x, y), rtol=1e-5, atol=1e-8)


def test_gradient_is_the_same_whichever_image_is_optimised(make) -> None:
    """One image at a time runs another path than both together."""
    metric, (x, y) = make(Backbone(Tiny())), reference.noise(2, 16, 16)
    both = torch.autograd.grad(metric(x.requires_grad_(), y.requires_grad_()).sum(), [x, y])
    alone = (
        torch.autograd.grad(metric(x, y.detach()).sum(), x)[0],
        torch.autograd.grad(metric(x.detach(), y).sum(), y)[0],
    )
    for one, other in zip(alone, both, strict=True):
        assert (one - other).abs().max() <= 1e-5 * other.abs().max()  # sums in another order


def test_gradient_reaches_what_made_the_image(make) -> None:
    generator = nn.Conv2d(3, 3, 1)
    metric, (x, y) = make(Backbone(Tiny())), reference.noise(1, 16, 16)
    metric(generator(x).sigmoid(), y).sum().backward()
    assert all(p.grad.abs().max() > 0 for p in generator.parameters())
    assert all(p.grad is None for p in metric.backbone.parameters())


# --- finite ---------------------------------------------------------------------------------------------------------


class Relu(nn.Module):
    """Maps that are zero wherever the image is dark, and everywhere with a large threshold."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.tiny, self.threshold = Tiny(), threshold

    def forward(self, x):
        first = (self.tiny.first(x) - self.threshold).relu()
        return [first, (self.tiny.second(first) - self.threshold).relu()]


class Linear(nn.Module):
    """Maps that are zero where the image is black, with nothing behind them that would stop a gradient that is NaN."""

    def __init__(self) -> None:
        super().__init__()
        self.tiny = Tiny()

    def forward(self, x):
        return [nn.functional.conv2d(x, self.tiny.first.weight)]


NETWORKS = {
    "linear": lambda: Backbone(Linear(), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
    "tiny": lambda: Backbone(Tiny()),
    "relu": lambda: Backbone(Relu(0.5)),
    "dead": lambda: Backbone(Relu(1e3)),
    "nano": lambda: "nano",
}

X, Y = reference.noise(1, 20, 24, seed=1)
HALF_BLACK = X * (torch.arange(24) > 11)

PAIRS = {
    "identical": (X, X),
    "constant": (torch.full_like(X, 0.3), torch.full_like(X, 0.3)),
    "two constants": (torch.full_like(X, 0.3), torch.full_like(X, 0.7)),
    "black": (torch.zeros_like(X), torch.zeros_like(X)),
    "black and white": (torch.zeros_like(X), torch.ones_like(X)),
    "black and noise": (torch.zeros_like(X), Y),
    "noise and black": (X, torch.zeros_like(X)),
    "black in places": (HALF_BLACK, Y * (torch.arange(24) > 17)),
    "hardly different": (X, (X + 1e-7).clamp(0, 1)),
}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("pair", PAIRS)
def test_gradients_are_finite(make, network, pair) -> None:
    metric = make(NETWORKS[network]())
    x, y = (image.clone().requires_grad_() for image in PAIRS[pair])
    score = metric(x, y)
    gradients = torch.autograd.grad(score.sum() + metric.spatial_map(x, y).sum(), [x, y])
    assert torch.isfinite(score).all()
    assert (score >= 0).all()
    assert all(torch.isfinite(g).all() for g in gradients)
    if torch.equal(x, y):
        # zero but for the last bit of a feature, which may depend on the place in a batch
        assert score.item() <= 1e-11
        assert all(g.abs().max() <= 1e-5 for g in gradients)
    (alone,) = torch.autograd.grad(metric(x, y.detach()).sum(), x)
    assert torch.isfinite(alone).all()


def test_dead_features_are_really_met(make) -> None:
    """The cases above would prove nothing if no place were without features."""
    for network in ("relu", "linear"):
        energy = make(NETWORKS[network]()).encode(HALF_BLACK).features[0].square().sum(1)
        assert (energy == 0).any()
        assert (energy > 0).any()
    assert not any(m.any() for m in make(NETWORKS["dead"]()).encode(X).features)


@pytest.mark.parametrize("pair", PAIRS)
def test_gradients_of_lpips_are_finite(random_squeeze_weights, pair) -> None:
    metric = LPIPS("squeeze", weights=random_squeeze_weights)
    x, y = (image.clone().requires_grad_() for image in PAIRS[pair])
    gradients = torch.autograd.grad(metric(x, y).sum(), [x, y])
    assert all(torch.isfinite(g).all() for g in gradients)


# --- half precision -------------------------------------------------------------------------------------------------


def loss_and_gradient(metric: nn.Module, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scaled up on the way, as `torch.amp.GradScaler` does: in half precision small gradients round to nothing."""
    x = x.clone().requires_grad_()
    score = metric(x, y)
    (gradient,) = torch.autograd.grad(1024 * score.sum(), x)
    return score.detach(), gradient / 1024


# bfloat16 keeps eight bits of every feature, 0.4 % each, averaged over places. Gradients of a smooth network are as
# near; in others some rectifiers whose input is near zero are shut by the rounding, and pass no gradient.
ALIGNED = {"tiny": 0.999, "nano": 0.9, "squeeze": 0.9}


@pytest.mark.parametrize("network", ALIGNED)
def test_autocast_is_near_float32(make, network, random_squeeze_weights) -> None:
    deep = network == "squeeze"
    metric = make("squeeze", weights=random_squeeze_weights) if deep else make(NETWORKS[network]())
    x, y = reference.noise(2, 40, 40)
    score, gradient = loss_and_gradient(metric, x, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half_score, half_gradient = loss_and_gradient(metric, x, y)
    assert half_score.dtype == torch.float32
    assert half_gradient.dtype == torch.float32
    torch.testing.assert_close(half_score, score, rtol=0.02, atol=0)
    cosine = nn.functional.cosine_similarity(half_gradient.flatten(1), gradient.flatten(1))
    assert (cosine > ALIGNED[network]).all()


def test_sums_of_squares_do_not_overflow(make) -> None:
    metric, (x, y) = make(Backbone(Loud(64, mean=0, std=200))), reference.noise(2, 16, 16)
    score, gradient = loss_and_gradient(metric, x, y)
    half_score, half_gradient = loss_and_gradient(metric.half(), x, y)
    assert metric.encode(x).features[0].dtype == torch.float16
    assert metric.encode(x).features[0].abs().max() > 300
    torch.testing.assert_close(half_score, score, rtol=0.01, atol=0)  # eleven bits of every feature
    assert torch.isfinite(half_gradient).all()
    assert nn.functional.cosine_similarity(half_gradient.flatten(), gradient.flatten(), dim=0) > 0.99


# --- compiled -------------------------------------------------------------------------------------------------------

# In a process of its own, without the shape checks that pytest puts into the package: a graph cannot go through them.
COMPILED = """
import copy
import torch
from tests.support import reference
from tests.support.reference import Tiny
from damlpips import DAMLPIPS, LPIPS, Backbone, DAMLPIPSMetric

torch.set_num_threads(1)
x, y = reference.noise(2, 40, 40)
tiny = DAMLPIPS(Backbone(Tiny()), version=1)
for metric in (LPIPS("squeeze", weights={weights!r}), DAMLPIPS(reduction="mean"), tiny):
    compiled = torch.compile(metric, fullgraph=True, backend="aot_eager")
    image = x.clone().requires_grad_()
    score = compiled(image, y)
    # the same operations, but for what the compiler decomposes and reorders
    torch.testing.assert_close(score.detach(), metric(x, y), rtol=1e-5, atol=0)
    (found,) = torch.autograd.grad(score.sum(), image)
    (expected,) = torch.autograd.grad(metric(image, y).sum(), image)
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
    print("equal:", type(metric).__name__, metric.source.name)

# by the module's own option; without a field, which takes most of a minute to compile
programs, torch_compile = [], torch.compile
torch.compile = lambda function: programs.append(function) or torch_compile(function, backend="aot_eager")
plain, metric = DAMLPIPS(align=False), DAMLPIPS(align=False, compile=True)
image, again = x.clone().requires_grad_(), x.clone().requires_grad_()
torch.testing.assert_close(metric(image, y), plain(again, y), rtol=1e-5, atol=0)
metric(image, y).sum().backward(), plain(again, y).sum().backward()
assert (image.grad - again.grad).abs().max() <= 1e-4 * again.grad.abs().max()
bytes_ = [(255 * t).to(torch.uint8) for t in (x, y)]
torch.testing.assert_close(metric(*bytes_), plain(*bytes_), rtol=1e-5, atol=0)
assert len(programs) == 1
metric(metric.encode(x), y), metric(x, y, reference_key=[0, 1])
DAMLPIPS(align=False, compile=True, deterministic=True)(x, y)
assert len(programs) == 1
accumulated = DAMLPIPSMetric(align=False, compile=True)
accumulated.update(x, y)
torch.testing.assert_close(accumulated.compute(), plain(x, y).mean(), rtol=1e-5, atol=0)
assert len(programs) == 2
twin = copy.deepcopy(metric)
torch.testing.assert_close(twin(x, y), plain(x, y), rtol=1e-5, atol=0)
assert len(programs) == 3
print("equal: by option")

def broken(graph, inputs):
    raise OSError("no compiler here")

torch.compile = lambda function: torch_compile(function, backend=broken)
try:
    DAMLPIPS(align=False, compile=True)(x, y)
except RuntimeError as error:
    assert str(error).startswith("compile=True: torch.compile failed on cpu, which takes a C++ compiler"), error
    assert "no compiler here" in str(error)
    print("equal: the error")
"""


def test_compiled_without_a_break(random_squeeze_weights) -> None:
    assert python(COMPILED.format(weights=str(random_squeeze_weights))).count("equal:") == 5


@pytest.mark.parametrize("size", [(32, 32), (37, 53), (300, 260)])
def test_equal_images_of_which_one_is_optimised_are_at_zero(make, size) -> None:
    module = make("nano")
    y = reference.noise(2, *size)[0]
    for other in (y, module.encode(y), module.encode(y.clone())):
        x = y.clone().requires_grad_()
        found = module(x, other)
        assert found.tolist() == [0.0, 0.0]
        assert module(other, x).tolist() == [0.0, 0.0]
        found.sum().backward()
        assert x.grad.abs().max() == 0
