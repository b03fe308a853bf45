"""Sphinx configuration."""

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
