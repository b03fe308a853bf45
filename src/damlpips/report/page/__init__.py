"""One self-contained HTML page from rows of scores: `render_report` makes it, `write_report` writes it."""

from damlpips.report.page.rendering import render_report as render_report
from damlpips.report.page.rendering import write_report as write_report
