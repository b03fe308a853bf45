"""What the pages name is there: files, modules, functions, tests. The picture is that of the code."""

import ast
import inspect
import re
import runpy
import sys
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from pkgutil import resolve_name
from types import FrameType

import pytest
import torch
import typer
from torch import Tensor

from damlpips import DAMLPIPSMetric
from damlpips.cli import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in page.parts),
]


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def is_there(name: str) -> bool:
    """Return whether a dotted name is that of a module, what a module holds, or what a class holds."""
    try:
        resolve_name(name)
    except (ImportError, AttributeError):
        owner, _, last = name.rpartition(".")
        try:
            holder = resolve_name(owner)
        except (ImportError, AttributeError):
            return False
        return is_dataclass(holder) and last in {field.name for field in fields(holder)}
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_paths_and_names_lead_somewhere(page: Path) -> None:
    content = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!\w+:)([^)#]+)", content)
    assert [link for link in links if not (page.parent / link).exists()] == []
    paths = re.findall(r"(?<![\w/.])(?:src|tests|docs|benchmarks|training)/[\w./-]*\w", content)
    assert [path for path in paths if not (ROOT / path).exists()] == []
    names = re.findall(r"(?<![\w/.])damlpips(?:\.(?!md\b)[A-Za-z_]+)+", content)
    assert [name for name in set(names) if not is_there(name)] == []


def names_of_tests() -> set[str]:
    """Return the names of all test functions."""
    trees = (ast.parse(file.read_text(encoding="utf-8")) for file in (ROOT / "tests").rglob("test_*.py"))
    return {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_row_of_the_distributed_page_is_a_test_by_name() -> None:
    section = text("docs/explanation/distributed.md").split("## Tested")[1]
    rows = [line for line in section.splitlines() if line.startswith("|")][2:]
    named = [re.findall(r"`(test_\w+)`", row.rsplit("|", 2)[1]) for row in rows]
    assert len(rows) > 20
    assert all(len(names) == 1 for names in named)
    assert {name for names in named for name in names} <= names_of_tests()


def test_every_way_to_add_something_names_its_tests() -> None:
    section = text("CONTRIBUTING.md").split("## How to add")[1]
    named = re.findall(r"`(test_\w+)`", section)
    assert len(named) > 10
    assert set(named) - names_of_tests() == set()


def test_the_readme_lists_the_commands() -> None:
    listed = re.findall(r"^\| `damlpips (\w+)", text("README.md"), re.M)
    assert sorted(listed) == sorted(typer.main.get_command(app).commands)


def test_the_picture_of_the_packages_is_drawn_from_the_code() -> None:
    script = runpy.run_path(str(ROOT / "docs/draw_architecture.py"))
    drawn = script["draw"](script["read_parts"]())
    assert script["PICTURE"].read_text(encoding="utf-8") == drawn, "run: python docs/draw_architecture.py"
    assert 'class="up"' not in drawn


def walk(title: str) -> list[str]:
    """Return the dotted names in one of the walks of the page on the architecture, in their order."""
    section = text("docs/explanation/architecture.md").split(f"### {title}")[1].split("\n### ")[0]
    return [f"damlpips.{name}" for name in re.findall(r"`((?:\w+\.)+\w+)`", section)]


SCORE, COMPUTE, CSV = "An image to a score", "A score to `compute()`", "Two folders to a CSV"


@pytest.mark.parametrize("title", [SCORE, COMPUTE, CSV])
def test_every_function_of_the_walks_exists(title: str) -> None:
    assert len(walk(title)) > 5
    assert [name for name in walk(title) if not is_there(name)] == []


def score(metric: DAMLPIPSMetric, x: Tensor, y: Tensor) -> None:
    metric.model(x, y)


def compute(metric: DAMLPIPSMetric, x: Tensor, y: Tensor) -> None:
    metric.update(x, y)
    metric.compute()


@pytest.mark.parametrize(("title", "run", "steps"), [(SCORE, score, 11), (COMPUTE, compute, 9)])
def test_functions_of_the_walks_are_called_in_their_order(title: str, run: Callable[..., None], steps: int) -> None:
    codes = {}
    for name in walk(title):
        thing = resolve_name(name)
        function = inspect.unwrap(thing.__call__ if isinstance(thing, type) else thing)
        codes[getattr(function, "__code__", None)] = name
    called: dict[str, None] = {}

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code in codes:
            called.setdefault(codes[frame.f_code])

    metric, images = DAMLPIPSMetric(), torch.rand(2, 1, 3, 32, 32)
    sys.setprofile(note)
    try:
        run(metric, *images)
    finally:
        sys.setprofile(None)
    assert list(called) == [name for name in walk(title) if name in called]
    assert len(called) >= steps
