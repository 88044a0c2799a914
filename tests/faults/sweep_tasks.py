"""Damaged folders of images with boxes or masks before every command that reads them.

A row is as in `sweep_commands`: COCO's JSON with its images, VOC's XML, masks and lists, YOLO's text and
description, folders of images and of masks, and the list of classes beside them.
"""

import shutil

import numpy as np
from PIL import Image

from tests.data import written
from tests.data.test_annotated import coco
from tests.faults import sweep_commands
from tests.faults.sweep_commands import EVALUATE, Command

_FEW = ("--epochs", "1", "--batch-size", "2", "--device", "cpu", "--no-wait", "--image", "32")
_SMALL = ("depths=[1,1,1]", "widths=[8,8,16]")
_DETECT = ("--task", "detect", "--model", "fcos:resnet_small", "--model-options", *_SMALL)
_DETECT = (*_DETECT, "first_level=2", "pyramid_channels=32", "head_convs=1")
_SEGMENT = ("--task", "segment", "--model", "unet:resnet_small", "--model-options", *_SMALL)
_COCO, _MASKS = ("coco/annotations/*.json", "coco/*2017/*.png"), ("masks/*/*/*.png", "masks/classes.txt")
_VOC = ("voc/Annotations/*", "voc/ImageSets/*/*", "voc/SegmentationClass/*", "voc/classes.txt")
_YOLO = ("yolo/labels/*/*.txt", "yolo/data.yaml")


def train(of, *how, out="{}/new"):
    return ("train", *how, "--data", of, *_FEW, "--display", "quiet", "--out", out)


def compare(of, *how):
    what = ("--strategies", "grouped:groups=2", "--no-time", "--json", "--out", "{}/new")
    return ("compare", *how, "--data", of, *_FEW, *what)


def evaluate(network, of):
    return ("evaluate", network, *EVALUATE[2:], "--data", of)


COMMANDS = (
    Command("train, boxes", train("{}/coco", *_DETECT), _COCO),
    Command("train, boxes, skipping", train("{}/coco", *_DETECT, "--bad-images", "skip"), _COCO),
    Command("train, outlines", train("{}/coco", *_SEGMENT, "--bad-images", "skip"), _COCO),
    Command("train, masks", train("{}/masks", *_SEGMENT, "--bad-images", "skip"), _MASKS),
    Command("train, VOC's boxes", train("{}/voc", *_DETECT, "--bad-images", "skip"), _VOC),
    Command("train, VOC's masks", train("{}/voc", *_SEGMENT, "--bad-images", "skip"), _VOC),
    Command("train, YOLO's outlines", train("{}/yolo", *_SEGMENT, "--bad-images", "skip"), _YOLO),
    Command("evaluate, YOLO's boxes", evaluate("{}/detects", "{}/yolo"), _YOLO),
    Command("evaluate, boxes", evaluate("{}/detects", "{}/coco"), _COCO),
    Command("evaluate, masks", evaluate("{}/segments", "{}/masks"), _MASKS),
    Command("compare, boxes", compare("{}/coco", *_DETECT), _COCO),
    Command("compare, masks", compare("{}/masks", *_SEGMENT), _MASKS),
    Command("run, masks", ("run", "{}/segments", "--image", "{}/a.png", "--json"), ("segments/weights/*",)),
    Command("run, boxes", ("run", "{}/detects", "--image", "{}/a.png", "--json"), ("detects/weights/*",)),
)


def masks(root):
    """Make a folder of images and of masks, and the list of their classes."""
    levels = np.random.default_rng(0).integers(0, 3, (32, 32), dtype=np.uint8)
    for split, count in (("train", 3), ("val", 2)):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for n in range(count):
            Image.fromarray(np.roll(levels, n) * 80).save(root / split / "images" / f"{n}.png")
            Image.fromarray(np.roll(levels, n)).save(root / split / "masks" / f"{n}.png")
    (root / "classes.txt").write_text("background\ncat\ndog\n")
    return root


def made(sweep, place):
    """Make both kinds of folder, and a network for each."""
    coco(place / "coco")
    masks(place / "masks")
    written.voc(place / "voc")
    written.yolo(place / "yolo", outlines=True)
    shutil.copy(place / "coco" / "train2017" / "0.png", place / "a.png")
    runs = ("detects", "coco", _DETECT), ("segments", "masks", _SEGMENT)
    for name, of, how in runs:
        argv = train(f"{place}/{of}", *how, out=f"{place}/{name}")
        assert sweep.command("train", "what will be damaged", *argv)[0] == 0, sweep.said


def tasks(sweep):
    """What reads images with boxes or masks."""
    sweep_commands.swept(sweep, COMMANDS, made)
