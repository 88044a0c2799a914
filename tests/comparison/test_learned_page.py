"""The generated page of learned groupings is what its data make, and its code runs."""

import json
import re

import pytest
from docs import learned

from regroup import ConvSpec
from regroup.comparison.result import Comparison, Row, Run
from regroup.strategies import parse_strategy, strategies
from regroup.strategies.learning import Learned
from tests.processes import in_fork


def test_the_page_is_what_its_data_make():
    assert learned.PAGE.read_text() == learned.page(learned.load()), "run `python -m docs.learned`"


def test_every_learned_strategy_is_on_the_page():
    spec = ConvSpec(16, 16, 3, padding=1)
    found = {name for name in strategies if parse_strategy(name).why_not(spec) is None}
    found = {name for name in found if isinstance(parse_strategy(name).build(spec), Learned)}
    assert found == set(learned.LEARNED)
    assert {pair[0] for pair in learned.PAIRS} <= found


def test_the_code_on_the_page_runs():
    (block, lightning) = re.findall(r"```python\n(.*?)```", learned.PAGE.read_text(), re.DOTALL)
    ran = in_fork(exec, block, {"__name__": "__main__"})
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "[16, 16, 16, 16]\ntorch.Size([1, 10])\n"
    compile(lightning, "page", "exec")


def found(settings, **accuracies):
    runs = {name: [Run(i, a, 1.0) for i, a in enumerate(values)] for name, values in accuracies.items()}
    rows = [Row(name.replace("_4", ":groups=4"), "", 10, 100, runs=r) for name, r in runs.items()]
    return Comparison({"epochs": 6, "out": "anywhere", **settings}, {"torch": "2"}, rows)


def test_comparisons_of_one_kind_are_joined_and_others_refused():
    first = learned.merged(None, found({}, condensed=[80.0, 82.0], dense=[90.0, 91.0]))
    both = learned.merged(json.loads(json.dumps(first)), found({"out": "here"}, grouped_4=[70.0, 71.0]))
    assert list(both["rows"]) == ["condensed", "dense", "grouped:groups=4"]
    with pytest.raises(SystemExit, match="different settings"):
        learned.merged(first, found({"epochs": 7}, dense=[1.0]))


def test_a_difference_is_clear_beyond_two_standard_errors():
    rows = {
        "condensed": {"macs": 100, "parameters": 10, "accuracies": [80.0, 82.0]},
        "near": {"macs": 100, "parameters": 20, "accuracies": [78.5, 80.5]},
        "far": {"macs": 80, "parameters": 10, "accuracies": [60.0, 62.0]},
    }
    near, far = (learned._reading("condensed", name, rows) for name in ("near", "far"))
    assert "(equal MACs, 50.0% fewer parameters): +1.5 points, standard error 1.4: no difference" in near
    assert "(25.0% more MACs, equal parameters): +20.0 points, standard error 1.4: clearly above" in far
