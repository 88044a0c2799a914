"""What became of a network's layers, as data: by it the converted network is built again from the dense one.

>>> layer = LayerPlan("0", "grouped:groups=2", [[0, 2], [1, 3]], [[0, 1], [2, 3]], bias=True)
>>> model = nn.Sequential(nn.Conv2d(4, 4, 3))
>>> Plan([layer]).apply(model)
>>> [type(part).__name__ for part in model[0]]
['ChannelOrder', 'Conv2d']
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace

import torch
from torch import Tensor, nn

from regroup.conversion.folding import is_order
from regroup.conversion.partition import Partition
from regroup.conversion.regrouping import Regrouped
from regroup.conversion.replace import convolutions_of, put
from regroup.conversion.statistics import evaluated, heard
from regroup.files.documents import require
from regroup.ops.order import ChannelOrder, is_permutation
from regroup.spec import ConvSpec
from regroup.strategies import parse_strategy


@dataclass(frozen=True)
class LayerPlan:
    """What one convolution became.

    Args:
        name: of the layer.
        option: what it is, as a strategy's text.
        inputs: of each group; empty where it is no grouped convolution between two channel orders.
        outputs: likewise.
        bias: whether it has one.
    """

    name: str
    option: str
    inputs: list[list[int]] = field(default_factory=list)
    outputs: list[list[int]] = field(default_factory=list)
    bias: bool = True

    @classmethod
    def of(cls, layer: Regrouped, bias: bool) -> LayerPlan:
        """Return the plan of a layer that was regrouped."""
        if layer.partition is None:
            return cls(layer.name, layer.option, bias=bias)
        part = layer.partition
        return cls(layer.name, layer.option, part.inputs.tolist(), part.outputs.tolist(), bias)

    def build(self, conv: nn.Conv2d) -> nn.Module:
        """Return the module, with any weights, that stands where `conv` stood.

        Raises:
            DocumentError: it does not fit the convolution.
        """
        spec = ConvSpec.of(conv)
        if not self.inputs:
            return parse_strategy(self.option).build(replace(spec, bias=self.bias))
        part = Partition(_table(self, "inputs", spec.in_channels), _table(self, "outputs", spec.out_channels))
        once = part.outputs.flatten().sort().values.tolist() == list(range(spec.out_channels))
        require(once and len(part.inputs) == len(part.outputs), f"outputs of {self.name}", "?", "each once")
        width = part.inputs.shape[1]
        empty = conv.weight.new_zeros  # on the meta device perhaps: a plan from a file may ask for anything
        weight = empty(spec.out_channels, width, *spec.kernel_size)
        return part.build(spec, weight, empty(spec.out_channels) if self.bias else None)


def _table(layer: LayerPlan, name: str, channels: int) -> Tensor:
    rows: list[list[int]] = getattr(layer, name)
    alike = len({len(row) for row in rows}) == 1 and len(rows[0]) > 0
    inside = all(0 <= channel < channels for row in rows for channel in row)
    require(alike and inside, f"{name} of {layer.name}", "?", f"equal groups of channels below {channels}")
    return torch.tensor(rows, device="cpu")


@dataclass(frozen=True)
class Plan:
    """What became of all layers, and the channel orders of the network as they are once some are folded.

    Args:
        layers: those that changed.
        orders: of modules that order channels, by name; empty for those that are folded away.
    """

    layers: list[LayerPlan]
    orders: dict[str, list[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, layers: Iterable[LayerPlan], unfolded: Iterable[str], model: nn.Module) -> Plan:
        """Return the plan of a network.

        Args:
            layers: those that changed.
            unfolded: names of all modules that ordered channels before any was folded.
            model: the network now.
        """
        modules = dict(model.named_modules(remove_duplicate=False))
        orders = {}
        for name in unfolded:
            now = modules[name]
            if isinstance(now, ChannelOrder):
                orders[name] = now.order.tolist()
            elif isinstance(now, nn.Identity):
                orders[name] = []
        return cls(list(layers), orders)

    def apply(self, model: nn.Module) -> None:
        """Make a dense network the converted one, in place, but for its weights.

        Which channels enter an order is known once the weights are there: see `check_orders`.

        Raises:
            DocumentError: the plan is of another network.
        """
        for layer in self.layers:
            conv = dict(model.named_modules(remove_duplicate=False)).get(layer.name)
            require(isinstance(conv, nn.Conv2d), "layers", layer.name, "names of convolutions")
            assert isinstance(conv, nn.Conv2d)
            new = layer.build(conv).train(conv.training)
            for alias, there in convolutions_of(model):
                if there is conv:
                    put(model, alias, new)
        modules = dict(model.named_modules(remove_duplicate=False))
        for name, order in self.orders.items():
            there = modules.get(name)
            require(there is not None and is_order(there), "orders", name, "names of channel orders")
            if not order:
                put(model, name, nn.Identity())
            elif isinstance(there, ChannelOrder):
                count = len(there.order)
                require(len(order) == count, f"orders of {name}", order, f"{count} channels")
                there.order.copy_(torch.tensor(order, device=there.order.device))
            else:
                once = is_permutation(torch.tensor(order, device="cpu"), len(order))
                require(once, f"orders of {name}", order, "each channel once")
                put(model, name, ChannelOrder(order))

    def to_json(self) -> dict:
        """Return the plan as plain JSON values."""
        return asdict(self)


def check_orders(model: nn.Module, images: Tensor) -> None:
    """Require of every channel order that it takes channels which enter it, in a run on images.

    Raises:
        DocumentError: one does not; of its channels some do not exist.
    """

    def check(name: str, inputs: tuple[Tensor, ...], named: dict) -> None:
        order, channels = found[name].order, inputs[0].shape[1]
        inside = bool(((order >= 0) & (order < channels)).all())
        require(inside, f"order of {name}", order.tolist(), f"of channels below {channels}")

    found = {name: m for name, m in model.named_modules() if isinstance(m, ChannelOrder)}
    if found:
        with evaluated(model), torch.no_grad(), heard(found, before=check):
            model(images)


def orders_in(model: nn.Module) -> list[str]:
    """Return the names of the modules that order channels."""
    return [name for name, module in model.named_modules(remove_duplicate=False) if name and is_order(module)]
