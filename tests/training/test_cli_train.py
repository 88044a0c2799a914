"""`regroup train`: a network, a grouping, data; then resume it, and let it teach another."""

import json
from dataclasses import fields

import pytest

from regroup.cli import main
from regroup.cli.train import Options, _begun_with, _to_json
from regroup.errors import CheckpointError
from regroup.files.documents import build
from regroup.training.checkpoint import list_checkpoints, load_checkpoint
from regroup.training.directory import Record


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
        (("--model", "resnet_smal"), "resnet_small"),
        (("--data", "digitz"), "digits"),
        (("--teacher", "/nowhere"), "/nowhere: there is no such directory"),
        (("--opt", "sdg"), "opt='sdg'"),
    ],
)
def test_a_mistake_is_one_line(arguments, says, tmp_path, capsys):
    assert short(tmp_path / "run", *arguments) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("regroup train: ") and says in last


def test_another_run_is_not_written_over(tmp_path, capsys):
    assert short(tmp_path) == 0
    assert short(tmp_path) == 1
    assert "holds no run yet" in capsys.readouterr().err


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
