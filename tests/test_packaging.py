"""The weights and cards come along with every way of installing."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
HEADS = {f"lpips_v0.{v}_{net}.safetensors" for v in (0, 1) for net in ("alex", "vgg", "squeeze")}
PAGE = {path.name for path in (REPOSITORY / "src" / "damlpips" / "report" / "page" / "templates").iterdir()}
FILES = {"cards.toml", "nano.safetensors", "nano_v2.safetensors", *HEADS}

# Run by a new Python that finds the package under test before any other installation.
CHECK = """
import sys
from pathlib import Path
import torch
import damlpips
from damlpips.nets.weights import load_heads, weights_dir

expected = Path(sys.argv[1])
assert Path(damlpips.__file__).is_relative_to(expected), damlpips.__file__
assert weights_dir().is_relative_to(expected), weights_dir()
heads = load_heads("v0.1", "alex", (64, 192, 384, 256, 256))
assert [len(h) for h in heads] == [64, 192, 384, 256, 256]
x = torch.rand(1, 3, 32, 32)
assert damlpips.DAMLPIPS()(x, x.flip(3)) > 0
assert damlpips.LPIPS("alex").heads == "v0.1"
"""


def run(*command: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-3000:]}"
    return done.stdout


def works_from(expected: Path, folder: Path, path: Path) -> None:
    """Import the package in a process that has `path` first on its own and stands in an empty folder."""
    folder.mkdir()
    # -P: the folder it stands in is not on its path
    run(sys.executable, "-P", "-c", CHECK, str(expected), cwd=folder, PYTHONPATH=str(path))


def install(wheel: Path, target: Path) -> Path:
    options = ("--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check", "--quiet")
    run(sys.executable, "-m", "pip", "install", *options, "--target", str(target), str(wheel), cwd=wheel.parent)
    return target


def build(kind: str, source: Path, target: Path) -> Path:
    """Build a wheel or an sdist of the project in `source`."""
    run(sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", str(target), str(source), cwd=source)
    (built,) = target.iterdir()
    return built


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of what goes into the package: building leaves nothing behind in the working tree."""
    source = tmp_path_factory.mktemp("source") / "project"
    unwanted = shutil.ignore_patterns("__pycache__")
    for folder in ("src", "weights"):
        shutil.copytree(REPOSITORY / folder, source / folder, ignore=unwanted)
    for file in (".gitignore", "pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "NOTICE"):
        shutil.copy(REPOSITORY / file, source / file)
    return source


@pytest.fixture(scope="module")
def sdist(source, tmp_path_factory) -> Path:
    return build("sdist", source, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory) -> Path:
    return build("wheel", source, tmp_path_factory.mktemp("wheel"))


def test_wheel(wheel, tmp_path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        modes = {name: archive.getinfo(name).external_attr >> 16 for name in names}
    assert {f"damlpips/_weights/{file}" for file in FILES} <= names
    assert {"page.html", "page.css", "page.js"} <= PAGE
    assert {f"damlpips/report/page/templates/{file}" for file in PAGE} <= names
    # nothing but the package, its weights and its metadata
    assert {name.split("/")[0].split("-")[0] for name in names} == {"damlpips"}
    assert {name for name in names if "licenses/" in name}
    assert any(name.endswith("licenses/NOTICE") for name in names)
    # readable for others than who built it
    assert all(modes[name] & 0o044 == 0o044 for name in names if "_weights" in name)
    target = install(wheel, tmp_path / "target")
    works_from(target, tmp_path / "elsewhere", path=target)


def test_a_wheel_is_built_to_the_same_bytes_again(wheel, source, tmp_path) -> None:
    assert build("wheel", source, tmp_path / "again").read_bytes() == wheel.read_bytes()


def test_sdist(sdist, tmp_path) -> None:
    with tarfile.open(sdist) as archive:
        # what Python has from 3.11.4 on, and warns about where it is left out from 3.12 on
        archive.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    (unpacked,) = (folder for folder in tmp_path.iterdir() if folder.is_dir())
    packed = {file.name for file in (unpacked / "weights").iterdir()}
    assert packed == {file.name for file in (REPOSITORY / "weights").iterdir()} >= FILES
    assert (unpacked / "LICENSE").is_file()
    assert (unpacked / "NOTICE").is_file()
    wheel = build("wheel", unpacked, tmp_path / "dist")
    target = install(wheel, tmp_path / "target")
    works_from(target, tmp_path / "elsewhere", path=target)


def test_editable(tmp_path) -> None:
    """The installation that the tests run in, as `make setup` makes it."""
    origin = json.loads(importlib.metadata.distribution("damlpips").read_text("direct_url.json") or "{}")
    if not origin.get("dir_info", {}).get("editable"):
        pytest.skip("the package is installed, but not with pip install -e")
    source = url2pathname(urlsplit(origin["url"]).path)
    run(sys.executable, "-P", "-c", CHECK, source, cwd=tmp_path, PYTHONPATH="")


def test_checkout_without_installing(source, tmp_path) -> None:
    works_from(source, tmp_path / "elsewhere", path=source / "src")


def test_running_install_finds_its_weights() -> None:
    import damlpips
    from damlpips.nets import weights

    assert {file.name for file in weights.weights_dir().iterdir()} >= FILES
    assert damlpips.__version__ == importlib.metadata.version("damlpips")


def test_install_without_weights_says_so(tmp_path) -> None:
    shutil.copytree(REPOSITORY / "src" / "damlpips", tmp_path / "src" / "damlpips")
    code = "from damlpips import LPIPS; LPIPS('alex')"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert f"weights/cards.toml is missing beside {tmp_path / 'src' / 'damlpips'}" in done.stderr
