"""Detection: measures are pycocotools', runs resume to the bit, every detector stands on every backbone."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision.transforms.v2.functional import to_pil_image

import regroup
from regroup.cli import main
from regroup.errors import ConfigError, NetworkError
from regroup.interop import heads
from regroup.interop.detectors import DETECTORS
from regroup.loading.named import create
from regroup.training import train
from regroup.training.data import Batch, Loader
from regroup.training.tasks import tasks
from tests.training import tiny_scenes
from tests.training.cases import equal
from tests.training.tiny_scenes import TINY, config

HEADS = {
    "fcos": {"first_level": 2, "pyramid_channels": 32, "head_convs": 1},
    "retinanet": {"first_level": 2, "pyramid_channels": 32},
    "fasterrcnn": {"first_level": 1, "pyramid_channels": 16, "head_channels": 16, "anchor_size": 4}
    | {"rpn_post_nms_top_n_train": 20, "rpn_post_nms_top_n_test": 20},
    "ssdlite": {"first_level": 2, "maps": 3},
}
DETECT = tasks["detect"]


small = partial(tiny_scenes.small, task="detect")
_small_scenes = tiny_scenes.registered("detect")


def network(head="fcos"):
    torch.manual_seed(3)
    return create(f"{head}:resnet_small", num_classes=3, **TINY, **HEADS[head])


def made_up(chance, images, side):
    """Objects with crowds among them, and detections near them and elsewhere, in pixels of the pictures."""
    shown, found = [], []
    for image in range(images):
        for _ in range(chance.integers(0, 6)):
            x, y, w, h = *chance.uniform(0, side / 2, 2), *chance.uniform(4, side / 2, 2)
            label, crowd = int(chance.integers(1, 4)), int(chance.random() < 0.15)
            shown.append([image, x, y, x + w, y + h, label, w * h * chance.uniform(0.5, 1), crowd])
            if chance.random() < 0.8:
                near = np.array([x, y, x + w, y + h]) + chance.normal(0, 3, 4)
                near[2:] = np.maximum(near[2:], near[:2] + 1)
                found.append([image, *near, label if chance.random() < 0.9 else 1, chance.random()])
        for _ in range(chance.integers(0, 4)):
            x, y, w, h = *chance.uniform(0, side / 2, 2), *chance.uniform(4, side / 2, 2)
            found.append([image, x, y, x + w, y + h, int(chance.integers(1, 4)), chance.random()])
    return shown, found


class Given:
    """A data set of pictures of 300 x 200 that a network is shown as 32 x 32: sizes and names alone."""

    image, classes = (32, 32), ("background", "a", "b", "c")

    def __init__(self, images):
        self.test = range(images)


def measured(shown, found, images, total=lambda counts: counts, chosen=None):
    """Let the meter see batches of what networks and data sets give, in pixels of the network's images."""
    meter, scale = DETECT.meter(Given(images)), torch.tensor([32 / 300, 32 / 200] * 2)
    for part in torch.arange(images).split(3) if chosen is None else [chosen]:
        targets, outputs = [], []
        for image in part.tolist():
            true = torch.tensor([row[1:] for row in shown if row[0] == image]).reshape(-1, 7)
            seen = torch.tensor([row[1:] for row in found if row[0] == image]).reshape(-1, 6)
            known = {"labels": true[:, 4].long(), "area": true[:, 5], "iscrowd": true[:, 6].long()}
            targets.append({"boxes": true[:, :4] * scale, **known, "size": torch.tensor([200, 300])})
            outputs.append({"boxes": seen[:, :4] * scale, "labels": seen[:, 4].long(), "scores": seen[:, 5]})
        meter.add(outputs, Batch(torch.empty(0), targets, part))
    return meter if chosen is not None else meter.result(total)


