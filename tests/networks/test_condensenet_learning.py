"""CondenseNet, V1 and V2, in the form that learns: trained, deployed, and read from official checkpoints."""

import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from regroup.errors import CheckpointError
from regroup.networks import create_model
from regroup.ops.bounds import rounding_bound, worst_ratio
from regroup.ops.indexed import IndexedLinear
from regroup.strategies.condensed import CondensedLinear
from regroup.strategies.condensing import CondensingConv
from regroup.strategies.learning import deploy, groupings, learned_modules, penalty, set_progress

SMALL = {
    "condensenet_cifar_50": {"depths": (2, 1, 1), "num_classes": 5},
    "condensenetv2_a": {"depths": (1, 2, 1, 1), "growth": (8, 8, 16, 16), "hidden": 12, "num_classes": 5},
}
BOTH = pytest.mark.parametrize("name", SMALL)


def small(name, **options):
    return create_model(name, **SMALL[name], **options)


def shaken(model):
    """Give all batch norms their own numbers, and all weights some that no initialisation gives."""
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            nn.init.uniform_(tensor, 0.5, 1.5)
    return model.eval()


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("condensenet_74_g4", 11_922_680),
        ("condensenet_74_g8", 11_103_608),
        ("condensenetv2_a", 3_350_244),
        ("condensenetv2_b", 6_311_412),
        ("condensenetv2_c", 15_097_752),
    ],
)
def test_the_learning_form_has_the_parameters_of_the_official_one(name, parameters):
    with torch.device("meta"):
        model = create_model(name, learned=True)
    assert sum(p.numel() for p in model.parameters()) == parameters


