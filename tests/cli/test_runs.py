"""What `regroup train` leaves behind is a network to the other commands, learned groupings deployed."""

import json
import re
import shutil

import pytest
import torch
from torchvision.transforms.v2.functional import to_pil_image

import regroup
from regroup.cli import main
from regroup.cli._network import choose
from regroup.cli._trained import load_run
from regroup.strategies.learning import learned_modules
from regroup.training.data import Loader, load_data


def call(*argv):
    with pytest.raises(SystemExit) as exit:
        main(list(map(str, argv)))
    return exit.value.code


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that learns its groups, of one epoch on the digits."""
    torch.set_num_threads(1)
    output = tmp_path_factory.mktemp("runs") / "condensed"
    options = ("--epochs", 1, "--display", "quiet", "--device", "cpu", "--output", output)
    assert call("train", "--strategy", "condensed:groups=4", *options) == 0
    return output


@pytest.fixture(scope="module")
def images():
    return next(iter(Loader(load_data("digits"), batch_size=32, train=False))).images


def test_the_network_of_a_run_is_what_was_trained_deployed(run, images):
    learned, trained = load_run(run)
    assert trained.strategy == "condensed:groups=4" and trained.shape == [1, 8, 8]
    chosen = choose(str(run))
    assert learned_modules(learned) and not learned_modules(chosen.model)
    with torch.no_grad():
        torch.testing.assert_close(chosen.model(images), learned(images))
        torch.testing.assert_close(chosen.model(images), regroup.deploy(learned)(images))


def test_a_digit_in_a_file_is_read_as_in_training_and_named(run, images, tmp_path, capsys):
    data = load_data("digits")
    for index in range(3):
        path = tmp_path / f"{index}.png"
        to_pil_image(data.test[index][0]).save(path)
        chosen = choose(str(run))
        torch.testing.assert_close(chosen.trained.read(path), images[index : index + 1])
        assert call("run", run, "--image", path, "--top", 1, "--json") == 0
        (found,) = json.loads(capsys.readouterr().out)
        best = int(chosen.model(images[index : index + 1]).argmax())
        assert (found["class"], found["name"]) == (best, str(best))
    assert call("run", run, "--image", path, "--quiet") == 0
    assert "random weights" not in capsys.readouterr().out


def test_a_run_is_compiled_for_its_own_images(run, capsys):
    assert call("compile", run, "--json") == 0
    assert {s["runs"] for s in json.loads(capsys.readouterr().out)["segments"]} == {"native"}
    assert call("compile", run, "--image", 16, "--json") == 0


def test_a_run_is_profiled_as_deployed(run, capsys):
    assert call("profile", run, "--no-time", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    dense = regroup.profile(
        regroup.create_model("resnet_small", num_classes=10, in_chans=1), torch.rand(1, 1, 8, 8), time=False
    )
    assert found["inputs"] == [[1, 1, 8, 8]]
    assert found["root"]["cost"]["macs"] < dense.total.macs / 2


def test_a_directory_with_the_name_of_a_network_needs_a_dot(run, tmp_path, monkeypatch):
    shutil.copytree(run, tmp_path / "resnet_small")
    shutil.copytree(run, tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    assert choose("resnet_small").trained is None
    assert choose("./resnet_small").trained and choose("mine").trained


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("compile", "/nowhere/at/all"), "/nowhere/at/all: there is no such directory"),
        (("compile", "."), "is no run of `regroup train`"),
        (("run", ".", "--image", "x.png"), "is no run of `regroup train`"),
        (("profile", "./tests"), "tests: is no run of `regroup train`"),
        (("compile", "RUN", "--channels", "3"), "channels=3: must be left out for a run"),
        (("run", "RUN", "--image", "x.png", "--pretrained"), "pretrained=True: must be left out for a run"),
        (("compile", "RUN", "--weights", "w"), "weights='w': must be left out for a run"),
        (("profile", "RUN", "--strategy", "grouped"), "strategy='grouped': must be left out for a run"),
        (("run", "RUN", "--image", "no_such.png"), "no_such.png: No such file"),
        (("compile", "resnet_smal"), "did you mean 'resnet_small'"),
    ],
)
def test_a_mistake_is_one_line(argv, says, run, capsys):
    assert call(*[str(run) if a == "RUN" else a for a in argv]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and says in lines[0]


def test_an_unfinished_or_damaged_run_says_so(run, tmp_path, capsys):
    unfinished = shutil.copytree(run, tmp_path / "unfinished")
    shutil.rmtree(unfinished / "weights")
    assert call("compile", unfinished) == 1
    assert "is not finished: go on with it by --resume" in capsys.readouterr().err
    damaged = shutil.copytree(run, tmp_path / "damaged")
    weights = damaged / "weights" / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert call("compile", damaged) == 1
    assert re.search(r"weights\.safetensors: is damaged", capsys.readouterr().err)
