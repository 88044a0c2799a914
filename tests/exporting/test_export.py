"""What is exported computes the same, for any number of images, and is written whole or not at all."""

import copy
import functools
import io
import json
import os
import sys
import warnings

import pytest
import torch
from torch import nn

import regroup
from regroup.aot.targets import MACHINES
from regroup.errors import ConfigError, ExportError, ParameterError, UnknownNameError
from regroup.exporting import Made, way, ways
from regroup.exporting.writing import _SUFFIXES
from regroup.files.disk import Disk, using
from regroup.files.sealed import verify_sealed, write_sealed
from regroup.strategies.learning import learned_modules

IMAGES = torch.zeros(1, 1, 8, 8)


@pytest.fixture(scope="module")
def model():
    """A small network that learns groups, with other statistics than it begins with."""
    torch.manual_seed(1)
    model = regroup.create_model("resnet_small", num_classes=10, in_chans=1)
    regroup.replace(model, "condensed:groups=4", weights="fresh")
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.uniform_(-0.3, 0.3)
    assert model.eval()(torch.randn(1, 1, 8, 8)).std() > 0
    return model


@pytest.fixture
def _instead(monkeypatch):
    assert list(ways) == ["executorch", "object", "onnx", "pt2"]
    monkeypatch.setattr(ways, "_items", dict(ways._items))
    monkeypatch.setattr("regroup.exporting.writing._SUFFIXES", dict(_SUFFIXES))


@pytest.mark.parametrize("to", ["onnx", "pt2"])
def test_what_is_written_computes_the_same_for_any_number_of_images(to, model, tmp_path):
    path = tmp_path / f"net.{to}"
    known = {"classes": ["a", "b"]}
    found = regroup.export(model, path, IMAGES, about=known)
    assert found.checked == (1, 2, 3) and found.bytes == path.stat().st_size and found.to == to
    assert learned_modules(model), "the network itself was changed"
    x = torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        exact, ours = regroup.deploy(model).double()(x.double()), model.float()(x)
    if to == "onnx":
        ort = pytest.importorskip("onnxruntime")
        session = ort.InferenceSession(path.read_bytes())
        assert [i.name for i in session.get_inputs()] == ["images"]
        theirs = torch.from_numpy(session.run(["scores"], {"images": x.numpy()})[0])
        about = session.get_modelmeta().custom_metadata_map
        assert json.loads(about["regroup.classes"]) == ["a", "b"]
    else:
        files = {"regroup.json": ""}
        theirs = torch.export.load(path, extra_files=files).module()(x).detach()
        assert json.loads(files["regroup.json"]) == known
    error, own = ((y - exact).square().mean().sqrt() for y in (theirs, ours))
    assert error <= 4 * own + 4 * torch.finfo(torch.float32).eps * exact.square().mean().sqrt()


def test_a_fixed_number_of_images_and_a_file_of_onnx(model, tmp_path):
    """What ONNX has is a network, too."""
    onnx = regroup.export(model, tmp_path / "a.onnx", IMAGES, batch=2)
    assert onnx.checked == (2,)
    from regroup.engine.frontend.onnx import load

    found = regroup.export(load(tmp_path / "a.onnx"), tmp_path / "a.pt2", IMAGES, batch=2)
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        again = torch.export.load(found.path).module()(x)
        torch.testing.assert_close(again, model(x))


@pytest.mark.usefixtures("_instead")
def test_a_way_is_one_function_and_what_it_makes_is_compared(model, tmp_path):
    @way("mine", suffix=".mine")
    def mine(subject, *, scale: float = 1.0):
        return Made(b"network", lambda x: scale * subject.model(x))

    assert regroup.export(model, tmp_path / "a.mine", IMAGES).error == pytest.approx(0, abs=1e-5)
    with pytest.raises(ExportError, match="not written: it computes something else for 1 images"):
        regroup.export(model, tmp_path / "b.mine", IMAGES, scale=1.001)
    regroup.export(model, tmp_path / "b.mine", IMAGES, scale=1.001, check=False)
    with pytest.raises(ConfigError, match="level=3: must be an option of 'mine': scale"):
        regroup.export(model, tmp_path / "c.mine", IMAGES, level=3)

    zeros = nn.Sequential(nn.Flatten(), nn.Threshold(1e9, 0.0))
    assert "the network makes zeros only" in str(regroup.export(zeros, tmp_path / "z.mine", IMAGES))

    @way("folder", suffix="")
    def folder(subject):
        return Made({"a.bin": b"1", "b.bin": b"2"}, None, "nothing runs it here")

    found = regroup.export(model, tmp_path / "folder", IMAGES, to="folder")
    assert set(verify_sealed(found.path)) == {"a.bin", "b.bin"}
    assert str(found).endswith("not checked: nothing runs it here")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mine", "b.mine", "folder", "z.mine"]


