"""The networks in few steps: on a CUDA device, and with Triton's kernels interpreted on a CPU."""

import pytest
import torch
from torch import Tensor, nn

from damlpips.nets import backbone
from damlpips.nets.backbone import Backbone
from damlpips.nets.table import BACKBONES
from tests.support import reference
from tests.support.interpreted import DEVICE, INTERPRETED, interpret, marked

NETWORKS = ("nano", "alex", "squeeze", "vgg")
# odd sides, of which some windows reach beyond the border; the least side that each network takes, and more
SIDES = {"nano": (21, 30), "alex": (47, 71), "squeeze": (33, 42), "vgg": (16, 23)}


@pytest.mark.skipif(INTERPRETED, reason="this is that process")
def test_in_the_interpreter() -> None:
    interpret(__file__, "steps", len(NETWORKS))


def state(name: str) -> dict[str, Tensor]:
    if name == "nano":
        return reference.nano_state()
    return {f"features.{k}": v for k, v in reference.random_state(BACKBONES[name].model).items()}


def backbones(name: str, dtype: torch.dtype) -> tuple[Backbone, Backbone]:
    """Return a network in few steps, and as its modules run it in float32 with the same rounded weights."""
    rounded = {k: v.to(dtype).float() for k, v in state(name).items()}
    fast, plain = (Backbone.from_table(name, dict(rounded)).to(DEVICE) for _ in range(2))
    fast = fast.to(dtype)
    if INTERPRETED:
        from damlpips.nets.half import half_network

        fast._half = half_network(fast.network)
        fast._takes_half = lambda *batches: True
    assert fast._half is not None
    return fast, plain


@pytest.mark.skipif(INTERPRETED, reason="nothing of it is run")
def test_only_the_tables_networks_are_run_so(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setattr(backbone, "kernels_run", lambda device: True)
    assert Backbone.from_table("nano", reference.nano_state()).half()._half is not None
    assert Backbone.from_table("nano", reference.nano_state())._half is None
    network = nn.Sequential(nn.Conv2d(3, 16, 3, bias=False), nn.ReLU())
    assert Backbone(network, taps=["1"], preprocess=lambda x: 1 - x).half()._half is None


def images(n: int, height: int, width: int) -> Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(0)).to(DEVICE)


def close(found: Tensor, expected: Tensor, within: float) -> None:
    assert found.shape == expected.shape
    error = (found.float() - expected.float()).norm() / expected.float().norm().clamp(min=1e-12)
    assert error < within


# what a dozen layers in half precision round away; the interpreter multiplies no matrices of bfloat16
ROUNDING = {torch.bfloat16: 0.03, torch.float16: 0.005}
DTYPES = [torch.float16] if INTERPRETED else list(ROUNDING)


@marked
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NETWORKS)
def test_steps_give_the_maps_and_gradients_of_the_modules(name: str, dtype: torch.dtype) -> None:
    fast, plain = backbones(name, dtype)
    x = images(2, *SIDES[name]).requires_grad_()
    found, expected = fast(x), plain(x)
    assert len(found) == len(expected) == len(BACKBONES[name].channels)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == dtype
        close(a, b, ROUNDING[dtype])
    upstream = [torch.rand(m.shape, generator=torch.Generator().manual_seed(1)).to(DEVICE) for m in expected]
    both = [
        torch.autograd.grad(sum((m.float() * g).sum() for m, g in zip(maps, upstream, strict=True)), x)[0]
        for maps in (found, expected)
    ]
    # a rounded feature may be rectified where the exact one is not, and another the highest of its window
    close(*both, {torch.bfloat16: 0.3, torch.float16: 0.06}[dtype])


@marked
@pytest.mark.parametrize("name", NETWORKS)
def test_steps_take_batches_types_and_layouts(name: str) -> None:
    fast, _ = backbones(name, torch.float16)
    x = images(3, *SIDES[name])
    with torch.no_grad():
        whole = fast(x)
        for parts in (
            x.split(2),
            (x.contiguous(memory_format=torch.channels_last),),
            (x.transpose(2, 3).transpose(2, 3),),
        ):
            for a, b in zip(fast(*parts), whole, strict=True):
                torch.testing.assert_close(a, b)
        bytes_ = (x * 255).round().to(torch.uint8)
        for a, b in zip(fast(bytes_), fast(bytes_.float() / 255), strict=True):
            close(a, b, 1e-3)
        symmetric = fast(2 * x - 1, value_range=(-1.0, 1.0))
        for a, b in zip(symmetric, whole, strict=True):
            close(a, b, 1e-3)


@marked
@pytest.mark.parametrize("name", NETWORKS)
def test_steps_pass_on_what_is_not_a_number(name: str) -> None:
    fast, _ = backbones(name, DTYPES[-1])
    x = images(2, *SIDES[name])
    x[0, 1, 9, 9] = torch.nan
    with torch.no_grad():
        maps = fast(x)
    assert any(m[0].isnan().any() for m in maps)
    assert all(m[1].isfinite().all() for m in maps)


@marked
def test_steps_have_second_derivatives() -> None:
    fast, plain = backbones("alex", torch.float16)
    x = images(1, *SIDES["alex"]).requires_grad_()

    def penalty(network: Backbone) -> Tensor:
        (slope,) = torch.autograd.grad(sum(m.float().square().mean() for m in network(x)), x, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), x)[0]

    close(penalty(fast), penalty(plain), 0.1)


@marked
@pytest.mark.parametrize(("size", "stride", "ceil"), [(3, 2, False), (3, 2, True), (2, 2, False), (2, 2, True)])
@pytest.mark.parametrize("side", [7, 8, 9])
def test_steps_pool_as_pytorch_does(size: int, stride: int, ceil: bool, side: int) -> None:
    from damlpips.nets.half import MaxPool

    x = torch.randint(0, 4, (2, 5, side, side + 1), generator=torch.Generator().manual_seed(0)).to(DEVICE)
    x = x.to(torch.float16).contiguous(memory_format=torch.channels_last).requires_grad_()
    pool = MaxPool(size, stride, ceil)
    found, expected = pool(x), nn.MaxPool2d(size, stride, ceil_mode=ceil)(x)
    assert torch.equal(found, expected)
    upstream = torch.rand(found.shape, generator=torch.Generator().manual_seed(1)).to(x)
    mine, theirs = (torch.autograd.grad(out, x, upstream)[0] for out in (found, expected))
    # of equal values the first gets the gradient
    torch.testing.assert_close(mine, theirs, rtol=2e-3, atol=2e-3)
