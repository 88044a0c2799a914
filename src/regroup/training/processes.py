"""The processes that train together: one, or as many as `torchrun` has started, on any number of machines."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed, nn

from regroup.errors import ConfigError, TrainingError
from regroup.training.devices import Devices

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


@dataclass
class Processes:
    """This process among all that train together.

    Args:
        rank: number of this process; 0 writes files and shows progress.
        world: number of processes.
        device: where this process computes.
        group: a group over the CPU for what must not wait for a GPU; None for one process.
        mesh: of two dimensions, "data" and "groups"; None where each process has a whole network.
    """

    rank: int
    world: int
    device: torch.device
    group: distributed.ProcessGroup | None = None
    mesh: DeviceMesh | None = None
    _pending: tuple[torch.Tensor, distributed.Work] | None = field(default=None, repr=False)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and shows."""
        return self.rank == 0

    @property
    def parts(self) -> int:
        """Into how many parts the images are divided: processes that share channels have the same part."""
        return self.world if self.mesh is None else self.mesh["data"].size()

    @property
    def part(self) -> int:
        """Which part is this process's."""
        return self.rank if self.mesh is None else self.mesh.get_local_rank("data")

    @property
    def _others(self) -> distributed.ProcessGroup | None:
        """The processes that have the same channels of other parts; None: all."""
        return None if self.mesh is None else self.mesh.get_group("data")

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """Return the sum of `value` over all parts."""
        if self.parts == 1:
            return value
        total = value.clone()
        distributed.all_reduce(total, group=self._others)
        return total

    def any(self, here: bool) -> bool:
        """Tell whether it is so in any process."""
        if self.world == 1:
            return here
        ballot = torch.tensor(int(here))
        distributed.all_reduce(ballot, distributed.ReduceOp.MAX, group=self.group)
        return bool(ballot)

    def agree(self, number: int) -> int:
        """Return rank 0's `number` in every process."""
        if self.world == 1:
            return number
        value = torch.tensor(number)
        distributed.broadcast(value, 0, group=self.group)
        return int(value)

    def agree_all(self, numbers: Sequence[int]) -> list[int]:
        """Return rank 0's `numbers`, of which others may have more or fewer, in every process."""
        if self.world == 1:
            return list(numbers)
        values = torch.zeros(self.agree(len(numbers)), dtype=torch.int64)
        if self.first:
            values = torch.tensor(list(numbers), dtype=torch.int64)
        distributed.broadcast(values, 0, group=self.group)
        return values.tolist()

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
        if self.parts == 1 or not any(p.requires_grad for p in model.parameters()):
            return model
        ids = [self.device.index] if self.device.type == "cuda" else None
        options: Any = {"device_ids": ids, "gradient_as_bucket_view": True, "process_group": self._others}
        return nn.parallel.DistributedDataParallel(model, **options)

    def share(self, model: nn.Module, images: torch.Tensor) -> None:
        """Leave of a model what this process has of it, if processes share channels."""
        if self.mesh is not None and self.mesh["groups"].size() > 1:
            from regroup.parallel import shard

            shard(model, self.mesh, images, timeout=PATIENCE)

    def share_buffers(self, model: nn.Module) -> None:
        """Give the first part's buffers (running means, masks) to all: in training each has its own."""
        if self.parts > 1:
            for buffer in model.buffers():
                distributed.broadcast(buffer, group=self._others, group_src=0)


PATIENCE = timedelta(minutes=30)
"""How long a process waits for another, which may be writing a checkpoint."""

_GONE = ("closed by peer", "reset by peer", "Broken pipe")


@contextmanager
def joined(device: str | None, devices: Devices | None = None) -> Iterator[Processes]:
    """Join the processes that `torchrun` started, if it did, and leave them at the end.

    Args:
        device: where to compute; None: a GPU of this process's own if there is one, else the CPU.
        devices: which of them share channels; None: none do.

    Raises:
        ConfigError: there is no such device, or there are more or fewer processes than `devices` says.
        TrainingError: another process ended while this one needed it.
    """
    here = find_device(device)
    world = int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1
    if distributed.is_initialized():
        world = distributed.get_world_size()
    _check_count(devices, world)
    if world == 1 and not distributed.is_initialized():
        yield Processes(0, 1, here)
        return
    own = not distributed.is_initialized()
    if own:
        distributed.init_process_group("nccl" if here.type == "cuda" else "gloo")
    try:
        group: Any = distributed.new_group(backend="gloo")
        together = Processes(distributed.get_rank(), world, here, group, _mesh(devices, here))
        yield together
        together.settle()
    except RuntimeError as error:
        if not any(sign in str(error) for sign in _GONE):
            raise
        raise TrainingError("another process of this training has ended; its own message says why") from error
    finally:
        if own:
            distributed.destroy_process_group()


def _check_count(devices: Devices | None, world: int) -> None:
    if devices is not None and devices.processes != world:
        told = f"groups={devices.groups},data={devices.data}"
        remedy = f"start it with torchrun --nproc-per-node {devices.processes} -m regroup train ..."
        raise ConfigError("devices", told, f"as many as there are processes ({world})", remedy)


def _mesh(devices: Devices | None, device: torch.device) -> DeviceMesh | None:
    if devices is None or devices.groups == 1:
        return None
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(device.type, (devices.data, devices.groups), mesh_dim_names=("data", "groups"))


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
