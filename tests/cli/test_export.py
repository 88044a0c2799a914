"""`regroup export`: what was trained becomes a file, with the names of its classes, in one command."""

import json

import pytest
import torch
from torchvision.transforms.v2.functional import to_pil_image

from regroup.cli import main
from regroup.loading.trained import Trained
from regroup.networks.anywhere import create_any_model
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
        f"{tmp_path / 'net.pt2'}: pt2, for one image at a time of (1, 8, 8); not checked: not asked for\n"
    )


def test_images_of_another_size_are_what_the_file_says(net, tmp_path, capsys):
    assert call("export", net, "--image", 16, "--out", tmp_path / "net.onnx", "--quiet") == 0
    assert call("profile", tmp_path / "net.onnx", "--no-time", "--json") == 0
    assert json.loads(capsys.readouterr().out)["inputs"] == [[1, 1, 16, 16]]
    to_pil_image(load_data("digits").test[0][0]).save(tmp_path / "0.png")
    assert call("run", tmp_path / "net.onnx", "--image", tmp_path / "0.png", "--json") == 0


def test_an_onnx_file_knows_its_classes_and_its_images(net, tmp_path, capsys):
    """What is run and evaluated of the file is what is run and evaluated of the run."""
    pytest.importorskip("onnxruntime")
    for n in range(3):
        to_pil_image(load_data("digits").test[n][0]).save(tmp_path / f"{n}.png")
    assert call("export", net, "--out", tmp_path / "net.onnx", "--quiet") == 0
    assert capsys.readouterr() == ("", "")
    found = []
    for model in (net, tmp_path / "net.onnx"):
        assert call("run", model, "--image", tmp_path, "--json") == 0
        rows = json.loads(capsys.readouterr().out)
        found.append([(row["image"], row["classes"][0]["name"]) for row in rows])
        assert call("evaluate", model, "--data", "digits", "--no-time", "--json") == 0
        found[-1].append(json.loads(capsys.readouterr().out)["top1"])
    assert found[0] == found[1] and len(found[0]) == 4


def test_a_network_by_name_says_its_size_and_how_images_are_prepared(tmp_path, capsys):
    """Those of timm's that is taken here are of 160x160 pixels, of another mean than most."""
    pytest.importorskip("onnxruntime")
    weights = ("--weights", tmp_path / "w.pth")
    torch.save(create_any_model("timm:test_resnet", num_classes=3).state_dict(), weights[1])
    to_pil_image(torch.rand(3, 50, 70)).save(tmp_path / "a.png")
    assert call("profile", "timm:test_resnet", "--no-time", "--json") == 0
    assert json.loads(capsys.readouterr().out)["inputs"] == [[1, 3, 160, 160]]
    assert call("export", "timm:test_resnet", *weights, "--out", tmp_path / "net.onnx", "--quiet") == 0
    found = []
    for model in (("timm:test_resnet", *weights), (tmp_path / "net.onnx",)):
        assert call("run", *model, "--image", tmp_path / "a.png", "--json") == 0
        (row,) = json.loads(capsys.readouterr().out)
        found.append([each["probability"] for each in sorted(row["classes"], key=lambda each: each["class"])])
    assert len(found[0]) == 3 and found[0] == pytest.approx(found[1], rel=1e-4)


def test_a_file_of_so_many_images_or_of_probabilities_is_as_any_other(net, tmp_path, capsys):
    """Images are given to it by so many, and probabilities are not taken for scores."""
    onnx = pytest.importorskip("onnx")
    for n in range(5):
        to_pil_image(load_data("digits").test[n][0]).save(tmp_path / f"{n}.png")
    assert call("export", net, "--out", tmp_path / "two.onnx", "--batch", 2, "--quiet") == 0
    proto = onnx.load(tmp_path / "two.onnx")
    (end,) = [node for node in proto.graph.node if "scores" in node.output]
    end.output[0] = "before"
    proto.graph.node.append(onnx.helper.make_node("Softmax", ["before"], ["scores"]))
    onnx.save(proto, tmp_path / "soft.onnx")
    found = []
    for model in (net, tmp_path / "two.onnx", tmp_path / "soft.onnx"):
        assert call("run", model, "--image", tmp_path, "--json") == 0
        rows = [row["classes"][0] for row in json.loads(capsys.readouterr().out)]
        assert call("evaluate", model, "--data", "digits", "--no-time", "--no-compiled", "--json") == 0
        said = json.loads(capsys.readouterr().out)
        numbers = [said["loss"], said["ece"], *(row["probability"] for row in rows)]
        found.append(([row["name"] for row in rows], said["top1"], numbers))
    for names, top1, numbers in found[1:]:
        assert (names, top1, pytest.approx(numbers)) == found[0]
    assert call("profile", tmp_path / "two.onnx", "--batch", 3, "--no-time") == 2
    assert "batch=3: must be 2, as" in capsys.readouterr().err
    assert call("profile", tmp_path / "two.onnx", "--no-time", "--json") == 0
    assert json.loads(capsys.readouterr().out)["inputs"] == [[2, 1, 8, 8]]


