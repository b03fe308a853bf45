"""What the commands that compute a distance share: the metric and its options, and errors in the words of options."""

import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from damlpips.cli.options import check_installed, in_place_of, option
from damlpips.cli.program import complain, fail
from damlpips.models.presets import PRESETS, preset
from damlpips.models.registry import Metric
from damlpips.models.settings import Settings
from damlpips.nets.table import BACKBONES, TIMM
from damlpips.scoring.reading import FileWarning, ReadingOptions

if TYPE_CHECKING:
    from damlpips.models.base import PerceptualDistance

COMMANDS = {name: command for metric in Metric for name, command in metric.settings.commands().items()}
DEVICES = ("auto", "cpu", "cuda")


def starting(names: Iterable[str]) -> Callable[[str], list[str]]:
    """Return what a shell asks for the names that go on with what was typed."""
    return lambda incomplete: [name for name in names if name.startswith(incomplete)]


_, *OTHERS, LAST = BACKBONES
MetricOption = Annotated[Metric, typer.Option(help="What to compute.")]
BackboneOption = Annotated[
    str | None,
    typer.Option(
        help=f"The network: nano (embedded), {', '.join(OTHERS)}, {LAST}, or {TIMM}NAME for a model of timm."
        " Default: nano for damlpips, alex for lpips.",
        autocompletion=starting(BACKBONES),
    ),
]
CitedOption = Annotated[
    str | None,
    typer.Option(
        "--as",
        metavar="LINE",
        help="In place of all of these: a line that describe() gave, 'DAMLPIPS v2 (nano, weights ...)'.",
    ),
]
PresetOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=f"In place of --metric, --backbone and --heads: the LPIPS of other code. {', '.join(PRESETS)}.",
        autocompletion=starting(PRESETS),
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        metavar="DEVICE", help="auto (CUDA if there is one), cpu, cuda or cuda:N.", autocompletion=starting(DEVICES)
    ),
]


@dataclass(frozen=True)
class Chosen:
    """The metric that a command was asked for, and the options that were given, as typer read them."""

    metric: Metric = Metric.DAMLPIPS
    backbone: str | None = None
    given: dict[str, Any] = field(default_factory=dict)
    cited: str | None = None
    preset: str | None = None

    def settings(self) -> Settings:
        """Return the options with the values that were given; the others have their defaults."""
        options = {}
        for name, value in self.given.items():
            if name not in self.metric.settings.names():
                (owner,) = (metric.value for metric in Metric if name in metric.settings.commands())
                fail(f"{spelled_option(name)} {value}: only --metric {owner} has {name}")
            try:
                options[name] = COMMANDS[name].value(value) if isinstance(value, str) else value
            except ValueError as error:
                fail(f"{spelled_option(name)} {value}: {error}")
        try:
            return self.metric.settings.make(options)
        except (ValueError, TypeError) as error:
            fail(in_options(str(error)))

    def build(self) -> "PerceptualDistance":
        """Return the module; the metric's own defaults stand in for what was not given."""
        if self.cited is not None:
            return self._as_cited(self.cited)
        if self.preset is not None:
            return self._of_preset(self.preset).build()
        options = self.settings().changed()
        if self.backbone is not None:
            _check_backbone(self.backbone)
            options["backbone"] = self.backbone
        try:
            return self.metric.kind(**options)
        except (ValueError, TypeError) as error:
            fail(in_options(str(error)))

    def _of_preset(self, name: str) -> "Chosen":
        """Return the metric and the options of a preset, beside those that were given."""
        if self.metric not in (DEFAULT.metric, Metric.LPIPS) or self.backbone is not None:
            fail(f"--preset {name}: is LPIPS on a network of its own: leave --metric and --backbone out")
        try:
            options = preset(name).options
        except ValueError as error:
            fail(f"--preset {name}: {error}")
        if twice := self.given.keys() & options.keys():
            fail(f"--preset {name}: says all that {spelled_option(min(twice))} says: leave one of them out")
        return Chosen(Metric.LPIPS, options.pop("backbone"), {**options, **self.given})

    def _as_cited(self, text: str) -> "PerceptualDistance":
        from damlpips.models.citation import Citation
        from damlpips.nets.weights import WeightsError

        other = [name for name in self.given if name not in FILES]
        if other := [*other, *(name for name in ("backbone", "preset") if getattr(self, name) is not None)]:
            fail(f"--as: says all that {spelled_option(other[0])} says: leave one of them out")
        try:
            cited = Citation.of(text)
            _check_backbone(cited.backbone)
            if self.metric not in (DEFAULT.metric, cited.metric):
                fail(f"--metric {self.metric.value}: --as says {cited.metric.name}")
            # a score a pair, of one frame at a time
            whole = {name: getattr(cited.metric.settings, name) for name in ("reduction", "video")}
            model = replace(cited, options={**cited.options, **whole}).build(**self.given)
        except (ValueError, TypeError) as error:
            fail(f"--as: {in_options(str(error))}")
        except WeightsError as error:
            fail(*f"--as: {in_options(str(error))}".split("\n"))
        if remark := cited.remark():
            complain(f"--as: {remark}")
        return model


