"""A line to cite: the same settings give the same text, and the text gives the same settings."""

import re
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import damlpips
from damlpips import DAMLPIPS, LPIPS, Backbone, DAMLPIPSMetric, LPIPSMetric, WeightsError, from_description
from damlpips.models.citation import EXAMPLE, Citation
from damlpips.models.registry import SETTINGS, Metric
from damlpips.nets.weights import backbone_card, weights_dir
from damlpips.version import __version__

NEEDED = {"LPIPS": {"backbone": "nano", "heads": "uniform"}, "DAMLPIPS": {"backbone": "nano"}}
RANGES = st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)).filter(lambda r: r[0] < r[1])
SIZES = st.integers(1, 10**6)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "value_range": RANGES,
    "reduction": st.sampled_from(["none", "mean", "sum"]),
    "grey": st.sampled_from([None, "repeat"]),
    "resize": st.none() | st.just("reference") | SIZES | st.tuples(SIZES, SIZES),
    "check_values": st.sampled_from([True, False, "warn"]),
    "dtype": st.sampled_from([None, torch.bfloat16, torch.float16, torch.float32, torch.float64]),
    "reference_cache": st.integers(0, 10**12),
    "tile": st.none() | st.integers(64, 10**6),
    "comparison": st.sampled_from(["spatial", "mean", "spatial+mean"]),
    "fed_as": st.none() | RANGES,
    "version": st.sampled_from([1, 2]),
    "align": st.sampled_from([None, False]),
    "rho": st.floats(0, 1),
    "gamma": st.floats(0, 1e3),
    "viewing_side": st.none() | st.integers(1, 10**6),
}


@st.composite
def options(draw: st.DrawFn, kind: str) -> dict[str, Any]:
    """Return options of a metric, some of all that are declared: a new one needs values above, unless it is a bool."""
    found = {}
    for f in fields(SETTINGS[kind]):
        if f.name not in ("weights", "heads") and draw(st.booleans()):
            found[f.name] = draw(st.booleans() if isinstance(f.default, bool) else VALUES[f.name])
    if found.get("compile"):
        found.pop("cuda_graphs", None)
    return found


@pytest.mark.parametrize("kind", SETTINGS)
@given(data=st.data())
def test_a_module_comes_back_from_its_line(kind: str, data: st.DataObject) -> None:
    given = data.draw(options(kind))
    module = getattr(damlpips, kind)(**NEEDED[kind], **given)
    text = module.describe()
    again = from_description(text)
    assert (type(again), again.settings, again.source) == (type(module), module.settings, module.source)
    assert again.describe() == text == getattr(damlpips, kind)(**NEEDED[kind], **given).describe()
    assert "\n" not in text
    assert text.isascii()


@pytest.mark.parametrize("kind", SETTINGS)
def test_every_option_is_said_where_it_is_changed(kind: str) -> None:
    from tests.models.test_settings import FILES, OTHER

    plain = getattr(damlpips, kind)(**NEEDED[kind]).describe()
    for name in set(SETTINGS[kind].names()) - {*FILES}:
        text = getattr(damlpips, kind)(**{**NEEDED[kind], name: OTHER[name]}).describe()
        assert text != plain, name
        assert name in ("value_range", "version") or f"; {name.replace('_', ' ')} " in text


def test_what_a_line_says() -> None:
    digest = backbone_card("nano:2")["sha256"][:8]
    assert DAMLPIPS().describe() == (
        f"DAMLPIPS v2 (nano, weights {digest}; [0, 1]; viewing side 256; damlpips {__version__})"
    )
    assert LPIPS("alex", value_range=(-1, 1), resize=(48, 64)).describe() == (
        f"LPIPS (alex, weights 7be5be79, heads v0.1; [-1, 1]; resize 48x64; damlpips {__version__})"
    )
    assert Citation.of(EXAMPLE).metric is Metric.DAMLPIPS


@pytest.mark.shared
def test_weights_have_one_digest_in_every_file(alex_weights: Path, tmp_path: Path, monkeypatch) -> None:
    elsewhere = tmp_path / "mine.safetensors"
    shutil.copy(alex_weights, elsewhere)
    by_path = LPIPS("alex", weights=elsewhere).describe()
    monkeypatch.setenv("DAMLPIPS_WEIGHTS_DIR", str(alex_weights.parent))
    assert by_path == LPIPS("alex").describe() == LPIPS("alex", weights=alex_weights).describe()
    assert from_description(by_path, weights=elsewhere).weights == str(elsewhere)


def test_other_weights_are_refused(random_nano_weights: Path) -> None:
    mine, plain = DAMLPIPS("nano", weights=random_nano_weights), DAMLPIPS("nano")
    assert mine.describe() != plain.describe()
    assert from_description(mine.describe(), weights=random_nano_weights).source == mine.source
    with pytest.raises(WeightsError, match=r"nano: its weights here have the SHA-256 \w{8}\.\.\., the line to cite"):
        from_description(mine.describe())
    with pytest.raises(WeightsError, match="nano: its weights here"):
        from_description(plain.describe(), weights=random_nano_weights)


