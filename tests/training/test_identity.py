"""Identities: runs that differ in anything that decides the weights share none; equal runs do."""

import itertools
import json
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import regroup
from regroup.strategies import parse_strategy, strategies
from regroup.training import TrainConfig
from regroup.training.code import sources
from regroup.training.data import Augmentation, TensorSplit, load_data
from regroup.training.identity import Identity, Origin, digest_of_state, identify, structure
from tests.training.cases import built, config, data

OTHER = {
    "epochs": 4,
    "batch_size": 8,
    "grad_accum_steps": 2,
    "opt": "adamw",
    "lr": 0.06,
    "momentum": 0.8,
    "weight_decay": 2e-4,
    "sched": "step",
    "warmup_epochs": 1.0,
    "warmup_lr": 1e-4,
    "min_lr": 1e-5,
    "decay_epochs": 1.0,
    "decay_milestones": [1, 2],
    "decay_rate": 0.2,
    "smoothing": 0.1,
    "mixup": 0.1,
    "cutmix": 0.1,
    "augment": False,
    "aa": "rand-m9",
    "clip_grad": 1.0,
    "clip_mode": "value",
    "model_ema": True,
    "model_ema_decay": 0.9,
    "model_ema_warmup": False,
    "distillation_alpha": 0.4,
    "distillation_temperature": 3.0,
    "amp": True,
    "amp_dtype": "float16",
    "channels_last": True,
    "seed": 1,
}
"""Another value of every setting that decides weights."""

NEUTRAL = {"workers": 2, "device": None, "recovery_interval": 3, "checkpoint_hist": 5, "display": "plain"}
SAID = {"model": "a", "where": None, "strategy": None, "option depth": 3, "pretrained": False}


def brighter(images):
    """The data set with one pixel of one test image changed by one."""
    pixels = images.test.images.clone()
    pixels[3, 0, 2, 2] += 1
    return replace(images, test=TensorSplit(pixels, images.test.labels))


def relabelled(images):
    labels = images.train.labels.clone()
    labels[5] = (labels[5] + 1) % 4
    return replace(images, train=TensorSplit(images.train.images, labels))


DATA = {
    "a pixel": brighter,
    "a label": relabelled,
    "a name": lambda images: replace(images, classes=("x", *images.classes[1:])),
    "order": lambda images: replace(
        images, train=TensorSplit(images.train.images.flip(0), images.train.labels.flip(0))
    ),
    "mean": lambda images: replace(images, mean=(0.41,)),
    "std": lambda images: replace(images, std=(0.21,)),
    "part": lambda images: replace(images, part=0.9),
    "crop": lambda images: replace(images, crop="squash"),
    "resample": lambda images: replace(images, resample="nearest"),
    "augmentation": lambda images: replace(images, augmentation=Augmentation("crop")),
    "fewer": lambda images: data(count=80),
}


def identity(changes=(), *, said=(), images=None, **more):
    origin = Origin(said={**SAID, **dict(said)}, **more.pop("origin", {}))
    return identify(
        more.pop("model", None) or built(), images or data(), config(**dict(changes)), origin=origin, **more
    )


def taught(last):
    teacher = built()
    with torch.no_grad():
        teacher[0].weight.view(-1)[-1] = last
    return teacher


def one_by_one():
    """Return the identities of runs that differ from one run in one thing each, by what that is."""
    images = data()
    found = {"nothing": identity()}
    found |= {name: identity({name: value}) for name, value in OTHER.items()}
    found |= {f"data: {name}": identity(images=change(images)) for name, change in DATA.items()}
    found |= {f"said: {name}": identity(said={name: "another"}) for name in SAID}
    found |= {f"teacher {last}": identity(teacher=taught(last)) for last in (0.0, 1e-7)}
    found["processes"] = identity(processes=2)
    found |= {f"weights {text}": identity(origin={"weights": text}) for text in ("abc", "abd")}
    wider = nn.Sequential(*built()[:5], nn.Linear(144, 4, bias=False))
    found["structure"] = identity(model=wider)
    found["an attribute"] = identity(model=nn.Sequential(*built()[:3], nn.Dropout(0.2), *built()[4:]))
    return found


def test_every_setting_that_decides_weights_is_tried_here():
    assert OTHER.keys() == TrainConfig().result().keys()
    assert all(config().to_json()[name] != value for name, value in OTHER.items())


def test_runs_that_differ_in_any_one_thing_never_share_an_identity():
    found = one_by_one()
    pairs = list(itertools.combinations(found, 2))
    assert len(pairs) > 1000
    assert [(a, b) for a, b in pairs if found[a].digest == found[b].digest] == []
    assert identity().digest == found["nothing"].digest
    for name, other in found.items():
        differences = found["nothing"].differences(other)
        assert bool(differences) == (name != "nothing"), name
        if name in OTHER:
            assert [d.name for d in differences] == [name] and differences[0].now == OTHER[name]


