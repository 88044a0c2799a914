import csv
import io
import json
from dataclasses import asdict

import pytest

from regroup.comparison.result import Comparison, Row, Run, TimePerImage
from regroup.errors import PlanError


def row(name, macs, *accuracies, ms=1.0, **more):
    runs = [Run(seed, accuracy, 1.0) for seed, accuracy in enumerate(accuracies)]
    times = {"eager": TimePerImage(ms, ms * 0.9, ms * 1.1)}
    dense = {"eager": TimePerImage(2.0, 2.0, 2.0)}
    return Row(name, "paper", macs // 10, macs, 1000, runs, times, dense, **more)


def comparison():
    rows = [
        row("dense", 1000, 98.0, 99.0, ms=2.0),
        row("grouped", 250, 97.0, 97.0, ms=1.0),
        row("worse", 500, 90.0, 90.0, ms=3.0),
        Row("impossible", error="groups=7: must be ..."),
    ]
    return Comparison({"data": "digits"}, {"device": "a machine"}, rows)


def test_figures_of_a_row_follow_from_its_runs_and_times():
    dense, grouped, worse, impossible = comparison().rows
    assert dense.accuracy == 98.5
    assert dense.spread == pytest.approx(0.5**0.5)
    assert row("one seed", 10, 95.0).spread is None
    assert grouped.promised == 4.0
    assert grouped.measured("eager") == 2.0
    assert grouped.kept("eager") == 0.5
    assert grouped.measured("compiled") is None
    assert worse.measured("eager") == pytest.approx(2 / 3)
    assert impossible.accuracy is impossible.promised is impossible.kept("eager") is None


def test_rows_come_by_rising_cost_and_failures_last():
    assert [r.strategy for r in comparison().sorted().rows] == ["grouped", "worse", "dense", "impossible"]


def test_the_front_holds_what_nothing_beats_in_both():
    assert [r.strategy for r in comparison().pareto("macs")] == ["grouped", "dense"]
    assert [r.strategy for r in comparison().pareto("eager")] == ["grouped", "dense"]


def test_json_and_csv_hold_all_of_it(tmp_path):
    before = comparison()
    before.save(tmp_path / "c.json")
    assert Comparison.load(tmp_path / "c.json") == before
    assert json.loads((tmp_path / "c.json").read_text()) == json.loads(json.dumps(asdict(before)))
    records = list(csv.DictReader(io.StringIO(before.csv())))
    assert [r["strategy"] for r in records] == [r.strategy for r in before.rows]
    assert float(records[0]["accuracy"]) == 98.5


@pytest.mark.parametrize(
    "content", [None, "{", "[]", '{"rows": []}', '{"settings": {}, "machine": {}, "rows": [{}]}']
)
def test_a_file_that_is_no_comparison_is_one_clear_error(tmp_path, content):
    path = tmp_path / "c.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(PlanError, match=r"c\.json"):
        Comparison.load(path)
