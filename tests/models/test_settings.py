"""Options are declared once: what is made of them, and what becomes of options that are not declared."""

import json
import re
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest
import torch

from damlpips import DAMLPIPS, LPIPS, DAMLPIPSMetric, LPIPSMetric, functional
from damlpips.adapters.torchmetrics import metrics
from damlpips.models import settings
from damlpips.models.registry import SETTINGS
from tests.support.processes import python

ROOT = Path(__file__).resolve().parents[2]
# As version 0.1.0 gave them: states that it saved are recognised by them.
GOLDEN = json.loads((ROOT / "tests" / "golden" / "digests.json").read_text())
MODULES = {"LPIPS": lambda **o: LPIPS("nano", **{"heads": "uniform", **o}), "DAMLPIPS": DAMLPIPS}
METRICS = {"LPIPS": lambda **o: LPIPSMetric("nano", **{"heads": "uniform", **o}), "DAMLPIPS": DAMLPIPSMetric}

DEFAULTS = {f.name: f.default for kind in SETTINGS.values() for f in fields(kind)}
# Of each option a value that is not its default. An option without one fails `test_every_option_has_another_value`.
OTHER = {
    **{name: not default for name, default in DEFAULTS.items() if isinstance(default, bool)},
    **{name: default / 2 for name, default in DEFAULTS.items() if isinstance(default, float)},
    "value_range": (-1.0, 1.0),
    "check_values": False,
    "reduction": "sum",
    "grey": "repeat",
    "resize": 48,
    "dtype": torch.bfloat16,
    "reference_cache": 0,
    "tile": 64,
    "comparison": "mean",
    "fed_as": (-1.0, 1.0),
    "viewing_side": 64,
    "version": 1,
    "align": False,
}
EACH = [(kind, name) for kind, declared in SETTINGS.items() for name in declared.names()]
FILES = ("weights", "heads")  # of these tests/nets tries other values


def digest(metric: torch.nn.Module) -> str:
    return metric._prefix.split("_")[1]


@pytest.mark.parametrize("case", GOLDEN, ids=lambda c: f"{c['metric']} {c['options']}")
def test_digests_are_those_of_the_first_version(case) -> None:
    options = dict(case["options"])
    if "dtype" in options:
        options["dtype"] = getattr(torch, options["dtype"])
    metric = DAMLPIPSMetric(version=1, **options) if case["metric"] == "DAMLPIPSMetric" else LPIPSMetric(**options)
    assert digest(metric) == case["digest"]


def test_the_first_version_is_sampled_widely() -> None:
    assert len(GOLDEN) >= 60
    options = {name for case in GOLDEN for name in case["options"]} - {"backbone", "on_error"}
    assert options == {*OTHER, "heads"} & options
    assert len(options) == 17


@pytest.mark.parametrize(("kind", "name"), [each for each in EACH if each[1] not in FILES])
def test_every_option_has_another_value(kind: str, name: str) -> None:
    """An option that scores depend on changes the configuration and the digest, another does not; `repr` says it."""
    assert name in OTHER, f"no other value of {name!r} is tried: add one to OTHER"
    changed = {name: OTHER[name]}
    module, plain = MODULES[kind](**changed), MODULES[kind]()
    assert f"{name}={OTHER[name]!r}" in repr(module)
    (scored,) = (f.metadata["scored"] for f in fields(SETTINGS[kind]) if f.name == name)
    assert (module.configuration() != plain.configuration()) is scored
    if scored and name in settings.Settings.names():
        assert module.encoder.conditions() != plain.encoder.conditions()  # kept and shared feature maps depend on it
    # what a metric does with these two changes its states
    if name not in ("reduction", "check_values"):
        assert (digest(METRICS[kind](**changed)) != digest(METRICS[kind]())) is scored


# A program takes a minute to compile, videos and versions have shapes of their own, and what is aligned must have
# moved: they are tested elsewhere.
APART = (*FILES, "compile", "video", "version", "align")
# Scores depend on these for grey images only, and in the last bits.
HARDLY = ("grey", "deterministic")


@pytest.mark.parametrize(("kind", "name"), [each for each in EACH if each[1] not in APART])
def test_scores_change_with_the_options_declared_as_scored_and_no_others(kind: str, name: str) -> None:
    x, y = torch.rand(2, 2, 3, 96, 80, generator=torch.Generator().manual_seed(0))
    found, plain = (module.per_layer(x, y) for module in (MODULES[kind](**{name: OTHER[name]}), MODULES[kind]()))
    (scored,) = (f.metadata["scored"] for f in fields(SETTINGS[kind]) if f.name == name)
    assert torch.allclose(found, plain, rtol=1e-5) is (name in HARDLY or not scored)


