"""Loggers: the file is right after any resume, and none of them can stop training."""

import json
import sys

import pytest

from regroup.training import train
from regroup.training.history import EpochResult, History
from regroup.training.loggers import JsonLines, Logger, Loggers
from regroup.training.progress import Lines, Live, display
from tests.training.cases import built, config, data

RESULTS = [EpochResult(n, 6 * n, 0.1, 0.5, 0.4, {"top1": 90.0 + n}, 1.0, 96.0) for n in (1, 2, 3)]


def lines(path):
    """The results in a log, all of one run."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({line.pop("run") for line in found}) == 1
    return found


def test_a_line_of_json_for_each_epoch(tmp_path):
    history = train(built(), data(), config(output=tmp_path))
    assert lines(tmp_path / "log.jsonl") == [result.line() for result in history.epochs]


def test_the_file_is_right_after_a_kill_in_the_middle_of_a_line(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(r.line()) + "\n" for r in RESULTS) + '{"epoch": 4, "st')
    log = JsonLines(path)
    log.begin(6, 5, History(RESULTS[:2]))  # the checkpoint is older than the last lines
    log.epoch(RESULTS[2])
    assert lines(path) == [result.line() for result in RESULTS]


class Broken(Logger):
    """Fails at everything."""

    def begin(self, steps, epochs, history):
        raise OSError("disk full")

    def epoch(self, result):
        raise AssertionError("was dropped before")


class Noting(Logger):
    def __init__(self):
        self.results, self.ended = [], False

    def epoch(self, result):
        self.results.append(result)

    def end(self):
        self.ended = True


def test_a_failing_logger_is_dropped_and_the_others_go_on(capsys):
    def impossible():
        raise ImportError("not installed")

    noting = Noting()
    log = Loggers([Broken, impossible, lambda: noting])
    log.begin(6, 3, History([]))
    for result in RESULTS:
        log.epoch(result)
    log.end()
    assert noting.results == RESULTS and noting.ended
    said = capsys.readouterr().err
    assert said.count("Broken failed and is dropped: disk full") == 1
    assert "impossible failed and is dropped: not installed" in said


def test_a_log_that_cannot_be_written_does_not_stop_training(tmp_path, capsys):
    (tmp_path / "log.jsonl").mkdir()
    assert len(train(built(), data(), config(output=tmp_path)).epochs) == 3
    assert "JsonLines failed" in capsys.readouterr().err


def test_tensorboard_gets_what_the_history_has(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = train(built(), data(), config(output=tmp_path, log_tensorboard=True))
    events = EventAccumulator(str(tmp_path)).Reload()
    found = [(event.step, event.value) for event in events.Scalars("top1")]
    assert found == [(result.step, pytest.approx(result.score)) for result in history.epochs]


def test_without_tensorboard_training_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    train(built(), data(), config(output=tmp_path, log_tensorboard=True))
    assert "is dropped" in capsys.readouterr().err


def test_lines_where_there_is_no_terminal(capsys):
    train(built(), data(), config(display="auto"))
    said = capsys.readouterr()
    assert said.out == "" and "\x1b" not in said.err
    assert [line.split("  ")[0] for line in said.err.splitlines()] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]


def test_quiet_says_nothing(capsys):
    train(built(), data(), config())
    assert capsys.readouterr() == ("", "")


def test_a_live_bar_in_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    assert display("auto") == [Live] and display("plain") == [Lines] and display("quiet") == []
    train(built(), data(), config(display="auto"))
    said = capsys.readouterr().err
    assert "epoch 1/3" in said and "top-1" in said and "\x1b" in said


def test_a_resumed_run_says_where_it_goes_on(tmp_path, capsys):
    train(built(), data(), config(output=tmp_path))
    train(built(), data(), config(output=tmp_path, resume=True, display="plain"))
    assert "going on after epoch 3" in capsys.readouterr().err
