"""The pages of the API: every public name, by what it is for; Sphinx's autodoc says the rest."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import regroup

THEMES = {
    "convolutions": ("What a convolution is and costs", ("spec", "errors")),
    "strategies": ("Groupings", ("strategies", "testing")),
    "networks": ("Networks", ("networks", "loading", "exporting", "aot")),
    "conversion": ("Putting groupings into networks", ("conversion",)),
    "speed": ("Running and training fast", ("engine", "ops")),
    "training": ("Training and comparing", ("training", "comparison")),
    "looking": ("Looking at networks", ("profiling", "report")),
}
"""Page -> title, and the packages below regroup whose public names it has."""


def write(folder: Path) -> None:
    """Write a page for each theme, and their list.

    Raises:
        ValueError: a public name is on none of them.
    """
    folder.mkdir(exist_ok=True)
    left, pages = dict(regroup._HOME), {}
    for page, (title, packages) in THEMES.items():
        names = [name for name, home in left.items() if home.partition(".")[0] in packages]
        pages[page] = [f"# {title}", "", *(line for name in names for line in _entry(name))]
        left = {name: home for name, home in left.items() if name not in names}
    if left:
        raise ValueError(f"docs/api.py has no page for {', '.join(left)}")
    pages["index"] = ["# API", "", "Every public name of `regroup`, from its documentation in the code.", ""]
    pages["index"] += ["```{toctree}", "", *THEMES, "```"]
    for page, lines in pages.items():
        path, said = folder / f"{page}.md", "\n".join([*lines, ""])
        if not path.exists() or path.read_text() != said:
            path.write_text(said)


def _entry(name: str) -> list[str]:
    kind = "class" if inspect.isclass(getattr(regroup, name)) else "function"
    members = ["   :members:"] if kind == "class" else []
    return [f"## {name}", "", "```{eval-rst}", f".. auto{kind}:: regroup.{name}", *members, "```", ""]


def prose(_app: Any, what: str, _name: str, _thing: Any, _options: Any, lines: list[str]) -> None:
    """Keep what stands before a colon from being taken for a type: of an attribute, of what is returned."""
    if what in ("attribute", "data", "property") and lines:
        lines.insert(0, "\\")
    for i in [i for i, line in enumerate(lines) if re.fullmatch(r"\s*(Returns|Yields):", line)][::-1]:
        indent = re.match(r"\s*", lines[i + 1])[0]  # type: ignore[index]
        lines.insert(i + 1, f"{indent}\\")


def plain(_app: Any, _what: str, _name: str, _thing: Any, _options: Any, lines: list[str]) -> None:
    """Let reStructuredText take prose as it is written: one backquote is code, a star a star."""
    session = False
    for i, line in enumerate(lines):
        session = line.lstrip().startswith(">>>") or (session and bool(line.strip()))
        if session or line.lstrip().startswith((":", "..")):
            continue
        parts = re.split(r"(`[^`]+`)", line)
        for j, part in enumerate(parts):
            if j % 2:
                parts[j] = f"`{part}`"
            elif not part.strip().startswith(":"):
                parts[j] = re.sub(r"([*|])|(?<=\w)_(?=\W|$)", lambda m: "\\" + m[0], part)
        lines[i] = "".join(parts)
