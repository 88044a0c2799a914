"""torchvision's data sets, laid out by hand as the error message says; the pixels are made up."""

import bz2
import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat
from sklearn.datasets import load_digits
from torchvision import datasets

from regroup.errors import DataError, UnknownNameError
from regroup.training.data import data_sets, load_data, vision

from .malformed import encoded, picture

JPEG, PPM = encoded(picture(), "JPEG"), encoded(picture(), "PPM")


def _write(path, contents):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(contents if isinstance(contents, bytes) else contents.encode())


def _idx(array) -> bytes:
    sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def _mnist(root, folder="MNIST", names=("train-{}", "t10k-{}")):
    for count, name in zip((20, 10), names, strict=True):
        pixels = np.arange(count * 28 * 28).reshape(count, 28, 28).astype(np.uint8)
        raw = root / folder / "raw"
        _write(raw / name.format("images-idx3-ubyte"), _idx(pixels))
        _write(raw / name.format("labels-idx1-ubyte"), _idx(np.arange(count, dtype=np.uint8) % 10))


def _emnist(root):
    names = tuple(f"emnist-balanced-{which}-{{}}" for which in ("train", "test"))
    _mnist(root, "EMNIST", names)


def _usps(root):
    line = "3 " + " ".join(f"{n}:{(n - 128) / 128}" for n in range(1, 257))
    for name, count in (("usps.bz2", 4), ("usps.t.bz2", 2)):
        _write(root / name, bz2.compress("\n".join([line] * count).encode()))


def _food101(root):
    for split, names in (("train", ("1", "2")), ("test", ("3",))):
        listed = {kind: [f"{kind}/{name}" for name in names] for kind in ("pie", "soup")}
        _write(root / "food-101" / "meta" / f"{split}.json", json.dumps(listed))
        for name in (name for names in listed.values() for name in names):
            _write(root / "food-101" / "images" / f"{name}.jpg", JPEG)


def _flowers102(root):
    base = root / "flowers-102"
    for n in range(1, 107):
        _write(base / "jpg" / f"image_{n:05}.jpg", JPEG)
    savemat(base / "imagelabels.mat", {"labels": np.arange(106) % 102 + 1})
    parts = {"trnid": range(1, 103), "valid": [103, 104], "tstid": [105, 106]}
    savemat(base / "setid.mat", {part: np.array(numbers) for part, numbers in parts.items()})


def _pets(root):
    base = root / "oxford-iiit-pet"
    for split in ("trainval", "test"):
        lines = [f"{kind}_{n} {label} 1 1" for label, kind in ((1, "Big_cat"), (2, "pug")) for n in range(3)]
        _write(base / "annotations" / f"{split}.txt", "\n".join(f"{split}_{line}" for line in lines))
        for line in lines:
            _write(base / "images" / f"{split}_{line.split()[0]}.jpg", JPEG)


def _dtd(root):
    base = root / "dtd" / "dtd"
    for split in ("train", "test"):
        names = [f"{kind}/{split}{n}.jpg" for kind in ("dotted", "zigzag") for n in range(3)]
        _write(base / "labels" / f"{split}1.txt", "\n".join(names))
        for name in names:
            _write(base / "images" / name, JPEG)


def _aircraft(root):
    base = root / "fgvc-aircraft-2013b" / "data"
    _write(base / "variants.txt", "707-320\nDC 3\n")
    for split in ("trainval", "test"):
        lines = [f"{split}{n} {kind}" for n, kind in enumerate(("707-320", "DC 3", "DC 3"))]
        _write(base / f"images_variant_{split}.txt", "\n".join(lines))
        for line in lines:
            _write(base / "images" / f"{line.split()[0]}.jpg", JPEG)


def _gtsrb(root):
    base = root / "gtsrb"
    for label in ("00000", "00001"):
        for n in range(3):
            _write(base / "GTSRB" / "Training" / label / f"{n}.ppm", PPM)
    with (base / "GT-final_test.csv").open("w") as file:
        rows = csv.writer(file, delimiter=";")
        rows.writerows([["Filename", "ClassId"], ["0.ppm", "0"], ["1.ppm", "1"]])
    for n in range(2):
        _write(base / "GTSRB" / "Final_Test" / "Images" / f"{n}.ppm", PPM)


def _imagenette(root):
    for split in ("train", "val"):
        for kind in ("n01440764", "n02102040"):
            for n in range(3):
                _write(root / "imagenette2-160" / split / kind / f"{n}.JPEG", JPEG)


FILES = {
    "food101": (_food101, (4, 2), 2),
    "flowers102": (_flowers102, (102, 2), 102),
    "pets": (_pets, (6, 6), 2),
    "dtd": (_dtd, (6, 6), 2),
    "aircraft": (_aircraft, (3, 3), 2),
    "gtsrb": (_gtsrb, (6, 2), 2),
    "imagenette": (_imagenette, (6, 6), 2),
}


def _no_hashes(monkeypatch):
    """torchvision compares some files with published hashes, which made-up ones cannot have."""
    monkeypatch.setattr(
        "torchvision.datasets.flowers102.check_integrity", lambda path, md5: Path(path).exists()
    )


@pytest.mark.parametrize("name", FILES)
def test_sets_of_files_are_read_from_where_the_message_says(name, tmp_path, monkeypatch):
    make, counts, classes = FILES[name]
    _no_hashes(monkeypatch)
    make(tmp_path)
    data = load_data(name, image=16, root=tmp_path)
    assert ((len(data.train), len(data.test)), len(data.classes)) == (counts, classes)
    assert data.train[0][0].shape == (3, 16, 16) and data.name == name
    assert all(isinstance(label, str) for label in data.classes)
    assert data.train.labels.unique().tolist()[:2] == [0, 1]


def test_bad_files_of_a_set_of_torchvision_are_named(tmp_path):
    _food101(tmp_path)
    _write(tmp_path / "food-101" / "images" / "pie" / "2.jpg", b"")
    with pytest.raises(DataError, match=r"food-101/images/pie/2\.jpg': is empty"):
        load_data("food101", root=tmp_path)
    assert len(load_data("food101", root=tmp_path, bad_images="skip").train) == 3


@pytest.mark.parametrize(
    ("name", "make", "shape"),
    [
        ("mnist", _mnist, (1, 28, 28)),
        ("fashionmnist", lambda root: _mnist(root, "FashionMNIST"), (1, 28, 28)),
        ("kmnist", lambda root: _mnist(root, "KMNIST"), (1, 28, 28)),
        ("emnist", _emnist, (1, 28, 28)),
        ("usps", _usps, (1, 16, 16)),
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
    _emnist(tmp_path)
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
