"""However a batch is run, whole or in any nest of ways, its scores are those of its pairs alone."""

import itertools

import pytest
import torch

from damlpips import DAMLPIPS
from damlpips.models import runners
from damlpips.models.base import PerceptualDistance
from tests.support import reference
from tests.support.modules import KINDS

WAYS = list(itertools.product((False, True), (None, 64), (None, 40, "reference"), (False, True), (1, 3, 40)))
# Convolutions choose their kernels by the size of a batch, and a tile's border pixels come in another order: float32
# sums round differently. A score is a sum of such sums; bfloat16 has 2^16 times the step, and rounds activations.
TOLERANCE = {torch.float32: 1e-5, torch.uint8: 1e-5, torch.bfloat16: 2e-2}


def alone(make, x: torch.Tensor, y: torch.Tensor, **options) -> torch.Tensor:
    """Return what each layer adds to each pair, run as a whole, one after the other."""
    module = make("nano", **options)
    return torch.cat([module.per_layer(x[n : n + 1], y[n : n + 1]) for n in range(len(x))])


@pytest.mark.parametrize(
    ("dtype", "size"),
    [(torch.float32, (48, 64)), *((dtype, (80, 72)) for dtype in TOLERANCE)],  # the first fits into one tile
    ids=str,
)
@pytest.mark.parametrize("kind", KINDS)
def test_every_nest_of_ways_gives_the_scores_of_the_pairs_alone(kind: str, dtype: torch.dtype, size) -> None:
    make = KINDS[kind]
    plain = {"viewing_side": None} if kind != "lpips" else {}
    plain |= {"dtype": dtype} if dtype == torch.bfloat16 else {}
    x, y = reference.noise(40, *size)
    if dtype == torch.uint8:
        x, y = ((255 * t).to(torch.uint8) for t in (x, y))
    expected = {resize: alone(make, x, y, resize=resize, **plain) for resize in (None, 40)}
    expected["reference"] = expected[None]  # the sizes are the same
    for deterministic, tile, resize, keyed, n in WAYS:
        if n == 40 and (deterministic or tile or dtype == torch.bfloat16):
            continue  # these run pair by pair, or take long: forty pairs say no more than three
        module = make("nano", deterministic=deterministic, tile=tile, resize=resize, **plain)
        named = {"reference_key": list(range(n))} if keyed else {}
        for _ in range(2 if keyed else 1):  # run, and then taken from the cache
            found = module.per_layer(x[:n], y[:n], **named)
            torch.testing.assert_close(
                found,
                expected[resize][:n],
                rtol=TOLERANCE[dtype],
                atol=TOLERANCE[dtype] / 10,
                msg=lambda text, way=(deterministic, tile, resize, keyed, n): f"{way}: {text}",
            )


def composed(run: object) -> list[str]:
    """Return the names of the ways, from the outermost to the innermost."""
    names = [type(run).__name__]
    while (run := getattr(run, "run", None)) is not None:
        names.append(type(run).__name__)
    return names


@pytest.mark.parametrize(
    ("options", "keys", "nest"),
    [
        ({}, None, ["Chunked", "Whole"]),
        ({}, [0, 1], ["Chunked", "Referenced"]),
        ({"tile": 64}, None, ["Chunked", "Tiled"]),
        ({"tile": 64}, [0, 1], ["Chunked", "Tiled"]),
        ({"tile": 512}, [0, 1], ["Chunked", "Referenced"]),
        ({"compile": True}, None, ["Chunked", "Compiled"]),
        ({"compile": True}, [0, 1], ["Chunked", "Referenced"]),
        ({"deterministic": True}, None, ["InOneOrder", "Chunked", "Whole"]),
        ({"deterministic": True, "compile": True, "tile": 64}, None, ["InOneOrder", "Chunked", "Tiled"]),
    ],
    ids=str,
)
def test_ways_nest_as_the_options_say(make, monkeypatch: pytest.MonkeyPatch, options, keys, nest) -> None:
    module, (x, y) = make("nano", **options), reference.noise(2, 80, 72)
    chosen = []
    real = PerceptualDistance._runner
    monkeypatch.setattr(PerceptualDistance, "_runner", lambda self, pair: chosen.append(real(self, pair)) or chosen[-1])
    monkeypatch.setattr(runners.Compiled, "__call__", lambda self, pair: torch.zeros(len(pair), 4))
    module.per_layer(x, y, reference_key=keys)
    if isinstance(module, DAMLPIPS) and module.definition.aligns:  # one way, with keys and without
        nest = ["method" if name in ("Whole", "Referenced") else name for name in nest]
    assert composed(*chosen) == nest
    # a graph needs the feature maps of the whole batch
    if nest[0] == "Chunked" and nest[1] != "Tiled":
        chosen.clear()
        module.per_layer(x.requires_grad_(), y, reference_key=keys)
        assert composed(*chosen) == nest[1:]
