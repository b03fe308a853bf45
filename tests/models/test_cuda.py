"""The modules and metrics on a CUDA device: recorded graphs, autocast, the compiler, half precision, processes."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from damlpips import DAMLPIPS, LPIPS, Backbone, DAMLPIPSMetric, LPIPSMetric
from damlpips.models.presets import PRESETS
from tests.support import modules, reference
from tests.support.masks import MASKS, rectangle
from tests.support.moved import moved, picture
from tests.support.processes import run

KINDS = {kind: partial(make, "nano") for kind, make in modules.KINDS.items()}
DTYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def images(n: int, side: int = 96, seed: int = 0) -> tuple[Tensor, Tensor]:
    x, y = reference.noise(n, side, side, seed=seed)
    return x.cuda(), y.cuda()


@pytest.fixture(scope="module")
def pairs() -> tuple[Tensor, Tensor]:
    """Pairs of which the first two moved, the third got noise, and the fourth is the same, on the CPU."""
    x = torch.cat([moved(picture(seed=seed)) for seed in range(4)])
    noise = 0.1 * torch.randn(1, *x.shape[1:], generator=torch.Generator().manual_seed(0))
    y = [moved(picture(), shift=(3, -2)), moved(picture(seed=1), degrees=3), (x[2:3] + noise).clamp(0, 1), x[3:]]
    return x, torch.cat(y)


@pytest.fixture
def full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@contextmanager
def waiting_fails() -> Iterator[None]:
    """Make whatever waits for the device an error."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_recording_needs_a_gpu_and_nothing_else_is_recorded() -> None:
    x, y = reference.noise(2, 32, 32)
    assert torch.equal(DAMLPIPS(cuda_graphs=True)(x, y), DAMLPIPS()(x, y))
    with pytest.raises(ValueError, match="cuda_graphs: what compile=True makes is not recorded"):
        DAMLPIPS(cuda_graphs=True, compile=True)


MASKED = {"whole": lambda: None, **{kind: MASKS[kind] for kind in ("silhouette", "pixel")}}


@pytest.mark.cuda
@pytest.mark.usefixtures("full_precision")
@pytest.mark.parametrize("mask", MASKED)
@pytest.mark.parametrize("kind", KINDS)
class TestAsOnTheCpu:
    def test_every_form_of_result(self, kind: str, mask: str, pairs: tuple[Tensor, Tensor]) -> None:
        covered = MASKED[mask]()
        here, there = KINDS[kind](), KINDS[kind]().cuda()

        def forms(metric: Any, *images: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
            names = ["__call__", "per_layer", "spatial_map"]
            if kind == "damlpips":
                names += ["displacement"]
            found = {name: getattr(metric, name)(*images, mask=mask) for name in names}
            if kind == "damlpips":
                found |= {f"aligned {k}": image for k, image in enumerate(metric.aligned(*images, mask=mask))}
            if kind != "lpips":
                found["layers"] = metric.weights_for(*images, mask=mask).layer
            return found

        expected = forms(here, *pairs, mask=covered)
        found = forms(there, *(images.cuda() for images in pairs), mask=None if covered is None else covered.cuda())
        # sums in another order; a field is found in thirty steps, in pixels
        atol = {"displacement": 2e-3, "aligned 0": 5e-4, "aligned 1": 5e-4}
        for name, of in expected.items():
            torch.testing.assert_close(found[name].cpu(), of, rtol=1e-3, atol=atol.get(name, 2e-5), msg=name)

    def test_gradients(self, kind: str, mask: str, pairs: tuple[Tensor, Tensor]) -> None:
        covered = MASKED[mask]()
        gradients = []
        for device in ("cpu", "cuda"):
            x, y = (images.to(device) for images in pairs)
            x.requires_grad_()
            of = None if covered is None else covered.to(device)
            (gradient,) = torch.autograd.grad(KINDS[kind]().to(device)(x, y, mask=of).sum(), x)
            gradients.append(gradient.cpu())
        assert (gradients[1] - gradients[0]).norm() <= 2e-3 * gradients[0].norm()


@pytest.mark.cuda
@pytest.mark.usefixtures("full_precision")
@pytest.mark.parametrize("options", [{}, {"dtype": torch.bfloat16}], ids=str)
@pytest.mark.parametrize("preset", PRESETS)
def test_presets(preset: str, options: dict[str, Any], random_weights: Any, pairs: tuple[Tensor, Tensor]) -> None:
    """Ranges, and what images are taken for, are the same as on the CPU, also where they are part of a kernel."""
    weights = random_weights(reference.TORCHVISION[PRESETS[preset].backbone])
    low, high = PRESETS[preset].value_range
    x, y = (low + (high - low) * images for images in pairs)
    expected = LPIPS.preset(preset, weights=weights)(x, y)
    found = LPIPS.preset(preset, weights=weights, **options).cuda()(x.cuda(), y.cuda()).cpu()
    torch.testing.assert_close(found, expected, rtol=0.03 if "dtype" in options else 1e-4, atol=1e-6)


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
class TestRecorded:
    def test_scores_are_those_without(self, kind: str, dtype: str) -> None:
        plain, recorded = (KINDS[kind](dtype=DTYPES[dtype], **o).cuda() for o in ({}, {"cuda_graphs": True}))
        kept = []
        for n, seed in ((2, 0), (2, 1), (3, 2), (2, 3)):
            x, y = images(n, seed=seed)
            kept.append((recorded(x, y), plain(x, y)))
            with torch.inference_mode():
                kept.append((recorded(x, y), plain(x, y)))
        for found, expected in kept:  # a later replay does not change an earlier result
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)

    def test_gradients_are_those_without(self, kind: str, dtype: str) -> None:
        plain, recorded = (KINDS[kind](dtype=DTYPES[dtype], **o).cuda() for o in ({}, {"cuda_graphs": True}))
        kept = []
        for seed in range(3):
            x, y = images(2, seed=seed)
            mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
            recorded(mine, y).sum().backward()
            plain(theirs, y).sum().backward()
            kept.append((mine.grad, theirs.grad))
        for found, expected in kept:
            assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.cuda
