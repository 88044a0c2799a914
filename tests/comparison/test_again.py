"""A comparison that is run again: nothing is done twice, and nothing that differs is taken for the same."""

import json
import re
from dataclasses import replace

import pytest

from regroup.cli import compare as command
from regroup.comparison import timing
from regroup.comparison.result import Comparison, TimePerImage
from regroup.errors import ConfigError, ReportError
from regroup.files import lock
from regroup.files.lock import Lock
from regroup.files.sealed import write_sealed
from regroup.loading.plugins import load_plugins
from regroup.training import loop
from regroup.training.checkpoint import list_checkpoints
from regroup.training.directory import Record
from tests.faults import runs

TINY = {
    "data": "tiny",
    "backbone": "tiny",
    "strategies": ("dense",),
    "batch_size": 16,
    "epochs": 1,
    "time": False,
}


@pytest.fixture
def measured(monkeypatch):
    """The networks that were measured, once for each time."""
    seen = []

    def measure(models, images, say):
        seen.append(set(models))
        return {name: {"eager": TimePerImage(len(seen), len(seen) / 2, 2 * len(seen))} for name in models}

    monkeypatch.setattr(runs, "measured", measure)
    return seen


def report(out):
    return Comparison.load(out / "comparison.json")


def test_a_finished_comparison_neither_trains_nor_times_again(measured, tmp_path, monkeypatch):
    first = runs.compared(tmp_path)
    names = {"dense", "grouped:groups=2"}
    assert measured == [names]
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_step", None)
        before = report(tmp_path)
        assert runs.compared(tmp_path) == first
        assert report(tmp_path) == before and before.rows[0].times["eager"].median == 1
        runs.compared(tmp_path, strategies=("dense",))  # of the same turns
    assert measured == [names]


@pytest.mark.parametrize("what", ["machine", "code", "identity", "seal", "value", "--retime"])
def test_times_are_measured_anew_where_anything_differs(what, measured, tmp_path, monkeypatch):
    runs.compared(tmp_path)
    options = {"--retime": {"retime": True}, "identity": {"lr": 0.01}}.get(what, {})
    if what == "machine":
        other = replace(timing.machine(), cores=77)
        monkeypatch.setattr(timing, "machine", lambda: other)
    elif what == "code":
        monkeypatch.setattr(timing, "own_digest", lambda parts: "another")
    elif what in ("seal", "value"):
        path = tmp_path / "times" / "times.json"
        content = path.read_text().replace(
            '"median": 1', '"median": -1' if what == "value" else '"median": 9'
        )
        if what == "seal":
            path.write_text(content)
        else:
            timing.write_sealed(path.parent, {path.name: content.encode()}, replace=True)
    runs.compared(tmp_path, **options)
    assert len(measured) == 2
    assert {row.times["eager"].median for row in report(tmp_path).rows if row.runs} == {2}
    if what == "machine":
        assert report(tmp_path).machine["cores"] == 77


def test_the_machine_of_a_report_is_that_of_its_times(measured, tmp_path, monkeypatch):
    runs.compared(tmp_path)
    day = json.loads((tmp_path / "times" / "times.json").read_text())["machine"]["date"]
    monkeypatch.setattr(timing.time, "strftime", lambda form: "2099-01-01")
    runs.compared(tmp_path)
    assert report(tmp_path).machine["date"] == day != "2099-01-01"


def test_what_is_in_the_way_of_the_times_is_said_before_training(tmp_path):
    (tmp_path / "times").mkdir()
    (tmp_path / "times" / "table.txt").write_text("somebody's")
    with pytest.raises(ReportError, match="in the way of the report's times"):
        runs.compared(tmp_path)
    assert (tmp_path / "times" / "table.txt").read_text() == "somebody's"


def test_settings_of_training_decide_the_run_as_they_do_in_train(tmp_path):
    changes = ({}, {"amp": True}, {"accelerate": True})
    same = ({"device": "cpu"}, {"workers": 1})
    found = [runs.compared(tmp_path, strategies=("dense",), **change) for change in (*changes, *same)]
    identities = [each["dense"][2][0][3] for each in found]
    assert len(set(identities[:3])) == 3 and set(identities[3:]) == {identities[0]}
    assert found[3] == found[4] == found[0]
    for wrong in ({"device": "abacus"}, {"workers": -1}, {"lr": -1.0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            runs.compared(tmp_path / "wrong", **wrong)
    assert not (tmp_path / "wrong").exists()


def test_a_plugin_that_changes_a_network_of_others_is_part_of_the_run(tmp_path, capsys):
    """It is the source of no strategy and of no module, and yet it decides the weights."""
    path, out = tmp_path / "patch.py", tmp_path / "out"
    found = []
    for factor in ("1", "2", "1"):
        path.write_text(
            "import torch\nfrom tests.faults import runs\n"
            f"runs.Tiny.forward = lambda self, x: torch.nn.Sequential.forward(self, {factor} * x)\n"
        )
        options = {"data": "tiny", "backbone": "tiny", "batch_size": 16, "epochs": 1, "time": False}
        with runs.registered():
            try:
                command.run(
                    command.Options(**options, strategies=("dense",), out=out, plugin=(path,), json=True)
                )
            finally:
                del runs.Tiny.forward
        found.append(json.loads(capsys.readouterr().out)["rows"][0]["runs"][0])
    assert found[0]["curves"] != found[1]["curves"] and found[0]["curves"] == found[2]["curves"]
    directories = sorted((out / "runs" / "dense").iterdir())
    assert len(directories) == 2
    assert all("patch.py" in Record.read(each).identity.fields["sources"] for each in directories)
    assert load_plugins([path])[0].__name__.startswith("regroup_plugin_patch")
    del runs.Tiny.forward


@pytest.mark.parametrize("what", ["checkpoint", "record", "lock"])
def test_what_cannot_be_gone_on_with_is_set_aside_and_trained_anew(what, tmp_path):
    """Though its seals are whole: else the row would stay "not run" for ever."""
    whole = runs.compared(tmp_path)
    (run,) = (tmp_path / "runs" / "grouped-groups-2").iterdir()
    if what == "checkpoint":
        (path,) = list_checkpoints(run)
        files = {p.name: p.read_bytes() for p in path.iterdir() if p.suffix in (".json", ".safetensors")}
        write_sealed(path, {n: c for n, c in files.items() if "m" not in n}, replace=True)  # model, optimizer
    elif what == "lock":
        (run / "run.lock").unlink()
        (run / "run.lock").symlink_to("run.lock")
    else:
        record = Record.read(run)
        other = replace(record, identity=record.identity.with_config(lr=9.0))
        (run / "run.json").write_bytes(other.to_bytes())
    assert runs.compared(tmp_path) == whole
    assert run.with_name(f"{run.name}.damaged").is_dir()


@pytest.mark.parametrize("how", ["compare", "train"])
def test_even_who_is_quiet_says_once_that_it_waits(how, tmp_path, monkeypatch, capsys):
    name = {"compare": "compare.lock", "train": "run.lock"}[how]
    holder, waits = Lock(tmp_path / name), []
    holder.try_lock()

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 3:
            holder.release()

    monkeypatch.setattr(lock.time, "sleep", sleep)
    if how == "train":
        runs.trained(tmp_path)
    else:
        with runs.registered():
            command.run(command.Options(**TINY, out=tmp_path, quiet=True))
    assert re.fullmatch(r"waiting for process \d+ since .*\n", capsys.readouterr().err)
    assert len(waits) == 3
