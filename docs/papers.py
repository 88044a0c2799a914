"""The papers of the groupings and networks: who, what, where; by their numbers at arXiv."""

from __future__ import annotations

import json
import re
from pathlib import Path

ADDRESS = "https://arxiv.org/abs/"
NUMBER = re.compile(r"arXiv:(\d{4}\.\d{4,5})")
PAPERS: dict[str, tuple[str, str, str]] = {
    number: tuple(said)
    for number, said in json.loads(Path(__file__).with_name("papers.json").read_text()).items()
}
"""Number -> authors, title, where it was published."""


def short(paper: str) -> str:
    """Return a paper's authors and place for a cell, in Markdown, with its address if it is at arXiv."""
    found = NUMBER.fullmatch(paper)
    parts = list(PAPERS[found[1]][::2]) if found else paper.rsplit(", ", 1)
    said = ", ".join(part.replace(" ", "\N{NO-BREAK SPACE}") for part in parts)
    return f"[{said}]({ADDRESS}{found[1]})" if found else said


def titled(summary: str) -> tuple[str, str]:
    """Return what a file's first line calls its networks, without the paper, and what it says of them.

    >>> titled("IGCV2 (arXiv:1804.06202): sparse 1x1 ones that interleave.")
    ('IGCV2', 'Sparse 1x1 ones that interleave.')
    """
    title, _, said = re.sub(r" ?\(\)", "", NUMBER.sub("", summary).replace("(, ", "(")).partition(": ")
    return title.rstrip("."), f"{said[:1].upper()}{said[1:]}"


def cited(paper: str) -> str:
    """Return a paper with authors, title and place, in Markdown."""

    def full(found: re.Match) -> str:
        authors, title, where = PAPERS[found[1]]
        return f"{authors}, *{title}*, {where}, [{found[0]}]({ADDRESS}{found[1]})"

    return NUMBER.sub(full, paper)
