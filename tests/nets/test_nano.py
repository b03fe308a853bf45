"""The embedded backbone: its definition, shapes and types, its cost, and the weights that come with the package."""

import hashlib
import math
import shutil
import socket
from pathlib import Path
from weakref import WeakValueDictionary

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from damlpips import DAMLPIPS, LPIPS, WeightsError
from damlpips.nets import shared, weights
from damlpips.nets.nano import Nano, binomial
from damlpips.nets.table import BACKBONES
from tests.support import reference

CHANNELS = (32, 64, 112)
LARGEST_FILE = 2 << 20
# what half precision may round a number by, of its size
HALF = 2.0**-11


# The package's files by the version of DAMLPIPS that they were trained for, and their cards.
FILES = {1: ("nano.safetensors", "nano"), 2: ("nano_v2.safetensors", "nano:2")}


@pytest.fixture(scope="module", params=FILES)
def version(request) -> int:
    return request.param


@pytest.fixture(scope="module")
def shipped(version: int) -> dict[str, Tensor]:
    """The weights of the package, in the precision that they are stored in."""
    return load_file(weights.weights_dir() / FILES[version][0])


def network(version: int) -> Nano:
    found = DAMLPIPS(version=version).backbone.network
    assert isinstance(found, Nano)
    return found


# --- the network ----------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("size", [(1, 1), (4, 7), (33, 50)])
def test_maps_are_those_of_the_definition(size) -> None:
    nano = Nano().double().requires_grad_(False)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    h = F.conv2d(F.pad(x, (2, 3, 2, 3)), nano.stem.weight, nano.stem.bias, stride=2).clamp(min=0)
    maps = nano(x)
    assert len(maps) == len(nano.stages) == 3
    for stage, found in zip(nano.stages, maps, strict=True):
        padded, (rows, columns) = F.pad(h, (1, 1, 1, 1)), ((side + 1) // 2 for side in h.shape[2:])
        low = torch.zeros(*h.shape[:2], rows, columns, dtype=h.dtype)
        for i, vertical in enumerate((1, 2, 1)):
            for j, horizontal in enumerate((1, 2, 1)):
                low += vertical * horizontal / 16 * padded[:, :, i : i + 2 * rows - 1 : 2, j : j + 2 * columns - 1 : 2]
        h = F.conv2d(low, stage.weight, stage.bias, padding=1).clamp(min=0)
        torch.testing.assert_close(found, h, rtol=1e-12, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 5), (16, 16), (17, 31), (37, 64), (65, 33)])
def test_shapes(size) -> None:
    assert BACKBONES["nano"].channels == Nano.channels == CHANNELS
    maps = DAMLPIPS().backbone(reference.noise(2, *size)[0])
    expected = [(2, c, *(math.ceil(s / 2 ** (k + 2)) for s in size)) for k, c in enumerate(CHANNELS)]
    assert [tuple(m.shape) for m in maps] == expected
    assert all(torch.isfinite(m).all() for m in maps)


# How far scores may be from those in float32, relative: bfloat16 keeps eight bits of every feature, float16 eleven.
TOLERANCES = {torch.float32: 0.0, torch.float64: 1e-5, torch.float16: 0.005, torch.bfloat16: 0.02}


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("size", [(1, 1), (33, 50)])
def test_types(dtype, size) -> None:
    """The network follows the module's type, and the score hardly changes."""
    x, y = reference.noise(2, *size)
    metric = DAMLPIPS().to(dtype)
    assert metric.backbone.dtype == dtype
    assert {t.dtype for t in metric.backbone.state_dict().values()} == {dtype}
    features = metric.encode(x).features
    assert {m.dtype for m in features} == {dtype}
    assert all(torch.isfinite(m).all() for m in features)
    score = metric(x, y)
    assert score.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(score.float(), DAMLPIPS()(x, y), rtol=TOLERANCES[dtype], atol=0)


@torch.no_grad()
def test_a_map_does_not_depend_on_its_batch() -> None:
    backbone, x = DAMLPIPS().backbone, reference.noise(5, 37, 52)[0]
    together = backbone(x)
    for n in range(len(x)):
        for one, all_of_them in zip(backbone(x[n : n + 1]), together, strict=True):
            # float32 sums of another order
            torch.testing.assert_close(one[0], all_of_them[n], rtol=1e-5, atol=1e-6 * float(all_of_them.max()))


@torch.no_grad()
@pytest.mark.parametrize("size", [(1, 1), (3, 8), (31, 33), (64, 64)])
def test_identical_images_score_zero(size) -> None:
    x = reference.noise(3, *size)[0]
    for metric in (DAMLPIPS(), LPIPS("nano", heads="uniform")):
        assert not metric(x, x.clone()).any()


