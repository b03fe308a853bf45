"""Every notebook runs, and what the docs show of it is what it gives."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "docs" / "notebooks" / "run.py"
NOTEBOOKS = runpy.run_path(str(SCRIPT))["notebooks"]()
STORED = ROOT / "docs" / "_static" / "notebooks"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_and_gives_what_the_docs_show(notebook: Path, tmp_path: Path) -> None:
    code = f"import runpy, sys, pathlib; runpy.run_path({str(SCRIPT)!r})['run'](*map(pathlib.Path, sys.argv[1:]))"
    command = [sys.executable, "-W", "ignore", "-c", code, str(notebook), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {p.name for p in STORED.glob(f"{notebook.stem}[.-]*")}
    given, stored = ((folder / f"{notebook.stem}.txt").read_text() for folder in (tmp_path, STORED))
    # the words are the same; numbers come out of training, whose rounding differs between machines
    assert re.sub(r"[\d.]+", "", given).split() == re.sub(r"[\d.]+", "", stored).split()


def test_each_shows_its_pictures() -> None:
    assert len(NOTEBOOKS) == 3
    for notebook in NOTEBOOKS:
        shown = re.findall(r"\.\./_static/notebooks/(\S+\.png)\)", notebook.read_text())
        assert sorted(shown) == sorted(path.name for path in STORED.glob(f"{notebook.stem}-*.png"))
