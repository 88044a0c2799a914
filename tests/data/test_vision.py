"""torchvision's data sets, laid out by hand as the error message says; the pixels are made up."""

import bz2
import os

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torchvision import datasets

from regroup.errors import DataError, UnknownNameError
from regroup.training.data import data_sets, load_data, vision

from .vision_layouts import LAYOUTS, emnist, food101, mnist, no_hashes, usps

FILES = {
    "food101": ((4, 2), 2),
    "flowers102": ((102, 2), 102),
    "pets": ((6, 6), 2),
    "dtd": ((6, 6), 2),
    "aircraft": ((3, 3), 2),
    "gtsrb": ((6, 2), 2),
    "imagenette": ((6, 6), 2),
}


@pytest.mark.parametrize("name", FILES)
def test_sets_of_files_are_read_from_where_the_message_says(name, tmp_path):
    counts, classes = FILES[name]
    LAYOUTS[name](tmp_path)
    with no_hashes():
        data = load_data(name, image=16, root=tmp_path)
    assert ((len(data.train), len(data.test)), len(data.classes)) == (counts, classes)
    assert data.train[0][0].shape == (3, 16, 16) and data.name == name
    assert all(isinstance(label, str) for label in data.classes)
    assert data.train.labels.unique().tolist()[:2] == [0, 1]


def test_bad_files_of_a_set_of_torchvision_are_named(tmp_path):
    food101(tmp_path)
    (tmp_path / "food-101" / "images" / "pie" / "2.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"food-101/images/pie/2\.jpg': is empty"):
        load_data("food101", root=tmp_path)
    assert len(load_data("food101", root=tmp_path, bad_images="skip").train) == 3


@pytest.mark.parametrize(
    ("name", "file", "change"),
    [
        ("mnist", "MNIST/raw/train-labels-idx1-ubyte", lambda old: old[:-1] + b"\xff"),
        ("mnist", "MNIST/raw/train-labels-idx1-ubyte", lambda old: old[:4]),
        ("mnist", "MNIST/raw/t10k-images-idx3-ubyte", lambda old: old[:3] + b"\1" + old[4:]),
        ("emnist", "EMNIST/raw/emnist-balanced-test-images-idx3-ubyte", lambda old: b""),
        ("usps", "usps.t.bz2", lambda old: b""),
        ("usps", "usps.t.bz2", lambda old: bz2.compress(b"200 1:1")),
        ("usps", "usps.bz2", None),
        ("pets", "oxford-iiit-pet/annotations/test.txt", lambda old: old.replace(b" 1 1 1", b" 7 1 1")),
        ("pets", "oxford-iiit-pet/annotations/test.txt", None),
        ("aircraft", "fgvc-aircraft-2013b/data/variants.txt", lambda old: b"DC 3"),
    ],
)
def test_damaged_labels_and_pixels_of_a_set_of_torchvision_are_one_error(name, file, change, tmp_path):
    LAYOUTS[name](tmp_path)
    path = tmp_path / file
    content = path.read_bytes()
    if change is None:
        path.unlink()
        os.mkfifo(path)
    else:
        path.write_bytes(change(content))
    with pytest.raises(DataError, match="is missing or damaged"):
        load_data(name, image=16, root=tmp_path)


@pytest.mark.parametrize(
    ("name", "make", "shape"),
    [
        ("mnist", mnist, (1, 28, 28)),
        ("fashionmnist", lambda root: mnist(root, "FashionMNIST"), (1, 28, 28)),
        ("kmnist", lambda root: mnist(root, "KMNIST"), (1, 28, 28)),
        ("emnist", emnist, (1, 28, 28)),
        ("usps", usps, (1, 16, 16)),
    ],
)
def test_sets_in_memory_are_read_from_where_the_message_says(name, make, shape, tmp_path):
    make(tmp_path)
    data = load_data(name, root=tmp_path)
    assert data.shape == shape and data.train.in_memory
    assert load_data(name, image=(20, 24), root=tmp_path).test[0][0].shape == (1, 20, 24)


@pytest.mark.parametrize(
    ("name", "shape", "labels"),
    [
        ("cifar10", (6, 32, 32, 3), "targets"),
        ("cifar100", (6, 32, 32, 3), "targets"),
        ("svhn", (6, 3, 32, 32), "labels"),
        ("stl10", (6, 3, 96, 96), "labels"),
        ("usps", (6, 16, 16), "targets"),
    ],
)
def test_images_in_memory_are_those_that_torchvision_shows(name, shape, labels, monkeypatch):
    kind = getattr(datasets, vision._ARRAYS[name].type)
    theirs = kind.__new__(kind)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    vars(theirs).update({"data": pixels, labels: list(range(6)), "transform": None, "target_transform": None})
    monkeypatch.setattr(datasets, kind.__name__, lambda *_, **__: theirs)
    ours = load_data(name).train
    for (image, label), (shown, number) in zip(ours, theirs, strict=False):
        assert label == number
        assert np.array_equal(np.asarray(ours.picture(label)), np.asarray(shown))
        assert np.array_equal(image.permute(1, 2, 0).squeeze(), np.asarray(shown))


def test_letters_of_emnist_stand_upright(tmp_path):
    emnist(tmp_path)
    raw = np.arange(28 * 28).reshape(28, 28).astype(np.uint8)
    assert np.array_equal(load_data("emnist", root=tmp_path).train[0][0][0], raw.T)


@pytest.mark.parametrize("name", sorted(vision._ARRAYS | vision._PICTURES))
def test_what_is_missing_says_what_to_place_where(name, tmp_path):
    source = (vision._ARRAYS | vision._PICTURES)[name]
    root = tmp_path / "not there"
    with pytest.raises(DataError) as error:
        load_data(name, root=root)
    assert f"put by hand below {root}: {source.place}" in str(error.value)
    assert "--download" in str(error.value) and not root.exists()


def test_a_download_that_fails_says_why_and_what_to_place_where(tmp_path, monkeypatch):
    def no_network(root, download, train):
        raise OSError("no network")

    monkeypatch.setattr(datasets, "CIFAR10", no_network)
    complaint = r"cannot be downloaded \(no network\); put by hand below .*cifar-10-batches-py"
    with pytest.raises(DataError, match=complaint):
        load_data("cifar10", root=tmp_path, download=True)


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'cifar10' or 'cifar100'"):
        load_data("cifar")


def test_digits_are_those_of_scikit_learn_and_split_evenly():
    data = load_data()
    assert (data.name, data.shape, len(data.train) + len(data.test)) == ("digits", (1, 8, 8), 1797)
    images = torch.cat([split.images for split in (data.train, data.test)])
    theirs = torch.from_numpy(load_digits().images)
    ours = (images[:, 0].double() * 16 / 255).round()
    assert torch.equal(ours.flatten(1).sort(0).values, theirs.flatten(1).sort(0).values)
    counts = [torch.bincount(labels) for labels in (data.test.labels, torch.tensor(load_digits().target))]
    assert all(0.19 < share < 0.21 for share in counts[0] / counts[1])


def test_the_registry_lists_what_there_is():
    assert {"digits", "glyphs", "cifar10", "food101"} <= set(data_sets)
