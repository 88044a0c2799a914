"""The pages of faults name tests that exist, and modules that exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE, RUNS = ((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("faults.md", "runs.md"))
TESTS = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE + RUNS)))
SOURCES = sorted(set(re.findall(r"`((?:engine|kernels|networks|ops|training)/[\w/]+(?:\.py)?)`", PAGE)))


@cache
def functions(path: str) -> set[str]:
    body = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
    return {one.name for one in body if isinstance(one, ast.FunctionDef)}


@pytest.mark.parametrize(("path", "name"), TESTS, ids="::".join)
def test_a_test_that_a_page_names_exists(path: str, name: str) -> None:
    assert name in functions(path)


@pytest.mark.parametrize("path", SOURCES)
def test_a_mechanism_that_the_page_names_exists(path: str) -> None:
    assert (ROOT / "src" / "regroup" / path).exists()


def test_every_row_of_the_page_has_a_sweep_and_a_test() -> None:
    rows = [
        line.split("|")[1:-1] for line in PAGE.splitlines() if line.startswith("| ") and "---" not in line
    ]
    kinds = [row for row in rows if row[0].strip() != "kind"]
    assert len(kinds) > 30
    for kind, mend, sweep, tests in kinds:
        assert kind.strip() and mend.strip() and sweep.strip() and "::test_" in tests


def test_every_line_of_what_was_tried_on_runs_has_a_test() -> None:
    lines = RUNS.partition("## What failed once")[2].partition("\n## ")[0].splitlines()
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if line.startswith("| ")][1:]
    assert len(rows) > 35
    for what, right, tests in rows:
        assert (
            what.strip() and right.strip() and re.fullmatch(r"`tests/\S+::test_\w+`(, `\S+`)*", tests.strip())
        )
