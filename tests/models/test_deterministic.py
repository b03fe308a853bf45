"""The deterministic mode: a score is that of its pair, to the bit, whatever its batch and the number of threads."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from damlpips import DAMLPIPS, LPIPS, DAMLPIPSMetric, functional
from tests.support import reference

KINDS: dict[str, Callable[[Path], torch.nn.Module]] = {
    "lpips alex": lambda weights: LPIPS("alex", weights=weights, deterministic=True),
    "damlpips alex": lambda weights: DAMLPIPS("alex", weights=weights, deterministic=True),
    "lpips nano": lambda _: LPIPS("nano", heads="uniform", deterministic=True),
    "damlpips nano": lambda _: DAMLPIPS(deterministic=True),
    "damlpips 1 nano": lambda _: DAMLPIPS(version=1, deterministic=True),
}


@pytest.fixture(params=KINDS)
def metric(request: pytest.FixtureRequest, random_alex_weights: Path) -> torch.nn.Module:
    return KINDS[request.param](random_alex_weights)


def plain(metric: torch.nn.Module) -> torch.nn.Module:
    """Return the same metric without the deterministic mode."""
    return type(metric)(metric.source.backbone, **{**metric.settings.changed(), "deterministic": False})


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def images(n: int = 4, size: int = 160) -> tuple[torch.Tensor, torch.Tensor]:
    return reference.noise(n, size, size)


def test_scores_depend_on_their_pair_alone(metric: torch.nn.Module) -> None:
    x, y = images()
    torch.set_num_threads(1)
    scores, layers = metric(x, y), metric.per_layer(x, y)
    for n in (1, 2, 3):
        torch.set_num_threads(n)
        for a, b in (([0, 1], [2, 3]), ([3, 2, 0], [1])):
            for part in (a, b):
                assert torch.equal(metric(x[part], y[part]), scores[part])
                assert torch.equal(metric.per_layer(x[part], y[part]), layers[part])
                assert torch.equal(metric(metric.encode(x[part]), y[part]), scores[part])
                assert torch.equal(metric(y[part], x[part]), scores[part])
        assert torch.get_num_threads() == n


def test_the_number_of_threads_comes_back_after_an_error(metric: torch.nn.Module, monkeypatch) -> None:
    torch.set_num_threads(2)
    x, y = images(2, 64)

    def fail(*_: object) -> None:
        assert torch.get_num_threads() == 1
        raise RuntimeError("stop")

    monkeypatch.setattr(type(metric.definition), "layers", fail)
    with pytest.raises(RuntimeError, match="stop"):
        metric(x, y)
    assert torch.get_num_threads() == 2


def test_scores_are_those_of_the_plain_mode(metric: torch.nn.Module) -> None:
    x, y = images(2, 96)
    # sums of another order
    torch.testing.assert_close(plain(metric)(x, y), metric(x, y), rtol=1e-5, atol=0)


def test_gradients_are_those_of_the_plain_mode(metric: torch.nn.Module) -> None:
    x, y = images(2, 64)
    x.requires_grad_()
    (one,) = torch.autograd.grad(metric(x, y).sum(), x)
    (two,) = torch.autograd.grad(plain(metric)(x, y).sum(), x)
    # float32 sums of another order, relative to the largest gradient
    torch.testing.assert_close(one, two, rtol=0, atol=1e-5 * float(two.abs().max()))


def test_metrics_and_functions_take_the_option() -> None:
    x, y = images(3, 64)
    scores = functional.damlpips(x, y, deterministic=True)
    one, two = DAMLPIPSMetric(deterministic=True), DAMLPIPSMetric(deterministic=True)
    one.update(x, y)
    torch.set_num_threads(2)
    for n in (2, 0, 1):
        two.update(x[n : n + 1], y[n : n + 1])
    assert torch.equal(one.compute(), two.compute())
    assert torch.equal(one.compute(), scores.double().mean().float())
    assert one._prefix != DAMLPIPSMetric()._prefix


@pytest.mark.cuda
def test_cudnn_settings_come_back_and_batches_do_not_matter_on_cuda(metric: torch.nn.Module) -> None:
    metric = metric.cuda()
    x, y = (t.cuda() for t in images())
    before = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32
    scores = metric(x, y)
    assert before == (
        *(torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        torch.backends.cudnn.allow_tf32,
    )
    for part in ([0], [1, 2], [3, 1, 0]):
        assert torch.equal(metric(x[part], y[part]), scores[part])
