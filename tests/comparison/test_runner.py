import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from regroup.cli import main
from regroup.comparison import pictures, runner
from regroup.comparison.settings import CompareConfig
from regroup.errors import ConfigError, UnknownNameError
from regroup.ops.layers import conv
from regroup.ops.reach import listed
from regroup.strategies import Strategy, strategies, strategy
from regroup.testing import check_strategy
from tests.processes import in_fork


def compare(*strategies, out, **options):
    return runner.compare(
        strategies=strategies, out=out, **{"say": lambda line: None, "epochs": 1, "time": False, **options}
    )


@pytest.fixture
def own_strategy():
    """A strategy as a user would write it: every second input is not read."""

    @strategy("halved", paper="nobody, 2026")
    class Halved(Strategy):
        """Read the first half of the input channels only: y = W * x[:C/2]."""

        def build(self, spec):
            return nn.Sequential(FirstChannels(spec.in_channels // 2 or 1), conv(self._narrow(spec)))

        def _narrow(self, spec):
            return spec.with_channels(spec.in_channels // 2 or 1, spec.out_channels)

        def cost(self, spec, size):
            return self._narrow(spec).cost(size)

    class FirstChannels(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.width = width

        def forward(self, x):
            return x[:, : self.width]

    yield Halved
    del strategies._items["halved"]


def test_a_new_strategy_of_thirty_lines_is_compared_and_conforms(own_strategy, tmp_path):
    check_strategy(own_strategy())
    result = compare("halved", out=tmp_path)
    names = {row.strategy: row for row in result.rows}
    assert set(names) == {"dense", "halved"}
    assert names["halved"].macs < names["dense"].macs
    assert names["halved"].reach["layer_fill"] == 0.5
    assert "halved" in [s.label for s in CompareConfig().chosen()]


def test_a_strategy_that_cannot_be_built_is_reported_and_stops_nothing(tmp_path):
    result = compare("grouped:groups=7", epochs=2, out=tmp_path)
    good, bad = result.rows
    assert (good.strategy, good.error) == ("dense", "")
    assert good.accuracy > 50
    assert "groups=7" in bad.error


def test_an_interrupted_comparison_goes_on_where_it_was(tmp_path):
    class Interrupted(Exception):
        pass

    def stop(line):
        if "dense: seed 0" in line:
            raise Interrupted

    with pytest.raises(Interrupted):
        compare("grouped:groups=2", epochs=2, out=tmp_path, say=stop)
    finished = next((tmp_path / "runs").rglob("dense/seed0-*/log.jsonl"))
    before = finished.read_text()
    lines = []
    resumed = compare("grouped:groups=2", epochs=2, out=tmp_path, say=lines.append)
    assert finished.read_text() == before  # the first training was not done again
    assert {r.strategy for r in resumed.rows} == {"dense", "grouped:groups=2"}
    fresh = compare("grouped:groups=2", epochs=2, out=tmp_path / "fresh")
    assert [r.runs[0].curves for r in fresh.rows] == [r.runs[0].curves for r in resumed.rows]


def test_seeds_give_a_mean_and_a_spread_and_all_strategies_start_alike(tmp_path):
    result = compare("dense", seeds=2, out=tmp_path)
    (row,) = result.rows
    assert [r.seed for r in row.runs] == [0, 1]
    assert row.runs[0].curves != row.runs[1].curves
    assert row.spread is not None


def test_options_that_cannot_work_name_the_option():
    with pytest.raises(ConfigError, match="epochs=0"):
        CompareConfig(epochs=0)
    with pytest.raises(UnknownNameError, match="did you mean 'grouped'"):
        CompareConfig(strategies=("grouped", "groupd")).chosen()


def test_without_options_there_are_at_least_fourteen_rows_and_dense_is_one():
    labels = [s.label for s in CompareConfig().chosen()]
    assert len(labels) == len(set(labels)) >= 14
    assert "dense" in labels


def test_the_command_writes_the_report_and_prints_json_when_asked(tmp_path):
    command = [Path(sys.executable).with_name("regroup"), "compare", "--strategies", "grouped:groups=4"]
    command += ["--epochs", "1", "--no-time", "--out", tmp_path, "--json"]
    output = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [r["strategy"] for r in json.loads(output.stdout)["rows"]] == ["grouped:groups=4", "dense"]
    assert output.stderr == ""
    assert {"index.html", "comparison.json", "comparison.csv"} <= {p.name for p in tmp_path.iterdir()}
    wrong = in_fork(main, [*map(str, command[1:]), "--model", "resnet5O"])
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("regroup compare: model='resnet5O'")
    assert len(wrong.stderr.splitlines()) == 1


def test_measured_time_is_told_against_the_dense_network(tmp_path):
    torch.set_num_threads(1)
    result = compare("grouped:groups=4", time=True, out=tmp_path)
    for row in result.rows:
        for way in ("eager", "compiled"):
            assert row.times[way].low <= row.times[way].median <= row.times[way].high
            assert row.measured(way) > 0
    assert next(r for r in result.rows if r.strategy == "dense").measured("eager") == 1


def test_the_reach_of_a_learned_strategy_is_what_was_learned(tmp_path):
    result = compare("condensed:groups=4", "dynamic:gate=0.25", out=tmp_path)
    condensed, dynamic = (next(r for r in result.rows if r.strategy.startswith(n)) for n in ("con", "dyn"))
    matrix = condensed.reach["matrix"]
    sizes = len(matrix), len(matrix[0])
    tables = [table["groups"] for table in condensed.learned.values()]
    learned = [found for t in tables if (found := listed(t, *sizes)).shape == sizes]
    assert matrix in [found.int().tolist() for found in learned]
    assert condensed.reach["layer_fill"] == 1 / 4
    assert dynamic.reach["layer_fill"] == 1


def test_layers_that_only_exchange_channels_never_mix_them():
    assert pictures._layers_to_mix(torch.eye(4).roll(1, 0).bool()) is None
    assert pictures._layers_to_mix((torch.eye(4) + torch.eye(4).roll(1, 0)).bool()) == 3
    assert pictures._layers_to_mix(torch.ones(4, 4).bool()) == 1
