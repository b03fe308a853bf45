"""Every wrong input is refused by an error that says what came and what was expected."""

from functools import partial

import numpy as np
import pytest
import torch

from damlpips import DAMLPIPS, LPIPS, Backbone
from damlpips.nets.table import BACKBONES
from tests.support import reference
from tests.support.reference import Tiny

LEAST = 9  # pixels


@pytest.fixture
def make(make):
    return partial(make, Backbone(Tiny(), min_size=LEAST, name="tiny"))


def refused(call, kind: type[Exception], *parts: str) -> None:
    """Assert that `call` raises exactly `kind`, and that every part is in the message."""
    with pytest.raises(kind) as error:
        call()
    assert type(error.value) is kind
    for part in parts:
        assert part in str(error.value), f"{part!r} is not in {error.value}"


def images(*shape: int) -> torch.Tensor:
    return torch.rand(*shape)


EXPECTED = "expected (N, 3, H, W)"

# what came -> type of the error, parts of its message
SHAPES = {
    "matrix": (images(16, 16), EXPECTED, "got (16, 16)"),
    "no batch": (images(3, 16, 16), EXPECTED, "got (3, 16, 16)", "x.unsqueeze(0)"),
    "video": (images(2, 4, 3, 16, 16), EXPECTED, "got (2, 4, 3, 16, 16)", "video=True", "x.flatten(0, 1)"),
    "number": (torch.tensor(1.0), EXPECTED, "got ()"),
    "grey": (images(2, 1, 16, 16), EXPECTED, "got (2, 1, 16, 16)", "grey='repeat'"),
    "grey and alpha": (images(2, 2, 16, 16), EXPECTED, "got (2, 2, 16, 16)", "alpha"),
    "alpha": (images(2, 4, 16, 16), EXPECTED, "got (2, 4, 16, 16)", "alpha", "x[:, :3]"),
    "many channels": (images(2, 31, 16, 16), EXPECTED, "got (2, 31, 16, 16)"),
    "no channels": (images(2, 0, 16, 16), EXPECTED, "got (2, 0, 16, 16)"),
    "channels last": (images(2, 16, 24, 3), EXPECTED, "got (2, 16, 24, 3)", "x.permute(0, 3, 1, 2)"),
    "alpha, channels last": (images(2, 16, 24, 4), EXPECTED, "got (2, 16, 24, 4)"),
    "empty batch": (images(0, 3, 16, 16), "expected at least one image", "empty batch (0, 3, 16, 16)"),
    "no rows": (images(2, 3, 0, 16), EXPECTED, "got (2, 3, 0, 16)"),
    "no columns": (images(2, 3, 16, 0), EXPECTED, "got (2, 3, 16, 0)"),
}


@pytest.mark.parametrize("case", SHAPES)
def test_shape(make, case) -> None:
    x, *parts = SHAPES[case]
    metric = make()
    refused(lambda: metric(x, x), ValueError, "first image", *parts)
    refused(lambda: metric(images(2, 3, 16, 16), x), ValueError, "second image", *parts)
    refused(lambda: metric.encode(x), ValueError, *parts)
    for method in (metric.per_layer, metric.spatial_map):
        refused(lambda: method(x, x), ValueError, *parts)  # noqa: B023  # called at once


def test_grey_option_does_not_let_others_in(make) -> None:
    metric = make(grey="repeat")
    for case in ("grey and alpha", "alpha", "no batch", "empty batch"):
        x, *parts = SHAPES[case]
        refused(lambda: metric(x, x), ValueError, *parts)  # noqa: B023
    refused(lambda: metric(images(16, 16), images(16, 16)), ValueError, EXPECTED, "got (16, 16)")


@pytest.mark.parametrize("dtype", ["int32", "int64", "int8", "bool", "complex64", "float8_e4m3fn"])
def test_type_of_numbers(make, dtype) -> None:
    x, said = torch.ones(2, 3, 16, 16).to(getattr(torch, dtype)), f"got torch.{dtype}"
    refused(lambda: make()(x, x), TypeError, "first image", "expected floats in value_range or uint8", said)
    refused(lambda: make().encode(x), TypeError, "expected floats in value_range or uint8", said)


