"""Forty images in COCO's format through every command: killed and resumed, measured as pycocotools does."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from safetensors.torch import load_file

from regroup.cli import main
from regroup.comparison.result import Comparison
from regroup.training.run import Run
from tests.data import written
from tests.processes import in_fork

FCOS = ["depths=[1,1,1]", "widths=[8,8,16]", "first_level=2", "pyramid_channels=32", "head_convs=1"]
NETWORKS = {"detect": [*FCOS, "score_thresh=0.0"], "segment": ["depths=[1,1,1]", "widths=[8,8,16]"]}


def pictures():
    """Return 32 pictures to train on and 8 to test with: one to three rectangles and hooks side by side."""
    chance, found = np.random.default_rng(0), {"train": {}, "val": {}}
    for number in range(40):
        objects = []
        for column in range(int(chance.integers(1, 4))):
            left, top = 20 * column + int(chance.integers(0, 4)), int(chance.integers(0, 10))
            right, low = left + int(chance.integers(8, 15)), top + int(chance.integers(10, 28))
            corners = [(left, top), (right, top), (right, low), (left, low)]
            if label := int(chance.integers(0, 2)):  # a hook
                corners[2:3] = [(right, top + 5), (left + 4, top + 5), (left + 4, low)]
            objects.append((label, corners))
        found["train" if number < 32 else "val"][str(number)] = objects
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return written.coco(tmp_path_factory.mktemp("coco") / "set", pictures())


def call(*argv):
    with pytest.raises(SystemExit) as exit:
        main(list(map(str, argv)))
    return exit.value.code


def train(task, folder, out, *more):
    settings = [
        "--data",
        folder,
        "--image",
        32,
        "--epochs",
        2,
        "--batch-size",
        8,
        "--quiet",
        "--device",
        "cpu",
    ]
    options = ["--task", task, "--model-options", *NETWORKS[task], *settings, "--recovery-interval", 1]
    return call("train", *options, *more, "--out", out)


def killed(task, folder, out):
    """Train, and be killed as soon as the sixth checkpoint is written, in the second epoch."""
    saved, save = [], Run.save

    def save_and_die(run):
        save(run)
        saved.append(run.step)
        if len(saved) == 6:
            os.kill(os.getpid(), signal.SIGKILL)

    Run.save = save_and_die
    train(task, folder, out)


def weights(run):
    return load_file(run / "weights" / "weights.safetensors")


def of_pycocotools(folder, run, out, capsys):
    """Return mAP and mAP50 of the boxes that `run` writes of the test images, by their names."""
    files = folder / "val2017"
    assert call("run", run, "--image", files, "--top", 100, "--json", "--out", out) == 0
    truth = COCO(folder / "annotations" / "instances_val2017.json")
    seen = json.loads((out / "detections.json").read_text())
    numbers = {each["file_name"]: each["id"] for each in truth.dataset["images"]}
    of = {each["id"]: numbers[Path(each["file_name"]).name] for each in seen["images"]}
    rows = [{**each, "image_id": of[each["image_id"]]} for each in seen["annotations"]]
    evaluation = COCOeval(truth, truth.loadRes(rows), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    capsys.readouterr()
    return 100 * evaluation.stats[:2]


@pytest.mark.parametrize("task", NETWORKS)
def test_forty_images_go_through_every_command(task, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("REGROUP_CACHE", str(tmp_path / "cache"))
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert train(task, folder, whole) == 0
    assert in_fork(killed, task, folder, run).returncode == -signal.SIGKILL and not (run / "weights").exists()
    assert call("train", "--resume", run, "--quiet") == 0
    mine, theirs = weights(run), weights(whole)
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)

    capsys.readouterr()
    assert call("evaluate", run, "--json", "--no-time") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["images"] == 8 and told["interval"][0] <= told["map" if task == "detect" else "miou"]
    out = tmp_path / "seen"
    if task == "detect":
        expected = of_pycocotools(folder, run, out, capsys)
        assert [told["map"], told["map50"]] == pytest.approx(expected, abs=0.05)  # boxes are written to .01
    else:
        assert call("run", run, "--image", folder / "val2017", "--json", "--out", out) == 0
        assert len(list(out.glob("*-mask.png"))) == 8

    settings = ["--data", folder, "--image", 32, "--epochs", 1, "--batch-size", 8, "--device", "cpu"]
    options = ["--task", task, "--model-options", *NETWORKS[task], *settings, "--no-time", "--quiet"]
    report = tmp_path / "report"
    assert call("compare", *options, "--strategies", "grouped:groups=4", "--out", report) == 0
    rows = Comparison.load(report / "comparison.json").rows
    assert [row.strategy for row in rows] == ["grouped:groups=4", "dense"] and not any(r.error for r in rows)

    capsys.readouterr()
    assert call("compile", run, "--json", "--quiet") == 0
    assert json.loads(capsys.readouterr().out)
    exported = call("export", run, "--out", tmp_path / "network.pt2", "--quiet", "--batch", 1)
    if task == "segment":
        assert exported == 0
    else:  # boxes are chosen by numbers: a list, which no form of export holds, and the command says so
        assert exported == 1 and "what is exported gives one tensor" in capsys.readouterr().err
