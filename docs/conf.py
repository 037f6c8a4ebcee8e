"""Sphinx configuration; `make docs` builds the pages and takes every warning for an error."""

from importlib.metadata import version as installed_version

project = "enxuto"
author = "The enxuto authors"
project_copyright = "The enxuto authors"
release = version = installed_version("enxuto")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"enxuto {release}"
