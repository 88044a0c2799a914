"""Options of `train`, `compare`, `convert`, found by looking: what they change of what is kept, all pairs."""

import itertools
import random
from contextlib import contextmanager
from dataclasses import fields
from inspect import signature

import pytest
import torch

from regroup.cli import compare as compare_command
from regroup.cli import convert as convert_command
from regroup.cli import main
from regroup.cli import train as train_command
from regroup.comparison import runner
from regroup.conversion import identity as conversion_identity
from regroup.conversion.convert import ConvertConfig
from regroup.errors import RegroupError
from regroup.interop.detectors import DETECTORS
from regroup.interop.heads import HEADS
from regroup.loading.trained import Trained
from regroup.networks import create_model
from regroup.training import load_data, loop
from regroup.training import run as training_run
from regroup.training.checkpoint import save_weights
from regroup.training.data import data_sets
from regroup.training.processes import Processes
from regroup.training.recipe import Recipe
from tests.data.malformed import encoded, picture
from tests.faults import runs
from tests.faults.programs import LONG
from tests.training.test_identity import NEUTRAL, OTHER
from tests.training.tiny_scenes import small as small_scenes

TRAIN = {name: [value] for name, value in OTHER.items()}
TRAIN |= {
    "output": None,
    "task": None,
    "model": ["resnet_small"],
    "model_options": [("depth=3",)],
    "strategy": ["grouped:groups=2", "grouped:groups=4", "shuffled:groups=2"],
    "where": ["3"],
    "pretrained": [True],
    "weights": ["RUN", "RUN/best"],
    "new_head": [True],
    "data": ["OTHER"],
    "image": [10],
    "accelerate": [True],
    "teacher": ["RUN"],
    "devices": ["data=2", "groups=2,data=3"],
    "plugin": [("PLUGIN",), ("PLUGIN", "ANOTHER")],
}
"""Other values of each option of `train` that decides weights; None: of one that each run here has anew, and
of the task, which network and data decide."""

TRAIN_NEUTRAL = {name: [value] for name, value in NEUTRAL.items()}
TRAIN_NEUTRAL |= {
    "device": ["cpu"],
    "log_interval": [7],
    "log_tensorboard": [True],
    "bad_images": ["skip"],
    "download": [True],
    "wait": [False],
    "resume": [()],
    "quiet": [True],
}
"""... that decides none: of images only whether bad ones are left out, which their contents tell."""

COMPARE = {
    "out": None,
    "task": None,
    "data": ["OTHER"],
    "backbone": ["resnet_small"],
    "strategies": [("grouped:groups=4",), ("shuffled:groups=2",)],
    "where": ["3"],
    "image": [10],
    "warmup_epochs": [0.5],
    "model_options": [("depth=3",)],
    "pretrained": [True],
    "weights": ["RUN", "RUN/best"],
    "new_head": [True],
    "teacher": ["RUN"],
    "accelerate": [True],
    "plugin": [("PLUGIN",), ("PLUGIN", "ANOTHER")],
}
COMPARE |= {field.name: TRAIN[field.name] for field in fields(Recipe) if field.name not in COMPARE}
"""The same for `compare`, of the run of its grouping."""

COMPARE_NEUTRAL = {
    "all": [True],
    "on": [],  # without other machines nothing can be tried
    "cpus": [2],
    "gpus": [1.0],
    "seeds": [2],
    "device": ["cpu"],
    "workers": [2],
    "bad_images": ["skip"],
    "download": [True],
    "time": [False],
    "retime": [True],
    "wait": [False],
    "json": [True],
    "quiet": [True],
}
"""... of which the run of the first seed knows nothing."""

CONVERT = {
    "out": None,
    "model": ["DENSE/other"],
    "data": ["OTHER"],
    "budget": [("macs=0.7",), ("macs=0.8", "params=0.9")],
    "choice": ["magnitude"],
    "exclude": [("3",)],
    "images": [17],
    "epochs": [2, 4],  # without any, the learning rate decides nothing
    "lr": [0.06],
    "batch": [2],
    "threads": [2],
    "pretrained": [True],
    "weights": ["FILE", "FILE/other"],
    "seed": [1],
    "plugin": [("PLUGIN",), ("PLUGIN", "ANOTHER")],
}
"""The same for `convert`: what its layers can become, and how it is trained at the end."""

CONVERT_NEUTRAL = {
    "bad_images": ["skip"],
    "download": [True],
    "dry_run": [True],
    "wait": [False],
    "json": [True],
    "quiet": [True],
}

NEEDS = {"accelerate": {"strategy": "grouped:groups=2"}, "new_head": {"weights": "RUN"}}
NEEDS = {"train": NEEDS, "compare": NEEDS, "convert": {"weights": {"model": "resnet_small"}}}
"""What else must be given for an option to mean anything."""

