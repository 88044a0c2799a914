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

import hashlib
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.utils._pytree import tree_map_only

from regroup.errors import ConfigError, ParallelError, RegroupError
from regroup.parallel.divided import Divided
from regroup.parallel.places import places
from regroup.parallel.planning import Plan, plan
from regroup.parallel.running import Running, Split
from regroup.parallel.wire import GroupWire, Wire, gather_rows, select

GROUPS, DATA = "groups", "data"
"""Names of a mesh's dimensions: devices that share channels, and those that share images."""

TIMEOUT = timedelta(minutes=5)


class Shared(nn.Module):
    """What `shard` makes of a network's class: the same with channels on several devices.

    Attributes:
        shared_plan: what is where.
        shared_wire: to the other devices.
    """

    shared_plan: Plan
    shared_wire: Wire

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the network's own code on divided tensors; return whole ones."""
        run = Running(self.shared_wire, self, self.shared_plan.splits)
        with run, places(self, run):
            outputs = super().forward(*args, **kwargs)
        run.layer = ""
        return tree_map_only(Divided, run.whole, outputs)


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
        ParallelError: the processes are not at one about model, inputs or mesh; the model is shared already.
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
    _agree(model, wire, found)
    if isinstance(found, RegroupError):
        raise found
    share(model, wire, found)
    return model


def share(model: nn.Module, wire: Wire, decided: Plan) -> None:
    """Keep of each parameter what this device has, and let `forward` know of the others."""
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if name in decided.splits:
                tensor.data = _own(tensor.data, decided.splits[name], wire)
                tensor.grad = None
    cls = type(model)
    model.__class__ = type(cls.__name__, (Shared, cls), {"__module__": cls.__module__})
    model.shared_plan, model.shared_wire = decided, wire  # type: ignore[unresolved-attribute]


def shared(model: nn.Module) -> Shared | None:
    """Return the model if its channels are on several devices."""
    return model if isinstance(model, Shared) else None


def gathered(model: nn.Module, state: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return the state dict of the whole network; all devices that share it must call it.

    Args:
        model: of `shard`; another one's is returned as it is.
        state: another state of the same names and shapes, such as that of a moving average.
    """
    state = model.state_dict() if state is None else state
    if not isinstance(model, Shared):
        return dict(state)
    splits, wire = model.shared_plan.splits, model.shared_wire
    return {n: gather_part(t, splits.get(n), wire) for n, t in state.items()}


def scattered(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what this device has of the state dict of the whole network, for `load_state_dict`."""
    if not isinstance(model, Shared):
        return dict(state)
    splits, wire = model.shared_plan.splits, model.shared_wire
    return {n: _own(t, splits[n], wire) if n in splits else t for n, t in state.items()}


def gathered_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the optimiser's state dict as it is on one device; all devices must call it.

    What an optimiser keeps for a parameter and that has its shape is divided as it is.
    """
    return _optimizer_state(model, optimizer, optimizer.state_dict(), gather_part)


def scattered_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what this device has of an optimiser's state of one device, for its `load_state_dict`."""
    return _optimizer_state(model, optimizer, state, _own_of_whole)


def gather_part(tensor: Tensor, split: Split | None, wire: Wire) -> Tensor:
    """Return the whole of a parameter, or of what has its shape."""
    if split is None:
        return tensor
    return gather_rows(wire, tensor.detach(), split.division, split.dim, "", False).contiguous()


def _own(tensor: Tensor, split: Split, wire: Wire) -> Tensor:
    return select(tensor, split.dim, split.division.held[wire.rank]).clone(
        memory_format=torch.contiguous_format
    )


def _own_of_whole(tensor: Tensor, split: Split | None, wire: Wire) -> Tensor:
    return tensor if split is None else _own(tensor, split, wire)


def _optimizer_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any], change: Any
) -> dict[str, Any]:
    """Change what an optimiser keeps of divided parameters: what has as many dimensions as they."""
    if not isinstance(model, Shared):
        return dict(state)
    splits, wire = model.shared_plan.splits, model.shared_wire
    names = {id(p): name for name, p in model.named_parameters()}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    numbers = [n for group in state["param_groups"] for n in group["params"]]
    kept = {number: dict(entry) for number, entry in state["state"].items()}
    for number, parameter in zip(numbers, parameters, strict=True):
        split = splits.get(names.get(id(parameter), ""))
        for key, value in kept.get(number, {}).items():
            if isinstance(value, Tensor) and value.dim() == parameter.dim():
                kept[number][key] = change(value, split, wire)
    return {**state, "state": kept}


def _group(mesh: DeviceMesh) -> distributed.ProcessGroup:
    names = mesh.mesh_dim_names
    if names is None and mesh.ndim == 1:
        return mesh.get_group()
    if names is None or GROUPS not in names:
        raise ConfigError("mesh", names, f"one dimension, or one that is named {GROUPS!r}")
    return mesh.get_group(GROUPS)


def _agree(model: nn.Module, wire: GroupWire, found: Plan | RegroupError) -> None:
    """Make sure that all processes are about to do the same; otherwise all of them say so."""
    if isinstance(found, Plan):
        parts = [(n, tuple(t.shape), str(t.dtype)) for n, t in model.state_dict().items()]
        text = repr((parts, [(n, s.dim, s.division.key) for n, s in found.splits.items()], found.sent))
        mine = hashlib.sha256(text.encode()).hexdigest()
    else:
        mine = f"{type(found).__name__}: {found}"
    answers: list[Any] = [None] * wire.devices
    distributed.all_gather_object(answers, mine, group=wire.group)
    if len(set(answers)) > 1:
        said = "; ".join(f"process {i}: {a}" for i, a in enumerate(answers) if ":" in a)
        raise ParallelError(
            "the processes of the mesh do not share one plan: give all of them one model, inputs of one size "
            f"and one mesh{f' ({said})' if said else ''}"
        )
