import errno
import json
import os
import time

import numpy as np
import pytest
import torch
from PIL import Image

from regroup.errors import ConfigError, DataError
from regroup.files.cache import Cache
from regroup.training.data import Augmentation, Loader, load_data, scan
from regroup.training.data.scan import BadImagesError

from .malformed import encoded, picture, readable, special, unreadable


def _make(root, classes=("cat", "dog"), each=5, size=(16, 12)):
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for n in range(each):
            image = Image.new("RGB", size, (100 * label, 20 * n, 200))
            (root / name / f"{n}.png").write_bytes(encoded(image, "PNG"))
    return root


def _make_split(root, **options):
    _make(root / "train", **options)
    _make(root / "val", **options)
    return root


def test_a_folder_with_train_and_val(tmp_path):
    data = load_data(_make_split(tmp_path))
    assert (data.classes, data.shape) == (("cat", "dog"), (3, 12, 16))
    assert len(data.train) == len(data.test) == 10
    image, label = data.train[7]
    assert label == 1 and image[:, 0, 0].tolist() == [100, 40, 200]
    assert data.train.name(7) == "train/dog/2.png"


def test_a_single_folder_sets_a_fifth_of_each_class_aside(tmp_path):
    data = load_data(_make(tmp_path, each=10))
    assert (len(data.train), len(data.test)) == (16, 4)
    assert data.test.labels.bincount().tolist() == [2, 2]
    names = {split.name(i) for split in (data.train, data.test) for i in range(len(split))}
    assert len(names) == 20 and any("set aside" in note for note in data.notes)
    again = load_data(tmp_path)
    assert [again.test.name(i) for i in range(4)] == [data.test.name(i) for i in range(4)]


@pytest.mark.parametrize("test", ["test", "valid", "validation"])
def test_other_names_of_the_test_split(test, tmp_path):
    _make_split(tmp_path)
    (tmp_path / "val").rename(tmp_path / test)
    assert len(load_data(tmp_path).test) == 10


def test_val_is_preferred_to_test_and_says_so(tmp_path):
    _make(_make_split(tmp_path) / "test")
    data = load_data(tmp_path)
    assert data.test.name(0).startswith("val") and "'test' is left unused" in data.notes[0]


def test_image_and_channels_are_what_was_asked_for(tmp_path):
    data = load_data(_make_split(tmp_path), image=(20, 30), channels=1)
    assert data.train[0][0].shape == data.shape == (1, 20, 30)
    with pytest.raises(ConfigError, match="channels=2"):
        load_data(tmp_path, channels=2)


def test_images_of_different_sizes_become_224(tmp_path):
    _make_split(tmp_path)
    (tmp_path / "train" / "cat" / "x.png").write_bytes(encoded(picture(), "PNG"))
    assert load_data(tmp_path).shape == (3, 224, 224)


def test_every_bad_image_is_listed_in_one_error(tmp_path):
    _make_split(tmp_path)
    bad = unreadable()
    for name, contents in bad.items():
        (tmp_path / "train" / "dog" / name).write_bytes(contents)
    specials = special(tmp_path / "val" / "cat")
    with pytest.raises(BadImagesError) as error:
        load_data(tmp_path)
    expected = {f"train/dog/{name}" for name in bad}
    expected |= {f"val/cat/{name}" for name in specials}
    assert error.value.images.keys() == expected
    assert all(repr(name) in str(error.value) for name in expected)


def test_long_lists_of_bad_images_end_with_their_number(tmp_path):
    _make_split(tmp_path)
    for n in range(50):
        (tmp_path / "train" / "dog" / f"bad{n:02}.png").write_bytes(b"x")
    with pytest.raises(BadImagesError, match=r"50 images cannot be used(.|\n)*and 10 more") as error:
        load_data(tmp_path)
    assert len(error.value.images) == 50


def test_bad_images_are_skipped_counted_and_noted(tmp_path):
    _make_split(tmp_path)
    for name, contents in (unreadable() | readable()).items():
        (tmp_path / "train" / "dog" / name).write_bytes(contents)
    data = load_data(tmp_path, bad_images="skip", image=16)
    assert len(data.train) == 10 + len(readable())
    bad, all_images = len(unreadable()), 20 + len(unreadable()) + len(readable())
    assert any(f"{bad} of {all_images} images cannot be read and are skipped" in note for note in data.notes)
    assert data.train.fetch(torch.arange(len(data.train))).shape[1:] == (3, 16, 16)
    assert [b.images.isfinite().all().item() for b in Loader(data, 8).batches()]


