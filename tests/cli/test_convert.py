"""The command convert, on a small run: what it leaves is a network that every command takes."""

import json
import os
import shutil

import pytest
import torch

import regroup
from regroup.cli import main
from regroup.conversion.plan import LayerPlan, Plan
from regroup.errors import CheckpointError
from regroup.files.lock import Lock
from regroup.loading import ImageInput
from regroup.loading.converted import save_converted
from regroup.loading.trained import Trained
from regroup.networks import anywhere
from tests.conversion import clock
from tests.data.malformed import encoded, picture

FEW = ("--images", "32", "--epochs", "0", "--budget", "macs=0.8", "--choice", "activation", "--quiet")


@pytest.fixture(scope="module", autouse=True)
def _clock():
    with pytest.MonkeyPatch.context() as monkeypatch:
        clock.put(monkeypatch)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of a moment, with weights that are hardly trained."""
    path = tmp_path_factory.mktemp("runs") / "dense"
    call("train", "--epochs", "1", "--out", str(path), "--quiet")
    return path


def call(*argv):
    with pytest.raises(SystemExit) as ended:
        main(list(argv))
    return ended.value.code


@pytest.fixture(scope="module")
def converted(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "small"
    assert call("convert", str(run), *FEW, "--out", str(out)) == 0
    return out


def test_it_is_loaded_bit_for_bit_and_smaller(run, converted):
    dense, small = regroup.load(run), regroup.load(converted)
    images = torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(small(images), regroup.load(converted)(images))
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in dense.parameters())
    found = regroup.loaded(converted)
    assert found.kind == "converted" and found.classes == regroup.loaded(run).classes
    figures = json.loads((converted / "report.json").read_text())
    assert figures["macs"] <= 0.8 * figures["dense"]["macs"]
    stages = [stage["name"] for stage in figures["stages"] if stage["name"] != "norms"]
    assert stages == ["dense", "squares", "blocks"]
    assert [path.name for path in converted.parent.iterdir()] == ["small"]


def test_one_process_at_a_time(run, tmp_path, capsys):
    argv = ("convert", str(run), *FEW, "--out", str(tmp_path / "small"), "--dry-run")
    with Lock(tmp_path / "small.lock"):
        assert call(*argv, "--no-wait") == 1
    assert f"{tmp_path / 'small'}: is in use by process {os.getpid()}" in capsys.readouterr().err
    assert call(*argv, "--no-wait") == 0


def test_what_was_put_beside_a_converted_network_is_not_lost(run, converted, tmp_path, capsys):
    out = tmp_path / "small"
    shutil.copytree(converted, out)
    (out / "notes.txt").write_text("mine")
    assert call("convert", str(run), *FEW, "--out", str(out)) == 2
    assert "'notes.txt' was put into it, and would be lost" in capsys.readouterr().err
    assert (out / "notes.txt").read_text() == "mine" and regroup.load(out)


def test_it_is_shown_images_as_it_was_measured_and_says_on_which(monkeypatch, tmp_path, capsys):
    """Of a network whose images are prepared in no usual way; the figures of the report are found again."""
    cfg = {"input_size": (3, 16, 16), "crop_pct": 0.9, "crop_mode": "squash", "interpolation": "nearest"}
    cfg |= {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4)}
    known = anywhere.create_any_model

    def create(*name, **options):
        model = known(*name, **options)
        model.pretrained_cfg = model.pretrained_cfg | cfg
        return model

    monkeypatch.setattr(anywhere, "create_any_model", create)
    monkeypatch.chdir(tmp_path)
    for label in ("cat", "dog"):
        for n in range(12):
            path = tmp_path / "data" / label / f"{n}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(picture(size=(40 + n, 30)), "PNG"))
    model = regroup.create_model("resnet_small", num_classes=2)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    wanted = ImageInput.of(create("resnet_small"))
    assert (wanted.crop, wanted.resample) == ("squash", "nearest")
    argv = ("resnet_small", "--weights", "w.pth", "--data", "data", *FEW)
    assert call("convert", *argv, "--images", "16", "--out", "small") == 0
    assert regroup.loaded("small").input == wanted
    stage = json.loads((tmp_path / "small" / "report.json").read_text())["stages"][-1]
    monkeypatch.chdir(tmp_path / "data")
    capsys.readouterr()
    assert call("evaluate", "../small", "--no-time", "--no-compiled", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["loss"], found["top1"]) == (pytest.approx(stage["loss"]), stage["top1"])


def test_what_was_converted_is_no_run_to_go_on_from(run, converted, tmp_path, capsys):
    for argv, status, says in (
        (("convert", str(converted)), 2, "must be a network that is not converted already; convert the run"),
        (("train", "--weights", str(converted)), 1, "holds a network of the kind 'converted', whose layers"),
    ):
        assert call(*argv, "--out", str(tmp_path / "new"), "--quiet") == status
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1 and says in said[0]
    place = ("--out", str(converted), "--quiet")
    assert call("export", str(run), "--target", "x86-64-avx2", "--replace", *place) == 1
    assert "is neither empty nor an earlier export" in capsys.readouterr().err and regroup.load(converted)
    assert call("convert", str(run), "--batch", str(10**18), "--out", str(tmp_path / "new")) == 2
    assert "batch=1000000000000000000: must be an int from 1" in capsys.readouterr().err


def test_the_page_says_what_became_of_every_layer(converted):
    page = (converted / "report.html").read_text()
    figures = json.loads((converted / "report.json").read_text())
    for name, option in figures["options"].items():
        assert f"<code>{name}</code></td><td>{option}</td>" in page
    for name in figures["left"]:
        assert f"<code>{name}</code>: " in page
    assert "<script" not in page and "http" not in page.replace("http-equiv", "")


def test_a_damaged_one_is_refused(converted, tmp_path):
    from regroup.files.sealed import write_sealed

    plan = json.loads((converted / "plan.json").read_text())
    assert plan["layers"]
    plan["layers"][0]["name"] = "nowhere"
    other = tmp_path / "other"
    files = {f.name: f.read_bytes() for f in converted.iterdir() if f.name != "manifest.json"}
    write_sealed(other, files | {"plan.json": json.dumps(plan).encode()})
    with pytest.raises(CheckpointError, match="its plan is of another network"):
        regroup.load(other)
    plan = json.loads((converted / "plan.json").read_text())
    plan["orders"] = {name: [2**70] for name in plan["orders"]}
    write_sealed(tmp_path / "far", files | {"plan.json": json.dumps(plan).encode()})
    with pytest.raises(CheckpointError, match="its plan is of another network"):
        regroup.load(tmp_path / "far")
    shutil.copytree(converted, tmp_path / "cut")
    (tmp_path / "cut" / "plan.json").write_bytes(b"{}")
    with pytest.raises(CheckpointError):
        regroup.load(tmp_path / "cut")


def test_learned_orders_of_channels_that_are_not_there_are_refused(tmp_path):
    dense = Trained.on(regroup.load_data("digits"), "resnet_small", {}, None, None)
    model, name = dense.build(), "stages.2.0.conv2.conv"
    channels = list(range(model.get_submodule(name).in_channels))
    half = len(channels) // 2
    groups = [channels[::2], channels[1::2]], [channels[:half], channels[half:]]
    plan = Plan([LayerPlan(name, "grouped:groups=2", *groups)])
    plan.apply(model)
    save_converted(tmp_path / "good", model, dense, plan, {}, "")
    order = regroup.load(tmp_path / "good").get_submodule(name)[0].order
    assert order.tolist() == [*channels[::2], *channels[1::2]]
    model.get_submodule(name)[0].order[0] = len(channels)
    save_converted(tmp_path / "bad", model, dense, plan, {}, "")
    with pytest.raises(CheckpointError, match="its channel orders do not fit"):
        regroup.load(tmp_path / "bad")


def test_a_dry_run_leaves_nothing_but_what_is_gone_on_from(run, tmp_path, capsys):
    out = tmp_path / "dry"
    assert call("convert", str(run), *FEW, "--out", str(out), "--dry-run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["share"] is None
    assert not out.exists() and (tmp_path / "dry.work" / "memory.json").exists()


@pytest.mark.parametrize("file", [False, True])
def test_what_others_keep_beside_it_is_left_alone(run, tmp_path, capsys, file):
    work = tmp_path / "small.work"
    theirs = work if file else work / "thesis.txt"
    theirs.parent.mkdir(exist_ok=True)
    theirs.write_text("years of it")
    assert call("convert", str(run), *FEW, "--out", str(tmp_path / "small")) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and theirs.name in said[0] and "small.work" in said[0]
    assert theirs.read_text() == "years of it" and not (tmp_path / "small").exists()


@pytest.mark.parametrize(
    ("arguments", "words", "status"),
    [
        (["resnet_small"], "a network that is trained", 2),
        (["--budget", "tiem=0.5"], "tiem", 2),
        (["RUN", "--budget", "params=0.01"], "params=0.01: must be at least", 2),
        (["RUN", "--choice", "gian"], "did you mean 'gain'", 2),
        (["RUN", "--images", "3"], "images=3", 2),
        (["RUN", "--epochs", "-1"], "epochs=-1", 2),
        (["RUN", "--data", "nowhere/"], "nowhere", 1),
        (["RUN", "--out", "HERE"], "a new directory", 2),
        (["nowhere/"], "no such directory", 1),
    ],
)
def test_bad_input_is_one_line(run, tmp_path, capsys, arguments, words, status):
    (tmp_path / "of others").touch()
    names = {"RUN": str(run), "HERE": str(tmp_path)}
    given = [names.get(text, text) for text in arguments]
    usual = {"--out": str(tmp_path / "out"), "--images": "32", "--choice": "activation"}
    for name, value in usual.items():
        given += [] if name in given else [name, value]
    assert call("convert", *given, "--quiet") == status
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and words in said[0]
    assert not (tmp_path / "out").exists()