@pytest.mark.parametrize("kind", SETTINGS)
def test_type_checkers_know_every_option(kind: str) -> None:
    keywords = set(getattr(settings, f"{kind}Options").__annotations__)
    assert keywords == set(SETTINGS[kind].names())
    of_metric = set(getattr(metrics, f"{kind}MetricOptions").__annotations__)
    assert of_metric == keywords | set(metrics.MetricOptions.__annotations__)


@pytest.mark.parametrize("name", sorted({name for _, name in EACH}))
def test_every_option_is_used(name: str) -> None:
    source = Path(settings.__file__).parent
    modules = [path.read_text(encoding="utf-8") for path in source.glob("*.py") if path.name != "settings.py"]
    assert any(re.search(rf"\.{name}\b", text) for text in modules), f"nothing in {source} reads {name}"


def test_the_declarations_load_no_torch() -> None:
    python("import sys, damlpips.models.registry; sys.exit('torch' in sys.modules)")


@pytest.mark.parametrize(("kind", "name"), EACH)
def test_every_option_is_documented(kind: str, name: str) -> None:
    assert re.search(rf"^ +{name}: \S", {"LPIPS": LPIPS, "DAMLPIPS": DAMLPIPS}[kind].__doc__, re.M)


def called(**options: object) -> torch.Tensor:
    return functional.damlpips(torch.ones(1, 3, 32, 32), torch.ones(1, 3, 32, 32), **options)


@pytest.mark.parametrize("make", [*MODULES.values(), *METRICS.values(), called])
def test_a_misspelled_option_is_named_with_the_nearest(make) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'determinstic': did you mean 'deterministic'"):
        make(determinstic=True)


@pytest.mark.parametrize("make", [*MODULES.values(), *METRICS.values()])
def test_an_option_far_from_all_is_told_what_there_is(make) -> None:
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'zzz': .* takes weights, .*reduction"):
        make(zzz=1)


def test_options_of_torchmetrics_are_taken() -> None:
    assert DAMLPIPSMetric(sync_on_compute=False).sync_on_compute is False
    with pytest.raises(ValueError, match="dist_sync_on_step"):
        DAMLPIPSMetric(dist_sync_on_step="yes")
    with pytest.raises(TypeError, match="did you mean 'sync_on_compute'"):
        DAMLPIPSMetric(sync_on_computes=False)


@pytest.mark.parametrize("name", ["resize", "value_range", "deterministic", "viewing_side", "settings"])
def test_options_are_fixed(name: str) -> None:
    """An option that changed later would change scores, and not the digest that they are saved under."""
    module = DAMLPIPS()
    before = module.configuration()
    with pytest.raises(AttributeError, match=f"{name}: options are fixed once a DAMLPIPS is made.*make another one"):
        setattr(module, name, 32)
    assert module.configuration() == before
    with pytest.raises(FrozenInstanceError):
        module.settings.resize = 32


SPELLED = """
from damlpips import DAMLPIPS, DAMLPIPSMetric, LPIPS, LPIPSMetric

DAMLPIPS("nano", deterministic=True, rho=0.5)
LPIPSMetric(heads="uniform", comparison="mean", dist_sync_on_step=True, on_error="skip")
"""
MISSPELLED = {
    "DAMLPIPS(determinstic=True)": 'Unexpected keyword argument "determinstic"',
    "LPIPS(rho=0.5)": 'Unexpected keyword argument "rho"',
    "DAMLPIPSMetric(reductions='sum')": 'Unexpected keyword argument "reductions"',
    "LPIPSMetric(heads=3)": 'incompatible type "int"',
}


def test_a_type_checker_finds_it_in_a_users_file(tmp_path: Path) -> None:
    """What is not this package's, torch above all, is taken as of any type: to read it takes a minute."""
    (tmp_path / "user.py").write_text(SPELLED + "\n".join(MISSPELLED))
    command = [sys.executable, "-m", "mypy", "--follow-imports=skip", "--ignore-missing-imports", "--no-error-summary"]
    done = subprocess.run(
        [*command, "--cache-dir", str(tmp_path), str(tmp_path / "user.py"), "src/damlpips"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    found = {}
    for line in done.stdout.splitlines():
        if re.search(r"user\.py:\d+: error", line):
            _, number, message = line.split(":", 2)
            found[int(number)] = message
    first = len(SPELLED.splitlines()) + 1
    assert found.keys() == set(range(first, first + len(MISSPELLED))), done.stdout
    assert all(message in found[number] for number, message in enumerate(MISSPELLED.values(), start=first))
