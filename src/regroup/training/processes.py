"""The processes that train together: one, or as many as `torchrun` has started, on any number of machines."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import distributed, nn

from regroup.errors import ConfigError, TrainingError


@dataclass
class Processes:
    """This process among all that train together.

    Args:
        rank: number of this process; 0 writes files and shows progress.
        world: number of processes.
        device: where this process computes.
        group: a group over the CPU for what must not wait for a GPU; None for one process.
    """

    rank: int
    world: int
    device: torch.device
    group: distributed.ProcessGroup | None = None
    _pending: tuple[torch.Tensor, distributed.Work] | None = field(default=None, repr=False)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and shows."""
        return self.rank == 0

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """Return the sum of all processes' `value`."""
        if self.world == 1:
            return value
        total = value.clone()
        distributed.all_reduce(total)
        return total

    def agree(self, number: int) -> int:
        """Return rank 0's `number` in every process."""
        if self.world == 1:
            return number
        value = torch.tensor(number)
        distributed.broadcast(value, 0, group=self.group)
        return int(value)

    def vote(self, number: int) -> int:
        """Return the largest number of all processes, the same in all of them: 0 goes on, a signal stops.

        With several processes it is the result of the vote before, so that nobody waits for this one.
        """
        if self.world == 1:
            return number
        before = self.settle()
        ballot = torch.tensor(number)
        work = distributed.all_reduce(ballot, distributed.ReduceOp.MAX, group=self.group, async_op=True)
        self._pending = (ballot, work)
        return before

    def settle(self) -> int:
        """Return the result of the last vote, once all have cast theirs."""
        if self._pending is None:
            return 0
        ballot, work = self._pending
        work.wait()
        self._pending = None
        return int(ballot)

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the module to call in training: it averages the gradients of all processes."""
        if self.world == 1 or not any(p.requires_grad for p in model.parameters()):
            return model
        ids = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True)

    def share_buffers(self, model: nn.Module) -> None:
        """Give rank 0's buffers (running means, masks) to all: in training each process has its own."""
        if self.world > 1:
            for buffer in model.buffers():
                distributed.broadcast(buffer, 0)


_GONE = ("closed by peer", "reset by peer", "Broken pipe")


@contextmanager
def joined(device: str | None) -> Iterator[Processes]:
    """Join the processes that `torchrun` started, if it did, and leave them at the end.

    Args:
        device: where to compute; None: a GPU of this process's own if there is one, else the CPU.

    Raises:
        ConfigError: there is no such device.
        TrainingError: another process ended while this one needed it.
    """
    here = find_device(device)
    world = int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1
    if world == 1 and not distributed.is_initialized():
        yield Processes(0, 1, here)
        return
    own = not distributed.is_initialized()
    if own:
        distributed.init_process_group("nccl" if here.type == "cuda" else "gloo")
    try:
        group: Any = distributed.new_group(backend="gloo")
        together = Processes(distributed.get_rank(), distributed.get_world_size(), here, group)
        yield together
        together.settle()
    except RuntimeError as error:
        if not any(sign in str(error) for sign in _GONE):
            raise
        raise TrainingError("another process of this training has ended; its own message says why") from error
    finally:
        if own:
            distributed.destroy_process_group()


def find_device(name: str | None) -> torch.device:
    """Return the device called so; None: a GPU of this process's own if there is one, else the CPU.

    Raises:
        ConfigError: there is no such device.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.ones(1, device=device).cpu()  # the device "meta" has no numbers
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        cause = str(error).partition("\n")[0]
        raise ConfigError("device", name, "a device of this machine", cause) from error
    return device