def test_files_of_heads_go_by_their_digest(tmp_path: Path) -> None:
    file, other = tmp_path / "mine.safetensors", tmp_path / "other.safetensors"
    shutil.copy(weights_dir() / "lpips_v0.1_alex.safetensors", file)
    shutil.copy(weights_dir() / "lpips_v0.0_alex.safetensors", other)
    text = LPIPS("alex", heads=file).describe()
    assert "heads 255d6454;" in text
    assert from_description(text, heads=file).describe() == text
    with pytest.raises(WeightsError, match=r"heads: were a file with the SHA-256 255d6454\.\.\.: pass it as heads"):
        from_description(text)
    with pytest.raises(WeightsError, match=r"has the SHA-256 357113cf\.\.\., the line to cite says 255d6454"):
        from_description(text, heads=other)
    with pytest.raises(ValueError, match=r"says 'v0\.1', which needs no file"):
        from_description(LPIPS("alex").describe(), heads=file)
    with pytest.raises(ValueError, match="DAMLPIPS has none"):
        from_description(DAMLPIPS().describe(), heads=file)


def test_a_backbone_of_ones_own_is_handed_over() -> None:
    mine = Backbone(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)), ["0"], min_size=3, name="my net; (so to speak)\n")
    text = LPIPS(mine, heads="uniform").describe()
    assert text.startswith("LPIPS (my_net_so_to_speak_, weights ")
    assert from_description(text, backbone=mine).describe() == text
    with pytest.raises(ValueError, match="unknown backbone 'my_net_so_to_speak_'"):
        from_description(text)
    other = Backbone(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)), ["0"], min_size=3)
    with pytest.raises(WeightsError, match="custom: its weights here"):
        from_description(text, backbone=other)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a line that describe"),
        ("LPIPS", "expected a line that describe.*, got 'LPIPS'$"),
        (EXAMPLE[:-1], "expected a line that describe"),
        (EXAMPLE + "x", "expected a line that describe"),
        (EXAMPLE.replace("b04ce75a", "b04ce7"), "expected a line that describe"),
        (EXAMPLE.replace("DAMLPIPS", "SSIM"), "expected DAMLPIPS or LPIPS, got 'SSIM'"),
        (EXAMPLE.replace(" v2", ""), "heads in place of a version"),
        (EXAMPLE.replace("DAMLPIPS", "LPIPS"), "heads in place of a version"),
        (EXAMPLE.replace("v2", "v7"), "version: expected one of 1, 2, got '7'"),
        (EXAMPLE.replace("[0, 1]", "[0, x]"), "value range: .*'0,x'"),
        (EXAMPLE.replace("[0, 1]", "[1, 0]"), "value_range: expected finite low < high"),
        (EXAMPLE.replace("side 256", "side wide"), "viewing side: .*'wide'"),
        (EXAMPLE.replace("viewing side", "sight"), "no option 'sight', which is '256'"),
        (EXAMPLE.replace("; damlpips", "; rho 3; damlpips"), "rho: expected a share from 0 to 1"),
        (EXAMPLE.replace("nano", "nono"), "unknown backbone 'nono'"),
    ],
)
def test_what_is_no_line_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Citation.of(text).arguments()


def test_a_line_that_a_page_has_broken_is_read() -> None:
    text = DAMLPIPS(rho=0.5).describe()
    assert from_description("  " + text.replace(" ", "\n   ")).describe() == text
    assert from_description(f"{text}.").describe() == text  # as in the notes of a table


def test_another_version_is_remarked() -> None:
    text = DAMLPIPS().describe().replace(f"damlpips {__version__}", "damlpips 0.0.9")
    with pytest.warns(UserWarning, match=f"is of damlpips 0.0.9, this is {re.escape(__version__)}"):
        from_description(text)


def test_metrics_say_how_they_reduce_where_it_is_not_the_mean() -> None:
    module = DAMLPIPS(rho=0.5)
    assert DAMLPIPSMetric(rho=0.5).describe() == module.describe()
    metric = DAMLPIPSMetric(rho=0.5, reduction="sum", on_error="skip", check_values=False)
    text = metric.describe()
    assert "; reduction sum; check values false; rho 0.5; " in text
    assert "; on error skip; " in text
    again = DAMLPIPSMetric.from_description(text)
    assert (again.describe(), again._prefix) == (text, metric._prefix)
    assert from_description(text).reduction == "sum"
    assert DAMLPIPSMetric.from_description(text, reduction="none", sync_on_compute=False).reduction == "none"
    with pytest.raises(ValueError, match="expected a line of LPIPS, got one of DAMLPIPS"):
        LPIPSMetric.from_description(text)


def test_adapters_pass_it_on() -> None:
    from damlpips.adapters.piq import create_metric
    from damlpips.adapters.pyiqa_networks import DamlpipsNet

    assert create_metric("damlpips").describe() == DAMLPIPS(grey="repeat").describe() == DamlpipsNet().describe()
