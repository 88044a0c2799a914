"""Any state of any optimiser as JSON and tensors, and back."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.optim import create_optimizer_v2
from torch import nn

from regroup.errors import TrainingError
from regroup.training.packing import pack, unpack

KEYS = st.text(max_size=4) | st.integers() | st.sampled_from(["$tensor", "$dict", "$tuple", "$float"])
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]
TENSORS = st.builds(
    lambda shape, dtype: torch.arange(torch.Size(shape).numel()).reshape(shape).to(dtype),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from(DTYPES),
)
LEAVES = (
    st.sampled_from(DTYPES)
    | st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | TENSORS
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=3)
    ),
    max_leaves=12,
)

OPTIMISERS = ["sgd", "adamw", "lamb", "lion", "adafactor", "adafactorbv", "madgrad", "rmsproptf", "adabelief"]
OPTIMISERS += [
    "adan",
    "muon",
    "nadamw",
    "novograd",
    "adopt",
    "laprop",
    "mars",
    "adamp",
    "lookahead_radam",
]


def same(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return same([*a], [*b]) and same([*a.values()], [*b.values()])
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and repr(a) == repr(b)  # repr: nan, and -0.0 from 0.0


@settings(max_examples=100, deadline=None)
@given(VALUES)
def test_whatever_is_packed_comes_back(value):
    structure, tensors = pack(value)
    assert same(value, unpack(json.loads(json.dumps(structure, allow_nan=False)), tensors))


@pytest.mark.parametrize("value", [{1, 2}, object(), b"bytes", {"deep": [1, {"er": nn.ReLU()}]}])
def test_what_only_pickle_could_save_is_an_error_that_names_the_place(value):
    with pytest.raises(TrainingError, match=r"without pickle"):
        pack(value)


def test_the_order_in_memory_comes_back_too():
    value = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    structure, tensors = pack({"momentum": value})
    back = unpack(structure, tensors)["momentum"]
    assert back.stride() == value.stride() and torch.equal(back, value)


def test_a_part_of_a_tensor_is_packed_without_the_rest():
    value = torch.zeros(1000, 10)[::7, 3]
    structure, tensors = pack(value)
    assert tensors["value"].untyped_storage().nbytes() == 143 * 4
    assert unpack(structure, tensors).is_contiguous()


def gradients(model, seed):
    torch.manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", OPTIMISERS)
def test_every_optimiser_of_timm_goes_on_as_if_nothing_had_happened(name):
    def start():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3))
        return model, create_optimizer_v2(model, opt=name, lr=0.01, weight_decay=0.01)

    model, optimizer = start()
    for seed in range(3):
        gradients(model, seed)
        optimizer.step()
    state = json.loads(json.dumps(pack(optimizer.state_dict())[0], allow_nan=False))
    resumed, other = start()
    resumed.load_state_dict(model.state_dict())
    other.load_state_dict(unpack(state, pack(optimizer.state_dict())[1]))
    for seed in range(3, 8):
        for module, each in ((model, optimizer), (resumed, other)):
            gradients(module, seed)
            torch.manual_seed(seed)
            each.step()
    for a, b in zip(model.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
