"""The directive `draw` of the site: a picture of a grouping or a block, drawn when the page is built.

```{draw} shuffled:groups=3
:layers: 2
```
"""

from __future__ import annotations

from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import Directive, directives

from regroup.report.draw import draw


class Draw(Directive):
    """A picture, inline, so that it takes the page's ink; its notes stand in it."""

    required_arguments = 1
    final_argument_whitespace = True
    option_spec: ClassVar[dict[str, Any]] = {
        **dict.fromkeys(("channels", "layers", "image", "most"), int),
        "block": directives.unchanged,
        "progress": float,
    }

    def run(self) -> list[nodes.Node]:
        """Return the figure."""
        picture = draw(self.arguments[0], **self.options)
        number = self.state.document.settings.env.new_serialno("draw")
        svg = picture.svg.replace('id="', f'id="d{number}-').replace("#", f"#d{number}-")
        svg = _colours_again(svg, number)
        return [nodes.raw("", f'<figure class="drawn">{svg}</figure>', format="html")]


def _colours_again(svg: str, number: int) -> str:
    """Put back the colours, which begin with # as references do."""
    import re

    return re.sub(rf"#d{number}-([0-9a-f]{{6}})(?=[;\")'\s])", r"#\1", svg)


def setup(app: Any) -> dict[str, bool]:
    """Tell Sphinx of the directive."""
    app.add_directive("draw", Draw)
    return {"parallel_read_safe": True}