def test_the_second_scan_decodes_only_what_has_changed(tmp_path, monkeypatch):
    _make_split(tmp_path)
    decoded = []
    inspect = scan.inspect_image
    monkeypatch.setattr(scan, "inspect_image", lambda path: decoded.append(path) or inspect(path))
    load_data(tmp_path)
    assert len(decoded) == 20
    decoded.clear()
    load_data(tmp_path)
    assert not decoded
    changed = tmp_path / "val" / "cat" / "3.png"
    changed.write_bytes(b"damaged")
    with pytest.raises(BadImagesError):
        load_data(tmp_path)
    assert decoded == [changed]
    decoded.clear()
    with pytest.raises(BadImagesError):
        load_data(tmp_path)
    assert not decoded


def _scan_kept(cache=None):
    """Return the file in which the only scan is remembered."""
    (path,) = (cache or Cache.default()).folder.iterdir()
    return path


def _damaged_rows():
    """Yield what a scan of two files would never be remembered as."""
    good = [10, 1, 2, 3, 12, 16, "", "0a"]
    assert scan._recall(json.dumps({"a": good}).encode())
    for at, wrong in [
        (0, "10"),
        (1, None),
        (2, 1.5),
        (3, True),
        (4, 0),
        (4, -3),
        (5, [16]),
        (6, None),
        (6, 1),
        (7, 1),
    ]:
        yield {"a": good, "b": [*good[:at], wrong, *good[at + 1 :]]}
    yield from ({"a": good, "b": row} for row in (good[:-1], [*good, 1], None, "text", {"c": 1}))
    yield from ([], [good], "text", None, 3)


@pytest.mark.parametrize("rows", _damaged_rows(), ids=str)
def test_a_scan_of_wrong_types_is_forgotten_as_a_whole(rows):
    assert scan._recall(json.dumps(rows).encode()) == {}


@pytest.mark.parametrize("entry", [b"", b"\xff", b"{", b"[" * 100_000, b'{"a": NaN}', b"9" * 5000])
def test_a_scan_that_is_no_text_is_forgotten(entry):
    assert scan._recall(entry) == {}


def test_a_scan_that_another_could_have_written_is_not_believed(tmp_path):
    """The size of an image decides the size of the network: a digit changed would go unnoticed."""
    data = load_data(_make_split(tmp_path))
    path = _scan_kept()
    whole = path.read_bytes()
    digits = [i for i in range(len(whole)) if whole[i : i + 4] == b",16,"]
    assert len(digits) == 20
    for at in digits[::7]:
        path.write_bytes(whole[:at] + b",18," + whole[at + 4 :])
        assert load_data(tmp_path).shape == data.shape and _scan_kept().read_bytes() == whole
    path.chmod(0o666)
    assert load_data(tmp_path).shape == data.shape
    assert _scan_kept().stat().st_mode & 0o777 == 0o600


def test_a_scan_follows_no_link_and_waits_for_no_pipe(tmp_path):
    load_data(_make_split(tmp_path / "data"))
    path, victim = _scan_kept(), tmp_path / "victim"
    victim.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(victim)
    load_data(tmp_path / "data")
    assert not path.is_symlink() and victim.read_bytes() == path.read_bytes()
    path.unlink()
    os.mkfifo(path)
    load_data(tmp_path / "data")
    assert path.is_file()


