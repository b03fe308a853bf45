"""`import damlpips` does no work and loads no ecosystem."""

import json
import re
from importlib import import_module
from pathlib import Path

import pytest

import damlpips
from tests.support.processes import python

ECOSYSTEMS = (
    *("torchmetrics", "piq", "pyiqa", "lpips", "lightning", "pytorch_lightning", "matplotlib", "PIL", "typer", "rich"),
    *("torchvision", "safetensors", "scipy", "pandas", "triton"),
)


def loaded_after(code: str) -> set[str]:
    """Return the modules that a new process has loaded after running `code`."""
    printed = python(f"{code}\nimport json, sys; print(json.dumps(sorted(sys.modules)))")
    return set(json.loads(printed.splitlines()[-1]))


def test_import_loads_no_ecosystem() -> None:
    loaded = loaded_after("import damlpips")
    own = {name for name in loaded if name.startswith("damlpips")}
    assert own == {"damlpips", "damlpips.import_hooks", "damlpips.version"}
    assert not loaded & {*ECOSYSTEMS, "torch"}


def test_the_command_line_loads_what_a_command_needs_only() -> None:
    assert not loaded_after("import damlpips.cli") & {"torch", "numpy", "email", "importlib.metadata"}


def test_looking_around_loads_nothing() -> None:
    loaded = loaded_after("import damlpips; dir(damlpips); damlpips.__version__; damlpips.__all__")
    assert not loaded & {*ECOSYSTEMS, "torch"}


def test_a_score_loads_no_ecosystem() -> None:
    code = "import torch; from damlpips import DAMLPIPS; DAMLPIPS()(torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16))"
    loaded = loaded_after(code)
    assert loaded >= {"torch", "safetensors"}  # the embedded backbone's weights are such a file
    assert not loaded & ({*ECOSYSTEMS} - {"safetensors"})


def test_public_names() -> None:
    for name in damlpips.__all__:
        assert getattr(damlpips, name) is not None
    assert set(damlpips.__all__) >= {
        *("LPIPS", "DAMLPIPS", "LPIPSMetric", "DAMLPIPSMetric", "Backbone", "Encoded", "WeightsError", "register"),
    }
    assert set(damlpips.__all__) <= set(dir(damlpips))


def test_submodules_are_attributes() -> None:
    assert damlpips.functional.lpips
    assert damlpips.nets.weights.load_heads


@pytest.mark.parametrize("name", damlpips._MOVED)
def test_a_module_that_moved_is_found_by_its_old_name(name: str) -> None:
    home = import_module(damlpips._MOVED[name])
    assert import_module(f"damlpips.{name}") is home
    assert getattr(damlpips, name) is home
    assert home.__name__ == damlpips._MOVED[name]


def test_an_old_name_imports_first_in_a_new_process() -> None:
    code = """
from damlpips.images import read_image
import damlpips.pairs, damlpips.scoring.images
assert damlpips.scoring.images.read_image is read_image
"""
    assert "matplotlib" not in loaded_after(code)


def test_the_changelog_names_every_module_that_moved() -> None:
    changelog = (Path(__file__).parents[1] / "CHANGELOG.md").read_text(encoding="utf-8")
    moved = {f"damlpips.{old}": new for old, new in damlpips._MOVED.items()}
    assert dict(re.findall(r"^  \| `(.+)` \| `(.+)` \|$", changelog, re.M)) == moved


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="'damlpips' has no attribute 'LPISP'"):
        _ = damlpips.LPISP