@pytest.mark.parametrize(
    ("about", "says"),
    [
        ({"input": {"shape": [1, 9, 8], "mean": [0.5], "std": [1.0]}}, "of other images than its network"),
        ({"input": {"shape": [1, 8, 8], "mean": [0.5], "std": [0.0]}}, "regroup.input.std is [0.0]: must be"),
        ({"input": {"shape": [1, 8, -5], "mean": [0.5], "std": [1.0]}}, "input.shape is [1, 8, -5]: must be"),
        ({"input": {"shape": [1, 8, 10**12], "mean": [0.5], "std": [1.0]}}, "67108864 pixels"),
        (
            {"input": {"shape": [1, 8, 8], "mean": [0.5], "std": [1.0], "resample": "nonsense"}},
            "input.resample is 'nonsense': must be one of 'nearest', 'box'",
        ),
        ({"classes": []}, "regroup.classes is []: must be one name or more"),
        ({}, "it names 2 classes, but its network gives 3 classes for 1 images"),
        ({"input": {"shape": 5}}, "its metadata are damaged: regroup.input"),
        ({"classes": [1]}, "its metadata are damaged: regroup.classes[0] is 1: must be a text"),
    ],
)
def test_metadata_that_cannot_be_are_one_line(about, says, tmp_path, capsys):
    onnx = pytest.importorskip("onnx")
    known = {"classes": ["a", "b"], "input": {"shape": [1, 8, 8], "mean": [0.5], "std": [0.2]}}
    images = onnx.helper.make_tensor_value_info("images", 1, ["batch", 1, 8, 8])
    scores = onnx.helper.make_tensor_value_info("scores", 1, ["batch", 3])
    weights = onnx.helper.make_tensor("weights", 1, [64, 3], [0.1] * 192)
    nodes = [
        onnx.helper.make_node("Flatten", ["images"], ["flat"]),
        onnx.helper.make_node("MatMul", ["flat", "weights"], ["scores"]),
    ]
    proto = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [images], [scores], [weights]))
    for key, value in (known | about).items():
        proto.metadata_props.add(key=f"regroup.{key}", value=json.dumps(value))
    onnx.save(proto, tmp_path / "a.onnx")
    to_pil_image(torch.zeros(1, 8, 8)).save(tmp_path / "x.png")
    assert call("run", tmp_path / "a.onnx", "--image", tmp_path / "x.png") == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and says in lines[0]


@pytest.mark.parametrize(
    ("more", "status", "says"),
    [
        (
            ("--out", "a"),
            2,
            "out='a': must be a name that ends in .pte (executorch), .onnx (onnx), .pt2",
        ),
        (("--out", "a.pt2", "--to", "pt"), 2, "did you mean 'pt2'"),
        (
            ("--out", "a.pt2", "--to-options", "opset"),
            2,
            "to_options='opset': must be of the form name=value",
        ),
        (("--out", "a.pt2", "--to-options", "opset=3"), 2, "opset=3: must be left out: 'pt2' has none"),
        (
            ("--out", "a.pt2", "--to-options", "batch=2"),
            2,
            "to_options='batch=2': must be options of --to pt2",
        ),
        (("--out", "a.pt2", "--to-options", "path=x"), 2, "to_options='path=x': must be options of --to pt2"),
        (
            ("--out", "a", "--target", "aarch64", "--to-options", "target=wasm32-simd128"),
            2,
            "to_options='target=wasm32-simd128': must be left out where --target is given",
        ),
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


def test_object_code_by_the_name_of_the_machine(net, tmp_path, capsys):
    assert call("export", net, "--target", "aarch64", "--out", tmp_path / "arm") == 0
    assert "object, for one image at a time of (1, 8, 8)" in capsys.readouterr().out
    assert '"resnet_small with grouped:groups=2"' in (tmp_path / "arm" / "net.h").read_text()
    assert call("export", net, "--target", "list", "--out", tmp_path / "none") == 0
    assert "cortex-m55       microcontrollers" in capsys.readouterr().out
    for options, message in (
        (("--target", "aarch64", "--to", "pt2"), "target='aarch64': must be left out for --to pt2"),
        (("--target", "aarch64", "--flash", "1k"), "flash=1024: must be at least"),
        (("--target", "pdp-11"), "target='pdp-11': must be one of"),
        (("--to", "object"), "target=None: must be one of"),
    ):
        assert call("export", net, *options, "--out", tmp_path / "none") == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
