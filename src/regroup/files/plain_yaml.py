r"""YAML from files as texts, lists and mappings: no tags, no types, no aliases; or one clear error.

>>> parse_yaml("names: [no, cat]\nnc: 2")
{'names': ['no', 'cat'], 'nc': '2'}
>>> parse_yaml("a: &a [1]\nb: *a")
Traceback (most recent call last):
regroup.files.plain_yaml.YamlError: line 2: it has an alias, which may be of any size and is not read
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from regroup.files.reading import read_file

LARGEST = 1 << 20
"""Bytes that a document may have."""

_DEEPEST = 64


class YamlError(ValueError):
    """A document is no YAML that is read here; the message says in which line."""


class _Loader(yaml.BaseLoader):
    """PyYAML's loader of texts, within limits."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        line = self.peek_event().start_mark.line + 1
        if self.check_event(yaml.AliasEvent):
            raise YamlError(f"line {line}: it has an alias, which may be of any size and is not read")
        if self.depth >= _DEEPEST:
            raise YamlError(f"line {line}: it is nested more than {_DEEPEST} levels deep")
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def read_yaml(path: Path) -> Any:
    """Return the content of a file; see `parse_yaml`.

    Raises:
        OSError: it cannot be read, is no file, or has more than `LARGEST` bytes.
        YamlError: it is no YAML, or none that is read here.
    """
    return parse_yaml(read_file(path, most=LARGEST))


def parse_yaml(data: bytes | str) -> Any:
    """Return the value that a text describes.

    Raises:
        YamlError: it is no YAML, has aliases, or is nested too deeply.
    """
    try:
        return _Loader(data).get_single_data()
    except YamlError:
        raise
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise YamlError(f"line {line}: it is not YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:  # of encodings; of keys
        raise YamlError(f"it is not YAML: {str(error).partition(chr(10))[0]}") from None
