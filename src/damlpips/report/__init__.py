"""Scores made visible: heat maps, figures and the HTML page.

Imports `scoring` and what is below it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from damlpips.report.figure import plot_map as plot_map
    from damlpips.report.figure import save as save
    from damlpips.report.page.rendering import render_report as render_report
    from damlpips.report.page.rendering import write_report as write_report

_HOME = {
    "plot_map": "damlpips.report.figure",
    "save": "damlpips.report.figure",
    "write_report": "damlpips.report.page.rendering",
    "render_report": "damlpips.report.page.rendering",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
