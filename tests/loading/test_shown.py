"""What a network is shown of a data set: the images that it wants, under its own numbers of the classes."""

import re
from dataclasses import replace

import pytest
import torch

from regroup.errors import ConfigError
from regroup.loading import ImageInput
from regroup.loading.shown import shown
from regroup.training.data import Loader, load_data
from tests.data.malformed import encoded, picture

DIGITS = ImageInput.on(load_data("digits"))
NAMES = tuple(map(str, range(10)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of ImageNet's, and images of different sizes."""
    place = tmp_path_factory.mktemp("folder")
    for label in ("n01440764", "n02102040"):
        for n in range(5):
            path = place / label / f"{n}.png"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(encoded(picture(size=(40 + n, 30)), "PNG"))
    return place


def test_what_is_as_the_network_wants_it_is_the_same_bit_for_bit():
    data = load_data("digits")
    found = shown("digits", DIGITS, 10, [NAMES])
    for one, other in zip(Loader(found, 64, train=False), Loader(data, 64, train=False), strict=True):
        assert torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)
    assert found.notes == data.notes


def test_classes_go_by_their_names(monkeypatch):
    turned = shown("digits", DIGITS, 10, [NAMES[::-1]])
    assert torch.equal(turned.test.labels, 9 - load_data("digits").test.labels)
    more = shown("digits", DIGITS, 11, [("none", *NAMES)])
    assert torch.equal(more.test.labels, 1 + load_data("digits").test.labels)
    assert more.notes[-1] == "10 of the network's 11 classes"
    with pytest.raises(ConfigError, match=r"of classes that the network knows \(9\); it has '9'"):
        shown("digits", DIGITS, 9, [NAMES[:9]])
    with pytest.raises(ConfigError, match="it has '0', '1', '2' and 7 more"):
        shown("digits", DIGITS, 10, ["abcdefghij"])
    assert "in the order of the data" in shown("digits", DIGITS, 10, ["abcdefghij"], by_order=True).notes[-1]
    assert "in the order of the data" in shown("digits", DIGITS, 10).notes[-1]
    with pytest.raises(ConfigError, match="of 12 classes, as the network; it has 10"):
        shown("digits", DIGITS, 12)


@pytest.mark.parametrize("crop", ["center", "squash", "border"])
def test_images_are_what_the_network_reads_of_the_files(crop, folder):
    wanted = ImageInput((3, 24, 20), (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), 0.95, crop, "bilinear")
    names = [("a", "b", "c"), ("n02102040", "n03000684", "n01440764")]
    data = shown(str(folder), wanted, 3, names, testing="all")
    assert sorted(data.test.labels.tolist()) == [0] * 5 + [2] * 5 and data.classes == ("a", "b", "c")
    for batch in Loader(data, 4, train=False):
        for image, index in zip(batch.images, batch.indices.tolist(), strict=True):
            # the loader multiplies by the reciprocal: half a step of a pixel tells any two pixels apart
            own = wanted.read(folder / data.test.name(index))[0]
            steps = 255 * torch.tensor(wanted.std)[:, None, None] * (own - image)
            assert steps.abs().max() < 0.5
            assert data.test.labels[index] == (2 if "n01440764" in data.test.name(index) else 0)


def test_images_that_are_shown_otherwise_or_are_others_have_another_hash(folder):
    """Of a folder each image counts, and not some of them as they are shown."""
    some = ImageInput((3, 24, 20), (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), 0.95, "center", "bilinear")
    changes = {"shape": (1, 24, 20), "part": 0.9, "crop": "squash", "resample": "nearest"}

    def digest(wanted=some, names=("n01440764", "n02102040")):
        return shown(str(folder), wanted, 2, [names]).train.digest()

    found = [digest(), *(digest(replace(some, **{name: value})) for name, value in changes.items())]
    found.append(digest(names=("n02102040", "n01440764")))
    assert len(set(found)) == 6 and digest() == found[0]


def test_both_splits_are_all_images_once():
    names = [NAMES]
    data, both = shown("digits", DIGITS, 10, names), shown("digits", DIGITS, 10, names, testing="all")
    count = len(data.train)
    assert len(both.test) == 1797 == count + len(data.test)
    assert torch.equal(both.test.labels, torch.cat([data.train.labels, data.test.labels]))
    order = torch.tensor([1796, 0, count, 1])
    images = torch.cat([data.train.fetch(torch.arange(count)), data.test.fetch(torch.arange(len(data.test)))])
    assert torch.equal(both.test.fetch(order), images[order])


def test_to_be_tested_with_a_folder_needs_nothing_to_train_on(folder, tmp_path):
    wanted, names = ImageInput((1, 8, 8), (0.5,), (0.2,)), [("n01440764", "n02102040")]
    data = shown(str(folder), wanted, 2, names, testing="all")
    assert len(data.test) == 10 and data.notes == ()
    assert len({data.test.name(i) for i in range(10)}) == 10
    assert re.match(r"a fifth of", shown(str(folder), wanted, 2, names, testing="test").notes[0])
    for label in names[0]:  # one image of each class
        path = tmp_path / "few" / label / "a.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(encoded(picture(), "PNG"))
    assert len(shown(str(tmp_path / "few"), wanted, 2, names, testing="all").test) == 2
    (tmp_path / "split").mkdir()
    (tmp_path / "split" / "val").symlink_to(folder)
    for testing in ("test", "all"):
        assert len(shown(str(tmp_path / "split"), wanted, 2, names, testing=testing).test) == 10
    (tmp_path / "split" / "train").symlink_to(tmp_path / "few")
    found = [len(shown(str(tmp_path / "split"), wanted, 2, names, testing=t).test) for t in ("test", "all")]
    assert found == [10, 12]
