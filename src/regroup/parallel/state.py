"""A network that is on several devices, and its state: as one device has it, and as each of several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from regroup.parallel.agreement import Called
from regroup.parallel.divided import Divided
from regroup.parallel.places import places
from regroup.parallel.running import Running, Split
from regroup.parallel.wire import Wire, gather_rows, select


class Shared(nn.Module):
    """What `shard` makes of a network's class: the same with channels on several devices.

    Attributes:
        shared_plan: what is where.
        shared_wire: to the other devices.
        shared_calls: those in which they made sure to be at one.
    """

    shared_plan: Any
    shared_wire: Wire
    shared_calls: Called

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the network's own code on divided tensors; return whole ones."""
        run = Running(self.shared_wire, self, self.shared_plan.splits)
        with self.shared_calls.asking(self.shared_wire, self.training, (args, kwargs)):
            with run, places(self, run):
                outputs = super().forward(*args, **kwargs)
            run.layer = ""
            return tree_map_only(Divided, run.whole, outputs)


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


def scattered(model: nn.Module, state: Any) -> Any:
    """Return what this device has of the state dict of the whole network, for `load_state_dict`."""
    if not isinstance(model, Shared) or not isinstance(state, Mapping):
        return state
    splits, wire = model.shared_plan.splits, model.shared_wire
    return {n: _own_of_whole(t, splits.get(n), wire) for n, t in state.items()}


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


@torch.no_grad()
def unshard(model: nn.Module) -> None:
    """Give each device the whole network again; all that share it must call it. Gradients are dropped."""
    if not isinstance(model, Shared):
        return
    splits, wire = model.shared_plan.splits, model.shared_wire
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name in splits:
            tensor.data = gather_part(tensor.data, splits[name], wire)
            tensor.grad = None
    model.__class__ = type(model).__mro__[2]
    del model.shared_plan, model.shared_wire, model.shared_calls


@torch.no_grad()
def gradient_norm(model: nn.Module) -> Tensor:
    """Return the norm of all gradients together, as one device would have it; all devices must call it."""
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    splits = model.shared_plan.splits if isinstance(model, Shared) else {}
    squares = {n: g.float().square().sum() for n, g in gradients.items()}
    ours = [s for n, s in squares.items() if n in splits]
    total = torch.stack([s for n, s in squares.items() if n not in splits] or [torch.zeros(())]).sum()
    if isinstance(model, Shared):
        total = total + model.shared_wire.total(torch.stack(ours).sum(), "", False).to(total.device)
    return total.sqrt()


def gather_part(tensor: Tensor, split: Split | None, wire: Wire) -> Tensor:
    """Return the whole of a parameter, or of what has its shape."""
    if split is None:
        return tensor
    return gather_rows(wire, tensor.detach(), split.division, split.dim, "", False).contiguous()


def own_part(tensor: Tensor, split: Split, wire: Wire) -> Tensor:
    """Return what this device has of a whole parameter, as a tensor of its own."""
    return select(tensor, split.dim, split.division.held[wire.rank]).clone(
        memory_format=torch.contiguous_format
    )


def _own_of_whole(tensor: Tensor, split: Split | None, wire: Wire) -> Tensor:
    """Return our part; of what cannot be the whole, all of it, for whoever loads it to refuse."""
    fits = split is not None and isinstance(tensor, Tensor) and tensor.dim() > split.dim
    if split is None or not fits or tensor.shape[split.dim] != sum(split.division.counts):
        return tensor
    return own_part(tensor, split, wire)


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
