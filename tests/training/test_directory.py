"""The directory of a run holds one run, whole, and says which; a comparison keeps each in one of its own."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from regroup.cli.compare import _status
from regroup.comparison import runner
from regroup.comparison.result import Comparison, Row, Run
from regroup.errors import CheckpointError, ConfigError, RegroupError
from regroup.files.sealed import verify_sealed, write_sealed
from regroup.loading.plugins import load_plugins
from regroup.strategies import strategies
from regroup.training import TrainConfig, train
from regroup.training.checkpoint import list_checkpoints, load_checkpoint
from regroup.training.data import data_sets
from regroup.training.directory import Record, published, run_of
from regroup.training.identity import Origin
from tests.faults import runs
from tests.training.cases import built, config, data, equal


class Stop(Exception):
    pass


def kept(directory):
    return {path: path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


@pytest.fixture
def run(tmp_path):
    runs.trained(tmp_path / "run")
    return tmp_path / "run"


def test_all_parts_are_there_whole_and_of_one_run(run):
    digest = Record.read(run).digest
    assert {path.name for path in run.iterdir()} == {
        *("run.json", "run.lock", "log.jsonl", "weights", "best", "checkpoint-000001", "checkpoint-000002")
    }
    for path in (run / "weights", run / "best", *list_checkpoints(run)):
        assert verify_sealed(path) and run_of(path) == digest
    assert {json.loads(line)["run"] for line in (run / "log.jsonl").read_text().splitlines()} == {digest}


@pytest.mark.parametrize("gone", ["checkpoints", "checkpoints and weights", "run.json"])
def test_old_weights_never_stand_under_new_figures(gone, run):
    """What lies in a directory is never only verified: it is the run's, or the directory is refused."""
    for path in list_checkpoints(run):
        shutil.rmtree(path)
    if gone == "checkpoints and weights":
        shutil.rmtree(run / "weights")
    elif gone == "run.json":
        (run / "run.json").unlink()
    before = kept(run)
    for resume in (False, True):
        with pytest.raises(RegroupError, match=r"holds|lr=0\.02"):
            runs.trained(run, lr=0.02, epochs=3, resume=resume)
    after = kept(run)
    assert {path: after[path] for path in before if path.name != "run.lock"} == {
        path: content for path, content in before.items() if path.name != "run.lock"
    }


