"""Digests of the code that numbers go through, and what belongs to it."""

import subprocess
import sys
from pathlib import Path

import pytest

from damlpips.evaluation import code


class TestImports:
    def test_all_that_are_loaded(self) -> None:
        """Python itself is asked; a function may import more when it is called."""
        script = "import sys, damlpips.models; print(*(m for m in sys.modules if m.startswith('damlpips.')))"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        loaded = {name.removeprefix("damlpips.") for name in done.stdout.split()}
        assert "models" in loaded
        assert loaded <= code.with_imports("models")

    @pytest.mark.parametrize(
        "statement",
        [
            "import damlpips.added",
            "import damlpips.added as other",
            "from damlpips import added",
            "from damlpips.added import name",
            "def f():\n    from damlpips import added as other",
            "if True:\n    import torch, damlpips.added",
        ],
    )
    def test_by_whatever_way(self, copied_package: Path, statement: str) -> None:
        (copied_package / "added.py").write_text("from damlpips import added_below\n")
        (copied_package / "added_below.py").write_text("from damlpips import added, __version__\n")
        assert not {"added", "added_below"} & code.with_imports("distance")
        distance = copied_package / "distance.py"
        distance.write_text(f"{distance.read_text()}\n{statement}\n")
        assert {"distance", "added", "added_below"} <= code.with_imports("distance")

    def test_no_others(self) -> None:
        assert code.with_imports("evaluation.peers") == {"evaluation.peers"}
        assert "checks" in code.with_imports("features")
        assert not {"metrics", "scoring", "evaluation.plots"} & code.with_imports("models")


class TestDigest:
    def test_is_of_the_files_named(self, copied_package: Path) -> None:
        before = code.digest("distance", "evaluation.peers")
        assert code.digest("evaluation.peers", "distance", "distance") == before
        assert len({before, code.digest("distance"), code.digest("evaluation.peers")}) == 3
        (copied_package / "models.py").write_text("")
        assert code.digest("distance", "evaluation.peers") == before
        (copied_package / "evaluation" / "peers.py").write_text("")
        assert code.digest("distance", "evaluation.peers") != before

    def test_moved_code_is_other_code(self, copied_package: Path) -> None:
        (copied_package / "one.py").write_text("a = 1\n")
        (copied_package / "two.py").write_text("")
        before = code.digest("one", "two")
        (copied_package / "one.py").write_text("")
        (copied_package / "two.py").write_text("a = 1\n")
        assert code.digest("one", "two") != before

    def test_of_a_package(self) -> None:
        assert code.digest("evaluation") != code.digest("evaluation.datasets")

    def test_no_such_module(self) -> None:
        with pytest.raises(FileNotFoundError, match=r"nowhere\.py"):
            code.digest("nowhere")
