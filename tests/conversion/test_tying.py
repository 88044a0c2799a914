"""Tied sets: reordering one changes no result, and none that brute force finds is missing."""

import copy
import itertools
import os

import pytest
import torch
import torchvision
from hypothesis import HealthCheck, given, settings
from torch import nn

import regroup
from regroup.conversion.structure.trace import tensors_in
from regroup.conversion.tying import reorder, tied_sets
from regroup.errors import ConversionError, ParameterError
from tests.conversion.graphs import Gate, image, nets, whole_numbers

CASES = int(os.environ.get("REGROUP_FUZZ", "60"))


def shuffled(size, seed):
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck))
@given(nets())
def test_any_order_of_any_set_leaves_random_networks_equal(model):
    x = image()
    whole_numbers(model)
    ties = tied_sets(model, x)
    before = model(x)
    for i, tied in enumerate(ties.sets):
        reorder(model, tied, shuffled(tied.size, i))
        assert torch.equal(model(x), before), str(tied)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(nets())
def test_every_dimension_is_in_a_set_or_left_with_a_reason(model):
    ties = tied_sets(model, image().float())
    told = {(e.name, e.dim) for e in ties.left} | {(c.name, c.dim) for s in ties.sets for c in s.carriers}
    assert all(e.reason for e in ties.left)
    used = {n for n, p in model.named_parameters() if p.ndim == 4 and p.shape[0] > 1 and "stem" in n}
    assert all((name, 0) in told for name in used)


# -- against brute force --


class Small(nn.Module):
    """A few layers without bias, run by a function of them."""

    def __init__(self, run, **layers):
        super().__init__()
        self.layers = nn.ModuleDict(layers)
        self.run = run

    def forward(self, x):
        return self.run(x, **self.layers)


def conv(c, m, groups=1):
    return nn.Conv2d(c, m, 1, groups=groups, bias=False)


def act(x):
    return nn.functional.leaky_relu(x, 2.0)


SMALL = {
    "chain": Small(lambda x, a, b, c: c(act(b(act(a(x))))), a=conv(2, 3), b=conv(3, 3), c=conv(3, 2)),
    "residual": Small(
        lambda x, a, b, c: c(act((y := a(x)) + act(b(act(y))))), a=conv(2, 3), b=conv(3, 3), c=conv(3, 2)
    ),
    "concat": Small(
        lambda x, a, b, c: c(torch.cat([act(a(x)), act(b(x))], 1)), a=conv(2, 2), b=conv(2, 2), c=conv(4, 2)
    ),
    "split": Small(
        lambda x, a, b, c: c(torch.cat([(y := act(a(x)))[:, :2], act(b(y[:, 2:]))], 1)),
        a=conv(2, 4),
        b=conv(2, 2),
        c=conv(4, 2),
    ),
    "depthwise": Small(
        lambda x, a, b, c: c(act(b(act(a(x))))), a=conv(2, 3), b=conv(3, 3, groups=3), c=conv(3, 2)
    ),
    "grouped": Small(
        lambda x, a, b, c: c(act(b(act(a(x))))), a=conv(2, 4), b=conv(4, 4, groups=2), c=conv(4, 2)
    ),
    "shared": Small(
        lambda x, a, b, c: c(act(b(act(b(act(a(x))))))), a=conv(2, 3), b=conv(3, 3), c=conv(3, 2)
    ),
    "flatten": Small(
        lambda x, a, b, c: c(act(b(act(a(x)))).flatten(1)),
        a=conv(2, 3),
        b=conv(3, 2),
        c=nn.Linear(8, 2, bias=False),
    ),
    "copies": Small(
        lambda x, a, b, c: c(torch.cat([y := act(a(x)), y], 1) + act(b(x))),
        a=conv(2, 2),
        b=conv(2, 4),
        c=conv(4, 2),
    ),
}


def moves_of(size):
    """Return the identity and all transpositions."""
    result = [tuple(range(size))]
    for i, j in itertools.combinations(range(size), 2):
        swapped = list(range(size))
        swapped[i], swapped[j] = j, i
        result.append(tuple(swapped))
    return result


