"""What a release is made with agrees with the package, and its checks can fail."""

import io
import re
import runpy
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from damlpips.version import __version__

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def script(name: str) -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(ROOT / "release" / f"{name}.py")))


@pytest.fixture(scope="module")
def check() -> SimpleNamespace:
    return script("check")


def test_workflows_call_targets_of_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    called = {name for path in WORKFLOWS for name in re.findall(r"run: make ([a-z-]+)", path.read_text())}
    assert {"test", "docs", "matrix", "release-check", "sbom", "fuzz"} <= called <= targets


def test_the_citation_and_the_recipe_name_this_version(check: SimpleNamespace) -> None:
    assert check.cited() == __version__
    assert f'version: "{__version__}"' in (ROOT / "release/conda/recipe.yaml").read_text()


def test_the_recipe_needs_what_the_package_needs() -> None:
    recipe = (ROOT / "release/conda/recipe.yaml").read_text()
    needed = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["cli"]]
    for requirement in needed:
        name, bound = re.match(r"([\w-]+)>=([\d.]+)", requirement).groups()
        assert f"    - {'pytorch' if name == 'torch' else name} >={bound}\n" in recipe


def test_the_oldest_environment_has_the_extras_and_builds_no_compiled_package() -> None:
    matrix = script("matrix")
    named = [*PROJECT["dependencies"], *(r for name in matrix.EXTRAS for r in PROJECT["optional-dependencies"][name])]
    assert set(matrix.COMPILED) <= {re.match(r"[\w-]+", requirement)[0] for requirement in named}


def test_the_pythons_of_the_matrix_are_those_that_the_package_is_for() -> None:
    pythons = [name.removeprefix("python") for name in script("matrix").PYTHONS]
    named = [re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", name) for name in PROJECT["classifiers"]]
    assert [match[1] for match in named if match] == pythons
    assert PROJECT["requires-python"] == f">={pythons[0]}"


def test_the_tests_of_the_matrix_exist() -> None:
    assert [name for name in script("matrix").TESTS if not (ROOT / name).exists()] == []


def test_the_list_of_what_is_in_the_wheel_has_its_weights() -> None:
    listed = {component["name"] for component in script("sbom").weights()}
    assert listed == {path.name for path in (ROOT / "weights").glob("*.safetensors")}


def test_the_list_of_what_is_in_the_wheel_is_about_the_package_and_names_no_folder(tmp_path: Path) -> None:
    wheel = tmp_path / "damlpips-1.0-py3-none-any.whl"
    package = {"bom-ref": "damlpips==1.0", "name": "damlpips", "externalReferences": [{"url": wheel.as_uri()}]}
    torch = {"bom-ref": "torch==2.4", "name": "torch"}
    rows = [{"ref": "damlpips==1.0", "dependsOn": ["torch==2.4"]}, {"ref": "torch==2.4"}]
    listed = {"metadata": {}, "components": [package, torch], "dependencies": rows}
    about = script("sbom").about_the_package(listed, wheel)
    assert str(tmp_path) not in str(about)
    assert about["metadata"]["component"]["name"] == "damlpips"
    refs = [component["bom-ref"] for component in about["components"]]
    weights = sorted(path.name for path in (ROOT / "weights").glob("*.safetensors"))
    assert sorted(refs) == sorted(["torch==2.4", *weights])
    assert sorted(about["dependencies"][0]["dependsOn"]) == sorted(refs)
    assert {row["ref"] for row in about["dependencies"]} == {"damlpips==1.0", *refs}


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="an sdist has no list of tracked files")
@pytest.mark.parametrize(
    ("in_wheel", "in_sdist", "message"),
    [
        ("damlpips/version.py", "pyproject.toml", None),
        ("tests/conftest.py", "pyproject.toml", "damlpips.whl holds tests, too"),
        ("damlpips/version.py", "notes.txt", "damlpips.tar.gz holds files that are not in the repository: notes.txt"),
    ],
)
def test_foreign_files_are_found(
    in_wheel: str, in_sdist: str, message: str | None, check: SimpleNamespace, tmp_path: Path
) -> None:
    wheel, sdist = tmp_path / "damlpips.whl", tmp_path / "damlpips.tar.gz"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(in_wheel, "")
    with tarfile.open(sdist, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo(f"damlpips-{__version__}/{in_sdist}"), io.BytesIO())
    if message is None:
        assert check.contents(wheel, sdist).startswith("wheel ")
    else:
        with pytest.raises(check.Failed, match=message):
            check.contents(wheel, sdist)


def test_the_extra_all_needs_no_package_whose_licence_forbids_commercial_use(check: SimpleNamespace) -> None:
    assert check.licences() == PROJECT["license"]
