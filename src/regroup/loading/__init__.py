"""Networks from directories: `regroup.load("runs/x")` is what was trained, ready to be used.

Example::

    model = regroup.load("runs/digits")
    found = regroup.loaded("runs/digits")
    found.classes, found.input.shape, found.input.mean  # (("0", "1", ...), (1, 8, 8), (0.3053...,))

There are several kinds of such directories. All are sealed (`regroup.files.sealed`) and hold `network.json`,
a JSON object whose field `kind` says how the network is built again; without it, it is "trained". A kind is a
file of this package, with one function that is given the directory and returns a `Loaded`:

    @kind("converted")
    def converted(path: Path) -> Loaded:
        files = verify_sealed(path)
        ...

Adding the file is all there is to do: `regroup.load` and every command know it then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from regroup.lazy import lazily

if TYPE_CHECKING:
    from regroup.loading.inputs import ImageInput as ImageInput
    from regroup.loading.kinds import Loaded as Loaded
    from regroup.loading.kinds import kind as kind
    from regroup.loading.kinds import load as load
    from regroup.loading.kinds import loaded as loaded

_HOME = {
    "ImageInput": "inputs",
    "Loaded": "kinds",
    "kind": "kinds",
    "load": "kinds",
    "loaded": "kinds",
}
"""The module, below this package, that each name lives in."""

__all__ = list(_HOME)

__getattr__, __dir__ = lazily(__name__, _HOME)
