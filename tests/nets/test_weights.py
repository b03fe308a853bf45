"""Weights are found in a known order, read without running code, checked before use, and missed with a way out."""

import hashlib
import os
import re
import shutil
import socket
from pathlib import Path
from urllib.error import URLError

import lpips
import pytest
import torch
from safetensors.torch import load_file, save_file

from damlpips import DAMLPIPS, LPIPS, Backbone, WeightsError
from damlpips.nets import weights
from damlpips.nets.table import BACKBONES, TRAINED_FOR
from tests.support import reference

# The fixture that guards every test against downloads replaces it.
DOWNLOAD = torch.hub.download_url_to_file


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """SqueezeNet's features with random weights, the smallest of torchvision's in the table."""
    return {f"features.{k}": v for k, v in reference.random_state("squeezenet1_1").items()}


@pytest.fixture
def safetensors(state, tmp_path) -> Path:
    save_file(state, tmp_path / "mine.safetensors")
    return tmp_path / "mine.safetensors"


def score(metric: LPIPS) -> torch.Tensor:
    with torch.no_grad():
        return metric(*reference.noise(1, 32, 32))


def load(file: str | Path) -> LPIPS:
    return LPIPS("squeeze", weights=file).load()


def refusal(file: Path) -> str:
    with pytest.raises(WeightsError) as error:
        load(file)
    assert str(file) in str(error.value)
    return str(error.value)


# --- kinds of files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".pth", ".pt"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_pth_is_as_good_as_safetensors(state, safetensors, tmp_path, suffix, zipped) -> None:
    torch.save(state, tmp_path / f"mine{suffix}", _use_new_zipfile_serialization=zipped)
    assert torch.equal(score(load(tmp_path / f"mine{suffix}")), score(load(safetensors)))


def test_full_model_of_torchvision(state, safetensors, tmp_path) -> None:
    classifier = {"classifier.1.weight": torch.zeros(1000, 512, 1, 1), "classifier.1.bias": torch.zeros(1000)}
    torch.save({**state, **classifier}, tmp_path / "full.pth")
    assert torch.equal(score(load(tmp_path / "full.pth")), score(load(safetensors)))


def test_text_and_home(safetensors, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(safetensors.parent))
    assert torch.equal(score(load("~/mine.safetensors")), score(load(str(safetensors))))


def test_half_precision_file_gives_a_float32_network(state, tmp_path) -> None:
    save_file({k: v.half() for k, v in state.items()}, tmp_path / "half.safetensors")
    metric = load(tmp_path / "half.safetensors")
    assert metric.backbone.dtype == torch.float32
    assert score(metric).dtype == torch.float32


def test_changing_the_file_afterwards_changes_nothing(state, tmp_path) -> None:
    for suffix, save in ((".pth", torch.save), (".safetensors", save_file)):
        file = tmp_path / f"mine{suffix}"
        save(state, file)
        metric = load(file)
        before = score(metric)
        with file.open("r+b") as contents:  # in place, where a mapped file would show it
            contents.write(bytes(file.stat().st_size))
        assert torch.equal(score(metric), before)


# --- wrong contents -------------------------------------------------------------------------------------------------


FIRST, BIAS = "features.0.weight", "features.12.expand3x3.bias"
OTHER_KINDS = (torch.int8, torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64, torch.bool, torch.uint16)

# tensors in place of those of the network, None for none, and what is said of the file
WRONG = [
    (
        {"features.3.expand1x1.bias": None, "features.4.squeeze.bias": None},
        "key 'features.3.expand1x1.bias' is missing",
    ),
    *(
        ({key: torch.zeros(3)}, f"unexpected key {key!r}")
        for key in ("features.13.weight", "module.features.0.weight", "fc.weight")
    ),
    ({FIRST: torch.zeros(96, 3, 7, 7)}, f"key {FIRST!r} has shape (96, 3, 7, 7), expected (64, 3, 3, 3)"),
    *(
        (
            {FIRST: torch.zeros(64, 3, 3, 3).to(dtype)},
            f"key {FIRST!r} holds {dtype}, expected floating-point numbers of 16, 32 or 64 bits",
        )
        for dtype in OTHER_KINDS
    ),
    *(
        ({BIAS: torch.tensor([*[0.0] * 255, value])}, f"key {BIAS!r} holds values that are not finite")
        for value in (float("nan"), float("inf"), -float("inf"))
    ),
]


