"""What an export needs of a machine: flash, memory step by step, multiply-adds; and whether it has that."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from regroup.aot.network import Network
from regroup.aot.object import Object
from regroup.errors import ParameterError
from regroup.kernels.problems.view import ARENA
from regroup.kernels.program import Arrangement
from regroup.kernels.templates.winograd.kernel import Winograd

_MOST_TENSORS = 3
"""Named where memory does not suffice."""


@dataclass(frozen=True)
class StepReport:
    """What a step needs.

    Attributes:
        name: what it does.
        macs: multiply-adds of convolutions and linear layers.
        share: of the time of a call, as it is expected.
        live: bytes of each tensor in the arena that is needed during the step, by what makes it.
        private: bytes that its kernels need besides.
    """

    name: str
    macs: int
    share: float
    live: dict[str, int]
    private: int

    @property
    def bytes(self) -> int:
        """Of its tensors and private memory."""
        return sum(self.live.values()) + self.private


@dataclass(frozen=True)
class Report:
    """What a network needs on a machine; all sizes in bytes.

    Attributes:
        machine: name of the machine.
        code: instructions and constant tables.
        weights: packed weights.
        arena: what a call's memory takes, tensors and private memory of kernels, packed without holes or not.
        buffers: what the caller needs for inputs and outputs.
        steps: in order.
        winograd: of the weights, those transformed for Winograd's algorithm, which besides are there as they
            are; None: it was left out.
    """

    machine: str
    code: int
    weights: int
    arena: int
    buffers: int
    steps: tuple[StepReport, ...]
    winograd: int | None = None

    @property
    def flash(self) -> int:
        """Code and weights."""
        return self.code + self.weights

    @property
    def ram(self) -> int:
        """The arena, inputs and outputs; the stack (a few KiB) is not counted."""
        return self.arena + self.buffers

    @property
    def macs(self) -> int:
        """Multiply-adds of one image."""
        return sum(step.macs for step in self.steps)

    def as_json(self) -> str:
        """Return all of it as JSON."""
        totals = {"flash": self.flash, "ram": self.ram, "macs": self.macs}
        return json.dumps({**asdict(self), **totals}, indent=1) + "\n"

    def __str__(self) -> str:
        peak = max(self.steps, key=lambda step: step.bytes)
        lines = [
            f"{self.machine}: bytes of memory that lasts, and of working memory without the stack",
            "",
            f"flash  {self.flash:>12,}  code {self.code:,}, weights {self.weights:,}",
            f"ram    {self.ram:>12,}  arena {self.arena:,}, inputs and outputs {self.buffers:,}",
            f"macs   {self.macs:>12,}",
            "",
            self._about_winograd(),
            f"The most memory is needed in step {self.steps.index(peak)}, {peak.name}: {_made_of(peak)}",
            "",
            f"{'step':>4} {'ram':>12} {'macs':>14} {'time':>6}  what",
        ]
        for i, step in enumerate(self.steps):
            lines.append(f"{i:>4} {step.bytes:>12,} {step.macs:>14,} {step.share:>6.1%}  {step.name}")
        return "\n".join(lines) + "\n"

    def _about_winograd(self) -> str:
        if self.winograd is None:
            return "Winograd's algorithm is left out: weights would take 25/9 of the memory (winograd=true)."
        if not self.winograd:
            return "Winograd's algorithm would speed up no convolution of it."
        return f"Of the weights, {self.winograd:,} are for Winograd's algorithm (winograd=false: none)."


def report(networks: Sequence[Network], made: Object, machine: str) -> Report:
    """Return what an export needs; of several CPUs, the steps are those of the one that needs most memory."""
    winograd = sum(map(_winograd, made.arrangements)) if networks[0].target.winograd else None
    found = [_steps(*each) for each in zip(networks, made.arrangements, strict=True)]
    steps = max(found, key=lambda steps: max((step.bytes for step in steps), default=0))
    buffers = 4 * sum(port.floats for port in (*networks[0].inputs, *networks[0].outputs))
    weights = len(made.weights)
    return Report(machine, made.code_bytes, weights, made.arena_bytes, buffers, steps, winograd)


def _steps(network: Network, arrangement: Arrangement) -> tuple[StepReport, ...]:
    cycles = [sum(kernel.cycles for kernel in kernels) for kernels in arrangement.kernels]
    live = _live(network)
    return tuple(
        StepReport(
            name,
            sum(problem.macs for problem in problems),
            cycles[i] / max(sum(cycles), 1.0),
            live[i],
            4 * max((kernel.scratch for kernel in arrangement.kernels[i]), default=0),
        )
        for i, (name, problems) in enumerate(zip(arrangement.names, arrangement.problems, strict=True))
    )


def _winograd(arrangement: Arrangement) -> int:
    """Return the bytes of transformed weights."""
    kernels = [kernel for step in arrangement.kernels for kernel in step]
    return 4 * sum(kernel.packed - kernel.rare for kernel in kernels if isinstance(kernel, Winograd))


def parse_size(parameter: str, text: str | int | None) -> int | None:
    """Return a number of bytes: 1000, "256k" (KiB), "1M" (MiB).

    >>> parse_size("ram", "256k")
    262144

    Raises:
        ParameterError: it is none.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)([kKmM]?)", str(text).strip())
    if not match or not int(match[1]):
        raise ParameterError(parameter, text, "a number of bytes, such as 65536, 256k or 1M")
    return int(match[1]) << {"": 0, "k": 10, "m": 20}[match[2].lower()]


