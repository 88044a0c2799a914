"""Put a network's channels on several devices, as AlexNet's towers were.

>>> # torchrun --nproc-per-node 2 this.py
>>> mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("groups",))  # doctest: +SKIP
>>> model = regroup.create_model("alexnet")
>>> shard(model, mesh, torch.empty(8, 3, 227, 227))  # doctest: +SKIP
>>> optimizer = torch.optim.SGD(model.parameters(), 0.01)
>>> loss = model(images).sum()  # the same images on all devices of a group  # doctest: +SKIP

Each process then has its part of every parameter, of its gradient and of the optimiser's state; the network
is called as before and returns whole outputs. Together with data parallelism: a mesh with a second dimension,
over which `DistributedDataParallel` averages gradients as ever.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import DeviceMesh

from regroup.errors import ConfigError, ParallelError, RegroupError
from regroup.parallel.agreement import Called, agree_on_plan
from regroup.parallel.planning import Plan, plan
from regroup.parallel.state import Shared, own_part
from regroup.parallel.wire import GroupWire, Wire

GROUPS, DATA = "groups", "data"
"""Names of a mesh's dimensions: devices that share channels, and those that share images."""

TIMEOUT = timedelta(minutes=5)


def shard(model: nn.Module, mesh: DeviceMesh, *inputs: Any, timeout: timedelta = TIMEOUT) -> nn.Module:
    """Let the devices of a mesh share a network's channels, in place.

    Outputs, gradients and training are those of one device, but for the order in which sums are formed.
    All processes must call it with the same model, and then call the model with the same images; dropout
    draws the same numbers everywhere, as long as all processes of a group have the same seed.

    Args:
        model: the whole network, on this process's device. An optimiser is made afterwards.
        mesh: one dimension, or one named "groups": the devices that share channels.
        inputs: what a step gives the model; only sizes count. See `plan`.
        timeout: how long to wait for another process, on CPUs; on GPUs the process group's own counts.

    Returns:
        The model, whose parameters are now this device's part.

    Raises:
        ConfigError: the mesh has no such dimension, or its size fits the groups of no convolution.
        ParallelError: the processes are not at one about model, weights, inputs or mesh, or one is not there;
            the model is shared already.
    """
    if isinstance(model, Shared):
        raise ParallelError("the network is shared among devices already")
    group = _group(mesh)
    wire = GroupWire(group, timeout)
    found: Plan | RegroupError
    try:
        found = plan(model, wire.devices, *inputs)
    except RegroupError as error:
        found = error
    agree_on_plan(model, wire, found)
    if isinstance(found, RegroupError):
        raise found
    share(model, wire, found)
    return model


def share(model: nn.Module, wire: Wire, decided: Plan) -> None:
    """Keep of each parameter what this device has, and let `forward` know of the others."""
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if name in decided.splits:
                tensor.data = own_part(tensor.data, decided.splits[name], wire)
                tensor.grad = None
    cls = type(model)
    model.__class__ = type(cls.__name__, (Shared, cls), {"__module__": cls.__module__})
    made: Any = model
    made.shared_plan, made.shared_wire, made.shared_calls = decided, wire, Called()


def _group(mesh: DeviceMesh) -> distributed.ProcessGroup:
    names = mesh.mesh_dim_names
    if names is None and mesh.ndim == 1:
        return mesh.get_group()
    if names is None or GROUPS not in names:
        raise ConfigError("mesh", names, f"one dimension, or one that is named {GROUPS!r}")
    return mesh.get_group(GROUPS)
