"""`damlpips.adapters.lpips` in the place of `lpips`: its arguments, shapes and numbers, and scripts written for it."""

import inspect
import shutil
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import lpips
import pytest
import torch
from safetensors.torch import load_file

from benchmarks.bench.peers import torchvision_gives
from damlpips import WeightsError
from damlpips.adapters import lpips as ours
from damlpips.nets.weights import weights_dir
from tests.support import reference
from tests.support.pictures import image_file

# float32: the scaling of the images is one product and one sum here, a difference and a quotient there
SCORE = {"rtol": 1e-5, "atol": 1e-8}
# a single place is not averaged, and its relative error is large where the two features nearly agree
MAP = {"rtol": 1e-4, "atol": 1e-6}
# of the largest entry: where features agree to a few bits, the gradient is what rounding left
GRADIENT = 1e-4

CASES = [
    pytest.param("alex", "alex_weights", marks=pytest.mark.shared, id="alex"),
    pytest.param("squeeze", "squeeze_weights", marks=pytest.mark.shared, id="squeeze"),
    pytest.param("alex", "random_alex_weights", id="alex-random"),
    pytest.param("vgg", "random_vgg_weights", id="vgg-random"),
    pytest.param("squeeze", "random_squeeze_weights", id="squeeze-random"),
]
state_of = cache(load_file)


def pair(net: str, n: int = 2) -> tuple[torch.Tensor, ...]:
    side = 32 if net == "vgg" else 64  # vgg is the slowest by far
    return tuple(2 * image - 1 for image in reference.noise(n, side, side))


def test_the_arguments_are_those_of_lpips() -> None:
    for name in ("__init__", "forward"):
        theirs, mine = (inspect.signature(getattr(kind.LPIPS, name)).parameters for kind in (lpips, ours))
        assert [(p.name, p.default) for p in mine.values()] == [(p.name, p.default) for p in theirs.values()]


@pytest.mark.parametrize(("net", "fixture"), CASES)
@pytest.mark.parametrize(
    "options", [{}, {"version": "0.0"}, {"lpips": False}, {"spatial": True}], ids=lambda o: str(*o) or "plain"
)
def test_numbers_and_shapes(net: str, fixture: str, options: dict[str, Any], give: Callable[[str, str], Path]) -> None:
    state = state_of(give(net, fixture))
    spatial = options.get("spatial", False)
    old = reference.lpips_reference(
        net, state, version=options.get("version", "0.1"), heads=options.get("lpips", True), spatial=spatial
    )
    new = ours.LPIPS(net=net, verbose=False, **options)
    x, y = pair(net)
    tolerance = MAP if spatial else SCORE
    with torch.no_grad():
        torch.testing.assert_close(new(x, y), old(x, y), **tolerance)
        found, expected = (m((x + 1) / 2, (y + 1) / 2, retPerLayer=True, normalize=True) for m in (new, old))
    assert isinstance(found, tuple)
    assert isinstance(found[1], list)
    torch.testing.assert_close(found[0], expected[0], **tolerance)
    torch.testing.assert_close(found[1], expected[1], **tolerance)
    assert found[0].shape == ((2, 1, *x.shape[2:]) if spatial else (2, 1, 1, 1))


@pytest.mark.parametrize("spatial", [False, True])
@pytest.mark.parametrize(("net", "fixture"), CASES[:2])
@pytest.mark.shared
def test_gradients(net: str, fixture: str, spatial: bool, give: Callable[[str, str], Path]) -> None:
    state = state_of(give(net, fixture))
    old = reference.lpips_reference(net, state, spatial=spatial)
    new = ours.LPIPS(net=net, spatial=spatial, verbose=False)
    grads = []
    for metric in (new, old):
        x, y = (image.clone().requires_grad_() for image in pair(net))
        grads.append(torch.autograd.grad(metric(x, y).mean(), [x, y]))
    for mine, theirs in zip(*grads, strict=True):
        assert (mine - theirs).abs().max() <= GRADIENT * theirs.abs().max()


def test_gradients_are_finite_where_features_are_dead(give: Callable[[str, str], Path]) -> None:
    give("alex", "random_alex_weights")
    new = ours.LPIPS(verbose=False)
    x = torch.zeros(1, 3, 64, 64).requires_grad_()
    new(x, torch.zeros(1, 3, 64, 64)).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_one_image_and_grey_ones_stand_in_as_they_do_there(give: Callable[[str, str], Path]) -> None:
    state = state_of(give("alex", "random_alex_weights"))
    old, new = reference.lpips_reference("alex", state), ours.LPIPS(verbose=False)
    x, y = pair("alex", 3)
    with torch.no_grad():
        for a, b in ((x, y[:1]), (x[:1], y), (x[:, :1], y[:, :1]), (x[0], y[0]), (x[0], y)):
            torch.testing.assert_close(new(a, b), old(a, b), **SCORE)


def test_values_out_of_range_are_scored_as_they_are(give: Callable[[str, str], Path], recwarn: Any) -> None:
    state = state_of(give("alex", "random_alex_weights"))
    x, y = pair("alex")
    with torch.no_grad():
        found = ours.LPIPS(verbose=False)(3 * x, 3 * y)
        torch.testing.assert_close(found, reference.lpips_reference("alex", state)(3 * x, 3 * y), **SCORE)
    assert not recwarn.list


def test_a_file_of_heads(give: Callable[[str, str], Path], tmp_path: Path) -> None:
    give("alex", "random_alex_weights")
    file = tmp_path / "heads.safetensors"
    shutil.copy(weights_dir() / "lpips_v0.1_alex.safetensors", file)
    original = Path(lpips.__file__).parent / "weights/v0.1/alex.pth"
    x, y = pair("alex")
    expected = ours.LPIPS(verbose=False)(x, y)
    for path in (file, original, str(original)):
        assert torch.equal(ours.LPIPS(pretrained=False, model_path=path, verbose=False)(x, y), expected)
    with pytest.raises(WeightsError, match="no such file"):
        ours.LPIPS(model_path=tmp_path / "gone.pth")


