"""A line to cite: what a score was computed with, as one line of text, and back.

`describe` writes it, from the declared options, so that a new option is in it by itself; `Citation.of` reads it. The
same settings give the same text, on every machine and whatever file the weights are in.
"""

import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from damlpips.files import shown
from damlpips.models.registry import Metric
from damlpips.models.settings import Settings, Spelling
from damlpips.nets.backbone import Backbone
from damlpips.nets.shared import Source
from damlpips.nets.weights import WeightsError, head_names, sha256
from damlpips.version import __version__

EXAMPLE = "DAMLPIPS v2 (nano, weights b04ce75a; [0, 1]; viewing side 256; damlpips 0.2.0)"

# In a place of their own.
_APART = ("weights", "heads", "version", "value_range")
# Said even where they have their default: a reader cannot guess them.
_ALWAYS = ("viewing_side",)
# Of a metric that accumulates scores; they say nothing of a single one.
_OF_METRICS = ("on_error",)
_DIGITS = 8
_WORD = r"[^\s,;()\[\]]+"
_LINE = re.compile(
    rf"(?P<metric>[A-Z]+)(?: v(?P<version>\d+))? "
    rf"\((?P<backbone>{_WORD}), weights (?P<weights>[0-9a-f]{{{_DIGITS}}})(?:, heads (?P<heads>{_WORD}))?"
    rf"; \[(?P<low>{_WORD}), (?P<high>{_WORD})\]"
    r"(?P<options>(?:; [^;()\[\]]+)*)"
    rf"; damlpips (?P<package>{_WORD})\)"
)


def describe(settings: Settings, source: Source, defaults: Mapping[str, Any] | None = None, **others: str) -> str:
    """Return the line to cite.

    Args:
        settings: the options of a distance.
        source: of its backbone.
        defaults: of options that are not said where they have them, in place of the declared ones.
        others: further options, as text.
    """
    said = {**{name: getattr(type(settings), name) for name in settings.names()}, **(defaults or {})}
    spellings = settings.spellings()
    heads = getattr(settings, "heads", None)
    parts = [
        f"{_plain(source.name)}, weights {source.weights_digest()}" + (f", heads {_heads(heads)}" if heads else ""),
        f"[{spellings['value_range'].text(settings.value_range).replace(',', ', ')}]",
        *(
            f"{name.replace('_', ' ')} {spellings[name].text(value)}"
            for name in settings.names()
            if name not in _APART and ((value := getattr(settings, name)) != said[name] or name in _ALWAYS)
        ),
        *(f"{name.replace('_', ' ')} {text}" for name, text in others.items()),
        f"damlpips {__version__}",
    ]
    version = getattr(settings, "version", None)
    return f"{settings.metric}{'' if version is None else f' v{version}'} ({'; '.join(parts)})"


def _plain(name: str) -> str:
    """Return the name of a user's own backbone, which may be any text, as one word; its digest tells it apart."""
    return re.sub(r"[\s,;()\[\]]+|[^ -~]+", "_", name) or "custom"


def _heads(heads: str) -> str:
    """Return the name of heads; of a file the first digits of its SHA-256."""
    return heads if heads in (*head_names(), "uniform") else sha256(Path(heads).expanduser())[:_DIGITS]


