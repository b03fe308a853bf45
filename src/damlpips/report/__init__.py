"""Scores made visible: heat maps, figures of a pair, and the HTML page.

`heat` is the one way from a spatial map to a picture, `figure` and `panels` draw a pair with matplotlib, `intervals`
says how sure a mean is, `page` is the report of a run, and `table` the table of a paper. Imports `scoring` and what is
below it. A new part of the page is a value in `page/views.py` and a place for it in `page/templates`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from damlpips.report.figure import draw as draw
    from damlpips.report.figure import measure as measure
    from damlpips.report.figure import plot_map as plot_map
    from damlpips.report.figure import render as render
    from damlpips.report.figure import save as save
    from damlpips.report.page import render_report as render_report
    from damlpips.report.page import write_report as write_report

_HOME = {
    **dict.fromkeys(("draw", "measure", "plot_map", "render", "save"), "damlpips.report.figure"),
    **dict.fromkeys(("render_report", "write_report"), "damlpips.report.page"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
