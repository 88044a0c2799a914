"""Networks written down anew in one function each, under the keys of their official repositories.

Nobody else has these networks in a library. A sketch makes its layers when it first runs, under whatever key
the function gives; so the function alone says names, shapes and arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Definition = tuple[Callable[[], nn.Module], dict[str, object]]
"""Makes a reference with new weights; and what ours must be told to be the same."""


class Sketch(nn.Module):
    """A module made from a function (sketch, x) -> y."""

    def __init__(self, run: Callable[[Sketch, Tensor], Tensor], side: int = 64) -> None:
        super().__init__()
        self._run = run
        self.name: Callable[[str], str] = lambda path: path
        with torch.no_grad():
            self(torch.randn(2, 3, side, side))

    def forward(self, x: Tensor) -> Tensor:
        return self._run(self, x)

    def _place(self, path: str) -> tuple[nn.Module, str]:
        *parents, name = self.name(path).split(".")
        place: nn.Module = self
        for parent in parents:
            if parent not in place._modules:
                place._modules[parent] = nn.Module()  # add_module refuses names that a sketch has
            place = place._modules[parent]
        return place, name

    def buffer(self, path: str, make: Callable[[], Tensor]) -> Tensor:
        """Return the buffer at `path`, made if it is not there yet."""
        place, name = self._place(path)
        if name not in place._buffers:
            place.register_buffer(name, make())
        return place._buffers[name]

    def parameter(self, path: str, make: Callable[[], Tensor]) -> Tensor:
        """Return the parameter at `path`, made if it is not there yet."""
        place, name = self._place(path)
        if name not in place._parameters:
            place.register_parameter(name, nn.Parameter(make()))
        return place._parameters[name]

    def layer(self, path: str, make: Callable[[], nn.Module]) -> nn.Module:
        """Return the module at `path`, made if it is not there yet."""
        place, name = self._place(path)
        if name not in place._modules:
            place._modules[name] = make()
        return place._modules[name]

    def conv(
        self, path: str, x: Tensor, out: int, k: int | tuple[int, int] = 1, stride: int = 1, **more: object
    ) -> Tensor:
        more = {"padding": 0 if isinstance(k, tuple) else k // 2, "bias": False, **more}
        return self.layer(path, lambda: nn.Conv2d(x.shape[1], out, k, stride, **more))(x)

    def norm(self, path: str, x: Tensor, **more: float) -> Tensor:
        return self.layer(path, lambda: nn.BatchNorm2d(x.shape[1], **more))(x)

    def linear(self, path: str, x: Tensor, out: int = 1000, bias: bool = True) -> Tensor:
        return self.layer(path, lambda: nn.Linear(x.shape[1], out, bias))(x)

    def head(self, path: str, x: Tensor, out: int = 1000) -> Tensor:
        return self.linear(path, F.adaptive_avg_pool2d(x, 1).flatten(1), out)
