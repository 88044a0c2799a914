"""The same pictures in COCO's, VOC's and YOLO's formats and as masks are one data set, or named as broken."""

import re
from functools import partial

import pytest
import torch

from regroup.errors import DataError
from regroup.files.markup import MarkupError, parse_xml
from regroup.files.plain_yaml import YamlError, parse_yaml
from regroup.loading.named import create
from regroup.training import TrainConfig, evaluate, train
from regroup.training.data import load_data
from regroup.training.data.annotations import voc as voc_format
from regroup.training.data.scan import BadImagesError
from tests.data import written
from tests.data.written import HEIGHT, PICTURES, WIDTH, box, levels

BOXES = {"coco": written.coco, "voc": written.voc, "yolo": written.yolo}
OUTLINES = {**BOXES, "yolo": partial(written.yolo, outlines=True), "masks": written.masks}
TINY = {"depths": [1, 1, 1], "widths": [8, 8, 16]}
FCOS = {"first_level": 2, "pyramid_channels": 32, "head_convs": 1, "score_thresh": 0.0}


def both(data):
    """Return what each split shows, image by image, with the objects that were drawn."""
    for split, drawn in zip((data.train, data.test), PICTURES.values(), strict=True):
        assert len(split) == len(drawn)
        yield from zip((split[i] for i in range(len(split))), drawn.values(), strict=True)


@pytest.mark.parametrize("name", BOXES)
def test_boxes_are_those_that_were_drawn(name, tmp_path):
    data = load_data(BOXES[name](tmp_path), task="detect")
    assert data.classes == ("background", "cat", "dog") and data.image == (HEIGHT, WIDTH)
    for (_, target), objects in both(data):
        corners = torch.tensor([box(outline) for _, outline in objects], dtype=torch.float32).reshape(-1, 4)
        assert torch.equal(target["boxes"], corners)
        assert target["labels"].tolist() == [label + 1 for label, _ in objects]
        assert target["area"].tolist() == [
            (right - left) * (low - top) for left, top, right, low in corners.tolist()
        ]
        assert not target["iscrowd"].any() and target["size"].tolist() == [HEIGHT, WIDTH]
    assert "1 of 4 images show no object" in data.notes


@pytest.mark.parametrize("name", OUTLINES)
def test_pixels_are_those_that_were_drawn(name, tmp_path):
    data = load_data(OUTLINES[name](tmp_path), task="segment")
    assert data.classes == ("background", "cat", "dog")
    for (_, found), objects in both(data):
        assert torch.equal(found, torch.from_numpy(levels(objects)).long())


@pytest.mark.parametrize(("task", "formats"), [("detect", BOXES), ("segment", OUTLINES)])
def test_networks_learn_the_same_from_every_format_and_are_measured_alike(task, formats, tmp_path):
    settings = {"epochs": 2, "batch_size": 2, "lr": 1e-2, "opt": "adamw", "device": "cpu", "display": "quiet"}
    told = {}
    for name, write in formats.items():
        data = load_data(write(tmp_path / name), 32, task=task)
        torch.manual_seed(0)
        head, more = ("fcos", FCOS) if task == "detect" else ("unet", {})
        model = create(f"{head}:resnet_small", num_classes=3, **TINY, **more)
        history = train(model, data, TrainConfig(**settings))
        told[name] = [epoch.figures for epoch in history.epochs], evaluate(model, data)
    first = next(iter(told.values()))
    assert all(found == first for found in told.values())
    assert first[1].figures["map" if task == "detect" else "miou"] is not None


def edited(root, file, old, new):
    path = root / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


