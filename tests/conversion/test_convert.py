"""Whole conversions of a small network: budgets, plans, what stays as it was, and bad input."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

import regroup
from regroup.conversion import assessment
from regroup.conversion import budget as budgets
from regroup.conversion.assessment import Scope, candidates
from regroup.conversion.blocks import BlockConfig
from regroup.conversion.budget import Cell, Whole, chosen, fitted, parse_budget, skeleton
from regroup.conversion.convert import Conversion, ConvertConfig, convert, fine_tune
from regroup.conversion.folding import fold_orders
from regroup.conversion.memory import MemoryFile
from regroup.conversion.norms import reestimate
from regroup.conversion.plan import LayerPlan, Plan, check_orders, orders_in
from regroup.conversion.regrouping import Method, regroup_layers
from regroup.errors import ConfigError, DataError, UnknownNameError
from regroup.files.documents import DocumentError, build
from regroup.networks import create_model
from regroup.ops.order import ChannelOrder, ChannelShuffle
from regroup.profiling.clock import Ratio, Timing
from regroup.training.data import TensorSplit
from regroup.training.identity import Identity
from tests.conversion import clock as known_clock
from tests.conversion.linear import correlated

QUICK = ConvertConfig(images=16, assessed=16, blocks=BlockConfig(steps=2))
GROUPS = replace(QUICK, method=Method("activation"), scope=Scope(strategies=()), blocks=None)


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
    mine, path = Identity({"budget": {"time": 0.7}}), tmp_path / "work" / "memory.json"
    memory = MemoryFile(path, mine)
    dry = convert(model, batches, "time=0.7", QUICK, dry_run=True, memory=memory)
    again = MemoryFile(path, mine)
    assert again.resumed and again.cells == dry.table and again.options == dry.options
    other = MemoryFile(path, Identity({"budget": {"time": 0.6}}))
    assert not other.resumed and not other.cells
    assert list(map(str, other.differences)) == ["budget time (0.6, was 0.7)"]
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
    model.stages[2][0].conv2.conv.padding_mode = "reflect"
    assert "padding_mode='reflect'" in candidates(model, images, Scope())[1]["stages.2.0.conv2.conv"]
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


def test_selections_that_leave_channels_out_are_built_again():
    """Groups that share inputs leave others unread, the last ones too; folding gives channels new numbers."""
    torch.manual_seed(5)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 1)).eval()
    with torch.no_grad():
        model[2].weight[:, 4:] *= 1e-3
    dense, batches = copy.deepcopy(model), [correlated(16, 3, 8)]
    layers = regroup_layers(model, dense, {"2": 2, "3": 2}, batches, Method("overlapping"))
    assert len(layers[0].partition.inputs.unique()) < 8
    orders = orders_in(model)
    fold_orders(model, batches[0])
    plan = Plan.of([LayerPlan.of(layer, True) for layer in layers], orders, model)
    build(plan.to_json(), Plan).apply(dense)
    dense.load_state_dict(model.state_dict())
    check_orders(dense, batches[0][:1])
    assert torch.equal(dense(batches[0]), model(batches[0]))


def test_an_order_may_take_channels_above_those_it_took_before():
    dense = nn.Sequential(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 1))
    plan = Plan(
        [LayerPlan("1", "grouped:groups=2", [[0, 1], [1, 2]], [[0, 1], [2, 3]])], {"1.0": [3, 1, 1, 2]}
    )
    plan.apply(dense)
    check_orders(dense, torch.zeros(1, 2, 1, 1))
    assert dense[1][0].order.tolist() == [3, 1, 1, 2]


@pytest.mark.parametrize("order", [[0, 4, 1, 2], [0, -1, 1, 2]])
def test_orders_of_channels_that_are_not_there_are_refused(order):
    model = nn.Sequential(nn.Conv2d(2, 4, 1), ChannelOrder(order, learned=True))
    with pytest.raises(DocumentError, match=r"order of 1 is .* channels below 4"):
        check_orders(model, torch.zeros(1, 2, 1, 1))
    with pytest.raises(DocumentError, match="each channel once"):
        Plan([], {"1": order}).apply(nn.Sequential(nn.Conv2d(2, 4, 1), ChannelShuffle(2)))
    assert not model[1]._forward_pre_hooks


def test_norms_that_do_not_run_stay_as_they_were():
    class Headed(nn.Module):
        def __init__(self):
            super().__init__()
            self.main, self.head = nn.BatchNorm2d(3, momentum=0.3), nn.BatchNorm2d(3)

        def forward(self, x):
            return self.head(x) if self.training else self.main(x)

    model = Headed()
    model(torch.randn(8, 3, 2, 2))
    model.eval()
    before, images = copy.deepcopy(model.head.state_dict()), torch.randn(17, 3, 1, 1)
    assert reestimate(model, images.split(1)) == 1, "of one image a norm of 1x1 pixels has no variance"
    assert all(torch.equal(value, before[name]) for name, value in model.head.state_dict().items())
    torch.testing.assert_close(model.main.running_mean, images.mean((0, 2, 3)))
    torch.testing.assert_close(model.main.running_var, images.var((0, 2, 3)))
    with pytest.raises(RuntimeError):
        reestimate(model, [torch.randn(8, 4, 2, 2)])
    assert model.main.momentum == 0.3 and not model.main.training


@pytest.mark.parametrize("budget", [{"params": 0.5}, {"params": 0.5, "ms": 5000.0}])
def test_a_budget_without_a_time_is_kept_however_long_it_takes(monkeypatch, budget):
    cells = {"dense": Cell(1.0, 100, 100, 0), "grouped:groups=2": Cell(0.9, 50, 50, 1)}
    times = {"dense": Timing((1.0,) * 7), "": Timing((1.004,) * 7)}
    monkeypatch.setattr(budgets, "network_timings", lambda *args, **more: times)
    monkeypatch.setattr(budgets, "skeleton", lambda model, options: options)
    options, share = fitted(nn.Identity(), torch.zeros(1), {"a": cells}, Whole(1.0, 100, 100), budget)
    assert options == {"a": "grouped:groups=2"} and share == pytest.approx(1.004)


def test_a_choice_for_parameters_is_not_thrown_away_for_its_time(monkeypatch):
    """The clock of layers says that each is faster; that of networks, that the whole is not."""
    known_clock.put(monkeypatch)
    slower = {"dense": Timing((1.0,) * 7), "": Timing((1.2,) * 7)}
    for module in ("budget", "convert"):
        monkeypatch.setattr(f"regroup.conversion.{module}.network_timings", lambda *args, **more: slower)
    found = convert(network(), [correlated(16, 3, 16)], "params=0.6", GROUPS)
    assert found.pays and found.share.median == pytest.approx(1.2) and not found.late
    assert found.parameters <= 0.6 * found.whole.parameters


@pytest.mark.usefixtures("clock")
def test_options_whose_damage_is_no_number_are_none(monkeypatch):
    measured = iter([float("nan"), float("inf")] + [0.5] * 1000)
    monkeypatch.setattr(assessment, "divergence", lambda *args: next(measured))
    found = convert(network(), [correlated(16, 3, 16)], "time=0.9", QUICK, dry_run=True)
    first, *others = found.table.values()
    assert list(first) == ["dense", "separable:multiplier=2", "flattened:stages=1"]
    assert all("grouped:groups=2" in cells for cells in others) and found.pays


def test_fine_tuning_goes_on_from_its_own_start_alone(tmp_path):
    digits = regroup.load_data("digits")
    few = replace(digits, train=TensorSplit(digits.train.fetch(torch.arange(64)), digits.train.labels[:64]))
    torch.manual_seed(0)
    original = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 10))
    start, other = copy.deepcopy(original), copy.deepcopy(original)
    with torch.no_grad():
        other[0].weight[0, 0, 0, 0] += 1

    def tuned(model, lr=0.01):
        training = regroup.TrainConfig(
            epochs=1, lr=lr, batch_size=32, output=tmp_path, resume=True, display="quiet"
        )
        fine_tune(model := copy.deepcopy(model), original, few, training)
        return model[0].weight, len(list(tmp_path.iterdir()))

    (first, one), (again, same), (another, two) = tuned(start), tuned(start), tuned(other)
    assert (one, same, two) == (1, 1, 2) and torch.equal(first, again)
    assert (another - first)[0, 0, 0, 0] > 0.5, "it began with its own weights"
    assert tuned(start, lr=0.02)[1] == 3
