"""Comparisons below a URL: the same report, taken up where they were, with runs that other machines share."""

import tempfile

import pytest

from regroup.comparison import runner
from regroup.comparison.result import Comparison
from regroup.errors import CheckpointError, ReportError
from regroup.files import lease as leases
from regroup.files import remote
from regroup.files.remote import Store
from regroup.files.staging import fetched
from tests.faults.runs import compared
from tests.stores import Crash, FaultyFileSystem, crash, denied

URL = "faulty://bucket/report"


@pytest.fixture(autouse=True)
def empty(monkeypatch, tmp_path):
    FaultyFileSystem.empty()
    monkeypatch.setattr(remote, "_PAUSES", [0.0, 0.0])
    monkeypatch.setattr(leases, "LEASE", 0.0)  # processes that crashed here are this one
    (tmp_path / "places").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "places"))
    yield
    FaultyFileSystem.empty()


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    return compared(tmp_path_factory.mktemp("here"), time=False)


def report():
    with fetched(URL, lambda name: "/" not in name) as place:
        return Comparison.load(place / "comparison.json")


def test_a_report_below_a_url_is_that_of_a_disk_and_is_not_made_twice(here):
    assert compared(URL, time=False) == here
    found = report()
    assert found.settings["out"] == URL
    assert {"index.html", "comparison.csv", "comparison.json"} <= {f.name for f in Store(URL).objects()}
    before = {f.name: f.token for f in Store(URL).objects() if "checkpoint" in f.name}
    assert compared(URL, time=False) == here
    assert {f.name: f.token for f in Store(URL).objects() if "checkpoint" in f.name} == before != {}
    assert report().rows == found.rows  # seconds too


def test_times_are_kept_below_it(here):
    compared(URL, strategies=("grouped:groups=2",))
    before = {f.name: f.token for f in Store(URL).objects() if f.name.startswith("times/")}
    compared(URL, strategies=("grouped:groups=2",))
    assert {f.name: f.token for f in Store(URL).objects() if f.name.startswith("times/")} == before != {}


def test_a_comparison_that_was_interrupted_goes_on(here):
    FaultyFileSystem.begin()
    compared(URL, time=False)
    total = FaultyFileSystem.seen
    for last in range(3, total, total // 4):
        FaultyFileSystem.empty()
        FaultyFileSystem.begin(last, crash)
        with pytest.raises(Crash):
            compared(URL, time=False)
        FaultyFileSystem.begin()
        assert compared(URL, time=False) == here


def test_a_store_that_does_not_allow_it_is_one_clear_line():
    FaultyFileSystem.begin(0, denied)
    with pytest.raises((CheckpointError, ReportError), match=f"{URL}.*does not allow") as told:
        compared(URL, time=False)
    assert "\n" not in str(told.value)


def test_a_damaged_run_is_set_aside_and_trained_again(here):
    compared(URL, time=False)
    names = [f.name for f in Store(URL).objects()]
    for name in names:
        if "grouped" in name and name.endswith("model.safetensors"):
            Store(URL).put(name, b"damaged" + Store(URL).read(name, most=1 << 20)[7:])
    assert compared(URL, time=False) == here
    assert any(".damaged/" in f.name for f in Store(URL).objects())


def test_what_other_machines_train_lies_below_the_url(here, monkeypatch):
    def results(on, work, tasks, **how):
        for number, task in enumerate(tasks):
            assert f'"out": "{URL}"' in task
            yield number, work(task)

    monkeypatch.setattr(runner, "results", results)
    monkeypatch.setattr(runner, "check_engine", lambda on: None)
    assert compared(URL, time=False, on="submitit", cpus=1) == here
