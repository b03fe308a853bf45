"""Options declared for the command line: each is there, reaches the module and the rows, and is rebuilt from them."""

from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from damlpips import models
from damlpips.cli import app
from damlpips.cli.model import DEFAULT, Chosen, takes_metric
from damlpips.models.registry import Metric
from damlpips.models.settings import Command
from damlpips.report.page.reading import RunSettings
from damlpips.report.page.rebuilding import rebuild
from tests.support.commands import refused
from tests.support.pictures import image_file

DECLARED = [(metric, name) for metric in Metric for name in metric.settings.commands()]
# a text that is not the default's; an option of type str that is new here needs one
TEXTS = {"resize": "32", "heads": "uniform", "version": "1"}
NUMBERS = {int: "64", float: "0.125"}
# what the embedded backbone needs
NEEDED = {Metric.DAMLPIPS: {}, Metric.LPIPS: {"heads": "uniform"}}


def texts(metric: Metric, name: str) -> dict[str, str]:
    """Return the options to give, by name; the text of a flag is that of the value that its default is not."""
    command = metric.settings.commands()[name]
    flag = command.text(not getattr(metric.settings, name)) if command.type is bool else None
    return {**NEEDED[metric], name: flag or NUMBERS.get(command.type) or TEXTS[name]}


def arguments(metric: Metric, given: dict[str, str]) -> list[str]:
    found = ["--metric", metric.value, "--backbone", "nano"]
    for name, text in given.items():
        option = f"--{name}".replace("_", "-")
        found += {"true": [option], "false": [option.replace("--", "--no-")]}.get(text, [option, text])
    return found


def chosen(*words: str) -> Chosen:
    """Return what a command is given for some words."""
    found: list[Chosen] = []
    program = typer.Typer()

    @program.command()
    @takes_metric
    def command(chosen: Chosen = DEFAULT) -> None:
        found.append(chosen)

    result = CliRunner().invoke(program, list(words))
    assert result.exit_code == 0, result.output
    return found[0]


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Return a list that gets the options of each module that is built from here on."""
    found: list[dict[str, Any]] = []
    for metric in Metric:

        def build(backbone: str, kind: Any = metric.kind, **options: Any) -> Any:
            found.append(options)
            return kind(backbone, **options)

        monkeypatch.setattr(models, metric.name, build, raising=False)
    return found


@pytest.mark.parametrize("command", ["score", "map"])
def test_every_declared_option_is_in_both_commands(command: str) -> None:
    parameters = {p.name: p for p in typer.main.get_command(app).commands[command].params}  # type: ignore[attr-defined]
    for metric, name in DECLARED:
        declared = metric.settings.commands()[name]
        assert parameters[name].help == declared.help
        assert parameters[name].opts == [f"--{name}".replace("_", "-")]


@pytest.mark.parametrize("command", [["score"], ["map", "--out", "map.png"]], ids=["score", "map"])
@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("'ssimm' is not one of 'damlpips', 'lpips'|unknown metric 'ssimm': did you mean ", ["--metric", "ssimm"]),
        ("unknown backbone 'alexa': expected one of 'nano', 'alex'", ["--backbone", "alexa"]),
        ("--heads uniform: only --metric lpips has heads", ["--heads", "uniform"]),
        ("unknown heads 'v9': expected one of 'v0.1'", ["--metric", "lpips", "--heads", "v9"]),
        (
            "unknown backbone for --heads 'v0.1' 'nano': expected one of 'alex'",
            ["--metric", "lpips", "--backbone", "nano"],
        ),
        ("--weights '/gone.pth': no such file", ["--backbone", "alex", "--weights", "/gone.pth"]),
        ("--weights '/gone.pth': no such file", ["--weights", "/gone.pth"]),
        ("--resize 0: expected 'reference' or", ["--resize", "0"]),
        ("--resize big: expected 'reference' or", ["--resize", "big"]),
        ("--tile: expected None or at least 44 pixels", ["--tile", "43"]),
        ("--device tpu: expected auto, cpu, cuda or cuda:N", ["--device", "tpu"]),
        ("--device cuda:x: expected auto, cpu, cuda or cuda:N", ["--device", "cuda:x"]),
    ],
)
def test_bad_values_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], message: str, options: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    image = image_file(tmp_path / "a.png")
    refused(message, *command, image, image, *options)
    assert not Path("map.png").exists()


@pytest.mark.parametrize(("metric", "name"), [d for d in DECLARED if d[1] != "weights"])
def test_what_is_given_reaches_the_module_and_the_rows_and_is_rebuilt(
    metric: Metric, name: str, built: list[dict[str, Any]]
) -> None:
    given = texts(metric, name)
    what = chosen(*arguments(metric, given))
    settings = what.settings()
    assert settings.changed().keys() == given.keys()
    weights = what.build().source.identity()
    assert built == [settings.changed()]

    command = metric.settings.commands()[name]
    row = settings.in_rows(alpha="error")
    assert f"{name}={command.text(getattr(settings, name))}" in row.split(" ")
    rebuilt = rebuild(RunSettings(metric.value, "nano", weights, row))
    assert rebuilt.model is not None, rebuilt.reason
    assert metric.settings.make(built[1]) == settings


def test_weights_reach_the_module(built: list[dict[str, Any]], random_nano_weights: Path) -> None:
    chosen("--weights", str(random_nano_weights), "--backbone", "nano").build()
    assert [Path(options["weights"]) for options in built] == [random_nano_weights]


@pytest.mark.parametrize("metric", Metric)
def test_rows_of_defaults_are_as_in_the_first_version(metric: Metric) -> None:
    """An option that came later is not in them: old files can be continued."""
    expected = {
        Metric.LPIPS: "alpha=error heads=v0.1 resize=none tile=none",
        Metric.DAMLPIPS: "alpha=error resize=none tile=none version=1",
    }
    assert (
        metric.settings(**({"version": 1} if metric is Metric.DAMLPIPS else {})).in_rows(alpha="error")
        == expected[metric]
    )


@pytest.mark.parametrize(
    ("command", "values"),
    [
        (Command("", type=bool), {"true": True, "false": False, "none": None}),
        (Command("", type=int), {"7": 7}),
        (Command("", read=lambda text: text.split("+"), write="+".join), {"a+b": ["a", "b"]}),
    ],
)
def test_texts_and_values(command: Command, values: dict[str, Any]) -> None:
    for text, value in values.items():
        assert command.value(text) == value
        assert command.text(value) == text


def test_what_is_no_text_of_a_value() -> None:
    for command, text, message in (
        (Command("", type=bool), "yes", "expected true or false"),
        (Metric.LPIPS.settings.commands()["resize"], "big", "expected 'reference' or the length"),
        (Metric.LPIPS.settings.commands()["tile"], "-3", "expected a number of pixels"),
    ):
        with pytest.raises(ValueError, match=message):
            command.value(text)
