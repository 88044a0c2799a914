"""Runs below a URL: the same as on a disk, whole whatever fails when, and one writer's at a time."""

import json
import os
import tempfile
import threading
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from fsspec.implementations.memory import MemoryFile

import regroup
from regroup.errors import CheckpointError, ConfigError, LockedError, MissingPackageError
from regroup.files import lease as leases
from regroup.files import remote
from regroup.files.lease import Lease
from regroup.files.remote import Store, address, plain
from regroup.files.sealed import MANIFEST, verify_sealed
from regroup.files.staging import fetched
from regroup.training import train
from regroup.training.directory import LOCK
from regroup.training.identity import Origin
from tests.stores import Crash, FaultyFileSystem, broken, broken_once, crash, denied
from tests.training.cases import built, config, data, equal

URL = "faulty://bucket/run"
ORIGIN = Origin(document={"kind": "trained"})


@pytest.fixture(autouse=True)
def empty(monkeypatch, tmp_path_factory):
    FaultyFileSystem.empty()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("places")))
    monkeypatch.setattr(remote, "_PAUSES", [0.0, 0.0])
    yield
    FaultyFileSystem.empty()


def trained(output=URL, epochs=2, **changes):
    model = built()
    history = train(model, data(), config(epochs=epochs, output=output, **changes), origin=ORIGIN)
    return model, history


@pytest.fixture(scope="module")
def straight():
    return trained(None)[0]


def names(url=URL):
    return [found.name for found in Store(url).objects()]


def test_a_run_below_a_url_has_the_files_and_weights_of_one_on_a_disk(straight, tmp_path):
    on_disk, _ = trained(tmp_path)
    below, _ = trained()
    assert equal(on_disk, below) and equal(below, straight)
    files = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert files - {LOCK} == set(names())
    for name in files - {LOCK, "run.json", "log.jsonl"}:
        if name.endswith(".safetensors"):
            assert Store(URL).read(name, most=1 << 20) == (tmp_path / name).read_bytes()


def test_file_urls_are_plain_paths(tmp_path, straight):
    model, _ = trained(f"file://{tmp_path}/run")
    assert equal(model, straight) and (tmp_path / "run" / "weights" / MANIFEST).exists()
    assert address(f"file://{tmp_path}") is None and plain(Path(f"file://{tmp_path}")) == tmp_path


def test_urls_survive_being_paths():
    for url in ("s3://bucket/a/b", "gs://bucket/a", "memory://x/y"):
        assert address(Path(url)) == address(url) == url
    assert address("s3/bucket") is None and address("C:/windows") is None
    with pytest.raises(ConfigError, match="fsspec knows no nosuch://"):
        address("nosuch://x/y")
    with pytest.raises(ConfigError, match="one with a bucket and a name"):
        address("s3://")


def test_what_must_be_installed_is_named():
    if find_spec("s3fs"):
        pytest.skip("s3fs is installed")
    with pytest.raises(MissingPackageError, match=r"pip install s3fs, or pip install .torch-regroup\[s3\]"):
        trained("s3://bucket/run")


def test_a_run_goes_on_below_its_url_and_elsewhere(tmp_path):
    trained(epochs=1)
    with pytest.raises(ConfigError, match="say resume to go on with it") as told:
        trained()
    assert f"output='{URL}'" in str(told.value)
    _, history = trained(epochs=3, resume=True)
    assert len(history.epochs) == 3
    assert [n.partition("/")[0] for n in names() if n.startswith("checkpoint") and n.endswith(MANIFEST)] == [
        "checkpoint-000002",
        "checkpoint-000003",
    ]
    lines = Store(URL).read("log.jsonl", most=1 << 20).splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]
    with pytest.raises(ConfigError, match=r"lr=0\.3: must be 0\.05, as in the run to resume"):
        trained(epochs=3, resume=True, lr=0.3)


def test_a_network_is_loaded_from_a_url(tmp_path):
    model = regroup.create_model("resnet_small", num_classes=4, in_chans=1)
    origin = Origin(document=_network().to_json())
    train(model, data(shape=(1, 8, 8)), config(epochs=1, output=URL), origin=origin)
    found = regroup.loaded(URL)
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(found.model(images), model(images))
    assert address(found.path) == f"{URL}/weights"
    assert torch.equal(regroup.load(f"{URL}/best")(images), model(images))
    again = _network().build(weights=Path(URL)).eval()
    assert torch.equal(again(images), model(images))
    with pytest.raises(CheckpointError, match="faulty://bucket/none: there is no such directory"):
        regroup.load("faulty://bucket/none")


def _network():
    from regroup.loading.trained import Trained

    return Trained.on(data(shape=(1, 8, 8)), "resnet_small", {}, None, None)


