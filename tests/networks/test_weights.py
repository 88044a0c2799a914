"""Weights from anywhere: read without running code, recognised, translated, and all or nothing."""

from __future__ import annotations

import pickle
import socket
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import Tensor

from regroup.errors import CheckpointError, NetworkError
from regroup.loading.named import named
from regroup.networks import create_model, list_models, networks
from regroup.networks import hub as hub_of_weights
from regroup.networks import weights as loading
from tests.networks.definitions_classic import classic
from tests.networks.definitions_ported import ported

State = dict[str, Tensor]


def theirs() -> State:
    """torchvision's ResNet-18 state dict, made from ours by the inverse renaming."""
    from torchvision.models import resnet18

    torch.manual_seed(1)
    return resnet18(weights=None).state_dict()


@pytest.mark.parametrize("wrapper", ["plain", "state_dict", "model", "module."])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_files_are_read_in_every_wrapping(wrapper: str, suffix: str, tmp_path: Path) -> None:
    state, path = theirs(), tmp_path / f"resnet18{suffix}"
    content: object = {f"module.{k}": v for k, v in state.items()} if wrapper == "module." else state
    if suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save({wrapper: content} if wrapper in ("state_dict", "model") else content, path)
    for given in (path, str(path), content):
        model = create_model("resnet18", weights=given)
        assert torch.equal(model.stem.conv.weight, state["conv1.weight"])
        assert torch.equal(model.stages[3][1].conv2.norm.bias, state["layer4.1.bn2.bias"])


def test_own_state_dict_loads_again() -> None:
    first = create_model("shufflenet_v2_050")
    second = create_model("shufflenet_v2_050", weights=first.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_background_class_of_tensorflow_is_dropped() -> None:
    state = theirs()
    classifier = torch.randn(1001, 512)
    model = create_model("resnet18", weights={**state, "fc.weight": classifier, "fc.bias": torch.zeros(1001)})
    assert torch.equal(model.classifier.weight, classifier[1:])


def test_what_does_not_fit_is_listed_and_the_model_unchanged() -> None:
    state = theirs()
    state["layer1.0.conv1.weight"] = torch.zeros(64, 64, 1, 1)
    state["extra.weight"] = state.pop("layer2.0.bn1.bias")
    model = create_model("resnet18")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError) as error:
        loading.load_weights(model, state, networks["resnet18"].layouts)
    message = str(error.value)
    assert "1 missing: stages.1.0.conv1.norm.bias" in message
    assert "1 unexpected: extra.weight" in message
    assert "stages.0.0.conv1.conv.weight (64, 64, 1, 1) for (64, 64, 3, 3)" in message
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_weights_for_another_number_of_classes_are_refused() -> None:
    message = r"classifier.weight \(1000, 512\) for \(10, 512\); new_head=True loads all but the classifier$"
    with pytest.raises(CheckpointError, match=message):
        create_model("resnet18", num_classes=10, weights=theirs())


class Exploit:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return Path.touch, (self.marker,)


def test_file_with_code_in_it_is_refused_and_not_run(tmp_path: Path) -> None:
    path, marker = tmp_path / "evil.pth", tmp_path / "ran"
    torch.save({"state_dict": Exploit(marker)}, path)
    with pytest.raises(CheckpointError, match=r"cannot be read as weights"):
        create_model("resnet18", weights=path)
    path.write_bytes(pickle.dumps(Exploit(marker)))
    with pytest.raises(CheckpointError, match=r"cannot be read as weights"):
        create_model("resnet18", weights=path)
    assert not marker.exists()


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"PK\x03\x04 no zip"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_damaged_file_is_one_clear_error(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"cannot be read as weights"):
        create_model("resnet18", weights=path)
    with pytest.raises(CheckpointError, match="no such file"):
        create_model("resnet18", weights=tmp_path / f"missing{suffix}")


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [1, 2], {"state_dict": {"a": torch.zeros(1), "b": 2}}])
def test_content_that_is_no_state_dict_is_refused(content: object) -> None:
    with pytest.raises(CheckpointError, match="holds"):
        create_model("resnet18", weights=content)


@pytest.mark.parametrize("name", ["shufflenet_v1_g3_050", "shufflenet_v1_g8_050", "shufflenet_v2_050"])
def test_shufflenet_is_built_in_the_channel_order_of_its_weights(name: str) -> None:
    ours = f"{name}_official"
    (reference,) = classic()[ours]
    theirs, options = reference.build().double().eval(), reference.options
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    for called in (name, ours):
        model = create_model(called, weights=theirs.state_dict(), **options).double().eval()
        assert model.config.order == "official"
        torch.testing.assert_close(model(x), theirs(x))
    with pytest.raises(CheckpointError, match=r"is for a network with order='official'.* this one has order"):
        create_model(ours, weights=theirs.state_dict(), order="paper", **options)


