"""Write what comes with an installed wheel, as CycloneDX: `make sbom`.

The wheel in dist/ (`make release-check` leaves it there) is installed in an environment of its own. The list has the
packages found there, and the weights in the wheel, with SHA-256 and licence from `weights/cards.toml`. The package
itself is what the list is about, and the folder that it was made in is not in it.
"""

import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

from damlpips.nets.weights import cards

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"


def weights() -> list[dict[str, Any]]:
    """Return the files of weights that are part of the wheel, as components."""
    return [component for card in each(cards()) if (component := as_component(card))]


def each(value: Any) -> list[dict[str, Any]]:
    """Return all tables with a file, however deep."""
    if not isinstance(value, dict):
        return []
    own = [value] if "file" in value else []
    return own + [card for inner in value.values() for card in each(inner)]


def as_component(card: dict[str, Any]) -> dict[str, Any] | None:
    if not (ROOT / "weights" / card["file"]).is_file():
        return None  # torchvision's, which are downloaded
    return {
        "type": "machine-learning-model",
        "bom-ref": card["file"],
        "name": card["file"],
        "hashes": [{"alg": "SHA-256", "content": card["sha256"]}],
        "licenses": [{"license": {"name": card["licence"]}}],
    }


def about_the_package(listed: dict[str, Any], wheel: Path) -> dict[str, Any]:
    """Return the list of an environment as one about the package, with its weights among what it depends on."""
    (package,) = (component for component in listed["components"] if component["name"] == "damlpips")
    for reference in package.get("externalReferences", []):
        if reference["url"] == wheel.as_uri():
            reference["url"] = wheel.name
    files = weights()
    others = [component for component in listed["components"] if component is not package]
    names = [component["bom-ref"] for component in files]
    dependencies = [
        {**row, "dependsOn": [*row.get("dependsOn", []), *names]} if row["ref"] == package["bom-ref"] else row
        for row in listed["dependencies"]
    ]
    return {
        **listed,
        "metadata": {**listed["metadata"], "component": package},
        "components": [*others, *files],
        "dependencies": dependencies + [{"ref": name} for name in names],
    }


def main() -> int:
    # of the extra `release`
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    if not (wheels := sorted(DIST.glob("*.whl"))):
        print(f"no wheel in {DIST}: make release-check first", file=sys.stderr)
        return 2
    wheel = wheels[-1]
    out = DIST / f"{wheel.name.split('-py3')[0]}.sbom.json"
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        inside = str(Path(folder) / "bin" / "python")
        quiet = ("--quiet", "--disable-pip-version-check")
        subprocess.run([inside, "-m", "pip", "install", *quiet, str(wheel)], check=True)
        subprocess.run([inside, "-m", "pip", "uninstall", *quiet, "--yes", "pip"], check=True)
        # run as a module: the tool beside this Python, whatever is on PATH
        tool = [sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible", "--of", "JSON"]
        subprocess.run([*tool, "-o", str(out), inside], check=True)
    found = about_the_package(json.loads(out.read_text()), wheel)
    text = json.dumps(found, indent=1) + "\n"
    if error := JsonStrictValidator(SchemaVersion.from_version(found["specVersion"])).validate_str(text):
        print(f"{out.name} is not CycloneDX {found['specVersion']}: {error}", file=sys.stderr)
        return 1
    out.write_text(text)
    print(f"{out.relative_to(ROOT)}: {len(found['components'])} components")
    return 0


if __name__ == "__main__":
    sys.exit(main())