@pytest.mark.parametrize("way", ["written", "renamed over", "exchanged"])
def test_an_image_exchanged_under_the_same_name_size_and_time_is_looked_at_again(way, tmp_path):
    cat = _make_split(tmp_path / "data") / "train" / "cat"
    bad = bytearray((cat / "0.png").read_bytes())
    bad[len(bad) // 2] ^= 1
    (tmp_path / "other.png").write_bytes(bad)
    load_data(tmp_path / "data")
    before = (cat / "0.png").stat()
    if way == "written":
        (cat / "0.png").write_bytes(bad)
    elif way == "renamed over":
        (tmp_path / "other.png").replace(cat / "0.png")
    else:
        (cat / "0.png").rename(tmp_path / "aside.png")
        (tmp_path / "other.png").rename(cat / "0.png")
    os.utime(cat / "0.png", ns=(before.st_atime_ns, before.st_mtime_ns))
    after = (cat / "0.png").stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    with pytest.raises(BadImagesError, match="1 image cannot be used"):
        load_data(tmp_path / "data")


def test_what_the_system_could_not_read_is_tried_again(tmp_path, monkeypatch):
    """Too many open files, no permission, a cable: the file is not to blame, and has not changed after."""
    path = str(_make_split(tmp_path) / "train" / "cat" / "0.png")
    opened = os.open

    def failing(name, *arguments, **options):
        if os.fspath(name) == path:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)
        return opened(name, *arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(BadImagesError, match="Too many open files"):
        patch.setattr(os, "open", failing)
        load_data(tmp_path)
    assert len(load_data(tmp_path).train) == 10


def test_images_changed_right_after_each_scan_are_always_noticed(tmp_path):
    """Within one tick of the file system's clock nothing but the content differs."""
    path = _make_split(tmp_path) / "train" / "cat" / "0.png"
    good = path.read_bytes()
    bad = bytearray(good)
    bad[len(bad) // 2] ^= 1
    for _ in range(20):
        path.write_bytes(bad)
        with pytest.raises(BadImagesError):
            load_data(tmp_path)
        path.write_bytes(good)
        load_data(tmp_path)


def test_a_cache_folder_that_cannot_be_written_only_costs_time_and_says_so(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    _make_split(tmp_path / "data")
    assert [len(load_data(tmp_path / "data").train) for _ in range(2)] == [10, 10]
    (record,) = caplog.records
    assert "Not a directory" in record.getMessage() and "REGROUP_CACHE" in record.getMessage()


def test_an_empty_class_is_named(tmp_path):
    (_make_split(tmp_path) / "train" / "empty class").mkdir()
    with pytest.raises(DataError, match="no usable training image of 'empty class'"):
        load_data(tmp_path)


def test_a_class_whose_images_are_all_bad_is_named(tmp_path):
    (_make_split(tmp_path) / "train" / "worm").mkdir()
    (tmp_path / "train" / "worm" / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match="'worm'"):
        load_data(tmp_path, bad_images="skip")


def test_a_class_that_only_the_test_split_has_is_named(tmp_path):
    _make(_make_split(tmp_path) / "val", classes=("yak",))
    with pytest.raises(DataError, match="classes that 'train' lacks: 'yak'"):
        load_data(tmp_path)


@pytest.mark.parametrize(
    ("folders", "complaint"),
    [
        ([], "has no sub-folder"),
        (["train/cat"], "none of 'val'"),
        (["train", "val"], "no images|no classes|one class"),
        (["cat", "dog"], "no usable training image of 'cat', 'dog'"),
    ],
)
def test_wrong_layouts_are_explained(folders, complaint, tmp_path):
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(DataError, match=complaint):
        load_data(tmp_path)


def test_litter_is_ignored_and_other_files_are_counted(tmp_path):
    cat = _make_split(tmp_path) / "train" / "cat"
    for name in (".DS_Store", "._0.png", "Thumbs.db"):
        (cat / name).write_bytes(b"litter")
    for name in ("notes.txt", "a.heic", "b.heic"):
        (cat / name).write_bytes(b"?")
    data = load_data(tmp_path)
    assert len(data.train) == 10
    (note,) = data.notes
    assert note.split(": ")[1] == "2 .heic ('cat/a.heic', ...), 1 .txt ('cat/notes.txt')"


def test_a_class_of_files_that_are_passed_over_by_their_names_says_which(tmp_path):
    """Contents decide the format, but names decide what is an image."""
    dog = _make_split(tmp_path) / "train" / "dog"
    for n, path in enumerate(sorted(dog.iterdir())):
        path.rename(path.with_suffix([".HEIC", "", ".jp_g", ".png~", ".txt"][n]))
    with pytest.raises(
        DataError, match=r"no usable training image of 'dog'.*1 \.heic \('dog.0\.HEIC'\)"
    ) as error:
        load_data(tmp_path)
    assert all(repr(f"dog/{path.name}") in str(error.value) for path in dog.iterdir())
    (dog / "a.jfif").write_bytes(encoded(picture(), "JPEG"))
    (dog / "b.JPE").write_bytes(encoded(picture(), "JPEG"))
    assert len(load_data(tmp_path).train) == 7


def test_images_lie_in_folders_of_a_class_and_links_in_circles_end(tmp_path):
    cat = _make_split(tmp_path) / "train" / "cat"
    (cat / "more").mkdir()
    (cat / "0.png").rename(cat / "more" / "deep.png")
    (cat / "more" / "back").symlink_to(cat)
    assert len(load_data(tmp_path).train) == 10


def _break(path):
    path.write_bytes(b"gone")


def test_an_image_that_breaks_after_the_scan_is_named(tmp_path):
    data = load_data(_make_split(tmp_path))
    _break(tmp_path / "train" / "dog" / "2.png")
    with pytest.raises(DataError, match=r"dog.2\.png: cannot be recognised"):
        data.train[7]


@pytest.mark.parametrize("workers", [0, 2])
def test_with_skip_another_image_of_the_class_stands_in_and_is_reported(workers, tmp_path):
    data = load_data(_make_split(tmp_path), bad_images="skip")
    _break(tmp_path / "train" / "dog" / "4.png")
    loader = Loader(data, 10, workers=workers, augmentation=Augmentation("timm", scale=(1.0, 1.0)))
    batch = next(loader.batches())
    row = batch.indices.tolist().index(9)
    pixel = batch.images[row, :, 6, 6] * torch.tensor(data.std) + torch.tensor(data.mean)
    assert (255 * pixel).round().tolist() == [100, 0, 200]  # dog/0.png, the next after dog/4.png
    assert list(data.train.replaced) == ["train/dog/4.png"]


def test_a_class_without_a_readable_image_left_stops_training(tmp_path):
    data = load_data(_make_split(tmp_path), bad_images="skip")
    for n in range(5):
        _break(tmp_path / "train" / "dog" / f"{n}.png")
    with pytest.raises(DataError, match=r"dog.2\.png"):
        data.train.picture(7)


def test_paths_that_are_no_folders(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        load_data(tmp_path / "nothing")
    with pytest.raises(DataError, match="no such folder"):
        load_data("./nothing")


def test_an_unchanged_folder_is_not_decoded_again(tmp_path, monkeypatch):
    _make_split(tmp_path, each=100)
    load_data(tmp_path)
    monkeypatch.setattr(scan, "inspect_image", None)
    assert len(load_data(tmp_path).train) == 200


def test_names_that_are_no_text_are_kept(tmp_path):
    _make_split(tmp_path)
    name = os.fsdecode(b"\xff\xfe.png")
    (tmp_path / "train" / "cat" / name).write_bytes(encoded(picture(), "PNG"))
    data = load_data(tmp_path, image=16)
    assert f"train/cat/{name}" in {data.train.name(i) for i in range(11)}
    assert len(load_data(tmp_path, image=16).train) == 11


def test_a_file_of_the_same_size_written_later_is_looked_at_again(tmp_path):
    path = _make_split(tmp_path) / "train" / "cat" / "0.png"
    load_data(tmp_path)
    contents = bytearray(path.read_bytes())
    contents[len(contents) // 2] ^= 1
    path.write_bytes(contents)
    os.utime(path, ns=(time.time_ns(), time.time_ns() + 1))
    with pytest.raises(BadImagesError, match="1 image cannot be used"):
        load_data(tmp_path)


def test_evaluated_images_are_what_torchvision_would_give(tmp_path):
    from torchvision.datasets import ImageFolder

    data = load_data(_make_split(tmp_path))
    theirs = ImageFolder(tmp_path / "train")
    assert theirs.classes == list(data.classes)
    for i, (image, label) in enumerate(theirs):
        assert label == data.train[i][1]
        assert np.array_equal(np.asarray(image), data.train[i][0].permute(1, 2, 0))


def test_a_listed_name_that_no_file_can_have_is_a_bad_image(tmp_path):
    """Lists of data sets may be damaged."""
    facts = scan.scan(tmp_path, ["a\0b.png", "\ud800.png"], "a list")
    assert all(fact.problem and fact.size == (0, 0) for fact in facts)
