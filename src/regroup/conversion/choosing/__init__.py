"""Ways to choose the groups of a trained convolution. One file each; adding it is all there is to do.

>>> kernel, covariance = torch.randn(8, 8, 9).double(), torch.eye(72).double()
>>> part = choose("contiguous", kernel, covariance, 2)
>>> part.inputs.tolist()
[[0, 1, 2, 3], [4, 5, 6, 7]]

A choice is a function

    @choice("contiguous", paper="...")
    def contiguous(kernel, covariance, groups, generator): ...

of a kernel (M, C, K), the covariance (C * K, C * K) of the unfolded inputs, both float64, a number of
groups that divides M and C, and a generator of random numbers; it returns a `Partition`.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Generator, Tensor

from regroup.conversion.partition import Partition
from regroup.errors import ParameterError
from regroup.registry import Registry
from regroup.spec import divisors
from regroup.training.data.randomness import generator

Choice = Callable[[Tensor, Tensor, int, Generator], Partition]

choices: Registry[Choice] = Registry("choice", __name__, entry_point="regroup.choices")


def choice(name: str, *, paper: str) -> Callable[[Choice], Choice]:
    """Register a function as the choice called `name`.

    Args:
        name: one lower-case word.
        paper: where it was published.
    """

    def register(function: Choice) -> Choice:
        function.paper = paper  # type: ignore[attr-defined]
        return choices.add(name, function)

    return register


def choose(name: str, kernel: Tensor, covariance: Tensor, groups: int, seed: int = 0) -> Partition:
    """Return the groups that the choice called `name` makes.

    Args:
        name: of a choice.
        kernel: (M, C, K), K = R * S taps; float64.
        covariance: (C * K, C * K), of the unfolded inputs; float64.
        groups: how many.
        seed: what is drawn depends on.

    Raises:
        UnknownNameError: there is no such choice.
        ParameterError: `groups` does not divide the channels.
    """
    outputs, inputs = kernel.shape[:2]
    if groups not in divisors(inputs, outputs):
        raise ParameterError("groups", groups, f"a divisor of {inputs} inputs and {outputs} outputs")
    part = choices[name](kernel, covariance, groups, generator(seed))
    return part.sorted()
