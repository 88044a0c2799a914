import json
import os
import time

import numpy as np
import pytest
import torch
from PIL import Image

from regroup.errors import ConfigError, DataError
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


@pytest.mark.parametrize("damage", ["", "[]", '{"format": 3}', '{"format": [1], "files": {"a": [1]}}', "\0"])
def test_a_damaged_memory_of_the_scan_is_forgotten(damage, tmp_path):
    _make_split(tmp_path)
    load_data(tmp_path)
    memory = scan._memory_of(tmp_path, tmp_path.name)
    assert len(json.loads(memory.read_text())["files"]) == 20
    memory.write_text(damage)
    assert len(load_data(tmp_path).train) == 10
    assert len(json.loads(memory.read_text())["files"]) == 20


def test_a_cache_folder_that_cannot_be_written_only_costs_time(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(load_data(_make_split(tmp_path / "data")).train) == 10


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
    assert [note.split(": ")[1] for note in data.notes] == ["2 .heic, 1 .txt"]


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
