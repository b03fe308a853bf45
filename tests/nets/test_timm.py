"""Models of timm as backbones: their own features, at any size of image, with weights that are checked."""

import copy
import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.functional import normalize

from damlpips import DAMLPIPS, LPIPS, Backbone, DAMLPIPSMetric, WeightsError
from damlpips.cli.options import find_spec
from tests.support import reference
from tests.support.commands import csv_rows, refused, run
from tests.support.pictures import image_folders
from tests.support.processes import python

timm = pytest.importorskip("timm")

# timm's networks, made small
SWIN = {"embed_dim": 16, "depths": (2, 1, 2, 1), "num_heads": (1, 2, 2, 4)}
SMALL_VIT = {"embed_dim": 32, "depth": 5, "num_heads": 2}
STAGES: dict[str, dict[str, Any]] = {
    "test_resnet": {},
    "test_efficientnet": {},
    "test_convnext": {},
    "swin_tiny_patch4_window7_224": SWIN,
}
TOKENS: dict[str, dict[str, Any]] = {
    "test_vit": {},
    "vit_small_patch14_reg4_dinov2": SMALL_VIT,
    "vit_small_patch16_dinov3": SMALL_VIT,
}


def model(name: str, **options: Any) -> nn.Module:
    """Return timm's own model with the same random weights each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return timm.create_model(name, pretrained=False, **options).eval()


def file_of(name: str, folder: Path, **options: Any) -> Path:
    file = folder / f"{name}.safetensors"
    save_file(model(name, **options).state_dict(), file)
    return file


def scaled(x: Tensor, name: str) -> Tensor:
    cfg = timm.get_pretrained_cfg(name)
    return normalize(x, cfg.mean, cfg.std)


def same(found: list[Tensor], expected: list[Tensor]) -> None:
    """Compare maps; float32, since the scaling is rounded otherwise and layers amplify that."""
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() <= 1e-4 * b.abs().max()


# --- timm's own features --------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("name", STAGES)
def test_stages_are_those_of_features_only(name: str, tmp_path: Path) -> None:
    x = reference.noise(2, 64, 96)[0]
    flexible = {"strict_img_size": False} if name.startswith("swin") else {}
    own = model(name, features_only=True, **STAGES[name], **flexible)
    if name == "test_efficientnet":  # has no classifier, whose random weights would come first
        own.load_state_dict({k: v for k, v in model(name).state_dict().items() if k in own.state_dict()})
    expected = own(scaled(x, name))
    if name.startswith("swin"):
        assert own.output_fmt == "NHWC"
        expected = [m.permute(0, 3, 1, 2) for m in expected]
    backbone = Backbone.from_timm(name, checkpoint_path=file_of(name, tmp_path, **STAGES[name]), **STAGES[name])
    same(backbone(x), expected)
    assert backbone.name == f"timm:{name}"


def tokens_as_maps(vit: nn.Module, x: Tensor, blocks: list[int], patch: int) -> list[Tensor]:
    """Return what the blocks of a vision transformer put out when all of it runs, place by place."""
    found: list[Tensor] = []
    handles = [vit.blocks[k].register_forward_hook(lambda _m, _i, out: found.append(out.clone())) for k in blocks]
    vit(x)
    for handle in handles:
        handle.remove()
    height, width = (side // patch for side in x.shape[2:])
    return [t[:, vit.num_prefix_tokens :].mT.unflatten(2, (height, width)) for t in found]


@torch.no_grad()
@pytest.mark.parametrize("name", TOKENS)
def test_maps_are_the_tokens_of_the_patches(name: str, tmp_path: Path) -> None:
    file = file_of(name, tmp_path, **TOKENS[name])
    own = model(name, **TOKENS[name], dynamic_img_size=True)
    patch = own.patch_embed.patch_size[0]
    assert own.num_prefix_tokens == (5 if "dino" in name else 1)
    x = reference.noise(2, 3 * patch, 4 * patch)[0]
    backbone = Backbone.from_timm(name, [0, -3, -1], checkpoint_path=file, **TOKENS[name])
    same(backbone(x), tokens_as_maps(own, scaled(x, name), [0, len(own.blocks) - 3, len(own.blocks) - 1], patch))


@torch.no_grad()
def test_four_blocks_are_read_where_no_map_shrinks(tmp_path: Path) -> None:
    file = file_of("test_vit", tmp_path)
    backbone = Backbone.from_timm("test_vit", checkpoint_path=file)
    assert len(model("test_vit").blocks) == 6
    assert backbone.network.layers == [0, 2, 3, 5]
    x = reference.noise(1, 32, 32)[0]
    four = Backbone.from_timm("test_vit", [0, 2, 3, 5], checkpoint_path=file)
    assert all(torch.equal(a, b) for a, b in zip(backbone(x), four(x), strict=True))


@torch.no_grad()
def test_the_last_normalisation_can_be_applied(tmp_path: Path) -> None:
    name, x = "test_vit", reference.noise(1, 32, 32)[0]
    file = file_of(name, tmp_path)
    (raw,) = Backbone.from_timm(name, [-1], checkpoint_path=file)(x)
    (normed,) = Backbone.from_timm(name, [-1], checkpoint_path=file, norm=True)(x)
    same([normed], [model(name).norm(raw.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)])


# --- images ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "options", "size", "taken"),
    [
        ("vit_small_patch14_reg4_dinov2", SMALL_VIT, (48, 30), (42, 28)),
        ("swin_tiny_patch4_window7_224", SWIN, (61, 66), (60, 64)),
        ("beit_base_patch16_224", SMALL_VIT, (64, 32), (224, 224)),
        ("test_resnet", {}, (37, 45), (37, 45)),
    ],
)
def test_images_are_resampled_to_the_nearest_size_that_a_model_takes(
    name: str, options: dict[str, Any], size: tuple[int, int], taken: tuple[int, int], tmp_path: Path
) -> None:
    backbone = Backbone.from_timm(name, checkpoint_path=file_of(name, tmp_path, **options), **options)
    x = reference.noise(1, *size)[0]
    resampled = F.interpolate(x, taken, mode="bilinear", antialias=True)
    assert (taken == size) == (name == "test_resnet")
    same(backbone(x), backbone(resampled))
    assert DAMLPIPS(backbone).spatial_map(x, x.flip(2)).shape == (1, 1, *size)


@pytest.mark.parametrize("name", [*STAGES, *TOKENS])
def test_the_least_size_is_exact(name: str) -> None:
    backbone = Backbone.from_timm(name, pretrained=False, **{**STAGES, **TOKENS}[name])
    least = backbone.min_size
    assert all(0 not in m.shape for m in backbone(torch.zeros(1, 3, least, least)))
    if name == "test_convnext":
        assert least == 32
        with pytest.raises(ValueError, match=r"'timm:test_convnext' needs at least 32 x 32 pixels, got 31 x 40"):
            DAMLPIPS(backbone)(*torch.rand(2, 1, 3, 31, 40))


@torch.no_grad()
@pytest.mark.parametrize("channels", [1, 4])
def test_other_than_three_channels(channels: int, tmp_path: Path) -> None:
    file = file_of("test_resnet", tmp_path, in_chans=channels)
    backbone = Backbone.from_timm("test_resnet", checkpoint_path=file, channels=channels)
    x = torch.rand(2, channels, 40, 40, generator=torch.Generator().manual_seed(0))
    cfg = timm.get_pretrained_cfg("test_resnet")
    own = model("test_resnet", features_only=True, in_chans=channels)
    same(backbone(x), own((x - sum(cfg.mean) / 3) / (sum(cfg.std) / 3)))
    assert DAMLPIPS(backbone)(x, x.flip(3)).min() > 0
    assert LPIPS(backbone, heads="uniform", value_range=(-1, 1))(2 * x - 1, 1 - 2 * x).min() > 0


def test_mean_and_std_can_be_given() -> None:
    given = Backbone.from_timm("test_resnet", pretrained=False, mean=(0, 0, 0), std=(1, 1, 1))
    assert given.scaling == ((0, 0, 0), (1, 1, 1))


# --- as any backbone ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["test_resnet", "test_vit", "swin_tiny_patch4_window7_224"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    options = STAGES.get(request.param, {})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Backbone.from_timm(request.param, pretrained=False, **options)


MAKES: list[Callable[[Backbone], Any]] = [DAMLPIPS, lambda b: LPIPS(b, heads="uniform")]


@pytest.mark.parametrize("make", MAKES, ids=["DAMLPIPS", "LPIPS"])
def test_gradients_reach_the_image_and_nothing_else(backbone: Backbone, make: Callable[[Backbone], Any]) -> None:
    x, y = reference.noise(2, 40, 44)
    x.requires_grad_()
    module = make(backbone)
    module(x, y).sum().backward()
    assert torch.isfinite(x.grad).all()
    assert x.grad.abs().amax((1, 2, 3)).min() > 0
    assert all(p.grad is None for p in backbone.parameters())
    assert module.state_dict() == {}


@torch.no_grad()
@pytest.mark.parametrize("make", MAKES, ids=["DAMLPIPS", "LPIPS"])
def test_copies_and_pickles_score_the_same(backbone: Backbone, make: Callable[[Backbone], Any]) -> None:
    x, y = reference.noise(2, 40, 44)
    module = make(backbone)
    expected = module(x, y)
    assert torch.equal(module(x, x), torch.zeros(2))
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(twin(x, y), expected)
        assert twin.source.identity() == module.source.identity()


@torch.no_grad()
def test_half_precision_and_autocast_are_near(backbone: Backbone) -> None:
    x, y = reference.noise(2, 48, 48)
    expected = DAMLPIPS(backbone)(x, y)
    half = DAMLPIPS(backbone, dtype=torch.bfloat16)(x, y)
    with torch.autocast("cpu", torch.bfloat16):
        cast = DAMLPIPS(backbone)(x, y)
    for found in (half, cast):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=0.05, atol=0)  # bfloat16 has 8 bits, and layers add up
    assert DAMLPIPS(backbone).double()(x.double(), y.double()).dtype == torch.float64


def test_a_metric_takes_it(backbone: Backbone) -> None:
    metric = DAMLPIPSMetric(backbone)
    x, y = reference.noise(2, 40, 40)
    metric.update(x, y)
    torch.testing.assert_close(metric.compute(), DAMLPIPS(backbone)(x, y).mean())


def test_the_identity_is_the_same_in_every_process_and_another_with_other_weights_or_layers(tmp_path: Path) -> None:
    file = file_of("test_vit", tmp_path)
    own = Backbone.from_timm("test_vit", checkpoint_path=file)
    code = "import sys; from damlpips import Backbone; print(Backbone.from_timm('test_vit', checkpoint_path={}).{})"
    assert python(code.format("sys.argv[1]", "fingerprint()"), file).split()[-1] == own.fingerprint()
    others = [
        Backbone.from_timm("test_vit", pretrained=False),
        Backbone.from_timm("test_vit", [0, 5], checkpoint_path=file),
        Backbone.from_timm("test_vit", checkpoint_path=file, norm=True),
    ]
    assert len({b.fingerprint() for b in (own, *others)}) == 4


def test_tiles_are_refused_where_every_place_sees_the_whole_image() -> None:
    transformer = Backbone.from_timm("test_vit", pretrained=False)
    with pytest.raises(ValueError, match="'timm:test_vit' cannot be run tile by tile"):
        LPIPS(transformer, heads="uniform", tile=64)


# --- what can go wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["test_resnett", "", None, "test_resnett.r160_in1k"])
def test_unknown_names(name: Any) -> None:
    with pytest.raises(ValueError, match=rf"name: expected that of a model of timm .*list_models.*, got {name!r}"):
        Backbone.from_timm(name, pretrained=False)


@pytest.mark.parametrize("layers", [[], [6], [-7], [1, 1], [2, 0], [0, -6], "01", [0.0], [True]])
def test_bad_layers(layers: Any) -> None:
    with pytest.raises(ValueError, match=r"layers: expected numbers of this model's layers, from 0 to 5, .*, got"):
        Backbone.from_timm("test_vit", layers, pretrained=False)


def test_a_download_that_fails_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model

    def offline(name: str, pretrained: bool = False, **options: Any) -> nn.Module:
        if pretrained:
            raise OSError("no route to the hub\nand much more")
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    told = r"could not load .* 'test_resnet' \(OSError: no route to the hub\): .*checkpoint_path=.*pretrained=False"
    with pytest.raises(WeightsError, match=told):
        Backbone.from_timm("test_resnet")
    with pytest.raises(WeightsError, match=told):
        LPIPS("timm:test_resnet", heads="uniform")


def test_files_are_checked_key_by_key(tmp_path: Path) -> None:
    state = model("test_resnet").state_dict()
    file = tmp_path / "model.safetensors"

    def refused_file(message: str, changed: dict[str, Tensor]) -> None:
        save_file(changed, file)
        with pytest.raises(WeightsError, match=message):
            Backbone.from_timm("test_resnet", checkpoint_path=file)

    first = "conv1.0.weight"
    refused_file(f"key '{first}' is missing", {k: v for k, v in state.items() if k != first})
    refused_file(f"key '{first}' has shape", {**state, first: state[first][:1]})
    refused_file("unexpected key 'other'", {**state, "other": torch.zeros(1)})
    refused_file(f"key '{first}'.*finite", {**state, first: state[first] * float("nan")})
    refused_file("key .* is missing", model("test_vit").state_dict())
    with pytest.raises(WeightsError, match="no such file"):
        Backbone.from_timm("test_resnet", checkpoint_path=tmp_path / "none.safetensors")
    # the classifier is not needed
    save_file({k: v for k, v in state.items() if not k.startswith("fc.")}, file)
    without = Backbone.from_timm("test_resnet", checkpoint_path=file)
    assert (
        without.fingerprint()
        == Backbone.from_timm("test_resnet", checkpoint_path=file_of("test_resnet", tmp_path)).fingerprint()
    )


def test_without_timm_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"need timm: pip install 'damlpips\[timm\]'"):
        Backbone.from_timm("test_resnet")


def test_the_package_does_not_import_it() -> None:
    python("import sys, damlpips; damlpips.Backbone; damlpips.DAMLPIPS(); assert 'timm' not in sys.modules")


# --- by name --------------------------------------------------------------------------------------------------------


def test_modules_that_name_a_model_share_it(tmp_path: Path) -> None:
    file = file_of("test_resnet", tmp_path)
    first, second = DAMLPIPS("timm:test_resnet", weights=file), LPIPS("timm:test_resnet", weights=file, heads="uniform")
    assert first.backbone is second.backbone
    with pytest.raises(ValueError, match=r"heads='v0\.1' belong to a backbone by name"):
        LPIPS("timm:test_resnet", weights=file)


def test_the_command_line_names_it_in_rows_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, out = file_of("test_resnet", tmp_path), tmp_path / "scores.csv"
    originals, restored = image_folders(tmp_path, [(40, 48)] * 3)
    call = ("score", originals, restored, "--backbone", "timm:test_resnet", "--weights", file, "--csv", out)
    result = run(*call)
    assert result.exit_code == 0, result.stderr
    assert "damlpips (timm:test_resnet)" in result.stdout
    rows = csv_rows(out)
    assert {row["backbone"] for row in rows} == {"timm:test_resnet"}
    identity = Backbone.from_timm("test_resnet", checkpoint_path=file).fingerprint()
    assert {row["weights"] for row in rows} == {f"custom:{identity}"}
    assert "3 of 3 pairs were scored before" in run(*call).stderr
    assert out.read_text().count("\n") == 4
    cited = DAMLPIPS("timm:test_resnet", weights=file).describe()
    again = run("score", originals, restored, "--as", cited, "--weights", file, "--json", "-")
    assert again.exit_code == 0, again.stderr
    assert [f"{pair['score']:.6g}" for pair in json.loads(again.stdout)["pairs"]] == [
        f"{float(row['score']):.6g}" for row in rows
    ]
    refused("name: expected that of a model of timm", "score", originals, restored, "--backbone", "timm:nope")
    monkeypatch.setattr("damlpips.cli.options.find_spec", lambda name: None if name == "timm" else find_spec(name))
    refused(r"needs: pip install 'damlpips\[timm\]'", *call)
    refused(r"needs: pip install 'damlpips\[timm\]'", "score", originals, restored, "--as", cited)