@torch.no_grad()
def products(module: nn.Module, size: int) -> int:
    """Return how many numbers a network multiplies for one image, but for what it does without a `Conv2d`."""
    found = []

    def count(convolution: nn.Conv2d, _inputs: tuple[Tensor], out: Tensor) -> None:
        found.append(out[0].numel() * convolution.weight[0].numel())

    for convolution in (m for m in module.modules() if isinstance(m, nn.Conv2d)):
        convolution.register_forward_hook(count)
    module(torch.empty(1, 3, size, size, device="meta"))
    return sum(found)


def test_costs_less_than_a_tenth_of_alexnet() -> None:
    with torch.device("meta"):
        nano = Nano()
    nano.to("meta")
    low_passed = []
    for stage in nano.stages:  # what comes in was low-passed with 3 x 3 numbers a channel
        stage.register_forward_hook(lambda _module, inputs, _out: low_passed.append(9 * inputs[0].numel()))
    convolved = products(nano, 256)
    assert len(low_passed) == 3
    assert 0 < convolved + sum(low_passed) < products(reference.features("alexnet"), 256) / 10


# --- the weights of the package -------------------------------------------------------------------------------------


def test_file(version, shipped) -> None:
    name, of_card = FILES[version]
    file, card = weights.weights_dir() / name, weights.backbone_card(of_card)
    assert file.name == card["file"]
    assert card["sha256"] in (weights.weights_dir() / "nano.md").read_text(encoding="utf-8")
    assert hashlib.sha256(file.read_bytes()).hexdigest() == card["sha256"]
    assert file.stat().st_size <= LARGEST_FILE
    assert {name: tuple(t.shape) for name, t in shipped.items()} == BACKBONES["nano"].expected_keys()
    assert {t.dtype for t in shipped.values()} == {torch.float16}


def test_the_network_has_the_weights_of_the_file(version, shipped) -> None:
    state = network(version).state_dict()
    assert state.keys() == shipped.keys()
    assert all(torch.equal(state[name], shipped[name].float()) for name in shipped)
    assert torch.equal(state["low_pass"], binomial())
    assert state["low_pass"].sum() == 1


def test_the_low_passes_are_blind_to_the_highest_frequency(shipped) -> None:
    """Along each axis, whatever the frequency along the other: each row and column has an alternating sum of zero."""
    stem = shipped["stem.weight"].double()
    assert stem.shape == (16, 3, 6, 6)
    for kernels in (stem, shipped["low_pass"].double()):
        signs = (-1.0) ** torch.arange(kernels.shape[-1], dtype=torch.float64)
        for along in (kernels, kernels.mT):
            # each of the numbers was rounded
            assert ((along @ signs).abs() <= HALF * along.abs().sum(-1) + 1e-7).all()
        # they are not blind to everything
        assert (kernels.abs().sum((-2, -1)) > 1e-3).any()


@torch.no_grad()
def test_stripes_of_one_pixel_look_flat(version) -> None:
    """The finest detail leaves no trace but at the border, instead of one of a coarser detail."""
    stem, size = network(version).stem, 16
    flat = torch.full((1, 3, size, size), 0.5)
    stripes = 0.4 * (-1.0) ** torch.arange(size).expand_as(flat)
    inside = (..., slice(2, -2), slice(2, -2))
    for finest in (stripes, stripes.mT, stripes * stripes.mT / 0.4):
        seen, expected = stem(flat + finest)[inside], stem(flat)[inside]
        # 25 rounded numbers of each kernel, times an amplitude
        atol = 0.4 * HALF * float(stem.weight.abs().sum((1, 2, 3)).max()) + 1e-6
        torch.testing.assert_close(seen, expected, rtol=0, atol=atol)
        coarser = stem(flat + finest.repeat_interleave(4, -1)[..., :size].repeat_interleave(4, -2)[..., :size, :])
        assert (coarser[inside] - expected).abs().max() > 10 * atol


# --- where the weights come from ------------------------------------------------------------------------------------


@pytest.fixture
def fresh(monkeypatch) -> None:
    """Let no instance be there already."""
    monkeypatch.setattr(shared, "_instances", WeakValueDictionary())


@pytest.fixture
def folder(fresh, monkeypatch, tmp_path) -> Path:
    """A copy of the package's folder of weights, in its place."""
    folder = shutil.copytree(weights.weights_dir(), tmp_path / "weights")
    monkeypatch.setattr(weights, "weights_dir", lambda: folder)
    return folder


def score(metric: nn.Module) -> Tensor:
    with torch.no_grad():
        return metric(*reference.noise(2, 32, 32))