PAIRS = 10**6 if LONG else 60
"""How many pairs of options are tried, chosen anew each time; all of them in the long form."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A place with two folders of images that differ in one pixel, two plugins and a finished run."""
    place = tmp_path_factory.mktemp("options")
    for folder, split, label, n in itertools.product(("data", "other"), ("train", "val"), "ab", range(4)):
        path = place / folder / split / label / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = picture("L", (8, 8))
        image.putpixel((n, 0), 9 if (folder, split, label, n) == ("other", "val", "a", 1) else 8)
        path.write_bytes(encoded(image, "PNG"))
    for name in ("plugin", "another"):
        (place / f"{name}.py").write_text(f"NAME = {name!r}\n")
    with runs.registered():
        assert command(place, "train", BASE["train"] | {"output": "RUN", "model_ema": True}) == 0
        for seed, name in enumerate(("dense", "dense-other")):
            wide = Trained.on(load_data(place / "data", 8), "wide", {}, None, None)
            save_weights(place / name, wide.build(seed=seed), network=wide.to_json())
    for seed, name in enumerate(("file", "file-other")):
        torch.manual_seed(seed)
        torch.save(create_model("resnet_small", num_classes=2).state_dict(), place / f"{name}.pth")
    return place


BASE = {
    "train": {"model": "tiny", "data": "DATA", "image": 8, "epochs": 3, "lr": 0.05, "display": "quiet"},
    "compare": {"backbone": "tiny", "data": "DATA", "image": 8, "epochs": 3, "time": False, "quiet": True},
}
BASE["compare"] |= {"strategies": ("grouped:groups=2",), "batch_size": 16}
BASE["train"] |= {"batch_size": 4}
BASE["convert"] = {"model": "DENSE", "data": "DATA", "budget": ("macs=0.8",), "images": 16, "epochs": 3}


def words(place, of, name, value):
    """Return an option of a command as it stands in a command line."""
    flag, paths = "--" + name.replace("_", "-"), {"DATA": "data", "OTHER": "other", "RUN": "run"}
    paths |= {"RUN/best": "run/best", "PLUGIN": "plugin.py", "ANOTHER": "another.py", "DENSE": "dense"}
    paths |= {"DENSE/other": "dense-other", "FILE": "file.pth", "FILE/other": "file-other.pth"}
    if isinstance(value, bool):
        return [flag if value else flag.replace("--", "--no-", 1)]
    values = value if isinstance(value, (tuple, list)) else [value]
    said = [str(place / paths[v] if v in paths else v) for v in values]
    return said if (of, name) == ("convert", "model") else [flag, *said]


def command(place, name, options):
    """Run a command with options and return how it ended."""
    with pytest.raises(SystemExit) as caught:
        main([name, *(word for option in options.items() for word in words(place, name, *option))])
    return caught.value.code


@contextmanager
def identities(monkeypatch, seen):
    """Let commands go as far as to know what runs they would do, and add the hashes of these to `seen`."""

    class KnownError(RegroupError):
        """The identity is known."""

    def known(identify):
        def instead(*arguments, **more):
            found = identify(*arguments, **more).digest
            configs = [each for each in arguments if isinstance(each, ConvertConfig)]
            seen.append(found + str([each.training and each.training.result() for each in configs]))
            raise KnownError("known")

        return instead

    with runs.registered(), monkeypatch.context() as patch:
        for module in (training_run, runner, conversion_identity):
            patch.setattr(module, "identify", known(module.identify))
        patch.setattr(loop, "joined", first_of)
        yield


class First(Processes):
    """The first of several processes, of which there are no others."""

    def wrap(self, model):
        return model

    def agree(self, number):
        return number

    def agree_all(self, numbers):
        return list(numbers)


@contextmanager
def first_of(device, devices=None):
    """Be the first of as many processes as are asked for, as far as to know what run it is."""
    yield First(0, 1 if devices is None else devices.data, torch.device("cpu"))


def identity(place, name, options, monkeypatch):
    """Return the identity of the run, or of the grouping's, that a command would do."""
    seen = []
    with identities(monkeypatch, seen):
        out = "output" if name == "train" else "out"
        assert command(place, name, options | {out: place / f"new-{name}"})
    return seen[-1] if seen else None


def changed(name, options):
    """Return the base with options, and with what these need."""
    needed = {
        k: v for option in options for k, v in NEEDS[name].get(option, {}).items() if k in OPTIONS[name]
    }
    return BASE[name] | needed | options


OPTIONS = {"train": {f.name for f in fields(train_command.Options)}}
OPTIONS["compare"] = {f.name for f in fields(compare_command.Options)}
OPTIONS["convert"] = {f.name for f in fields(convert_command.Options)}
TABLES = {"train": (TRAIN, TRAIN_NEUTRAL), "compare": (COMPARE, COMPARE_NEUTRAL)}
TABLES["convert"] = (CONVERT, CONVERT_NEUTRAL)


@pytest.mark.parametrize("name", TABLES)
def test_of_every_option_it_is_known_whether_it_decides_weights(name):
    """An option that is new belongs into one of the tables, with a value that it does not have by itself."""
    decides, neutral = TABLES[name]
    assert OPTIONS[name] - decides.keys() - neutral.keys() == set(), "not in a table yet"
    assert (decides.keys() | neutral.keys()) - OPTIONS[name] == set(), "no option any more"
    assert not decides.keys() & neutral.keys()


