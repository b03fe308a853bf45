"""Rows in, a page out: one file, which loads nothing from anywhere."""

import os
from base64 import b64encode
from collections.abc import Callable, Sequence
from hashlib import sha256
from importlib.resources import files
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from damlpips.files import spelled, write_whole
from damlpips.report.page.collecting import Collection
from damlpips.report.page.comparison import Scores
from damlpips.report.page.figures import SAMPLES
from damlpips.report.page.pictures import SIDE
from damlpips.report.page.views import TYPICAL, comparison_view, number, signed, view
from damlpips.scoring.images import ScoringError
from damlpips.version import __version__

if TYPE_CHECKING:
    from jinja2 import Environment

PAIRS = 6
# called with how many pairs are drawn, and of how many
Progress = Callable[[int, int], None]


def render_report(
    rows: Sequence[str | os.PathLike[str]],
    *,
    title: str = "Image comparison",
    pairs: int = PAIRS,
    side: int = SIDE,
    images: str | os.PathLike[str] = ".",
    maps: bool = True,
    weights: Sequence[str | os.PathLike[str]] = (),
    heads: Sequence[str | os.PathLike[str]] = (),
    device: str | torch.device = "cpu",
    samples: int = SAMPLES,
    progress: Progress = lambda done, total: None,
) -> str:
    """Return the HTML page of what `damlpips score` wrote: figures, charts, the best and worst pairs with heat maps.

    Rows of each metric, backbone and set of options are a section of their own. Where there are several metrics, in one
    file or in several, a section compares them: their means, how alike they order pairs, and where they do not.
    The page does not grow with the rows; memory grows by a few hundred bytes a row. The same rows and images give the
    same page.

    An image is shown only if its SHA-256 is that of its row, a heat map only if the metric of the rows can be rebuilt
    here with the very same weights; the page says what is missing, and why.

    Args:
        rows: CSV, JSON Lines or Parquet files with a row a pair.
        title: of the page.
        pairs: how many of the best and of the worst pairs of each method are shown.
        side: the largest side of a picture in pixels.
        images: the folder that relative paths in the rows start from.
        maps: whether heat maps are drawn.
        weights, heads: files that the rows were scored with, where `damlpips score` was given any.
        device: where heat maps are computed.
        samples: bootstrap samples behind each interval.
        progress: called after each pair that was drawn.

    Raises:
        ScoringError: a file that cannot be read, is no table of rows or has none; a pair that comes twice.
        ImportError: the extra `report` is not installed.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from damlpips.report.page import render_report
        >>> row = "r.png,d.png,0.5,damlpips,nano,,,,nano:1,version=1,"
        >>> header = "reference,distorted,score,metric,backbone,method,sha256,reference_sha256,weights,options,error"
        >>> with TemporaryDirectory() as folder:
        ...     file = Path(folder) / "scores.csv"
        ...     _ = file.write_text(f"{header}\\n{row}\\n")
        ...     page = render_report([file])
        >>> page.startswith("<!DOCTYPE html>"), len(page) < 50_000
        (True, True)
    """
    for name, value, least in (("pairs", pairs, 0), ("side", side, 16), ("samples", samples, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name}: expected a whole number from {least} up, got {value!r}")
    environment = _environment()
    from markupsafe import Markup

    paths = [Path(path) for path in rows]
    if not paths:
        raise ScoringError("expected a file of rows, got none")
    scores = Scores()
    found = Collection(pairs, scores.add)
    found.add_files(paths)
    scores.add_sets(paths)
    compared = scores.compared(samples=samples, most=pairs) if scores.count > 1 else None
    rows_of = scores.named(paths, [d.pair for d in compared.disagreements]) if compared else {}
    total = sum(
        min(2 * pairs, len(method.scores)) for section in found.sections.values() for method in section.methods.values()
    ) + len(rows_of)
    drawn = count(1)
    sections = [
        view(
            section,
            f"s{k}",
            pairs=pairs,
            side=side,
            folder=Path(images),
            maps=maps,
            weights=[Path(path) for path in weights],
            heads=[Path(path) for path in heads],
            device=device,
            samples=samples,
            disagreed={n: row for n, row in rows_of.items() if row.settings == section.settings},
            moved=lambda: progress(next(drawn), total),
        )
        for k, section in enumerate(found.sections.values())
    ]
    templates = files("damlpips.report.page") / "templates"
    style, script = ((templates / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return environment.get_template("page.html").render(
        title=spelled(title),
        version=__version__,
        sections=sections,
        comparison=compared and comparison_view(compared, sections, scores.incomplete),
        rows=found.rows,
        files=[spelled(path.name) for path in paths],
        cut=[spelled(path.name) for path in found.cut],
        samples=samples,
        typical=TYPICAL,
        # this project's own text, not a user's
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
    )


def write_report(rows: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str], **options: Any) -> None:
    """Write `render_report`'s page to a file, whole or not at all; the options are its own.

    Raises:
        OSError: it cannot be written; what was there before is as it was.
    """
    write_whole(Path(out), render_report(rows, **options))


def _environment() -> "Environment":
    try:
        import matplotlib  # noqa: F401
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise ImportError("a report needs: pip install 'damlpips[report]'") from error
    environment = Environment(
        loader=PackageLoader("damlpips.report.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, signed=signed)
    return environment


def _hash(text: str) -> str:
    """Return what a Content-Security-Policy names a script or a style sheet by."""
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"
