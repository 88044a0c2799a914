"""What a conversion has found out so far, kept so that one that was interrupted goes on.

>>> memory = Memory()
>>> memory.learn("conv1", {"dense": Cell(1e-3, 100, 10, 0.0)})
>>> list(memory.cells)
['conv1']
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from regroup.conversion.budget import Cell
from regroup.files.disk import make_directories, write_file
from regroup.files.documents import DocumentError, read_document
from regroup.training.directory import seal
from regroup.training.identity import Difference, Identity


@dataclass
class Memory:
    """Of one conversion; here it is forgotten with the process.

    Attributes:
        cells: what each layer could become, of those that were assessed.
        options: what each is to become, once that is decided.
        foreseen: share of the dense time that such a network was measured to take.
    """

    cells: dict[str, dict[str, Cell]] = field(default_factory=dict)
    options: dict[str, str] | None = None
    foreseen: float = 1.0

    def learn(self, name: str, cells: Mapping[str, Cell]) -> None:
        """Take in what a layer could become."""
        self.cells[name] = dict(cells)

    def decide(self, options: Mapping[str, str], foreseen: float) -> None:
        """Take in what each layer is to become."""
        self.options, self.foreseen = dict(options), foreseen


@dataclass(frozen=True)
class _Document:
    identity: dict[str, Any]
    cells: dict[str, dict[str, Cell]]
    options: dict[str, str] | None
    foreseen: float
    sha256: str = ""

    def to_json(self) -> dict[str, Any]:
        content = asdict(self)
        del content["sha256"]
        return {**content, "sha256": seal(content)}


class MemoryFile(Memory):
    """A memory in a file, which is written whenever something is added.

    Args:
        path: of the file.
        identity: of the conversion: see `regroup.conversion.identity`. What is there of another is not used.

    Attributes:
        resumed: whether there was something of this conversion.
        differences: from the one of which there was something else.
    """

    def __init__(self, path: Path, identity: Identity) -> None:
        super().__init__()
        self.path, self.identity, self.resumed = path, identity, False
        self.differences: list[Difference] = []
        try:
            found = read_document(path, _Document)
        except (OSError, DocumentError):  # nothing there, or nothing that can be used
            return
        if found.to_json()["sha256"] != found.sha256:  # a digit that has changed is another network
            return
        self.differences = Identity(found.identity).differences(identity)
        if not self.differences:
            self.cells, self.options, self.foreseen = dict(found.cells), found.options, found.foreseen
            self.resumed = True

    def learn(self, name: str, cells: Mapping[str, Cell]) -> None:
        super().learn(name, cells)
        self._write()

    def decide(self, options: Mapping[str, str], foreseen: float) -> None:
        super().decide(options, foreseen)
        self._write()

    def _write(self) -> None:
        found = _Document(dict(self.identity.fields), self.cells, self.options, self.foreseen)
        make_directories(self.path.parent)
        write_file(self.path, json.dumps(found.to_json(), indent=1).encode())
