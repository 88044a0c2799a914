"""The guides of docs/do: every line of them is run, in their order, and prints what it says."""

import doctest
import io
import re
import shlex
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch

from regroup.cli import compare as compare_command
from regroup.cli import main

GUIDES = Path(__file__).parents[1] / "docs" / "do"
PAGES = [GUIDES / f"{name}.md" for name in ("index", "engineer", "researcher", "mobile", "teacher")]
BLOCK = re.compile(r"```(python|console)\n(.*?)```", re.DOTALL)
CTRL_C = "  # Ctrl-C in the third"
"""What stands behind a command that is interrupted when the third training of a comparison begins."""


def sessions(text):
    """Yield (command, what it must print, its exit status) of a block of the terminal."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, printed = part.partition("\n")
        status = re.search(r"^\[status (\d+)\]\n", printed, re.MULTILINE)
        yield command, printed.replace(status[0], "") if status else printed, int(status[1]) if status else 0


def ended(command):
    """Run a command; return its status, and what it said on both streams in the order of its lines."""
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said), pytest.raises(SystemExit) as caught:
        main(shlex.split(command)[1:])
    return caught.value.code, said.getvalue()


def interrupted(say):
    """Let somebody press Ctrl-C when a line begins with [3/."""

    def instead(line):
        if line.startswith("[3/"):
            raise KeyboardInterrupt
        say(line)

    return instead


@pytest.mark.slow
def test_the_guides_are_true(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    wrong, commands = [], 0
    assert {*PAGES} == {*GUIDES.glob("*.md")}
    for kind, text in (block for page in PAGES for block in BLOCK.findall(page.read_text())):
        if kind == "python":
            exec(compile(text, "a guide", "exec"), {"__name__": "__main__"})
            continue
        for command, expected, status in sessions(text):
            commands += 1
            with monkeypatch.context() as patch:
                if command.endswith(CTRL_C):
                    command = command.removesuffix(CTRL_C)
                    patch.setattr(compare_command, "_say", interrupted(compare_command._say))
                found, printed = ended(command)
            if found != status or not doctest.OutputChecker().check_output(expected, printed, flags):
                wrong.append(f"$ {command}\n[status {found}]\n{printed}")
    assert not wrong, "\n".join(wrong)
    assert commands >= 10 and torch.get_num_threads() == 1 and Path.cwd() == tmp_path
