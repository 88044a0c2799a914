"""The same pictures with the same objects, written in every format that people have them in.

An object is a class and the corners of its outline, in whole pixels; none lies on another.
"""

import json

import numpy as np
from PIL import Image, ImageDraw

from regroup.training.tasks.segment import palette

HEIGHT, WIDTH = 40, 60
CLASSES = ("cat", "dog")

RECTANGLE = (0, [(4, 6), (24, 6), (24, 16), (4, 16)])
HOOK = (1, [(30, 10), (50, 10), (50, 18), (38, 18), (38, 34), (30, 34)])
EDGE = (1, [(0, 30), (12, 30), (12, 40), (0, 40)])
PICTURES = {
    "train": {"0": [RECTANGLE, HOOK], "1": [HOOK], "2": [EDGE, RECTANGLE], "3": []},
    "val": {"4": [EDGE, HOOK], "5": [RECTANGLE]},
}


def levels(objects):
    """Return the class of each pixel: an outline of whole pixels along the axes is unions of rectangles."""
    found = np.zeros((HEIGHT, WIDTH), np.uint8)
    ys, xs = (np.arange(n) + 0.5 for n in (HEIGHT, WIDTH))
    for label, corners in objects:
        crossings = np.zeros((HEIGHT, WIDTH), int)  # of a ray to the right
        for (x, y0), (_, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
            between = (ys > min(y0, y1)) & (ys < max(y0, y1))
            crossings += between[:, None] & (xs < x)[None]
        found[crossings % 2 == 1] = label + 1
    return found


def picture(path, name, objects):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(int(name)).integers(0, 100, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    for label, corners in objects:
        ImageDraw.Draw(image).polygon([(x, y) for x, y in corners], fill=(250, 120 * label, 0))
    image.save(path)


def box(corners):
    """Return left, top, right, bottom."""
    xs, ys = zip(*corners, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def mask(path, objects):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(levels(objects))
    image.putpalette(palette())
    image.save(path)


def coco(root, pictures=PICTURES):
    for split, each in pictures.items():
        images, rows = [], []
        for number, (name, objects) in enumerate(each.items()):
            picture(root / f"{split}2017" / f"{name}.png", name, objects)
            images.append({"id": number, "file_name": f"{name}.png", "height": HEIGHT, "width": WIDTH})
            for label, corners in objects:
                left, top, right, bottom = box(corners)
                known = {"id": len(rows) + 1, "image_id": number, "category_id": label + 1, "iscrowd": 0}
                known |= {"bbox": [left, top, right - left, bottom - top]}
                known |= {"area": (right - left) * (bottom - top)}
                rows.append({**known, "segmentation": [[value for corner in corners for value in corner]]})
        categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, 1)]
        found = {"images": images, "annotations": rows, "categories": categories}
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(found))
    return root


def voc(root, pictures=PICTURES):
    for split, each in pictures.items():
        for kind in ("Main", "Segmentation"):
            folder = root / "ImageSets" / kind
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{split}.txt").write_text("".join(f"{name}\n" for name in each))
        (root / "Annotations").mkdir(exist_ok=True)
        for name, objects in each.items():
            picture(root / "JPEGImages" / f"{name}.png", name, objects)
            mask(root / "SegmentationClass" / f"{name}.png", objects)
            (root / "Annotations" / f"{name}.xml").write_text(xml(name, objects))
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    return root


def xml(name, objects):
    """Return what the challenges' files look like; line 10 is the first object's box."""
    lines = ["<annotation>", f"  <filename>{name}.png</filename>", "  <size>"]
    lines += [f"    <width>{WIDTH}</width>", f"    <height>{HEIGHT}</height>", "  </size>"]
    for label, corners in objects:
        left, top, right, bottom = box(corners)
        lines += ["  <object>", f"    <name>{CLASSES[label]}</name>", "    <difficult>0</difficult>"]
        lines += ["    <bndbox>", f"      <xmin>{left + 1}</xmin>", f"      <ymin>{top + 1}</ymin>"]
        lines += [f"      <xmax>{right}</xmax>", f"      <ymax>{bottom}</ymax>", "    </bndbox>"]
        lines += ["  </object>"]
    return "\n".join([*lines, "</annotation>", ""])


def yolo(root, pictures=PICTURES, outlines=False):
    for split, each in pictures.items():
        (root / "labels" / split).mkdir(parents=True)
        for name, objects in each.items():
            picture(root / "images" / split / f"{name}.png", name, objects)
            lines = [_line(label, corners, outlines) for label, corners in objects]
            if lines:  # who shows nothing has no file
                (root / "labels" / split / f"{name}.txt").write_text("".join(lines))
    places = "".join(f"{split}: images/{split}\n" for split in pictures)
    names = "".join(f"  {number}: {name}\n" for number, name in enumerate(CLASSES))
    (root / "data.yaml").write_text(f"path: .\n{places}nc: {len(CLASSES)}\nnames:\n{names}")
    return root


def _line(label, corners, outlines):
    if outlines:
        values = [value for x, y in corners for value in (x / WIDTH, y / HEIGHT)]
    else:
        left, top, right, bottom = box(corners)
        values = [(left + right) / 2 / WIDTH, (top + bottom) / 2 / HEIGHT]
        values += [(right - left) / WIDTH, (bottom - top) / HEIGHT]
    return " ".join([str(label), *map(repr, values)]) + "\n"


def masks(root, pictures=PICTURES):
    for split, each in pictures.items():
        for name, objects in each.items():
            picture(root / split / "images" / f"{name}.png", name, objects)
            mask(root / split / "masks" / f"{name}.png", objects)
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in ("background", *CLASSES)))
    return root
