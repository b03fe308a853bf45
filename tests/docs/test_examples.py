"""Every example of the README and the docs runs as it is written; every docstring example gives what it says."""

import contextlib
import doctest
import importlib
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HOW_TO = (
    *("choose", "export", "huge-images", "lightning", "loss", "migrate", "own-backbone", "pictures", "piq", "pyiqa"),
    *("references", "report", "score-folders", "torchmetrics", "video"),
)
PAGES = ["README.md", *(f"docs/how-to/{page}.md" for page in HOW_TO)]
# stands in the example of a loss only
LOSS = "optimizer.zero_grad"
MODULES = [
    *(f"adapters{name}" for name in ("", ".lightning", ".piq", ".ray")),
    *("checks", "distance", "features", "functional", "nano", "metrics", "models"),
    *("locks", "outputs", "page.rendering", "page.views", "parts", "prefetch", "report", "reuse", "scoring"),
    *("sharing", "weights"),
    *(f"evaluation.{name}" for name in ("agreement", "bootstrap", "cache", "challenge", "code", "correlation")),
    *(f"evaluation.{name}" for name in ("distances", "figures", "ladders", "logistic", "named", "views", "votes")),
    "evaluation.datasets.layouts",
]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.M | re.S)


def python_blocks() -> list:
    """Return all of them but the loss, which a test of its own runs."""
    return [
        pytest.param(code, id=f"{page}-{k}")
        for page in PAGES
        for k, code in enumerate(blocks(page, "python"), start=1)
        if LOSS not in code
    ]


def environment(shared: Path | None = None) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    weights = {} if shared is None else {"DAMLPIPS_WEIGHTS_DIR": str(shared / "weights")}
    return {**os.environ, **weights, "PATH": path}


@pytest.mark.parametrize("code", python_blocks())
def test_python_examples_run(code: str, request: pytest.FixtureRequest) -> None:
    shared = request.getfixturevalue("shared") if '"alex"' in code else None  # needs AlexNet's weights
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, env=environment(shared), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_loss_example_gets_near() -> None:
    (code,) = [code for code in blocks("README.md", "python") if LOSS in code]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    distances = [float(line.split()[1]) for line in done.stdout.splitlines()]
    assert distances[-1] < distances[0] / 4


def test_commands_run(tmp_path: Path) -> None:
    commands = [line[2:] for block in blocks("README.md", "console") for line in block.splitlines()]
    assert len(commands) >= 3
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    for command in commands:
        done = subprocess.run(
            shlex.split(command), cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        assert done.stdout or "--csv" in command
    assert (tmp_path / "scores.csv").read_text().startswith("reference,")


def words(text: str) -> list[object]:
    """Return the words of a text, those with a point in them as numbers."""
    found = re.findall(r"[0-9]+\.[0-9]+|[^\s0-9]+|[0-9]+", text)
    return [float(word) if re.match(r"[0-9]+\.", word) else word for word in found]


def nearly(found: list[object]) -> list[object]:
    """Return words that equal others whose numbers were rounded another way."""
    return [pytest.approx(word, abs=2e-3) if isinstance(word, float) else word for word in found]


def test_the_tutorial_runs_and_prints_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks run in their order, and what the page shows as printed is printed, but for the last digits."""
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")
    names: dict[str, object] = {}
    printed, checked = "", 0
    for language, block in re.findall(r"^```(\w+)\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        shown = block if language == "text" else ""
        if language == "console":
            command, _, shown = block.removeprefix("$ ").partition("\n")
            variables = {**environment(), "PYTHONIOENCODING": "utf-8"}
            done = subprocess.run(shlex.split(command), env=variables, capture_output=True, encoding="utf-8")
            assert (done.returncode, done.stderr) == (0, ""), command
            printed = done.stdout
        elif language == "python":
            with contextlib.redirect_stdout(io.StringIO()) as output:
                exec(block, names)
            printed = output.getvalue()
        if shown:
            assert words(printed) == nearly(words(shown))
            checked += 1
    assert checked == 5


@pytest.mark.parametrize("module", MODULES)
def test_docstring_examples(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    if module == "adapters" or module == "adapters.piq":
        pytest.importorskip("piq")
    result = doctest.testmod(importlib.import_module(f"damlpips.{module}"), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


def test_public_classes_have_examples_that_ran() -> None:
    finder = doctest.DocTestFinder()
    for module, names in {
        "models": ["LPIPS", "DAMLPIPS"],
        "metrics": ["LPIPSMetric", "DAMLPIPSMetric"],
        "features": ["Backbone"],
        "functional": ["lpips", "damlpips", "pairwise"],
        "adapters": ["register"],
    }.items():
        found = finder.find(importlib.import_module(f"damlpips.{module}"))
        with_examples = {test.name.rsplit(".", 1)[-1] for test in found if test.examples}
        assert set(names) <= with_examples


def test_text_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]:
        if "_build" in page.parts:
            continue
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
