"""`regroup run` on files, folders and patterns; as lines, CSV or JSON; what cannot be read is named."""

import csv
import io
import json

import pytest
import torch
from torchvision.transforms.v2.functional import to_pil_image

import regroup
from regroup.cli import main
from regroup.cli._images import image_files
from regroup.errors import DataError
from regroup.loading.trained import Trained
from regroup.training.checkpoint import save_weights
from regroup.training.data import load_data


def call(*argv):
    with pytest.raises(SystemExit) as exit:
        main(list(map(str, argv)))
    return exit.value.code


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A network of random weights, and seven images in two folders."""
    torch.set_num_threads(1)
    place, data = tmp_path_factory.mktemp("many"), load_data("digits")
    described = Trained.on(data, "resnet_small", {}, "grouped:groups=2", None)
    save_weights(place / "net", described.build(), network=described.to_json())
    for n in range(7):
        path = place / "images" / ("a" if n < 4 else "b") / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        to_pil_image(data.test[n][0]).save(path)
    (place / "images" / "a" / ".hidden.png").write_bytes(b"")
    (place / "images" / "notes.txt").write_text("no image")
    return place


def test_files_folders_and_patterns_are_the_images_once(place):
    images = place / "images"
    everything = [images / "a" / f"{n}.png" for n in range(4)] + [
        images / "b" / f"{n}.png" for n in range(4, 7)
    ]
    assert image_files([images]) == everything
    assert image_files([images / "*" / "*.png"]) == everything
    assert image_files([images / "**" / "[45].png", images / "b"]) == everything[4:]
    assert image_files([images / "notes.txt"]) == [images / "notes.txt"]
    for nothing in (images / "*.jpg", place / "net"):
        with pytest.raises(DataError, match=r"matches nothing|has no images"):
            image_files([nothing])


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_in_batches_each_image_gets_what_it_gets_alone(batch, place, capsys):
    found = regroup.loaded(place / "net")
    assert (
        call("run", place / "net", "--image", place / "images", "--batch-size", batch, "--top", 2, "--json")
        == 0
    )
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 7
    for row in rows:
        with torch.no_grad():
            alone = found.model(found.input.read(row["image"]))[0].softmax(0).topk(2)
        assert [c["class"] for c in row["classes"]] == alone.indices.tolist()
        assert [c["name"] for c in row["classes"]] == [found.classes[i] for i in alone.indices]


def test_lines_and_csv_say_the_same(place, capsys):
    argv = ("run", place / "net", "--image", place / "images" / "a", place / "images" / "b", "--quiet")
    assert call(*argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert call(*argv, "--csv") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert list(rows[0]) == ["image", "rank", "class", "name", "probability"]
    assert len(lines) == len(rows) == 7
    for line, row in zip(lines, rows, strict=True):
        assert line.split()[0] == row["image"] and line.split()[-1] == row["name"]
        assert line.split()[1] == f"{float(row['probability']):.2%}"


def test_what_cannot_be_read_is_named_and_counted_and_costs_nothing_else(place, capsys, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    argv = (
        "run",
        place / "net",
        "--image",
        place / "images" / "a",
        tmp_path / "bad.png",
        tmp_path / "gone.png",
    )
    assert call(*argv, "--json", "--batch-size", 2) == 1
    out, err = capsys.readouterr()
    rows = json.loads(out)
    assert ["classes" in row for row in rows] == [True] * 4 + [False] * 2
    assert "cannot be recognised as an image" in rows[4]["error"]
    first, second, last = err.splitlines()
    assert first.startswith(f"{tmp_path / 'bad.png'}: ") and second.startswith(f"{tmp_path / 'gone.png'}: ")
    assert last == "regroup run: 2 of 6 images could not be read"


@pytest.mark.parametrize(
    ("more", "status", "says"),
    [
        (("--image",), 2, "image"),
        (("--image", "x.png", "--csv", "--json"), 2, "csv=True: must be left out where --json is given"),
        (("--image", "no/*.png"), 1, "no/*.png: matches nothing"),
        (("--image", "x.png", "--batch-size", "0"), 2, "batch_size=0"),
    ],
)
def test_a_mistake_is_one_line(more, status, says, place, capsys):
    assert call("run", place / "net", *more) == status
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and says in lines[0]
