"""`regroup train`: a network, a grouping, data; then resume it, and let it teach another."""

import json
import re
from dataclasses import fields, replace

import pytest
import torch

import regroup
from regroup.cli import main
from regroup.cli.train import Options, _begun, _begun_with, _to_json
from regroup.errors import CheckpointError
from regroup.files.documents import build
from regroup.loading.trained import Trained
from regroup.training.checkpoint import list_checkpoints, load_checkpoint, save_weights
from regroup.training.directory import Record
from tests.faults import runs
from tests.training.cases import data


def regroup_train(*arguments):
    with pytest.raises(SystemExit) as caught:
        main(["train", *map(str, arguments)])
    return caught.value.code


def short(output, *more):
    common = ("--epochs", 1, "--lr", 0.05, "--display", "quiet", "--device", "cpu", "--output", output)
    return regroup_train(*common, *more)


def test_a_network_with_a_grouping_is_trained_saved_resumed_and_teaches(tmp_path, capsys):
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    assert short(teacher, "--strategy", "grouped:groups=4") == 0
    said = capsys.readouterr()
    assert "top-1" in said.out and str(teacher / "weights") in said.out
    assert "replaced" in said.err
    kept = list_checkpoints(teacher)
    assert short(teacher, "--strategy", "grouped:groups=4", "--resume") == 0
    assert list_checkpoints(teacher) == kept
    saved = load_checkpoint(teacher / "weights")
    assert saved["network"]["strategy"] == "grouped:groups=4"
    assert short(student, "--teacher", teacher, "--strategy", "dense") == 0
    assert Record.read(teacher).identity.fields["teacher"] is None
    assert set(Record.read(student).identity.fields["teacher"]) > {"weights"}


def test_options_of_the_network_are_part_of_the_run(tmp_path, capsys):
    options = ("--model-options", "learned=true", "depths=[1,1,1]", "global_pool=max")
    assert short(tmp_path, "--model", "condensenet_cifar_50", *options) == 0
    saved = load_checkpoint(tmp_path / "weights")
    assert saved["network"]["options"] == {"learned": True, "depths": [1, 1, 1], "global_pool": "max"}
    for group in saved["weights"]["stages.0.0.conv1.kept"]:
        assert int(group.sum()) == 16 // 4


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--model-options", "learned"), "of the form name=value"),
        (("--model-options", "lerned=true"), "must be left out: resnet_small has"),
        (("--strategy", "groped:groups=4"), "did you mean 'grouped'"),
        (("--strategy", "grouped:groups=3"), "fits none of the layers: groups=3: must be a divisor of"),
        (("--model", "resnet_smal"), "resnet_small"),
        (("--data", "digitz"), "digits"),
        (("--teacher", "/nowhere"), "/nowhere: there is no such directory"),
        (("--opt", "sdg"), "opt='sdg'"),
    ],
)
def test_a_mistake_is_one_line(arguments, says, tmp_path, capsys):
    assert short(tmp_path / "run", *arguments) == (1 if "/nowhere" in arguments else 2)
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("regroup train: ") and says in last


def test_another_run_is_not_written_over(tmp_path, capsys):
    assert short(tmp_path) == 0
    assert short(tmp_path) == 2
    assert "holds no run yet" in capsys.readouterr().err


OTHERS = {
    "strategy": [
        ("groupable", "groupable:groups=8"),
        ("dynamic", "dynamic:gate=0.25"),
        ("shifted", "shifted:bits=3"),
        ("grouped:groups=2", "grouped:groups=4"),
        ("shuffled", "grouped:groups=2"),
    ],
    "where": [("3", "*"), ("*", "3")],
    "model": [("tiny", "resnet_small")],
    "data": [("tiny", "digits")],
    "lr": [("0.05", "0.06")],
    "seed": [("1", "2")],
    "teacher": [("TEACHER", "")],
}


@pytest.mark.parametrize(
    ("option", "begun", "other"), [(o, *pair) for o, pairs in OTHERS.items() for pair in pairs]
)
def test_a_run_is_not_resumed_as_another_though_every_tensor_fits(option, begun, other, tmp_path, capsys):
    """Both sides are named; nothing in the directory changes."""
    choices = {"model": "tiny", "data": "tiny", "batch-size": "16", "epochs": "1"}
    if option == "where":
        choices["strategy"] = "grouped:groups=2"
    common = ("--display", "quiet", "--device", "cpu", "--output", tmp_path / "run")

    def run(value, *more):
        chosen = {**choices, option: value}
        return regroup_train(*(w for n, v in chosen.items() if v for w in (f"--{n}", v)), *common, *more)

    with runs.registered():
        if option == "teacher":
            begun = str(tmp_path / "teacher")
            assert regroup_train("--model", "tiny", "--data", "tiny", "--epochs", "1", "--out", begun) == 0
        assert run(begun) == 0
        before = runs.contents(tmp_path / "run")
        capsys.readouterr()
        assert run(other, "--resume") != 0
        assert runs.contents(tmp_path / "run") == before
        said = capsys.readouterr().err.splitlines()[-1]
        assert option in said and "as in the run to resume" in said
        assert run(begun, "--resume") == 0