def homes_of(model):
    """Return (name, dimension, groups, positions) of everything that may have an order."""
    result = []
    for name, module in model.named_modules():
        groups = getattr(module, "groups", 1)
        if hasattr(module, "weight"):
            rows, columns = module.weight.shape[:2]
            result.append((f"{name}.weight", 0, 1, rows))
            if groups == 1 or columns > 1:
                result.append((f"{name}.weight", 1, groups, columns * groups))
    return result


def reordered(weight, rows, columns, groups):
    """Move rows and columns of a weight as a dense, block-diagonal one, and take the blocks out again."""
    m, width = weight.shape[:2]
    per = m // groups
    dense = torch.zeros(m, groups, width, *weight.shape[2:], dtype=weight.dtype)
    dense[torch.arange(m), torch.arange(m) // per] = weight
    dense = dense.flatten(1, 2)[list(rows)][:, list(columns)].unflatten(1, (groups, width))
    result = dense[torch.arange(m), torch.arange(m) // per]
    return result if result.count_nonzero() == weight.count_nonzero() else None


def applied(model, state, homes, moves):
    """Return the state with each home in its order; None if a grouped layer cannot have it."""
    by = {(name, dim): move for (name, dim, _, _), move in zip(homes, moves, strict=True)}
    result = {}
    for name, weight in state.items():
        groups = next((g for n, d, g, _ in homes if n == name and d == 1), 1)
        columns = by.get((name, 1), range(weight.shape[1] * groups))
        new = reordered(weight, by[name, 0], columns, groups)
        if new is None:
            return None
        result[name] = new
    return result


def brute_force(model, x):
    """Return all choices of an identity or transposition for each home that leave the outputs equal."""
    homes = homes_of(model)
    state = dict(model.named_parameters())
    before = model(x)
    last = next(h for h in reversed(homes) if h[1] == 0)
    # the outputs' own order never stays: one choice
    choices = [moves_of(h[3])[:1] if h is last else moves_of(h[3]) for h in homes]
    found = set()
    for moves in itertools.product(*choices):
        new = applied(model, state, homes, moves)
        if new is not None and torch.equal(torch.func.functional_call(model, new, (x,)), before):
            found.add(moves)
    return homes, found


def generated(homes, ties):
    """Return the choices of an identity or transposition for each home that orders of the sets make."""
    found = {tuple(tuple(range(size)) for *_, size in homes)}
    for tied in ties.sets:
        new = set()
        for order in itertools.permutations(range(tied.size)):
            moves = []
            for name, dim, groups, size in homes:
                move = list(range(size))
                for c in tied.carriers:
                    if (c.name, c.dim, c.groups) == (name, dim, groups):
                        for i, j in enumerate(order):
                            for to, fro in zip(c.positions[i], c.positions[j], strict=True):
                                move[to] = int(fro)
                moves.append(tuple(move))
            new |= {tuple(tuple(a[i] for i in m) for a, m in zip(one, moves, strict=True)) for one in found}
        found |= new
    allowed = [set(moves_of(size)) for *_, size in homes]
    return {one for one in found if all(m in a for m, a in zip(one, allowed, strict=True))}


@pytest.mark.parametrize("name", SMALL)
def test_the_sets_are_those_that_brute_force_finds(name):
    model, x = whole_numbers(SMALL[name], seed=3, most=9), image(side=2)[:, :2]
    with torch.no_grad():
        homes, truth = brute_force(model, x)
    ours = generated(homes, tied_sets(model, x))
    if name == "copies":  # equal numbers could change places alone; that is not looked for
        assert ours < truth
    else:
        assert ours == truth


# -- networks as people have them --


def _timm(name):
    return lambda: pytest.importorskip("timm").create_model(name, num_classes=10)


def _torchvision(name, **options):
    return lambda: getattr(torchvision.models, name)(num_classes=10, **options)


NETWORKS = {
    "resnet18": _torchvision("resnet18"),
    "shufflenet_v2_x0_5": _torchvision("shufflenet_v2_x0_5"),
    "googlenet": _torchvision(
        "googlenet", init_weights=False
    ),  # its auxiliary classifiers are there in training only
    "convnext_atto": _timm("convnext_atto"),
    "ghostnet_100": _timm("ghostnet_100"),
}
MORE = {
    "regnet_x_400mf": _torchvision("regnet_x_400mf"),
    "mobilenetv3_small_100": _timm("mobilenetv3_small_100"),
    "resnet50": _torchvision("resnet50"),
    "mobilenet_v2": _torchvision("mobilenet_v2"),
    "densenet121": _torchvision("densenet121"),
    "efficientnet_b0": _torchvision("efficientnet_b0"),
    "regnetx_004": _timm("regnetx_004"),
    "hrnet_w18_small": _timm("hrnet_w18_small"),
    "mobilevit_xxs": _timm("mobilevit_xxs"),
    "resnest14d": _timm("resnest14d"),
    "inception_v4": _timm("inception_v4"),
    "dpn48b": _timm("dpn48b"),
    **{
        name: lambda name=name: regroup.create_model(name)
        for name in ("condensenet_74_g4", "shufflenet_v1_g3_100", "igcv3_100", "oct_resnetv2_26_a025")
    },
}


def deterministic(model):
    """Turn off what draws random numbers in training, and give all that is one or zero numbers of its own."""
    torch.manual_seed(0)
    for module in model.modules():
        for name in ("p", "drop_prob", "drop_rate"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point():
            with torch.no_grad():
                tensor.add_(torch.rand_like(tensor) / 8 if tensor.ndim == 1 else 0)
    return model


def answers(model, x, dtype):
    """Return all tensors of the answer, as the network infers and as it trains."""
    result = []
    for training in (False, True):
        one = copy.deepcopy(model).to(dtype).train(training)
        with torch.no_grad():
            result += tensors_in(one(x.to(dtype)))
    return [t.double() for t in result]


@pytest.mark.parametrize("name", {**NETWORKS, **MORE} if "REGROUP_FUZZ" in os.environ else NETWORKS)
def test_any_order_of_all_sets_leaves_real_networks_equal(name):
    """In double precision no more may change than single precision rounds away, in training mode too."""
    model, side = deterministic({**NETWORKS, **MORE}[name]()), 96 if name == "inception_v4" else 64
    x = torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(0))
    ties = tied_sets(model.eval(), x[:1])
    keys, before, single = (
        list(model.state_dict()),
        answers(model, x, torch.double),
        answers(model, x, torch.float),
    )
    old = {k: v.clone() for k, v in model.state_dict().items()}
    for i, tied in enumerate(ties.sets):
        reorder(model, tied, shuffled(tied.size, i))
    assert list(model.state_dict()) == keys
    changed = [k for k, v in model.state_dict().items() if not torch.equal(v, old[k])]
    assert len(changed) > len([k for k in keys if not k.endswith("num_batches_tracked")]) // 2
    for a, b, c in zip(before, answers(model, x, torch.double), single, strict=True):
        assert (a - b).abs().max() <= (a - c).abs().max()


def test_features_and_hooks_stay():
    """Each feature is returned, so that its channels stay; what is between has orders of its own."""
    model = deterministic(pytest.importorskip("timm").create_model("resnet18", features_only=True)).eval()
    x, called = torch.randn(2, 3, 64, 64), []
    model.layer1[0].conv1.register_forward_hook(lambda *_: called.append(1))
    before, single = answers(model, x, torch.double), answers(model, x, torch.float)
    ties = tied_sets(model, x)
    assert ties.of("layer1.0.conv1.weight", 0)
    assert not ties.of("layer1.0.conv2.weight", 0)
    for i, tied in enumerate(ties.sets):
        reorder(model, tied, shuffled(tied.size, i))
    called.clear()
    for a, b, c in zip(before, answers(model, x, torch.double), single, strict=True):
        assert (a - b).abs().max() <= (a - c).abs().max()
    assert called


def test_who_makes_and_reads_a_residual_stream_is_told():
    ties = tied_sets(torchvision.models.resnet18().eval(), torch.zeros(1, 3, 32, 32))
    (stream,) = ties.of("layer1.0.conv2.weight", 0)
    assert stream.made_by == ("conv1", "layer1.0.conv2", "layer1.1.conv2")
    assert set(stream.read_by) == {
        "layer1.0.conv1",
        "layer1.1.conv1",
        "layer2.0.conv1",
        "layer2.0.downsample.0",
    }
    assert {"bn1.running_var", "layer1.1.bn2.bias"} < set(stream.names)
    assert {(e.name, e.dim) for e in ties.left} == {("conv1.weight", 1), ("fc.weight", 0), ("fc.bias", 0)}


def test_the_parts_of_a_concat_are_told_by_their_offsets():
    ties = tied_sets(SMALL["concat"].double(), image(side=2)[:, :2])
    columns = [
        (c.offset, c.block)
        for s in ties.sets
        for c in s.carriers
        if (c.name, c.dim) == ("layers.c.weight", 1)
    ]
    assert sorted(columns) == [(0, 1), (2, 1)]


def test_flattened_pixels_are_a_block_of_their_channel():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(4 * 6, 2))
    (tied,) = tied_sets(model, torch.zeros(1, 3, 2, 3)).sets
    assert {(c.name, c.dim, c.block) for c in tied.carriers} == {
        ("0.weight", 0, 1),
        ("0.bias", 0, 1),
        ("2.weight", 1, 6),
    }


def test_groups_move_as_wholes_and_channels_inside():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 12, 1, groups=4), nn.Conv2d(12, 2, 1))
    ties = tied_sets(model, torch.zeros(1, 3, 2, 2))
    assert sorted((s.size, s.whole) for s in ties.sets) == [(2, False)] * 4 + [(3, False)] * 4 + [(4, True)]


