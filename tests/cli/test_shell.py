"""In a shell: help and completion that answer at once, colours for terminals only, and what `damlpips info` says."""

import hashlib
import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from damlpips import __version__
from damlpips.cli import app
from damlpips.nets import weights
from damlpips.nets.table import BACKBONES, TRAINED_FOR
from tests.support.commands import piped, variables
from tests.support.pictures import image_file, image_folders

command = importlib.import_module("damlpips.cli.info")
COMMANDS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
CLI = ("typer", "rich", "PIL", "filelock")
COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])(?:;\d+)*m")


def in_terminal(*arguments: object, **others: str) -> str:
    """Return what a command writes to stdout and stderr in a terminal."""
    pty = pytest.importorskip("pty", reason="no pseudo-terminals on this system")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "damlpips", *map(str, arguments)]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=variables(**others))
    os.close(theirs)
    found = b""
    while True:
        try:
            part = os.read(ours, 1 << 16)
        except OSError:  # Linux's end of file: no process has the other end open
            break
        if not part:
            break
        found += part
    os.close(ours)
    assert process.wait(120) == 0, found
    return found.decode()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two folders with enough pairs for a progress bar."""
    return image_folders(tmp_path_factory.mktemp("images"), [(40, 48)] * 20)


class TestHelp:
    @pytest.mark.parametrize("command", COMMANDS)
    def test_every_command_shows_examples(self, command: str) -> None:
        result = CliRunner().invoke(app, [command, "--help"])
        assert result.exit_code == 0
        assert "Examples" in result.stdout
        assert re.search(rf"^ *damlpips {command} ", result.stdout.split("Examples")[1], re.MULTILINE)

    def test_help_and_completion_load_nothing_heavy(self) -> None:
        code = (
            "import sys; from damlpips.__main__ import main\n"
            "sys.argv = ['damlpips', *sys.argv[1:]]\n"
            "try: main()\n"
            "except SystemExit as exit: assert not exit.code\n"
            "heavy = {'torch', 'torchvision', 'numpy', 'scipy', 'PIL', 'av', 'matplotlib', 'pyarrow'}\n"
            "heavy &= set(sys.modules)\n"
            "sys.exit(f'loaded {heavy}' if heavy else 0)"
        )
        words = "damlpips score --backbone "
        completing = {"_DAMLPIPS_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": "3"}
        asked = [("--help",), *((command, "--help") for command in COMMANDS), ("info", "-h"), ("--version",)]
        for result in (*(piped(*arguments, code=code) for arguments in asked), piped(code=code, **completing)):
            assert (result.returncode, result.stderr) == (0, "")
            assert "\x1b" not in result.stdout
            assert result.stdout

    @pytest.mark.parametrize(
        ("missing", "arguments", "message"),
        [
            *((name, (), "the command line needs: pip install 'damlpips[cli]'") for name in CLI),
            ("scipy", ("agree", "set.csv"), "agree needs: pip install 'damlpips[agree]'"),
            ("matplotlib", ("agree", "set.csv", "--plot", "p"), "agree needs: pip install 'damlpips[agree]'"),
            ("matplotlib", ("map", "r.png", "d.png", "-o", "m.png"), "map needs: pip install 'damlpips[viz]'"),
            ("jinja2", ("report", "rows.csv"), "report needs: pip install 'damlpips[report]'"),
        ],
    )
    def test_a_missing_package_is_named_by_its_extra(
        self, missing: str, arguments: tuple[str, ...], message: str
    ) -> None:
        code = f"import sys; sys.modules[{missing!r}] = None; from damlpips.__main__ import main; main()"
        result = piped(*arguments, code=code)
        assert (result.returncode, result.stdout, result.stderr) == (2, "", f"damlpips: {message}\n")

    def test_the_module_is_the_program(self) -> None:
        result = piped("--version")
        assert (result.returncode, result.stdout, result.stderr) == (0, f"damlpips {__version__}\n", "")
        result = piped("scroe")
        assert (result.returncode, result.stdout) == (2, "")
        assert re.fullmatch(r"damlpips: No such command 'scroe'.*\(see damlpips --help\)\n", result.stderr)


class TestCompletion:
    def completed(self, words: str) -> list[str]:
        """Return the completions of the last of some words."""
        given = {"_DAMLPIPS_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        result = CliRunner().invoke(app, [], prog_name="damlpips", env=given)
        assert result.exit_code == 0, result.output
        return result.stdout.split()

    def test_bash_is_told(self) -> None:
        assert self.completed("damlpips score --backbone ") == list(BACKBONES)
        begun = [name for name in BACKBONES if name.startswith("vgg")]
        assert self.completed("damlpips map --backbone vgg") == begun
        assert self.completed("damlpips map --metric ") == ["damlpips", "lpips"]
        assert self.completed("damlpips score --metric damlpips-a") == ["damlpips-alex"]
        assert self.completed("damlpips score --device c") == ["cpu", "cuda"]
        assert self.completed("damlpips ") == COMMANDS
        assert "--frames-csv" in self.completed("damlpips score --fra")

    @pytest.mark.skipif(sys.platform == "win32", reason="no bash there")
    def test_bash_completes_after_its_installation(self, tmp_path: Path) -> None:
        (tmp_path / "damlpips").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m damlpips "$@"\n')
        (tmp_path / "damlpips").chmod(0o755)
        script = (
            "damlpips --install-completion >/dev/null || exit 1\n"
            "source ~/.bash_completions/damlpips.sh\n"
            "COMP_WORDS=(damlpips score --backbone ''); COMP_CWORD=3\n"
            "_damlpips_completion damlpips; echo ${COMPREPLY[@]}"
        )
        home = {"HOME": str(tmp_path), "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}

        def bash(script: str) -> str:
            command = ["bash", "--norc", "-c", script]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=variables(**home))
            assert (done.returncode, done.stderr) == (0, "")
            return done.stdout

        assert bash(script).split() == list(BACKBONES)
        assert "complete -o default -F _damlpips_completion damlpips" in bash("damlpips --show-completion; true")


def judged_set(folder: Path) -> Path:
    image_file(folder / "r.png", 0)
    rows = ["ref,dist,score"]
    for k in range(6):
        image_file(folder / f"{k}.png", k)
        rows.append(f"r.png,{k}.png,{k}")
    (folder / "set.csv").write_text("\n".join(rows) + "\n")
    return folder / "set.csv"


class TestColours:
    @pytest.mark.parametrize("command", [c for c in COMMANDS if c in ("agree", "info", "map", "score")])
    def test_none_without_a_terminal(self, command: str, folders: tuple[Path, Path], tmp_path: Path) -> None:
        images = [folder / "1.png" for folder in folders]
        arguments: Sequence[object] = {
            "agree": lambda: [judged_set(tmp_path), "--metric", "damlpips", "--no-cache", "--samples", 20],
            "info": list,
            "map": lambda: [*images, "-o", tmp_path / "map.png"],
            "score": lambda: [*folders, "--csv", tmp_path / "scores.csv"],
        }[command]()
        result = piped(command, *arguments)
        assert result.returncode == 0, result.stderr
        assert result.stderr == ""  # no progress bar, no banner
        assert result.stdout
        assert all(c.isprintable() or c == "\n" for c in result.stdout)

    def test_a_terminal_gets_a_bar_and_with_no_color_no_colours(self, folders: tuple[Path, Path]) -> None:
        coloured = in_terminal("score", *folders)
        assert COLOUR.search(coloured)
        assert "scoring" in coloured
        plain = in_terminal("score", *folders, NO_COLOR="1")
        assert "scoring" in plain
        assert not COLOUR.search(plain)

    def test_help_in_a_terminal(self) -> None:
        assert COLOUR.search(in_terminal("score", "--help"))
        assert not COLOUR.search(in_terminal("score", "--help", NO_COLOR="1"))


class TestInfo:
    def described(self, **others: str | None) -> dict:  # type: ignore[type-arg]
        result = CliRunner().invoke(app, ["info", "--json"], env=others)
        assert (result.exit_code, result.stderr) == (0, "")
        return json.loads(result.stdout)

    def test_versions_devices_and_variables(self) -> None:
        found = self.described(DAMLPIPS_KERNELS="off", OMP_NUM_THREADS="3", NO_COLOR=None)
        assert found["versions"]["damlpips"] == __version__
        assert found["versions"]["torch"] == torch.__version__.partition("+")[0]
        assert found["devices"]["cpu"]["threads"] == torch.get_num_threads()
        assert found["devices"]["cpu"]["instructions"] == torch.backends.cpu.get_cpu_capability()
        assert len(found["devices"]["cuda"]) == torch.cuda.device_count()
        assert (found["variables"]["DAMLPIPS_KERNELS"], found["variables"]["OMP_NUM_THREADS"]) == ("off", "3")
        assert found["variables"]["NO_COLOR"] is None

    def test_extras_are_those_of_the_package(self) -> None:
        found = self.described()["extras"]
        assert {"cli", "viz", "report", "lightning", "pyiqa"} <= set(found)
        assert found.keys().isdisjoint({"all", "docs", "test"})
        assert set(found["report"]["packages"]) >= {"typer", "rich", "pillow", "matplotlib", "jinja2", "scipy"}
        assert list(found["ray"]["packages"]) == ["filelock", "numpy", "pillow", "pyarrow", "ray", "rich", "typer"]

    def test_a_missing_extra_says_how_to_get_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = command.installed
        monkeypatch.setattr(command, "installed", lambda name: None if name == "av" else real(name))
        found = self.described()["extras"]
        assert (found["video"]["missing"], found["video"]["install"]) == (["av"], "pip install 'damlpips[video]'")
        assert found["cli"] == {"packages": found["cli"]["packages"], "missing": [], "install": None}
        text = CliRunner().invoke(app, ["info"]).stdout
        assert re.search(r"^  video +without av: pip install 'damlpips\[video\]'$", text, re.MULTILINE)

    def test_weights(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("downloads"))
        content = b"not the weights"
        (tmp_path / "alexnet_features.safetensors").write_bytes(content)
        (tmp_path / "vgg16_features.safetensors").write_bytes(content)
        cache = tmp_path / "hub/checkpoints"
        cache.mkdir(parents=True)
        (cache / "squeezenet1_1-b8a52dc0.pth").write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        known = weights._known_digests() | {"squeezenet1_1-b8a52dc0.pth": digest[:8]}
        monkeypatch.setattr(weights, "_known_digests", lambda: known)
        torch_home = {"TORCH_HOME": str(tmp_path)}
        found = self.described(DAMLPIPS_WEIGHTS_DIR=str(tmp_path), **torch_home)["weights"]
        assert set(found) == {*BACKBONES, *TRAINED_FOR.values()}
        assert {name: state["sha256"] for name, state in found.items()} == {
            **dict.fromkeys(BACKBONES, "absent"),
            "nano": "embedded",
            "nano:2": "embedded",
            "alex": "other",
            "vgg": "unknown",
            "squeeze": "known",
        }
        assert found["squeeze"]["file"] == str(cache / "squeezenet1_1-b8a52dc0.pth")
        assert "delete it" in found["alex"]["advice"]
        assert f"resnet50_features.safetensors or resnet50-0676ba61.pth into {tmp_path}" in found["resnet50"]["advice"]
        text = CliRunner().invoke(app, ["info"], env={"DAMLPIPS_WEIGHTS_DIR": None, **torch_home}).stdout
        assert re.search(r"^  alex +not here: .* into a folder that DAMLPIPS_WEIGHTS_DIR names$", text, re.MULTILINE)
        assert re.search(r"^  nano +part of the package: .*nano.safetensors$", text, re.MULTILINE)
        assert re.search(r"^  nano:2 +part of the package: .*nano_v2.safetensors$", text, re.MULTILINE)
