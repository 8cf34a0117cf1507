"""Configuration of the Sphinx documentation."""

from importlib.metadata import version as installed_version

project = "numpyro_mi"
author = "The numpyro_mi developers"
copyright = author
release = version = installed_version("numpyro-mi")

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build"]
templates_path = ["_templates"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

default_role = "code"  # docstrings mark code with single backticks
autosummary_generate = True
autodoc_typehints = "signature"
numpydoc_show_class_members = False  # the class template lists them

html_theme = "furo"
html_title = f"numpyro_mi {release}"
