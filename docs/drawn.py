"""The directive `draw` of the site: a picture of a grouping or a block, drawn when the page is built.

```{draw} shuffled:groups=3
:layers: 2
```
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import Directive, directives

import regroup
from regroup.report.draw import draw, spec_for
from regroup.strategies import parse_strategy

_LEGIBLE = 0.82
"""Scale at which the smallest words of a picture, of 10.5 units, are still read."""
CACHE = Path(__file__).parents[1] / "build" / "drawings"


class Draw(Directive):
    """A picture, inline, so that it takes the page's ink; its notes stand in it."""

    required_arguments = 1
    final_argument_whitespace = True
    option_spec: ClassVar[dict[str, Any]] = {
        **dict.fromkeys(("channels", "outputs", "kernel", "layers", "image", "most"), int),
        "block": directives.unchanged,
        "progress": lambda said: said if said == "stages" else float(said),
    }

    def run(self) -> list[nodes.Node]:
        """Return the figure."""
        number = self.state.document.settings.env.new_serialno("draw")
        svg = _drawn(self.arguments[0], self.options)
        svg = svg.replace('id="', f'id="d{number}-')
        svg = re.sub(r'(href="|url\()#', rf"\1#d{number}-", svg)
        return [nodes.raw("", f'<figure class="drawn">{_sized(svg)}</figure>', format="html")]


def _sized(svg: str) -> str:
    """Return a picture that gets no narrower than its words are legible, and not much wider than drawn."""
    width = float(re.search(r'viewBox="0 0 ([\d.]+)', svg)[1])  # type: ignore[index]
    style = f"width: 100%; min-width: {_LEGIBLE * width:.0f}px; max-width: {1.4 * width:.0f}px"
    return svg.replace("<svg ", f'<svg style="{style}" ', 1)


def _drawn(what: str, options: dict[str, Any]) -> str:
    """Return a picture; the same code has drawn it before if it is in the cache."""
    key = hashlib.sha256(f"{what} {sorted(options.items())} {_code()}".encode()).hexdigest()
    path = CACHE / f"{key[:32]}.svg"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        more = {name: options[name] for name in ("outputs", "kernel") if name in options}
        others = {name: value for name, value in options.items() if name not in more}
        if more:
            others["spec"] = spec_for(parse_strategy(what), options.get("channels"), **more)
        path.write_text(draw(what, **others).svg)
    return path.read_text()


@cache
def _code() -> str:
    sources = sorted(Path(regroup.__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


def setup(app: Any) -> dict[str, bool]:
    """Tell Sphinx of the directive."""
    app.add_directive("draw", Draw)
    return {"parallel_read_safe": True}
