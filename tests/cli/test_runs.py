"""What `regroup train` leaves behind is a network to the other commands, learned groupings deployed."""

import json
import re
import resource
import shutil
from pathlib import Path

import pytest
import torch
from torchvision.transforms.v2.functional import to_pil_image

import regroup
from regroup.cli import main
from regroup.cli._network import choose
from regroup.errors import DataError
from regroup.files.sealed import MANIFEST, write_sealed
from regroup.loading import ImageInput, loaded
from regroup.strategies.learning import learned_modules
from regroup.training.data import Loader, load_data
from tests.processes import in_fork


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
    learned = regroup.load(run)
    found = loaded(run)
    assert found.name == "resnet_small with condensed:groups=4" and found.input.shape == (1, 8, 8)
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
        torch.testing.assert_close(chosen.loaded.input.read(path), images[index : index + 1])
        assert call("run", run, "--image", path, "--top", 1, "--json") == 0
        ((found,),) = [row["classes"] for row in json.loads(capsys.readouterr().out)]
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
    assert choose("resnet_small").loaded is None
    assert choose("./resnet_small").loaded and choose("mine").loaded


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
    status = 2 if "must be" in says or "did you mean" in says else 1
    assert call(*[str(run) if a == "RUN" else a for a in argv]) == status
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


def resealed(run, path, change):
    """Copy a run with another description of its network, sealed as if it had been written so."""
    copy = shutil.copytree(run, path)
    files = {p.name: p.read_bytes() for p in (copy / "weights").iterdir() if p.name != MANIFEST}
    document = json.loads(files["network.json"])
    files["network.json"] = (
        change if isinstance(change, bytes) else json.dumps({**document, **change}).encode()
    )
    shutil.rmtree(copy / "weights")
    write_sealed(copy / "weights", files)
    return copy


WRONG = [
    ({"shape": [1, 10**7, 10**7]}, "shape is"),
    ({"shape": [10**7, 8, 8]}, "shape is"),
    ({"shape": [1, 8]}, "shape is [1, 8]: must be [channels, height, width]"),
    ({"shape": [1, 8, "8"]}, "shape[2] is '8': must be an int"),
    ({"shape": [0, 8, 8]}, "shape is"),
    ({"shape": [True, 8, 8]}, "shape[0] is True"),
    ({"model": 5}, "model is 5: must be a text"),
    ({"model": "no_such"}, "no_such"),
    ({"options": ["a"]}, "options is ['a']: must be an object"),
    ({"options": {"no_such": 1}}, "cannot be built"),
    ({"options": {"in_chans": "a"}}, "cannot be built"),
    ({"options": {"channels": 10**9}}, "cannot be built"),
    ({"mean": []}, "mean is []: must be one number for each of 1 channels"),
    ({"mean": [0.5, 0.5]}, "mean is [0.5, 0.5]"),
    ({"std": [0]}, "std is [0.0]: must be one positive number"),
    ({"part": 0}, "part is 0.0: must be above 0"),
    ({"classes": []}, "classes is []"),
    ({"classes": "abc"}, "classes is 'abc': must be a list"),
    ({"classes": [1, 2]}, "classes[0] is 1: must be a text"),
    ({"strategy": 5}, "strategy is 5: must be a text or null"),
    ({"strategy": "no_such"}, "no_such"),
    ({"more": 1}, "more is not known"),
    ({"kind": "no_such"}, "a network of the kind 'no_such', which this release does not know"),
    ({"kind": 5}, "kind is 5: must be one of 'trained'"),
    (b"5", "it is 5: must be an object"),
    (b"[" * 100_000, "could not be understood: it is"),
    (b'{"a": NaN}', "could not be understood: it holds NaN"),
]


@pytest.mark.parametrize(
    ("command", "change", "says"),
    [("run", *case) for case in WRONG]
    + [(command, *case) for case in WRONG[:8:4] for command in ("compile", "profile")],
    ids=str,
)
def test_a_run_that_describes_another_network_is_one_line(command, change, says, run, tmp_path, capsys):
    copy = resealed(run, tmp_path / "copy", change)
    assert call(command, copy, *(["--image", "x.png"] if command == "run" else [])) == 1
    out, err = capsys.readouterr()
    assert len(err.splitlines()) == 1 and says in err and not out


def test_a_run_of_images_that_no_file_holds_says_so(tmp_path):
    """A data set of a plugin may have any channels."""
    to_pil_image(load_data("digits").test[0][0]).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="1 or 3 channels; the network's images have 2"):
        ImageInput((2, 8, 8), (0.5, 0.5), (1.0, 1.0)).read(tmp_path / "a.png")


def test_names_of_classes_cannot_steer_the_terminal(run, tmp_path, capsys):
    names = ["\x1b[31mred", "\x07", "a\nb", "\u202eright to left", "\udcff", "\x9b2J", "7", "8", "9", "é"]
    copy = resealed(run, tmp_path / "copy", {"classes": names})
    to_pil_image(load_data("digits").test[0][0]).save(tmp_path / "a.png")
    assert call("run", copy, "--image", tmp_path / "a.png", "--top", 10, "--quiet") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10 and all(line.isprintable() for line in lines)
    assert {line.split(maxsplit=2)[2] for line in lines} >= {r"\x1b[31mred", r"a\nb", r"\udcff", "é"}
    assert call("run", copy, "--image", tmp_path / "a.png", "--top", 10, "--json") == 0
    assert {row["name"] for row in json.loads(capsys.readouterr().out)[0]["classes"]} == set(names)


def test_the_most_pixels_that_a_run_may_say_are_a_line_where_there_is_no_memory(run, tmp_path):
    copy = resealed(run, tmp_path / "copy", {"shape": [1, 1 << 13, 1 << 13]})
    to_pil_image(load_data("digits").test[0][0]).save(tmp_path / "a.png")
    torch.ones((), requires_grad=True).backward()

    def little(command, *more):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + (1 << 30)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        main([command, str(copy), *more])

    for command, *more in (["run", "--image", str(tmp_path / "a.png")], ["profile", "--no-time"]):
        ended = in_fork(little, command, *more)
        lines = ended.stderr.splitlines()
        assert (ended.returncode, len(lines)) in {(0, 0), (1, 1)}, ended
        assert all("memory" in line for line in lines)
