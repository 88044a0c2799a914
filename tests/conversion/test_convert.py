"""Whole conversions of a small network: budgets, plans, what stays as it was, and bad input."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

import regroup
from regroup.conversion import budget as budgets
from regroup.conversion.assessment import Scope, candidates
from regroup.conversion.blocks import BlockConfig
from regroup.conversion.budget import Cell, Whole, chosen, fitted, parse_budget, skeleton
from regroup.conversion.convert import Conversion, ConvertConfig, convert
from regroup.conversion.memory import MemoryFile
from regroup.conversion.plan import Plan
from regroup.errors import ConfigError, DataError, UnknownNameError
from regroup.files.documents import DocumentError, build
from regroup.networks import create_model
from regroup.profiling.clock import Ratio, Timing
from regroup.training.data import TensorSplit
from tests.conversion import clock as known_clock
from tests.conversion.linear import correlated

QUICK = ConvertConfig(images=16, assessed=16, blocks=BlockConfig(steps=2))


def network():
    torch.manual_seed(3)
    return create_model("resnet_small", num_classes=10).eval()


@pytest.fixture
def clock(monkeypatch):
    known_clock.put(monkeypatch)


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("budget", ["time=0.5", "macs=0.6,params=0.7", {"time": 0.8, "params": 0.4}])
def test_budgets_are_kept_and_the_original_is_untouched(budget):
    model, batches = network(), list(correlated(32, 3, 16).split(16))
    before = copy.deepcopy(model.state_dict())
    found = convert(model, batches, budget, QUICK)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    limits = parse_budget(budget)
    assert found.share.median <= limits.get("time", 1)
    assert found.macs <= limits.get("macs", 1) * found.whole.macs
    assert sum(p.numel() for p in found.model.parameters()) == found.parameters
    assert found.parameters <= limits.get("params", 1) * found.whole.parameters
    assert [s.name for s in found.stages if s.name != "norms"] == ["dense", "squares", "blocks"]
    assert found.model(batches[0]).shape == (16, 10)
    again = network()
    build(found.plan.to_json(), Plan).apply(again)
    again.load_state_dict(found.model.state_dict())
    assert torch.equal(again(batches[0]), found.model(batches[0]))


@pytest.mark.usefixtures("clock")
def test_a_dry_run_changes_nothing_and_is_gone_on_from(tmp_path):
    model, batches, said = network(), [correlated(16, 3, 16)], []
    memory = MemoryFile(tmp_path / "work" / "memory.json", "mine")
    dry = convert(model, batches, "time=0.7", QUICK, dry_run=True, memory=memory)
    again = MemoryFile(tmp_path / "work" / "memory.json", "mine")
    assert again.resumed and again.cells == dry.table and again.options == dry.options
    assert not MemoryFile(tmp_path / "work" / "memory.json", "another's").resumed
    wet = convert(model, batches, "time=0.7", QUICK, memory=again, say=said.append)
    assert not [line for line in said if line.startswith("assessed")]
    assert dry.layers == [] and dry.share is None and dry.options == wet.options
    assert wet.share.median == pytest.approx(dry.foreseen)


def test_a_time_above_the_budget_is_said():
    found = Conversion(
        nn.Identity(),
        {"time": 0.7, "ms": 0.6},
        [],
        Plan([]),
        {},
        {},
        Whole(0.001, 9, 9),
        9,
        9,
        {"a": "separable"},
        0.6,
    )
    assert not found.late
    for share, late in ((0.62, False), (0.64, True)):
        measured = replace(found, share=Ratio(share, share, share))
        assert bool(measured.late) == late == ("more than the 60%" in str(measured))


@pytest.mark.usefixtures("clock")
def test_what_is_impossible_says_what_is_possible():
    with pytest.raises(ConfigError, match=r"time=0.001: must be at least 0\.\d+, the least"):
        convert(network(), [correlated(16, 3, 16)], "time=0.001", QUICK)
    with pytest.raises(ConfigError, match="params"):
        convert(network(), [correlated(16, 3, 16)], "params=0.0001", QUICK)


def test_options_that_are_not_faster_are_none(monkeypatch):
    cells = {"dense": Cell(1.0, 100, 100, 0), "grouped:groups=2": Cell(0.99, 10, 10, 0)}
    options = chosen({"a": cells}, Whole(1.0, 100, 100), {"time": 1.0})
    assert options == {"a": "dense"}
    times = {"dense": Timing((1.0,) * 7), "": Timing((1.0,) * 7)}
    monkeypatch.setattr(budgets, "network_timings", lambda *args, **more: times)
    model = nn.Sequential(nn.Conv2d(4, 4, 1))
    table = {"0": cells}
    assert fitted(model, torch.zeros(1, 4, 2, 2), table, Whole(1.0, 1, 1), {"time": 1.0})[0] == {"0": "dense"}
    with pytest.raises(ConfigError, match=r"time=0\.5"):
        fitted(model, torch.zeros(1, 4, 2, 2), table, Whole(1.0, 1, 1), {"time": 0.5})


def test_times_are_searched_for_where_layers_alone_foresee_too_much(monkeypatch):
    """Half of what layers save alone is saved in the network; the search must find the network for it."""
    names = [f"{i}" for i in range(10)]
    fast = "grouped:groups=2"
    table = {n: {"dense": Cell(1, 1, 1, 0), fast: Cell(0.2, 1, 1, 1 + i)} for i, n in enumerate(names)}
    built = []
    monkeypatch.setattr(budgets, "skeleton", lambda model, options: options)

    def timings(networks, images, seconds, threads):
        saved = sum(0.4 for option in networks[""].values() if option != "dense")
        built.append(10 - saved)
        return {"dense": Timing((10.0,) * 7), "": Timing((10 - saved,) * 7)}

    monkeypatch.setattr(budgets, "network_timings", timings)
    options, share = fitted(nn.Identity(), torch.zeros(1), table, Whole(10.0, 1, 1), {"time": 0.8})
    assert share == pytest.approx(0.8) and list(options.values()).count(fast) == 5
    assert all(options[name] == fast for name in names[:5]), "those that damage least"
    assert len(built) <= budgets.ROUNDS


def test_layers_that_stay_say_why():
    model, images = network(), correlated(2, 3, 16)
    options, left = candidates(model, images, Scope(exclude=("stages.1.*",)))
    assert left["stem.conv"] == "it is the first"
    assert left["stages.1.0.conv1.conv"] == "it is excluded"
    assert options["stages.2.0.conv2.conv"][:4] == ["dense", *(f"grouped:groups={g}" for g in (2, 4, 8))]
    model.stages[2][0].conv1.conv.register_forward_hook(lambda *_: None)
    assert "hooks" in candidates(model, images, Scope())[1]["stages.2.0.conv1.conv"]


def test_a_skeleton_has_the_shape_and_not_the_weights():
    model = network()
    names = {"stages.2.0.conv1.conv": "grouped:groups=4", "stages.2.0.conv2.conv": "separable"}
    made = skeleton(model, names)
    assert made(correlated(2, 3, 16)).shape == (2, 10)
    assert sum(p.numel() for p in made.parameters()) < sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("time", ConfigError, "of the form time=0.5"),
        ("time=2", ConfigError, "a share"),
        ("ms=-1", ConfigError, "above 0"),
        ("tiem=0.5", UnknownNameError, "time"),
        ({}, ConfigError, "one or more"),
        ({"macs": True}, ConfigError, "a share"),
    ],
)
def test_budgets_that_are_none(text, error, words):
    with pytest.raises(error, match=words):
        parse_budget(text)


def test_bad_input_is_one_clear_error():
    with pytest.raises(ConfigError, match="16 images or more"):
        convert(network(), [torch.zeros(3, 3, 16, 16)])
    with pytest.raises(ConfigError, match="images that the network takes"):
        convert(network(), [torch.zeros(16, 5, 16, 16)])
    with pytest.raises(ConfigError, match="a classifier"):
        convert(nn.Sequential(nn.Conv2d(3, 4, 1)), [torch.zeros(16, 3, 4, 4)])
    with pytest.raises(ConfigError, match="no labels"):
        config = ConvertConfig(training=regroup.TrainConfig(epochs=1))
        convert(network(), [torch.zeros(16, 3, 16, 16)], config=config)
    digits = regroup.load_data("digits")
    few = replace(digits, train=TensorSplit(digits.train.fetch(torch.arange(3)), digits.train.labels[:3]))
    with pytest.raises(DataError, match="16 or more"):
        convert(create_model("resnet_small", num_classes=10, in_chans=1), few)
    with pytest.raises(ConfigError, match="images"):
        ConvertConfig(images=3)


def test_plans_of_other_networks_are_refused():
    plan = {"layers": [{"name": "stem.conv", "option": "dense", "inputs": [[0, 9]], "outputs": [[0]]}]}
    with pytest.raises(DocumentError, match=r"inputs of stem\.conv"):
        build(plan, Plan).apply(network())
    with pytest.raises(DocumentError, match="names of convolutions"):
        build({"layers": [{"name": "nowhere", "option": "dense"}]}, Plan).apply(network())
    with pytest.raises(DocumentError, match="names of channel orders"):
        build({"layers": [], "orders": {"stem": [0]}}, Plan).apply(network())
