"""Comparisons whose trainings other machines do end as those that are done here, bit for bit."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest

from regroup.comparison import runner
from regroup.comparison.clusters import _connect
from regroup.comparison.keeping import LOCK
from regroup.comparison.settings import CompareConfig
from regroup.errors import ConfigError
from regroup.loading.plugins import load_plugins
from regroup.training.checkpoint import list_checkpoints
from regroup.training.code import sources
from regroup.training.data import data_sets
from tests.training import tiny_scenes

OPTIONS = {"strategies": ("grouped:groups=2",), "time": False, "cpus": 1}


def compare(out, **options):
    said = []
    found = runner.compare(out=out, say=said.append, **{**OPTIONS, "epochs": 2, **options})
    return found, said


def results(found):
    """Everything but the seconds that trainings took."""
    return [{**asdict(row), "runs": [{**asdict(r), "seconds": 0} for r in row.runs]} for row in found.rows]


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    return compare(tmp_path_factory.mktemp("here"))[0]


def test_submitit_s_jobs_give_what_is_trained_here(here, tmp_path):
    pytest.importorskip("submitit", reason="pip install torch-regroup[submitit]")
    found, said = compare(tmp_path, on="submitit")
    assert results(found) == results(here)
    assert sum(line.startswith(("[1/2]", "[2/2]")) and "seed 0" in line for line in said) >= 2
    assert found.settings == {**here.settings, "out": str(tmp_path)}
    again, _ = compare(tmp_path)  # takes up what the jobs have trained
    assert [asdict(row) for row in again.rows] == [asdict(row) for row in found.rows]  # seconds too


@pytest.fixture
def at_once(monkeypatch):
    """An engine whose machine is this process: what goes there and back are texts all the same."""
    monkeypatch.setattr(runner, "check_engine", lambda on: None)
    monkeypatch.setattr(
        runner, "results", lambda on, work, tasks, **how: ((i, work(t)) for i, t in enumerate(tasks))
    )


def test_a_strategy_that_other_machines_cannot_train_is_told_as_here(tmp_path, at_once):
    found, _ = compare(tmp_path, on="submitit", lr=1e30, epochs=1)
    assert all("loss became" in row.error and row.cause == "grouping" for row in found.rows)


@pytest.mark.parametrize(("fails", "asked"), [(0, 1), (2, 3), (3, 3)])
def test_a_head_whose_server_for_this_client_dies_is_asked_again(fails, asked):
    """It forks them off a process with threads: the second client of a head died so in a run of the tests."""
    calls = []

    def init(*_, **__):
        calls.append(1)
        if len(calls) <= fails:
            raise ConnectionAbortedError("Starting Ray client server failed")

    with pytest.raises(ConnectionAbortedError) if fails == 3 else nullcontext():
        _connect(SimpleNamespace(init=init), "ray://127.0.0.1:1")
    assert len(calls) == asked


@pytest.fixture
def cluster(monkeypatch):
    """A head of no processor, which clients reach from outside, and two nodes of one; and its address.

    Who is dead refuses to be asked, and is lost after five such answers; Ray asks every 3 s, here oftener.
    """
    ray = pytest.importorskip("ray", reason="pip install torch-regroup[ray]")
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "120")  # on a busy machine
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    asked = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 300}
    head = {"num_cpus": 0, "ray_client_server_port": port, "include_dashboard": False}
    cluster = cluster_utils.Cluster(True, head_node_args={**head, "_system_config": asked})
    try:
        cluster.add_node(num_cpus=1, wait=False)
        cluster.add_node(num_cpus=1)
        yield cluster, f"ray://127.0.0.1:{port}"
    finally:
        ray.shutdown()
        cluster.shutdown()


def epochs_of(run):
    """Return which epochs a run's log has, each once for every time that it was trained."""
    log = run / "log.jsonl"
    lines = map(json.loads, log.read_text().splitlines() if log.exists() else ())
    return [line["epoch"] for line in lines if "epoch" in line]


def wait_for(out, epochs, driver=None):
    """Wait until both trainings have a checkpoint, and so many epochs together."""
    while True:
        runs = list((out / "runs").glob("*/seed0-*"))
        if (
            len(runs) == 2
            and all(map(list_checkpoints, runs))
            and sum(len(epochs_of(r)) for r in runs) >= epochs
        ):
            return
        assert driver is None or driver.poll() is None
        time.sleep(0.02)


