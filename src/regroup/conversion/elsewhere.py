"""Layers whose parameters a network reads in another place too: another layer in their place would break it.

>>> class Net(nn.Module):
...     def __init__(self):
...         super().__init__()
...         self.conv = nn.Conv2d(3, 4, 1)
...
...     def forward(self, x):
...         return self.conv(x) + self.conv.weight.mean()
>>> read_elsewhere(Net(), torch.zeros(1, 3, 2, 2))
{'conv': "conv.weight is read by the network's own forward, too"}
"""

from __future__ import annotations

from typing import Any

from torch import nn

from regroup.conversion.tying import traces_of


def read_elsewhere(model: nn.Module, *inputs: Any) -> dict[str, str]:
    """Return the modules whose own parameters are read by others, and what reads which.

    Args:
        model: any PyTorch model; is left as it was.
        inputs: what it is called with. Training mode is looked at, too.

    Raises:
        ConversionError: the network cannot be traced.
    """
    own = {
        f"{name}.{key}": name
        for name, module in model.named_modules()
        for key, _ in module.named_parameters(recurse=False)
        if name
    }
    found: dict[str, str] = {}
    for trace in traces_of(model, inputs)[0]:
        for op in trace.ops:
            for value in op.values:
                name = own.get(value.name, op.module)
                if name != op.module:
                    found.setdefault(name, f"{value.name} is read by {op.place}, too")
    return found
