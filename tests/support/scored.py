"""Files of rows for the tests: a real run of `damlpips score`, and rows that are made up."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from typer.testing import CliRunner

from damlpips.cli import app
from damlpips.scoring.rows import Table
from tests.support.pictures import pixels

NANO = "nano:447c84c09e55f1e23256c6c4b3b7c49bd8969b0d99259e2c78114ea4ec3909e8"
OPTIONS = "alpha=error colour=convert orientation=apply resize=none tile=none version=1"
COLUMNS = tuple(Table({}, 2).types)
# odd names of files, each a trap for a page that does not escape them; none has what Windows forbids alone
ODD = ("<script>alert(1)<!--.png", "\"&'<title>.png", "{{ 7 * 7 }}.png", "a\u202egnp.b\x1b.png")


def run_score(
    folder: Path, *options: str, noises: Mapping[str, int], names: Iterable[str], out: str = "rows.csv"
) -> Path:
    """Score methods that add noise of some strength to references of the given names; return the file of rows."""
    generator = np.random.default_rng(0)
    for seed, name in enumerate(names):
        reference = pixels(seed)
        for method, noise in {"ref": 0, **noises}.items():
            noisy = reference + (1 + seed % 3) * noise * generator.standard_normal(reference.shape)
            (folder / method).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(folder / method / name)
    return score(folder, *options, methods=noises, out=out)


def score(folder: Path, *options: str, methods: Iterable[str] = ("m",), out: str = "rows.csv", status: int = 0) -> Path:
    """Score the methods that lie in a folder, anew if need be; return the file of rows."""
    named = [part for name in methods for part in ("--method", f"{name}={folder / name}")]
    arguments = ["score", str(folder / "ref"), *named, "-o", str(folder / out), "--overwrite", "-q", *options]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == status, result.output
    return folder / out


def row(**values: object) -> dict[str, object]:
    """Return a row of a pair of files that are nowhere."""
    name = values.pop("name", "a.png")
    given = {
        "reference": f"ref/{name}",
        "distorted": f"{values.get('method', 'm')}/{name}",
        "score": 0.5,
        "metric": "damlpips",
        "backbone": "nano",
        "method": "m",
        "layer_0": 0.2,
        "layer_1": 0.3,
        "width": 48,
        "height": 40,
        "sha256": "0" * 64,
        "reference_sha256": f"sum of {name}",
        "weights": NANO,
        "options": OPTIONS,
        "error": "",
    }
    return {**given, **values}


def write_rows(path: Path, rows: Iterable[Mapping[str, object]], columns: Iterable[str] = COLUMNS) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(columns), extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path