@pytest.mark.parametrize("name", [f.name for f in fields(Options)])
def test_what_a_run_was_begun_with_is_believed_only_in_its_types(name, tmp_path):
    """A damaged disk, or another's hand, may have written anything there."""
    whole = json.loads(json.dumps(_to_json(Options(plugin=(tmp_path / "p.py",)))))
    assert _begun_with(tmp_path, whole).plugin == (tmp_path / "p.py",)
    for value in (["x"], {"a": 1}, 5, -1.5, "x", None, True, [[]], 10**400):
        try:
            options = _begun_with(tmp_path, whole | {name: value})
        except CheckpointError as error:
            assert "run.json is damaged" in str(error) and "\n" not in str(error)
        else:
            assert build(json.loads(json.dumps(_to_json(options))), Options).model == options.model


@pytest.mark.parametrize(
    ("name", "channels", "strategy"),
    [
        ("resnet_small", 1, "grouped:groups=4"),
        ("timm:test_resnet", 1, None),
        ("torchvision:squeezenet1_1", 3, None),  # its head is a convolution
        ("googlenet", 3, None),
    ],
)
def test_weights_of_other_classes_need_a_new_head_and_bring_all_the_rest(name, channels, strategy, tmp_path):
    old, new = (
        Trained.on(data(8, shape=(channels, 32, 32), classes=classes), name, {}, strategy, None)
        for classes in (4, 3)
    )
    theirs = old.build(seed=1)
    save_weights(tmp_path / "old", theirs, network=old.to_json())
    options = Options(weights=tmp_path / "old")
    with pytest.raises(CheckpointError, match=r" is .*; new_head=True loads all but the classifier$"):
        _begun(options, new)
    found = _begun(replace(options, new_head=True), new).state_dict()
    fresh, given = new.build(seed=0).state_dict(), theirs.state_dict()
    head = {key for key, value in found.items() if value.shape != given[key].shape}
    assert head and all(key.endswith(("weight", "bias")) for key in head)
    assert all(torch.equal(found[key], (fresh if key in head else given)[key]) for key in found)
    other = replace(new, strategy="grouped:groups=2")
    if strategy is None:  # a run without a grouping gives one what it can take
        dense = _begun(replace(options, new_head=True), new)
        regroup.replace(dense, "grouped:groups=2")
        grouped = _begun(replace(options, new_head=True), other).state_dict()
        kept = {key for key, value in dense.state_dict().items() if torch.equal(value, grouped[key])}
        assert kept == grouped.keys()
        return
    with pytest.raises(CheckpointError) as caught:
        _begun(options, other)
    assert "new_head" not in str(caught.value)
    with pytest.raises(CheckpointError):
        _begun(replace(options, new_head=True), other)


def test_a_classifier_of_as_many_other_classes_is_said(tmp_path, capsys):
    network = Trained.on(data(8, shape=(1, 8, 8)), "resnet_small", {}, None, None)
    save_weights(tmp_path / "old", network.build(seed=1), network=network.to_json())
    options = Options(weights=tmp_path / "old")
    _begun(options, network)
    assert capsys.readouterr().err == ""
    others = replace(network, classes=["a", "b", "c", "d"])
    kept = _begun(options, others).state_dict()
    assert "is of other classes; new_head=True begins it anew" in capsys.readouterr().err
    anew = _begun(replace(options, new_head=True), others).state_dict()
    changed = {key for key in kept if not torch.equal(kept[key], anew[key])}
    assert changed == {"classifier.weight"}  # every bias begins at 0


def test_a_run_with_a_new_head_is_resumed_though_the_old_weights_are_gone(tmp_path, capsys):
    network = Trained.on(data(8, shape=(1, 8, 8)), "resnet_small", {}, None, None)
    save_weights(tmp_path / "old", network.build(seed=1), network=network.to_json())
    assert short(tmp_path / "run", "--weights", tmp_path / "old") == 1
    assert re.fullmatch(
        r"regroup train: .*; new_head=True loads all but the classifier\n", capsys.readouterr().err
    )
    assert short(tmp_path / "run", "--weights", tmp_path / "old", "--new-head") == 0
    (tmp_path / "old").rename(tmp_path / "gone")
    assert regroup_train("--resume", tmp_path / "run", "--epochs", 2) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--new-head",), "new_head=True: must be False where there are no weights to load"),
        (("--weights", "w.pth", "--pretrained"), "pretrained=True: must be False where --weights is given"),
    ],
)
def test_what_cannot_be_begun_with_is_one_line(arguments, said, tmp_path, capsys):
    assert short(tmp_path / "run", *arguments) == 2
    assert re.fullmatch(f"regroup train: {said}.*\\n", capsys.readouterr().err)