def test_a_gate_is_tied_to_what_it_scales():
    model = nn.Sequential(nn.Conv2d(3, 6, 1), Gate(6), nn.Conv2d(6, 2, 1))
    ties = tied_sets(model, torch.zeros(1, 3, 2, 2))
    assert {"0.weight", "1.down.weight", "1.up.weight", "1.up.bias", "2.weight"} <= set(
        ties.of("0.weight")[0].names
    )


class Refused(nn.Module):
    """Convolutions around something that cannot be followed."""

    def __init__(self, between):
        super().__init__()
        self.a, self.b, self.between = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1), between

    def forward(self, x):
        return self.b(self.between(self.a(x)))


@pytest.mark.parametrize(
    ("between", "reason"),
    [
        (lambda x: x.cumsum(1), "cumsum"),
        (lambda x: x.sort(1).values, "sort"),
        (lambda x: x * torch.arange(4.0).view(1, 4, 1, 1), "fixed"),
        (lambda x: x.transpose(1, 2).contiguous(), "convolves over"),
        (lambda x: x[:, [0, 0, 1, 2]], ""),
        (lambda x: torch.nn.functional.local_response_norm(x, 2), ""),
    ],
)
def test_what_cannot_be_followed_is_left_with_its_reason(between, reason):
    model = whole_numbers(Refused(between))
    x = image(side=4)
    ties, before = tied_sets(model, x), model(x)
    assert not any(c.size == 4 for c in ties.sets)
    assert any(reason in e.reason for e in ties.left if e.name == "a.weight")
    for tied in ties.sets:
        reorder(model, tied, shuffled(tied.size, 1))
    assert torch.equal(model(x), before)


