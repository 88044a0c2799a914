"""Where output cannot go, or where something is in its way: said in one line, before anything is trained."""

import os
from pathlib import Path

import pytest

from regroup.cli import main
from regroup.training import loop
from tests.faults import runs

COMMANDS = {
    "train": ("train", "--model", "tiny", "--data", "tiny", "--display", "quiet"),
    "compare": (
        "compare",
        "--backbone",
        "tiny",
        "--data",
        "tiny",
        "--strategies",
        "dense",
        "--json",
        "--quiet",
    ),
}
SHORT = ("--epochs", "1", "--batch-size", "16", "--device", "cpu", "--no-wait", "--out")


def call(command, out):
    with runs.registered(), pytest.raises(SystemExit) as exit:
        main([*COMMANDS[command], *SHORT, str(out)])
    return exit.value.code


def in_the_way(place, what):
    """Put something in the way below `place`; return where output is to go, and what must be said of it."""
    out = place / "out"
    if what == "a file":
        out.write_text("mine")
    elif what == "below a file":
        (place / "file").write_text("mine")
        return place / "file" / "out", f"File exists: {place / 'file'}"
    elif what == "a loop":
        out.symlink_to(out)
    elif what == "a dangling link":
        out.symlink_to(place / "nowhere")
    elif what == "a device":
        return "/dev/null", "/dev/null"
    elif what == "too long a name":
        return place / ("x" * 300), "name too long"
    elif what == "a zero in the name":
        return f"{place}/a\0b", "null"
    elif what == "a pipe":
        os.mkfifo(out)
    return out, str(out)


WAYS = ("a file", "below a file", "a loop", "a dangling link", "a device", "too long a name", "a pipe")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("what", [*WAYS, "a zero in the name"])
def test_what_cannot_be_written_to_is_one_line_before_training(what, command, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(loop, "_step", None)
    out, says = in_the_way(tmp_path, what)
    assert call(command, out) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and says in lines[0] and "should not have happened" not in lines[0]
    assert not (tmp_path / "nowhere").exists()
    assert what != "a file" or (tmp_path / "out").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_directory_that_may_not_be_written_to_is_one_line(command, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(loop, "_step", None)
    tmp_path.chmod(0o500)
    try:
        assert call(command, tmp_path) == 1
    finally:
        tmp_path.chmod(0o700)
    assert "Permission denied" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["index.html", "comparison.json", "comparison.csv", "compare.lock"])
@pytest.mark.parametrize("what", ["a directory", "a dangling link", "a pipe"])
def test_what_is_in_the_way_of_a_report_is_one_line_before_training(
    what, name, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(loop, "_step", None)
    if what == "a directory":
        (tmp_path / name).mkdir()
    elif what == "a pipe":
        os.mkfifo(tmp_path / name)
    else:
        (tmp_path / name).symlink_to(tmp_path / "nowhere")
    assert call("compare", tmp_path) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and name in lines[0] and "is in the way of the report" in lines[0]
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX only")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_name_that_is_no_text_is_a_name(command, tmp_path, capsys):
    out = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    assert call(command, out) == 0, capsys.readouterr().err
    assert list(Path(out).iterdir())


@pytest.mark.parametrize("command", COMMANDS)
def test_what_lies_where_others_once_wrote_for_a_moment_is_in_nobodys_way(command, tmp_path):
    for name in (".weights.partial-1", ".checkpoint-000001.partial-1", ".comparison.json.partial-1"):
        (tmp_path / name).write_text("a file")
    (tmp_path / ".index.html.partial-1").mkdir()
    assert call(command, tmp_path) == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk_under_the_output_costs_the_output_alone(command, tmp_path, capsys, monkeypatch):
    """What was trained is there, and the same call has nothing to train."""
    with Path("/dev/full").open("w") as full, monkeypatch.context() as patch:
        patch.setattr("sys.stdout", full)
        assert call(command, tmp_path) == 1
    assert "the output could not be written: No space left on device" in capsys.readouterr().err
    monkeypatch.setattr(loop, "_step", None)
    with runs.registered(), pytest.raises(SystemExit) as exit:
        main([*COMMANDS[command], *SHORT, str(tmp_path), *(["--resume"] if command == "train" else [])])
    assert exit.value.code == 0 and capsys.readouterr().out
