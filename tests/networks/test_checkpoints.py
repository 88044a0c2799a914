"""Checkpoints in every wrapping: the right weights are found in them, all of them, or it is said what not."""

from __future__ import annotations

import logging
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from regroup.errors import CheckpointError, NetworkError
from regroup.networks import create_model
from regroup.networks.state_dicts import AVERAGED, HOLDERS, TRAINED, WRAPPERS
from tests.networks.test_weights import hub as hub

State = dict[str, Tensor]
NARROW = {"widths": (4, 4, 8), "depths": (1, 1, 1)}
TOLD = "regroup.networks"
CASES = int(os.environ.get("REGROUP_FUZZ", "40"))


def network(seed: int = 0, **options: object) -> nn.Module:
    torch.manual_seed(seed)
    return create_model("resnet_small", **NARROW, **options)


STATE = network().state_dict()
OTHER = network(1).state_dict()
THEIRS = {"stem.conv": "conv1", "stem.norm": "bn1", "classifier": "fc"}
THEIRS |= {f"stages.{i}": f"layer{i + 1}" for i in range(3)} | {"shortcut.conv": "downsample.0"}
THEIRS |= {"shortcut.norm": "downsample.1"} | {f"conv{i}.norm": f"bn{i}" for i in (1, 2)}
THEIRS |= {f"conv{i}.conv": f"conv{i}" for i in (1, 2)}


def torchvisions(key: str) -> str:
    for ours, theirs in THEIRS.items():
        key = key.replace(ours, theirs)
    return key


LAYOUTS = {"ours": STATE, "torchvision's": {torchvisions(k): v for k, v in STATE.items()}}


def load(weights: object, **options: object) -> State:
    return create_model("resnet_small", **NARROW, weights=weights, **options).state_dict()


def same(a: State, b: State) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_the_layout_and_the_number_of_tensors_are_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, TOLD)
    load(STATE)
    assert caplog.messages == [f"weights: {len(STATE)} tensors in regroup's layout"]


@pytest.mark.parametrize("key", AVERAGED)
def test_averaged_weights_are_preferred_and_that_is_told(key: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, TOLD)
    content = {
        "epoch": 3,
        "state_dict": OTHER,
        "model": OTHER,
        key: STATE,
        "optimizer": {"state": {0: OTHER}},
    }
    assert same(load(content), STATE)
    assert caplog.messages == [f"weights: {key}, {len(STATE)} tensors in regroup's layout"]


def test_an_averaged_model_of_pytorch_is_read(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, TOLD)
    averaged = torch.optim.swa_utils.AveragedModel(network())
    assert same(load({"model": OTHER, "model_ema": averaged.state_dict()}), STATE)
    assert caplog.messages[0].startswith("weights: model_ema, ")
    assert caplog.messages[0].endswith("; 1 left out: n_averaged")


@pytest.mark.parametrize("ema", [{"decay": 0.99, "shadow_params": list(STATE.values())}, [torch.zeros(1)]])
def test_averaged_weights_without_names_are_not_passed_over_in_silence(
    ema: object, caplog: pytest.LogCaptureFixture
) -> None:
    assert same(load({"model": STATE, "ema": ema}), STATE)
    assert caplog.messages == ["weights: no state dict can be read from its ema; took model"]
    caplog.clear()
    assert same(load({"model": STATE, "ema": 0.999, "model_ema": None}), STATE)
    assert not caplog.messages


def test_several_state_dicts_of_unknown_names_are_an_error() -> None:
    with pytest.raises(CheckpointError, match="holds several state dicts: give one of student, teacher by"):
        load({"student": STATE, "teacher": OTHER, "epoch": 3})
    assert same(load({"student": STATE, "epoch": 3}), STATE)
    with pytest.raises(CheckpointError, match=r"is a ResNet: give what its state_dict\(\) returns"):
        load(network())


def test_checkpoints_that_hold_themselves_end() -> None:
    loop: dict[str, object] = {"model": {}, "state_dict": None}
    loop["model"] = loop["state_dict"] = loop
    with pytest.raises(CheckpointError, match="holds other things than tensors"):
        load(loop)
    loop["a"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match="holds other things than tensors"):
        load({"model": loop})


