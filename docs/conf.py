"""Sphinx configuration."""

from pathlib import Path

import jupytext

HERE = Path(__file__).parent

project = "damlpips"
author = "the damlpips authors"
copyright = "2026, the damlpips authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx-mathjax-offline"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3  # links to a heading of a page
exclude_patterns = ["_build", "demo", "upstream"]
html_theme = "furo"
html_title = "damlpips"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
default_role = "code"
smartquotes = False
html_static_path = ["_static"]
html_css_files = ["damlpips.css"]


def write_notebooks(_app, _config):
    """Make a page of each notebook: its cells, what it printed, and its pictures, which `notebooks/run.py` stored."""
    for source in sorted((HERE / "notebooks").glob("*.py")):
        printed = HERE / "_static" / "notebooks" / f"{source.stem}.txt"
        if not printed.exists():
            continue  # run.py itself
        page = jupytext.writes(jupytext.read(source), fmt="md").split("---\n", 2)[2]
        text, picture, rest = page.partition("![")
        shown = f"It prints:\n\n```text\n{printed.read_text(encoding='utf-8')}```\n\n"
        last = f"\n`docs/notebooks/{source.name}` is this notebook: Jupyter opens it with jupytext.\n"
        source.with_suffix(".md").write_text(text + shown + picture + rest + last, encoding="utf-8")


def setup(app):
    app.connect("config-inited", write_notebooks)
