"""What a kernel can be asked to do: one small dataclass per kind of work, shapes and layout included.

A problem says nothing about how; a template (`regroup.kernels.templates`) turns it into code.

Numbers that are not known when code is generated (weights, biases, scales) come in separately, under the
names and shapes that `parameters` lists, in PyTorch's layout; a template packs them.
"""

from __future__ import annotations

from dataclasses import dataclass

from regroup.kernels.problems.fused import NO_EPILOGUE, NO_PROLOGUE, Epilogue, Prologue, parsed
from regroup.kernels.problems.view import Halo, View

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Problem:
    """Work of one kernel: reads views, writes the view `y`, each element once.

    The views in `views` are passed to the generated function as pointers, in that order, so problems
    that differ only in places share one function.
    """

    x: View
    y: View

    @property
    def views(self) -> tuple[View, ...]:
        """All views, inputs first, `y` last."""
        return (self.x, self.y)

    @property
    def view_names(self) -> tuple[str, ...]:
        """What people call the views."""
        inner = [f"view{i}" for i in range(1, len(self.views) - 1)]
        return (*(["x"] if len(self.views) > 1 else []), *inner, "y")

    @property
    def parameters(self) -> dict[str, Shape]:
        """Name and shape of each weight tensor."""
        return {}

    @property
    def constants(self) -> tuple[str, ...]:
        """Names of the parameters that are read through views, whose buffer is `WEIGHTS`, in their order."""
        return ()

    @property
    def macs(self) -> int:
        """Multiply-adds of convolutions and linear layers, 0 for all else."""
        return 0

    @property
    def x_halo(self) -> Halo:
        """Zeros that the kernel reads around `x`: its view's halo must be at least this."""
        return Halo()


@dataclass(frozen=True)
class Fused(Problem):
    """A problem with a prologue and an epilogue."""

    prologue: Prologue = NO_PROLOGUE
    epilogue: Epilogue = NO_EPILOGUE

    def __post_init__(self) -> None:
        parsed(self.prologue.activation)
        assert self.epilogue.slope is None or parsed(self.epilogue.activation)[0] == "none"

    @property
    def views(self) -> tuple[View, ...]:
        """The input, the input gate, what the epilogue reads and the output, as far as there are any."""
        gate = () if self.prologue.gate is None else (self.prologue.gate,)
        return (self.x, *gate, *self.epilogue.views, self.y)

    @property
    def view_names(self) -> tuple[str, ...]:
        """In the order of `views`."""
        gate = () if self.prologue.gate is None else ("input_gate",)
        return ("x", *gate, *self.epilogue.view_names, "y")

    @property
    def constants(self) -> tuple[str, ...]:
        """The slopes, if there are any."""
        return () if self.epilogue.slope is None else ("slope",)

    def fused_parameters(self, channels_in: int) -> dict[str, Shape]:
        """Return the parameters of the prologue (on so many channels) and of the epilogue."""
        parameters: dict[str, Shape] = {}
        if self.prologue.affine:
            parameters |= {"in_scale": (channels_in,), "in_shift": (channels_in,)}
        if self.epilogue.bias:
            parameters |= {"bias": (self.y.channels,)}
        return parameters | dict.fromkeys(self.constants, (self.y.channels,))
