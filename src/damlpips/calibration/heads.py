"""What comes out of a fit: the heads in the format of `lpips`, and beside them a card that says where they are from."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from damlpips.calibration.training import Fitted
from damlpips.evaluation.figures import SetFigures
from damlpips.files import digest, replacing, write_whole
from damlpips.version import __version__

SUFFIX = ".safetensors"


def card_path(path: Path) -> Path:
    """Return where the card of a file of heads is: beside it."""
    return path.with_suffix(".json")


def save(fitted: Fitted, path: Path) -> None:
    """Write the heads to `NAME.safetensors`, which `heads=PATH` loads, and the card to `NAME.json`.

    Raises:
        ValueError: another suffix. OSError: it cannot be written.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise ValueError(f"{path}: expected a name that ends in {SUFFIX}")
    state = {f"lin{k}.model.1.weight": w.reshape(1, -1, 1, 1).contiguous() for k, w in enumerate(fitted.heads)}
    with replacing(path) as whole:
        save_file(state, whole)
    write_whole(card_path(path), json.dumps(card(fitted, digest(path)), indent=2, allow_nan=False) + "\n")


def card(fitted: Fitted, sha256: str) -> dict[str, Any]:
    """Return what is known about heads, as it is written: what, from what, how, and how good."""
    choices, contents = fitted.learned_from
    return {
        "sha256": sha256,
        "damlpips": __version__,
        "variant": "lin",
        "backbone": fitted.backbone,
        "fitted": fitted.metric,
        "recipe": asdict(fitted.recipe),
        "data": {
            "sets": [{"name": name, "choices": count} for name, count in fitted.sets],
            "sha256": fitted.sha256,
            "learned_from": {"choices": choices, "contents": contents},
            "held_out": {"choices": fitted.after.judgements, "contents": fitted.after.contents},
        },
        "figures": {
            "name": fitted.after.headline_name,
            "before": _figure(fitted.before),
            "after": _figure(fitted.after),
            "difference": _plain(asdict(fitted.difference)),
            "ceilings": _plain(dict(fitted.after.ceilings)),
        },
    }


def _figure(figures: SetFigures) -> dict[str, float | None]:
    return _plain(asdict(figures.headline))


def _plain(numbers: dict[str, float]) -> dict[str, float | None]:
    # JSON has no NaN
    return {name: None if value != value else value for name, value in numbers.items()}