@pytest.mark.usefixtures("_instead")
def test_nothing_is_half_written_and_what_is_there_stays(model, tmp_path):
    @way("mine", suffix=".mine")
    def mine(subject):
        return Made(b"new")

    class Full(Disk):
        def write(self, path, data, mode=0o666):
            super().write(path, data[: len(data) // 2], mode)
            if data == b"new":
                raise OSError(28, "No space left on device")

    path = tmp_path / "a.mine"
    path.write_bytes(b"old")
    with pytest.raises(ExportError, match=r"a\.mine: exists already"):
        regroup.export(model, path, IMAGES)
    with using(Full()), pytest.raises(ExportError, match=r"a\.mine: could not be written: No space left"):
        regroup.export(model, path, IMAGES, replace=True)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    regroup.export(model, path, IMAGES, replace=True)
    assert path.read_bytes() == b"new"
    with pytest.raises(ExportError, match="cannot be written: "):
        regroup.export(model, path / "inner.mine", IMAGES)
    (tmp_path / "place").mkdir()
    assert regroup.export(model, tmp_path / "place", IMAGES, to="mine").path.name == "network.mine"


def test_what_a_killed_export_has_left_goes_after_an_hour(model, tmp_path):
    left, young, other = (tmp_path / f".{name}.partial-{n}" for n, name in enumerate(("a.pt2", "a.pt2", "b")))
    for path in (left, young, other):
        path.write_text("half")
    for path in (left, other):
        os.utime(path, (0, 0))
    regroup.export(model, tmp_path / "a.pt2", IMAGES, check=False)
    assert {path.name for path in tmp_path.iterdir()} == {"a.pt2", young.name, other.name}


class Undecided(nn.Module):
    """What it computes depends on its numbers: no exporter follows."""

    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_what_has_no_such_form_is_one_line_and_says_what_may_do(tmp_path):
    for name in ("a.onnx", "a.pt2"):
        with pytest.raises(
            ExportError, match=r"the network cannot be written as \w+ \(\w+: .*data-dependent.*perhaps"
        ) as caught:
            regroup.export(Undecided(), tmp_path / name, IMAGES)
        assert str(caught.value).isprintable() and "[96m" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_numbers_of_another_type_are_named(model, tmp_path):
    for other, name in ((torch.float16, "float16"), (torch.float64, "float64")):
        with pytest.raises(ExportError, match=f"has weights of {name}: give model.float()"):
            regroup.export(copy.deepcopy(model).to(other), tmp_path / "a.onnx", IMAGES)


def test_a_network_of_several_outputs_or_other_images_is_one_error(model, tmp_path):
    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    with pytest.raises(ExportError, match="the network gives a tuple; what is exported gives one tensor"):
        regroup.export(Pair(), tmp_path / "a.pt2", IMAGES)
    with pytest.raises(ExportError, match=r"does not take images of \(2, 3, 8, 8\) \(SpecError: "):
        regroup.export(model, tmp_path / "a.pt2", torch.zeros(1, 3, 8, 8))


def test_wrong_ways_and_names_are_one_error(model, tmp_path):
    with pytest.raises(UnknownNameError, match=r"to='onx': must be one of .*; did you mean 'onnx'"):
        regroup.export(model, tmp_path / "a", IMAGES, to="onx")
    with pytest.raises(
        ConfigError, match=r"a name that ends in \.pte \(executorch\), \.onnx \(onnx\), \.pt2 \(pt2\)"
    ):
        regroup.export(model, tmp_path / "a.xyz", IMAGES)
    with pytest.raises(ConfigError, match="opset=99"):
        regroup.export(model, tmp_path / "a.onnx", IMAGES, opset=99)


def test_a_directory_of_files_is_never_replaced(model, tmp_path):
    """Neither a directory of somebody's, nor a sealed one of another kind, nor a link to an export."""
    mine, run, link = tmp_path / "mine", tmp_path / "run", tmp_path / "link"
    (mine / "inner").mkdir(parents=True)
    (mine / "inner" / "thesis.tex").write_text("years")
    (mine / "report.json").write_text("{}")
    write_sealed(run, {"weights": b"1", "network.json": b"{}"})
    export = functools.partial(regroup.export, model, images=IMAGES, to="object", target="aarch64")
    (tmp_path / "net").mkdir()
    export(tmp_path / "net", replace=True)
    assert "net.o" in verify_sealed(export(tmp_path / "net", replace=True).path)
    link.symlink_to(tmp_path / "net")
    for path in (mine, run, link):
        with pytest.raises(ExportError, match="is neither empty nor an earlier export"):
            export(path, replace=True)
    assert (mine / "inner" / "thesis.tex").read_text() == "years" and set(verify_sealed(run))
    assert link.is_symlink() and len(list(tmp_path.iterdir())) == 4


@pytest.mark.usefixtures("_instead")
def test_files_that_come_meanwhile_stay(model, tmp_path):
    @way("folder", suffix="")
    def folder(subject):
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "thesis.tex").write_text("years")
        return Made({"a.bin": b"1"})

    with pytest.raises(ExportError, match="is neither empty nor an earlier export"):
        regroup.export(model, tmp_path / "folder", IMAGES, to="folder", replace=True)
    assert (tmp_path / "folder" / "thesis.tex").read_text() == "years"


def test_without_a_float64_reference_nothing_is_compared(tmp_path):
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.plain = nn.Conv2d(1, 2, 3), torch.ones(1, 8, 2)

        def forward(self, x):
            return torch.matmul(self.conv(x).flatten(1)[:, None, :8], self.plain)[:, 0]

    found = regroup.export(Shifted(), tmp_path / "a.pt2", IMAGES)
    assert not found.checked and found.error is None
    assert found.reason.startswith("no float64 reference (RuntimeError: ") and found.path.is_file()


def test_nothing_is_printed(model, tmp_path, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        regroup.export(model, tmp_path / "a.pt2", IMAGES)
    assert capfd.readouterr() == ("", "")
    assert io.BytesIO((tmp_path / "a.pt2").read_bytes()).read(2) == b"PK"


def test_object_code_is_a_directory_with_the_names_of_the_classes(model, tmp_path):
    """What the code computes is the matter of `tests/aot`."""
    found = regroup.export(
        model, tmp_path / "net", IMAGES, to="object", target="wasm32-simd128", about={"classes": ["a", "b"]}
    )
    files = verify_sealed(tmp_path / "net")
    assert json.loads(files["labels.json"].read_text()) == ["a", "b"] and "net.wasm" in files
    assert not found.checked and "node check.mjs" in found.reason and "bytes of flash" in found.reason
    with pytest.raises(ExportError, match="exists already"):
        regroup.export(model, tmp_path / "net", IMAGES, to="object", target="aarch64")
    here = regroup.export(model, tmp_path / "here", IMAGES, to="object", target="x86-64-avx2")
    assert here.checked == ((1, 2, 3) if MACHINES["x86-64-avx2"].runs_here else ())
    for options, message in (
        ({}, r"target=None: must be one of x86-64, x86-64-avx2.*\(`--target list` says what each is\)"),
        ({"target": "aarch64", "batch": 2}, "batch=2: must be 1 or left out"),
        ({"target": "aarch64", "ram": "1k"}, "ram=1024: must be at least"),
        ({"target": "aarch65"}, "did you mean 'aarch64'"),
    ):
        with pytest.raises(ParameterError, match=message):
            regroup.export(model, tmp_path / "other", IMAGES, to="object", **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "net"]


def test_what_executorch_runs_computes_the_same(tmp_path):
    pytest.importorskip("executorch", reason="--to executorch is not run: pip install executorch")
    net = nn.Sequential(nn.Conv2d(1, 8, 3, groups=1), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5)).eval()
    for batch in (None, 2):
        found = regroup.export(net, tmp_path / f"{batch}.pte", IMAGES, batch=batch)
        assert found.batch == (batch or 1) and found.checked == ((1, 2, 3) if batch is None else (2,))
    with pytest.raises(ConfigError, match="delegate='vulkan': must be 'xnnpack' or 'none'"):
        regroup.export(net, tmp_path / "other.pte", IMAGES, delegate="vulkan")


def test_a_form_that_needs_what_is_not_there_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "executorch", None)
    with pytest.raises(ExportError, match="executorch needs executorch, which is not installed"):
        regroup.export(nn.Conv2d(1, 2, 1).eval(), tmp_path / "a.pte", IMAGES)
    assert not list(tmp_path.iterdir())
