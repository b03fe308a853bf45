"""What a distance can be told: every option is declared here, once, and everything else is read from the declaration.

A field says what an option is checked by, whether a score depends on it, what it means, and, where the command line has
it, how it is spelled there. Constructors take options as keywords, `Unpack[LPIPSOptions]`, so that editors and type
checkers know them. The digest of a metric, `repr`, the documentation, the command line and what a row of scores says of
its metric are made from the fields.

Importing this module loads no torch, so that the command line can list its options at once.
"""

from __future__ import annotations

import difflib
import math
import os
import pathlib
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypedDict, TypeVar

if TYPE_CHECKING:
    import torch

    from damlpips import checks

# Bytes: some 600 images of 256 x 256 with `nano`, 300 with AlexNet, 30 with VGG; small beside what training takes.
CACHE_BYTES = 1 << 30
# Pixels: the shorter side at which DAMLPIPS looks at larger images. Agreement with observers is highest near it.
VIEWING_SIDE = 256
# The versions of DAMLPIPS.
DAMLPIPS_VERSIONS = (1, 2)

Path = str | os.PathLike[str]


class Options(TypedDict, total=False):
    """The keywords that both distances take; `Settings` says what they mean."""

    weights: Path | None
    value_range: tuple[float, float]
    reduction: str
    grey: checks.Grey
    resize: checks.Resize
    check_values: bool | Literal["warn"]
    deterministic: bool
    dtype: torch.dtype | None
    reference_cache: int
    tile: int | None
    compile: bool
    cuda_graphs: bool
    video: bool


class LPIPSOptions(Options, total=False):
    """The keywords of LPIPS."""

    heads: Path
    comparison: str
    channel_norm: bool
    fed_as: tuple[float, float] | None


class DAMLPIPSOptions(Options, total=False):
    """The keywords of DAMLPIPS."""

    version: int
    align: bool | None
    rho: float
    gamma: float
    viewing_side: int | None


@dataclass(frozen=True, kw_only=True)
class Spelling:
    """How a value is written as text, without spaces: in rows of scores and in a line to cite.

    Attributes:
        type: `str`, `int`, `float`, `bool` or `pathlib.Path`.
        read: makes a value of its text; raises a ValueError that says what was expected. None: the type does.
        write: makes a value's text. None: `str` does.
        rows: when rows of scores say the option: `"always"`, as they do of the first ones; `"changed"`, where it does
            not have its default, so that files of rows from before it came can be continued; or `"never"`, where a
            column of its own does.
    """

    type: type = str
    read: Callable[[str], Any] | None = None
    write: Callable[[Any], str] | None = None
    rows: str = "changed"

    def value(self, text: str) -> Any:
        """Return the value that a text spells.

        Raises:
            ValueError: it spells none; says what was expected.
        """
        if text == "none":
            return None
        if self.type is bool:
            if text not in ("true", "false"):
                raise ValueError("expected true or false")
            return text == "true"
        return self.type(text) if self.read is None else self.read(text)

    def text(self, value: Any) -> str:
        """Return the text of a value."""
        if value is None:
            return "none"
        if self.type is bool:
            return str(value).lower()
        return str(value) if self.write is None else self.write(value)


@dataclass(frozen=True)
class Command(Spelling):
    """How the command line spells an option: `--name VALUE`, or `--name` alone for a bool.

    Attributes:
        help: what `--help` says of it.
        metavar: what stands for its value there.
    """

    help: str
    metavar: str | None = None