DRIVER = "import sys; from tests.comparison.test_clusters import compare; "
DRIVER += "compare(sys.argv[1], on=sys.argv[2], epochs=int(sys.argv[3]))"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*ray_client_server|subprocess:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:(unclosed|subprocess):ResourceWarning")  # Ray's
def test_a_comparison_goes_on_after_its_driver_was_killed_and_then_a_node(tmp_path, cluster):
    nodes, address = cluster
    out, epochs = tmp_path / "away", 6
    command = [sys.executable, "-c", DRIVER, str(out), address, str(epochs)]
    at_once = {**os.environ, "RAY_CLIENT_RECONNECT_GRACE_PERIOD": "0"}  # its tasks end with it
    driver = subprocess.Popen(command, cwd=Path(__file__).parents[2], env=at_once)
    wait_for(out, 2, driver)
    driver.kill()
    driver.wait()
    before = sum(map(len, map(epochs_of, (out / "runs").glob("*/seed0-*"))))

    def lose():
        wait_for(out, before + 2)
        nodes.remove_node(next(iter(nodes.worker_nodes)), allow_graceful=False)

    losing = threading.Thread(target=lose)
    losing.start()
    found, _ = compare(out, on=address, epochs=epochs)
    losing.join()
    here, _ = compare(tmp_path / "here", epochs=epochs)
    assert results(found) == results(here)
    for run in (out / "runs").glob("*/seed0-*"):
        done = epochs_of(run)
        assert sorted(set(done)) == list(range(min(done), min(done) + epochs))
        assert len(done) <= epochs + 2  # of what a checkpoint had, nothing was done again


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"on": "slurm"}, "on='slurm': must be ray, ray://HOST:PORT or submitit"),
        ({"on": "ray://"}, "must be ray, ray://HOST:PORT or submitit"),
        ({"on": "submitit://x"}, "must be ray, ray://HOST:PORT or submitit"),
        ({"cpus": 0}, "cpus=0: must be an int of at least 1"),
        ({"gpus": -1}, "gpus=-1: must be at least 0"),
    ],
)
def test_engines_that_there_are_not_are_refused(options, told, tmp_path):
    with pytest.raises(ConfigError, match=told):
        compare(tmp_path, **options)


@pytest.mark.parametrize("on", ["ray", "submitit"])
def test_an_engine_that_is_not_installed_says_what_to_install(on, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, on, None)
    with pytest.raises(ConfigError, match=rf"pip install 'torch-regroup\[{on}\]'"):
        compare(tmp_path, on=on)


def test_other_machines_read_the_data_for_the_task(tmp_path):
    (tmp_path / "compare.lock").touch()
    task = {"config": {"out": str(tmp_path), "task": "segment"}, "plugins": [], "sources": {}, "threads": 1}
    told = json.loads(runner.work(json.dumps({**task, "strategy": "dense", "seed": 0})))
    assert told["cause"] == "options" and "a data set for the task segment" in told["error"]


def test_a_training_elsewhere_is_for_the_task_of_the_comparison(tmp_path, monkeypatch):
    monkeypatch.setitem(data_sets._items, "small_scenes", tiny_scenes.small)
    small = {"data": "small_scenes", "model_options": ("depths=[1,1,1]", "widths=[8,8,16]"), "epochs": 1}
    config = CompareConfig(task="segment", out=tmp_path, **small)
    (tmp_path / LOCK).touch()
    task = {"config": config.elsewhere(), "plugins": [], "sources": {}, "threads": 1}
    task |= {"strategy": "dense", "seed": 0}
    told = json.loads(runner.work(json.dumps(task)))
    assert told["cause"] == "" and "dense: seed 0: " in told["said"][-1]
    assert list(tmp_path.glob("runs/dense/seed0-*/checkpoint-*"))


def test_a_directory_that_machines_do_not_share_is_named(tmp_path):
    task = {"config": {"out": str(tmp_path / "elsewhere")}, "plugins": [], "threads": 1}
    told = json.loads(runner.work(json.dumps({**task, "strategy": "dense", "seed": 0})))
    assert told["cause"] == "options" and "a directory of all machines" in told["error"]


def test_a_plugin_that_was_changed_since_the_comparison_began_is_refused_elsewhere(tmp_path):
    """Its rows would be of another text than those before, and of another than the comparison says."""
    (tmp_path / LOCK).touch()
    plugin = tmp_path / "plugin.py"
    plugin.write_text("FACTOR = 2\n")
    task = {"config": {"out": str(tmp_path)}, "plugins": [str(plugin)], "threads": 1}
    task |= {"sources": sources(load_plugins([plugin])), "strategy": "dense", "seed": 0}
    plugin.write_text("FACTOR = 3\n")
    told = json.loads(runner.work(json.dumps(task)))
    assert told["cause"] == "options" and "as it was when the comparison began" in told["error"]
