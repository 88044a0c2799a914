"""`regroup compare` for pixels and objects: the same table by the task's measure, and what is known."""

import json

import pytest

from regroup.cli import main
from regroup.comparison.evidence import unpack
from regroup.comparison.result import Comparison
from regroup.comparison.settings import CompareConfig
from regroup.errors import ConfigError
from regroup.report.summary import summary_lines
from regroup.training.data import data_sets
from regroup.training.data.scenes import scenes


@pytest.fixture(autouse=True)
def _small_scenes():
    data_sets._items["small_scenes"] = lambda image=None, *, task="segment": scenes(
        image or (32, 32), task=task, count=16, classes="AB", most=2
    )
    yield
    del data_sets._items["small_scenes"]


def call(*argv):
    with pytest.raises(SystemExit) as exit:
        main(list(map(str, argv)))
    return exit.value.code


OPTIONS = {
    "segment": ["depths=[1,1,1]", "widths=[8,8,16]"],
    "detect": ["depths=[1,1,1]", "widths=[8,8,16]", "first_level=2", "pyramid_channels=32", "head_convs=1"],
}


@pytest.mark.parametrize(
    ("task", "measure", "figure"), [("segment", "mIoU", "miou"), ("detect", "mAP", "map")]
)
def test_groupings_are_compared_by_the_measure_of_the_task(task, measure, figure, tmp_path, capsys):
    options = ["--task", task, "--data", "small_scenes", "--model-options", *OPTIONS[task], "--batch-size", 8]
    options += ["--epochs", 1, "--strategies", "grouped:groups=4", "--no-time", "--out", tmp_path]
    assert call("compare", *options) == 0
    said = capsys.readouterr()
    assert measure in said.out.splitlines()[0] and "accuracy" not in said.out
    found = Comparison.load(tmp_path / "comparison.json")
    rows = {row.strategy: row for row in found.rows}
    assert rows.keys() == {"dense", "grouped:groups=4"} and rows["grouped:groups=4"].macs < rows["dense"].macs
    logs = sorted((tmp_path / "runs").rglob("log.jsonl"))
    logged = {log.parts[-3]: json.loads(log.read_text().splitlines()[-1])[figure] for log in logs}
    assert logged == {"dense": rows["dense"].accuracy, "grouped-groups-4": rows["grouped:groups=4"].accuracy}
    assert f"test {measure}, per cent" in (tmp_path / "index.html").read_text()
    shares = [unpack(row.runs[0].right, 4) for row in found.rows]
    for row, each in zip(found.rows, shares, strict=True):
        assert 100 * each.mean() == pytest.approx(row.accuracy)
    (first, *_) = summary_lines(found)  # of four images nothing is shown
    assert (
        f"of the 2 networks whose {measure} cannot be told from that of the best by {measure} here" in first
    )
    assert "no difference shown" in found.evidence["rows"]["grouped:groups=4"]["against_dense"]["verdict"]


def test_the_task_is_that_of_the_network_and_a_backbone_gets_the_usual_head():
    assert CompareConfig().task == "classify"
    assert CompareConfig(backbone="fpn:resnet18").task == "segment"
    assert CompareConfig(task="detect", backbone="resnet18").backbone == "fcos:resnet18"
    with pytest.raises(ConfigError, match="it is for detect"):
        CompareConfig(task="segment", backbone="ssdlite:resnet18")
