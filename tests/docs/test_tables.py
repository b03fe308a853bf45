"""What the pages say is tested is tested."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def names_of_tests() -> set[str]:
    """The names of all test functions."""
    trees = (ast.parse(file.read_text(encoding="utf-8")) for file in (ROOT / "tests").rglob("test_*.py"))
    return {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_row_of_the_distributed_page_is_a_test_by_name() -> None:
    page = (ROOT / "docs" / "explanation" / "distributed.md").read_text(encoding="utf-8")
    rows = [line for line in page.split("## Tested")[1].splitlines() if line.startswith("|")][2:]
    named = [re.findall(r"`(test_\w+)`", row.rsplit("|", 2)[1]) for row in rows]
    assert len(rows) > 20
    assert all(len(names) == 1 for names in named)
    assert {name for names in named for name in names} <= names_of_tests()