def test_measures_are_those_of_pycocotools_from_files(tmp_path, capsys):
    chance = np.random.default_rng(0)
    shown, found = made_up(chance, 12, 400)
    found_here = measured(shown, found, 12)
    truth = {
        "images": [{"id": i} for i in range(12)],
        "categories": [{"id": c, "name": n} for c, n in enumerate("abc", 1)],
        "annotations": [
            {"id": i, "image_id": im, "bbox": [x, y, r - x, b - y], "category_id": c, "area": a, "iscrowd": k}
            for i, (im, x, y, r, b, c, a, k) in enumerate(shown, 1)
        ],
    }
    results = [
        {"image_id": im, "bbox": [x, y, r - x, b - y], "category_id": c, "score": s}
        for im, x, y, r, b, c, s in found
    ]
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "results.json").write_text(json.dumps(results))
    coco = COCO(tmp_path / "truth.json")
    evaluation = COCOeval(coco, coco.loadRes(str(tmp_path / "results.json")), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    capsys.readouterr()
    names = ("map", "map50", "map75", "map_small", "map_medium", "map_large")
    ours = [getattr(found_here, name) for name in names]
    assert ours == pytest.approx([100 * value for value in evaluation.stats[:6]]) and min(ours) > 0
    assert found_here.recall == pytest.approx(100 * evaluation.stats[8])
    assert np.mean(list(found_here.classes.values())) == pytest.approx(found_here.map)
    assert capsys.readouterr().out == ""


def test_an_object_that_is_found_and_one_that_is_not():
    """Of 101 recalls, the 51 up to one half are reached, at a precision of one."""
    shown = [[0, 10, 10, 110, 110, 1, 1e4, 0], [1, 10, 10, 110, 110, 1, 1e4, 0]]
    found = [[0, 10, 10, 110, 110, 1, 0.9], [0, 150, 100, 200, 150, 1, 0.8]]
    assert measured(shown, found, 2).map50 == pytest.approx(100 * 51 / 101)
    assert measured([], [], 2).map is None


def test_what_processes_have_found_adds_up():
    """Each asks for the same sums in the same order: they are made here, of what both asked for."""
    shown, found = made_up(np.random.default_rng(1), 6, 200)
    meters = [measured(shown, found, 6, chosen=torch.tensor(part)) for part in ([0, 2, 4], [1, 3, 5])]
    sums: list[torch.Tensor] = []
    for _ in range(5):  # one more sum is known each time, until all are
        asked = []
        for meter in meters:
            known, mine = iter(sums), []

            def total(counts, known=known, mine=mine):
                mine.append(counts)
                return next(known, counts)

            results = meter.result(total)
            asked.append(mine[len(sums) :][:1])
        sums += [one + two for one, two in zip(*asked, strict=True)]
    assert results == measured(shown, found, 6) and len(sums) == 4


@pytest.mark.parametrize("head", ["fcos", "fasterrcnn"])
def test_a_resumed_run_ends_in_the_same_bits(head, tmp_path):
    settings = {"model_ema": True} if head == "fcos" else {"amp": True, "clip_grad": 5.0}
    whole, broken, resumed = network(head), network(head), network(head)
    history = train(whole, small(), config(**settings))

    class Stop(Exception):
        pass

    def stop(result):
        if result.epoch == 2:
            raise Stop

    with pytest.raises(Stop):
        train(broken, small(), config(output=tmp_path, **settings), on_epoch=stop)
    again = train(resumed, small(), config(output=tmp_path, resume=True, **settings))
    assert equal(whole, resumed)
    assert [e.figures for e in again.epochs] == [e.figures for e in history.epochs]
    assert history.last.test_loss is None and list(history.last.figures)[:2] == ["map", "map50"]


def test_every_detector_has_a_name():
    assert set(heads.DETECTORS) == set(DETECTORS)


@pytest.mark.parametrize("head", DETECTORS)
def test_every_detector_learns_from_images_with_and_without_objects(head):
    """And takes a list of images of several sizes; a crowd teaches nothing."""
    model, data = network(head), small()
    batch = next(iter(Loader(data, 4)))
    nothing = {
        name: value[:0] if value.ndim and name != "size" else value for name, value in batch.labels[0].items()
    }
    batch = batch._replace(labels=[nothing, *batch.labels[1:]])
    loss = DETECT.loss(model.train(), batch, config(), None)
    loss.backward()
    assert loss.isfinite() and all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    DETECT.check("model", model, data, torch.device("cpu"))
    torch.manual_seed(0)
    with torch.no_grad():
        found = model.eval()([torch.randn(3, 32, 32), torch.randn(3, 40, 24)])
    for boxes, (height, width) in zip([each["boxes"] for each in found], [(32, 32), (40, 24)], strict=True):
        assert (boxes >= 0).all() and (boxes[:, 0::2] <= width).all() and (boxes[:, 1::2] <= height).all()


def test_other_backbones_carry_detectors_and_what_cannot_be_is_said():
    model = create("ssdlite:mobilenetv3_small_050", num_classes=3, score_thresh=0.3).eval()
    assert model.score_thresh == 0.3 and DETECT.classes_of(model, None) == 3
    with pytest.raises(NetworkError, match="first_level=9: must be at most 2"):
        create("fcos:resnet_small", num_classes=3, first_level=9)
    for changes, model, says in (
        ({"smoothing": 0.1}, network(), "smoothing"),
        ({"devices": "groups=2"}, network(), "task='detect': must be one of classify, segment where"),
        ({}, create("fcos:resnet_small", num_classes=5, **TINY, **HEADS["fcos"]), "a detector of 3 classes"),
        ({}, regroup.create_model("resnet_small", num_classes=3), "boxes, labels of 3 classes"),
    ):
        with pytest.raises(ConfigError, match=says):
            train(model, small(), config(**changes))
    with pytest.raises(ConfigError, match="teacher"):
        train(network(), small(), config(), teacher=network())


def call(*argv):
    with pytest.raises(SystemExit) as exit:
        main(list(map(str, argv)))
    return exit.value.code


def test_the_commands_train_resume_measure_and_draw(tmp_path, capsys):
    run = tmp_path / "run"
    options = ["depths=[1,1,1]", "widths=[8,8,16]", "first_level=2", "pyramid_channels=32", "head_convs=1"]
    options += ["score_thresh=0.0"]
    more = ["--data", "small_scenes", "--batch-size", 8, "--quiet", "--device", "cpu"]
    more += ["--strategy", "grouped:groups=4", "--model-options", *options]
    assert call("train", "--task", "detect", *more, "--epochs", 1, "--out", run) == 0
    assert "mAP" in capsys.readouterr().out
    assert call("train", "--resume", run, "--epochs", 2, "--quiet") == 0
    capsys.readouterr()
    assert call("evaluate", run, "--json", "--no-time", "--no-compiled") == 0
    told, logged = json.loads(capsys.readouterr().out), (run / "log.jsonl").read_text().splitlines()
    assert told["map50"] == json.loads(logged[-1])["map50"] and told["images"] == 4
    picture = to_pil_image(small((40, 64)).test.sample(0)[0])
    picture.save(tmp_path / "a.png")
    with pytest.warns(regroup.errors.EngineWarning):
        assert call("run", run, "--image", tmp_path / "a.png", "--json", "--out", tmp_path / "seen") == 0
    (said,) = json.loads(capsys.readouterr().out)
    with Image.open(tmp_path / "seen" / "a.png") as drawn:
        assert drawn.size == picture.size
    coco = COCO(tmp_path / "seen" / "detections.json")
    capsys.readouterr()
    assert coco.loadCats([1, 2]) == [{"id": 1, "name": "A"}, {"id": 2, "name": "B"}]
    objects = coco.loadAnns(coco.getAnnIds())
    assert [each["bbox"] for each in objects] == [each["box"] for each in said["classes"]]
    assert objects and all(
        x >= 0 and x + w <= 64.01 and y + h <= 40.01 for x, y, w, h in (o["bbox"] for o in objects)
    )


def test_what_a_detector_multiplies_is_counted_to_the_last_region():
    """Of an image of zeros: convolutions and layers as hooks see them, and four neighbours of each sample."""
    from regroup.ops.counting import count

    model, seen = network("fasterrcnn").eval(), []

    def note(module, inputs, out):
        taps = module.weight[0].numel()
        seen.append(out.numel() * taps)

    for module in model.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            module.register_forward_hook(note)
    model.roi_heads.box_roi_pool.register_forward_hook(lambda m, i, out: seen.append(4 * out.numel() * 2**2))
    with torch.no_grad():
        model(torch.zeros(1, 3, 32, 32))
    assert count(network("fasterrcnn"), (32, 32), 3).macs == sum(seen)
