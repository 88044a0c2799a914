"""`regroup export`: what was trained becomes a file, with the names of its classes, in one command."""

import json

import pytest
import torch

from regroup.cli import main
from regroup.loading.trained import Trained
from regroup.training.checkpoint import save_weights
from regroup.training.data import load_data


def call(*argv):
    with pytest.raises(SystemExit) as exit:
        main(list(map(str, argv)))
    return exit.value.code


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    path = tmp_path_factory.mktemp("nets") / "net"
    described = Trained.on(load_data("digits"), "resnet_small", {}, "grouped:groups=2", None)
    save_weights(path, described.build(), network=described.to_json())
    return path


def test_a_run_becomes_a_file_that_says_its_classes(net, tmp_path, capsys):
    assert call("export", net, "--to", "pt2", "--out", tmp_path, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["path"] == str(tmp_path / "net.pt2") and found["checked"] == [1, 2, 3]
    files = {"regroup.json": ""}
    program = torch.export.load(found["path"], extra_files=files)
    about = json.loads(files["regroup.json"])
    assert about["classes"] == list(map(str, range(10))) and about["input"]["shape"] == [1, 8, 8]
    assert about["network"] == "resnet_small with grouped:groups=2"
    assert program.module()(torch.zeros(4, 1, 8, 8)).shape == (4, 10)
    assert call("export", net, "--out", tmp_path / "net.pt2") == 1
    assert "exists already" in capsys.readouterr().err
    assert call("export", net, "--out", tmp_path / "net.pt2", "--replace", "--batch", 1, "--no-check") == 0
    assert capsys.readouterr().out == (
        f"{tmp_path / 'net.pt2'}: pt2, for batches of 1 images of (1, 8, 8); not checked: not asked for\n"
    )


@pytest.mark.parametrize(
    ("more", "status", "says"),
    [
        (("--out", "a"), 2, "out='a': must be a name that ends in .onnx (onnx), .pt2 (pt2)"),
        (("--out", "a.pt2", "--to", "pt"), 2, "did you mean 'pt2'"),
        (
            ("--out", "a.pt2", "--to-options", "opset"),
            2,
            "to_options='opset': must be of the form name=value",
        ),
        (("--out", "a.pt2", "--to-options", "opset=3"), 2, "opset=3: must be left out: 'pt2' has none"),
        (("--out", "a.pt2", "--channels", "3"), 2, "channels=3: must be left out for a run"),
        (("--out", "/proc/nowhere/a.pt2"), 1, "/proc/nowhere/a.pt2: cannot be written"),
        ((), 2, "out=None: must be given"),
    ],
)
def test_a_mistake_is_one_line(more, status, says, net, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("export", net, *more) == status
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and says in lines[0]
    assert not list(tmp_path.iterdir())
