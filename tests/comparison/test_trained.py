"""`compare` with trained networks: where each strategy begins, who teaches it, and that its run says so."""

import pytest
import torch

import regroup
from regroup.comparison import runner
from regroup.comparison.settings import CompareConfig
from regroup.errors import CheckpointError, ConfigError, UnknownNameError
from regroup.loading.named import teacher, told
from regroup.loading.trained import Trained
from regroup.networks.anywhere import create_any_model
from regroup.training.checkpoint import save_weights
from regroup.training.data import load_data
from regroup.training.directory import Record
from regroup.training.identity import digest_of_state
from tests.faults import runs
from tests.training.cases import data


@pytest.fixture
def run(tmp_path):
    """What a run of the tiny network would leave: its network, of other weights than any seed here has."""
    described = Trained.on(data(32), "tiny", {}, None, None)
    with runs.registered():
        save_weights(tmp_path / "run", described.build(seed=77), network=described.to_json())
    return tmp_path / "run"


def compare(out, said=None, **options):
    settings = {"data": "tiny", "backbone": "tiny", "batch_size": 16, "epochs": 1, "time": False, "out": out}
    settings |= {"strategies": ("grouped:groups=2",)}
    say = (lambda line: None) if said is None else said.append
    with runs.registered():
        return runner.compare(CompareConfig(**settings | options), say=say)


def records(out):
    return {path.parent.name: Record.read(path).identity.fields for path in out.glob("runs/*/*")}


def test_each_strategy_begins_with_what_it_can_take_and_its_run_says_so(run, tmp_path):
    said = []
    compare(tmp_path / "out", said, weights=run)
    with runs.registered():
        dense, grouped = regroup.load(run), regroup.load(run)
    torch.manual_seed(1)
    regroup.replace(grouped, "grouped:groups=2")
    found = records(tmp_path / "out")
    assert found["dense"]["weights"] == digest_of_state(dense)
    assert found["grouped-groups-2"]["weights"] == digest_of_state(grouped)
    assert any("grouped:groups=2: weights: 1 approximated" in line for line in said)
    again = []
    compare(tmp_path / "out", again, weights=run)
    assert records(tmp_path / "out") == found and not any("is a new run" in line for line in again)
    compare(tmp_path / "out", again)
    assert len(list((tmp_path / "out" / "runs" / "dense").iterdir())) == 2, "taken for the same run"
    assert any("weights" in line and "is a new run" in line for line in again)


def test_a_teacher_decides_the_run_and_changes_what_is_learned(run, tmp_path):
    plain = compare(tmp_path / "plain")
    taught = compare(tmp_path / "taught", teacher=str(run))
    with runs.registered():
        expected = digest_of_state(regroup.load(run))
    assert {fields["teacher"]["weights"] for fields in records(tmp_path / "taught").values()} == {expected}
    one, other = ({r.strategy: r.runs[0].curves["train_loss"] for r in c.rows} for c in (plain, taught))
    assert one.keys() == other.keys() and all(one[name] != other[name] for name in one)


def test_a_teacher_is_a_run_a_file_of_the_network_or_one_of_a_name(run, tmp_path):
    torch.save(create_any_model("resnet_small", num_classes=4, in_chans=1).state_dict(), tmp_path / "w.pth")
    small = {"num_classes": 4, "in_chans": 1, "options": {}}
    x = torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        ones = [teacher(said, "resnet_small", **small)(x) for said in (str(tmp_path / "w.pth"),)]
        ones += [teacher(f"resnet_small={tmp_path / 'w.pth'}", "tiny", **small)(x)]
        with runs.registered():
            theirs, plain = teacher(str(run), "resnet_small", **small)(x), regroup.load(run)(x)
    assert torch.equal(*ones) and torch.equal(theirs, plain)
    for said in (str(run), str(tmp_path / "w.pth"), f"resnet_small={tmp_path / 'w.pth'}"):
        assert told(said) == said
    assert told("resnet18") == "resnet18"
    with pytest.raises(UnknownNameError, match=r"teacher='resnet_smal': must be .*NAME=FILE.*did you mean"):
        teacher("resnet_smal", "tiny", **small)
    for missing in ("/no/where", "resnet_small=/no/where.pth", "no.pth/"):
        with pytest.raises(CheckpointError):
            teacher(missing, "tiny", **small)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"weights": "/nowhere.pth", "backbone": "resnet_small"}, CheckpointError, "/nowhere.pth"),
        ({"teacher": "zzz"}, UnknownNameError, "teacher='zzz'"),
        ({"pretrained": True, "weights": "w"}, ConfigError, "pretrained=True: must be False where --weights"),
        ({"new_head": True}, ConfigError, "new_head=True: must be False where there are no weights"),
        ({"model_options": ("depth",)}, ConfigError, "model_options='depth': must be of the form name=value"),
        ({"sched": "zzz"}, ConfigError, "sched='zzz'"),
        ({"mixup": -1.0}, ConfigError, "mixup=-1.0"),
    ],
)
def test_what_cannot_be_begun_with_is_said_before_training(options, error, says, tmp_path):
    with pytest.raises(error, match=says):
        compare(tmp_path / "out", **options)
    assert not list(tmp_path.glob("out/runs/*/*/*"))


def test_a_run_with_a_grouping_is_taken_by_the_same_grouping_only(tmp_path):
    images = load_data("digits")
    described = Trained.on(images, "resnet_small", {}, "grouped:groups=2", None)
    save_weights(tmp_path / "run", described.build(seed=3), network=described.to_json())
    same = described.build(seed=4, weights=tmp_path / "run")
    assert digest_of_state(same) == digest_of_state(regroup.load(tmp_path / "run"))
    with pytest.raises(CheckpointError, match="is of another model"):
        Trained.on(images, "resnet_small", {}, None, None).build(weights=tmp_path / "run")