VOC, YOLO = "Annotations/0.xml", "labels/train/0.txt"
BROKEN = {
    "voc, outside": ("voc", VOC, "<xmax>24<", "<xmax>64<", f"{VOC}, line 10 has a box outside of the image"),
    "voc, no area": ("voc", VOC, "<xmax>24<", "<xmax>4<", f"{VOC}, line 10 has a box of no area"),
    "voc, class": ("voc", VOC, ">cat<", ">cow<", f"{VOC}, line 10 is of an unknown class: 'cow'"),
    "voc, size": ("voc", VOC, ">60<", ">61<", "its annotation says 61 x 40 pixels, it has 60 x 40"),
    "voc, number": ("voc", VOC, ">24<", ">inf<", f"{VOC}, line 13: 'xmax' is no number of pixels: 'inf'"),
    "voc, no XML": ("voc", VOC, "<bndbox>", "<box>", f"{VOC}, line 15: it is not XML: mismatched tag"),
    "voc, no name": ("voc", VOC, "<name>cat</name>", "", f"{VOC}, line 7: 'object' has 0 of 'name', not one"),
    "yolo, outside": ("yolo", YOLO, "0 0.2", "0 0.9", f"{YOLO}, line 1 has a box outside of the image"),
    "yolo, no area": ("yolo", YOLO, " 0.25\n", " 0.0\n", f"{YOLO}, line 1 has a box of no area"),
    "yolo, class": ("yolo", YOLO, "\n1 ", "\n2 ", f"{YOLO}, line 2 is of an unknown class: 2"),
    "yolo, words": ("yolo", YOLO, "0 0.2", "cat 0.2", f"{YOLO}, line 1 is not the number of a class and num"),
    "yolo, numbers": ("yolo", YOLO, " 0.25\n", "\n", f"{YOLO}, line 1 has 3 numbers after the class"),
    "yolo, nan": ("yolo", YOLO, "0 0.2", "0 nan 0.2", f"{YOLO}, line 1 has a number that is not finite"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_broken_is_named_by_file_and_line_or_left_out(kind, tmp_path):
    which, file, old, new, says = BROKEN[kind]
    edited(BOXES[which](tmp_path), file, old, new)
    with pytest.raises(BadImagesError, match=re.escape(says)) as caught:
        load_data(tmp_path, task="detect")
    (name,) = caught.value.images
    assert name == {"voc": "JPEGImages/0.png", "yolo": "images/train/0.png"}[which]
    data = load_data(tmp_path, task="detect", bad_images="skip")
    assert len(data.train) == 3 and any(says in note and name in note for note in data.notes)


@pytest.mark.parametrize("which", ["voc", "yolo", "masks"])
def test_masks_of_other_sizes_and_boxes_without_outlines_are_named(which, tmp_path):
    root = {"voc": written.voc, "yolo": written.yolo, "masks": written.masks}[which](tmp_path)
    says = "has a box, and no outline"
    if which != "yolo":
        path = root / {"voc": "SegmentationClass/0.png", "masks": "train/masks/0.png"}[which]
        with written.Image.open(path) as mask:
            small = mask.resize((30, 20))
        small.save(path)
        says = "its mask has 30 x 20 pixels, it has 60 x 40"
    with pytest.raises(BadImagesError, match=says):
        load_data(root, task="segment")
    if which != "yolo":
        assert len(load_data(root, task="segment", bad_images="skip").train) == 3


def test_what_is_difficult_teaches_nothing_and_counts_for_nothing(tmp_path):
    edited(written.voc(tmp_path), VOC, "<difficult>0<", "<difficult>1<")
    assert load_data(tmp_path, task="detect").train[0][1]["iscrowd"].tolist() == [1, 0]


def test_vocs_own_classes_stand_in_their_order_and_others_by_name(tmp_path):
    (written.voc(tmp_path) / "classes.txt").unlink()
    assert load_data(tmp_path, task="detect").classes == ("background", *voc_format.CLASSES)
    for path in (tmp_path / "Annotations").iterdir():
        path.write_text(path.read_text().replace(">cat<", ">zebra<"))
    assert load_data(tmp_path, task="detect").classes == ("background", "dog", "zebra")


def test_without_lists_of_the_splits_a_fifth_is_set_aside(tmp_path):
    root = written.voc(tmp_path / "voc")
    for path in root.glob("ImageSets/*/*.txt"):
        path.unlink()
    data = load_data(root, task="detect")
    seen = [split.name(i) for split in (data.train, data.test) for i in range(len(split))]
    assert sorted(seen) == [f"JPEGImages/{n}.png" for n in range(6)] and len(data.test) >= 1
    flat = tmp_path / "yolo"
    one = {"train": {name: objects for each in PICTURES.values() for name, objects in each.items()}}
    written.yolo(flat, one)
    (flat / "data.yaml").unlink()
    for kind in ("images", "labels"):
        for path in sorted((flat / kind / "train").iterdir()):
            path.rename(flat / kind / path.name)
        (flat / kind / "train").rmdir()
    (flat / "classes.txt").write_text("cat\ndog\n")
    data = load_data(flat, task="detect")
    assert len(data.train) + len(data.test) == 6 and data.classes == ("background", "cat", "dog")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("names:\n", "nams:\n"), "it has no 'names'"),
        (("nc: 2", "nc: 3"), "says nc: 3, and has 2 names"),
        (("  0: cat", "  5: cat"), "names of other numbers than 0 to 1"),
        (("train: images/train", "train: elsewhere"), "names a folder of images that is not in"),
        (("train: images/train", "train: /etc"), "names a folder of images that is not in"),
        (("val: images/val", "other: images/val"), "says no folder of images for val or"),
        (("path: .", "path: &a .\nmore: *a"), "line 2: it has an alias"),
        (("path: .", "path: ["), "is not YAML"),
        (("path: .", "path: " + 70 * "[" + 70 * "]"), "line 1: it is nested more than 64 levels deep"),
    ],
)
def test_what_is_wrong_in_the_description_is_one_line(change, says, tmp_path):
    edited(written.yolo(tmp_path), "data.yaml", *change)
    with pytest.raises(DataError, match=re.escape(says)) as caught:
        load_data(tmp_path, task="detect")
    assert "data.yaml" in str(caught.value)