def test_a_run_whose_checkpoints_are_gone_is_trained_again_to_the_same_bits(run):
    before = load_file(run / "weights" / "weights.safetensors")
    for path in (*list_checkpoints(run), run / "best"):
        shutil.rmtree(path)
    runs.trained(run)
    after = load_file(run / "weights" / "weights.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before) and (run / "best").is_dir()


@pytest.mark.parametrize("part", ["weights", "best", "checkpoint-000002", "log.jsonl"])
def test_a_part_of_another_run_is_refused_by_name(part, run, tmp_path):
    runs.trained(tmp_path / "other", lr=0.02)
    if (run / part).is_dir():
        shutil.rmtree(run / part)
        shutil.copytree(tmp_path / "other" / part, run / part)
    else:
        shutil.copy(tmp_path / "other" / part, run / part)
    with pytest.raises(CheckpointError, match=f"{part}: is of another run"):
        runs.trained(run)
    if part == "weights":
        with pytest.raises(CheckpointError, match="is of another run"):
            published(run)


def test_a_part_that_does_not_say_of_which_run_it_is_is_refused(run):
    shutil.rmtree(run / "best")
    write_sealed(run / "best", {"weights.json": b"{}"})
    with pytest.raises(CheckpointError, match="does not say of which run"):
        runs.trained(run)


@pytest.mark.parametrize("name", ["run.json", "weights", "best"])
def test_damage_is_repaired_where_it_can_be_and_said_where_not(name, run):
    whole = kept(run)
    victim = run / name if name == "run.json" else run / name / "weights.safetensors"
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 4
    victim.write_bytes(content)
    if name == "run.json":
        with pytest.raises(CheckpointError, match=r"run\.json: is damaged"):
            runs.trained(run)
        return
    with pytest.raises(CheckpointError, match="is damaged"):
        load_checkpoint(run / name)
    runs.trained(run)
    assert (victim.read_bytes() == whole[victim]) or name == "best"


def test_a_finished_run_goes_on_for_more_epochs_and_an_interrupted_one_ends_as_any_other(tmp_path):
    def stop(result):
        if result.epoch == 4:
            raise Stop

    for name in ("whole", "killed"):
        train(built(), data(), config(output=tmp_path / name))
    assert Record.read(tmp_path / "whole").plans == ((0, 3),)
    longer, killed, fresh = built(), built(), built()
    history = train(longer, data(), config(output=tmp_path / "whole", resume=True, epochs=6))
    with pytest.raises(Stop):
        train(built(), data(), config(output=tmp_path / "killed", resume=True, epochs=6), on_epoch=stop)
    train(killed, data(), config(output=tmp_path / "killed", resume=True, epochs=6))
    assert equal(longer, killed)
    train(fresh, data(), config(epochs=6))
    assert not equal(longer, fresh)  # its first epochs had another schedule, and its identity says so
    record = Record.read(tmp_path / "whole")
    assert record.plans == ((0, 3), (18, 6)) and len(record.earlier) == 1
    assert [result.epoch for result in history.epochs] == [1, 2, 3, 4, 5, 6]
    assert history.epochs[2].lr < 0.01 < history.epochs[3].lr  # of the schedule of six epochs
    with pytest.raises(ConfigError, match="epochs=2: must be at least 6"):
        train(built(), data(), config(output=tmp_path / "whole", resume=True, epochs=2))


def test_a_checkpoint_from_before_the_new_epochs_follows_the_old_schedule_up_to_them(tmp_path):
    train(built(), data(), config(output=tmp_path, checkpoint_hist=9))
    first = built()
    train(first, data(), config(output=tmp_path, resume=True, epochs=5, checkpoint_hist=9))
    for path in list_checkpoints(tmp_path)[:3]:
        (path / "manifest.json").write_text("damaged")
    again = built()
    train(again, data(), config(output=tmp_path, resume=True, epochs=5, checkpoint_hist=9))
    assert equal(first, again)


def test_the_best_weights_are_those_of_the_best_epoch_and_say_which(tmp_path):
    states, best = [], {}

    def note(result):
        states.append({name: value.clone() for name, value in model.state_dict().items()})
        best[result.epoch] = result.best_score

    model = runs.network()
    settings = TrainConfig(
        epochs=6, batch_size=16, lr=0.4, device="cpu", display="quiet", output=tmp_path, model_ema=True
    )
    train(model, data(32), settings, on_epoch=note, origin=Origin(document={"model": "tiny"}))
    found = load_checkpoint(tmp_path / "best")
    epoch = found["result"]["epoch"]
    assert best[epoch] == max(best.values()) == found["result"]["top1"]
    if found["result"]["weights"] == "unaveraged":
        assert all(torch.equal(found["weights"][name], value) for name, value in states[epoch - 1].items())
    last = load_checkpoint(tmp_path / "weights")
    assert all(torch.equal(last["unaveraged"][name], value) for name, value in states[-1].items())
    assert all(torch.equal(last["weights"][name], value) for name, value in model.state_dict().items())


def test_an_average_that_is_still_its_beginning_says_so(capsys):
    for warmup in (True, False):
        train(built(), data(), config(model_ema=True, model_ema_warmup=warmup, display="plain"))
        assert ("will still be 100 % what it began with" in capsys.readouterr().err) is not warmup


def test_an_optimiser_of_wrong_values_is_named_though_its_seal_is_whole(run):
    (path, *_) = list_checkpoints(run)
    files = {p.name: p.read_bytes() for p in path.iterdir() if p.name != "manifest.json"}
    files["optimizer.json"] = files["optimizer.json"].replace(b'"momentum"', b'"momentun"')
    write_sealed(path, files, replace=True)
    with pytest.raises(CheckpointError, match="is of another optimiser: KeyError"):
        runs.trained(run, epochs=3)


@pytest.mark.parametrize("content", [b"[1]", b'{"step": "many"}', b"{}"])
@pytest.mark.parametrize("epochs", [2, 3])
def test_progress_of_wrong_types_is_named_though_its_seal_is_whole(content, epochs, run):
    """Also where the run is to go on for longer, and its progress is looked at before."""
    (path, *_) = list_checkpoints(run)
    files = {p.name: p.read_bytes() for p in path.iterdir() if p.name != "manifest.json"}
    write_sealed(path, {**files, "training.json": content}, replace=True)
    with pytest.raises(CheckpointError, match="is not a checkpoint of training"):
        runs.trained(run, epochs=epochs)


def test_one_image_at_a_time_through_1x1_maps_is_refused_before_training():
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 6), torch.nn.BatchNorm2d(4), torch.nn.Flatten())
    with pytest.raises(ConfigError, match="batch_size=1: must be at least 2"):
        train(model, data(), config(batch_size=1))
    train(built(), data(16), config(batch_size=1, epochs=1))