@pytest.mark.parametrize(("tensors", "message"), WRONG, ids=[message for _, message in WRONG])
def test_wrong_contents_are_named(state, tmp_path, tensors, message) -> None:
    file = tmp_path / "w.safetensors"
    save_file({name: t for name, t in {**state, **tensors}.items() if t is not None}, file)
    assert refusal(file) == f"{file}: {message}"


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_expanded_and_shared_tensors_become_plain(state, tmp_path, zipped) -> None:
    odd = {**state, "features.0.weight": torch.nn.Parameter(torch.full((1, 1, 1, 1), 0.1).expand(64, 3, 3, 3))}
    torch.save(odd, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    expected = {name: tuple(tensor.shape) for name, tensor in state.items()}
    loaded = weights.select_strictly(weights.read_tensors(tmp_path / "w.pth"), expected, path=tmp_path / "w.pth")
    assert torch.equal(loaded["features.0.weight"], torch.full((64, 3, 3, 3), 0.1))
    assert all(t.is_contiguous() and not t.requires_grad and type(t) is torch.Tensor for t in loaded.values())
    assert len({t.data_ptr() for t in loaded.values()}) == len(loaded)


def test_weights_of_another_network(random_alex_weights) -> None:
    assert "'features.0.weight' has shape (64, 3, 11, 11), expected (64, 3, 3, 3)" in refusal(random_alex_weights)


@pytest.mark.parametrize("contents", [[torch.zeros(1)], {"state_dict": {"features.0.weight": torch.zeros(1)}}, {1: 2}])
def test_not_a_state_dict(tmp_path, contents) -> None:
    torch.save(contents, tmp_path / "w.pth")
    message = refusal(tmp_path / "w.pth")
    assert "expected a state dict of tensors" in message
    assert type(contents).__name__ in message


# --- damaged and dangerous files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
@pytest.mark.parametrize("damage", ["empty", "garbage", "text", "cut short", "one byte missing"])
def test_damaged_file(state, tmp_path, suffix, damage) -> None:
    file = tmp_path / f"w{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(state, file)
    whole = file.read_bytes()
    file.write_bytes(
        {
            "empty": b"",
            "garbage": bytes(range(256)) * 40,
            "text": b"<html><title>404 Not Found</title></html>",
            "cut short": whole[: len(whole) // 2],
            "one byte missing": whole[:-1],
        }[damage]
    )
    message = refusal(file)
    assert "damaged" in message or f"not a readable {suffix} file" in message


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_code_in_a_file_is_not_run(tmp_path, suffix) -> None:
    """Of weights or heads; `test_checkpoints.py` has every kind of file and of code."""
    file, trace = tmp_path / f"evil{suffix}", tmp_path / "trace"
    torch.save({"features.0.bias": Payload(trace)}, file)
    for option in ("weights", "heads"):
        with pytest.raises(WeightsError, match="not a readable" if suffix == ".safetensors" else "refused"):
            LPIPS("squeeze", **{option: file}).load()
    assert not trace.exists()
    torch.load(file.rename(tmp_path / "armed.pth"), weights_only=False)  # read without care, it goes off
    assert trace.exists()


def test_path_without_a_file(tmp_path) -> None:
    for path, message in (
        (tmp_path / "nowhere.pth", "no such file"),
        (tmp_path, "is a folder"),
        ("nul\0.pth", "not a file name"),
        ("~nobody-of-this-name/w.pth", "not a file name"),
        (f"{'long' * 99}.pth", "File name too long"),
    ):
        with pytest.raises(WeightsError, match=message) as error:
            LPIPS("squeeze", weights=path)
        assert repr(str(path)) in str(error.value)


def test_unknown_kind_of_file(state, tmp_path) -> None:
    torch.save(state, tmp_path / "w.ckpt")
    with pytest.raises(WeightsError, match=r"expected a \.safetensors or \.pth file, got '\.ckpt'"):
        LPIPS("squeeze", weights=tmp_path / "w.ckpt")


def test_weights_for_a_backbone_that_takes_none(safetensors) -> None:
    with pytest.raises(TypeError, match="brings its own"):
        DAMLPIPS(Backbone(reference.Tiny()), weights=safetensors)


# --- files of a known name ------------------------------------------------------------------------------------------

KNOWN = ["squeezenet1_1_features.safetensors", "squeezenet1_1-b8a52dc0.pth"]


@pytest.mark.parametrize("name", KNOWN)
def test_other_weights_under_a_known_name(state, tmp_path, name) -> None:
    (save_file if name.endswith(".safetensors") else torch.save)(state, tmp_path / name)
    message = refusal(tmp_path / name)
    assert f"SHA-256 is {hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()}" in message
    card = weights.backbone_card("squeeze")
    assert f"expected {card['features_sha256'] if name.endswith('.safetensors') else 'b8a52dc0...'}" in message


@pytest.mark.shared
def test_one_flipped_bit_under_a_known_name(squeeze_weights, tmp_path) -> None:
    contents = bytearray(squeeze_weights.read_bytes())
    contents[-4] ^= 1  # the lowest bit of the last number: still a network, still finite
    (tmp_path / squeeze_weights.name).write_bytes(contents)
    assert "SHA-256" in refusal(tmp_path / squeeze_weights.name)
    (tmp_path / "mine.safetensors").write_bytes(contents)
    load(tmp_path / "mine.safetensors")
    shutil.copy(squeeze_weights, tmp_path / squeeze_weights.name)
    load(tmp_path / squeeze_weights.name)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["alex", "squeeze"])
def test_the_known_digests_are_those_of_the_files(request, name) -> None:
    file = request.getfixturevalue(f"{name}_weights")
    card = weights.backbone_card(name)
    assert file.name == card["features_file"]
    assert hashlib.sha256(file.read_bytes()).hexdigest() == card["features_sha256"]


def test_every_backbone_has_a_card_and_torchvision_its_file() -> None:
    from torchvision import models

    assert set(weights.cards()["backbone"]) == {*BACKBONES, *TRAINED_FOR.values()}
    for name, model in reference.TORCHVISION.items():
        card = weights.backbone_card(name)
        assert card["url"] == models.get_model_weights(model)["IMAGENET1K_V1"].url
        assert card["url"].endswith(f"/{card['file']}")
        assert card["file"].endswith(f"-{card['sha256_prefix']}.pth")
        assert card["features_file"] == f"{model}_features.safetensors"


@pytest.mark.parametrize("name", [*KNOWN, "vgg16-397923af.pth", "lpips_v0.1_alex.safetensors"])
def test_a_file_of_a_known_name_is_verified_before_it_is_read(tmp_path, monkeypatch, name) -> None:
    monkeypatch.setattr(weights, "read_tensors", lambda *_, **__: pytest.fail("read it"))
    (tmp_path / name).write_bytes(b"hostile")
    with pytest.raises(WeightsError, match="SHA-256 is"):
        DAMLPIPS("squeeze", weights=tmp_path / name).load()
    with pytest.raises(WeightsError, match="SHA-256 is"):
        LPIPS("squeeze", heads=tmp_path / name)


def test_a_digest_is_not_remembered(safetensors, monkeypatch, tmp_path) -> None:
    """The file is another one although it has the size and the time of the first."""
    file = tmp_path / "known.safetensors"
    shutil.copy(safetensors, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    card = {**weights.backbone_card("squeeze"), "features_file": file.name, "features_sha256": digest}
    monkeypatch.setitem(weights.cards()["backbone"], "squeeze", card)
    load(file)
    before = file.stat()
    with file.open("r+b") as contents:
        contents.seek(-4, os.SEEK_END)
        contents.write(bytes(4))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert "SHA-256" in refusal(file)
    assert weights.sha256(file) != digest


def test_a_file_that_changes_while_it_is_read(safetensors, monkeypatch) -> None:
    def slow(path: Path, **_: bool) -> dict[str, torch.Tensor]:
        state = load_file(path)
        os.utime(path)
        return state

    monkeypatch.setattr(weights, "read_tensors", slow)
    with pytest.raises(WeightsError, match="was written to while it was read"):
        DAMLPIPS("squeeze", weights=safetensors).load()


NOT_PLAIN = ["../w.pth", "folder/w.pth", "/etc/w.pth", "..", ".", "", "a\\w.pth", "C:w.pth", "nul\0.pth", 7]


@pytest.mark.parametrize("name", NOT_PLAIN)
@pytest.mark.parametrize("field", ["file", "features_file"])
def test_a_card_names_files_in_its_folder(monkeypatch, tmp_path, field, name) -> None:
    monkeypatch.setenv("DAMLPIPS_WEIGHTS_DIR", str(tmp_path / "folder"))
    cards = weights.cards()
    card = {**cards["backbone"]["squeeze"], field: name}
    monkeypatch.setattr(weights, "cards", lambda: {**cards, "backbone": {"squeeze": card}})
    with pytest.raises(WeightsError, match=rf"cards\.toml: {field} = .* is not the name of a file in a folder"):
        LPIPS("squeeze").load()


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_a_card_of_heads_names_a_file_in_its_folder(monkeypatch, name) -> None:
    cards = weights.cards()
    heads = {"v0.1": {"alex": {**cards["head"]["v0.1"]["alex"], "file": name}}}
    monkeypatch.setattr(weights, "cards", lambda: {**cards, "head": heads})
    with pytest.raises(WeightsError, match=r"cards\.toml: file = .* is not the name of a file in a folder"):
        LPIPS("alex")


# --- where weights are looked for -----------------------------------------------------------------------------------


@pytest.fixture
def places(tmp_path, monkeypatch) -> dict[str, Path]:
    """A file with weights of its own in every place, the first looked in first; digests are switched off."""
    monkeypatch.setitem(
        weights.cards()["backbone"],
        "squeeze",
        {"title": "SqueezeNet", "file": "full.pth", "features_file": "features.safetensors", "sha256_prefix": ""}
        | {"url": (tmp_path / "server" / "full.pth").as_uri()},
    )
    monkeypatch.setenv("DAMLPIPS_WEIGHTS_DIR", str(tmp_path / "folder"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", DOWNLOAD)
    files = {
        "weights=": tmp_path / "own" / "mine.safetensors",
        "DAMLPIPS_WEIGHTS_DIR, features": tmp_path / "folder" / "features.safetensors",
        "DAMLPIPS_WEIGHTS_DIR, torchvision's": tmp_path / "folder" / "full.pth",
        "torch hub's cache": tmp_path / "torch" / "hub" / "checkpoints" / "full.pth",
        "download": tmp_path / "server" / "full.pth",
    }
    for seed, file in enumerate(files.values()):
        file.parent.mkdir(parents=True, exist_ok=True)
        state = {f"features.{k}": v for k, v in reference.random_state("squeezenet1_1", seed).items()}
        (save_file if file.suffix == ".safetensors" else torch.save)(state, file)
    return files


def test_order_of_the_places(places) -> None:
    scores = [score(load(file)) for file in places.values()]
    assert len({s.item() for s in scores}) == len(places)
    own = places.pop("weights=")
    assert torch.equal(score(load(own)), scores[0])
    for file, expected in zip(places.values(), scores[1:], strict=True):
        assert torch.equal(score(LPIPS("squeeze")), expected)
        file.unlink()
    # the last one was downloaded into torch hub's cache, and is found there although the server has lost it
    assert torch.equal(score(LPIPS("squeeze")), scores[-1])
    assert places["torch hub's cache"].is_file()


def test_places_are_looked_in_when_a_score_is_asked_for(places, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("DAMLPIPS_WEIGHTS_DIR", str(tmp_path / "later"))
    places["torch hub's cache"].unlink()
    metric = LPIPS("squeeze")  # constructed without any weights, and without a download
    assert not places["torch hub's cache"].exists()
    (tmp_path / "later").mkdir()
    shutil.copy(places["weights="], tmp_path / "later" / "features.safetensors")
    assert torch.equal(score(metric), score(load(places["weights="])))
    assert not places["torch hub's cache"].exists()


def test_damaged_file_in_a_place_is_not_passed_over(places) -> None:
    """Weights that fall back to others in silence give other scores in silence."""
    file = places["DAMLPIPS_WEIGHTS_DIR, features"]
    file.write_bytes(b"")
    with pytest.raises(WeightsError) as error:
        LPIPS("squeeze").load()
    assert str(file) in str(error.value)


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_no_file_in_a_place_is_not_passed_over(places, kind) -> None:
    file = places["DAMLPIPS_WEIGHTS_DIR, features"]
    file.unlink()
    file.mkdir() if kind == "folder" else os.mkfifo(file)
    with pytest.raises(WeightsError, match=re.escape(f"{file}: ")):
        LPIPS("squeeze").load()


def test_download_of_another_file_is_refused(places, monkeypatch) -> None:
    monkeypatch.setitem(weights.cards()["backbone"]["squeeze"], "sha256_prefix", "0123abcd")
    monkeypatch.delenv("DAMLPIPS_WEIGHTS_DIR")
    places["torch hub's cache"].unlink()
    with pytest.raises(WeightsError, match="0123abcd"):
        LPIPS("squeeze").load()
    assert not places["torch hub's cache"].exists()


def test_download_asks_for_torchvisions_file_and_digest(monkeypatch, tmp_path) -> None:
    calls = []

    def download(url, target, hash_prefix=None, progress=True):
        calls.append((url, target, hash_prefix))
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(WeightsError):
        LPIPS("alex").load()
    file = "alexnet-owt-7be5be79.pth"
    target = tmp_path / "hub" / "checkpoints" / file
    assert calls == [(f"https://download.pytorch.org/models/{file}", str(target), "7be5be79")]


@pytest.mark.parametrize("kind", [LPIPS, DAMLPIPS])
@pytest.mark.parametrize("name", ["alex", "vgg", "squeeze"])
def test_nothing_is_downloaded_at_construction(kind, name) -> None:
    # every download fails in these tests, see conftest.py; `.to` and the like need no weights either
    kind(name).double().eval().requires_grad_(False)
    with pytest.raises(AssertionError, match="must not download"):
        kind(name).load()


def no_network(*_args, **_options):
    raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


@pytest.mark.parametrize("folder", [True, False], ids=["with a folder", "without"])
@pytest.mark.parametrize("failure", ["no network", "no right to write", "disk full"])
def test_no_weights_anywhere(monkeypatch, tmp_path, folder, failure) -> None:
    """The message says where it looked, why the download failed, and three ways out."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    if folder:
        monkeypatch.setenv("DAMLPIPS_WEIGHTS_DIR", str(tmp_path / "folder"))
    if failure == "no network":
        for variable in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.delenv(variable, raising=False)
            monkeypatch.delenv(variable.upper(), raising=False)
        monkeypatch.setattr(socket, "getaddrinfo", no_network)
        monkeypatch.setattr(torch.hub, "download_url_to_file", DOWNLOAD)
        reason = "name resolution"
    elif failure == "no right to write":
        (tmp_path / "torch").write_text("not a folder")
        reason = "torch"
    else:

        def full(*_args, **_options):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(torch.hub, "download_url_to_file", full)
        reason = "No space left"
    metric = DAMLPIPS("alex")
    with pytest.raises(WeightsError) as error:
        metric(*reference.noise(1))
    message = str(error.value)
    target = tmp_path / "torch" / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth"
    assert "'alex'" in message
    assert reason in message
    assert str(target) in message.split("could not download")[0]
    for file in ("alexnet_features.safetensors", "alexnet-owt-7be5be79.pth"):
        assert (str(tmp_path / "folder" / file) in message) is folder
    assert ("DAMLPIPS_WEIGHTS_DIR is not set" in message) is not folder
    ways = message.split("Three ways out:")[1]
    assert [line.split(".")[0].strip() for line in ways.splitlines() if line.startswith("  ")] == ["1", "2", "3"]
    for way in ("weights=", "DAMLPIPS_WEIGHTS_DIR", "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"):
        assert way in ways
    assert "nano" in ways
    assert not target.exists()


# --- heads ----------------------------------------------------------------------------------------------------------


def test_heads_from_the_originals_file(safetensors) -> None:
    folder = Path(lpips.__file__).parent / "weights"
    for version in ("v0.1", "v0.0"):
        # a file says nothing of the scaling that belongs to version 0.0: it is read as heads of 0.1
        own = LPIPS("squeeze", weights=safetensors, heads=folder / version / "squeeze.pth")
        carried = weights.load_heads(version, "squeeze", (64, 128, 256, 384, 384, 512, 512))
        assert all(torch.equal(a, b) for a, b in zip(own.definition.heads, carried, strict=True))
    own = LPIPS("squeeze", weights=safetensors, heads=folder / "v0.1" / "squeeze.pth")
    assert torch.equal(score(own), score(load(safetensors)))


def test_unknown_heads() -> None:
    for heads in ("v0.2", "0.1", "", "alex"):
        with pytest.raises(ValueError, match="unknown heads") as error:
            LPIPS("alex", heads=heads)
        for part in (repr(heads), "'v0.1'", "'v0.0'", "'uniform'", ".safetensors"):
            assert part in str(error.value)


def test_heads_of_another_backbone(tmp_path) -> None:
    file = weights.weights_dir() / "lpips_v0.1_squeeze.safetensors"
    with pytest.raises(WeightsError) as error:
        LPIPS("alex", heads=file)
    assert str(file) in str(error.value)
    assert "'lin1.model.1.weight' has shape (1, 128, 1, 1), expected (1, 192, 1, 1)" in str(error.value)


def test_heads_with_wrong_keys(tmp_path) -> None:
    heads = load_file(weights.weights_dir() / "lpips_v0.1_alex.safetensors")
    for name, wrong in {
        "'lin3.model.1.weight' is missing": {k: v for k, v in heads.items() if k != "lin3.model.1.weight"},
        "unexpected key 'lin5.model.1.weight'": {**heads, "lin5.model.1.weight": torch.zeros(1)},
        "'lin0.model.1.weight' is missing": {k.replace(".1.", ".0."): v for k, v in heads.items()},
        "'lin4.model.1.weight' holds values that are not finite": heads
        | {"lin4.model.1.weight": torch.full((1, 256, 1, 1), torch.nan)},
    }.items():
        save_file(wrong, tmp_path / "heads.safetensors")
        with pytest.raises(WeightsError) as error:
            LPIPS("alex", heads=tmp_path / "heads.safetensors")
        assert name in str(error.value)


def test_heads_path_without_a_file(tmp_path) -> None:
    with pytest.raises(WeightsError, match="no such file"):
        LPIPS("alex", heads=tmp_path / "heads.pth")


def test_heads_for_a_backbone_that_has_none() -> None:
    for name in ("resnet50", "nano"):
        with pytest.raises(ValueError, match="'alex', 'vgg', 'squeeze'") as error:
            LPIPS(name)
        assert repr(name) in str(error.value)
    with pytest.raises(ValueError, match="heads='uniform'"):
        LPIPS(Backbone(reference.Tiny()))


def test_damaged_heads_of_the_package_are_refused(monkeypatch, tmp_path) -> None:
    """The heads that come with the package are verified too, before they are used."""
    folder = shutil.copytree(weights.weights_dir(), tmp_path / "weights")
    file = folder / "lpips_v0.1_alex.safetensors"
    contents = bytearray(file.read_bytes())
    contents[-4] ^= 1
    file.write_bytes(contents)
    monkeypatch.setattr(weights, "weights_dir", lambda: folder)
    with pytest.raises(WeightsError, match="SHA-256"):
        LPIPS("alex")
    LPIPS("alex", heads="v0.0")
