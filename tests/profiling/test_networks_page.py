"""The generated page of all networks is up to date and says what the networks claim."""

from __future__ import annotations

import pytest
from docs import generate, times

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


def test_counting_goes_on_where_it_was_cut_off(tmp_path, monkeypatch):
    names, asked = ["resnet20", "resnet_small"], []
    monkeypatch.setattr(generate, "DATA", tmp_path / "networks.json")
    monkeypatch.setattr(generate, "PAGE", tmp_path / "networks.md")
    monkeypatch.setattr(generate, "networks", {name: networks[name] for name in names})

    def counted(network):
        asked.append(network.name)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return DATA["networks"][network.name]

    monkeypatch.setattr(generate, "counted", counted)
    with pytest.raises(KeyboardInterrupt):
        generate.main([])
    assert "| `resnet20` |" in generate.PAGE.read_text()
    generate.main([])
    assert asked == ["resnet20", "resnet_small", "resnet_small"]
    assert "| `resnet_small` |" in generate.PAGE.read_text()


@pytest.fixture
def clock(monkeypatch):
    """Networks whose process is cut off at the third."""
    asked = []

    def of_process(names, seconds, end):
        for name in names:
            asked.append(name)
            if len(asked) == 3:
                raise KeyboardInterrupt
            yield name, {way: {"seconds": seconds, "verdict": "quiet"} for way in times.WAYS}

    monkeypatch.setattr(times, "_of_process", of_process)
    return asked


def test_measuring_goes_on_where_it_was_cut_off(clock, tmp_path, capsys):
    path, names = tmp_path / "times.json", ["resnet20", "resnet32", "resnet44"]
    with pytest.raises(KeyboardInterrupt):
        times.main(["--networks", *names, "--seconds", "0.25", "--out", str(path)])
    assert "1 of 3, " in (said := capsys.readouterr().out) and "resnet20: PyTorch 250 ms, regroup" in said
    told = "\n".join(times.told(times.load(path), names))
    assert f"Measured on {times.machine()}" in told and "1 of 3 are missing" in told
    assert times.cells(times.load(path), "resnet44") == ["-", "-"]
    assert times.main(["--networks", *names, "--out", str(path)]) == 0
    assert clock == [*names, "resnet44"]
    assert "missing" not in "\n".join(times.told(times.load(path), names))
    times.main(["--networks", *names, "--again", "--out", str(path)])
    assert clock[4:] == names


def test_times_of_another_machine_are_told_apart_and_measured_again(clock, tmp_path):
    path, names = tmp_path / "times.json", ["resnet20", "resnet32"]
    times.main(["--networks", *names, "--out", str(path)])
    data = times.load(path)
    data["machines"].append({**data["machines"][0], "device": "another"})
    data["networks"]["mixnet_s"] = {**data["networks"]["resnet20"], "machine": 1}
    times.save(data, path)
    assert [cell[-1] for name in (*names, "mixnet_s") for cell in times.cells(data, name)] == [*"ssss", *"**"]
    assert f"those with {times.OTHER} on another, " in "\n".join(times.told(data, names))
    assert times.missing([*names, "mixnet_s"], data, again=False) == ["mixnet_s"]
    noisy = {"seconds": 1.0, "verdict": "noisy"}
    data["networks"]["resnet20"] = {**data["networks"]["resnet20"], "regroup": noisy}
    assert times.missing(names, data, again=False) == ["resnet20"], "another try, on a quieter machine"
    del data["networks"]["mixnet_s"]
    times.save(data, path)
    assert len(times.load(path)["machines"]) == 1


def test_a_network_that_cannot_be_measured_is_said_and_the_others_are(tmp_path, capsys):
    path = tmp_path / "times.json"
    arguments = ["--networks", "no_such_network", "resnet20", "--seconds", "0.001", "--out", str(path)]
    assert times.main(arguments) == 1
    assert "no_such_network: its process ended (1)" in capsys.readouterr().out
    entry = times.load(path)["networks"]["resnet20"]
    assert set(entry) == {"machine", "date", *times.WAYS}
    assert all(entry[way]["seconds"] > 0 for way in times.WAYS)


def test_the_page_holds_every_network():
    assert list(DATA["networks"]) == list(networks)
