"""Any metric by name: what each library says, turned so that lower is closer."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from damlpips import DAMLPIPS, LPIPS
from damlpips.calibration.weights import write_heads
from damlpips.evaluation import named, peers
from damlpips.evaluation.named import UnavailableMetricError, UnknownMetricError, build, names
from damlpips.evaluation.peers import PIQ, TORCHMETRICS
from damlpips.nets.table import BACKBONES

OWN = ["mse", "damlpips", "damlpips-nano", "lpips-nano:spatial", "lpips-nano:sort", "lpips-nano:spatial+mean:raw"]
FIVE_SCALES = ("multi_scale_ssim", "information_weighted_ssim")
# Need no weights. Left out are piq's of five scales, one of which fails for smooth images, and pyiqa's mad, which takes
# seconds a pair.
OFFLINE = [
    *OWN,
    *(f"piq:{name}" for name in PIQ if name.islower() and name not in FIVE_SCALES),
    *(f"torchmetrics:{name}" for name in TORCHMETRICS if name != "dists" and not name.startswith("lpips")),
    *(f"pyiqa:{name}" for name in ("ssim", "ssimc", "psnr", "psnry", "fsim", "ms_ssim", "vif", "gmsd", "nlpd", "vsi")),
    "pyiqa:cw_ssim",
]


def images(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Two smooth images, and the same with noise."""
    reference = F.interpolate(torch.rand(2, 3, 12, 12), (height, width), mode="bicubic").clamp(0.05, 0.95)
    return reference, (reference + 0.05 * torch.randn_like(reference)).clamp(0, 1)


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    return images(64, 72)


def needed(name: str) -> None:
    """Skip the test where the metric's library is not installed."""
    if name.partition(":")[0] in peers.LIBRARIES:
        pytest.importorskip(name.partition(":")[0])


def test_importing_it_loads_no_library() -> None:
    code = "import damlpips.evaluation.named, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "torch" in loaded
    assert not loaded & {"torchmetrics", "piq", "pyiqa", "PIL", "scipy", "matplotlib", "typer", "rich"}


@pytest.mark.parametrize("name", OFFLINE)
def test_what_is_less_alike_is_farther(name: str) -> None:
    needed(name)
    # five scales, each half the size of the one before
    reference, distorted = images(184, 192) if "ms_ssim" in name.replace("-", "_") else images(64, 72)
    worse = (reference + 4 * (distorted - reference)).clamp(0.01, 1)  # an angle to black is undefined
    metric = build(name)
    encoded = metric.encode(reference)
    equal, near, far = (metric.distances(encoded, x) for x in (reference, distorted, worse))
    assert near.shape == (2,)
    assert near.dtype == torch.float64
    assert (equal < near).all()
    assert (near < far).all()
    if metric.lower_is_closer:
        assert equal.tolist() == pytest.approx([0, 0], abs=1e-3)


@pytest.mark.parametrize("name", [*OWN, "piq:ssim", "pyiqa:ssim", "torchmetrics:rase", "torchmetrics:psnrb"])
def test_a_pair_scores_alone_as_in_a_batch(name: str, pair: tuple[Tensor, Tensor]) -> None:
    needed(name)
    metric = build(name)
    together = metric.distances(*pair).tolist()
    alone = [metric.distances(r[None], d[None]).item() for r, d in zip(*pair, strict=True)]
    assert together == pytest.approx(alone, rel=1e-5)


