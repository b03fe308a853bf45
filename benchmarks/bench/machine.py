"""What times depend on: the machine, PyTorch, and the code that was measured."""

import hashlib
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import damlpips

from .cells import GIB
from .peers import PEERS


def environment(device: torch.device) -> dict[str, Any]:
    """Return what two measurements must have in common to be compared."""
    return {
        "cpu": cpu_model(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "device": device.type,
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: found for name in sorted(PEERS) if (found := _version(name))},
        "damlpips": f"{damlpips.__version__}, source {source_digest()}",
    }


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, "") or platform.processor() or "unknown"


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def source_digest() -> str:
    """Return a digest of this package's code: what was measured before a change does not stand for what is after it."""
    folder = Path(damlpips.__file__).parent
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(file.relative_to(folder).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def default_gib(device: torch.device) -> float:
    """Return half of the machine's memory, or of the GPU's nine tenths: others use the former, too."""
    if device.type == "cuda":
        return round(0.9 * torch.cuda.get_device_properties(device).total_memory / GIB, 1)
    return round(0.5 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB, 1)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