@settings(max_examples=CASES, deadline=None)
@given(
    containers=st.lists(st.sampled_from([*AVERAGED, *TRAINED, "any_other"]), max_size=3),
    holder=st.lists(st.sampled_from(HOLDERS), max_size=2),
    wrapper=st.sampled_from(WRAPPERS),
    places=st.sets(st.integers(0, 4)),
    layout=st.sampled_from(sorted(LAYOUTS)),
)
def test_every_wrapping_comes_off(
    containers: list[str], holder: list[str], wrapper: str, places: set[int], layout: str
) -> None:
    """`places` are the parts of each key before which the name of a wrapper stands."""

    def wrapped(key: str) -> str:
        parts = [*holder, *key.split(".")]
        return ".".join(f"{wrapper}.{part}" if i in places else part for i, part in enumerate(parts))

    content: object = {wrapped(key): value for key, value in LAYOUTS[layout].items()}
    for container in containers:
        content = {container: content, "epoch": 7, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}}
    assert same(load(content), STATE)


@pytest.mark.parametrize("before", ["model.", "module.backbone.", "_orig_mod.model.encoder."])
def test_what_stands_beside_the_network_is_refused(before: str) -> None:
    state = {before + key: value for key, value in STATE.items()}
    with pytest.raises(CheckpointError, match=r"2 unexpected: criterion.weight, head.fc.bias"):
        load({**state, "criterion.weight": torch.zeros(3), "head.fc.bias": torch.zeros(3)})


def test_two_networks_in_one_state_dict_are_refused() -> None:
    both = {f"encoder.{k}": v for k, v in STATE.items()} | {f"backbone.{k}": v for k, v in OTHER.items()}
    with pytest.raises(CheckpointError, match=f"{len(STATE)} unexpected: "):
        load(both)
    with pytest.raises(CheckpointError, match=f"{len(STATE)} unexpected: module."):
        load(STATE | {f"module.{key}": value for key, value in OTHER.items()})


CHANGES = {
    "lost": lambda key, value: {},
    "twice": lambda key, value: {key: value, f"module.{key}": value + 1},
    "renamed": lambda key, value: {f"{key}_": value},
    "another shape": lambda key, value: {key: torch.zeros(3, 3)},
    "integers": lambda key, value: {key: value.to(torch.int8)},
    "complex": lambda key, value: {key: value.to(torch.complex64)},
    "sparse": lambda key, value: {key: value.to_sparse()},
    "meta": lambda key, value: {key: value.to("meta")},
    "no tensor": lambda key, value: {key: value.tolist()},
    "no name": lambda key, value: {0: value},
}


@settings(max_examples=CASES, deadline=None)
@given(
    key=st.sampled_from([key for key, value in STATE.items() if value.is_floating_point()]),
    change=st.sampled_from(sorted(CHANGES)),
    layout=st.sampled_from(sorted(LAYOUTS)),
)
def test_one_tensor_that_is_not_right_is_refused(key: str, change: str, layout: str) -> None:
    state = LAYOUTS[layout]
    keys = dict(zip(STATE, state, strict=True))
    changed = {k: v for k, v in state.items() if k != keys[key]} | CHANGES[change](keys[key], STATE[key])
    with pytest.raises(CheckpointError, match=r"weights: (does not fit the network|holds )"):
        load(changed)


def test_the_names_of_wrappers_inside_a_network_come_off() -> None:
    """As the training scripts wrote AlexNet and VGG: only their convolutions are spread over GPUs."""
    from torchvision.models import alexnet, vgg16

    options = {"hidden": 8, "num_classes": 4}
    for name, theirs, inputs in (("alexnet_owt", alexnet, 256 * 36), ("vgg16", vgg16, 512 * 49)):
        with torch.device("meta"):
            model = theirs(weights=None)
        layers = iter((nn.Linear(inputs, 8), nn.Linear(8, 8), nn.Linear(8, 4)))
        model.classifier = nn.Sequential(
            *[next(layers) if isinstance(m, nn.Linear) else m for m in model.classifier]
        )
        model.features.to_empty(device="cpu").apply(lambda m: [nn.init.normal_(p) for p in m.parameters()])
        model.features = nn.DataParallel(model.features)
        state = model.state_dict()
        ours = create_model(name, weights={"state_dict": state}, **options)
        assert torch.equal(ours.get_parameter("classifier.weight"), state["classifier.6.weight"])
        first = next(p for p in ours.parameters())
        assert torch.equal(first, state["features.module.0.weight"])


