"""A pair is checked once and resampled once, whatever way it is run, and split by the size at which it is run."""

from collections import Counter

import pytest

from damlpips import DAMLPIPS, LPIPS, DAMLPIPSMetric, LPIPSMetric, checks
from damlpips.models import encoder
from damlpips.nets.backbone import Backbone
from tests.support import reference

SIZE = (100, 130)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """Count the checks and the resamplings of images."""
    found: Counter = Counter()

    def count(module, name: str) -> None:
        real = getattr(module, name)

        def call(x, *args, **options):
            # a displacement field, too, is found at several scales
            if name != "interpolate" or (x.dim() == 4 and x.shape[1] == 3):
                found[name] += len(x)
            return real(x, *args, **options)

        monkeypatch.setattr(module, name, call)

    for name in ("image_batch", "extremes", "scorable"):
        count(checks, name)
    count(encoder.F, "interpolate")
    return found


@pytest.mark.parametrize("tile", [None, 64])
@pytest.mark.parametrize("keys", [None, ["a", "b", "c"]])
@pytest.mark.parametrize("resize", [None, 80])
@pytest.mark.parametrize("kind", ["lpips", "damlpips"])
@pytest.mark.parametrize("deterministic", [False, True])
def test_an_update_checks_and_resamples_an_image_once(counted, kind, tile, keys, resize, deterministic) -> None:
    options = {"tile": tile, "resize": resize, "deterministic": deterministic}
    metric = (
        LPIPSMetric("nano", heads="uniform", **options)
        if kind == "lpips"
        else DAMLPIPSMetric(viewing_side=None, **options)
    )
    x, y = reference.noise(3, *SIZE)
    counted.clear()
    metric.update(x, y, reference_key=keys)
    assert counted == {"image_batch": 6, "extremes": 6} | ({"interpolate": 6} if resize else {})


@pytest.mark.parametrize("module", [LPIPS("nano", heads="uniform"), DAMLPIPS()])
def test_a_module_checks_an_image_once(counted, module) -> None:
    x, y = reference.noise(2, *SIZE)
    counted_checks = {"image_batch": 4, "extremes": 4}
    for run in (module, module.per_layer, module.spatial_map, module.compare):
        counted.clear()
        run(x, y)
        assert {name: n for name, n in counted.items() if name != "interpolate"} == counted_checks
    counted.clear()
    module(x, module.encode(y))
    assert counted == counted_checks


def test_a_reference_that_is_kept_is_not_resampled(counted) -> None:
    module, (x, y) = DAMLPIPS(resize=48), reference.noise(2, *SIZE)
    module(x, y, reference_key=[0, 1])
    counted.clear()
    module(x, y, reference_key=[0, 1])
    assert counted["interpolate"] == 2


def test_a_batch_is_split_by_the_size_at_which_it_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small images that `resize` enlarges fill a pass sooner than they look."""
    seen = []
    forward = Backbone.forward
    monkeypatch.setattr(
        Backbone, "forward", lambda self, images, **o: seen.append(images.shape) or forward(self, images, **o)
    )
    x, y = reference.noise(12, 64, 64)
    module = LPIPS("nano", heads="uniform", resize=512)
    module(x, y)
    most = module.encoder.pass_count((512, 512))
    assert most < 12
    assert {shape[-2:] for shape in seen} == {(512, 512)}
    assert max(shape[0] for shape in seen) <= most
