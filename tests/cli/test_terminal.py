"""What the terminal shows: tables of every width without a cut number, the documented table of variables."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from regroup.cli import _table, commands, main
from regroup.cli._faults import DONE, FAILED, INTERRUPTED, WRONG_USE
from regroup.cli._table import comparison_table, fitted, show
from regroup.cli.bench import speed_table
from regroup.cli.compile import step_table
from regroup.cli.models import network_table
from regroup.cli.profile import layer_table
from regroup.cli.strategies import strategy_table
from regroup.engine.running.compiled import compile
from regroup.networks import networks
from regroup.profiling.groups import Curve, Layer, Point, Speeds
from regroup.profiling.machine import machine
from regroup.profiling.profile import profile
from regroup.strategies import strategies
from regroup.strategies.described import describe
from tests.report.test_render import comparison

ROOT = Path(__file__).parents[2]


def speeds():
    def point(groups):
        seconds = {way: {"PyTorch": 1.234e-3 * groups, "regroup": 5.67e-4} for way in ("forward", "training")}
        measured = {way: dict.fromkeys(("PyTorch", "regroup"), 12.34) for way in ("forward", "training")}
        return Point(groups, 1000, groups, seconds, measured)

    layer = Layer(("stages.0.conv1",), 128, 128, (3, 3), (1, 1), (1, 1), (1, 1), (28, 28))
    return Speeds(machine(), 1, (Curve(layer, (point(1), point(16))),))


def tables():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 3), torch.nn.Conv2d(64, 64, 3, groups=4))
    return {
        "compare": comparison_table(comparison()),
        "profile": layer_table(profile(model, torch.rand(1, 3, 32, 32), reach=True, seconds=0.01), None),
        "models": network_table([networks[name] for name in networks.names("squeezenet*")]),
        "strategies": strategy_table([describe(strategies[name]) for name in strategies]),
        "bench": speed_table(speeds()),
        "compile": step_table(compile(model.eval(), torch.rand(1, 3, 32, 32)).explain(json=True))[0],
    }


@pytest.fixture(scope="module")
def shown():
    return tables()


def printed(table, width, monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(_table, "terminal_width", lambda: width)
    show(table)
    return out.getvalue()


def words(text):
    return set(re.findall(r"\S*\d\S*", text))


@pytest.mark.parametrize("name", ["compare", "profile", "models", "strategies", "bench", "compile"])
def test_at_every_width_a_number_is_whole_or_its_column_is_named_below(name, shown, monkeypatch):
    table = shown[name]
    whole = printed(table, None, monkeypatch)
    assert "left out" not in whole and len(max(whole.splitlines(), key=len)) > 80
    numbers, headers = words(whole), [str(column.header) for column in table.columns]
    first = max(len(line.split("  ")[0]) for line in whole.splitlines())
    for width in (*range(40, 120), *range(120, 201, 5)):
        text = printed(table, width, monkeypatch)
        body, _, below = text.partition("left out, for the terminal")
        assert "…" not in text and words(body) <= numbers, width
        assert max(map(len, body.splitlines())) <= max(width, first) and "  " not in below
        missing = [h for h in headers[1:] if h not in body.splitlines()[0]]
        assert all(h in " ".join(below.split()) for h in missing), width
    assert printed(table, 10_000, monkeypatch).split() == whole.split()


def test_columns_in_which_nothing_stands_are_left_out():
    whole = comparison()
    bare = replace(whole, rows=[replace(row, times={}) for row in whole.rows])
    headers = [[str(column.header) for column in comparison_table(each).columns] for each in (whole, bare)]
    assert set(headers[0]) - set(headers[1]) == {"eager", "speed-up", "compiled", "its speed-up"}


def test_a_pipe_is_not_80_wide(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main(["strategies"])
    assert max(map(len, capsys.readouterr().out.splitlines())) > 120


@pytest.mark.parametrize("width", [40, 57, 80, 200])
def test_sentences_end_their_lines_between_words(width):
    text = "  a number 123456789 and a long_" + "x" * 90 + "\n\n" + "word " * 60
    lines = fitted(text, width).split("\n")
    assert "".join(fitted(text, width).split()) == "".join(text.split())
    assert all(len(line) <= width or " " not in line.strip() for line in lines)
    assert fitted(text, None) == text and lines[0].startswith("  a")


def test_no_color_is_obeyed(monkeypatch):
    for colour in (True, False):
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.delenv("NO_COLOR", raising=False) if colour else monkeypatch.setenv("NO_COLOR", "1")
        out = io.StringIO()
        monkeypatch.setattr(sys, "stdout", out)
        table = comparison_table(comparison())
        table.columns[0].style = "red"
        show(table)
        assert ("\x1b[31m" in out.getvalue() or ";31m" in out.getvalue()) == colour
        assert Console().no_color != colour


def test_variables_are_those_of_the_documented_table():
    page = (ROOT / "docs" / "commands.md").read_text()
    said = set(re.findall(r"^\| `(REGROUP_\w+)`", page, re.MULTILINE))
    files = [*(ROOT / "src").rglob("*.py"), *(ROOT / "tests").rglob("*.py"), ROOT / "Makefile"]
    used = {name for f in files for name in re.findall(r"\bREGROUP_[A-Z]+(?:_[A-Z]+)*\b", f.read_text())}
    assert said == used
    asked = {
        name
        for f in (ROOT / "src").rglob("*.py")
        for name in re.findall(r'environ(?:\.get\(|\[)"(\w+)"|"(\w+)" in os\.environ', f.read_text())
        for name in name
        if name
    }
    assert asked <= set(re.findall(r"`([A-Z_]+)`", page))


def test_statuses_are_those_of_the_documented_table():
    page = (ROOT / "docs" / "commands.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (\w+ ?\w+)", page, re.MULTILINE)
    assert [int(status) for status, _ in rows] == [DONE, FAILED, WRONG_USE, INTERRUPTED]


TYPED = [("comp", "compile"), ("train --disp", "--display"), ("train --amp-dtype ", "bfloat16")]


@pytest.fixture
def completion(tmp_path, capsys):
    """What writes the script for a shell, if that is installed."""

    def written(shell):
        if shutil.which(shell) is None:
            pytest.skip(f"completion is not tried in {shell}: apt-get install {shell}")
        with pytest.raises(SystemExit) as exit:
            main(["completion", shell])
        assert exit.value.code == 0
        script = tmp_path / "_regroup"
        script.write_text(capsys.readouterr().out)
        return script

    return written


def test_fish_completes_commands_options_and_values(completion):
    script = completion("fish")
    for typed, completed in TYPED:
        complete = f"source {script}; complete -C 'regroup {typed}'"
        ran = subprocess.run(
            ["fish", "--no-config", "-c", complete], capture_output=True, text=True, check=True
        )
        assert any(line.startswith(completed) for line in ran.stdout.splitlines()), typed


def test_zsh_completes_commands_options_and_values(completion, tmp_path):
    """As somebody at the keyboard sees it, in the order in which they type."""
    completion("zsh")
    pid, terminal = pty.fork()
    if not pid:
        os.chdir(tmp_path)
        os.execvpe("zsh", ["zsh", "-f", "-i"], os.environ | {"TERM": "dumb", "COLUMNS": "200", "LINES": "50"})

    def shown(keys, wanted):
        os.write(terminal, keys.encode())
        seen, end = b"", time.monotonic() + 30
        while wanted.encode() not in seen and time.monotonic() < end:
            if select.select([terminal], [], [], 0.2)[0]:
                seen += os.read(terminal, 1 << 16)
        return wanted.encode() in seen

    try:
        start = "fpath=($PWD $fpath); autoload -Uz compinit && compinit -u -D; print rea''dy\n"
        assert shown(start, "ready")
        for typed, completed in TYPED:
            assert shown(f"regroup {typed}\t\t", completed), typed
            assert shown("\x15print do''ne\n", "done")
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)


def test_bash_completes_commands_and_options(completion):
    script = completion("bash")
    for typed, completed in TYPED[:2]:
        words = ("regroup", *typed.split())
        complete = f"source {script}; COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; "
        complete += '_tyro_regroup; printf "%s\\n" "${COMPREPLY[@]}"'
        ran = subprocess.run(["bash", "-c", complete], capture_output=True, text=True, check=True)
        assert any(line.startswith(completed) for line in ran.stdout.splitlines()), typed


def test_verbose_shows_what_is_logged(capsys, monkeypatch):
    import logging

    from regroup.cli import models

    def run(options):
        logging.getLogger("regroup.somewhere").info("a word")
        return 0

    monkeypatch.setattr(models, "run", run)
    for argv, said in (["models", "--verbose"], True), (["models"], False):
        with pytest.raises(SystemExit):
            main(argv)
        assert ("regroup.somewhere: a word" in capsys.readouterr().err) == said


def test_every_command_is_in_the_readme():
    readme = (ROOT / "README.md").read_text()
    block = readme[readme.index("## Commands") :].split("```")[1]
    assert re.findall(r"^regroup (\w+)", block, re.MULTILINE) and all(
        f"regroup {name} " in block for name in commands()
    )
