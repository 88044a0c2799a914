"""`regroup.load`: the network that a directory holds, in a fresh process; or one clear error."""

import json
import subprocess
import sys

import pytest
import torch
from PIL import Image
from torch import nn

import regroup
from regroup.errors import CheckpointError
from regroup.files.sealed import write_sealed
from regroup.loading import ImageInput, Loaded, kind
from regroup.loading.kinds import kinds
from regroup.loading.trained import Trained
from regroup.training.checkpoint import save_checkpoint, save_weights
from tests.data.malformed import picture
from tests.training.cases import data

CASES = [
    ("resnet_small", 1, {}, "grouped:groups=2"),
    ("resnet_small", 3, {}, "condensed:groups=4"),
    ("timm:test_resnet", 1, {}, "shuffled:groups=2"),
    ("torchvision:squeezenet1_1", 3, {}, None),
]


def saved(path, name="resnet_small", channels=1, options=None, strategy=None):
    """Write what a run would leave in `weights`, and return its network."""
    described = Trained.on(data(8, shape=(channels, 32, 32)), name, options or {}, strategy, None)
    model = described.build(seed=3)
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    save_weights(path, model, network=described.to_json())
    return model.eval()


@pytest.mark.parametrize(("name", "channels", "options", "strategy"), CASES)
def test_what_is_loaded_computes_what_was_saved_and_says_what_it_is(
    name, channels, options, strategy, tmp_path
):
    model = saved(tmp_path / "weights", name, channels, options, strategy)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    found = regroup.loaded(tmp_path / "weights")
    assert torch.equal(torch.rand(3), expected), "loading begins other random numbers"
    images = torch.rand(2, channels, 32, 32)
    with torch.no_grad():
        assert torch.equal(found.model(images), model(images))
    assert not any(module.training for module in found.model.modules())
    assert found.classes == data(8).classes and found.input == ImageInput.on(
        data(8, shape=(channels, 32, 32))
    )
    assert found.name == (name if strategy is None else f"{name} with {strategy}")


def test_timms_tools_prepare_images_as_the_run_did(tmp_path):
    from timm.data import create_transform, resolve_data_config

    described = Trained("resnet_small", {}, None, None, ["a", "b"], [3, 28, 28], [0.4] * 3, [0.3] * 3, 0.875)
    save_weights(tmp_path / "weights", described.build(), network=described.to_json())
    found = regroup.loaded(tmp_path / "weights")
    image = picture(size=(64, 64))
    image.save(tmp_path / "a.png")
    timms = create_transform(**resolve_data_config({}, model=found.model))(Image.open(tmp_path / "a.png"))
    ours = found.input.read(tmp_path / "a.png")[0]
    assert torch.equal(*(((x * 0.3 + 0.4) * 255).round() for x in (ours, timms)))
    assert found.model.pretrained_cfg["label_names"] == ("a", "b")


def test_a_fresh_process_needs_nothing_but_the_directory(tmp_path):
    """And PyTorch; what takes as long to import again is for networks and heads of others."""
    model = saved(tmp_path / "weights", strategy="assigned:groups=2")
    code = (
        "import sys, regroup; import torch; torch.manual_seed(1)\n"
        "print(regroup.load(sys.argv[1])(torch.rand(1, 1, 32, 32)).tolist())\n"
        "assert not {'torchvision', 'timm'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "weights")], capture_output=True, text=True, check=True
    )
    torch.manual_seed(1)
    assert json.loads(done.stdout) == model(torch.rand(1, 1, 32, 32)).tolist()


def other_kind(path):
    return Loaded(nn.Identity(), ("a",), ImageInput((1, 2, 2), (0.0,), (1.0,)), "mine", "mine", path)


def test_a_kind_of_directory_is_one_function(tmp_path, monkeypatch):
    assert kinds["trained"]
    monkeypatch.setattr(kinds, "_items", dict(kinds._items))
    assert kind("mine")(other_kind) is other_kind
    write_sealed(tmp_path / "a", {"network.json": b'{"kind": "mine", "more": 1}', "x.bin": b"1"})
    found = regroup.loaded(tmp_path / "a")
    assert found.kind == "mine" and found.path == tmp_path / "a"
    assert found.model.default_cfg["input_size"] == (1, 2, 2)


def foreign(path):
    """Make things that are no directories of networks; return what is said of each."""
    (path / "file").write_text("x")
    (path / "empty").mkdir()
    write_sealed(path / "sealed", {"plan.json": b"{}"})
    write_sealed(path / "kind", {"network.json": b'{"kind": "zzz"}'})
    write_sealed(path / "list", {"network.json": b"[]"})
    save_checkpoint(path, {"model": {}})
    return {
        "nowhere": "there is no such directory",
        "file": "is no directory",
        "empty": "is no run of `regroup train`",
        "sealed": "holds no network: network.json, which says how it is built, is missing",
        "kind": "a network of the kind 'zzz', which this release does not know",
        "list": "in network.json, it is [[][]]: must be an object",
        "checkpoint-000001": "holds no network: network.json",
    }


def test_what_holds_no_network_is_one_clear_error(tmp_path):
    for name, said in foreign(tmp_path).items():
        with pytest.raises(CheckpointError, match=said) as caught:
            regroup.load(tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value)


def test_damage_is_named(tmp_path):
    saved(tmp_path / "weights")
    for name in ("weights.safetensors", "network.json", "weights.json"):
        file = tmp_path / "weights" / name
        whole = file.read_bytes()
        file.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
        with pytest.raises(CheckpointError, match=f"{name}: is damaged"):
            regroup.load(tmp_path / "weights")
        file.write_bytes(whole)
    regroup.load(tmp_path / "weights")


def test_a_network_that_a_file_of_the_users_defines_says_what_to_do(tmp_path):
    described = Trained.on(data(8), "resnet_small", {}, None, None)
    document = {**described.to_json(), "strategy": "of_a_plugin:groups=2"}
    save_weights(tmp_path / "weights", described.build(), network=document)
    with pytest.raises(
        CheckpointError, match=r"of_a_plugin.*if a file of yours defines it, import that first"
    ):
        regroup.load(tmp_path / "weights")