def option(
    default: Any,
    check: Callable[[Any], Any],
    *,
    doc: str,
    scored: bool = False,
    unsaid: bool = False,
    command: Command | None = None,
    spelling: Spelling | None = None,
) -> Any:
    """Declare an option.

    Args:
        default: its value where none is given.
        check: returns the value as it is kept, or raises.
        doc: what it means, as the documentation says it.
        scored: whether a score depends on it: it is then part of a metric's digest.
        unsaid: whether the digest leaves it out where it has its default: options that came with later versions, so
            that states saved before still load.
        command: of options that the command line has, how it spells them.
        spelling: of others, how their values are written; None: by the type of the default.
    """
    plain = Spelling(type=type(default) if isinstance(default, (bool, int, float)) else str)
    return field(
        default=default,
        metadata={
            "check": check,
            "doc": doc,
            "scored": scored,
            "unsaid": unsaid,
            "command": command,
            "spelling": command or spelling or plain,
        },
    )


def _by(check: str, *before: Any, **options: Any) -> Callable[[Any], Any]:
    """Return a function of `damlpips.checks` by its name: that module loads torch, this one does not."""

    def run(value: Any) -> Any:
        from damlpips import checks

        return getattr(checks, check)(*before, value, **options)

    return run


def _optional(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else check(value)


def _one_of(name: str, known: Callable[[], Iterable[str]]) -> Callable[[Any], str]:
    def run(value: Any) -> str:
        from damlpips import checks

        return checks.one_of(name, value, known())

    return run


def _pixels_of(text: str) -> int:
    if not (text.isdecimal() and len(text) < 10 and int(text) > 0):
        raise ValueError("expected a number of pixels")
    return int(text)


def _resize_of(text: str) -> str | int | tuple[int, int]:
    if text == "reference":
        return text
    try:
        height, by, width = text.partition("x")
        return (_pixels_of(height), _pixels_of(width)) if by else _pixels_of(height)
    except ValueError:
        raise ValueError("expected 'reference' or the length of the shorter side in pixels, or HEIGHTxWIDTH") from None


def _resize_text(resize: str | int | tuple[int, int]) -> str:
    return "x".join(map(str, resize)) if isinstance(resize, tuple) else str(resize)


def _range_of(text: str) -> tuple[float, ...]:
    return tuple(map(float, text.split(",")))


def _range_text(bounds: tuple[float, float]) -> str:
    return ",".join(map(_number_text, bounds))


def _number_text(value: float) -> str:
    """Return the shortest text that is read as this number."""
    return short if float(short := f"{value:g}") == value else repr(value)


def _dtype_of(text: str) -> Any:
    import torch

    return getattr(torch, text, text)


def _dtype_text(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _flag_or(text: str) -> bool | str:
    return {"true": True, "false": False}.get(text, text)


def _heads(value: Any) -> str:
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"heads: expected a version, 'uniform' or a path, got {type(value).__name__}")
    return os.fspath(value)


def _heads_text(heads: str) -> str:
    """Return the name of heads; of a file its SHA-256."""
    from damlpips.nets.weights import head_names, sha256

    return heads if heads in (*head_names(), "uniform") else sha256(pathlib.Path(heads))


def _check_values(value: Any) -> bool | Literal["warn"]:
    if not isinstance(value, bool) and value != "warn":
        raise ValueError(f"check_values: expected True, False or 'warn', got {value!r}")
    return value


def _version(value: Any) -> int:
    if isinstance(value, bool) or value not in DAMLPIPS_VERSIONS:
        raise ValueError(f"version: expected one of {', '.join(map(str, DAMLPIPS_VERSIONS))}, got {value!r}")
    return int(value)


def _version_of(text: str) -> int:
    try:
        return _version(int(text))
    except ValueError:
        raise ValueError(f"expected one of {', '.join(map(str, DAMLPIPS_VERSIONS))}") from None


def _align(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"align: expected True, False, or None for what the version does, got {value!r}")
    return value


def _rho(value: Any) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"rho: expected a share from 0 to 1, got {value!r}")
    return float(value)


