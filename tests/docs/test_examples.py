"""Every example of the README and the docs runs as it is written; every docstring example gives what it says."""

import contextlib
import doctest
import importlib
import io
import os
import pkgutil
import re
import shlex
import sys
import textwrap
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import typer
from safetensors.torch import load_file

import damlpips
from damlpips import DAMLPIPSMetric, functional
from damlpips.cli import app
from damlpips.testing import assert_similar
from tests.support.commands import Command
from tests.support.layouts import tid
from tests.support.processes import Forked

ROOT = Path(__file__).resolve().parents[2]
# Their blocks need files, a cluster or a minute, and are run by tests of their own.
APART = ("export", "judged-sets", "offline", "ray")
HOW_TO = (page for page in sorted((ROOT / "docs/how-to").glob("*.md")) if page.stem not in APART)
PAGES = ["README.md", *(str(page.relative_to(ROOT)) for page in HOW_TO)]
# stands in the README's example of a loss only
LOSS = "for step in range(200)"
MODULES = sorted(m.name for m in pkgutil.walk_packages(damlpips.__path__, "damlpips.") if m.name != "damlpips.__main__")


def blocks(page: Path | str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.M | re.S)


def python_blocks() -> list:
    """Return those of each page but the loss, which a test of its own runs; apart those that need AlexNet's weights."""
    found: dict[tuple[str, bool], list[tuple[str, str]]] = {}
    for page in PAGES:
        for k, code in enumerate(blocks(page, "python"), start=1):
            if LOSS not in code:
                found.setdefault((page, '"alex"' in code), []).append((f"{page}, block {k}", code))
    return [
        pytest.param(named, needs_weights, id=f"{page}{'-alex' if needs_weights else ''}")
        for (page, needs_weights), named in found.items()
    ]


def environment(shared: Path | None = None) -> dict[str, str]:
    """Return this process's variables, with the commands beside its Python on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    weights = {} if shared is None else {"DAMLPIPS_WEIGHTS_DIR": str(shared / "weights")}
    return {**os.environ, **weights, "PATH": path}


def execute(named: list[tuple[str, str]]) -> None:
    """Run blocks one after the other, each with names of its own."""
    warnings.simplefilter("ignore")
    sys.argv = ["-c"]
    for name, code in named:
        print("###", name, file=sys.stderr, flush=True)
        exec(compile(code, name, "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize(("named", "needs_weights"), python_blocks())
def test_python_examples_run(
    named: list[tuple[str, str]], needs_weights: bool, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    shared = request.getfixturevalue("shared") if needs_weights else None
    done = Forked(execute, named, output=tmp_path / "printed", folder=ROOT, environment=environment(shared))
    assert done.wait() == 0, done.err
    assert done.err.count("### ") == len(named)


def test_loss_example_gets_near(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = [code for code in blocks("README.md", "python") if LOSS in code]
    exec(code, {})
    distances = [float(line.split()[1]) for line in capsys.readouterr().out.splitlines()]
    assert distances[-1] < distances[0] / 4


def run(line: str, folder: Path, output: Path) -> Command:
    """Return the process of a command line of the pages, which has ended well."""
    program, *arguments = shlex.split(line)
    assert program == "damlpips"
    done = Command(*arguments, output=output, folder=folder)
    assert done.wait() == 0, f"{line}: {done.err}"
    return done


def test_commands_run(tmp_path: Path) -> None:
    commands = [line[2:] for block in blocks("README.md", "console") for line in block.splitlines()]
    assert len(commands) >= 3
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    for command in commands:
        done = run(command, tmp_path, tmp_path / "printed")
        assert done.out or "--csv" in command
    assert (tmp_path / "scores.csv").read_text().startswith("reference,")


def fragment(page: str) -> str:
    (code,) = blocks(f"docs/{page}.md", "python")
    return code


@pytest.mark.shared
def test_a_file_of_weights_is_shortened_as_the_page_says(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = shared / "weights/alexnet_features.safetensors"
    torch.save({**load_file(file), "classifier.1.bias": torch.zeros(4096)}, "alexnet-owt-7be5be79.pth")
    exec(fragment("how-to/offline"), {})
    assert Path(file.name).read_bytes() == file.read_bytes()


def test_a_judged_set_is_loaded_as_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    tid(Path("tid2013"), kinds=24, levels=5)
    exec(fragment("how-to/judged-sets"), {})
    assert capsys.readouterr().out == "tid2013 240\n"


def test_a_validation_is_saved_midway_as_the_page_says(tmp_path: Path) -> None:
    metric = DAMLPIPSMetric()
    metric.persistent(True)
    metric.update(*torch.rand(2, 2, 3, 32, 32))
    trainer = SimpleNamespace(save_checkpoint=lambda path: torch.save(metric.state_dict(), path))
    names = {"self": SimpleNamespace(score=metric, trainer=trainer), "path": tmp_path / "state.pt"}
    exec(textwrap.dedent(fragment("explanation/distributed")), names)
    again = DAMLPIPSMetric()
    again.persistent(True)
    again.load_state_dict(torch.load(tmp_path / "state.pt"))
    assert torch.equal(again.compute(), metric.compute())


def command_lines() -> list:
    """Return every call of the command line that a page shows."""
    pages = [ROOT / "README.md", *(p for p in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in p.parts)]
    return [
        pytest.param(line[2:], id=f"{page.name}: {line[2:]}")
        for page in pages
        for block in blocks(page, "console")
        for line in block.splitlines()
        if line.startswith("$ ") and "damlpips" in line
    ]


@pytest.mark.parametrize("line", command_lines())
def test_commands_are_spelled_as_the_program_has_them(line: str) -> None:
    """Options and arguments are read; nothing runs, since the folders are the reader's."""
    spelled = shlex.split(line)
    name, *arguments = spelled[spelled.index("damlpips") + 1 :]
    program = typer.main.get_command(app)
    with program.make_context("damlpips", [name], resilient_parsing=True) as context:
        command = program.get_command(context, name)
        assert command is not None, f"there is no command {name!r}"
        with command.make_context(name, arguments, parent=context) as given:
            assert given.params


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
            done = run(command, tmp_path, tmp_path / "printed")
            assert done.err == "", command
            printed = done.out
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
    result = doctest.testmod(importlib.import_module(module), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


def test_public_names_have_examples_that_ran() -> None:
    finder = doctest.DocTestFinder()
    public = [getattr(damlpips, name) for name in damlpips.__all__ if name[0].isupper() or name == "register"]
    public += [
        assert_similar,
        functional.lpips,
        functional.damlpips,
        functional.pairwise,
        functional.volume,
        functional.slices,
    ]
    found = {thing.__name__: finder.find(thing, thing.__name__) for thing in public}
    without = {name for name, tests in found.items() if not any(test.examples for test in tests)}
    assert without == {"Encoded", "AdaptiveWeights", "WeightsError"}  # results and an error
