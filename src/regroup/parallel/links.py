"""How long a training step takes on devices that are tied by a wire of known speed: a model of two numbers.

>>> from regroup.parallel import plan
>>> towers = plan(regroup.create_model("alexnet", num_classes=10), 2, torch.empty(128, 3, 227, 227))
>>> channels, images = step_times(towers, ETHERNET, macs_per_second=50e12)
>>> channels.talking < images.talking  # a batch of 128 is far below `towers.even_batch`
True

A collective takes the latency of each device it hears from, and its bytes by the bandwidth; a device does one
after the other, for its next layer waits for them. Gradients of data parallelism are summed while the
backward pass still runs: only what does not fit beside it is waited for. A backward pass is two forward
passes of work. `benchmarks/parallel.py` holds this against processes on one machine.
"""

from __future__ import annotations

from dataclasses import dataclass

from regroup.parallel.planning import Plan

FORWARD, STEP = 1, 3
"""Work of a forward pass, and of a whole step, in forward passes."""


@dataclass(frozen=True)
class Link:
    """A wire between devices.

    Args:
        bandwidth: bytes a second that a device can receive.
        latency: seconds until the first byte has come.
    """

    bandwidth: float
    latency: float


NVLINK = Link(450e9, 5e-6)
"""Fourth generation, one direction, within a machine."""
ETHERNET = Link(3.1e9, 30e-6)
"""25 Gb/s between machines."""


@dataclass(frozen=True)
class StepTime:
    """Seconds of a training step: its arithmetic, and what is waited for beside it."""

    computing: float
    talking: float

    @property
    def total(self) -> float:
        """Both."""
        return self.computing + self.talking


def step_times(plan: Plan, link: Link, macs_per_second: float) -> tuple[StepTime, StepTime]:
    """Return the time of a step when devices share channels, and when they share images.

    Args:
        plan: of the network and the whole batch.
        link: between the devices.
        macs_per_second: that a device does.
    """
    heard = plan.devices - 1
    ours = [max(one.bytes) / link.bandwidth + heard * link.latency for one in plan.sent]
    channels = StepTime(STEP * plan.groups.macs / macs_per_second, sum(ours))
    computing = STEP * plan.data.macs / macs_per_second
    summing = plan.data.received / link.bandwidth + 2 * heard * link.latency
    beside = computing * (STEP - FORWARD) / STEP
    return channels, StepTime(computing, max(0.0, summing - beside))
