"""What is promised between versions: a golden file does not change without a word in the changelog."""

import hashlib
import re
from pathlib import Path

from damlpips.version import SCORES

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"


def short(name: str) -> str:
    return hashlib.sha256((GOLDEN / name).read_bytes()).hexdigest()[:8]


def test_the_changelog_speaks_of_the_golden_files_as_they_are() -> None:
    newest = re.split(r"^## ", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.M)[1]
    files = sorted(path.name for path in GOLDEN.iterdir())
    line = f"- Score version {SCORES}; golden files: {', '.join(f'{name} {short(name)}' for name in files)}."
    assert line in " ".join(newest.split()), (
        "scores, digests or rows changed: say what and how much under '### Scores changed' (or '### Files changed') of"
        f" the newest version in CHANGELOG.md, and then end it with this line:\n{line}"
    )


def test_the_page_names_every_golden_file() -> None:
    page = (ROOT / "docs/reference/promises.md").read_text(encoding="utf-8")
    assert [path.name for path in GOLDEN.iterdir() if f"`tests/golden/{path.name}`" not in page] == []
