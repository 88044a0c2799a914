"""How long a training step takes on devices that are tied by a wire of known speed: a model of two numbers.

>>> from regroup.parallel import plan
>>> towers = plan(regroup.create_model("alexnet", num_classes=10), 2, torch.empty(128, 3, 227, 227))
>>> channels, images = step_times(towers, ETHERNET, macs_per_second=50e12)
>>> channels.talking < images.talking  # a batch of 128 is far below `towers.even_batch`
True

A collective takes the latency of each device it hears from, and its bytes by the bandwidth; a device does one
after the other, for its next layer waits for them. Where kinds of collectives differ (gloo's reduce-scatter
moves as much as its all-reduce), a link has two numbers for each kind. Gradients of data parallelism are
summed while the backward pass still runs: only what does not fit beside it is waited for. A backward pass is
two forward passes of work. `benchmarks/parallel.py` holds this against processes on one machine.
"""

from __future__ import annotations

from collections.abc import Mapping
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


Links = Link | Mapping[str, Link]
"""One link for every collective, or one for each kind, by the names of `regroup.parallel.wire.Sent`."""

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


def step_times(plan: Plan, links: Links, macs_per_second: float) -> tuple[StepTime, StepTime]:
    """Return the time of a step when devices share channels, and when they share images.

    Args:
        plan: of the network and the whole batch.
        links: between the devices.
        macs_per_second: that a device does.
    """
    computing = STEP * plan.data.macs / macs_per_second
    summing = _summing(plan.data.received, plan.devices, links)
    return _sharing(plan, links, macs_per_second), StepTime(computing, _beside(summing, computing))


def mixed_time(plan: Plan, copies: int, links: Links, between: Links, macs_per_second: float) -> StepTime:
    """Return the time of a step when groups of devices share channels, and several such groups share images.

    >>> from regroup.parallel import plan
    >>> both = plan(regroup.create_model("alexnet", num_classes=10), 2, torch.empty(64, 3, 227, 227))
    >>> time = mixed_time(both, 2, NVLINK, ETHERNET, macs_per_second=50e12)  # 128 images on 4 devices
    >>> time.talking > step_times(both, NVLINK, 50e12)[0].talking
    True

    Args:
        plan: of the network on one group, with the images of one group.
        copies: groups that share images.
        links: between the devices of a group.
        between: between devices of different groups.
        macs_per_second: that a device does.
    """
    own = _sharing(plan, links, macs_per_second)
    summing = _summing(mixed_bytes(plan, copies), copies, between)
    return StepTime(own.computing, own.talking + _beside(summing, own.computing))


def mixed_bytes(plan: Plan, copies: int) -> int:
    """Return the bytes of gradients that a device receives when several groups share images: a ring's."""
    gradients = plan.groups.weights // _KEPT
    return 2 * gradients * (copies - 1) // copies


_KEPT = 3  # weights, gradients, momentum: `Load.weights` has all of them


def _sharing(plan: Plan, links: Links, macs_per_second: float) -> StepTime:
    heard = plan.devices - 1
    each = ((max(one.bytes), _link(links, one.kind)) for one in plan.sent)
    talking = sum(size / link.bandwidth + heard * link.latency for size, link in each)
    return StepTime(STEP * plan.groups.macs / macs_per_second, talking)


def _summing(received: float, devices: int, links: Links) -> float:
    link = _link(links, "all-reduce")
    return received / link.bandwidth + 2 * (devices - 1) * link.latency if devices > 1 else 0.0


def _beside(summing: float, computing: float) -> float:
    return max(0.0, summing - computing * (STEP - FORWARD) / STEP)


def _link(links: Links, kind: str) -> Link:
    return links if isinstance(links, Link) else links[kind]