DEFAULT = Chosen()
# Options that are given beside `--as`: where files are that it has only the digest of.
FILES = ("weights", "heads")


def _check_backbone(name: str) -> None:
    """Fail now if a network's package is missing."""
    if name.startswith(TIMM):
        check_installed(f"--backbone {name}", "timm", ["timm"])


def _annotation(name: str) -> Any:
    """Return what typer makes an option of."""
    command = COMMANDS[name]
    # a flag says the other value than the default
    default = {getattr(metric.settings, name, None) for metric in Metric} - {None}
    other = " " if default == {False} else spelled_option(f"no_{name}")
    flag = [f"{spelled_option(name)}/{other}"] if command.type is bool else []
    return Annotated[command.type | None, typer.Option(*flag, metavar=command.metavar, help=command.help)]


def spelled_option(name: str) -> str:
    """Return an option as it is typed."""
    return f"--{name.replace('_', '-')}"


def _chosen(given: dict[str, Any]) -> Chosen:
    own = {name: given.pop(name) for name in ("metric", "backbone", "cited", "preset")}
    return Chosen(given={name: value for name, value in given.items() if value is not None}, **own)


# `--backbone`, each option that the settings of a metric declare for commands, and `--preset` and `--as` in their place
OPTIONS = [
    option("backbone", None, BackboneOption),
    *(option(name, None, _annotation(name)) for name in COMMANDS),
    option("preset", None, PresetOption),
    option("cited", None, CitedOption),
]
# Lets a command have `--metric` and these, in the place of its parameter `chosen`.
takes_metric = in_place_of("chosen", [option("metric", Metric.DAMLPIPS, MetricOption), *OPTIONS], _chosen)


# remarks on files that are printed; the others are counted
MOST_REMARKS = 10


@contextmanager
def remarks() -> Iterator[None]:
    """Print remarks on files as lines of the program, in the words of options: the first few."""
    said = 0

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: Any = None,
        line: str | None = None,
    ) -> None:
        nonlocal said
        if not issubclass(category, FileWarning):
            shown(message, category, filename, lineno, file, line)
            return
        said += 1
        if said <= MOST_REMARKS:
            complain(in_options(str(message)))

    with warnings.catch_warnings():
        warnings.simplefilter("always", FileWarning)
        shown, warnings.showwarning = warnings.showwarning, show
        try:
            yield
        finally:
            if said > MOST_REMARKS:
                complain(f"{said - MOST_REMARKS} more remarks like these")


@contextmanager
def bad_input() -> Iterator[None]:
    """Turn what the package raises for a user's input into one message and status 2, and its remarks into lines."""
    import torch

    from damlpips.nets.weights import WeightsError
    from damlpips.scoring.images import ScoringError

    try:
        with remarks():
            yield
    except ScoringError as error:
        fail(in_options(str(error)))
    except WeightsError as error:
        fail(*in_options(str(error)).split("\n"))
    except torch.cuda.OutOfMemoryError as error:
        fail(f"out of memory: {error}")


KNOWN = (*COMMANDS, *ReadingOptions.__annotations__)
NAMES = "|".join(KNOWN)


def in_options(message: str, names: Iterable[str] = KNOWN) -> str:
    """Return a message of the core, which speaks of Python's arguments, in the words of the command line.

    Args:
        names: the arguments that are options where a message begins with one.

    Example:
        >>> in_options("use resize='reference'"), in_options("tile: expected None or at least 44 pixels")
        ('use --resize reference', '--tile: expected None or at least 44 pixels')
    """
    message = re.sub(rf"\buse ({NAMES})=None\b", lambda m: f"leave out {spelled_option(m[1])}", message)
    used = rf"\buse ({NAMES})=(?:'(\w+)'|(N))"
    message = re.sub(used, lambda m: f"use {spelled_option(m[1])} {m[2] or m[3]}", message)
    message = re.sub(rf"\b({NAMES})=(?=')", lambda m: f"{spelled_option(m[1])} ", message)
    message = re.sub(rf"^({'|'.join(names)}): ", lambda m: f"{spelled_option(m[1])}: ", message)
    embedded = "Or use the embedded backbone, which needs no other file: DAMLPIPS('nano')."
    return message.replace(embedded, "Or use --metric damlpips.")