@pytest.mark.parametrize("name", TABLES)
def test_runs_of_any_two_settings_share_nothing(name, place, monkeypatch, capsys, tried):
    """All single options and pairs of them, each value: no two have an identity in common."""
    decides, neutral = TABLES[name]
    values = [(option, value) for option in decides for value in decides[option] or ()]
    pairs = [pair for pair in itertools.combinations(values, 2) if pair[0][0] != pair[1][0]]
    random.SystemRandom().shuffle(pairs)
    needed = [more for option, more in NEEDS[name].items() if {option, *more} <= OPTIONS[name]]
    chosen = [{}, *needed, *(dict([value]) for value in values), *map(dict, pairs[:PAIRS])]
    found, refused = {}, 0
    for more in chosen:
        options = changed(name, more)
        one = identity(place, name, options, monkeypatch)
        refused += one is None
        same = found.setdefault(one, options)
        assert one is None or same == options, "two runs share an identity"
    assert refused < len(chosen) / 5, capsys.readouterr().err[-1000:]
    tried(f"runs of `{name}` of one or two other settings, all compared", len(chosen))
    nothing = identity(place, name, BASE[name], monkeypatch)
    for option, others in neutral.items():
        for value in others:
            assert identity(place, name, BASE[name] | {option: value}, monkeypatch) == nothing, option


def test_teams_that_share_channels_do_the_run_that_each_would_do_alone(place, monkeypatch):
    """How many parts the images have decides weights; how many processes have each part does not."""
    of = {}
    for devices in (None, "groups=1", "groups=2", "groups=4", "data=2", "groups=2,data=2", "data=4"):
        more = {} if devices is None else {"devices": devices}
        of[devices] = identity(place, "train", BASE["train"] | more, monkeypatch)
    assert of[None] == of["groups=1"] == of["groups=2"] == of["groups=4"]
    assert of["data=2"] == of["groups=2,data=2"] and len(set(of.values())) == 3


def options_of_head(head):
    """Return options of a head with other values than their own, by looking at what takes them."""
    if head not in DETECTORS:
        return []
    makers = DETECTORS[head]
    known = {name: each for make in reversed(makers) for name, each in signature(make).parameters.items()}
    numbers = {n: p.default for n, p in known.items() if type(p.default) in (int, float)}
    numbers = {n: value for n, value in numbers.items() if not n.startswith(("min_", "max_"))}  # of images
    lower = {n: max(1, value - 1) if isinstance(value, int) else 0.9 * value for n, value in numbers.items()}
    return [f"{n}={64 if n == 'pyramid_channels' else value}" for n, value in lower.items() if value]


@pytest.mark.parametrize("name", ["train", "compare"])
def test_networks_of_any_task_with_any_two_options_share_nothing(name, place, monkeypatch, capsys, tried):
    """Every head, each of its options and pairs of them: networks of other tasks are runs as all are."""
    names = [(task, f"{head}:resnet_small") for head, (task, _) in HEADS.items()]
    small = ("depths=[1,1,1]", "widths=[8,8,16]")
    chosen = [(task, model, small) for task, model in names]
    for task, model in names:
        others = options_of_head(model.partition(":")[0])
        more = [*itertools.combinations(others, 1), *itertools.combinations(others, 2)]
        chosen += [(task, model, small + each) for each in more]
    random.SystemRandom().shuffle(chosen)
    monkeypatch.setitem(data_sets._items, "small_scenes", small_scenes)
    found, refused = {}, 0
    for task, model, said in chosen[: PAIRS // 3]:
        options = {"task": task, "model" if name == "train" else "backbone": model, "model_options": said}
        options = BASE[name] | {"data": "small_scenes", "image": 32} | options
        one = identity(place, name, options, monkeypatch)
        refused += one is None
        same = found.setdefault(one, options)
        assert one is None or same == options, "two runs share an identity"
    assert refused < 2 * len(chosen[: PAIRS // 3]) / 3, capsys.readouterr().err[-1000:]
    tried(f"runs of `{name}` of networks for other tasks, all compared", len(found))


def test_a_run_is_not_resumed_with_any_option_that_decides(place, capsys, tmp_path, monkeypatch):
    """Only epochs may change; what decides nothing may, too. Nothing in the directory is touched else."""
    out = {"output": tmp_path / "run"}
    with runs.registered():
        assert command(place, "train", BASE["train"] | out) == 0
        before = runs.contents(tmp_path)
        monkeypatch.setattr(loop, "joined", first_of)
        for option, values in TRAIN.items():
            for value in [] if option == "epochs" else values or []:
                capsys.readouterr()
                assert command(place, "train", changed("train", {option: value}) | out | {"resume": ()}), (
                    option
                )
                assert "as in the run to resume" in capsys.readouterr().err.splitlines()[-1], option
        assert runs.contents(tmp_path) == before
        for option, values in TRAIN_NEUTRAL.items():
            for value in values:
                assert command(place, "train", BASE["train"] | {option: value} | out | {"resume": ()}) == 0
