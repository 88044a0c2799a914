"""Parameters and MACs of every strategy equal those of fvcore, where it is right: in convolutions."""

import pytest
import torch
from fvcore.nn import FlopCountAnalysis, parameter_count

from regroup.spec import ConvSpec
from regroup.strategies import strategies
from regroup.strategies.learning import deploy, set_progress

SPECS = [
    ConvSpec(16, 32, 3, stride=2, padding=1),
    ConvSpec(32, 16, 1, bias=True),
    ConvSpec(16, 16, (3, 5), stride=(1, 2), padding=(1, 2)),
    ConvSpec(24, 24, 3, padding=2, dilation=2),
]
FIXED = [v for name in strategies for v in strategies[name].variants()]


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("strategy", FIXED, ids=str)
def test_cost_equals_that_of_fvcore(strategy):
    counted = 0
    for spec in SPECS:
        if strategy.why_not(spec):
            continue
        learned = strategy.build(spec)
        set_progress(learned, 1)
        module, cost = deploy(learned), strategy.cost(spec, (16, 16))
        analysis = FlopCountAnalysis(module, torch.zeros(1, spec.in_channels, 16, 16))
        analysis.unsupported_ops_warnings(False)
        operators = analysis.by_operator()  # 1x1 convolutions of chosen inputs are batched products
        assert operators["conv"] + operators["bmm"] == cost.macs
        assert parameter_count(module)[""] == cost.parameters
        counted += 1
    assert counted > 0
