"""One idea, one name: what several commands have is the same in all, and docs/commands.md lists it."""

import dataclasses
import importlib
import re
from collections import defaultdict
from pathlib import Path

from regroup.cli import commands
from regroup.cli._misuse import options_of

PAGE = Path(__file__).parents[2] / "docs" / "commands.md"

POSITIONAL = {"model"}
"""What has its place, and no name, in commands that look at one network."""

TWO_IDEAS = {"--image": {"run"}}
"""A name that means something else in these commands: there, files; elsewhere, the size of an image."""


def used():
    """Return name -> command -> (option, default) of every option, by its name on the command line."""
    found = defaultdict(dict)
    for command in commands():
        module = importlib.import_module(f"regroup.cli.{command}")
        fields = {field.name: field for field in dataclasses.fields(module.Options)}
        for option in options_of(module.Options):
            name = option.flags[0] if option.flags else f"--{option.name}"
            if command not in TWO_IDEAS.get(name, ()):
                found[name][command] = option, fields[option.name].default
    return {name: by for name, by in found.items() if len(by) > 1 and set(by) - {"completion"}}


def row(name, by):
    """Return what the table must say of an option: its flags, what it takes, its defaults, its commands."""
    flags = {flag for option, _ in by.values() for flag in option.flags}
    kinds = {tuple(kind for kind in option.kinds if kind is not type(None)) for option, _ in by.values()}
    defaults = defaultdict(list)
    for command, (_, default) in sorted(by.items()):
        defaults[shown(default)].append(command)
    assert len(kinds) == 1, f"{name} has several types: {kinds}"
    aliases = sorted(flags - {name, name.replace("--", "--no-", 1)})
    return name, aliases, dict(defaults), sorted(by)


def shown(default):
    if default is dataclasses.MISSING:
        return "required"
    if default in (None, ()):
        return "none"
    return {False: "no", True: "yes"}[default] if isinstance(default, bool) else str(default)


def listed():
    """Yield the same of each row of the page."""
    table = re.search(r"\| option \| means.*?\n\|[-|: ]+\n((?:\|.*\n)+)", PAGE.read_text())
    for line in table[1].splitlines():
        names, means, defaults, where = (cell.strip() for cell in line.strip("|").split("|"))
        name, *aliases = re.findall(r"`([^`]+)`", names)
        assert means, name
        known = {}
        for part in defaults.split("; "):
            value, _, rest = part.partition(": ")
            known[value.strip("`")] = sorted(rest.split(", ")) if rest else sorted(where.split(", "))
        yield name, sorted(aliases), known, sorted(where.split(", "))


def test_options_of_several_commands_are_one_and_the_page_lists_them():
    rows = {name: row(name, by) for name, by in used().items()}
    page = {entry[0]: entry for entry in listed()}
    assert rows.keys() == page.keys()
    for name, expected in rows.items():
        assert page[name] == expected


def test_what_has_its_place_is_the_same_idea():
    for name, by in used().items():
        for command, (option, _) in by.items():
            assert option.flags or option.name in POSITIONAL | {"pattern"}, (name, command)


def test_no_option_has_two_names():
    """An alias of one command is no other option's name in another."""
    names, aliases = set(), set()
    for command in commands():
        for option in options_of(importlib.import_module(f"regroup.cli.{command}").Options):
            names |= {f"--{option.name.replace('_', '-')}"} if not option.flags else {option.flags[0]}
            aliases |= set(option.flags[1:])
    assert not names & aliases
