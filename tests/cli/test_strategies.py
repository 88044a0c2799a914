"""`regroup strategies`: the list, the page of one, and that ranges and kinds are those of the strategies."""

import json
import re

import pytest

from regroup.cli import main
from regroup.errors import ParameterError
from regroup.strategies import parse_strategy, strategies
from regroup.strategies.described import EXAMPLE, describe


def said(capsys, *argv):
    with pytest.raises(SystemExit) as exit:
        main(["strategies", *argv])
    assert exit.value.code == 0
    return capsys.readouterr().out


def test_every_strategy_is_listed_with_its_form_and_paper(capsys):
    out = said(capsys)
    for name in strategies:
        found = describe(strategies[name])
        (line,) = [line for line in out.splitlines() if line.startswith(f"{name} ")]
        assert found.form in line and found.paper in line and found.kind in line
    assert said(capsys, "--plain").split() == list(strategies)
    assert said(capsys, "scaled*", "--plain").split() == ["scaled", "scaled_learned"]
    assert [each["name"] for each in json.loads(said(capsys, "--json"))] == list(strategies)


@pytest.mark.parametrize("name", strategies)
def test_the_page_of_one_says_its_options_and_a_command_that_runs(name, capsys):
    out = said(capsys, name)
    found = describe(strategies[name])
    for option in found.options:
        assert option.allowed and option.text, option.name
        assert f"  {option.name} ({option.type}, {option.default} if not given): {option.allowed}" in out
    (command,) = re.findall(r"^regroup compare --strategies (.*)", out, re.MULTILINE)
    assert tuple(map(parse_strategy, command.split())) == strategies[name].variants()


@pytest.mark.parametrize("name", strategies)
def test_defaults_can_be_read_and_what_is_not_allowed_is_refused_with_these_words(name):
    found = describe(strategies[name])
    settled = ",".join(f"{o.name}={o.default}" for o in found.options if o.default != "none")
    assert parse_strategy(f"{name}:{settled}" if settled else name) == strategies[name]()
    for option in found.options:
        wrong = {"int": "-1", "float": "-1", "str": "?", "tuple": "-1", "bool": "?"}[option.type]
        with pytest.raises(ParameterError):
            for variant in strategies[name].variants():  # an option may be one of another variant's
                parse_strategy(f"{variant.label}{',' if ':' in variant.label else ':'}{option.name}={wrong}")
    assert found.kind in ("fixed", "learned")
    cost = strategies[name]().cost(EXAMPLE, (56, 56)).macs / EXAMPLE.cost((56, 56)).macs
    assert found.macs == cost