@pytest.mark.parametrize(
    ("x", "name"),
    [
        (np.zeros((2, 3, 16, 16), dtype=np.float32), "numpy.ndarray"),
        ([[0.0]], "list"),
        (None, "NoneType"),
        ("image.png", "str"),
    ],
)
def test_not_a_tensor(make, x, name) -> None:
    metric, y = make(), images(2, 3, 16, 16)
    expected = ("expected a torch.Tensor (N, 3, H, W)", f".{name}" if "." not in name else name)
    refused(lambda: metric(x, y), TypeError, "first image", *expected)
    refused(lambda: metric(y, x), TypeError, "second image", *expected)
    refused(lambda: metric(x, x), TypeError, *expected)
    refused(lambda: metric.encode(x), TypeError, *expected)


def test_batches_that_differ(make) -> None:
    refused(lambda: make()(images(2, 3, 16, 16), images(3, 3, 16, 16)), ValueError, "as many images", "got 2 and 3")
    # one image is not silently compared with every image of a batch: who means it encodes it
    parts = ("as many images", "got 1 and 3", "pass what encode() returns of the one image")
    refused(lambda: make()(images(1, 3, 16, 16), images(3, 3, 16, 16)), ValueError, *parts)


def test_sizes_that_differ(make) -> None:
    parts = ("one size", "got 16 x 20 and 20 x 16", "resize='reference'")
    metric = make()
    x, y = images(2, 3, 16, 20), images(2, 3, 20, 16)
    refused(lambda: metric(x, y), ValueError, *parts)
    refused(lambda: metric(metric.encode(x), y), ValueError, *parts)
    refused(lambda: metric(x, metric.encode(y)), ValueError, *parts)
    assert make(resize="reference")(x, y).shape == (2,)


def test_too_small(make) -> None:
    metric = make()
    for height, width in ((LEAST - 1, 32), (32, LEAST - 1), (1, 1)):
        x = images(1, 3, height, width)
        parts = ("'tiny'", f"at least {LEAST} x {LEAST} pixels", f"got {height} x {width}")
        refused(lambda: metric(x, x), ValueError, *parts)  # noqa: B023
        refused(lambda: metric.encode(x), ValueError, *parts)  # noqa: B023
    assert metric(images(1, 3, LEAST, LEAST), images(1, 3, LEAST, LEAST)).shape == (1,)


@pytest.mark.parametrize(("name", "least"), [(n, s.min_size) for n, s in BACKBONES.items() if s.min_size > 1])
@pytest.mark.parametrize("kind", [LPIPS, DAMLPIPS])
def test_too_small_for_a_backbone_of_the_table(kind, name, least) -> None:
    """Before any weights are looked for: a download for nothing would be worse."""
    metric = kind(name, heads="uniform") if kind is LPIPS else kind(name)
    x = images(1, 3, least - 1, 64)
    refused(lambda: metric(x, x), ValueError, repr(name), f"at least {least} x {least}", f"got {least - 1} x 64")


def test_resized_to_too_small(make) -> None:
    refused(lambda: make(resize=8)(images(1, 3, 64, 64), images(1, 3, 64, 64)), ValueError, "9 x 9", "got 8 x 8")


# --- pairs of two kinds ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second"),
    [(torch.float32, torch.uint8), (torch.uint8, torch.float32), (torch.uint8, torch.bfloat16)],
)
def test_bytes_beside_floats(make, first, second) -> None:
    x, y = torch.ones(1, 3, 16, 16, dtype=first), torch.ones(1, 3, 16, 16, dtype=second)
    refused(lambda: make()(x, y), TypeError, "both be floats", f"got {first} and {second}")


