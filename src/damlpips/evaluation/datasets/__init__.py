"""Judged image sets on disk: published layouts, and CSV files or shards of one's own.

To add a layout: a module here with `detect(path)` and `read(path)`, which raises `DatasetError`; its row in
`layouts.LAYOUTS`; an example in `tests/support/layouts.py`; a row and a section in `docs/how-to/judged-sets.md`. Tests
go through the rows and name what is missing. The modules import each other, `judgements`, and nothing else of
`evaluation`.
"""

from damlpips.evaluation.datasets.layouts import LAYOUTS as LAYOUTS
from damlpips.evaluation.datasets.layouts import Layout as Layout
from damlpips.evaluation.datasets.layouts import load as load
from damlpips.evaluation.datasets.tables import DatasetError as DatasetError
