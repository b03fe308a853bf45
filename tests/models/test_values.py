"""Values: which are an error, a warning or a rounding, and that types and gradients make no difference to a score."""

import re
import warnings

import pytest
import torch
from torch import Tensor

from damlpips import DAMLPIPS, LPIPS, DAMLPIPSMetric, LPIPSMetric
from damlpips.checks import rounding

MODULES = {"lpips": lambda **o: LPIPS("nano", heads="uniform", **o), "damlpips": DAMLPIPS}
METRICS = {"lpips": lambda **o: LPIPSMetric("nano", heads="uniform", **o), "damlpips": DAMLPIPSMetric}
HALVES = (torch.float16, torch.bfloat16)
TYPES = (*HALVES, torch.float32, torch.float64)


@pytest.fixture(params=MODULES)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def images(n: int = 2, seed: int = 0) -> Tensor:
    return torch.rand(n, 3, 40, 48, generator=torch.Generator().manual_seed(seed))


# --- out of range ---------------------------------------------------------------------------------------------------

FAR = {
    "0-255": ((0.0, 1.0), 255 * images()),
    "(-1, 1)": ((0.0, 1.0), 2 * images() - 1),
    "a little below": ((0.0, 1.0), images() - 0.01),
    "a little above": ((0.0, 1.0), images() + 0.01),
    "0-255 for (-1, 1)": ((-1.0, 1.0), 255 * images()),
}


@pytest.mark.parametrize("case", FAR)
def test_what_is_out_of_range_is_an_error_if_asked_for(kind: str, case: str) -> None:
    bounds, x = FAR[case]
    good = torch.full_like(x, 0.5)
    module = MODULES[kind](value_range=bounds, check_values=True)
    said = (
        f"expected values in {bounds}, got {float(x.min()):.6g} to {float(x.max()):.6g}: pass value_range=(low, high)"
    )
    for where, run in {
        "first image": lambda: module(x, good),
        "second image": lambda: module(good, x),
        "images": lambda: module.encode(x),
        "first": lambda: module(x.clone().requires_grad_(), good),
    }.items():
        with pytest.raises(ValueError, match=f"{where}.*: {re.escape(said)}"):
            run()


@pytest.mark.parametrize("case", FAR)
def test_what_is_out_of_range_is_scored_as_it_is_with_one_warning(kind: str, case: str) -> None:
    bounds, x = FAR[case]
    y = torch.full_like(x, 0.5)
    module, silent = MODULES[kind](value_range=bounds), MODULES[kind](value_range=bounds, check_values=False)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        scores = [module(x, y), module(x.clone().requires_grad_(), y).detach()]
        with torch.inference_mode():
            scores.append(module(x, y))
        module.double().float()(x, y)
        scores.append(silent(x, y))
    assert len(told) == 1
    assert re.match("first image: expected values in .*scored as it is", str(told[0].message))
    for score in scores[1:]:
        torch.testing.assert_close(score, scores[0], rtol=1e-6, atol=0)  # sums are split otherwise with a graph


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", TYPES)
def test_what_is_not_finite(kind: str, value: float, dtype: torch.dtype) -> None:
    x, y = images().to(dtype), images(seed=1).to(dtype)
    expected = MODULES[kind]()(x, y)
    x[1, 2, 3, 4] = value
    for first, second, where in ((x, y, "first"), (y, x, "second")):
        with pytest.warns(UserWarning, match=rf"{where} image: expected finite .*got 1 of {x.numel()} NaN or infinite"):
            scores = MODULES[kind]()(first, second)
        assert scores.isfinite().tolist() == [True, False]
        assert scores[0] == expected[0]
        with pytest.raises(ValueError, match=f"{where} image: expected finite values"):
            MODULES[kind](check_values=True)(first, second)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("case", FAR)
def test_a_metric_is_strict_with_gradients_and_without(kind: str, case: str, grad: bool) -> None:
    bounds, x = FAR[case]
    metric = METRICS[kind](value_range=bounds)
    for call in (metric.update, metric.forward):
        with pytest.raises(ValueError, match="first image, number 0 of the batch: expected values in"):
            call(x.clone().requires_grad_(grad), torch.full_like(x, 0.5))
    assert metric.store.value("sum") == metric.update_count == 0


def test_a_metric_has_no_way_to_warn() -> None:
    with pytest.raises(ValueError, match="check_values: a metric expects True or False, got 'warn'"):
        DAMLPIPSMetric(check_values="warn")
    with pytest.raises(ValueError, match="check_values: expected True, False or 'warn', got 'no'"):
        DAMLPIPS(check_values="no")


# --- rounding -------------------------------------------------------------------------------------------------------


