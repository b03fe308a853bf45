"""A dry run of a release: `make release-check`. Nothing is uploaded or tagged; the files are left in dist/.

    python release/check.py

Every step is run, whatever those before it gave; the exit status is 1 if any failed. Needs git and the extras
`release` and `docs`.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import tomllib

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
VERSION = re.search(r'__version__ = "([^"]+)"', (ROOT / "src/damlpips/version.py").read_text())[1]  # type: ignore[index]
# what a wheel and an sdist hold at their top, and nothing else
IN_WHEEL = {"damlpips", f"damlpips-{VERSION}.dist-info"}
MOST_BYTES = 1_000_000
# run in an empty environment by the Python of the wheel
SMOKE = """
import torch, damlpips
from damlpips import DAMLPIPS, DAMLPIPSMetric, LPIPS
x = torch.rand(2, 3, 64, 64)
assert (DAMLPIPS()(x, x) == 0).all() and (DAMLPIPS()(x, x.flip(3)) > 0).all()
assert LPIPS("nano", heads="uniform")(x, x.flip(3)).shape == (2,)
metric = DAMLPIPSMetric()
metric.update(x, x.flip(3))
assert metric.compute() > 0
print(damlpips.__version__)
"""


class Failed(Exception):
    """A step that did not give what a release needs."""


def run(*command: str, cwd: Path = ROOT) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"NO_COLOR": "1"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"{' '.join(command)}:\n{(done.stdout + done.stderr)[-2000:]}")
    return done.stdout


def clean() -> str:
    if changed := run("git", "status", "--porcelain").strip():
        raise Failed(f"not committed:\n{changed}")
    return run("git", "rev-parse", "--short", "HEAD").strip()


def tag() -> str:
    name = f"v{VERSION}"
    found = run("git", "tag", "--list", name).strip()
    at = run("git", "tag", "--points-at", "HEAD").split()
    if found and name not in at:
        raise Failed(f"{name} is another commit: raise __version__ in src/damlpips/version.py")
    return f"{name} is {'this commit' if found else 'free'}"


def changelog() -> str:
    text = (ROOT / "CHANGELOG.md").read_text()
    headings = re.findall(r"^## (.+)$", text, re.M)
    if not headings or not re.match(rf"{re.escape(VERSION)}\b", headings[0]):
        raise Failed(f"the first heading of CHANGELOG.md is {headings[0]!r}, expected '{VERSION}' and the date")
    return headings[0]


def cited() -> str:
    found = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.M)
    if not found or found[1].strip('"') != VERSION:
        raise Failed(f"CITATION.cff names {found and found[1]}, expected {VERSION}")
    return VERSION


def built(folder: Path) -> tuple[Path, Path]:
    shutil.rmtree(folder, ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", str(folder))
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


def contents(wheel: Path, sdist: Path) -> str:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    if extra := {name.split("/")[0] for name in names} - IN_WHEEL:
        raise Failed(f"{wheel.name} holds {', '.join(sorted(extra))}, too")
    with tarfile.open(sdist) as archive:
        packed = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    tracked = set(run("git", "ls-files").split("\n"))
    if foreign := sorted(packed - tracked - {"PKG-INFO"} - {str(p) for t in tracked for p in Path(t).parents}):
        raise Failed(f"{sdist.name} holds files that are not in the repository: {', '.join(foreign[:5])}")
    sizes = [file.stat().st_size for file in (wheel, sdist)]
    if sizes[0] > MOST_BYTES:
        raise Failed(f"{wheel.name} has {sizes[0]:,} bytes, at most {MOST_BYTES:,} are allowed")
    return f"wheel {sizes[0]:,} bytes in {len(names)} files, sdist {sizes[1]:,} in {len(packed)}"


def reproducible(wheel: Path, sdist: Path) -> str:
    with tempfile.TemporaryDirectory() as folder:
        again = built(Path(folder) / "dist")
        for one, other in zip((wheel, sdist), again, strict=True):
            if one.read_bytes() != other.read_bytes():
                raise Failed(f"{one.name} has other bytes when it is built again")
    return ", ".join(f"{file.name} sha256 {hashlib.sha256(file.read_bytes()).hexdigest()}" for file in (wheel, sdist))


def checked(wheel: Path, sdist: Path) -> str:
    return run(sys.executable, "-m", "twine", "check", "--strict", str(wheel), str(sdist)).strip().replace("\n", "; ")


def documentation(folder: Path) -> str:
    run(sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(ROOT / "docs"), str(folder))
    return f"{len(list(folder.rglob('*.html')))} pages"


def smoke(wheel: Path, folder: Path) -> str:
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(wheel))
    return f"damlpips {run(python, '-P', '-c', SMOKE, cwd=folder).strip()} in an environment of its own"


def licences() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for name in project["license-files"]:
        if not (ROOT / name).is_file():
            raise Failed(f"{name} is missing")
    if "pyiqa" in str(project["optional-dependencies"]["all"]):
        raise Failed("the extra 'all' contains pyiqa, whose licence forbids commercial use")
    return project["license"]


def main() -> int:
    steps: list[bool] = []

    def step(name: str, what: Callable[[], str]) -> None:
        try:
            print(f"ok      {name}: {what()}", flush=True)
            steps.append(True)
        except Failed as error:
            print(f"FAILED  {name}: {error}", flush=True)
            steps.append(False)

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        step("working tree", clean)
        step("tag", tag)
        step("changelog", changelog)
        step("CITATION.cff", cited)
        step("licences", licences)
        try:
            wheel, sdist = built(DIST)
        except Failed as error:
            print(f"FAILED  build: {error}")
            return 1
        step("contents", lambda: contents(wheel, sdist))
        step("reproducible", lambda: reproducible(wheel, sdist))
        step("twine", lambda: checked(wheel, sdist))
        step("documentation", lambda: documentation(folder / "html"))
        step("smoke", lambda: smoke(wheel, folder / "env"))
    print("ready to be released" if all(steps) else f"{steps.count(False)} of {len(steps)} steps failed")
    return int(not all(steps))


if __name__ == "__main__":
    sys.exit(main())
