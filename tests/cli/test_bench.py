"""`regroup bench`: its figures, its files, its errors."""

import json

import pytest

from regroup.cli import main
from regroup.cli.bench import Options, run
from regroup.errors import ConfigError
from regroup.spec import divisors


def test_a_shape_is_measured_with_every_number_of_groups(tmp_path, capsys):
    assert run(Options(conv="12,8,3,7,2", seconds=1e-3, out=tmp_path / "made", json=True)) == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert told == json.loads((tmp_path / "made" / "speeds.json").read_text()) and not err
    (layer,) = told["layers"]
    assert [p["groups"] for p in layer["points"]] == divisors(12, 8)
    for point in layer["points"]:
        assert point["promised"] == point["groups"]
        assert point["macs"] == 12 * 8 * 9 * 16 // point["groups"]
        for way, seconds in point["seconds"].items():
            dense = layer["points"][0]["seconds"][way]["PyTorch"]
            assert point["measured"][way] == {who: dense / s for who, s in seconds.items()}
    for way, fastest in layer["fastest"].items():
        least = min(layer["points"], key=lambda point, way=way: point["seconds"][way]["regroup"])
        assert least["groups"] == fastest
        assert (tmp_path / "made" / f"{way}.svg").read_text().startswith("<svg")


def test_equal_layers_of_a_network_are_measured_once_and_progress_is_told(capsys, monkeypatch):
    taken = {way: {"PyTorch": 2e-3, "regroup": 1e-3} for way in ("forward", "training")}
    measured = []
    monkeypatch.setattr("regroup.profiling.groups._seconds", lambda *what: (measured.append(what), taken)[1])
    assert run(Options("mobilenet_v1_025", groups="8", image=32)) == 0
    assert len(measured) == len(set(measured)) and {groups for _, groups, *_ in measured} == {1, 8}
    out, err = capsys.readouterr()
    assert "and 4 more" in out and "fastest with" in out and "*" in out
    assert err.splitlines()[0].startswith("layer 1 of ") and "8 groups" in err and "2.00x" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "model='neither'"),
        ({"model": "mobilenet_v1_100", "conv": "8,8,3,7"}, "model='both'"),
        ({"conv": "8,8,3"}, "conv='8,8,3': must be in,out,kernel,size"),
        ({"conv": "8,8,3,x"}, "conv="),
        ({"conv": "8,8,4,0"}, "conv="),
        ({"conv": "8,8,3,7", "groups": "0"}, "groups='0'"),
        ({"conv": "8,8,3,7", "batch": 0}, "batch=0"),
        ({"conv": "8,8,3,7", "threads": 0}, "threads=0"),
        ({"conv": "8,8,3,7", "seconds": 0.0}, "seconds=0.0"),
    ],
)
def test_what_cannot_be_measured_is_named(options, message):
    with pytest.raises(ConfigError, match=message):
        run(Options(**options))


def test_a_place_that_cannot_be_written_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as exit:
        main(
            [
                "bench",
                "--conv",
                "2,2,1,2",
                "--seconds",
                "0.0001",
                "--quiet",
                "--out",
                str(tmp_path / "file" / "x"),
            ]
        )
    assert exit.value.code == 1 and "could not be written" in capsys.readouterr().err