def test_a_pair_between_its_passes_is_not_overwritten() -> None:
    recorded, plain = DAMLPIPS(cuda_graphs=True).cuda(), DAMLPIPS().cuda()
    pairs = [images(2, seed=seed) for seed in range(3)]
    gradients = []
    for metric in (recorded, plain):
        for _ in range(2):
            xs = [x.clone().requires_grad_() for x, _ in pairs]
            sum(metric(x, y).sum() for x, (_, y) in zip(xs, pairs, strict=True)).backward()
        gradients.append([x.grad for x in xs])
    for found, expected in zip(*gradients, strict=True):
        assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.cuda
def test_a_recording_goes_backward_once() -> None:
    metric = DAMLPIPS(cuda_graphs=True).cuda()
    x, y = images(1)
    score = metric(x.requires_grad_(), y).sum()
    score.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="expected one backward pass, got a second one"):
        score.backward()


@pytest.mark.cuda
def test_few_recordings_are_kept() -> None:
    from damlpips.models import graphs

    recorded, plain = LPIPS("nano", heads="uniform", cuda_graphs=True).cuda(), LPIPS("nano", heads="uniform").cuda()
    for side in [*range(64, 64 + 8 * (graphs.MOST + 2), 8), 64]:
        x, y = images(1, side)
        torch.testing.assert_close(recorded(x, y), plain(x, y), rtol=1e-5, atol=1e-7)
    assert len(recorded._graphed._recorded) == graphs.MOST


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_is_close_and_has_gradients(kind: str, dtype: str) -> None:
    exact, half = KINDS[kind]().cuda(), KINDS[kind](dtype=DTYPES[dtype]).cuda()
    x, y = images(3)
    found, expected = half(x, y), exact(x, y)
    assert found.dtype == torch.float32
    # features are rounded to a 256th or a 2048th; noise beside noise
    torch.testing.assert_close(found, expected, rtol={"bfloat16": 0.03, "float16": 0.005}[dtype], atol=0)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(half(x, y).sum(), x)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().max() > 0
    (gradient,) = torch.autograd.grad(half(y, x).sum(), x)
    assert torch.isfinite(gradient).all()
    assert torch.equal(half(x.detach(), x.detach()), torch.zeros(3, device="cuda"))


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backbone", ["alex", "vgg", "squeeze"])
def test_not_a_number_reaches_the_score(backbone: str, dtype: str, random_weights: Any) -> None:
    metric = LPIPS(
        backbone, weights=random_weights(reference.TORCHVISION[backbone]), dtype=DTYPES[dtype], check_values=False
    ).cuda()
    x, y = images(2)
    x[1, 0, 50, 50] = torch.nan
    scores = metric(x, y)
    assert scores[0].isfinite()
    assert scores[1].isnan()


