"""Runs and comparisons under faults: each file operation fails or is the last one; several processes meet."""

import json
import os
import random
import re
import shutil

import pytest
import torch

from regroup.errors import RegroupError
from tests.faults import programs, runs
from tests.faults.programs import LONG
from tests.faults.system import ERRORS, Crash, Fault, descriptors, faults


def interrupted(work, place, monkeypatch, last, number):
    """Do `work` with a fault at operation `last`; return its result or error, and whether it came so far."""
    fault, outcome = Fault(last, number), None
    with faults(monkeypatch, fault, place):
        try:
            outcome = work(place)
        except Crash:
            outcome = "crashed"
        except (RegroupError, OSError) as error:
            outcome = error
    for handle in [*descriptors("run.lock"), *descriptors("compare.lock")]:
        os.close(handle)
    return outcome, fault.seen > last


def points(operations, some):
    """Faults and the operations that they meet: all of them in the long form, else some, chosen anew."""
    every = [(number, last) for last in range(operations) for number in (None, *ERRORS)]
    return every if LONG else random.SystemRandom().sample(every, some)


@pytest.mark.timeout(600 if not LONG else 36000)
@pytest.mark.parametrize(("kind", "some"), [("train", 12), ("compare", 8)])
def test_whatever_fails_the_next_call_ends_as_if_nothing_had(kind, some, tmp_path, monkeypatch, tell, tried):
    work = {"train": runs.trained, "compare": runs.compared}[kind]
    torch.set_num_threads(1)
    monkeypatch.setenv("REGROUP_CACHE", "")
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # counted all the same; nobody pulls the plug here
    counter = Fault(10**9)
    with faults(monkeypatch, counter, tmp_path / "whole"):
        whole = work(tmp_path / "whole")
    left = runs.contents(tmp_path / "whole")
    assert counter.seen > 250
    chosen = points(counter.seen, some)
    for done, (number, last) in enumerate(chosen, 1):
        place = tmp_path / f"{number}-{last}"
        outcome, reached = interrupted(work, place, monkeypatch, last, number)
        assert reached
        if isinstance(outcome, Exception):
            assert len(str(outcome).splitlines()) == 1 and "Error" not in str(outcome)
        elif kind == "train" and outcome != "crashed":
            assert outcome == whole
        assert work(place) == whole, f"operation {last}, fault {number}: {outcome}"
        found = runs.contents(place)
        assert found.keys() == left.keys(), f"operation {last}, fault {number}: {outcome}"
        exact = [name for name in found if name.endswith((".safetensors", "run.json", "network.json"))]
        assert [name for name in exact if found[name] != left[name]] == []
        shutil.rmtree(place)
        if done % 100 == 0:
            tell(f"operations of {kind}: {done} of {len(chosen)}")
    tried(f"file operations of {kind} that failed or were the last one", len(chosen))


@pytest.fixture(scope="module", params=[2, 3, 5] if LONG else [3])
def meetings(request, tmp_path_factory, tell, tried):
    """What came out where so many processes met in one directory, by what they wanted there."""
    seed, trials = random.SystemRandom().randrange(10**6), max(1, LONG // 4)
    directory = tmp_path_factory.mktemp("meetings")
    ran = programs.run("meetings", request.param, trials, directory, seed, tell=tell, REGROUP_CACHE="")
    assert ran.returncode == 0 and "Traceback" not in ran.stderr, f"seed {seed}: {ran.stderr}"
    found = json.loads(ran.stdout.splitlines()[-1])
    ended = [outcome["ended"] for kind in found.values() for outcome in kind["outcomes"]]
    assert all(ended) and len(ended) == len(found) * trials and len(found) == 9, (
        f"seed {seed}: somebody hangs"
    )
    tried(f"meetings of {request.param} processes in one directory", len(ended))
    return found


@pytest.mark.timeout(300 if not LONG else 36000)
@pytest.mark.parametrize("kind", ["resume", "share", "compare", "elsewhere", "compile", "convert"])
def test_who_meets_in_a_directory_ends_with_what_each_would_have_alone(kind, meetings):
    for outcome in meetings[kind]["outcomes"]:
        assert [each.get("result") for each in outcome["found"]] == meetings[kind]["alone"], outcome
        assert not [name for name in outcome["left"] if "partial" in name]
        assert outcome["beside"] == ["out"]


@pytest.mark.parametrize("kind", ["begin", "refuse"])
def test_of_several_new_runs_in_a_directory_one_is_trained_and_the_others_are_told(kind, meetings):
    for outcome in meetings[kind]["outcomes"]:
        results = [(n, each["result"]) for n, each in enumerate(outcome["found"]) if "result" in each]
        assert len(results) == 1 and results[0][1] == meetings[kind]["alone"][results[0][0]], outcome
        for each in outcome["found"]:
            if "result" not in each:
                assert re.search("holds no run yet|is in use by process [0-9]+ since", each["error"]), each


def test_of_several_conversions_that_do_not_wait_each_is_right_or_told(meetings):
    kind = meetings["convert_at_once"]
    for outcome in kind["outcomes"]:
        results = [each["result"] for each in outcome["found"] if "result" in each]
        assert results and all(result in kind["alone"] for result in results), outcome
        assert len({str(result) for result in kind["alone"]}) == 1 and outcome["beside"] == ["out"]
        for each in outcome["found"]:
            assert "result" in each or re.search("is in use by process [0-9]+ since", each["error"]), each