some = st.fixed_dictionaries(
    {}, optional={n: st.sampled_from([v, config().to_json()[n]]) for n, v in OTHER.items()}
)


@given(a=some, b=some)
@settings(max_examples=40, deadline=None)
def test_identities_are_equal_exactly_if_all_settings_are(a, b):
    images, model = data(), built()
    one, two = (identify(model, images, config(**changes)) for changes in (a, b))
    same = config(**a).result() == config(**b).result()
    assert (one.digest == two.digest) == same == (one.differences(two) == [])
    names = {n for n in OTHER if config(**a).to_json()[n] != config(**b).to_json()[n]}
    assert {difference.name for difference in one.differences(two)} == names


def test_what_only_concerns_how_a_run_looks_changes_nothing(tmp_path):
    assert (
        identity(NEUTRAL).digest == identity({"output": tmp_path, "resume": True}).digest == identity().digest
    )
    model = built().to(memory_format=torch.channels_last).eval()
    assert identity(model=model).digest == identity().digest


def test_every_variant_of_every_strategy_has_its_own_even_where_nothing_is_said():
    """Python users say nothing of their model: its modules tell, also where all tensors fit."""
    labels = {v.label for name in strategies for v in strategies[name].variants()}
    labels |= {"groupable:groups=32", "dynamic:gate=0.25", "shifted:bits=4", "grouped:groups=2"}
    labels |= {"assigned:groups=4", "shuffled:groups=2", "octave:alpha=0.25", "mixed:kernels=3+5"}
    found = {}
    for label in sorted({parse_strategy(label).label for label in labels}):
        torch.manual_seed(0)
        model = regroup.create_model("resnet_small", num_classes=10, in_chans=1)
        try:
            regroup.replace(model, parse_strategy(label))
        except regroup.RegroupError:
            continue
        key = json.dumps(structure(model))
        assert key not in found, f"{label} is taken for {found[key]}"
        found[key] = label
    assert len(found) > 20


def plugin(tmp_path, name, text):
    from regroup.loading.plugins import load_plugins

    path = tmp_path / name
    path.write_text(text)
    return load_plugins([path])[0]


def test_the_source_of_what_the_user_wrote_counts_and_so_does_what_it_imports(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "helping.py").write_text("def double(x):\n    return 2 * x\n")
    text = "import helping\nfrom torch import nn\nclass Own(nn.Module):\n    "
    text += "forward = lambda self, x: helping.double(x)\n"
    before = sources([plugin(tmp_path, "own.py", text).Own])
    assert set(before) == {"own.py", "helping.py"}
    assert sources([plugin(tmp_path, "own.py", text).Own]) == before
    edited = sources([plugin(tmp_path, "own.py", text.replace("double(x)", "double(-x)")).Own])
    assert edited["own.py"] != before["own.py"] and edited["helping.py"] == before["helping.py"]
    (tmp_path / "helping.py").write_text("def double(x):\n    return 3 * x\n")
    assert sources([plugin(tmp_path, "own.py", text).Own]) == before, "Python has imported it already"
    del sys.modules["helping"]
    assert sources([plugin(tmp_path, "own.py", text).Own])["helping.py"] != before["helping.py"]
    del sys.modules["helping"]
    assert sources([nn.Linear, Identity, pytest.Module, json.dumps]) == {}


@pytest.mark.parametrize("change", ["content", "exchange", "rename", "move"])
def test_images_in_a_folder_count_by_name_class_and_content(change, tmp_path):
    from PIL import Image

    for label, shade in (("cat", 40), ("dog", 200)):
        (tmp_path / label).mkdir()
        for n in range(5):
            Image.new("L", (8, 8), shade + n).save(tmp_path / label / f"{n}.png")

    def digest():
        images = load_data(tmp_path)
        return images.train.digest() + images.test.digest()

    before = digest()
    assert digest() == before
    cat, dog = tmp_path / "cat" / "1.png", tmp_path / "dog" / "1.png"
    if change == "content":
        Image.new("L", (8, 8), 90).save(cat)
    elif change == "exchange":
        cat.rename(tmp_path / "x")
        dog.rename(cat)
        (tmp_path / "x").rename(dog)
    elif change == "rename":
        cat.rename(cat.with_name("7.png"))
    else:
        cat.rename(dog.with_name("8.png"))
    assert digest() != before


def test_glyphs_of_another_seed_or_count_are_other_images():
    def digest(**options):
        return load_data("glyphs", 8, **{"count": 2, "classes": "AB", **options}).train.digest()

    others = [{"seed": 1}, {"count": 3}, {"classes": "BA"}, {"channels": 1}]
    assert len({digest(), *(digest(**other) for other in others)}) == 5
    assert digest() == digest()


def test_one_bit_of_a_weight_changes_the_hash_of_a_state():
    model = built()
    before = digest_of_state(model)
    assert digest_of_state(built()) == before
    with torch.no_grad():
        model[1].running_var[2] += 2**-20
    assert digest_of_state(model) != before
