"""Print a script by which a shell completes commands, options and their values."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Literal

import tyro


@dataclass(frozen=True)
class Options:
    """Write it to where the shell looks for it.

    bash: ~/.local/share/bash-completion/completions/regroup; zsh: a file _regroup in a directory of fpath;
    fish: ~/.config/fish/completions/regroup.fish.
    """

    shell: tyro.conf.Positional[Literal["bash", "zsh", "fish"]]
    """Shell that is to complete."""


def run(options: Options) -> int:
    """Print the script, which tyro makes of the options of all commands."""
    from regroup.cli import commands

    every = {name: importlib.import_module(f"regroup.cli.{name}").Options for name in commands()}
    tyro.extras.subcommand_cli_from_dict(
        every, prog="regroup", args=["--tyro-print-completion", options.shell]
    )  # ends with SystemExit(0)
    return 0