def require_fit(
    found: Report, ram: int | None, flash: int | None, smaller: Callable[[int], tuple[int, int] | None]
) -> None:
    """Raise an error if a machine has less memory than is needed, which names what needs most.

    Args:
        found: what is needed.
        ram: bytes of working memory that there are; None: any.
        flash: bytes for code and weights, likewise.
        smaller: finds height and width of images for which so much working memory suffices.

    Raises:
        ParameterError: it has.
    """
    if flash is not None and found.flash > flash:
        needed = f"at least {found.flash}, bytes of code {found.code:,} and weights {found.weights:,}"
        advice = "leave winograd out" if found.winograd else "take a narrower network"
        raise ParameterError("flash", flash, needed, advice)
    if ram is not None and found.ram > ram:
        peak = max(found.steps, key=lambda step: step.bytes)
        parts = f"the arena {found.arena:,} and inputs and outputs {found.buffers:,}"
        most = f"most is needed in step {found.steps.index(peak)}, {peak.name}: {_made_of(peak)}"
        side = smaller(ram)
        advice = "a narrower network" if side is None else f"images of {side[0]}x{side[1]}, which fit"
        raise ParameterError("ram", ram, f"at least {found.ram}, bytes of {parts}", f"{most}; take {advice}")


def _made_of(step: StepReport) -> str:
    largest = sorted(step.live.items(), key=lambda item: -item[1])
    parts = [f"{name} {size:,}" for name, size in largest[:_MOST_TENSORS]]
    rest = sum(size for _, size in largest[_MOST_TENSORS:])
    parts += [f"others {rest:,}"] if rest else []
    parts += [f"private memory of kernels {step.private:,}"] if step.private else []
    return " + ".join(parts) or "nothing"


def _live(network: Network) -> list[dict[str, int]]:
    """Return the bytes of each tensor in the arena that is needed in each step, by what has written it."""
    tasks, found = network.schedule.tasks, []
    spans: dict[int, tuple[int, int, int, str]] = {}
    for step, mine in enumerate(tasks):
        for task in mine:
            for place in (*task.reads, task.writes):
                if place.slab.buffer == ARENA:
                    first, _, size, name = spans.get(id(place.slab), (step, step, 0, task.name))
                    size = size or 4 * place.slab.view().floats
                    spans[id(place.slab)] = (first, step, size, name)
    for step in range(len(tasks)):
        found.append({})
        for first, last, size, name in spans.values():
            if first <= step <= last:
                label = f"{name} (step {first})"
                found[-1][label] = found[-1].get(label, 0) + size
    return found
