"""torchvision's data sets, laid out as the error message says; the pixels are made up."""

import bz2
import csv
import json
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
from scipy.io import savemat

from .malformed import encoded, picture

JPEG, PPM = encoded(picture(), "JPEG"), encoded(picture(), "PPM")


def write(path, contents):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(contents if isinstance(contents, bytes) else contents.encode())


def idx(array) -> bytes:
    sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def mnist(root, folder="MNIST", names=("train-{}", "t10k-{}")):
    for count, name in zip((20, 10), names, strict=True):
        pixels = np.arange(count * 28 * 28).reshape(count, 28, 28).astype(np.uint8)
        raw = root / folder / "raw"
        write(raw / name.format("images-idx3-ubyte"), idx(pixels))
        write(raw / name.format("labels-idx1-ubyte"), idx(np.arange(count, dtype=np.uint8) % 10))


def emnist(root):
    names = tuple(f"emnist-balanced-{which}-{{}}" for which in ("train", "test"))
    mnist(root, "EMNIST", names)


def usps(root):
    line = "3 " + " ".join(f"{n}:{(n - 128) / 128}" for n in range(1, 257))
    for name, count in (("usps.bz2", 4), ("usps.t.bz2", 2)):
        write(root / name, bz2.compress("\n".join([line] * count).encode()))


def food101(root):
    for split, names in (("train", ("1", "2")), ("test", ("3",))):
        listed = {kind: [f"{kind}/{name}" for name in names] for kind in ("pie", "soup")}
        write(root / "food-101" / "meta" / f"{split}.json", json.dumps(listed))
        for name in (name for names in listed.values() for name in names):
            write(root / "food-101" / "images" / f"{name}.jpg", JPEG)


def flowers102(root):
    base = root / "flowers-102"
    for n in range(1, 107):
        write(base / "jpg" / f"image_{n:05}.jpg", JPEG)
    savemat(base / "imagelabels.mat", {"labels": np.arange(106) % 102 + 1})
    parts = {"trnid": range(1, 103), "valid": [103, 104], "tstid": [105, 106]}
    savemat(base / "setid.mat", {part: np.array(numbers) for part, numbers in parts.items()})


def pets(root):
    base = root / "oxford-iiit-pet"
    for split in ("trainval", "test"):
        lines = [f"{kind}_{n} {label} 1 1" for label, kind in ((1, "Big_cat"), (2, "pug")) for n in range(3)]
        write(base / "annotations" / f"{split}.txt", "\n".join(f"{split}_{line}" for line in lines))
        for line in lines:
            write(base / "images" / f"{split}_{line.split()[0]}.jpg", JPEG)


def dtd(root):
    base = root / "dtd" / "dtd"
    for split in ("train", "test"):
        names = [f"{kind}/{split}{n}.jpg" for kind in ("dotted", "zigzag") for n in range(3)]
        write(base / "labels" / f"{split}1.txt", "\n".join(names))
        for name in names:
            write(base / "images" / name, JPEG)


def aircraft(root):
    base = root / "fgvc-aircraft-2013b" / "data"
    write(base / "variants.txt", "707-320\nDC 3\n")
    for split in ("trainval", "test"):
        lines = [f"{split}{n} {kind}" for n, kind in enumerate(("707-320", "DC 3", "DC 3"))]
        write(base / f"images_variant_{split}.txt", "\n".join(lines))
        for line in lines:
            write(base / "images" / f"{line.split()[0]}.jpg", JPEG)


def gtsrb(root):
    base = root / "gtsrb"
    for label in ("00000", "00001"):
        for n in range(3):
            write(base / "GTSRB" / "Training" / label / f"{n}.ppm", PPM)
    with (base / "GT-final_test.csv").open("w") as file:
        rows = csv.writer(file, delimiter=";")
        rows.writerows([["Filename", "ClassId"], ["0.ppm", "0"], ["1.ppm", "1"]])
    for n in range(2):
        write(base / "GTSRB" / "Final_Test" / "Images" / f"{n}.ppm", PPM)


def imagenette(root):
    for split in ("train", "val"):
        for kind in ("n01440764", "n02102040"):
            for n in range(3):
                write(root / "imagenette2-160" / split / kind / f"{n}.JPEG", JPEG)


LAYOUTS = {
    "mnist": mnist,
    "emnist": emnist,
    "usps": usps,
    "food101": food101,
    "flowers102": flowers102,
    "pets": pets,
    "dtd": dtd,
    "aircraft": aircraft,
    "gtsrb": gtsrb,
    "imagenette": imagenette,
}
"""By name, what puts a small one below a root."""


@contextmanager
def no_hashes():
    """Let made-up files pass, which cannot have the hashes that torchvision compares some with."""
    with mock.patch("torchvision.datasets.flowers102.check_integrity", lambda path, md5: Path(path).exists()):
        yield
