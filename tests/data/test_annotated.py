"""Folders with COCO's JSON or masks: they show what was drawn, and what is broken is named by file."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from regroup.errors import DataError
from regroup.training import TrainConfig, evaluate, train
from regroup.training.data import Augmentation, Loader, load_data
from regroup.training.data.outlines import unpacked
from regroup.training.data.scan import BadImagesError
from regroup.training.data.targets import IGNORED
from regroup.training.tasks.segment import palette

HEIGHT, WIDTH = 40, 60


def picture(path, seed=0, size=(WIDTH, HEIGHT)):
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(levels).save(path)


def rectangle(left, top, width, height):
    right, bottom = left + width, top + height
    return [[left, top, right, top, right, bottom, left, bottom]]


def run_lengths(left, top, width, height, packed):
    levels = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    levels[top : top + height, left : left + width] = 1
    if packed:
        found = coco_mask.encode(levels)
        return {"size": found["size"], "counts": found["counts"].decode()}
    runs, last = [], 0
    for level in levels.flatten(order="F"):
        if level != last or not runs:
            runs += [0] if not runs and level else []
            runs.append(0)
            last = level
        runs[-1] += 1
    return {"size": [HEIGHT, WIDTH], "counts": runs}


BOXES = [(4, 6, 20, 10, 7, 0), (30, 10, 12, 24, 3, 0), (8, 24, 16, 12, 7, 1)]
"""Left, top, width, height, category, whether a crowd: of each image."""


def coco(root, change=None):
    """Three images to train on and two to test with; the last shows nothing."""
    for split, count in (("train", 3), ("val", 2)):
        images, objects = [], []
        for n in range(count):
            picture(root / f"{split}2017" / f"{n}.png", n)
            images.append({"id": 10 + n, "file_name": f"{n}.png", "width": WIDTH, "height": HEIGHT})
            for kind, (*box, category, crowd) in enumerate(BOXES if n < count - 1 else []):
                outline = rectangle(*box) if kind == 0 else run_lengths(*box, packed=kind == 1)
                known = {"image_id": 10 + n, "category_id": category, "iscrowd": crowd, "bbox": box}
                known |= {"area": box[2] * box[3], "segmentation": outline}
                objects.append({"id": len(objects) + 1, **known})
        categories = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]
        found = {"images": images, "annotations": objects, "categories": categories}
        if change is not None and split == "train":
            change(found)
        (root / "annotations").mkdir(exist_ok=True, parents=True)
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(found))
    return root


def test_boxes_are_cocos_in_the_size_that_is_asked_for(tmp_path):
    data = load_data(coco(tmp_path), (20, 60), task="detect")
    assert data.classes == ("background", "cat", "dog") and (len(data.train), len(data.test)) == (3, 2)
    image, target = data.train[0]
    assert image.shape == (3, 20, 60) and target["labels"].tolist() == [2, 1, 2]
    assert target["boxes"].tolist() == [[4, 3, 24, 8], [30, 5, 42, 17], [8, 12, 24, 18]]
    assert target["area"].tolist() == [200, 288, 192] and target["iscrowd"].tolist() == [0, 0, 1]
    assert target["size"].tolist() == [HEIGHT, WIDTH]
    assert data.train[2][1]["boxes"].shape == (0, 4)
    assert "1 of 3 images show no object" in data.notes


def test_outlines_and_run_lengths_are_the_same_regions_and_crowds_count_for_nothing(tmp_path):
    data = load_data(coco(tmp_path), task="segment")
    assert data.image == (HEIGHT, WIDTH)
    expected = torch.zeros(HEIGHT, WIDTH, dtype=torch.int64)
    for (left, top, width, height, *_), label in zip(BOXES, (2, 1, IGNORED), strict=True):
        expected[top : top + height, left : left + width] = label
    assert torch.equal(data.train[0][1], expected) and not data.train[2][1].any()
    half = load_data(tmp_path, (HEIGHT // 2, WIDTH // 2), task="segment").train[0][1]
    assert torch.equal(half, expected[1::2, 1::2])


def masks(root, levels=(0, 1, 2, IGNORED), mode="P"):
    """Masks of four stripes."""
    for split, n in [("train", 0), ("train", 1), ("val", 0)]:
        picture(root / split / "images" / f"{n}.jpg", n)
        mask = Image.fromarray(np.repeat(np.array(levels, np.uint8), WIDTH // 4)[None].repeat(HEIGHT, 0))
        if mode == "P":
            mask.putpalette(palette())
        (root / split / "masks").mkdir(parents=True, exist_ok=True)
        (mask.convert("RGB") if mode == "RGB" else mask).save(root / split / "masks" / f"{n}.png")
    return root


@pytest.mark.parametrize("mode", ["P", "L"])
def test_levels_of_palette_and_grey_masks_are_classes(mode, tmp_path):
    data = load_data(masks(tmp_path, mode=mode), task="segment")
    assert data.classes == ("background", "1", "2")
    expected = torch.tensor([0, 1, 2, IGNORED]).repeat_interleave(15).expand(HEIGHT, WIDTH)
    assert all(torch.equal(split[0][1], expected) for split in (data.train, data.test))
    (tmp_path / "classes.txt").write_text("ground\nroad\ntree\n")
    assert load_data(tmp_path, task="segment").classes == ("ground", "road", "tree")


def first(found):
    return found["annotations"][0]


BROKEN = {
    "outside": (
        lambda found: first(found).update(bbox=[50, 6, 20, 10]),
        "annotation 1 has a box outside of the image",
    ),
    "beyond the edge": (
        lambda found: first(found).update(bbox=[WIDTH, 6, 1, 10]),
        "annotation 1 has a box outside of the image",
    ),
    "no area": (lambda found: first(found).update(bbox=[5, 6, 0, 10]), "annotation 1 has a box of no area"),
    "category": (lambda found: first(found).update(category_id=9), "annotation 1 is of an unknown class: 9"),
    "size": (
        lambda found: found["images"][0].update(width=61),
        "its annotation says 61 x 40 pixels, it has 60 x 40",
    ),
    "missing": (lambda found: found["images"][0].update(file_name="none.png"), "No such file"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_broken_is_named_by_file_or_left_out(kind, tmp_path):
    change, says = BROKEN[kind]
    coco(tmp_path, change)
    with pytest.raises(BadImagesError, match=says) as caught:
        load_data(tmp_path, task="detect")
    name = "train2017/none.png" if kind == "missing" else "train2017/0.png"
    assert list(caught.value.images) == [name]
    data = load_data(tmp_path, task="detect", bad_images="skip")
    assert len(data.train) == 2 and any(says in note and name in note for note in data.notes)


def test_what_is_no_such_folder_or_document_is_said(tmp_path):
    with pytest.raises(DataError, match=r"has no annotations for the task detect: .*VOC.*YOLO"):
        load_data(tmp_path, task="detect")
    with pytest.raises(DataError, match=r"has no annotations for the task segment: .*images and masks"):
        load_data(tmp_path, task="segment")
    coco(tmp_path, lambda found: found.pop("categories"))
    with pytest.raises(DataError, match="no data set in COCO's format"):
        load_data(tmp_path, task="detect")
    with pytest.raises(BadImagesError, match="levels that are no class: \\[9\\]"):
        root = masks(tmp_path / "masks", levels=(0, 1, 9, 0))
        (root / "classes.txt").write_text("ground\nroad\n")
        load_data(root, task="segment")
    with pytest.raises(DataError, match="image of mode RGB"):
        load_data(masks(tmp_path / "rgb", mode="RGB"), task="segment")


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ("/elsewhere/0.png", "image 2 is outside of the folder"),
        (None, "image 2 has no text as its file_name"),
    ],
)
def test_a_file_name_that_cannot_be_is_named_by_file_and_row(named, says, tmp_path):
    coco(tmp_path, lambda found: found["images"][1].update(file_name=named))
    with pytest.raises(DataError, match=f"instances_train2017.json.*{says}"):
        load_data(tmp_path, task="detect")


def test_an_absolute_file_name_in_a_relative_folder_is_found(tmp_path, monkeypatch):
    root, name = tmp_path / "set", str(tmp_path / "set" / "train2017" / "1.png")
    coco(root, lambda found: found["images"][1].update(file_name=name))
    monkeypatch.chdir(tmp_path)
    assert load_data("set", task="detect").train.name(1) == "train2017/1.png"


def test_no_class_has_the_level_that_counts_for_nothing(tmp_path):
    """254 classes beside the background are levels 1 to 254; one more would be `IGNORED`."""
    lines = [f"{number}\n" for number in range(256)]
    (masks(tmp_path) / "classes.txt").write_text("".join(lines[:255]))
    assert len(load_data(tmp_path, task="segment").classes) == IGNORED
    (tmp_path / "classes.txt").write_text("".join(lines))
    with pytest.raises(DataError, match="has 256 classes with the background"):
        load_data(tmp_path, task="segment")


def test_boxes_and_masks_move_with_the_image_by_seed_epoch_and_index_alone(tmp_path):
    """A white rectangle on black: box and mask of what is white, whatever happened to it."""
    vary = Augmentation("targets", flip=0.5).of_targets()
    image = torch.zeros(3, 48, 64, dtype=torch.uint8)
    image[:, 10:30, 20:44] = 255
    mask = (image[0] > 0).long()
    box = {
        "boxes": torch.tensor([[20.0, 10, 44, 30]]),
        "labels": torch.tensor([1]),
        "size": torch.tensor([48, 64]),
    }
    for seed in range(20):
        found = []
        for target in (mask, box):
            torch.manual_seed(seed)
            found.append(vary(image, target))
        (one, seen), (other, moved) = found
        assert torch.equal(one, other)
        white = one[0] > 127
        assert (white != (seen == 1))[seen != IGNORED].float().mean() < 0.01
        rows, columns = torch.where(seen == 1)
        edges = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert (moved["boxes"][0] - edges).abs().max() <= 1.5
    data = load_data(coco(tmp_path), task="detect")
    batches = [
        next(Loader(data, 2, seed=s, workers=w).batches(e)) for s, e, w in [(0, 1, 0), (0, 1, 1), (0, 2, 0)]
    ]
    assert torch.equal(batches[0].images, batches[1].images)
    assert all(
        torch.equal(a["boxes"], b["boxes"]) for a, b in zip(batches[0].labels, batches[1].labels, strict=True)
    )
    assert not torch.equal(batches[0].images, batches[2].images)


def test_a_detector_is_trained_and_measured_in_pixels_of_the_files(tmp_path):
    from regroup.loading.named import create

    data = load_data(coco(tmp_path), 32, task="detect")
    options = {
        "depths": [1, 1, 1],
        "widths": [8, 8, 16],
        "first_level": 2,
        "pyramid_channels": 32,
        "head_convs": 1,
    }
    model = create("fcos:resnet_small", num_classes=3, **options)
    settings = {"batch_size": 2, "lr": 1e-3, "opt": "adamw", "device": "cpu", "display": "quiet"}
    assert train(model, data, TrainConfig(epochs=1, **settings)).last.figures["map"] is not None

    class Perfect(torch.nn.Module):
        """Sees what is there, in pixels of the images that it is shown."""

        def forward(self, images):
            targets = [data.test[i][1] for i in range(len(images))]
            return [
                {"boxes": t["boxes"], "labels": t["labels"], "scores": torch.ones(len(t["labels"]))}
                for t in targets
            ]

    found = evaluate(Perfect(), data)
    assert [found.map, found.map50, found.map_small] == pytest.approx([100] * 3) and found.map_medium is None


@pytest.mark.parametrize(
    ("outline", "told"),
    [
        ([[1e30, 1, 2, 1e30, 3, 3]], "a corner is not in or near the image: 1e\\+30"),
        ([[0, 0, 3, 0]], "three corners or more"),
        ({"size": [10**7, 10**7], "counts": [1, 2]}, "of an image of the size"),
        ({"size": [HEIGHT, WIDTH], "counts": [2, 3]}, "of 5 pixels, the image has 2400"),
        ({"size": [HEIGHT, WIDTH], "counts": "52"}, "of 7 pixels, the image has 2400"),
        ({"size": [HEIGHT, WIDTH], "counts": [-1, 2401]}, "numbers from 0 on"),
        ({"size": [HEIGHT, WIDTH], "counts": "\x7f\x7f"}, "in no way that COCO knows"),
        ({"size": [HEIGHT, WIDTH], "counts": "o"}, "in the middle of one"),
    ],
)
def test_outlines_that_end_pycocotools_or_are_read_as_anything_are_refused(outline, told, tmp_path):
    def change(found):
        found["annotations"][0]["segmentation"] = outline

    with pytest.raises(BadImagesError, match=told):
        load_data(coco(tmp_path, change), task="segment")


def test_run_lengths_are_unpacked_as_pycocotools_packs_them():
    chance = np.random.default_rng(0)
    for n in range(50):
        levels = np.asfortranarray(chance.random((7 + n, 90)) < chance.random(), np.uint8)
        runs = unpacked(coco_mask.encode(levels)["counts"])
        again = np.repeat(np.arange(len(runs)) % 2, runs).reshape(levels.shape, order="F")
        assert (again == levels).all()


@pytest.mark.parametrize(
    ("where", "field", "value", "told"),
    [
        ("images", "id", [], "an id in images is neither"),
        ("categories", "id", {}, "an id in categories is neither"),
        ("images", "id", 11, "two images have one id"),
        ("annotations", "iscrowd", 10**30, "annotation 1 cannot be understood"),
        ("annotations", "area", 1e308, "annotation 1 cannot be understood"),
        ("annotations", "bbox", [0, 0, 10**400, 1], "annotation 1 cannot be understood"),
    ],
)
def test_a_document_of_other_values_is_one_line(where, field, value, told, tmp_path):
    def change(found):
        found[where][0][field] = value

    with pytest.raises(DataError, match=told):
        load_data(coco(tmp_path, change), task="detect")
