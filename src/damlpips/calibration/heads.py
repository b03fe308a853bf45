"""What comes out of a fit: heads in the format of `lpips`, perhaps a network, and a card that says what they are."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from damlpips.calibration.outcomes import Outcome
from damlpips.calibration.training import Fitted
from damlpips.calibration.weights import SUFFIX, weights_path, write, write_heads
from damlpips.evaluation.figures import SetFigures
from damlpips.files import digest, write_whole
from damlpips.version import __version__


def card_path(path: Path) -> Path:
    """Return where the card of a file of heads is: beside it."""
    return path.with_suffix(".json")


def save(fitted: Fitted, path: Path) -> None:
    """Write the heads to `NAME.safetensors`, which `heads=PATH` loads, and the card to `NAME.json`.

    A network that was learned goes to `NAME.weights.safetensors`, which `weights=PATH` loads, together with the heads.

    Raises:
        ValueError: another suffix. OSError: it cannot be written.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise ValueError(f"{path}: expected a name that ends in {SUFFIX}")
    sha256 = None
    if fitted.network is not None:
        write(fitted.network, weights_path(path))
        sha256 = digest(weights_path(path))
    write_heads(fitted.heads, path)
    found = card(fitted, digest(path), sha256)
    write_whole(card_path(path), json.dumps(found, indent=2, allow_nan=False) + "\n")


def card(fitted: Fitted, sha256: str, weights_sha256: str | None = None) -> dict[str, Any]:
    """Return what is known about heads, as it is written: what, from what, how, and how good."""
    choices, contents = fitted.learned_from
    return {
        "sha256": sha256,
        "weights_sha256": weights_sha256,
        "damlpips": __version__,
        "variant": fitted.recipe.variant,
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
            "sets": [_of_set(outcome) for outcome in fitted.of_sets],
            "mean": None if fitted.mean is None else {n: _plain(v) for n, v in asdict(fitted.mean).items()},
        },
    }


def _of_set(outcome: Outcome) -> dict[str, Any]:
    after = outcome.after
    return {
        "set": after.name,
        "name": after.headline_name,
        "judgements": after.judgements,
        "contents": after.contents,
        "before": _figure(outcome.before),
        "after": _figure(after),
        "difference": _plain(asdict(outcome.difference)),
    }


def _figure(figures: SetFigures) -> dict[str, float | None]:
    return _plain(asdict(figures.headline))


def _plain(numbers: dict[str, float]) -> dict[str, float | None]:
    # JSON has no NaN
    return {name: None if value != value else value for name, value in numbers.items()}
