"""`regroup evaluate`: the figures of a network are those of `regroup.evaluate`, compiled or not."""

import json

import pytest
import torch
from torchvision.transforms.v2.functional import to_pil_image

import regroup
from regroup.cli import main
from regroup.loading.inputs import ImageInput
from regroup.loading.shown import shown
from regroup.loading.trained import Trained
from regroup.training.checkpoint import save_weights
from regroup.training.data import load_data


def call(*argv):
    with pytest.raises(SystemExit) as exit:
        main(list(map(str, argv)))
    return exit.value.code


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of one epoch on the digits."""
    torch.set_num_threads(1)
    output = tmp_path_factory.mktemp("runs") / "grouped"
    options = ("--strategy", "grouped:groups=4", "--epochs", 1, "--display", "quiet", "--device", "cpu")
    assert call("train", *options, "--out", output) == 0
    return output


def figures(capsys, *argv):
    assert call("evaluate", *argv, "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_the_figures_are_those_of_training_and_of_python(run, capsys):
    logged = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
    plain = figures(capsys, run, "--no-compiled", "--no-time")
    assert plain["top1"] == logged["top1"] and plain["top5"] == logged["top5"]
    assert plain["loss"] == pytest.approx(logged["test_loss"])
    found = regroup.evaluate(regroup.load(run), regroup.load_data("digits"))
    assert (plain["top1"], plain["images"], plain["ece"]) == (found.top1, 359, pytest.approx(found.ece))
    assert plain["top1_interval"] == list(found.top1_interval) and plain["seconds_per_image"] is None
    native = figures(capsys, run, "--batch-size", 100, "--seconds", 0.01)
    assert native["compiled"] and not plain["compiled"] and native["top1"] == plain["top1"]
    assert 0 < native["seconds_per_image"]["low"] <= native["seconds_per_image"]["high"]
    few = figures(capsys, run, "--batch-size", 400, "--seconds", 0.01)
    assert few["batch_size"] == 400 and few["top1"] == plain["top1"]  # of 359 images
    everything = figures(capsys, run / "best", "--split", "all", "--no-time")
    assert (
        everything["images"] == 1797 == 359 + figures(capsys, run, "--split", "train", "--no-time")["images"]
    )


def test_a_person_reads_an_interval_and_whose_time_it_is(run, capsys):
    assert call("evaluate", run, "--seconds", 0.01) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{run} on digits: 359 images of the split 'test'"
    assert any("(95 %: " in line for line in lines)
    assert any(line.startswith("timed compiled, in batches of 64, on ") for line in lines)


def test_a_folder_of_images_is_evaluated_by_the_names_of_its_classes(run, capsys, tmp_path):
    """Of some classes only, in files; the figures are those of the same images."""
    data, model = load_data("digits"), regroup.load(run)
    chosen = [i for i in range(100) if int(data.test.labels[i]) in (3, 7)]
    for i in chosen:
        path = tmp_path / "data" / str(int(data.test.labels[i])) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        to_pil_image(data.test[i][0]).save(path)
    read = regroup.loaded(run).input.read
    with torch.no_grad():
        scores = torch.cat(
            [model(read(tmp_path / "data" / str(int(data.test.labels[i])) / f"{i}.png")) for i in chosen]
        )
    right = int((scores.argmax(1) == data.test.labels[chosen]).sum())
    found = figures(capsys, run, "--data", tmp_path / "data", "--split", "all", "--no-time")
    assert found["images"] == len(chosen) and found["top1"] == pytest.approx(100 * right / len(chosen))


def test_a_network_of_others_with_weights_from_a_file(tmp_path, capsys):
    model = regroup.networks.anywhere.create_any_model("timm:test_resnet", num_classes=10)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    more = ("--data", "digits", "--no-time", "--no-compiled")
    found = figures(capsys, "timm:test_resnet", "--weights", tmp_path / "w.pth", *more)
    assert found["images"] == 359 and not found["random_weights"]
    small = figures(capsys, "timm:test_resnet", "--weights", tmp_path / "w.pth", "--image", 23, *more)
    images = shown("digits", ImageInput.of(model, (3, 23, 23)), 10, by_order=True)
    assert images.shape == (3, 23, 23) and small["loss"] == pytest.approx(
        regroup.evaluate(model.eval(), images).loss
    )


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("resnet_small",), "data=None: must be a data set or a folder"),
        (("resnet18", "--data", "digits"), "data='digits': must be of classes that the network knows (1000)"),
        (("RUN", "--data", "glyphs"), "of classes that the network knows (10)"),
        (("RUN", "--data", "digitz"), "did you mean 'digits'"),
        (("RUN", "--batch-size", "0"), "batch_size=0"),
        (("RUN", "--seconds", "0"), "seconds=0"),
        (("RUN", "--image", "0"), "image=0: must be an int from 1 to"),
        (("RUN", "--split", "val"), "split='val': must be one of test, train, all"),
    ],
)
def test_a_mistake_is_one_line(argv, says, run, capsys):
    assert call("evaluate", *[run if a == "RUN" else a for a in argv]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and says in lines[0]


def test_a_run_of_other_hands_needs_the_data_named(tmp_path, capsys):
    described = Trained.on(load_data("digits"), "resnet_small", {}, None, None)
    save_weights(tmp_path / "w", described.build(), network=described.to_json())
    assert call("evaluate", tmp_path / "w") == 2
    assert "data=None" in capsys.readouterr().err
    assert figures(capsys, tmp_path / "w", "--data", "digits", "--no-time", "--no-compiled")["images"] == 359
