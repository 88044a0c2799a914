"""Networks that a file describes: whatever it asks for, no memory is had for more than the file holds."""

import dataclasses
import resource
from pathlib import Path

import pytest
import torch

from regroup.conversion.plan import LayerPlan, Plan
from regroup.errors import CheckpointError
from regroup.loading import rebuilding
from regroup.loading.converted import converted, save_converted
from regroup.loading.rebuilding import rebuilt
from regroup.loading.trained import Trained
from regroup.networks import networks
from regroup.ops.shapes import without_numbers
from regroup.spec import ConvSpec
from regroup.strategies import strategies
from regroup.training.data import load_data
from tests.processes import in_fork

DENSE = Trained.on(load_data("digits"), "resnet_small", {}, None, None)
HUGE = ("100000000", "1000000000000", "1e-8", "100000000+100000000")


def shapes(model):
    return {name: (tuple(value.shape), value.dtype) for name, value in model.state_dict().items()}


def test_what_a_strategy_makes_is_known_by_its_shapes_alone():
    for name in strategies:
        for strategy in strategies[name].variants():
            for spec in (ConvSpec(64, 64, 3, padding=1), ConvSpec(32, 64, 3, stride=2, padding=1)):
                if not strategy.why_not(spec):
                    with without_numbers():
                        found = shapes(strategy.build(spec))
                    assert found == shapes(strategy.build(spec)), strategy.label


def hostile():
    """Yield descriptions of networks that would take all memory that there is, or cannot be."""
    for name in strategies:
        for field in dataclasses.fields(strategies[name]):
            for text in HUGE:
                yield dataclasses.replace(DENSE, strategy=f"{name}:{field.name}={text}")
    for field in dataclasses.fields(networks["resnet_small"].config):
        for value in (10**7, 10**12, [10**7], [10**7] * 3, [3, 10**7]):
            yield dataclasses.replace(DENSE, options={field.name: value})


def refused(make, *arguments):
    """Require of what is done in little memory that it works or is an error of ours."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + (512 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    count = 0
    for one in make(*arguments):
        try:
            one()
        except CheckpointError as error:
            count += 1
            assert "MemoryError" not in str(error) and "allocate memory" not in str(error), error
    print(count)


@pytest.mark.timeout(120)
def test_no_description_of_a_network_asks_for_more_than_its_file_holds(monkeypatch):
    state = DENSE.build().state_dict()

    def make():
        for described in hostile():
            yield lambda described=described: described.rebuild(Path("x"), state)

    monkeypatch.setattr(rebuilding, "MOST_MODULES", 1000)  # to count so many is the most work of all
    ended = in_fork(refused, make)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert int(ended.stdout) > 200


def test_no_plan_of_a_conversion_asks_for_more_than_its_file_holds(tmp_path):
    model, name = DENSE.build(), "stages.2.0.conv2.conv"
    channels = model.get_submodule(name).out_channels
    layers = [LayerPlan(name, option) for option in ("separable:multiplier=100000000", "flattened:stages=99")]
    layers += [LayerPlan(name, "grouped:groups=2", [[0] * 300_000], [list(range(channels))])]
    layers += [LayerPlan(name, f"mixed:kernels={2**40 + 1}+{2**40 + 3}")]
    for n, layer in enumerate(layers):
        save_converted(tmp_path / f"{n}", model, DENSE, Plan([layer]), {}, "")
    ended = in_fork(refused, lambda: [lambda n=n: converted(tmp_path / f"{n}") for n in range(len(layers))])
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert int(ended.stdout) == len(layers)


def test_code_of_the_users_may_look_at_numbers_as_it_builds():
    def make():
        model = torch.nn.Linear(3, 2)
        try:
            assert model.weight.abs().sum().item() >= 0
        except RuntimeError as error:
            raise CheckpointError("x", f"its network cannot be built ({error})") from error
        return model

    state = {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}
    assert rebuilt(Path("x"), make, state).weight.sum() == 6