class TestOwn:
    @pytest.mark.parametrize(
        ("name", "model"),
        [
            ("damlpips", lambda: DAMLPIPS()),
            ("damlpips-nano", lambda: DAMLPIPS("nano")),
            ("lpips-nano:spatial", lambda: LPIPS("nano", heads="uniform")),
            ("lpips-nano:mean", lambda: LPIPS("nano", heads="uniform", comparison="mean")),
            ("lpips-nano:spatial+sort", lambda: LPIPS("nano", heads="uniform", comparison="spatial+sort")),
            ("lpips-nano:sort:raw", lambda: LPIPS("nano", heads="uniform", comparison="sort", channel_norm=False)),
        ],
    )
    def test_is_the_module(self, name: str, model: Callable[[], torch.nn.Module], pair: tuple[Tensor, Tensor]) -> None:
        metric = build(name)
        expected = pytest.approx(model()(pair[1], pair[0]).tolist(), rel=1e-5)
        assert metric.distances(*pair).tolist() == expected
        assert metric.distances(metric.encode(pair[0]), pair[1]).tolist() == expected

    @pytest.mark.parametrize("kind", [LPIPS, DAMLPIPS])
    def test_with_weights(self, kind: type, pair: tuple[Tensor, Tensor], random_alex_weights: Path) -> None:
        metric = build(f"{kind.__name__.lower()}-alex", weights=random_alex_weights)
        expected = kind("alex", weights=random_alex_weights)(pair[1], pair[0]).tolist()
        assert metric.distances(*pair).tolist() == pytest.approx(expected, rel=1e-5)

    def test_mse(self, pair: tuple[Tensor, Tensor]) -> None:
        expected = [F.mse_loss(d.double(), r.double()).item() for r, d in zip(*pair, strict=True)]
        assert build("mse").distances(*pair).tolist() == pytest.approx(expected)

    def test_carries_no_gradient(self, pair: tuple[Tensor, Tensor]) -> None:
        metric = build("damlpips")
        distances = metric.distances(metric.encode(pair[0]), pair[1].requires_grad_())
        assert not distances.requires_grad

    def test_weights_that_are_not_there(self) -> None:
        with pytest.raises(UnavailableMetricError, match=r"lpips-alex: cannot be built .*weights='nowhere.pth'"):
            build("lpips-alex", weights="nowhere.pth")

    def test_weights_of_the_embedded_backbone(self, pair: tuple[Tensor, Tensor], random_nano_weights: Path) -> None:
        metric = build("damlpips", weights=random_nano_weights)
        expected = DAMLPIPS(weights=random_nano_weights)(*pair).tolist()
        assert metric.distances(*pair).tolist() == pytest.approx(expected, rel=1e-5)
        assert metric.identity != build("damlpips").identity

    def test_files_behind_a_name(self, pair: tuple[Tensor, Tensor], random_nano_weights: Path, tmp_path: Path) -> None:
        (tmp_path / "a,b=c").mkdir()
        heads = tmp_path / "a,b=c/heads.safetensors"
        found = set()
        for seed in (0, 1):
            torch.manual_seed(seed)
            write_heads([torch.rand(c) for c in BACKBONES["nano"].channels], heads)
            for name, files in {
                f"lpips-nano:heads={heads}": {"heads": str(heads)},
                f"lpips-nano:heads={heads},weights={random_nano_weights}": {
                    "heads": str(heads),
                    "weights": random_nano_weights,
                },
            }.items():
                metric = build(name)
                expected = LPIPS("nano", **files)(*pair).tolist()
                assert metric.distances(*pair).tolist() == pytest.approx(expected, rel=1e-5)
                found.add(metric.identity)
        # the bytes count, not the name of the file
        assert len(found) == 4
        only_weights = build(f"damlpips-nano:weights={random_nano_weights}")
        assert only_weights.identity == build("damlpips-nano", weights=random_nano_weights).identity

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("lpips-nano:heads=nowhere.safetensors", "cannot be built .*nowhere.safetensors"),
            ("damlpips:heads=nowhere.safetensors", "cannot be built .*heads"),
            ("lpips-nan:heads=a", "unknown metric 'lpips-nan': did you mean .*lpips-nano"),
            ("lpips-nano:head=a", "unknown metric 'lpips-nano:head=a'"),
        ],
    )
    def test_files_that_are_not_there_or_go_nowhere(self, name: str, message: str) -> None:
        with pytest.raises((UnavailableMetricError, UnknownMetricError), match=message):
            build(name)

    @pytest.mark.parametrize("name", ["mse", "piq:ssim"])
    def test_weights_that_nobody_wants(self, name: str, random_alex_weights: Path) -> None:
        needed(name)
        with pytest.raises(UnavailableMetricError, match=f"{name}: .*takes no"):
            build(name, weights=random_alex_weights)


