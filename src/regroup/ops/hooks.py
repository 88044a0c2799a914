"""Forward hooks that a recording may follow.

A hook is Python code that runs beside a network: to keep what it sees, to count, to print. `regroup.compile`
leaves networks with hooks to PyTorch, for native code would not call them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

_Hook = TypeVar("_Hook", bound=Callable)


def stateless(hook: _Hook) -> _Hook:
    """Mark a hook that computes from what it is given, or checks it, and does nothing else.

    >>> @stateless
    ... def double(module, args, output):
    ...     return 2 * output

    `regroup.compile` follows it like the network's own code.
    """
    hook.__dict__["is_stateless"] = True
    return hook
