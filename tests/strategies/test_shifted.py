"""DSConv as a strategy: when integers begin, what trains, what is deployed, resumed, exported and refused."""

import json

import pytest
import torch
from torch import nn

import regroup
from regroup.errors import PlanError, StrategyError
from regroup.ops.shifted import ShiftedConv
from regroup.spec import ConvSpec
from regroup.strategies.learning import groupings, load_groupings
from regroup.strategies.shifted import Shifted, ShiftingConv
from regroup.testing import check_strategy
from regroup.training import train
from tests.training.cases import config, data

SPEC = ConvSpec(12, 8, 3, padding=1, bias=True)


@pytest.mark.parametrize(
    "label",
    ["shifted:channels=true,clamp=false,block=8,bits=8", "shifted:start=0.0,bits=2,block=5"],
)
def test_other_settings_conform_too(label):
    assert {r.outcome for r in check_strategy(label, [SPEC])} == {"passed"}


def test_it_is_the_dense_layer_until_start_and_integers_afterwards():
    layer = Shifted(bits=3, block=4, start=0.4).build(SPEC)
    layer.set_progress(0.39)
    assert torch.equal(layer.kernel(), layer.weight)
    assert type(regroup.deploy(layer)) is nn.Conv2d
    layer.set_progress(0.4)
    integers, shifts = layer.form.quantise(layer.weight.detach())
    assert torch.equal(layer.kernel(), layer.form.dequantise(integers, shifts))
    layer.set_progress(0.1)
    assert layer.shifting, "integers that began stay"


@pytest.mark.parametrize("mantissa", [None, 5])
def test_deployed_equals_trained_bit_for_bit(mantissa):
    layer = Shifted(bits=4, block=5, mantissa=mantissa, channels=True).build(SPEC).eval()
    nn.init.uniform_(layer.channel_scale, 0.5, 1.5)
    nn.init.uniform_(layer.channel_offset)
    x = torch.randn(2, 12, 9, 9)
    regroup.set_progress(layer, 1)
    plain = regroup.deploy(layer)
    assert isinstance(plain, ShiftedConv)
    assert plain.integers.dtype == torch.int8
    assert torch.equal(plain(x), layer(x))
    exported = torch.export.export(plain, (x,)).module()
    assert torch.equal(exported(x), plain(x))


def test_weights_train_through_the_rounding():
    layer = Shifted(bits=2, block=4).build(ConvSpec(8, 4, 1))
    layer.set_progress(1)
    x, wanted = torch.randn(64, 8, 1, 1), torch.randn(4, 8)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.05)
    losses = []
    for _ in range(60):
        loss = (layer(x).flatten(1) - x.flatten(1) @ wanted.t()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 3


def test_a_jump_in_progress_is_many_small_steps_and_models_do_not_disturb_each_other():
    torch.manual_seed(3)
    jumping, stepping = (Shifted().build(SPEC) for _ in range(2))
    stepping.load_state_dict(jumping.state_dict())
    jumping.set_progress(1)
    assert not stepping.shifting
    for i in range(11):
        stepping.set_progress(i / 10)
    assert torch.equal(jumping.kernel(), stepping.kernel())


def test_what_was_saved_goes_on_where_it_was():
    layer, again = Shifted().build(SPEC), Shifted().build(SPEC)
    layer.set_progress(0.7)
    again.load_state_dict(layer.state_dict())
    x = torch.randn(1, 12, 5, 5)
    assert torch.equal(again(x), layer(x))
    assert again.shifting


def test_a_grouping_of_other_bits_or_blocks_is_refused():
    layer = Shifted(bits=4).build(SPEC)
    layer.set_progress(1)
    table = json.loads(json.dumps(groupings(layer)))
    for other in (Shifted(bits=3), Shifted(block=8)):
        with pytest.raises(PlanError, match="is not of a shifted layer"):
            load_groupings(other.build(SPEC), table)
    with pytest.raises(PlanError, match="is not of a shifted layer"):
        layer.load_grouping({"kind": "condensed"})


def small():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 64, 10),
    )
    regroup.replace(model, "shifted:bits=3,block=4,mantissa=5")
    return model


@pytest.mark.parametrize("epochs", [1, 30])
def test_runs_of_any_length_end_in_integers(epochs):
    model = small()
    train(model, data(shape=(1, 8, 8), classes=10), config(epochs=epochs))
    assert isinstance(model[2], ShiftingConv)
    assert model[2].shifting
    assert isinstance(regroup.deploy(model)[2], ShiftedConv)


def test_a_plain_training_loop_needs_two_calls():
    model, steps = small(), 6
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(steps):
        regroup.set_progress(model, step / steps)
        x, y = torch.randn(8, 1, 8, 8), torch.randint(10, (8,))
        loss = nn.functional.cross_entropy(model(x), y) + regroup.penalty(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    regroup.set_progress(model, 1)
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(regroup.deploy(model)(x), model.eval()(x))


def test_start_is_a_share():
    with pytest.raises(StrategyError, match=r"start=1\.5: must be within 0"):
        Shifted(start=1.5)
