"""Install the wheel beside each Python and each end of the allowed releases, and run the tests there: `make matrix`.

    python release/matrix.py --python python3.10 --python python3.14 --packages newest

Each environment is new and has a wheel of this checkout, never the checkout itself; it is removed after its tests. What
was measured is kept in `rows.json` of the work folder: a run that was stopped goes on where it was. Needs uv.

`oldest` are the lowest releases that pyproject.toml allows and that have a wheel for that Python; the other packages
are as new as these allow.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = [f"python3.{minor}" for minor in range(10, 15)]
BOTH = ("newest", "oldest")
# the oldest pyiqa needs a tokenizers that has no wheel for this Python
NEWEST_ONLY = ("python3.14",)
# what a row of the table names
SHOWN = ("torch", "torchvision", "torchmetrics", "pyiqa", "piq")
EXTRAS = ("cli", "piq", "pyiqa")
# the wheels of these are for some Pythons only, and not to be built here for the others
COMPILED = ("numpy", "pillow", "safetensors", "torch", "torchvision")
TOOLS = (
    "pytest>=8",
    "pytest-timeout",
    "hypothesis>=6.100",
    "beartype>=0.18",
    "lpips==0.1.4",
    "scipy",
    "opencv-python-headless",
)
# scores against the golden ones; parity with lpips, piq, pyiqa and torchmetrics; the names in each of them
TESTS = (
    "tests/models/test_score_version.py",
    "tests/test_import.py",
    "tests/parity",
    "tests/adapters/test_piq.py",
    "tests/adapters/test_pyiqa.py",
    "tests/adapters/torchmetrics",
)
ABOUT = """
import importlib.metadata, json, platform, sys
print(json.dumps([platform.python_version(), {name: importlib.metadata.version(name) for name in sys.argv[1:]}]))
"""


def run(*command: str, cwd: Path, log: Path) -> int:
    with log.open("ab") as file:
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
        return subprocess.run(command, cwd=cwd, env=environment, stdout=file, stderr=file, check=False).returncode


def measure(python: str, packages: str, wheel: Path, work: Path) -> dict:
    """Return a row: what was installed, and how its tests ended."""
    name = f"{Path(python).name}-{packages}"
    home, log = work / name, work / f"{name}.log"
    shutil.rmtree(home, ignore_errors=True)
    log.unlink(missing_ok=True)
    row: dict = {"python": Path(python).name, "packages": packages, "versions": {}}
    if run(python, "-m", "venv", str(home / "env"), cwd=work, log=log):
        return {**row, "result": "no environment"}
    inside = str(home / "env" / "bin" / "python")
    pins = home / "pins.txt"
    pins.touch()
    # uv, not pip, which takes hours to find old releases of pyiqa's requirements that go together
    uv = (sys.executable, "-m", "uv", "pip")
    options = ("--quiet", "--python", inside, "--cache-dir", str(work / "cache"))
    try:
        if packages == "oldest":
            project = [str(ROOT / "pyproject.toml"), *(f"--extra={name}" for name in EXTRAS)]
            lowest = ["--resolution=lowest-direct", *(f"--only-binary={name}" for name in COMPILED)]
            if run(*uv, "compile", *options, *lowest, *project, "--output-file", str(pins), cwd=home, log=log):
                return {**row, "result": "no such releases: " + last(log)}
        wanted = (f"{wheel}[{','.join(EXTRAS)}]", *TOOLS)
        if run(*uv, "install", *options, "--constraints", str(pins), *wanted, cwd=home, log=log):
            return {**row, "result": "not installed: " + last(log)}
        about = subprocess.run([inside, "-c", ABOUT, *SHOWN], cwd=home, capture_output=True, text=True, check=True)
        row["python"], row["versions"] = json.loads(about.stdout)
        for name in ("tests", "benchmarks"):
            shutil.copytree(ROOT / name, home / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / "docs" / "demo", home / "docs" / "demo")
        for name in ("pyproject.toml", "CHANGELOG.md", "README.md", "NOTICE"):
            shutil.copy(ROOT / name, home)
        # without pyproject.toml's own options: jaxtyping's checks want to be there before the package is imported
        quietly = ("-q", "--import-mode=importlib", "-p", "no:cacheprovider", "-o", "addopts=")
        # some packages install a folder `tests` of their own, which processes of the tests would find first
        for foreign in (home / "env").glob("lib*/python*/site-packages/tests"):
            shutil.rmtree(foreign)
        run(inside, "-m", "pytest", *quietly, *TESTS, cwd=home, log=log)
        return {**row, "result": last(log)}
    finally:
        shutil.rmtree(home, ignore_errors=True)


def last(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return re.sub(r"=+ ?| in [0-9.]+s.*|, [0-9]+ warnings?", "", lines[-1]).strip() if lines else "no output"


def table(rows: list[dict]) -> str:
    head = ["Python", "packages", *SHOWN, "tests"]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        lines.append([row["python"], row["packages"], *(row["versions"].get(n, "") for n in SHOWN), row["result"]])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", help="an interpreter; default: python3.10 to 3.14, as found")
    parser.add_argument("--packages", action="append", choices=BOTH, help="default: both")
    parser.add_argument("--wheel", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "matrix")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    kept = given.work / "rows.json"
    rows = json.loads(kept.read_text()) if kept.exists() else []
    for python in given.python or PYTHONS:
        if not (found := shutil.which(python)):
            print(f"{python} is not here: left out", file=sys.stderr)
            continue
        for packages in given.packages or (BOTH[:1] if python in NEWEST_ONLY else BOTH):
            key = [found, packages, given.wheel.name]
            if any(row["key"] == key for row in rows):
                continue
            print(f"{found}, {packages}", file=sys.stderr, flush=True)
            rows.append({"key": key, **measure(found, packages, given.wheel.resolve(), given.work.resolve())})
            kept.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))
    return int(any("passed" not in row["result"] or "failed" in row["result"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
