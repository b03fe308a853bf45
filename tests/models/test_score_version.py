"""Guard of `damlpips.version.SCORES`, under which distances are kept: who changes a score has to raise it.

    python -m tests.models.test_score_version

writes the scores anew, and refuses to where they differ but the version is the old one.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from damlpips import DAMLPIPS, LPIPS
from damlpips.ops.distance import COMPARISONS
from damlpips.scoring.images import read_image
from damlpips.version import SCORES

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "tests" / "golden" / "scores.json"
COMMAND = f"python -m {'.'.join(Path(__file__).resolve().relative_to(ROOT).with_suffix('').parts)}"
DEMO = ROOT / "docs" / "demo"
# what processors and versions of PyTorch differ by; a displacement field is found in steps, each of which rounds
RELATIVE, ALIGNED_RELATIVE = 1e-5, 1e-3
IN_PLACE, ALIGNED = "damlpips:1", "damlpips:2"


def picture(height: int, width: int, *, shift: int = 0, contrast: float = 1.0) -> Tensor:
    """Return waves of many lengths (1, 3, H, W), on the levels of 8 bits; random numbers change between versions."""
    y = torch.arange(height, dtype=torch.float64)[:, None]
    x = torch.arange(width, dtype=torch.float64)[None, :] + shift
    waves = [(1 + c / 3) * x / 29 + y / (7 + c) for c in range(3)]
    planes = [torch.sin(w) + 0.6 * torch.sin(3.1 * w + y / 5) + 0.4 * torch.sin(x * y / 97) for w in waves]
    image = 0.5 + 0.24 * contrast * torch.stack(planes)
    return ((255 * image).round() / 255)[None].float()


def file(name: str) -> Tensor:
    return read_image(DEMO / name)[None].float() / 255


PAIRS: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
    "shifted": lambda: (picture(88, 72), picture(88, 72, shift=3)),
    "flattened": lambda: (picture(88, 72), picture(88, 72, contrast=0.7)),
    # larger than the side that DAMLPIPS resamples images to
    "large": lambda: (picture(600, 520), picture(600, 520, shift=2, contrast=0.9)),
    "files": lambda: (file("pebbles.png"), file("pebbles/blur_3.png")),
}


def scores() -> dict[str, float]:
    """Return a score of every kind of metric that the embedded network has, by its name and that of the pair."""
    metrics = {IN_PLACE: DAMLPIPS("nano", version=1), ALIGNED: DAMLPIPS("nano", version=2)}
    for comparison in COMPARISONS:
        for norm in (True, False):
            name = f"lpips-nano:{comparison}{'' if norm else ':raw'}"
            metrics[name] = LPIPS("nano", heads="uniform", comparison=comparison, channel_norm=norm)
    with torch.no_grad():
        return {
            f"{name} {pair}": float(metric(*PAIRS[pair]()))
            for name, metric in metrics.items()
            for pair in (PAIRS if name in (IN_PLACE, ALIGNED) else ("shifted", "flattened"))
        }


def differing(found: dict[str, float], kept: dict[str, float]) -> list[str]:
    return [
        f"{name}: {found.get(name)}, was {score}"
        for name, score in kept.items()
        if not math.isclose(
            found.get(name, math.nan), score, rel_tol=ALIGNED_RELATIVE if name.startswith(ALIGNED) else RELATIVE
        )
    ]


def test_scores_are_those_of_their_version() -> None:
    kept, found = json.loads(FILE.read_text()), scores()
    changed = differing(found, kept["scores"])
    assert not changed or kept["version"] != SCORES, (
        f"scores differ: raise SCORES in src/damlpips/version.py, then `{COMMAND}`\n" + "\n".join(changed)
    )
    assert (kept["version"], list(kept["scores"])) == (SCORES, list(found)), f"write {FILE.name} anew: `{COMMAND}`"


def test_pictures_are_neither_flat_nor_equal() -> None:
    for pair in PAIRS.values():
        x, y = pair()
        assert x.std() > 0.1
        assert 0 <= min(x.min(), y.min()) <= max(x.max(), y.max()) <= 1
        assert not torch.equal(x, y)


def write() -> None:
    """Write the scores, unless they differ from those that were kept under the same version."""
    found = scores()
    if FILE.exists():
        kept = json.loads(FILE.read_text())
        if kept["version"] == SCORES and (changed := differing(found, kept["scores"])):
            raise SystemExit("\n".join(["raise SCORES in src/damlpips/version.py first", *changed]))
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps({"version": SCORES, "scores": found}, indent=2) + "\n")


if __name__ == "__main__":
    write()
