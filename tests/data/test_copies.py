"""Data sets below a URL: as on a disk, copied once, and right whatever fails or changes meanwhile."""

import json
import threading

import pytest
from PIL import Image

from regroup.errors import DataError
from regroup.files import copies, remote
from regroup.files.remote import Store
from regroup.training import load_data
from regroup.training.data import from_anywhere
from regroup.training.identity import describe_data
from tests.stores import Crash, FaultyFileSystem, broken, broken_once, crash, denied

URL = "faulty://bucket/flowers"


@pytest.fixture(autouse=True)
def empty(monkeypatch, tmp_path):
    FaultyFileSystem.empty()
    monkeypatch.setattr(remote, "_PAUSES", [0.0, 0.0])
    monkeypatch.setenv("REGROUP_DATA", str(tmp_path / "copies"))
    monkeypatch.setattr(copies, "_AT_ONCE", 1)
    yield
    FaultyFileSystem.empty()


def folder(path, count=3):
    for split in ("train", "val"):
        for label, name in enumerate(("rose", "tulip")):
            (path / split / name).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (8, 8), (90 * label, 40 * i, 7)).save(path / split / name / f"{i}.png")
    return path


def uploaded(path, url=URL):
    store = Store(url)
    for file in sorted(path.rglob("*")):
        if file.is_file():
            store.put_file(file.relative_to(path).as_posix(), file)
    return url


@pytest.fixture
def flowers(tmp_path):
    return folder(tmp_path / "flowers")


def test_a_folder_below_a_url_is_the_data_set_that_it_is_on_a_disk(flowers):
    assert describe_data(load_data(uploaded(flowers))) == describe_data(load_data(flowers))
    assert describe_data(load_data(f"file://{flowers}")) == describe_data(load_data(flowers))
    assert from_anywhere(URL) == URL and from_anywhere(f"file://{flowers}") == str(flowers)


def test_memory_urls_are_read_likewise(flowers):
    url = uploaded(flowers, "memory://test-copies/flowers")
    assert describe_data(load_data(url)) == describe_data(load_data(flowers))


def test_masks_and_boxes_are_read_likewise(tmp_path):
    for split in ("train", "val"):
        for kind, mode in (("images", "RGB"), ("masks", "L")):
            (tmp_path / "masks" / split / kind).mkdir(parents=True)
            for i in range(2):
                Image.new(mode, (8, 8), i).save(tmp_path / "masks" / split / kind / f"{i}.png")
        here = tmp_path / "boxes" / split
        here.mkdir(parents=True)
        Image.new("RGB", (16, 16)).save(here / "0.png")
        images = [{"id": 1, "file_name": "0.png", "height": 16, "width": 16}]
        boxes = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 2, 8, 8], "area": 64, "iscrowd": 0}]
        document = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]}
        (here / "_annotations.coco.json").write_text(json.dumps(document))
    for name, task in (("masks", "segment"), ("boxes", "detect")):
        url = uploaded(tmp_path / name, f"faulty://bucket/{name}")
        below, here = load_data(url, 16, task=task), load_data(tmp_path / name, 16, task=task)
        assert describe_data(below) == describe_data(here)


def test_only_what_is_new_or_changed_is_fetched_again_and_what_is_gone_goes(flowers, capsys):
    load_data(uploaded(flowers))
    assert "copying 12 of 12 files" in capsys.readouterr().err
    load_data(URL)
    assert capsys.readouterr().err == ""
    changed = flowers / "train" / "rose" / "0.png"
    Image.new("RGB", (8, 8), (1, 2, 3)).save(changed)
    Store(URL).put_file("train/rose/0.png", changed)
    Store(URL).remove("train/rose/1.png")
    (flowers / "train" / "rose" / "1.png").unlink()
    assert describe_data(load_data(URL)) == describe_data(load_data(flowers))
    assert "copying 1 of 11 files" in capsys.readouterr().err
    here = copies.copied(URL)
    (here / "val" / "tulip" / "2.png").write_bytes(b"changed here")
    (here / "val" / "tulip" / "mine.png").write_bytes(b"put here")
    assert describe_data(load_data(URL)) == describe_data(load_data(flowers))


@pytest.mark.parametrize("fault", [crash, denied, broken, broken_once], ids=lambda fault: fault.__name__)
def test_whatever_fails_when_the_next_start_has_the_whole_data_set(fault, flowers, monkeypatch, tmp_path):
    uploaded(flowers)
    real = FaultyFileSystem._before
    monkeypatch.setattr(
        FaultyFileSystem,
        "_before",
        lambda self, name: (setattr(FaultyFileSystem, "thread", threading.get_ident()), real(self, name)),
    )
    for last in range(13):  # a listing, and twelve files
        monkeypatch.setenv("REGROUP_DATA", str(tmp_path / f"copies {last}"))
        FaultyFileSystem.begin(last, fault)
        try:
            copies.copied(URL)
        except Crash:
            assert fault is crash
        except DataError as error:
            assert fault in (denied, broken) and "\n" not in str(error) and str(error).startswith(URL)
        else:
            assert fault is broken_once
        FaultyFileSystem.begin()
        here = copies.copied(URL)
        files = [file for file in flowers.rglob("*") if file.is_file()]
        assert all((here / f.relative_to(flowers)).read_bytes() == f.read_bytes() for f in files)
        assert sum(file.is_file() for file in here.rglob("*")) == 12


def test_what_cannot_be_had_is_one_clear_line(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=f"{URL}: there is no object below this URL"):
        load_data(URL)
    Store(URL).put("train/../../../x.png", b"1")
    FaultyFileSystem.store["/bucket/flowers/../../x.png"] = FaultyFileSystem.store.popitem()[1]
    with pytest.raises(DataError, match="has a name that no file of a directory can have"):
        load_data(URL)
    FaultyFileSystem.empty()
    Store(URL).put("a/1.png", b"1" * 1000)
    monkeypatch.setattr(copies, "free_bytes", lambda folder: 100)
    with pytest.raises(DataError, match="set REGROUP_DATA to a folder with more room"):
        load_data(URL)
    monkeypatch.delenv("REGROUP_DATA")
    monkeypatch.setenv("REGROUP_CACHE", "")
    with pytest.raises(DataError, match="set REGROUP_DATA to a folder"):
        load_data(URL)


def test_a_damaged_index_costs_time_and_nothing_else(flowers):
    here = copies.copied(uploaded(flowers))
    (here.parent / "index").write_bytes(b'["train/rose/0.png", 1]\nnot json\n[[]]\n')
    assert describe_data(load_data(URL)) == describe_data(load_data(flowers))


def test_images_below_a_url_have_the_limits_of_any_other(flowers):
    (flowers / "train" / "rose" / "0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"train/rose/0.png"):
        load_data(uploaded(flowers))
