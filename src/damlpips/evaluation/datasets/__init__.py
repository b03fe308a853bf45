"""Judged image sets as they lie on disk: published layouts, and CSV files of one's own."""

from damlpips.evaluation.datasets.layouts import LAYOUTS as LAYOUTS
from damlpips.evaluation.datasets.layouts import Layout as Layout
from damlpips.evaluation.datasets.layouts import load as load
from damlpips.evaluation.datasets.tables import DatasetError as DatasetError
