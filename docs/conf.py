"""How Sphinx builds the site from the pages of this folder: `make docs` gives build/site/index.html.

The gallery and the pages of the API are written by `docs.gallery` and `docs.api` before Sphinx reads them;
pictures are drawn from the modules by the directive `draw` (`docs.drawn`).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

import regroup  # noqa: E402

project = "regroup"
author = "the authors of regroup"
release = regroup.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "docs.drawn"]
exclude_patterns = ["learned_text.md", "_static/*"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "regroup"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = [("site.js", {"defer": "defer"})]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_theme_options = {"navigation_with_keys": True, "top_of_page_buttons": []}
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True


def setup(app: Any) -> None:
    """Write what is generated, before the pages are read."""
    from docs import api, gallery

    app.connect("builder-inited", lambda app: gallery.write(Path(app.srcdir) / "gallery"))
    app.connect("builder-inited", lambda app: api.write(Path(app.srcdir) / "api"))
    app.connect("autodoc-process-docstring", api.prose, priority=100)  # before Napoleon reads it
    app.connect("autodoc-process-docstring", api.plain)
