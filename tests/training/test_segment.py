"""Segmentation: measures are scikit-learn's, runs resume to the bit, every decoder stands on networks."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import f1_score, jaccard_score
from torchvision.transforms.v2.functional import to_pil_image

import regroup
from regroup.cli import main
from regroup.errors import ConfigError, MissingPackageError, NetworkError, needed
from regroup.interop import heads
from regroup.interop.decoders import DECODERS, segmenter
from regroup.loading.named import create
from regroup.training import train
from regroup.training.data import Batch, Loader, load_data
from regroup.training.data.scenes import scenes
from regroup.training.data.targets import IGNORED
from regroup.training.tasks import tasks
from tests.training import tiny_scenes
from tests.training.cases import equal
from tests.training.tiny_scenes import TINY, config

SEGMENT = tasks["segment"]


small = partial(tiny_scenes.small, task="segment")
_small_scenes = tiny_scenes.registered("segment")


def network(head="unet"):
    torch.manual_seed(3)
    return create(f"{head}:resnet_small", num_classes=3, **TINY)


class Known(torch.nn.Module):
    """Gives scores that were made up for each image, by its first pixel."""

    def __init__(self, scores):
        super().__init__()
        self.scores = scores

    def forward(self, images):
        return self.scores[: len(images)]


def test_measures_are_those_of_scikit_learn():
    """Pixels to be ignored count for nothing; a class that nobody shows or sees is left out."""
    torch.manual_seed(0)
    data = scenes((32, 48), count=40, classes="ABCDE")
    masks = torch.stack([data.test[i][1] for i in range(len(data.test))])
    scores = torch.randn(len(masks), 6, 32, 48) + 4 * torch.nn.functional.one_hot(masks, 6).movedim(-1, 1)
    scores[:, 5] = -99.0
    masks[masks == 5] = IGNORED
    masks[0] = IGNORED
    meter = SEGMENT.meter(data)
    for part in torch.arange(len(masks)).split(3):
        meter.add(scores[part], Batch(torch.empty(0), masks[part], part))
    found = meter.result(lambda counts: counts)
    known = (masks != IGNORED).flatten()
    shown, seen = masks.flatten()[known].numpy(), scores.argmax(1).flatten()[known].numpy()
    classes = np.unique(np.concatenate([shown, seen]))
    ious = 100 * jaccard_score(shown, seen, average=None, labels=classes)
    assert 5 not in classes and found.classes["E"] is None
    assert [found.classes[data.classes[c]] for c in classes] == pytest.approx(ious.tolist())
    assert found.miou == pytest.approx(ious.mean())
    assert found.objects_miou == pytest.approx(ious[1:].mean())
    assert found.dice == pytest.approx(100 * f1_score(shown, seen, average="macro", labels=classes))
    expected = torch.nn.functional.cross_entropy(scores.double(), masks, ignore_index=IGNORED)
    assert found.loss == pytest.approx(float(expected))
    assert found.interval[0] < found.miou < found.interval[1]


def test_what_processes_have_counted_adds_up():
    torch.manual_seed(1)
    data, scores = small(), torch.randn(4, 3, 32, 32)
    batches = list(Loader(data, 2, train=False))
    whole, *parts = (SEGMENT.meter(data) for _ in range(3))
    for batch, part in zip(batches, parts, strict=False):
        for meter in (whole, part):
            meter.add(scores[: len(batch.images)], batch)
    other = iter([parts[1]._loss, parts[1]._counts])
    assert parts[0].result(lambda counts: counts + next(other)) == whole.result(lambda counts: counts)


def test_pixels_to_be_ignored_change_no_loss():
    model, (batch, *_) = network().eval(), Loader(small(), 4)
    masks = batch.labels.clone()
    masks[:, :8] = IGNORED
    before = SEGMENT.loss(model, batch._replace(labels=masks), config(), None)

    class Spoiled(torch.nn.Module):
        def forward(self, images):
            scores = model(images).clone()
            scores[:, :, :8] = torch.randn(len(images), 3, 8, 32)
            return scores

    after = SEGMENT.loss(Spoiled(), batch._replace(labels=masks), config(), None)
    assert torch.equal(before, after) and before > 0
    masks[:] = IGNORED  # nothing counts, and nothing is learned
    nothing = SEGMENT.loss(model, batch._replace(labels=masks), config(), None)
    nothing.backward()
    assert nothing == 0 and all(not p.grad.any() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    "settings", [{"model_ema": True}, {"amp": True, "grad_accum_steps": 2, "channels_last": True}], ids=str
)
def test_a_resumed_run_ends_in_the_same_bits(settings, tmp_path):
    whole, broken, resumed = network(), network(), network()
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
    assert history.last.figures.keys() == {"miou", "objects_miou", "dice"}


def test_a_teacher_teaches_pixel_by_pixel():
    model, (batch, *_) = network().eval(), Loader(small(), 4)
    own = SEGMENT.loss(model, batch, config(distillation_alpha=1.0), model)
    assert float(own.detach()) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("head", DECODERS)
def test_every_decoder_stands_on_our_networks_and_timms(head):
    names = ["resnet_small"] if head in ("unet", "lraspp") else []
    for backbone in [*names, "shufflenet_v1_g3_050", "mobilenetv3_small_050"]:
        with torch.device("meta"):
            model = segmenter(head, backbone, num_classes=5, in_chans=1).eval()
            images = torch.empty(2, 1, 256, 288)
            assert SEGMENT.misfit(model(images), images, 5) == "", backbone


def test_names_say_the_task_and_what_cannot_be_is_said():
    assert heads.with_head("segment", "resnet18") == "unet:resnet18"
    with pytest.raises(ConfigError, match="it is for segment"):
        heads.with_head("classify", "unet:resnet18")
    with pytest.raises(NetworkError, match="forward_intermediates"):
        create("unet:torchvision:resnet18", num_classes=3)
    with pytest.raises(NetworkError, match="decoder fpn takes"):
        create("fpn:resnet_small", num_classes=3)
    with pytest.raises(MissingPackageError, match=r'pip install "torch-regroup\[see\]"'):
        needed("no_such_package", "see")
    for changes, named in (({"mixup": 0.1}, "mixup"), ({"aa": "rand-m9"}, "aa")):
        with pytest.raises(ConfigError) as caught:
            train(network(), small(), config(**changes))
        assert caught.value.parameter == named
    with pytest.raises(ConfigError, match="scores of 3 classes for each pixel"):
        train(regroup.create_model("resnet_small", num_classes=3), small(), config())
    with pytest.raises(ConfigError, match="it is for classify"):
        load_data("digits", task="segment")


def call(*argv):
    with pytest.raises(SystemExit) as exit:
        main(list(map(str, argv)))
    return exit.value.code


def test_the_commands_train_on_a_backbones_weights_measure_and_draw(tmp_path, capsys):
    options = ["--model-options", "depths=[1,1,1]", "widths=[8,8,16]"]
    options += ["--epochs", 1, "--quiet", "--device", "cpu"]
    data = ["--data", "small_scenes", "--batch-size", 8]
    back, run = tmp_path / "back", tmp_path / "run"
    grouped = ["--strategy", "grouped:groups=4", "--where", "*stages*"]
    classify = [*options, *grouped, "--out", back]
    assert call("train", "--model", "resnet_small", "--data", "digits", *classify) == 0
    segment = ["--task", "segment", *data, *options, *grouped]
    assert call("train", *segment, "--weights", back, "--out", run) == 1  # of one channel
    assert "is of another network than the backbone of unet:resnet_small" in capsys.readouterr().err
    assert call("train", *segment, "--out", run) == 0
    assert call("train", "--resume", run, "--epochs", 2, "--quiet") == 0
    capsys.readouterr()
    assert call("evaluate", run, "--json", "--no-time", "--no-compiled") == 0
    told, logged = json.loads(capsys.readouterr().out), (run / "log.jsonl").read_text().splitlines()
    assert told["miou"] == json.loads(logged[-1])["miou"] and told["images"] == 4
    found = regroup.loaded(run)
    assert found.task == "segment" and found.classes == ("background", "A", "B")
    picture = to_pil_image(small((40, 52)).test.sample(0)[0])
    picture.save(tmp_path / "a.png")
    assert call("run", run, "--image", tmp_path / "a.png", "--json", "--out", tmp_path / "seen") == 0
    (said,) = json.loads(capsys.readouterr().out)
    with (
        Image.open(tmp_path / "seen" / "a-mask.png") as mask,
        Image.open(tmp_path / "seen" / "a.png") as drawn,
    ):
        mask = np.asarray(mask)
        assert drawn.size == picture.size == mask.shape[::-1]
    shares = {row["class"]: row["share"] for row in said["classes"]}
    assert shares == {c: pytest.approx((mask == c).mean()) for c in np.unique(mask).tolist() if c}


def test_a_segmenter_begins_with_the_weights_of_a_run_of_its_backbone(tmp_path):
    from regroup.loading.trained import Trained
    from regroup.training.checkpoint import save_weights

    data = load_data("glyphs", 16, count=2, classes="ab")
    alone = Trained.on(data, "resnet_small", TINY, None, None)
    body = alone.build(seed=7)
    save_weights(tmp_path / "back", body, network=alone.to_json())
    said = []
    whole = Trained.on(small(), "unet:resnet_small", TINY, None, None)
    model = whole.build(weights=tmp_path / "back", say=said.append)
    ours, theirs = model.encoder.levels.body.state_dict(), body.state_dict()
    assert ours and all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert "the backbone has its weights; the rest is new" in said[-1]
