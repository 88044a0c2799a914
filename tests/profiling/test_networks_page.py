"""The generated page of all networks is up to date and says what the networks claim."""

from __future__ import annotations

import pytest
from docs import generate

from regroup.networks import networks

DATA = generate.load()


def test_the_page_is_what_its_data_make():
    assert generate.PAGE.read_text() == generate.page(DATA), "run `make docs`"


def test_the_counts_on_the_page_are_the_published_ones():
    for name, figures in DATA["networks"].items():
        claims = networks[name].claims
        assert (figures["parameters"], tuple(figures["size"])) == (claims.parameters, claims.size), name
        assert round(figures["macs"] / 1e6, 1) == claims.mega_macs, name


def test_no_operator_was_taken_to_mix_everything():
    assert not {name: f["assumed"] for name, f in DATA["networks"].items() if f["assumed"]}


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Two small networks, and a clock that only counts how often it is asked."""
    names, asked = ["resnet20", "resnet_small"], []
    monkeypatch.setattr(generate, "DATA", tmp_path / "networks.json")
    monkeypatch.setattr(generate, "PAGE", tmp_path / "networks.md")
    monkeypatch.setattr(generate, "networks", {name: networks[name] for name in names})

    def measured(network, seconds):
        asked.append(network.name)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return {"median": seconds, "low": seconds, "high": seconds, "verdict": "quiet"}

    monkeypatch.setattr(generate, "measured", measured)
    return asked


def test_measuring_goes_on_where_it_was_cut_off_and_the_page_says_what_is_missing(elsewhere, capsys):
    with pytest.raises(KeyboardInterrupt):
        generate.main(["--time", "--seconds", "0.25"])
    assert "1 of 2 times are missing (-)" in generate.PAGE.read_text()
    assert "| 250 ms |" in generate.PAGE.read_text() and "| - |" in generate.PAGE.read_text()
    assert "1 of 2: resnet20: 250 ms, quiet" in capsys.readouterr().out
    generate.main(["--time"])
    assert elsewhere == ["resnet20", "resnet_small", "resnet_small"]
    assert "missing" not in generate.PAGE.read_text()
    generate.main(["--retime"])
    assert elsewhere[3:] == ["resnet20", "resnet_small"]


def test_times_of_another_machine_are_not_mixed_with_those_of_this_one(elsewhere, monkeypatch):
    generate.main([])
    data = generate.load()
    data["machine"] = {**generate.machine().to_dict(), "device": "another"}
    for entry in data["networks"].values():
        entry["seconds"] = {"median": 1.0, "low": 1.0, "high": 1.0, "verdict": "quiet"}
    generate.save(data)
    with pytest.raises(KeyboardInterrupt):
        generate.main(["--time"])
    assert [entry["seconds"] is None for entry in generate.load()["networks"].values()] == [False, True]


def test_the_page_holds_every_network():
    assert list(DATA["networks"]) == list(networks)