@pytest.mark.cuda
@pytest.mark.parametrize("backbone", ["alex", "vgg", "squeeze"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_networks_in_half_precision_are_as_close_as_pytorch_s(
    backbone: str, dtype: str, random_weights: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside float32, scores and gradients err no more than those of PyTorch's own modules in the same precision."""
    x, y = images(2, 128)
    x.requires_grad_()

    def measured(dtype: torch.dtype | None) -> tuple[Tensor, Tensor]:
        found = LPIPS(backbone, weights=random_weights(reference.TORCHVISION[backbone]), dtype=dtype).cuda()(x, y)
        return found.detach(), torch.autograd.grad(found.sum(), x)[0]

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    mine = measured(DTYPES[dtype])
    monkeypatch.setenv("DAMLPIPS_KERNELS", "off")
    theirs, exact = measured(DTYPES[dtype]), measured(None)
    step = torch.finfo(DTYPES[dtype]).eps
    # random errors of two ways to round may differ by as much
    assert (mine[0] - exact[0]).abs().max() <= (theirs[0] - exact[0]).abs().max() + step * exact[0].max()
    assert (mine[1] - exact[1]).norm() <= 1.2 * (theirs[1] - exact[1]).norm() + step * exact[1].norm()


@pytest.mark.cuda
def test_a_network_of_ones_own_runs_by_its_modules_in_half_precision() -> None:
    convolutions = (
        torch.nn.Conv2d(3, 16, 3, bias=False, dilation=2),
        torch.nn.Conv2d(16, 16, 3, padding_mode="circular"),
    )
    network = torch.nn.Sequential(convolutions[0], torch.nn.ReLU(), convolutions[1], torch.nn.ReLU())
    backbone = Backbone(network, taps=["1", "3"], preprocess=lambda x: 1 - x, min_size=9)
    x, y = images(2)
    exact, half = (DAMLPIPS(backbone, dtype=dtype).cuda()(x, y) for dtype in (None, torch.float16))
    torch.testing.assert_close(half, exact, rtol=0.005, atol=0)


@pytest.mark.cuda
@pytest.mark.parametrize("kind", KINDS)
def test_autocast(kind: str) -> None:
    metric = KINDS[kind]().cuda()
    x, y = images(2)
    expected = metric(x, y)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cuda", dtype):
            found = metric(x, y)
            assert found.dtype == torch.float32
            torch.testing.assert_close(found, expected, rtol=0.03, atol=0)
            given = x.clone().requires_grad_()
            metric(given, y).sum().backward()
        assert torch.isfinite(given.grad).all()


@pytest.mark.cuda
@pytest.mark.parametrize("kind", ["damlpips", "lpips"])
def test_compiled(kind: str) -> None:
    plain, compiled = KINDS[kind]().cuda(), KINDS[kind](compile=True).cuda()
    x, y = images(2, 64)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x, y), plain(x, y), rtol=1e-3, atol=1e-6)


@pytest.mark.cuda
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("options", [{}, {"dtype": torch.bfloat16}, {"cuda_graphs": True}, {"version": 1}], ids=str)
def test_update_does_not_wait(options: dict[str, Any], masked: bool) -> None:
    metric = DAMLPIPSMetric(**options).cuda()
    x, y = images(2)
    given = {"mask": rectangle(*x.shape[2:]).cuda()} if masked else {}
    metric.update(x, y, **given)
    with waiting_fails():
        for _ in range(3):
            metric.update(x, y, **given)
    assert metric.compute().isfinite()


@pytest.mark.cuda
def test_a_step_of_training_does_not_wait() -> None:
    loss = DAMLPIPS(reduction="mean", check_values=False).cuda()
    x, y = images(2)
    x.requires_grad_()
    loss(x, y).backward()
    with waiting_fails():
        loss(x, y).backward()


def _scores(rank: int, world: int) -> dict[str, Tensor]:
    x, y = images(5)
    found = {}
    for name, metric in (("damlpips", DAMLPIPSMetric()), ("lpips", LPIPSMetric("nano", heads="uniform"))):
        metric = metric.cuda()
        for k in range(rank, 5, world):
            metric.update(x[k : k + 1], y[k : k + 1])
        found[name] = metric.compute().cpu()
    return found


@pytest.mark.cuda
@pytest.mark.parametrize(("world", "backend"), [(2, "gloo"), (1, "nccl")])
def test_processes_on_one_gpu(world: int, backend: str) -> None:
    alone = _scores(0, 1)
    for results in run(world, _scores, backend=backend):
        for name, found in results.items():
            # the exact sum of the same scores; each pair is a batch of its own in either case
            assert torch.equal(found, alone[name])