def test_a_disk_without_room_is_said_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr("regroup.training.directory.free_bytes", lambda directory: 1000)
    with pytest.raises(CheckpointError, match=r"its disk has 0\.0 MB left, and the run will write about"):
        runs.trained(tmp_path / "run")
    assert not list_checkpoints(tmp_path / "run")


def test_a_comparison_keeps_runs_of_other_settings_apart_and_says_so(tmp_path):
    said = []

    def compared(**changes):
        with runs.registered():
            options = {"strategies": ("grouped:groups=2",), "data": "tiny", "backbone": "tiny", "epochs": 1}
            settings = {**options, "time": False, "batch_size": 16, "out": tmp_path, **changes}
            return runs.summary(runner.compare(say=said.append, **settings))

    first = compared()
    second = compared(lr=0.01)
    assert first != second and compared() == first and compared(lr=0.01) == second
    assert any("is a new run: lr (0.01, was 0.05)" in line for line in said)
    assert len(list(tmp_path.glob("runs/*/seed0-*"))) == 4
    damaged = next(tmp_path.glob("runs/dense/*/checkpoint-*/model.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    said.clear()
    assert compared() == first and compared(lr=0.01) == second
    assert any("is trained again" in line and "no good checkpoint" in line for line in said)


PLUGIN = """
from regroup.ops.layers import conv
from regroup.strategies import Strategy, strategy
from torch import nn

class Turned(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(SIGN * x)

@strategy("turned", paper="nobody, 2026")
class TurnedStrategy(Strategy):
    def build(self, spec):
        return Turned(conv(spec))
"""


def test_an_edited_plugin_and_an_exchanged_image_are_new_runs_and_dense_is_not_trained_again(tmp_path):
    path, said = tmp_path / "mine.py", []

    def compared(sign, images):
        path.write_text(PLUGIN.replace("SIGN", sign))
        load_plugins([path])
        options = {"strategies": ("turned",), "data": "tiny", "backbone": "tiny", "epochs": 1, "time": False}
        with runs.registered():
            data_sets._items["tiny"] = lambda image=None: images
            said.clear()
            return runs.summary(
                runner.compare(say=said.append, out=tmp_path / "out", batch_size=16, **options)
            )

    try:
        images = data(32)
        first = compared("+1", images)
        edited = compared("-1", images)
        assert edited["turned"] != first["turned"] and edited["dense"] == first["dense"]
        assert any("turned: seed 0 is a new run: source mine.py" in line for line in said)
        assert compared("+1", images) == first
        images.train.images[3] += 1
        exchanged = compared("+1", images)
        assert exchanged["turned"] != first["turned"] and exchanged["dense"] != first["dense"]
        assert any("dense: seed 0 is a new run: data contents" in line for line in said)
    finally:
        strategies._items.pop("turned", None)


def test_what_the_machine_could_not_do_is_no_fault_of_the_grouping(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(runner, "train", full)
        found = runs.compared(tmp_path)
    assert {name: row[0] for name, row in found.items()} == {
        "dense": "machine",
        "grouped:groups=2": "machine",
        "grouped:groups=3": "grouping",
    }
    good = runs.compared(tmp_path)
    assert {name: row[0] for name, row in good.items()} == {
        "dense": "",
        "grouped:groups=2": "",
        "grouped:groups=3": "grouping",
    }
    report = kept(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(runner, "train", full)
        runs.compared(tmp_path)
    names = ("comparison.json", "comparison.csv", "index.html")
    assert all(kept(tmp_path)[tmp_path / name] == report[tmp_path / name] for name in names)


def test_the_exit_status_of_a_comparison_says_whether_it_is_one(capsys):
    good = Row("grouped", runs=[Run(0, 50.0, 1.0)])
    dense, unfit = replace(good, strategy="dense"), Row("mixed", error="no layer", cause="grouping")
    broken = Row("octave", error="disk", cause="machine")
    for rows, status in (
        ([dense], 0),
        ([dense, good, unfit], 0),
        ([dense, unfit], 1),
        ([dense, good, broken], 1),
    ):
        assert _status(Comparison({}, {}, rows)) == status
    assert "octave" in capsys.readouterr().err
