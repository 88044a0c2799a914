"""Damaged checkpoints: every truncation, every flipped bit, every exchange of files is noticed."""

import json
import os
import random
import shutil

import pytest
import torch
from torch import nn

from regroup.errors import CheckpointError
from regroup.files.sealed import is_sealed_as
from regroup.training import load_weights, save_weights
from regroup.training.checkpoint import latest_valid, load_checkpoint, save_checkpoint

SWEEP = max(200, 20 * int(os.environ.get("REGROUP_FAULTS", "6")))


def network():
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


@pytest.fixture
def saved(tmp_path):
    return save_weights(tmp_path / "net", network(), plan={"groups": [1, 2]})


def refused(path, model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_weights(path, model)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before), "the model was changed"
    return str(caught.value)


def other():
    torch.manual_seed(4)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def test_weights_come_back_bit_for_bit(saved):
    model = other()
    assert load_weights(saved, model) == {"plan": {"groups": [1, 2]}}
    for name, value in network().state_dict().items():
        assert torch.equal(value, model.state_dict()[name])


def test_every_flipped_bit_is_noticed(saved):
    files, chance, model = sorted(saved.iterdir()), random.Random(0), other()
    for _ in range(SWEEP):
        file = chance.choice(files)
        data = bytearray(file.read_bytes())
        whole = bytes(data)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        file.write_bytes(data)
        assert file.name in refused(saved, model)
        file.write_bytes(whole)
    load_weights(saved, model)


def test_every_truncation_is_noticed(saved):
    chance, model = random.Random(1), other()
    for file in sorted(saved.iterdir()):
        whole = file.read_bytes()
        cuts = range(len(whole)) if len(whole) < SWEEP else chance.sample(range(len(whole)), SWEEP)
        for cut in cuts:
            file.write_bytes(whole[:cut])
            assert file.name in refused(saved, model)
        file.write_bytes(whole + b"\0")
        assert file.name in refused(saved, model)
        file.write_bytes(whole)


def test_every_missing_file_is_noticed(saved):
    for file in sorted(saved.iterdir()):
        hidden = file.rename(file.parent.parent / "hidden")
        assert file.name in refused(saved, other())
        hidden.rename(file)


def test_exchanged_files_are_noticed(saved, tmp_path):
    model = network()
    with torch.no_grad():
        model[0].weight.zero_()
    foreign = save_weights(tmp_path / "foreign", model, plan={"groups": [2, 1]})
    for name in ("weights.safetensors", "plan.json"):
        mixed = shutil.copytree(saved, tmp_path / f"mixed-{name}")
        shutil.copy(foreign / name, mixed / name)
        assert name in refused(mixed, other())


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)),
        nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.PReLU()),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).double(),
    ],
    ids=["shape", "less", "more", "type"],
)
def test_weights_of_another_model_are_refused_by_name(saved, model):
    assert "another model" in refused(saved, model)


def test_links_are_not_followed(saved, tmp_path):
    file = saved / "weights.safetensors"
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    assert "is not a file" in refused(saved, other())
    (tmp_path / "link").symlink_to(saved)
    assert "is not a directory" in refused(tmp_path / "link", other())


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/b", "..", ".hidden", ""])
def test_names_that_lead_out_of_the_directory_are_refused(saved, name):
    manifest = json.loads((saved / "manifest.json").read_text())
    manifest["files"] = {name: {"bytes": 1, "sha256": "0" * 64}}
    (saved / "manifest.json").write_text(json.dumps(manifest))
    assert "manifest" in refused(saved, other())


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"files": 3}']
)
def test_foreign_manifests_are_refused(saved, content):
    (saved / "manifest.json").write_bytes(content)
    assert "manifest" in refused(saved, other())


@pytest.mark.parametrize("name", ["manifest.json", "weights.safetensors"])
def test_nobody_waits_for_a_pipe_in_the_place_of_a_file(name, saved):
    (saved / name).unlink()
    os.mkfifo(saved / name)
    assert name in refused(saved, other())
    assert not is_sealed_as(saved, {})


def test_foreign_files_are_refused(tmp_path):
    assert "could not be read" in refused(tmp_path / "nothing", other())
    (tmp_path / "weights.pt").write_bytes(b"not a directory")
    assert "is not a directory" in refused(tmp_path / "weights.pt", other())
    (tmp_path / "empty").mkdir()
    assert "manifest.json" in refused(tmp_path / "empty", other())


def test_the_newest_good_checkpoint_is_found_behind_damaged_ones(tmp_path):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, {"training": {"step": step, "sum": torch.ones(3)}}, keep=3)
    (tmp_path / "checkpoint-000003" / "training.safetensors").write_bytes(b"")
    (tmp_path / "checkpoint-000002" / "manifest.json").unlink()
    path, passed_over = latest_valid(tmp_path)
    assert load_checkpoint(path)["training"]["step"] == 1
    assert [one.path.name for one in passed_over] == ["checkpoint-000003", "checkpoint-000002"]
    (path / "training.json").write_text("{}")
    with pytest.raises(CheckpointError, match="no good checkpoint"):
        latest_valid(tmp_path)


def test_no_checkpoint_is_not_an_error(tmp_path):
    assert latest_valid(tmp_path / "nowhere") == (None, [])