def test_devices_that_differ(make) -> None:
    metric, x = make(), images(1, 3, 16, 16)
    elsewhere = x.to("meta")
    refused(lambda: metric(x, elsewhere), ValueError, "one device", "got cpu and meta")
    refused(lambda: metric(elsewhere, x), ValueError, "one device", "got meta and cpu")
    for call in (lambda: metric(elsewhere, elsewhere), lambda: metric.encode(elsewhere)):
        refused(call, ValueError, "on meta", "the module on cpu", ".to(")
    encoded = metric.encode(x).to("meta")
    refused(lambda: metric(x, encoded), ValueError, "second image", "on meta", "the module on cpu")


# --- options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [LPIPS, DAMLPIPS])
@pytest.mark.parametrize("name", ["alexnet", "Alex", "", "vgg16"])
def test_unknown_backbone(kind, name) -> None:
    refused(lambda: kind(name), ValueError, f"unknown backbone {name!r}", "expected one of", *map(repr, BACKBONES))


@pytest.mark.parametrize("kind", [LPIPS, DAMLPIPS])
def test_backbone_of_another_type(kind) -> None:
    for backbone in (torch.nn.Conv2d(3, 4, 3), None, 3):
        expected = ("backbone: expected a name or a damlpips.Backbone", type(backbone).__name__)
        refused(lambda: kind(backbone), TypeError, *expected)  # noqa: B023


NAN, INF = float("nan"), float("inf")

# an option, the error, its message with {} for the value, and values
REFUSED = [
    (
        "reduction",
        ValueError,
        "unknown reduction {}: expected one of 'none', 'mean', 'sum'",
        ["Mean", "max", None, True],
    ),
    ("grey", ValueError, "unknown grey {}: expected one of 'repeat'", ["mean", True, 1]),
    (
        "resize",
        ValueError,
        "resize: expected None, 'reference', the length of the shorter side or (height, width), got {}",
        ["first", 0, -3, 1.5, True, (32,), (32, 0), (32, 32, 3), (1.5, 2.5), NAN],
    ),
    (
        "value_range",
        ValueError,
        "value_range: expected two numbers (low, high), got {}",
        [1.0, "wide", (0.0, 1.0, 2.0), (0.0,), None, ("a", "b"), ((0, 1), 2)],
    ),
    (
        "value_range",
        ValueError,
        "value_range: expected finite low < high, got {}",
        [(1.0, 0.0), (1.0, 1.0), (0.0, INF), (NAN, 1.0), (-INF, 0.0)],
    ),
    ("dtype", ValueError, "torch.float16, torch.float32, torch.float64, got {}", [torch.int32, "bfloat16", 16]),
    ("reference_cache", TypeError, "expected a whole number of bytes, got {}", [1.5, "1GB", True, None]),
    ("reference_cache", ValueError, "reference_cache: expected a number of bytes of at least 0, got {}", [-1]),
]


@pytest.mark.parametrize(
    ("option", "kind", "message", "value"), [(*case, value) for *case, values in REFUSED for value in values]
)
def test_a_bad_value_of_an_option(make, option, kind, message, value) -> None:
    refused(lambda: make(**{option: value}), kind, message.format(repr(value)))


def test_value_range_may_be_integers_or_a_list(make) -> None:
    assert make(value_range=[0, 255]).value_range == (0.0, 255.0)


def test_options_are_named() -> None:
    for kind in (LPIPS, DAMLPIPS):
        with pytest.raises(TypeError, match="positional"):
            kind("nano", None)


def test_a_refused_pair_leaves_the_module_as_it_was(make) -> None:
    metric, (x, y) = make(check_values=True), reference.noise(1, 16, 16)
    before = metric(x, y)
    for bad in (x[:, :1], x * 255, x.int(), x[..., :4]):
        with pytest.raises((ValueError, TypeError)):
            metric(bad, bad)
    assert torch.equal(metric(x, y), before)


@pytest.mark.parametrize("heads", [None, 0.1])
def test_heads_that_are_no_name(heads) -> None:
    with pytest.raises(TypeError, match=f"heads: expected a version, 'uniform' or a path, got {type(heads).__name__}"):
        LPIPS("nano", heads=heads)
