"""Options that belong to something else than the command, given as name=value."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def read_options(option: str, texts: Iterable[str]) -> dict[str, Any]:
    """Return {name: value} of texts like name=value; values are JSON, or else text.

    Args:
        option: what the command calls them.
        texts: as given.

    Raises:
        ConfigError: a text has another form.
    """
    import json

    from regroup.errors import ConfigError

    options: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise ConfigError(option, text, "of the form name=value")
        try:
            options[name] = json.loads(value)
        except (ValueError, RecursionError):
            options[name] = value
    return options
