"""Which layer is running, so that what is sent is told by its name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def places(model: nn.Module, run: Any, shapes: dict[str, tuple[int, ...]] | None = None) -> Iterator[None]:
    """Keep `run.layer` the name of the innermost module that is running.

    Args:
        model: whose modules these are.
        run: has the attribute.
        shapes: filled with the sizes of what each module returns, if it is a tensor.
    """
    running: list[str] = []
    handles = []

    def entering(name: str) -> Any:
        def hook(*_: object) -> None:
            running.append(run.layer)
            run.layer = name
            if shapes is not None:
                shapes.setdefault(name, ())

        return hook

    def leaving(name: str) -> Any:
        def hook(_module: nn.Module, _args: object, out: object) -> None:
            run.layer = running.pop()
            if shapes is not None and isinstance(out, Tensor):
                shapes[name] = tuple(out.shape)

        return hook

    for name, module in model.named_modules():
        if name:
            handles.append(module.register_forward_pre_hook(entering(name), prepend=True))
            handles.append(module.register_forward_hook(leaving(name), always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