def _gamma(value: Any) -> float:
    if not 0 <= value < math.inf:
        raise ValueError(f"gamma: expected a finite exponent of at least 0, got {value!r}")
    return float(value)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options of both distances, checked.

    Frozen: what was made of them, such as the digest of a metric, stays true.

    Raises:
        ValueError, TypeError: a value that an option cannot have.
    """

    metric: ClassVar[str]

    weights: str | None = option(
        None,
        _optional(os.fspath),
        doc="path of the backbone's `.pth` or `.safetensors` file, checked key by key; None looks in the folder"
        " `DAMLPIPS_WEIGHTS_DIR`, in torch hub's cache, and downloads torchvision's file when the first score is asked"
        " for.",
        command=Command(
            "The network's weights, .pth or .safetensors. Default: found or downloaded.",
            "FILE",
            type=pathlib.Path,
            rows="never",
        ),
    )
    value_range: tuple[float, float] = option(
        (0.0, 1.0),
        _by("value_range"),
        scored=True,
        doc="(low, high) of float images; uint8 images are 0..255 whatever it says.",
        spelling=Spelling(read=_range_of, write=_range_text),
    )
    reduction: str = option(
        "none",
        _one_of("reduction", lambda: import_module("damlpips.checks").REDUCTIONS),
        doc='`"none"` (N,), `"mean"` or `"sum"` ().',
    )
    grey: checks.Grey = option(
        None,
        _optional(_one_of("grey", lambda: ["repeat"])),
        scored=True,
        doc='`"repeat"` accepts (N, 1, H, W) and repeats the channel.',
    )
    resize: checks.Resize = option(
        None,
        _by("resize_option"),
        scored=True,
        doc='`"reference"` brings the first image to the second\'s size; an int scales both to that shorter side;'
        " (H, W) to that size.",
        command=Command(
            "'reference' brings DIST to REF's size; a number scales both to that shorter side. Default: off,"
            " images of different sizes are an error.",
            "SIZE",
            read=_resize_of,
            write=_resize_text,
            rows="always",
        ),
    )
    check_values: bool | Literal["warn"] = option(
        "warn",
        _check_values,
        doc='what to do about NaN and values outside `value_range`: `"warn"` warns once and scores the image as it is,'
        " with and without gradients, so that a loss takes whatever a network makes; True raises; False is silent."
        " Images on an accelerator are not looked at here, which would wait for it (see `LPIPSMetric`). A thousandth of"
        " the range is tolerated. What leaves it by two steps of the images' type at most is rounding, and is clamped.",
        spelling=Spelling(read=_flag_or, write=lambda value: str(value).lower()),
    )
    deterministic: bool = option(
        False,
        bool,
        scored=True,
        doc="whether a score depends on its pair alone: not on the rest of the batch, the number of threads or cuDNN's"
        " benchmarks. Images go through the network one by one, on the CPU in one thread, which takes longer.",
    )
    dtype: torch.dtype | None = option(
        None,
        _by("floating_type"),
        scored=True,
        unsaid=True,
        doc="what the network runs in, `torch.bfloat16`, `torch.float16`, `torch.float32` or `torch.float64`; None:"
        " what the module is in. Images are scaled and distances taken in float32 at least, whatever it is.",
        spelling=Spelling(read=_dtype_of, write=_dtype_text),
    )
    reference_cache: int = option(
        CACHE_BYTES,
        _by("byte_limit", "reference_cache"),
        doc="bytes that the feature maps of references with a `reference_key` may take; 0 keeps none. Images that are"
        " compared tile by tile are not kept.",
    )
    tile: int | None = option(
        None,
        _optional(_by("pixels", "tile")),
        doc="images larger than this many pixels a side are compared pair by pair and tile by tile, in memory that does"
        " not grow with their size; scores change by rounding only. Not with a backbone that sees the whole image at"
        ' each place, nor, for LPIPS, with `comparison="sort"`, which needs all places at once. DAMLPIPS cuts the image'
        " as it looks at it, so that it matters with `viewing_side=None` and for long panoramas; its tiles go"
        " through the network twice, since its weights depend on means over the whole image.",
        command=Command(
            "Compare larger images tile by tile, in memory that does not grow with them: 1024.",
            "PIXELS",
            type=int,
            read=_pixels_of,
            rows="always",
        ),
    )
    compile: bool = option(
        False,
        bool,
        doc="run network and distances through `torch.compile`. The first call of each shape takes a minute. Batches"
        " with a `reference_key`, encoded images, images in tiles and `deterministic=True` go without it.",
    )
    cuda_graphs: bool = option(
        False,
        bool,
        doc="on a CUDA device, record the kernels of a batch's shape once and replay them: of a small network or batch,"
        " starting them one by one takes longer than running them. Four shapes are kept, with their images and feature"
        " maps; there are no second derivatives. Goes without it: what `compile` names, and autocast.",
    )
    video: bool = option(
        False,
        bool,
        scored=True,
        unsaid=True,
        doc="compare videos, (N, T, 3, H, W), frame by frame: a score is the mean over the frames. See Shapes.",
    )

    def __post_init__(self) -> None:
        for f in fields(self):
            object.__setattr__(self, f.name, f.metadata["check"](getattr(self, f.name)))
        if self.compile and self.cuda_graphs:
            raise ValueError("cuda_graphs: what compile=True makes is not recorded: use one of them")

    @classmethod
    def make(cls: type[S], options: dict[str, Any]) -> S:
        """Return the settings that options give, by name.

        Raises:
            TypeError: a name that is no option; names the nearest that is.
        """
        names = cls.names()
        for name in options:
            if name not in names:
                raise TypeError(unknown(name, names, f"{cls.metric} takes"))
        return cls(**options)

    @classmethod
    def names(cls) -> list[str]:
        """Return the names of all options, in order."""
        return [f.name for f in fields(cls)]

    @classmethod
    def documented(cls, indent: str = " " * 8) -> str:
        """Return what each option means, as a docstring's `Args` has it."""
        wrap = textwrap.TextWrapper(
            120, initial_indent=indent, subsequent_indent=indent + " " * 4, break_on_hyphens=False
        )
        return "\n".join(wrap.fill(f"{f.name}: {f.metadata['doc']}") for f in fields(cls))

    def scored(self) -> dict[str, Any]:
        """Return the options that a score depends on, by name; a type of torch's by its name, too."""
        import torch

        found = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if f.metadata["scored"] and not (f.metadata["unsaid"] and value == f.default):
                found[f.name] = str(value) if isinstance(value, torch.dtype) else value
        return found

    @classmethod
    def commands(cls) -> dict[str, Command]:
        """Return how the command line spells the options that it has, by their names."""
        return {f.name: f.metadata["command"] for f in fields(cls) if f.metadata["command"]}

    @classmethod
    def spellings(cls) -> dict[str, Spelling]:
        """Return how the values of all options are written, by their names."""
        return {f.name: f.metadata["spelling"] for f in fields(cls)}

    @classmethod
    def spelled_in_rows(cls) -> dict[str, Spelling]:
        """Return how rows of scores write the options that they may say: those that a score depends on."""
        said = {f.name for f in fields(cls) if f.metadata["scored"]} | cls.commands().keys()
        return {name: how for name, how in cls.spellings().items() if name in said and how.rows != "never"}

    def in_rows(self, **others: str) -> str:
        """Return what rows of scores say of the options, and of others that come as text.

        Example:
            >>> LPIPSSettings(resize=256).in_rows(alpha="error")
            'alpha=error heads=v0.1 resize=256 tile=none'
        """
        always, changed = dict(others), {}
        given = self.changed()
        for name, spelling in self.spelled_in_rows().items():
            text = spelling.text(getattr(self, name))
            if spelling.rows == "always":
                always[name] = text
            elif name in given:
                changed[name] = text
        return " ".join(f"{name}={text}" for name, text in [*sorted(always.items()), *sorted(changed.items())])

    def changed(self) -> dict[str, Any]:
        """Return the options that do not have their default, by name."""
        return {f.name: v for f in fields(self) if (v := getattr(self, f.name)) != f.default}


