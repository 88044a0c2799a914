"""The generated page of promised and measured speed is what its data make; rows say what they must."""

import json
from dataclasses import asdict

from benchmarks.strategies import Row, rows_of, shares, variants
from docs import strategies as made

from regroup.strategies import strategies


def row(**given) -> Row:
    usual = {"network": "resnet18", "size": 112, "batch": 1, "unit": "AVX2", "threads": 2, "strategy": "s"}
    usual |= {"macs": 50, "dense_macs": 100, "replaced": 3, "weight_bytes": 8, "seconds": {"regroup": 2.0}}
    usual |= {"dense_seconds": 3.0, "peak": 50.0, "bandwidth": 16.0, "in_pytorch": 0, "kernels": {}}
    return Row(**usual | given)


def test_the_page_is_what_its_data_make():
    data = json.loads(made.DATA.read_text())
    assert made.PAGE.read_text() == made.page(data), "run `python -m docs.strategies`"
    readme = made.README.read_text()
    assert readme == made.in_readme(readme, data), "run `python -m docs.strategies`"


def test_a_row_is_held_against_the_nearer_of_promise_and_floor():
    one = row()
    assert (one.promised, one.measured, one.kept, one.lead) == (2.0, 1.5, 0.75, None)
    assert row(peak=25.0).kept == row(bandwidth=4.0).kept == 1.0
    assert row(bandwidth=4.0, batch=4).kept == 0.75
    assert row(seconds={"regroup": 2.0, "a": 5.0, "b": 3.0}).lead == 1.5


def test_measured_again_a_row_keeps_the_least_times():
    first = row(seconds={"regroup": 2.0, "a": 5.0}, dense_seconds=3.0, peak=60.0, kernels={"x": 1.0})
    second = row(seconds={"regroup": 2.5, "a": 4.0, "b": 6.0}, dense_seconds=2.0, bandwidth=20.0)
    for merged in (first.merged(second), second.merged(first)):
        assert merged.seconds == {"regroup": 2.0, "a": 4.0, "b": 6.0}
        assert (merged.dense_seconds, merged.peak, merged.bandwidth) == (2.0, 60.0, 20.0)
        assert merged.kernels == {"x": 1.0}


def test_rows_of_one_network_share_the_dense_one_and_what_the_machine_can_do():
    rows = row(dense_seconds=3.0, peak=60.0), row(strategy="t", dense_seconds=2.5), row(batch=8, peak=70.0)
    found = rows_of({"rows": [asdict(one) for one in rows]})
    assert [(one.dense_seconds, one.peak) for one in found] == [(2.75, 60.0), (2.75, 60.0), (3.0, 70.0)]


def test_every_strategy_is_measured():
    assert {label.partition(":")[0] for label in variants()} == set(strategies)


def test_shares_are_of_all_steps():
    steps = [{"parts": [{"kernel": k}], "microseconds": t} for k, t in (("a", 1.0), ("b", 2.0), ("a", 1.0))]
    assert shares({"segments": [{"steps": steps}, {"operators": []}]}) == {"a": 0.5, "b": 0.5}