@pytest.mark.parametrize("place", ["unset", "empty", "gone", "with another nano"])
def test_works_without_a_folder_or_a_network(fresh, monkeypatch, tmp_path, place) -> None:
    """The weights of the package are used, and those of the user's folder are no other version of them."""
    expected = score(DAMLPIPS())

    def refuse(*_args: object, **_options: object) -> None:
        raise AssertionError("a network was asked for")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    if place != "unset":
        monkeypatch.setenv("DAMLPIPS_WEIGHTS_DIR", str(tmp_path / ("gone" if place == "gone" else "")))
    if place == "with another nano":
        save_file(reference.nano_state(), tmp_path / "nano.safetensors")
    monkeypatch.setattr(shared, "_instances", WeakValueDictionary())
    metric = DAMLPIPS()
    assert metric.source.is_here
    assert torch.equal(score(metric), expected)


def test_the_packages_file_is_missing(version, folder) -> None:
    name, _ = FILES[version]
    (folder / name).unlink()
    metric = DAMLPIPS(version=version)
    for ask in (metric.load, lambda: score(metric)):
        with pytest.raises(WeightsError, match="install damlpips again") as error:
            ask()
        assert str(error.value).startswith(f"{folder / name} is missing")
    assert score(DAMLPIPS(version=3 - version)).isfinite().all()
    lpips = LPIPS("nano", heads="uniform")
    if version == 1:  # whose weights LPIPS has
        with pytest.raises(WeightsError, match="install damlpips again"):
            lpips.load()
    else:
        lpips.load()


def test_the_packages_file_is_damaged(version, folder) -> None:
    name, card = FILES[version]
    file = folder / name
    contents = bytearray(file.read_bytes())
    contents[-4] ^= 1  # one bit of a number: still a network, still finite
    file.write_bytes(contents)
    digest = hashlib.sha256(contents).hexdigest()
    with pytest.raises(WeightsError) as error:
        DAMLPIPS(version=version)
    assert str(file) in str(error.value)
    assert f"SHA-256 is {digest}, expected {weights.backbone_card(card)['sha256']} for" in str(error.value)


# --- another nano ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_of_another_nano(tmp_path, suffix) -> None:
    file, state = tmp_path / f"mine{suffix}", reference.nano_state(seed=1)
    (save_file if suffix == ".safetensors" else torch.save)(state, file)
    for own, other in (
        (DAMLPIPS(), DAMLPIPS(weights=file)),
        (LPIPS("nano", heads="uniform"), LPIPS("nano", weights=file, heads="uniform")),
    ):
        assert other.backbone is not own.backbone
        loaded = other.backbone.network.state_dict()
        assert all(torch.equal(loaded[name], state[name]) for name in state)
        assert not torch.equal(score(other), score(own))
        with pytest.raises(ValueError, match="encoded by another backbone"):
            own(reference.noise(1)[0], other.encode(reference.noise(1)[1]))
    for version, (_, card) in FILES.items():
        own, other = (DAMLPIPS(version=version, weights=w).configuration() for w in (None, file))
        assert other["backbone"] == f"nano:{hashlib.sha256(file.read_bytes()).hexdigest()}"
        assert own["backbone"] == f"nano:{weights.backbone_card(card)['sha256']}"
        assert {**own, "backbone": other["backbone"]} == other


def test_the_same_weights_under_another_name(version, tmp_path) -> None:
    file = shutil.copy(weights.weights_dir() / FILES[version][0], tmp_path / "mine.safetensors")
    own, other = DAMLPIPS(version=version), DAMLPIPS(version=version, weights=file)
    assert torch.equal(score(other), score(own))
    assert other.configuration() == own.configuration()


def test_a_backbone_that_is_handed_on_keeps_its_weights() -> None:
    first = LPIPS("nano", heads="uniform")
    second = DAMLPIPS(first.backbone)
    assert second.backbone is first.backbone
    assert second.configuration()["backbone"] == first.configuration()["backbone"]
    assert second.configuration()["backbone"] != DAMLPIPS().configuration()["backbone"]


def test_another_nano_under_the_packages_name(random_nano_weights, tmp_path) -> None:
    file = shutil.copy(random_nano_weights, tmp_path / "nano.safetensors")
    with pytest.raises(WeightsError, match=r"SHA-256 is .* rename it if these are weights of your own"):
        DAMLPIPS(weights=file)


def test_another_nano_has_no_classifier(tmp_path) -> None:
    """Which files of torchvision's networks may hold; the other contents are checked as in `test_weights.py`."""
    file = tmp_path / "mine.safetensors"
    save_file({**reference.nano_state(), "classifier.weight": torch.zeros(1, 160)}, file)
    with pytest.raises(WeightsError, match=r"unexpected key 'classifier\.weight'"):
        DAMLPIPS(weights=file)