def test_exports_that_name_their_folders_of_another_machine_are_found(tmp_path):
    root = written.yolo(tmp_path)
    edited(root, "data.yaml", "path: .", "path: /content/drive/set")
    edited(root, "data.yaml", "train: images/train", "train: ../images/train")
    edited(root, "data.yaml", "names:\n  0: cat\n  1: dog\n", "names: ['cat', 'dog']\n")
    (root / "val.txt").write_text("images/val/4.png\n./images/val/5.png\n")
    edited(root, "data.yaml", "val: images/val", "val: val.txt")
    data = load_data(root, task="detect")
    assert (len(data.train), len(data.test), data.classes) == (4, 2, ("background", "cat", "dog"))


@pytest.mark.parametrize("file", ["ImageSets/Main/val.txt", "classes.txt"])
def test_a_list_that_is_no_text_is_named(file, tmp_path):
    (written.voc(tmp_path) / file).write_bytes(b"4\0\n")
    with pytest.raises(DataError, match=f"{file}.*is no text: it has a zero byte"):
        load_data(tmp_path, task="detect")


@pytest.mark.parametrize("which", ["voc", "yolo"])
def test_what_lies_outside_of_the_folder_is_not_read(which, tmp_path):
    written.coco(tmp_path / "elsewhere")
    root = BOXES[which](tmp_path / "set")
    if which == "voc":
        (root / "ImageSets/Main/val.txt").write_text("../../elsewhere/val2017/4\n")
    else:
        (root / "val.txt").write_text("../elsewhere/val2017/4.png\n")
        edited(root, "data.yaml", "val: images/val", "val: val.txt")
    with pytest.raises(DataError, match="names what is outside of the folder"):
        load_data(root, task="detect")


ENTITY = '<!DOCTYPE a [<!ENTITY e "x">]><a>&e;</a>'
EXTERNAL = '<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (ENTITY, "line 1: it has a document type"),
        (EXTERNAL, "line 1: it has a document type"),
        ("<a>&e;</a>", "line 1: it is not XML: undefined entity"),
        (65 * "<a>" + 65 * "</a>", "line 1: it is nested more than 64 elements deep"),
        ("<a>\n<b></a>", "line 2: it is not XML: mismatched tag"),
        ("", "it is not XML: no element found"),
        ("\ud800", None),
        ('<?xml version="1.0" encoding="nobody"?><a/>', "it is not XML: unknown encoding"),
    ],
)
def test_xml_that_is_not_read_is_one_line(text, says):
    with pytest.raises(MarkupError, match=says):
        parse_xml(text.encode("utf-8", "surrogatepass"))
    assert parse_xml((64 * "<a>" + 64 * "</a>").encode()).name == "a"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"\xff\xfe\x00", "it is not YAML"),
        (b"a: !!python/object:os.system [ls]\n? [1]\n: 2", "line 2: it is not YAML: found unhashable key"),
        (b"\x00", "it is not YAML"),
        (64 * b"- " + b"a", "nested more than 64 levels deep"),
    ],
)
def test_yaml_that_is_not_read_is_one_line(text, says):
    with pytest.raises(YamlError, match=says):
        parse_yaml(text)
    assert parse_yaml("a: !!python/object:os.system [no]") == {"a": ["no"]}  # tags mean nothing