@pytest.mark.parametrize("classes", [7, 10, 0])
def test_a_new_head_is_asked_for_and_all_the_rest_is_loaded(
    classes: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, TOLD)
    if classes != 10:
        with pytest.raises(CheckpointError, match=r"; new_head=True loads all but the classifier$"):
            load(STATE, num_classes=classes)
    torch.manual_seed(5)
    found = load(STATE, num_classes=classes, new_head=True)
    heads = {"classifier.weight", "classifier.bias"}
    assert same(
        {k: v for k, v in found.items() if k not in heads}, {k: v for k, v in STATE.items() if k not in heads}
    )
    torch.manual_seed(5)
    fresh = network(5, num_classes=classes).state_dict()
    assert all(torch.equal(found[key], fresh[key]) for key in heads & fresh.keys())
    assert "the classifier is new: classifier.bias, classifier.weight" in caplog.messages[-1]


def test_a_new_head_excuses_nothing_else() -> None:
    for key in ("stem.conv.weight", "stages.2.0.conv1.norm.running_var"):
        broken = {k: v for k, v in STATE.items() if k != key}
        with pytest.raises(CheckpointError, match=f"1 missing: {key}$"):
            load(broken, num_classes=7, new_head=True)
        with pytest.raises(CheckpointError, match=r"does not fit(?!.*new_head)"):
            load(broken, num_classes=7)
    with pytest.raises(NetworkError, match="new_head=True: must be False where there are no weights"):
        create_model("resnet_small", new_head=True)


def test_heads_of_every_kind_stay_new() -> None:
    """A convolution, one with indices of its inputs, and auxiliary ones beside the last."""
    for name, options in (
        ("squeezenet1_1", {"fires": ((4,), (4,), (4,))}),
        ("condensenet_74_g4", {"depths": (1, 1, 1, 1, 1)}),
        ("shufflenet_v2_large", {"depths": (1, 1, 1, 1), "halves": (8, 8, 8, 8), "aux": True, "head": 8}),
    ):
        weights = create_model(name, **options).state_dict()
        model = create_model(name, weights=weights, num_classes=6, new_head=True, **options)
        shared = {k for k, v in model.state_dict().items() if ".classifier." not in f".{k}"}
        assert all(torch.equal(model.state_dict()[key], weights[key]) for key in shared)
        assert model.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 6)


def test_pretrained_takes_a_new_head_too(hub: State) -> None:
    model = create_model("resnet18", pretrained=True, new_head=True)
    assert not torch.equal(model.classifier.weight, hub["fc.weight"])
    assert torch.equal(model.stem.conv.weight, hub["conv1.weight"])


def test_heads_that_the_network_has_not_are_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, TOLD)
    options = {"depths": (1, 1, 1, 1), "halves": (8, 8, 8, 8), "head": 8, "num_classes": 3}
    from regroup.networks.layouts.shufflenet import V2_LARGE

    trained = create_model("shufflenet_v2_large", aux=True, **options)
    prefixes = {ours: theirs for theirs, ours in V2_LARGE[0].prefixes(trained).items()}
    state = {}
    for key, value in trained.state_dict().items():
        ours = max((p for p in prefixes if key.startswith(f"{p}.")), key=len)
        state[prefixes[ours] + key.removeprefix(ours).replace(".norm.", ".bn.")] = value
    caplog.clear()
    create_model("shufflenet_v2_large", weights=state, **options)
    assert "in official's layout; 42 left out: heads." in caplog.messages[-1]
