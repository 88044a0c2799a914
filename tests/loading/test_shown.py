"""What a network is shown of a data set: the images that it wants, under its own numbers of the classes."""

import re

import pytest
import torch

from regroup.errors import ConfigError
from regroup.loading import ImageInput
from regroup.loading.shown import joined, shown
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
    data = joined(shown(str(folder), wanted, 3, [("a", "b", "c"), ("n02102040", "n03000684", "n01440764")]))
    assert sorted(data.test.labels.tolist()) == [0] * 5 + [2] * 5 and data.classes == ("a", "b", "c")
    for batch in Loader(data, 4, train=False):
        for image, index in zip(batch.images, batch.indices.tolist(), strict=True):
            # the loader multiplies by the reciprocal: half a step of a pixel tells any two pixels apart
            own = wanted.read(folder / data.test.name(index))[0]
            steps = 255 * torch.tensor(wanted.std)[:, None, None] * (own - image)
            assert steps.abs().max() < 0.5
            assert data.test.labels[index] == (2 if "n01440764" in data.test.name(index) else 0)


def test_both_splits_are_all_images_once(folder):
    data = shown(str(folder), ImageInput((1, 8, 8), (0.5,), (0.2,)), 2, [("n01440764", "n02102040")])
    both = joined(data)
    names = [both.test.name(i) for i in range(len(both.test))]
    assert len(names) == len(set(names)) == 10 == len(data.train) + len(data.test)
    order = torch.tensor([9, 0, 5, 1])
    images = torch.cat(
        [data.train.fetch(torch.arange(len(data.train))), data.test.fetch(torch.arange(len(data.test)))]
    )
    assert torch.equal(both.test.fetch(order), images[order])
    assert re.match(r"a fifth of", both.notes[0])