class TestPeers:
    """An order of arguments, a range or a sign that is not the library's own would show."""

    def test_piq(self, pair: tuple[Tensor, Tensor]) -> None:
        piq = pytest.importorskip("piq")
        reference, distorted = pair
        expected = -piq.vif_p(distorted, reference, data_range=1.0, reduction="none")
        assert build("piq:vif_p").distances(*pair).tolist() == pytest.approx(expected.tolist(), rel=1e-5)
        assert (expected - -piq.vif_p(reference, distorted, reduction="none")).abs().min() > 1e-3
        expected = piq.gmsd(distorted, reference, data_range=1.0, reduction="none")
        assert build("piq:gmsd").distances(*pair).tolist() == pytest.approx(expected.tolist(), rel=1e-5)

    def test_pyiqa(self, pair: tuple[Tensor, Tensor]) -> None:
        pyiqa = pytest.importorskip("pyiqa")
        reference, distorted = pair
        vif = pyiqa.create_metric("vif", device="cpu")
        expected = -vif(distorted, reference).flatten()
        assert build("pyiqa:vif").distances(*pair).tolist() == pytest.approx(expected.tolist(), rel=1e-3)
        assert (expected - -vif(reference, distorted).flatten()).abs().min() > 1e-2

    def test_torchmetrics(self, pair: tuple[Tensor, Tensor]) -> None:
        from torchmetrics.functional import image

        reference, distorted = (x[:1] for x in pair)
        # psnrb takes grey images only
        grey = [0.299 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:] for x in (distorted, reference)]
        for name, expected in (
            ("ergas", image.error_relative_global_dimensionless_synthesis(distorted, reference)),
            ("psnr", -image.peak_signal_noise_ratio(distorted, reference, data_range=1.0)),
            ("psnrb", -image.peak_signal_noise_ratio_with_blocked_effect(*grey, data_range=1.0)),
        ):
            found = build(f"torchmetrics:{name}").distances(reference, distorted).item()
            assert found == pytest.approx(expected.item(), rel=1e-5), name

    def test_range(self) -> None:
        """torchmetrics' and piq's VIF are one metric; only piq's is told the range."""
        pytest.importorskip("piq")
        pair = images(64, 72)
        found, expected = (build(name).distances(*pair) for name in ("torchmetrics:vif", "piq:vif_p"))
        assert (found - expected).abs().max() < 0.1

    def test_infinite_similarity(self, pair: tuple[Tensor, Tensor]) -> None:
        assert build("torchmetrics:psnr").distances(pair[0], pair[0]).tolist() == [-float("inf")] * 2

    @pytest.mark.parametrize("peer", [*PIQ.values(), *TORCHMETRICS.values()], ids=lambda peer: peer.place)
    def test_is_where_the_table_says(self, peer: peers.Peer) -> None:
        module, attribute = peer.place.split(":")
        needed(f"{module.partition('.')[0]}:")
        assert callable(getattr(import_module(module), attribute))

    @pytest.mark.filterwarnings("ignore::UserWarning:torchvision")  # piq asks for weights as torchvision once had it
    @pytest.mark.parametrize("name", ["pyiqa:lpips", "piq:ContentLoss", "torchmetrics:lpips-alex"])
    def test_a_failed_download_says_which_metric(self, name: str) -> None:
        needed(name)
        with pytest.raises(UnavailableMetricError, match=f"{name}: cannot be built .*must not download"):
            build(name)

    def test_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(named, "find_spec", lambda name: None)
        message = r"piq:ssim: piq is not installed: pip install 'damlpips\[piq\]'"
        with pytest.raises(UnavailableMetricError, match=message):
            build("piq:ssim")
        assert {"mse", "damlpips"} <= set(names())
        assert not [name for name in names() if name.partition(":")[0] in peers.LIBRARIES]

    def test_what_libraries_print_goes_to_stderr(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def chatty(name: str, device: torch.device) -> peers.Built:
            print(f"Loading {name}")
            return peers.Built(F.mse_loss, True, {})

        library = peers.Library("piq", lambda: ["quiet"], chatty)
        monkeypatch.setattr(named, "LIBRARIES", {"piq": library})
        monkeypatch.setattr(named, "find_spec", lambda name: True)
        monkeypatch.setattr(named, "version", lambda name: "1")
        build("piq:quiet")
        printed = capsys.readouterr()
        assert (printed.out, printed.err) == ("", "Loading quiet\n")


class TestNames:
    def test_all(self) -> None:
        known = names()
        assert len(set(known)) == len(known)
        assert {"mse", "lpips-vgg", "lpips-alex:spatial+sort", "torchmetrics:ssim"} <= set(known)

    def test_pyiqa(self) -> None:
        pyiqa = pytest.importorskip("pyiqa")
        from damlpips.adapters.pyiqa import NAMES

        found = {name.partition(":")[2] for name in names() if name.startswith("pyiqa:")}
        assert found == set(pyiqa.list_models("FR")) - {*peers.NO_DISTANCE, *NAMES}
        assert {"lpips", "lpips+", "dists", "topiq_fr-pipal"} <= found

    def test_pyiqa_without_this_package(self) -> None:
        pytest.importorskip("pyiqa")
        from damlpips.adapters import register

        registered = register("pyiqa")
        assert not {f"pyiqa:{name}" for name in registered} & set(names())

    @pytest.mark.parametrize(
        ("wrong", "right"),
        [
            ("damlpip", "damlpips"),
            ("lpips-alx", "lpips-alex"),
            ("LPIPS-Alex", "lpips-alex"),
            ("lpips-alex:spatial+srt", "lpips-alex:spatial+sort"),
            ("ssim", "piq:ssim"),
            ("piq:lpips", "piq:LPIPS"),
            ("torchmetrics:ms_ssim", "torchmetrics:ms-ssim"),
        ],
    )
    def test_unknown(self, wrong: str, right: str) -> None:
        needed(wrong)
        with pytest.raises(UnknownMetricError, match=re.escape(f"unknown metric '{wrong}': did you mean ")) as error:
            build(wrong)
        assert right in str(error.value).removesuffix("?").partition("mean ")[2].split(", ")

    def test_unknown_in_pyiqa(self) -> None:
        pytest.importorskip("pyiqa")
        with pytest.raises(UnknownMetricError, match=r"did you mean pyiqa:ssim, pyiqa:"):
            build("pyiqa:sim")
        with pytest.raises(UnknownMetricError, match="unknown metric 'pyiqa:niqe'"):
            build("pyiqa:niqe")  # it has no reference

    @pytest.mark.parametrize("name", ["", ":", "zzzzzzzzzz", "sftp:xxxx"])
    def test_nothing_like_it(self, name: str) -> None:
        with pytest.raises(UnknownMetricError, match=f"unknown metric '{name}': no name is near it"):
            build(name)


class TestIdentity:
    def test_names_what_a_distance_depends_on(self) -> None:
        described = json.loads(build("damlpips").identity)
        assert described["library"] == "damlpips"
        assert described["torch"] == torch.__version__
        assert described["device"] == "cpu"
        configuration = json.loads(json.dumps(DAMLPIPS().configuration()))
        assert described["options"].items() >= configuration.items()

    @pytest.mark.parametrize("name", OFFLINE)
    def test_is_the_same_again_and_no_other_metrics(self, name: str) -> None:
        needed(name)
        identity = build(name).identity
        assert identity == build(name).identity
        # one metric under two names
        others = [other for other in OWN if {other, name} not in ({"damlpips", "damlpips-nano"}, {name})]
        assert identity not in [build(other).identity for other in others]

    def test_weights(self, random_alex_weights: Path, tmp_path: Path) -> None:
        copy = shutil.copy(random_alex_weights, tmp_path / "other_name.safetensors")
        identity = build("lpips-alex", weights=random_alex_weights).identity
        assert build("lpips-alex", weights=copy).identity == identity
        assert build("damlpips-alex", weights=random_alex_weights).identity != identity

    @pytest.mark.parametrize("name", ["damlpips", "lpips-nano:sort", "mse", "torchmetrics:ssim"])
    def test_version_of_scores(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        before = build(name).identity
        assert build(name).identity == before
        monkeypatch.setattr(named, "SCORES", named.SCORES + 1)
        assert build(name).identity != before


@pytest.mark.cuda
def test_on_a_device(pair: tuple[Tensor, Tensor]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    for name in ("damlpips", "mse", "torchmetrics:ssim"):
        metric = build(name, device="cuda")
        found = metric.distances(metric.encode(pair[0].cuda()), pair[1].cuda())
        assert found.device.type == "cpu"
        assert found.tolist() == pytest.approx(build(name).distances(*pair).tolist(), rel=1e-3)
        assert metric.identity != build(name).identity


def test_a_model_of_timm_is_lpips_with_uniform_heads_on_it(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    file = tmp_path / "test_resnet.safetensors"
    save_file(timm.create_model("test_resnet", pretrained=False).state_dict(), file)
    metric = build("timm:test_resnet", weights=file)
    x, y = torch.rand(2, 2, 3, 64, 64)
    expected = LPIPS("timm:test_resnet", heads="uniform", weights=file)(x, y)
    assert torch.equal(metric.distances(metric.encode(y), x), expected.double())
    with pytest.raises(UnavailableMetricError, match="timm:no_such_model"):
        build("timm:no_such_model")