class Looks(Refused):
    """Read one number of a bias in Python."""

    def forward(self, x):
        return super().forward(x) * float(self.a.bias[0])


def test_a_number_that_python_reads_is_fixed():
    (others,) = tied_sets(Looks(nn.ReLU()), torch.zeros(1, 3, 2, 2)).of("a.bias")
    (bias,) = (c for c in others.carriers if c.name == "a.bias")
    assert bias.positions.ravel().tolist() == [1, 2, 3]


def test_mistakes_are_told():
    class Chooses(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1))
    (tied,) = tied_sets(model, torch.zeros(1, 3, 2, 2)).sets
    with pytest.raises(ParameterError, match="a permutation of 4 channels"):
        reorder(model, tied, [0, 1, 2, 2])
    with pytest.raises(ParameterError, match="a set of this model"):
        reorder(nn.Linear(2, 2), tied, [0, 1, 2, 3])
    with pytest.raises(ConversionError, match="cannot be traced: 1 depends on the numbers in a tensor"):
        tied_sets(nn.Sequential(nn.Conv2d(3, 4, 1), Chooses()), torch.zeros(1, 3, 2, 2))
    with pytest.raises(ConversionError, match="cannot be traced"):
        tied_sets(model, torch.zeros(1, 5, 2, 2))
