import numpy as np
import pytest
import torch

from regroup.errors import ConfigError
from regroup.training.data import Augmentation
from regroup.training.data.randomness import Dice


def _images(count=40, channels=3, height=16, width=24):
    return torch.rand(count, channels, height, width)


def _dice(count=40, seed=0):
    return Dice(seed, np.arange(count))


def test_no_augmentation_changes_nothing():
    images = _images()
    assert Augmentation().of_batch(images, _dice()) is images


def test_the_images_given_are_left_as_they_are():
    images = _images()
    before = images.clone()
    for kind in ("affine", "crop"):
        Augmentation(kind, flip=0.5).of_batch(images, _dice())
    assert torch.equal(images, before)


def test_a_crop_is_a_shift_by_whole_pixels_reflected_at_the_border_and_perhaps_mirrored():
    images = _images(height=16, width=24)
    varied = Augmentation("crop", flip=0.5).of_batch(images, _dice())
    # reflection about the border of a pixel repeats that pixel, as numpy's "symmetric" padding does
    padded = torch.from_numpy(np.pad(images.numpy(), ((0, 0), (0, 0), (2, 2), (3, 3)), mode="symmetric"))
    found = set()
    for image, whole in zip(varied, padded, strict=True):
        matches = [
            (y, x, mirrored)
            for y in range(5)
            for x in range(7)
            for mirrored in (False, True)
            if torch.equal(image, _cut(whole, y, x, mirrored))
        ]
        assert len(matches) == 1
        found.update(matches)
    assert {y for y, _, _ in found} == set(range(5)) and {x for _, x, _ in found} == set(range(7))
    assert {mirrored for _, _, mirrored in found} == {False, True}


def _cut(whole, y, x, mirrored):
    part = whole[:, y : y + 16, x : x + 24]
    return part.flip(-1) if mirrored else part


def test_an_affine_warp_keeps_constant_images_and_moves_a_dot_only_a_little():
    constant = torch.ones(40, 1, 17, 17)
    warped = Augmentation("affine").of_batch(constant, _dice())
    assert (warped - 1).abs().max() <= 8 * torch.finfo(torch.float32).eps  # four weights that sum to 1
    ramp = torch.linspace(-1, 1, 17).expand(40, 1, 17, 17).clone()
    moved = Augmentation("affine").of_batch(ramp, _dice())[:, 0, 8, 8]
    assert moved.unique().numel() == 40 and moved.abs().max() < 0.25


def test_flip_of_one_mirrors_every_image():
    ramp = torch.arange(24.0).expand(40, 1, 16, 24)
    rising, falling = (Augmentation("crop", flip=f).of_batch(ramp, _dice()) for f in (0, 1))
    assert (rising[..., 12] > rising[..., 10]).all() and (falling[..., 12] < falling[..., 10]).all()


def test_blanking_sets_rectangles_to_zero_and_leaves_the_rest():
    images = _images() + 1
    blanked = Augmentation(erase=0.5).blank(images.clone(), 3)
    changed = blanked != images
    assert (blanked[changed] == 0).all()
    assert 5 < changed.flatten(1).any(1).sum() < 35
    assert torch.equal(blanked, Augmentation(erase=0.5).blank(images.clone(), 3))
    assert not torch.equal(blanked, Augmentation(erase=0.5).blank(images.clone(), 4))


@pytest.mark.parametrize("count", [1, 2, 7, 8])
@pytest.mark.parametrize("options", [{"mixup": 0.5}, {"cutmix": 1.0}, {"mixup": 0.5, "cutmix": 1.0}])
def test_mixed_labels_are_the_shares_of_the_mixed_images(count, options):
    labels = torch.arange(count) % 3
    images = torch.nn.functional.one_hot(labels, 3).float()[:, :, None, None].expand(-1, -1, 20, 20)
    mixed, soft = Augmentation(**options).mix(images.clone(), labels, 3, 1, 2)
    assert soft.shape == (count, 3)
    # an image of class k is 1 in channel k only: the mean of each channel is the share of the class
    assert (mixed.mean((2, 3)) - soft).abs().max() <= 400 * torch.finfo(torch.float32).eps
    if count % 2:
        assert torch.equal(soft[-1], torch.nn.functional.one_hot(labels[-1], 3).float())


def test_mixing_depends_on_the_key_alone():
    def mixed(*key):
        torch.manual_seed(torch.randint(1000, ()).item())
        images, labels = torch.arange(48.0).reshape(4, 3, 2, 2), torch.arange(4)
        return Augmentation(mixup=0.8, smoothing=0.1).mix(images, labels, 4, *key)

    assert all(torch.equal(a, b) for a, b in zip(mixed(1, 2), mixed(1, 2), strict=True))
    assert not torch.equal(mixed(1, 2)[0], mixed(1, 3)[0])


def test_without_mixing_labels_stay_numbers():
    images, labels = _images(4), torch.arange(4)
    same, numbers = Augmentation(smoothing=0.1).mix(images, labels, 4, 0)
    assert same is images and numbers is labels and not Augmentation(smoothing=0.1).mixes


@pytest.mark.parametrize(
    ("options", "parameter"),
    [
        ({"kind": "strong"}, "kind"),
        ({"flip": 1.5}, "flip"),
        ({"erase": -0.1}, "erase"),
        ({"mixup": -1}, "mixup"),
        ({"scale": (0.5, 0.2)}, "scale"),
        ({"auto": "rand-m9"}, "auto"),
        ({"kind": "crop", "color_jitter": 0.4}, "color_jitter"),
        ({"kind": "affine", "scale": (0.5, 1.0)}, "scale"),
        ({"kind": "none", "flip": 0.5}, "flip"),
    ],
)
def test_impossible_augmentation_is_named(options, parameter):
    with pytest.raises(ConfigError) as error:
        Augmentation(**options)
    assert error.value.parameter == parameter
