"""On a CPU batches go through the network part by part: the same scores, and no maps of the whole batch."""

import sys
import weakref

import pytest
import torch
from torch import Tensor

from damlpips import DAMLPIPS, LPIPS, DAMLPIPSMetric, LPIPSMetric
from damlpips.adapters.torchmetrics import shared_pass
from damlpips.nets.backbone import Backbone
from damlpips.nets.shared import Source
from tests.support import reference
from tests.support.processes import python
from tests.support.reference import rounded

SIDE = 32


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let two images make a pass, and return how many images each pass had."""
    monkeypatch.setattr(Source, "pass_values", 2 * 3 * SIDE * SIDE)
    seen: list[int] = []
    forward = Backbone.forward

    def counted(self: Backbone, *images: Tensor, **options: object) -> list[Tensor]:
        seen.append(sum(map(len, images)))
        return forward(self, *images, **options)

    monkeypatch.setattr(Backbone, "forward", counted)
    return seen


@pytest.mark.parametrize("kind", [LPIPS, DAMLPIPS])
@pytest.mark.parametrize("bits", [8, 32])
def test_parts_have_the_scores_of_the_whole(kind, bits, batches) -> None:
    x, y = reference.noise(5, SIDE, SIDE)
    if bits == 8:
        x, y = ((255 * t).to(torch.uint8) for t in (x, y))
    options = {"heads": "uniform"} if kind is LPIPS else {}
    metric = kind("nano", **options)
    found = metric.per_layer(x, y)
    assert batches == [2, 2, 2, 2, 2]  # the last pair in one pass
    batches.clear()
    whole = metric.per_layer(metric.encode(x), metric.encode(y))
    assert batches == [5, 5]
    rounded(found, whole)


def test_images_of_other_sizes_than_they_are_seen_at(batches) -> None:
    x, y = reference.noise(3, 2 * SIDE, 3 * SIDE)
    metric = DAMLPIPS(viewing_side=SIDE)
    found = metric(x, y)
    assert set(batches) == {1}  # 32 x 48 pixels
    rounded(found, metric(metric.encode(x), metric.encode(y)))


def test_a_pair_goes_through_in_one_pass_where_both_images_fit(batches) -> None:
    x, y = reference.noise(1, SIDE, SIDE)
    DAMLPIPS()(x, y)
    assert batches == [2]


def test_with_a_graph_a_batch_stays_whole(batches) -> None:
    x, y = reference.noise(4, SIDE, SIDE)
    metric = DAMLPIPS()
    metric(x.requires_grad_(), y).sum().backward()
    assert batches == [4, 4]
    assert torch.isfinite(x.grad).all()


def test_references_with_a_key_are_run_once(batches) -> None:
    x, y = reference.noise(4, SIDE, SIDE)
    metric = DAMLPIPS()
    expected = metric(x, y)
    batches.clear()
    for _ in range(2):
        rounded(metric(x, y, reference_key=[0, 1, 2, 3]), expected)
    assert batches == [2] * (4 + 2)  # the second time the distorted images alone, in parts as ever


def test_a_key_stands_for_the_same_image_in_a_batch_that_is_split_and_one_that_is_not(batches) -> None:
    x, y = reference.noise(5, SIDE, SIDE)
    x, y = x[:, :1], y[:, :1]
    for metric in (DAMLPIPS(grey="repeat"), DAMLPIPSMetric(grey="repeat", reduction="none")):
        module = metric if isinstance(metric, DAMLPIPS) else metric.model
        expected = module(x, y)
        batches.clear()
        parts = [metric(x[some], y[some], reference_key=range(5)[some]) for some in map(slice, (0, 4, 0), (4, 5, 5))]
        rounded(torch.cat(parts), torch.cat([expected, expected]))
        assert sum(batches) == 10 + 5  # both images of five pairs, then the distorted ones alone


def test_a_bad_image_among_references_with_a_key_is_an_error_before_any_is_run(batches) -> None:
    x, y = reference.noise(5, SIDE, SIDE)
    metric = DAMLPIPS(check_values=True)
    metric(x, y, reference_key=range(5))
    batches.clear()
    x[4, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"first image: .* 1 of 15360 NaN"):
        metric(x, y, reference_key=range(5))
    y[4] = y[3]
    with pytest.raises(ValueError, match="reference_key 4: got an image of other values"):
        metric(y, y, reference_key=range(5))
    with pytest.raises(ValueError, match="reference_key 9: got an image of other values"):
        metric(y, y, reference_key=[9, 6, 7, 8, 9])
    assert batches == []


@pytest.mark.parametrize("make", [DAMLPIPSMetric, lambda: LPIPSMetric("nano", heads="uniform")])
def test_a_metric_alone_splits_and_two_share_a_whole_pass(make, batches, monkeypatch) -> None:
    monkeypatch.setattr(shared_pass, "_users", weakref.WeakSet())  # without the metrics of other tests
    x, y = reference.noise(4, SIDE, SIDE)
    metric = make()
    metric.update(x, y)
    assert set(batches) == {2}
    batches.clear()
    second = make()
    for each in (metric, second):
        each.update(x, y)
    assert batches == [4, 4]
    rounded(metric.compute(), second.compute())


def test_a_bad_image_anywhere_is_an_error_before_any_is_run(batches) -> None:
    x, y = reference.noise(5, SIDE, SIDE)
    y[4, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"second image: .* 1 of 15360 NaN"):
        DAMLPIPS(check_values=True)(x, y)
    assert batches == []


FAULTS = """
import resource
import torch
from damlpips import DAMLPIPS

torch.set_num_threads(1)
metric, x = DAMLPIPS(), torch.rand(1, 3, 256, 256)
with torch.no_grad():
    for _ in range(5):
        metric(x, x)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        metric(x, x)
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 5)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="about glibc")
def test_a_call_takes_no_fresh_memory_from_the_system() -> None:
    """A call needs some 3,000 pages; without `raise_malloc_threshold` it faulted for most of them each time."""
    assert float(python(FAULTS)) < 300