@BOTH
def test_trained_from_scratch_it_deploys_into_the_network_as_published(name):
    model = small(name, learned=True)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    x, y = torch.randn(4, 3, 32, 32), torch.arange(4)
    for step in range(5):
        set_progress(model, step / 5)
        loss = F.cross_entropy(model(x), y) + penalty(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    plain = deploy(model)
    assert not learned_modules(plain)
    published = small(name).eval()
    published.load_state_dict(plain.state_dict())
    model.double().eval(), published.double()
    x = x.double()
    torch.testing.assert_close(published(x), model(x))


@BOTH
def test_every_weight_of_a_new_network_learns(name):
    model = small(name, learned=True)
    model(torch.randn(4, 3, 64, 64)).square().sum().backward()
    assert not [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()]


def test_the_classifier_follows_the_form_of_the_network():
    model = small("condensenet_cifar_50", learned=True)
    model.reset_classifier(7)
    assert isinstance(model.classifier, CondensedLinear)
    set_progress(model, 1)
    plain = deploy(model)
    assert type(plain.classifier) is IndexedLinear
    plain.reset_classifier(3)
    assert type(plain.classifier) is IndexedLinear


@torch.no_grad()
def test_the_classifier_keeps_the_inputs_with_the_largest_columns():
    layer = CondensedLinear(9, 4)
    layer.weight.copy_(torch.tensor([3, -9, 1, 8, -2, 7, 0, 6, 5]).repeat(4, 1) / 8)
    x = torch.randint(-8, 9, (6, 9)).float()
    set_progress(layer, 0.49)
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
    set_progress(layer, 0.5)
    assert groupings(layer)[""]["groups"] == [{"inputs": [1, 3, 5, 7], "outputs": [0, 1, 2, 3]}]
    columns = layer.weight.double() * torch.tensor([0, 1, 0, 1, 0, 1, 0, 1, 0])
    exact = F.linear(x.double(), columns, layer.bias.double())
    magnitude = F.linear(x.double().abs(), columns.abs(), layer.bias.double().abs())
    for result in (layer(x), deploy(layer)(x)):
        assert worst_ratio(result, exact, rounding_bound(exact, magnitude, terms=10)) <= 1


# ---- the official checkpoints

NAMES = {
    "stem": "features.init_conv",
    "tail.0": "features.norm_last",
    "hidden.0.reduce": "features.se_last.fc.0",
    "hidden.0.expand": "features.se_last.fc.2",
    "hidden.2": "fc",
}
PARTS = {
    "conv1": "conv_1",
    "conv2": "conv_2",
    "reactivate": "sfr",
    "squeeze.reduce": "se.fc.0",
    "squeeze.expand": "se.fc.2",
}
NORM = ["norm.bias", "norm.running_mean", "norm.running_var", "norm.weight"]
LEARNED = ["_count", "_mask", "_stage", "conv.weight", *NORM]
LAYER = "features.denseblock_#.denselayer_#."
ENDS = ["features.init_conv.weight", *(f"features.norm_last.{n.removeprefix('norm.')}" for n in NORM)]
KEYS = {
    "condensenet_cifar_50": sorted(
        [f"{LAYER}conv_1.{k}" for k in LEARNED]
        + [f"{LAYER}conv_2.{k}" for k in ["conv.weight", *NORM]]
        + [*ENDS, "classifier.weight", "classifier.bias"]
    ),
    "condensenetv2_a": sorted(
        [f"{LAYER}{part}.{k}" for part in ("conv_1", "sfr") for k in LEARNED]
        + [f"{LAYER}conv_2.{k}" for k in ["conv.weight", *NORM]]
        + [f"{LAYER}se.fc.{k}.weight" for k in (0, 2)]
        + [f"features.se_last.fc.{k}.weight" for k in (0, 2)]
        + [*ENDS, "fc.weight", "fc.bias", "classifier.weight", "classifier.bias"]
    ),
}


def official_key(key):
    """Return what the official code calls a tensor of ours."""
    for ours, theirs in NAMES.items():
        key = theirs + key.removeprefix(ours) if key.startswith(ours + ".") else key
    found = re.fullmatch(r"stages\.(\d+)\.(\d+)\.(.*)", key)
    if not found:
        return key
    stage, block, rest = int(found[1]) + 1, int(found[2]) + 1, found[3]
    for ours, theirs in PARTS.items():
        rest = theirs + rest.removeprefix(ours) if rest.startswith(ours + ".") else rest
    return f"features.denseblock_{stage}.denselayer_{block}.{rest}"


def official(model):
    """Return the state dict that the official code would have saved of this network while training."""
    state = {}
    for name, value in model.state_dict().items():
        key = official_key(name)
        if name.endswith(".kept") and name != "classifier.kept":
            at = key.removesuffix("kept")
            state[f"{at}_mask"] = model.get_submodule(name.removesuffix(".kept")).mask().float()
            state[f"{at}_count"], state[f"{at}_stage"] = torch.zeros(1), torch.zeros(1)
        elif not name.endswith(("num_batches_tracked", ".kept")):
            state[key] = value.flatten(1) if ".fc." in key else value
    return {f"module.{key}": value.clone() for key, value in state.items()}


@BOTH
def test_the_layout_under_test_is_the_official_one(name):
    keys = {key.removeprefix("module.") for key in official(small(name, learned=True))}
    assert sorted({re.sub(r"(block|layer)_\d+", r"\1_#", key) for key in keys}) == KEYS[name]


@BOTH
def test_an_official_checkpoint_of_the_middle_of_training_goes_on(name):
    model = shaken(small(name, learned=True))
    set_progress(model, 0.3)
    again = small(name, learned=True, weights=official(model)).eval()
    assert groupings(again) == groupings(model)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(again(x), model(x))
    with pytest.raises(CheckpointError, match="condensing is not over"):
        small(name, weights=official(model))


def converted(state, groups):
    """Convert a state as the official code does when training is over, one connection at a time."""
    result = dict(state)
    for at in [key.removesuffix("_mask") for key in state if key.endswith("conv_1._mask")]:
        mask, weight = (state[at + key][:, :, 0, 0] for key in ("_mask", "conv.weight"))
        index = [[c for c in range(mask.shape[1]) if mask[g, c]] for g in range(groups)]
        rows = [
            [weight[g + groups * k, c] for c in index[g]]
            for g in range(groups)
            for k in range(len(weight) // groups)
        ]
        flat = [c for chosen in index for c in chosen]
        result[at + "conv.weight"] = torch.tensor(rows)[:, :, None, None]
        result[at + "index"] = torch.tensor(flat)
        for key in NORM:
            result[at + key] = state[at + key][flat]
    for at in [key.removesuffix("_mask") for key in state if key.endswith("sfr._mask")]:
        mask, weight = (state[at + key][:, :, 0, 0] for key in ("_mask", "conv.weight"))
        fed = [(g, k) for g in range(groups) for k in range(len(mask)) if mask[k, g]]
        matrix = torch.zeros(len(fed), len(mask))
        for source, (_, k) in enumerate(fed):
            matrix[source, k] = 1
        rows = torch.stack([weight[k, g::groups] for g, k in fed])
        result[at + "conv.weight"], result[at + "index"] = rows[:, :, None, None], matrix
    return {key: value for key, value in result.items() if not key.endswith(("_mask", "_count", "_stage"))}


@BOTH
def test_an_official_checkpoint_of_the_end_of_training_deploys_as_the_official_code_does_it(name):
    model = shaken(small(name, learned=True))
    with torch.no_grad():
        model.classifier.weight.normal_()
    for module in model.modules():
        if isinstance(module, CondensingConv):
            module.set_progress(1)  # not the classifier: the official one is cut by the conversion
    state = official(model)
    end = converted({k.removeprefix("module."): v for k, v in state.items()}, groups=model.config.groups)
    if name == "condensenet_cifar_50":
        weight, bias = end.pop("classifier.weight"), end.pop("classifier.bias")
        best = weight.abs().sum(0).sort().indices[weight.shape[1] - weight.shape[1] // 2 :]
        end |= {"classifier.index": best, "classifier.linear.weight": weight[:, best]}
        end |= {"classifier.linear.bias": bias}
    ours, theirs = (small(name, weights=w).double().eval() for w in (state, end))
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x))
    set_progress(model, 1)
    torch.testing.assert_close(ours(x), model.double()(x))


def test_a_checkpoint_that_lacks_a_mask_is_refused_by_its_name():
    state = official(small("condensenet_cifar_50", learned=True))
    del state["module.features.denseblock_2.denselayer_1.conv_1._mask"]
    with pytest.raises(CheckpointError, match=r"missing: stages\.1\.0\.conv1\.kept"):
        small("condensenet_cifar_50", learned=True, weights=state)