@pytest.mark.parametrize(
    ("name", "whose", "implied"),
    [
        ("mobilenet_v3_small_100", "d-li14", {"eps": 1e-5, "gate_first": True}),
        ("squeezenet1_0_official", "Caffe", {"padding": 1}),
        ("alexnet", "jiecaoyu", {"norm": "batch"}),
    ],
)
def test_a_network_is_built_in_the_form_of_its_weights(name: str, whose: str, implied: dict) -> None:
    (reference,) = (r for r in ported()[name] if r.whose == whose)
    state = reference.build().state_dict()
    called = name.removesuffix("_official")
    options = {key: value for key, value in reference.options.items() if key not in implied}
    model = create_model(called, weights=state, **options)
    assert {key: getattr(model.config, key) for key in implied} == implied
    default = create_model(called, **options)
    with pytest.raises(CheckpointError, match=f"is for a network with .*{next(iter(implied))}="):
        loading.load_weights(default, state, networks[called].layouts)


def test_torchvisions_squeezenet_is_not_padded() -> None:
    state = torchvision.models.squeezenet1_0(weights=None).state_dict()
    assert create_model("squeezenet1_0_official", weights=state).config.padding == 0


def test_a_prefix_that_is_a_whole_key_leaves_no_dot() -> None:
    layout = loading.Layout("theirs", lambda model: {"scale": "stem.scale", "a": "b"})
    state = {"scale": torch.ones(1), "a.weight": torch.ones(1)}
    assert set(layout.translate(create_model("resnet20"), state)) == {"stem.scale", "b.weight"}


def test_every_pretrained_name_is_known_to_its_hub() -> None:
    import timm
    from torchvision.models import get_weight

    known = set(timm.list_pretrained())
    for name in list_models():
        hub, _, entry = (networks[name].pretrained or "").partition(":")
        assert hub in ("", "timm", "torchvision")
        assert hub != "timm" or entry in known, name
        assert hub != "torchvision" or get_weight(entry), name


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> State:
    state = theirs()
    monkeypatch.setitem(hub_of_weights._HUBS, "torchvision", lambda name: dict(state))
    return state


def test_pretrained_weights_fit_other_classes_and_channels(hub: State) -> None:
    assert torch.equal(create_model("resnet18", pretrained=True).classifier.weight, hub["fc.weight"])
    model = create_model("resnet18", pretrained=True, num_classes=7, in_chans=1)
    assert model.classifier.weight.shape == (7, 512)
    assert torch.equal(model.get_parameter("stages.0.0.conv1.conv.weight"), hub["layer1.0.conv1.weight"])
    gray = hub["conv1.weight"].sum(1, keepdim=True)  # as timm adapts a first convolution
    assert torch.equal(model.stem.conv.weight, gray)
    features = create_model("resnet18", pretrained=True, num_classes=0)
    assert features(torch.zeros(2, 3, 32, 32)).shape == (2, 512)


def test_pretrained_without_network_or_without_weights_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def offline(name: str) -> State:
        raise OSError("Network is unreachable")

    monkeypatch.setitem(hub_of_weights._HUBS, "torchvision", offline)
    with pytest.raises(CheckpointError, match=r"cannot be downloaded .*unreachable.*weights=PATH"):
        create_model("resnet18", pretrained=True)
    with pytest.raises(CheckpointError, match=r"no hub has its weights.*weights=PATH"):
        create_model("shufflenet_v1_g3_100", pretrained=True)
    with pytest.raises(NetworkError, match="pretrained"):
        create_model("resnet18", pretrained=True, weights=theirs())


def test_timms_hub_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:  # a port of this machine at which nobody listens
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
    asked = []

    def create(name: str, **options: object) -> None:
        asked.append((name, constants.is_offline_mode()))
        raise FileNotFoundError("not in the cache")

    monkeypatch.setattr(hub_of_weights, "getproxies", dict)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(timm, "create_model", create)
    for name in ("timm:resnet26d", "resnet26d"):
        with pytest.raises(CheckpointError, match=r"127\.0\.0\.1 does not answer, and"):
            named(name, pretrained=True)
    assert asked == [("resnet26d", True)] * 2 and not constants.is_offline_mode()
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(CheckpointError, match="not in the cache"):
            named("resnet26d", pretrained=True)
    assert asked[-1] == ("resnet26d", False)
