"""How Sphinx builds the site; CONTRIBUTING.md has the command."""

import sys
from pathlib import Path

_FOLDER = Path(__file__).parent
sys.path[:0] = [str(_FOLDER), str(_FOLDER.parent)]

from reference_generator.pages import write_reference  # noqa: E402 - found through the line above

project = "robustbench_local"
author = "The robustbench_local authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "README.md", "examples", "reference_generator"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = True
napoleon_custom_sections = ["Source", "Sources"]
html_theme = "furo"
html_title = "robustbench_local"
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False


def setup(_app: object) -> None:
    """Write the reference from the code that is being documented."""
    write_reference(_FOLDER / "reference")
