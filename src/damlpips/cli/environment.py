"""What this machine has of all that scores depend on: packages, devices, weights, environment variables.

Nothing is downloaded, and nothing but files of weights is read.
"""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from damlpips.version import __version__

NEEDED = ("torch", "torchvision", "torchmetrics", "safetensors", "jaxtyping", "numpy")
# the packages of each extra, by the names that pip knows; a test compares them with pyproject.toml
EXTRAS = {
    "cli": ("typer", "rich", "pillow"),
    "parquet": ("pyarrow",),
    "video": ("av",),
    "viz": ("matplotlib",),
    "agree": ("typer", "rich", "pillow", "matplotlib", "scipy", "numpy", "openpyxl"),
    "report": ("typer", "rich", "pillow", "matplotlib", "jinja2", "markupsafe", "scipy", "numpy"),
    "ray": ("typer", "rich", "pillow", "pyarrow", "ray"),
    "lightning": ("lightning",),
    "piq": ("piq",),
    "pyiqa": ("pyiqa",),
}
# what each does is said by the page of the docs that names it
VARIABLES = (
    *("DAMLPIPS_WEIGHTS_DIR", "DAMLPIPS_FORMATS", "DAMLPIPS_KERNELS", "TORCH_HOME", "XDG_CACHE_HOME"),
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "NO_COLOR", "FORCE_COLOR"),
)
EMBEDDED, KNOWN, OTHER, UNKNOWN, ABSENT = "embedded", "known", "other", "unknown", "absent"


def describe() -> dict[str, Any]:
    """Return everything, as JSON can hold it."""
    return {
        "versions": {
            "damlpips": __version__,
            "python": platform.python_version(),
            **{name: installed(name) for name in NEEDED},
        },
        "platform": platform.platform(),
        "extras": extras(),
        "devices": devices(),
        "weights": weights(),
        "variables": {name: os.environ.get(name) for name in VARIABLES},
    }


def installed(name: str) -> str | None:
    """Return the version of a package; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def extras() -> dict[str, Any]:
    """Return of each extra its packages' versions, and what brings those that are missing."""
    found = {}
    for extra, names in EXTRAS.items():
        packages = {name: installed(name) for name in names}
        missing = [name for name, known in packages.items() if known is None]
        found[extra] = {
            "packages": packages,
            "missing": missing,
            "install": f"pip install 'damlpips[{extra}]'" if missing else None,
        }
    return found


def devices() -> dict[str, Any]:
    """Return what PyTorch says of this machine's processors."""
    import torch

    cards = []
    if torch.cuda.is_available():
        for k in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(k)
            cards.append(
                {
                    "name": f"cuda:{k}",
                    "card": card.name,
                    "memory": card.total_memory,
                    "capability": f"{card.major}.{card.minor}",
                }
            )
    return {
        "cpu": {
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "onednn": torch.backends.mkldnn.is_available(),
        },
        "cuda": cards,
        "cuda_of_torch": torch.version.cuda,
        "triton": installed("triton"),
    }


def weights() -> dict[str, Any]:
    """Return of each backbone the file that would be used, what its SHA-256 says, and what to do about it.

    `sha256` is "known" or "embedded" for the contents that belong to the name, "other" for others, which are refused,
    "unknown" where nothing is there to compare with, and "absent" without a file.
    """
    from damlpips.nets import weights as files
    from damlpips.nets.table import BACKBONES

    found = {}
    for name in BACKBONES:
        try:
            path = files.find_backbone(name)
        except files.WeightsError as error:  # a place that cannot be looked at
            found[name] = {"file": None, "sha256": OTHER, "advice": str(error)}
            continue
        state, advice = _state(path, embedded="url" not in files.backbone_card(name))
        if state == ABSENT:
            card = files.backbone_card(name)
            here = os.environ.get(files.ENVIRONMENT_VARIABLE) or "a folder"
            advice = (
                f"downloaded when first used; or put {card['features_file']} or {card['file']} into {here}"
                f"{'' if os.environ.get(files.ENVIRONMENT_VARIABLE) else f' that {files.ENVIRONMENT_VARIABLE} names'}"
            )
        found[name] = {"file": None if path is None else str(path), "sha256": state, "advice": advice}
    return found


def _state(path: Path | None, *, embedded: bool) -> tuple[str, str | None]:
    from damlpips.nets import weights as files

    if path is None:
        return ABSENT, "install damlpips again" if embedded else None
    if not (expected := files.known_digest(path)):
        return UNKNOWN, None
    try:
        alike = files.sha256(path).startswith(expected)
    except files.WeightsError as error:
        return OTHER, str(error)
    if not alike:
        return OTHER, "damaged, or another file: delete it, or rename it if these are weights of your own"
    return (EMBEDDED if embedded else KNOWN), None
