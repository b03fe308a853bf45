"""The made-up patches: whichever way they are written, a fit of the command line on them is the same."""

import json
import re
from pathlib import Path

import pytest

from benchmarks import judged_patches
from tests.support.commands import run

OPTIONS = ("--backbone", "nano", "--learning-rate", 0.01, "--epochs", 2, "--decay-epochs", 1, "--samples", 20)


def test_every_layout_is_fitted_to_the_same_heads(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    written = {}
    for layout in judged_patches.LAYOUTS:
        folder = judged_patches.make(tmp_path / layout, 80, layout)
        out = tmp_path / f"{layout}.safetensors"
        result = run("fit", folder, *OPTIONS, "--workers", 1, "-o", out)
        assert (result.exit_code, result.stderr) == (0, "")
        written[layout] = out.read_bytes()
        card = json.loads(out.with_suffix(".json").read_text())
        assert card["data"]["sets"][0]["choices"] == 80
    assert len(set(written.values())) == 1


def test_steps_are_timed(tmp_path: Path) -> None:
    line = judged_patches.steps(judged_patches.make(tmp_path, 70), "nano")
    assert re.fullmatch(
        r"nano, 50 choices a step: [\d.]+ s, [\d.]+ h for BAPPS. Memory: \d+ MB .*, \d+ MB at most", line
    )


def test_measuring_prints_every_stage(tmp_path: Path) -> None:
    table = judged_patches.measure(judged_patches.make(tmp_path, 70), "nano", 0)
    assert [line.split(" | ")[0] for line in table.splitlines()[2:8]] == [
        "| list files, read votes",
        "| digest images",
        "| decode",
        "| decode and run the network",
        "| an epoch",
        "| kept",
    ]