def test_what_is_printed(give: Callable[[str, str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    give("alex", "random_alex_weights")
    metric = ours.LPIPS()
    assert capsys.readouterr().out == f"Setting up {metric.describe()}, spatial off\n"
    ours.LPIPS(verbose=False)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pnet_tune": True}, "pnet_tune=True: the networks of this package are frozen"),
        ({"pnet_rand": True}, "pnet_rand=True: for a network with random weights use"),
        ({"pretrained": False}, "pretrained=False: random heads are for training"),
        ({"eval_mode": False}, "eval_mode=False: the heads of this package are frozen"),
        ({"net": "resnet"}, "unknown net 'resnet': expected one of 'alex', 'vgg'"),
        ({"version": "0.2"}, "unknown version '0.2': expected one of '0.1', '0.0'"),
        ({"version": "0.0", "lpips": False}, "goes with its own heads only"),
    ],
)
def test_what_cannot_be_had_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ours.LPIPS(**options)


def test_what_says_the_same_is_taken(give: Callable[[str, str], Path]) -> None:
    give("alex", "random_alex_weights")
    ours.LPIPS(pretrained=False, lpips=False, verbose=False)
    ours.LPIPS(eval_mode=False, use_dropout=False, verbose=False)
    assert ours.LPIPS(net="vgg16", verbose=False).model.source.name == "vgg"


def test_bytes_are_refused(give: Callable[[str, str], Path]) -> None:
    give("alex", "random_alex_weights")
    metric = ours.LPIPS(verbose=False)
    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    with pytest.raises(TypeError, match=r"in0: expected a tensor of floats in \[-1, 1\], got torch.uint8"):
        metric(images, images)
    with pytest.raises(TypeError, match=r"in1: .*got ndarray"):
        metric(images.float(), images.numpy())
    with pytest.raises(ValueError, match="size"):
        metric(torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 72))


# Neither the wheel nor the sdist of lpips 0.1.4 has its scripts: these call what lpips_2imgs.py, lpips_2dirs.py and
# lpips_loss.py of its repository call, in the same way.
TWO_IMAGES = """
import sys
import lpips

loss_fn = lpips.LPIPS(net="alex", version="0.1")
first, second = (lpips.im2tensor(lpips.load_image(path)) for path in sys.argv[1:3])
print("Distance: %.6f" % loss_fn.forward(first, second))
value, layers = loss_fn.forward(first, second, retPerLayer=True)
print("Layers:", " ".join("%.6f" % layer for layer in layers))
"""
TWO_FOLDERS = """
import os, sys
import lpips

loss_fn = lpips.LPIPS(net="alex", version="0.1", spatial=True, verbose=False)
for name in sorted(os.listdir(sys.argv[1])):
    first, second = (lpips.im2tensor(lpips.load_image(os.path.join(folder, name))) for folder in sys.argv[1:3])
    print("%s: %.6f" % (name, loss_fn.forward(first, second).mean()))
"""
LOSS = """
import sys
import torch
import lpips

loss_fn = lpips.LPIPS(net="alex", verbose=False)
target = lpips.im2tensor(lpips.load_image(sys.argv[1]))
image = torch.autograd.Variable(lpips.im2tensor(lpips.load_image(sys.argv[2])), requires_grad=True)
optimizer = torch.optim.Adam([image], lr=1e-3, betas=(0.9, 0.999))
for step in range(5):
    distance = loss_fn.forward(image, target)
    optimizer.zero_grad()
    distance.backward()
    optimizer.step()
    image.data = torch.clamp(image.data, -1, 1)
    print("%.5f" % distance.view(-1).data.cpu().numpy()[0])
assert lpips.tensor2im(image.data).shape == lpips.load_image(sys.argv[2]).shape
"""


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[float]]:
    """Return a function that runs a script and returns the numbers that it prints."""

    def run(code: str, *arguments: Path) -> list[float]:
        monkeypatch.setattr(sys, "argv", ["script.py", *map(str, arguments)])
        capsys.readouterr()
        exec(compile(code, "script.py", "exec"), {"__name__": "__main__"})
        lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith(("Setting", "Loading"))]
        return [float(word) for line in lines for word in line.split() if word.replace(".", "").isdecimal()]

    return run


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("script", [TWO_IMAGES, TWO_FOLDERS, LOSS], ids=["two images", "two folders", "loss"])
def test_scripts_run_with_the_import_changed(
    script: str,
    printed: Callable[..., list[float]],
    give: Callable[[str, str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = {key.removeprefix("features."): v for key, v in state_of(give("alex", "random_alex_weights")).items()}
    arguments = [tmp_path / "r", tmp_path / "d"]
    for seed, folder in enumerate(arguments):
        for name in ("a.png", "bb.png"):
            image_file(folder / name, 10 * seed + len(name))
    if script != TWO_FOLDERS:
        arguments = [folder / "a.png" for folder in arguments]
    with torchvision_gives(reference.loaded_features("alexnet", state)):
        expected = printed(script, *arguments)
    changed = script.replace("import lpips", "import damlpips.adapters.lpips as lpips")
    found = printed(changed, *arguments)
    with monkeypatch.context() as alias:
        alias.setitem(sys.modules, "lpips", ours)
        assert printed(script, *arguments) == found
    assert len(found) == len(expected) > 1
    assert found == pytest.approx(expected, abs=2e-5)  # as printed
