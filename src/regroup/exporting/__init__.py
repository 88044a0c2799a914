"""Ways out: a network written in a form that others run. One file each; adding the file is all that it takes.

>>> model = regroup.create_model("resnet_small", num_classes=10, in_chans=1)
>>> print(regroup.export(model, "/tmp/regroup-example.pt2", torch.zeros(1, 1, 8, 8), replace=True))
/tmp/regroup-example.pt2: pt2, for any number of images of (1, 8, 8); checked with 1, 2, 3: error ...

A way is one function, which is given the network and returns what is to be written, and how that is run, so
that its outputs can be compared before anything is written:

    @way("mine", suffix=".mine")
    def mine(subject: Subject, *, level: int = 3) -> Made:
        '''My format, read by my reader.'''
        ...
        return Made(content, run)

Its keyword arguments are `--to-options level=5` of `regroup export --to mine`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from regroup.lazy import lazily

if TYPE_CHECKING:
    from regroup.exporting.writing import Exported as Exported
    from regroup.exporting.writing import Made as Made
    from regroup.exporting.writing import Subject as Subject
    from regroup.exporting.writing import export as export
    from regroup.exporting.writing import way as way
    from regroup.exporting.writing import ways as ways

_HOME = dict.fromkeys(("Exported", "Made", "Subject", "export", "way", "ways"), "writing")
"""The module, below this package, that each name lives in."""

__all__ = list(_HOME)

__getattr__, __dir__ = lazily(__name__, _HOME)