S = TypeVar("S", bound=Settings)


@dataclass(frozen=True, kw_only=True)
class LPIPSSettings(Settings):
    """The options of LPIPS, checked."""

    metric: ClassVar[str] = "LPIPS"

    heads: str = option(
        "v0.1",
        _heads,
        scored=True,
        doc='`"v0.1"`, `"v0.0"`, `"uniform"` (w = 1), or the path of a file with `lpips`\'s keys. All but "uniform"'
        " belong to `alex`, `vgg` and `squeeze`.",
        command=Command(
            "LPIPS's learned weights: v0.1 (default), v0.0, uniform, or a file.",
            "HEADS",
            write=_heads_text,
            rows="always",
        ),
    )
    comparison: str = option(
        "spatial",
        _one_of("comparison", lambda: import_module("damlpips.ops.distance").COMPARISONS),
        scored=True,
        unsaid=True,
        doc='`"spatial"`, `"mean"`, `"sort"`, `"spatial+mean"` or `"spatial+sort"`.',
    )
    channel_norm: bool = option(
        True,
        bool,
        scored=True,
        unsaid=True,
        doc="whether features are divided by their norm over channels, which is done last.",
    )
    fed_as: tuple[float, float] | None = option(
        None,
        _optional(_by("value_range", what="fed_as")),
        scored=True,
        unsaid=True,
        doc="(low, high) that the network takes the values for, where that is not `value_range`: `(-1, 1)` with images"
        " in [0, 1] is a mistake that much published code makes, and that its numbers are reproduced by.",
        spelling=Spelling(read=_range_of, write=_range_text),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fed_as == self.value_range:  # says the same as None, and has its digest
            object.__setattr__(self, "fed_as", None)


@dataclass(frozen=True, kw_only=True)
class DAMLPIPSSettings(Settings):
    """The options of DAMLPIPS, checked."""

    metric: ClassVar[str] = "DAMLPIPS"

    version: int = option(
        2,
        _version,
        scored=True,
        doc="1, which compares place with place, or 2, which first aligns what has moved.",
        command=Command(
            "The version of DAMLPIPS: 1, or 2, which aligns what has moved.", "1|2", read=_version_of, rows="always"
        ),
    )
    align: bool | None = option(
        None,
        _optional(_align),
        scored=True,
        unsaid=True,
        doc="whether images are brought to the middle of the way from one to the other before they are compared; None:"
        " as the version does, which is True for version 2. False is the same formula for those who must have place"
        " against place.",
        spelling=Spelling(type=bool),
    )
    rho: float = option(
        0.25,
        _rho,
        scored=True,
        doc="the share of a place's own energy in its normalisation, 0 to 1; the rest is the mean over the image.",
    )
    gamma: float = option(
        0.5, _gamma, scored=True, doc="how much a channel's weight falls with its energy, at least 0."
    )
    viewing_side: int | None = option(
        VIEWING_SIDE,
        _optional(_by("pixels", "viewing_side")),
        scored=True,
        doc="images are looked at with this shorter side in pixels where theirs is longer, so that scores of different"
        " sizes compare; None: as they are.",
        spelling=Spelling(type=int),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.version == 1 and self.align:
            raise ValueError("align: version 1 of DAMLPIPS compares place with place: use version=2, or align=None")
        if self.align is (self.version > 1):  # says the same as None, and has its digest
            object.__setattr__(self, "align", None)


def unknown(name: str, known: Iterable[str], whose: str) -> str:
    """Return the message of an error: an option of a name that is not known, and the nearest name that is."""
    known = list(known)
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"{whose} {', '.join(known)}"
    return f"unexpected keyword argument {name!r}: {hint}"