def look():
    """Require that all that is below the URL is whole, as a reader finds it."""
    with fetched(Path(URL)) as here:
        for folder in here.iterdir() if here.is_dir() else ():
            if folder.is_dir():
                verify_sealed(folder)
        if (log := here / "log.jsonl").exists():
            assert all(json.loads(line) for line in log.read_text().splitlines())


def operations():
    FaultyFileSystem.begin()
    trained()
    count = FaultyFileSystem.seen
    FaultyFileSystem.empty()
    return count


@pytest.mark.parametrize("fault", [crash, denied, broken, broken_once], ids=lambda fault: fault.__name__)
def test_whatever_fails_when_the_run_is_whole_and_goes_on(fault, straight, monkeypatch):
    total, step = operations(), 1 if "REGROUP_FUZZ" in os.environ else 7
    assert total > 40
    monkeypatch.setattr(leases, "LEASE", 0.0)  # the process that crashed here is this one
    for last in range(0, total, step):
        FaultyFileSystem.empty()
        FaultyFileSystem.begin(last, fault)
        try:
            assert equal(trained()[0], straight)
        except Crash:
            assert fault is crash
        except CheckpointError as error:
            assert fault in (denied, broken) and "\n" not in str(error)
            assert str(error).startswith(URL)
            assert ("does not allow" if fault is denied else "no answer") in str(error)
        else:  # the last three (a look, its content, a removal) give the lease back, which expires by itself
            assert fault is broken_once or last >= total - 3
        FaultyFileSystem.begin()
        look()
        model, history = trained(resume=True)
        assert equal(model, straight) and len(history.epochs) == 2
        assert LOCK not in names()


def test_what_could_not_be_published_is_kept_here_and_said():
    FaultyFileSystem.begin(operations() - 20, denied)
    with pytest.raises(CheckpointError, match="what was made until then is kept in ") as told:
        trained()
    kept = Path(str(told.value).rpartition(" ")[2])
    assert verify_sealed(kept / "checkpoint-000002")
    FaultyFileSystem.begin()
    assert len(trained(kept, resume=True)[1].epochs) == 2


def test_two_do_not_write_at_once():
    told = f"{URL}: is in use by process {os.getpid()} on"
    with Lease(Store(URL), LOCK), pytest.raises(LockedError, match=told):
        train(built(), data(), config(output=URL), wait=False)
    assert names() == []


def test_who_waits_goes_on_when_the_other_is_done_and_says_so(monkeypatch, capfd, straight):
    monkeypatch.setattr(leases, "_POLL", 0.01)
    lease = Lease(Store(URL), LOCK)
    lease.__enter__()
    threading.Timer(0.3, lease.release).start()
    assert equal(trained()[0], straight)
    assert f"waiting for process {os.getpid()} on" in capfd.readouterr().err


def test_a_lease_of_a_dead_process_of_this_machine_is_taken_at_once():
    child = os.fork()
    if not child:
        Lease(Store("memory://x/y"), LOCK)
        os._exit(0)
    os.waitpid(child, 0)
    first = Lease(Store(URL), LOCK)
    first._own["pid"] = child
    Store(URL).put(LOCK, first._text(0))
    with Lease(Store(URL), LOCK, wait=False):
        pass


def test_who_was_taken_for_dead_ends_and_publishes_nothing_more(monkeypatch):
    monkeypatch.setattr(leases, "LEASE", 0.0)
    calls = []

    def overtake(result):
        if not calls:
            calls.append(Lease(Store(URL), LOCK))
            assert calls[0].attempt()

    with pytest.raises(CheckpointError, match="has taken it over; what was made until then is kept in"):
        train(built(), data(), config(epochs=3, output=URL), on_epoch=overtake)
    assert not any(name.startswith("checkpoint-000002") for name in names())
    calls[0].release()


def test_a_lease_is_renewed_while_it_is_held(monkeypatch):
    monkeypatch.setattr(leases, "RENEWED", 0.01)
    store = Store(URL)
    with Lease(store, LOCK):
        first = store.read(LOCK, most=1000)
        while store.read(LOCK, most=1000) == first:
            pass
    assert names() == []


def test_names_that_lead_out_of_the_directory_are_refused():
    FaultyFileSystem.store["/bucket/run/../../manifest.json"] = MemoryFile(None, "x", b"1")
    with pytest.raises(CheckpointError, match="has a name that no file of a directory can have"):
        trained(resume=True)


def test_what_others_write_into_the_directory_is_published_at_the_end():
    pytest.importorskip("tensorboard")
    trained(epochs=1, log_tensorboard=True)
    assert any("events.out" in name for name in names())
