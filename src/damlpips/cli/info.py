"""`damlpips info`: what is installed, found and set on this machine. Nothing is downloaded; only weights are read."""

import json
import os
import platform
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from damlpips.cli.program import app
from damlpips.files import spelled
from damlpips.version import __version__

EXAMPLES = """[bold]Examples[/bold]

[cyan]damlpips info[/cyan]

[cyan]damlpips info --json > machine.json[/cyan]"""

NEEDED = ("torch", "torchvision", "torchmetrics", "safetensors", "jaxtyping", "numpy")
# extras for developers of this package only
DEVELOPERS = ("all", "docs", "test")
# the page of the docs that names one says what it does
VARIABLES = (
    *("DAMLPIPS_WEIGHTS_DIR", "DAMLPIPS_FORMATS", "DAMLPIPS_KERNELS", "TORCH_HOME", "XDG_CACHE_HOME"),
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "NO_COLOR", "FORCE_COLOR"),
)
# what the SHA-256 of a file of weights says of it
WORDS = {
    "embedded": "part of the package",
    "known": "SHA-256 as published",
    "other": "SHA-256 is not that of a file of this name",
    "unknown": "SHA-256 not known",
    "absent": "not here",
}


@app.command(epilog=EXAMPLES)
def info(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """Say which packages, devices, weights and settings are found here. Nothing is downloaded."""
    found = describe()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for title, lines in _sections(found):
        typer.echo(title)
        for name, text in lines:
            typer.echo(f"  {name:<22}{text}".rstrip())


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
        "variables": {name: value and spelled(value) for name in VARIABLES for value in [os.environ.get(name)]},
    }


def installed(name: str) -> str | None:
    """Return the version of a package; None where it is not installed."""
    from importlib.metadata import PackageNotFoundError, version  # loads `email`: too slow for every command

    try:
        return version(name)
    except PackageNotFoundError:
        return None


def extras() -> dict[str, Any]:
    """Return of each extra its packages' versions, and what brings those that are missing.

    The package's own metadata names them; there is none where its source is on the path without being installed.
    """
    from importlib.metadata import metadata

    if installed("damlpips") is None:
        return {}
    said = metadata("damlpips")
    found = {}
    for extra in said.get_all("Provides-Extra") or []:
        if extra in DEVELOPERS:
            continue
        # "ray[data]>=2.10; extra == 'ray'"
        needed = re.compile(rf"([\w.-]+).*;.*\bextra == ['\"]{re.escape(extra)}['\"]")
        names = [m[1] for text in said.get_all("Requires-Dist") or [] if (m := needed.match(text))]
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

    cards = {f"cuda:{k}": torch.cuda.get_device_properties(k) for k in range(torch.cuda.device_count())}
    return {
        "cpu": {
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "onednn": torch.backends.mkldnn.is_available(),
        },
        "cuda": [
            {
                "name": name,
                "card": card.name,
                "memory": card.total_memory,
                "capability": f"{card.major}.{card.minor}",
            }
            for name, card in cards.items()
        ],
        "cuda_of_torch": torch.version.cuda,
        "triton": installed("triton"),
    }


def weights() -> dict[str, Any]:
    """Return of each card the file that would be used, what its SHA-256 says (see `WORDS`), and what to do then.

    A backbone has a card, and another one for each version of DAMLPIPS that has weights of its own.
    """
    from damlpips.nets import weights as files

    found = {}
    for name, card in files.cards()["backbone"].items():
        path = None
        try:
            path = files.find_backbone(name)
            state, advice = _state(path, card)
        except files.WeightsError as error:  # a folder or a file that cannot be read
            state, advice = "other", str(error)
        found[name] = {"file": path and spelled(str(path)), "sha256": state, "advice": advice and spelled(advice)}
    return found


def _state(path: Path | None, card: dict[str, Any]) -> tuple[str, str | None]:
    from damlpips.nets import weights as files

    embedded = "url" not in card
    if path is None and embedded:
        return "absent", "install damlpips again"
    if path is None:
        folder = os.environ.get(files.ENVIRONMENT_VARIABLE) or f"a folder that {files.ENVIRONMENT_VARIABLE} names"
        return "absent", f"downloaded when first used; or put {card['features_file']} or {card['file']} into {folder}"
    if not (expected := files.known_digest(path)):
        return "unknown", None
    if not files.sha256(path).startswith(expected):
        return "other", "damaged, or another file: delete it, or rename it if these are weights of your own"
    return ("embedded" if embedded else "known"), None


def _sections(found: dict[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    return [
        ("versions", [*((k, v or "missing") for k, v in found["versions"].items()), ("platform", found["platform"])]),
        ("extras", [(name, _extra(extra)) for name, extra in found["extras"].items()]),
        ("devices", _devices(found["devices"])),
        ("weights", [(name, _weights(state)) for name, state in found["weights"].items()]),
        ("environment", [(name, "not set" if v is None else v) for name, v in found["variables"].items()]),
    ]


def _extra(extra: dict[str, Any]) -> str:
    if extra["missing"]:
        return f"without {', '.join(extra['missing'])}: {extra['install']}"
    return ", ".join(f"{name} {known}" for name, known in extra["packages"].items())


def _devices(devices: dict[str, Any]) -> list[tuple[str, str]]:
    cpu = devices["cpu"]
    lines = [("cpu", f"{cpu['machine']}, {cpu['cores']} cores, {cpu['threads']} threads, {cpu['instructions']}")]
    for card in devices["cuda"]:
        text = f"{card['card']}, {card['memory'] / (1 << 30):.0f} GiB, capability {card['capability']}"
        lines.append((card["name"], text))
    if not devices["cuda"]:
        built = devices["cuda_of_torch"]
        lines.append(("cuda", f"none found by torch for CUDA {built}" if built else "none: this torch is for CPUs"))
    return [*lines, ("triton", devices["triton"] or "missing")]


def _weights(state: dict[str, Any]) -> str:
    parts = [WORDS[state["sha256"]], *(part for part in (state["advice"], state["file"]) if part)]
    return ": ".join(parts)
