"""`damlpips info`: what is installed, found and set on this machine."""

import json
from typing import Annotated, Any

import typer

from damlpips.cli.program import app, printable

EXAMPLES = """[bold]Examples[/bold]

[cyan]damlpips info[/cyan]

[cyan]damlpips info --json > machine.json[/cyan]"""

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
    from damlpips.cli.environment import describe

    found = describe()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for title, lines in _sections(found):
        typer.echo(title)
        for name, text in lines:
            typer.echo(printable(f"  {name:<22}{text}".rstrip()))


def _sections(found: dict[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    return [
        ("versions", [*((k, v or "missing") for k, v in found["versions"].items()), ("platform", found["platform"])]),
        ("extras", [(name, _extra(extra)) for name, extra in found["extras"].items()]),
        ("devices", _devices(found["devices"])),
        ("weights", [(name, _weights(state)) for name, state in found["weights"].items()]),
        ("environment", [(name, "not set" if v is None else v) for name, v in found["variables"].items()]),
    ]


def _extra(extra: dict[str, Any]) -> str:
    here = ", ".join(f"{name} {known}" for name, known in extra["packages"].items() if known is not None)
    if not extra["missing"]:
        return here
    return f"without {', '.join(extra['missing'])}: {extra['install']}"


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