@dataclass(frozen=True)
class Citation:
    """What a line to cite says.

    Attributes:
        metric: the distance.
        backbone: its name.
        weights: the first digits of their SHA-256.
        heads: of LPIPS, their name or the first digits of their SHA-256; else empty.
        options: the other options, by name.
        others: those of a metric that accumulates scores.
        package: the version that wrote it.
    """

    metric: Metric
    backbone: str
    weights: str
    heads: str
    options: dict[str, Any]
    others: dict[str, str]
    package: str

    @classmethod
    def of(cls, text: str) -> "Citation":
        """Read a line that `describe()` gave, though a page may have broken it, or a full stop may end it.

        Raises:
            ValueError: it is none, or has options that this version does not know; says what was expected.
        """
        found = _LINE.fullmatch(" ".join(text.split()).removesuffix("."))
        if found is None:
            raise ValueError(f"expected a line that describe() gives, such as {EXAMPLE!r}, got {shown(text)}")
        if found["metric"] not in Metric.__members__:
            known = " or ".join(Metric.__members__)
            raise ValueError(f"expected {known}, got {found['metric']!r} in {shown(text)}")
        metric = Metric[found["metric"]]
        spellings = metric.settings.spellings()
        if (found["version"] is None) == ("version" in spellings) or (found["heads"] is None) == ("heads" in spellings):
            raise ValueError(f"expected a line such as {EXAMPLE!r}; LPIPS has heads in place of a version: {text!r}")
        given = {"value_range": f"{found['low']},{found['high']}", **dict(_options(found["options"]))}
        if found["version"] is not None:
            given["version"] = found["version"]
        others = {name: given.pop(name) for name in _OF_METRICS if name in given}
        options = {name: _value(spellings, name, value) for name, value in given.items()}
        return cls(metric, found["backbone"], found["weights"], found["heads"] or "", options, others, found["package"])

    def arguments(self, *, weights: Any = None, heads: Any = None, backbone: Backbone | None = None) -> dict[str, Any]:
        """Return the arguments of the distance, `backbone` and options.

        Args:
            weights: the file of the weights; None looks where a module looks.
            heads: the file of the heads, where they were one.
            backbone: where it was a user's own.

        Raises:
            WeightsError: weights or heads that are not those of the line.
            ValueError: options that do not go together.
        """
        named: dict[str, Any] = {"weights": weights, **self.options}
        if self.heads:
            named["heads"] = self._heads(heads)
        elif heads is not None:
            raise ValueError(f"heads: {self.metric.name} has none")
        self.metric.settings.make(named)
        source = Source.of(backbone or self.backbone, weights, self.options.get("version"))
        if (digest := source.weights_digest()) != self.weights:
            raise WeightsError(
                f"{source.name}: its weights here have the SHA-256 {digest}..., the line to cite says"
                f" {self.weights}...: pass the file that it was computed with as weights"
            )
        return {"backbone": backbone or self.backbone, **named}

    def _heads(self, file: Any) -> str:
        if self.heads in (*head_names(), "uniform"):
            if file is not None:
                raise ValueError(f"heads: the line to cite says {self.heads!r}, which needs no file")
            return self.heads
        if file is None:
            raise WeightsError(f"heads: were a file with the SHA-256 {self.heads}...: pass it as heads")
        if (digest := _heads(str(file))) != self.heads:
            raise WeightsError(
                f"heads={str(file)!r}: has the SHA-256 {digest}..., the line to cite says {self.heads}..."
            )
        return str(file)

    def remark(self) -> str:
        """Return a remark if another version of the package wrote the line; else an empty text."""
        if self.package == __version__:
            return ""
        return (
            f"the line to cite is of damlpips {self.package}, this is {__version__}: whether scores have changed is in"
            " CHANGELOG.md"
        )

    def build(self, **files: Any) -> Any:
        """Return the module; `files` are those of `arguments`.

        Raises:
            WeightsError, ValueError: as `arguments`.
        """
        return self.metric.kind(**self.arguments(**files))


def _options(text: str) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each option; the text is the last word."""
    for part in filter(None, text.split("; ")):
        *words, value = part.split(" ")
        yield "_".join(words), value


def _value(spellings: Mapping[str, Spelling], name: str, text: str) -> Any:
    if name not in spellings:
        raise ValueError(f"this version of damlpips has no option {name.replace('_', ' ')!r}, which is {text!r}")
    try:
        return spellings[name].value(text)
    except ValueError as error:
        raise ValueError(f"{name.replace('_', ' ')}: {error}, got {text!r}") from None


def from_description(text: str, *, weights: Any = None, heads: Any = None, backbone: Backbone | None = None) -> Any:
    """Return the module that a line to cite describes: what `describe()` gave, of a module or a metric.

    Args:
        text: the line.
        weights: the file of the weights; None looks where a module looks.
        heads: the file of the heads, where they were one.
        backbone: where it was a user's own `Backbone`.

    Raises:
        ValueError: not such a line, or options that this version does not know.
        WeightsError: weights or heads that are not those of the line.

    Warns:
        UserWarning: another version of the package wrote it.

    Example:
        >>> from damlpips import DAMLPIPS, from_description
        >>> text = DAMLPIPS(rho=0.5).describe()
        >>> from_description(text).describe() == text
        True
    """
    cited = Citation.of(text)
    if remark := cited.remark():
        warnings.warn(remark, UserWarning, stacklevel=2)
    return cited.build(weights=weights, heads=heads, backbone=backbone)
