"""The network whose features FID and KID compare: Inception by default, or one's own."""

import sys
import warnings
from contextlib import redirect_stdout
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from damlpips.evaluation import custom
from damlpips.evaluation.custom import MetricFileError
from damlpips.evaluation.named import UnavailableMetricError
from damlpips.files import digest, reason
from damlpips.scoring.sets import Features
from damlpips.version import SCORES

# torch-fidelity's file of Inception's weights, in torch hub's cache
INCEPTION = "weights-inception-2015-12-05-6726825d.pth"
FEATURES = 2048
SCRIPTED = (".pt", ".pth", ".ts", ".torchscript")


def build(name: str | None, *, device: torch.device | str = "cpu", metric: str = "fid") -> Features:
    """Build a network of features, loading what it needs.

    None is torchmetrics' Inception v3 with 2048 features, which sees images at 299 x 299 and needs torch-fidelity and
    its weights. `FILE.py:NAME` is made by calling NAME without arguments, FILE.pt is TorchScript; both take images
    (N, 3, H, W) in [0, 1] of any size and return (N, F).

    Args:
        metric: what needs it, for the error.

    Raises:
        MetricFileError: a file that is not there, or makes no network.
        UnavailableMetricError: Inception or its weights are not here; says what the ways out are.
    """
    device = torch.device(device)
    if name is None:
        return _inception(device, metric)
    if custom.split(name) is not None:
        made, options = custom.made(name, device)
        file, _, attribute = name.rpartition(":")
        described = f"features of {Path(file).name}:{attribute}, {options['file'][:8]}"
        return Features(made, described, {"features": attribute, **options, "scores": SCORES})
    path = Path(name)
    if path.suffix.lower() not in SCRIPTED:
        raise MetricFileError(f"{name}: expected FILE.py:NAME, or TorchScript in a file {', '.join(SCRIPTED)}")
    try:
        sha256 = digest(path)
        with warnings.catch_warnings():
            # that torch goes on to other formats
            warnings.simplefilter("ignore", FutureWarning)
            network: Any = torch.jit.load(str(path), map_location=device)
    except OSError as error:
        raise MetricFileError(f"{name}: {reason(error)}") from error
    except RuntimeError as error:
        raise MetricFileError(f"{name}: expected TorchScript ({str(error).splitlines()[0]})") from error
    return Features(network.eval(), f"features of {path.name}, {sha256[:8]}", {"file": sha256, "scores": SCORES})


def _inception(device: torch.device, metric: str) -> Features:
    from torchmetrics.image.fid import FrechetInceptionDistance

    place = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION
    try:
        if find_spec("torch_fidelity") is None:
            raise ModuleNotFoundError("torch-fidelity is not installed: pip install torch-fidelity")
        with redirect_stdout(sys.stderr):  # where downloads are told: rows may go to stdout
            network = FrechetInceptionDistance(feature=FEATURES).inception.to(device).eval()
    except Exception as error:  # no package, no network, a damaged file: each in its own way
        what = " ".join(str(error).split()) or type(error).__name__
        raise UnavailableMetricError(
            f"{metric}: needs Inception, which is not here ({what})\n"
            "Three ways out:\n"
            f"  1. pip install torch-fidelity, and put its file {INCEPTION} at {place}\n"
            "     (from the releases of toshas/torch-fidelity on GitHub; with a network it is downloaded);\n"
            "  2. pass another network: --fid-features FILE.py:NAME, or --fid-features FILE.pt of TorchScript;\n"
            f"  3. leave {metric} out."
        ) from error
    releases = {package: version(package) for package in ("torchmetrics", "torch-fidelity")}
    described = f"Inception v3, {FEATURES} features, torch-fidelity {releases['torch-fidelity']}"
    return Features(network, described, {"features": FEATURES, **releases, "scores": SCORES}, takes_bytes=True)