def rounded_out(dtype: torch.dtype, bounds: tuple[float, float]) -> Tensor:
    """Return images with values that leave the range by a rounding step of their type, or two."""
    low, high = bounds
    x = (low + (high - low) * images()).to(dtype)
    x[..., ::5], x[..., 1::5] = low, high
    x[..., :20] += 0.75 * rounding(dtype, bounds)
    x[..., 20:] -= 0.75 * rounding(dtype, bounds)
    assert x.min() < low
    assert x.max() > high
    return x


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (-2.0, 3.5)])
@pytest.mark.parametrize("dtype", TYPES)
def test_rounding_is_undone(kind: str, dtype: torch.dtype, bounds: tuple[float, float]) -> None:
    """The score, in every way to get it, is that of the clamped images."""
    x, y = rounded_out(dtype, bounds), rounded_out(dtype, bounds).flip(0)
    module, metric = MODULES[kind](value_range=bounds), METRICS[kind](value_range=bounds, reduction="none")
    expected = module(x.clamp(*bounds), y.clamp(*bounds))
    assert torch.equal(module(x, y), expected)
    assert torch.equal(MODULES[kind](value_range=bounds, check_values=False)(x, y), expected)
    assert torch.equal(module(module.encode(x), module.encode(y)), expected)
    assert torch.equal(MODULES[kind](value_range=bounds, check_values=True)(x, y), expected)
    metric.update(x, y)
    torch.testing.assert_close(metric.compute().to(expected.dtype), expected, rtol=1e-6, atol=0)
    assert torch.equal(MODULES[kind](value_range=bounds, video=True)(x[None], y[None]), expected.mean(0, keepdim=True))


@pytest.mark.parametrize("dtype", HALVES)
def test_an_image_normalised_and_back_is_in_range(kind: str, dtype: torch.dtype) -> None:
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], dtype=dtype).reshape(2, 3, 1, 1)
    levels = torch.arange(256).reshape(1, 1, 16, 16).expand(2, 3, -1, -1) / 255
    x = (levels.to(dtype) - mean) / std * std + mean
    assert x.min() < 0
    assert MODULES[kind](check_values=True)(x, x.clamp(0, 1)).eq(0).all()
    METRICS[kind]().update(x, x)


@pytest.mark.parametrize("dtype", TYPES)
def test_gradients_pass_as_if_nothing_was_clamped(kind: str, dtype: torch.dtype) -> None:
    x, y = rounded_out(dtype, (0.0, 1.0)), images(seed=3).to(dtype)
    at, inside = x.clone().requires_grad_(), x.clamp(0, 1).requires_grad_()
    module = MODULES[kind]()
    for image in (at, inside):
        module(image, y).sum().backward()
    assert torch.equal(at.grad, inside.grad)


def test_a_value_just_beyond_rounding_is_seen() -> None:
    for dtype in TYPES:
        x = torch.full((1, 3, 32, 32), 0.5, dtype=dtype)
        x[0, 0, 0, 0] = 1 + 3 * max(torch.finfo(dtype).eps, 0.0005)
        with pytest.raises(ValueError, match="expected values in"):
            DAMLPIPS(check_values=True)(x, x)


def test_bytes_are_in_range_by_nature(kind: str) -> None:
    x = (255 * images()).to(torch.uint8)
    assert MODULES[kind](value_range=(-1.0, 1.0), check_values=True)(x, x.flip(3)).isfinite().all()


# --- two floating types ---------------------------------------------------------------------------------------------

MIXED = [(a, b) for a in TYPES for b in TYPES if a != b]


@pytest.mark.parametrize(("first", "second"), MIXED)
def test_two_floating_types_are_promoted(kind: str, first: torch.dtype, second: torch.dtype) -> None:
    x, y = images().to(first), images(seed=1).to(second)
    both = torch.promote_types(first, second)
    module = MODULES[kind]()
    expected = module(x.to(both), y.to(both))
    assert torch.equal(module(x, y), expected)
    assert torch.equal(module.spatial_map(x, y), module.spatial_map(x.to(both), y.to(both)))
    assert torch.equal(module(x, y, reference_key=["a", "b"]), module(x.to(both), y.to(both), reference_key=["c", "d"]))
    metric = METRICS[kind](reduction="none")
    torch.testing.assert_close(metric(x, y).to(expected.dtype), expected, rtol=1e-6, atol=0)
    video = MODULES[kind](video=True)
    assert torch.equal(video(x[None], y[None]), video(x[None].to(both), y[None].to(both)))
    optimised = x.clone().requires_grad_()
    module(optimised, y).sum().backward()
    assert optimised.grad.dtype == first
    assert optimised.grad.isfinite().all()
