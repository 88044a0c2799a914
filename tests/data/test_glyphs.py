import numpy as np
import pytest
import torch

from regroup.errors import ConfigError
from regroup.training.data import Loader, load_data
from regroup.training.data.fonts import CHARACTERS, TEST_FONTS, TRAIN_FONTS, atlas, atlas_level
from regroup.training.data.glyphs import GlyphSplit


def test_no_font_is_in_both_splits():
    assert not set(TRAIN_FONTS) & set(TEST_FONTS)
    assert len(CHARACTERS) == len(set(CHARACTERS)) == 62


@pytest.mark.parametrize("font", TRAIN_FONTS + TEST_FONTS)
def test_every_character_of_every_font_is_a_drawing_of_its_own_inside_its_cell(font):
    cells = atlas((font,), 64)
    assert len(np.unique(cells.reshape(62, -1), axis=0)) == 62
    assert not cells[:, [0, -1]].any() and not cells[:, :, [0, -1]].any()
    assert (cells.reshape(62, -1).max(1) > 128).all()


def test_the_cells_suit_the_size_of_the_letters():
    assert [atlas_level(capital) for capital in (4, 20, 45, 500)] == [16, 64, 128, 256]


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 20, 48), (3, 64, 40)])
def test_an_image_is_the_same_alone_in_a_batch_and_in_any_order(shape):
    split = GlyphSplit(TRAIN_FONTS, CHARACTERS, 3, shape, (0, 0))
    order = torch.randperm(len(split))
    together = split.read(order)
    alone = torch.cat([split.read(index[None]) for index in order[:20]])
    assert together.dtype == torch.uint8 and together.shape == (len(split), *shape)
    assert torch.equal(together[:20], alone)
    assert torch.equal(together[:20], split.fetch(order[:20]))


def test_drawings_do_not_depend_on_the_number_of_threads():
    split = GlyphSplit(TRAIN_FONTS, CHARACTERS, 1, (3, 96, 96), (0, 0))
    one = split.read(torch.arange(8))
    torch.set_num_threads(2)
    assert torch.equal(one, split.read(torch.arange(8)))


def test_splits_seeds_and_images_differ():
    data, other = load_data("glyphs", 24, count=10), load_data("glyphs", 24, count=10, seed=1)
    assert (len(data.train), len(data.test)) == (620, 124)
    images = torch.cat([s.fetch(torch.arange(len(s))) for d in (data, other) for s in (d.train, d.test)])
    assert len(images.flatten(1).unique(dim=0)) == len(images)


def test_classes_are_balanced_and_named():
    data = load_data("glyphs", 16, classes="abc7", count=6)
    assert data.classes == ("a", "b", "c", "7") and data.train.labels.bincount().tolist() == [6] * 4


def test_statistics_are_about_those_of_the_drawings():
    data = load_data("glyphs", count=20)
    images = next(Loader(data, 1240).batches()).images
    assert images.mean().abs() < 0.1 and abs(images.std() - 1) < 0.1


def test_workers_draw_the_same(monkeypatch):
    monkeypatch.setattr("regroup.training.data.glyphs._MEMORY", 0)
    data = load_data("glyphs", 16, count=2)
    assert not data.train.in_memory
    for here, there in zip(Loader(data, 31).batches(), Loader(data, 31, workers=2).batches(), strict=True):
        assert torch.equal(here.images, there.images)


@pytest.mark.parametrize(
    ("options", "parameter"),
    [
        ({"image": 7}, "image"),
        ({"image": (8, 0)}, "image"),
        ({"channels": 2}, "channels"),
        ({"classes": "abca"}, "classes"),
        ({"classes": "aä"}, "classes"),
        ({"count": 0}, "count"),
        ({"colour": True}, "colour"),
    ],
)
def test_impossible_glyphs_are_named(options, parameter):
    with pytest.raises(ConfigError) as error:
        load_data("glyphs", **options)
    assert error.value.parameter == parameter


def scenes(image, **options):
    return load_data("scenes", image, **{"task": "segment", **options})


def test_scenes_are_the_same_each_time_and_differ_from_each_other():
    one, again = scenes((48, 64), count=4), scenes((48, 64), count=4)
    for split, other in ((one.train, again.train), (one.test, again.test)):
        assert split.digest() == other.digest()
        for i in reversed(range(len(split))):
            (image, target), (image_again, target_again) = split.sample(i), other.sample(i)
            assert torch.equal(image, image_again)
            assert all(torch.equal(target[key], target_again[key]) for key in target)
            assert torch.equal(split[i][1], target["semantic"]) and torch.equal(split[i][0], image)
    assert not torch.equal(one.train[0][0], one.train[1][0])
    assert not torch.equal(one.train[0][0], one.test[0][0])
    digests = {
        scenes((48, 64), **{"count": 4, **more}).train.digest() for more in ({}, {"most": 2}, {"seed": 1})
    }
    assert len(digests) == 3


def test_boxes_masks_and_labels_agree():
    from torchvision.ops import masks_to_boxes

    data = scenes((64, 96), count=30, most=8)
    for image, target in (data.train.sample(i) for i in range(30)):
        masks, boxes = target["masks"], target["boxes"]
        assert image.shape == (3, 64, 96) and image.dtype == torch.uint8
        assert 1 <= len(boxes) == len(masks) == len(target["labels"]) <= 8
        inclusive = masks_to_boxes(masks)
        assert torch.equal(boxes, inclusive + torch.tensor([0, 0, 1, 1]))
        assert torch.equal(target["area"], masks.sum((1, 2)).float())
        assert masks.sum(0).max() == 1
        assert target["labels"].min() >= 1 and target["labels"].max() < len(data.classes)
        assert torch.equal(target["semantic"], (masks * target["labels"][:, None, None]).sum(0))


def test_numbers_of_glyphs_vary_up_to_the_most():
    train = scenes((96, 96), count=40).train
    assert {len(train.sample(i)[1]["labels"]) for i in range(40)} == {1, 2, 3, 4}


def test_scenes_fit_a_detection_model_of_torchvision():
    from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn

    data = scenes((64, 64), classes="ab", count=2, task="detect")
    model = fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=len(data.classes), min_size=64, max_size=64
    )
    images, targets, _ = next(iter(Loader(data, 2)))
    losses = model(images, targets)
    assert all(loss.isfinite() for loss in losses.values())


@pytest.mark.parametrize(
    ("options", "parameter"),
    [({"image": (31, 64)}, "image"), ({"most": 0}, "most"), ({"task": "classify"}, "task")],
)
def test_impossible_scenes_are_named(options, parameter):
    with pytest.raises(ConfigError) as error:
        scenes(**{"image": None, **options})
    assert error.value.parameter == parameter


def test_workers_draw_the_same_scenes():
    data = scenes((32, 32), count=8)
    data.train.in_memory = False
    for here, there in zip(Loader(data, 4).batches(), Loader(data, 4, workers=2).batches(), strict=True):
        assert torch.equal(here.images, there.images) and torch.equal(here.labels, there.labels)
