"""Turn the convolutions of a trained network into DSConv: integers and shifts, without data or labels.

>>> model = torchvision.models.resnet18(num_classes=10)
>>> print(quantise(model, "shifted:bits=4,block=64"))
replaced 20 of 20 convolutions by shifted
...
>>> round(bits_per_weight(model), 2)
4.51

Then adapt it to images without labels, the network from before being the teacher:

    teacher = copy.deepcopy(model)
    quantise(model, "shifted:bits=3", adapt=True)
    train(model, data, TrainConfig(epochs=2, lr=0.01, distillation_alpha=1), teacher=teacher)
    model = regroup.deploy(model)

With alpha = 1 nothing of the labels is in the loss. `save_packed` then writes b + 32/B bits a weight.
"""

from __future__ import annotations

import torch
from torch import nn

from regroup.conversion.replace import Changes, Where, substitute
from regroup.errors import ConfigError
from regroup.ops.shifted import ShiftedConv
from regroup.spec import ConvSpec
from regroup.strategies import Strategy, parse_strategy
from regroup.strategies.shifted import Shifted, ShiftingConv

FLOAT_BITS = 32


def quantise(
    model: nn.Module, strategy: Strategy | str = "shifted", where: Where = None, *, adapt: bool = False
) -> Changes:
    """Replace convolutions of a trained `model`, in place, by the DSConv nearest to their weights.

    Everything else stays as it was, linear layers and norms included. Grouped convolutions are converted too,
    each group's depth in blocks. Left, and told, are those that would take more bits than they do: where a
    group's depth is so small that shifts outweigh weights, as in a depthwise convolution.

    Args:
        model: any PyTorch model.
        strategy: the form, a `Shifted` or its text, such as "shifted:bits=4,block=64,mantissa=6"; its `start`
            plays no part.
        where: which convolutions, see `replace`; by default all, the first one and pointwise ones included.
        adapt: keep the weights beside, so that training can adapt them to being rounded; `regroup.deploy`
            ends it. Otherwise the integers are final, and training moves shifts and biases alone.

    Returns:
        What was replaced, and what was left and why.

    Raises:
        ConfigError: the strategy is none of integers; `where` matches no convolution.
    """
    strategy = parse_strategy(strategy) if isinstance(strategy, str) else strategy
    if not isinstance(strategy, Shifted):
        raise ConfigError("strategy", strategy.label, "shifted, with any parameters")
    form = strategy.form

    def why_not(conv: nn.Conv2d) -> str:
        ConvSpec.of(conv)
        depth = conv.in_channels // conv.groups
        bits = form.bits + FLOAT_BITS * form.blocks(depth) / depth
        if bits >= FLOAT_BITS:
            return f"{depth} inputs to an output: integers and shifts would take {bits:g} bits a weight"
        return ""

    def build(conv: nn.Conv2d) -> nn.Module:
        spec = ConvSpec.of(conv)
        if not adapt:
            return ShiftedConv.of(spec, form, conv.weight, conv.bias, conv.groups)
        module = ShiftingConv(spec, form, groups=conv.groups).to(conv.weight)
        with torch.no_grad():
            module.weight.copy_(conv.weight)
            if module.bias is not None and conv.bias is not None:
                module.bias.copy_(conv.bias)
        module.set_progress(1)
        return module

    return substitute(model, strategy.label, where or (lambda name, conv: True), why_not, build)


def bits_per_weight(model: nn.Module) -> float:
    """Return the bits that a weight takes on average in the `ShiftedConv` layers of `model`: b + 32/B.

    A shift takes 32 bits; a last block that is shorter than B makes it a little more.

    Raises:
        ConfigError: there is no such layer.
    """
    layers = [m for m in model.modules() if isinstance(m, ShiftedConv)]
    if not layers:
        raise ConfigError("model", type(model).__name__, "a network with ShiftedConv layers", "quantise it")
    weights = sum(m.integers.numel() for m in layers)
    bits = sum(m.form.bits * m.integers.numel() + FLOAT_BITS * m.shifts.numel() for m in layers)
    return bits / weights
