"""Any model through regroup's convolutions: the same numbers within rounding, the same state, and back."""

import copy
import io

import pytest
import torch
import torchvision
from torch import nn

import regroup
from regroup.errors import SpecError
from regroup.ops.accelerate import AcceleratedConv2d
from regroup.ops.bounds import rounding_bound, worst_ratio
from regroup.ops.passes import WIDEST


def narrow(module):
    return max(module.in_channels, module.out_channels) // module.groups <= WIDEST


@pytest.mark.parametrize("name", ["shufflenet_v1_g3_100", "igcv3_100", "mixnet_s", "resnext50_32x4d"])
def test_networks_compute_the_same_and_say_what_changed(name):
    model = regroup.create_model(name, num_classes=10).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        before, wide = model(x), copy.deepcopy(model).double()(x.double())
        state = {key: value.clone() for key, value in model.state_dict().items()}
        done = regroup.accelerate(model)
        after = model(x)
    convolutions = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    assert set(done.layers) == {n for n, m in convolutions.items() if narrow(m)} and done.layers
    assert set(done.left) == set(convolutions) - set(done.layers)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    error, own = (after - wide).abs().max(), (before - wide).abs().max()
    assert error <= 2 * own + 1e-30
    regroup.decelerate(model)
    with torch.no_grad():
        assert torch.equal(model(x), before)


def test_one_dimension_and_three_other_paddings_and_classes_of_ones_own():
    class Own(nn.Conv2d):
        """A convolution that regroup does not know."""

    model = nn.ModuleList(
        [
            nn.Conv1d(6, 6, 5, padding="same", groups=6),
            nn.Conv3d(4, 8, 3, stride=2, padding=1, groups=2),
            nn.Conv2d(4, 4, 3, padding=(1, 2), padding_mode="reflect", groups=4),
            Own(4, 4, 3, groups=4),
            nn.Conv2d(64, 64, 1),
            nn.ConvTranspose2d(4, 4, 3, groups=4),
        ]
    )
    inputs = [torch.randn(2, 6, 20), torch.randn(2, 4, 6, 7, 8), torch.randn(2, 4, 9, 9)]
    before = [m(x) for m, x in zip(model, inputs, strict=False)]
    done = regroup.accelerate(model)
    assert done.layers == ["0", "1", "2"] and set(done.left) == {"3", "4"}
    assert "class Own" in done.left["3"] and "64 channels" in done.left["4"]
    for layer, x, right in zip(model, inputs, before, strict=False):
        wide = copy.deepcopy(regroup.decelerate(layer)).double()
        regroup.accelerate(layer)
        with torch.no_grad():
            exact = wide(x.double())
            for parameter in wide.parameters():
                parameter.abs_()
            bound = rounding_bound(exact, wide(x.double().abs()), layer.weight[0].numel() + 1)
            assert worst_ratio(layer(x), exact, bound) <= 1 and layer(x).shape == right.shape


def test_an_accelerated_layer_is_saved_copied_and_compiled_as_what_it_is():
    model = nn.Sequential(nn.Conv2d(4, 8, 3, groups=4), nn.ReLU()).eval()
    regroup.accelerate(model)
    x = torch.randn(2, 4, 8, 8)
    assert isinstance(model[0], AcceleratedConv2d) and isinstance(copy.deepcopy(model)[0], AcceleratedConv2d)
    fast = regroup.compile(model, x)
    assert [s["runs"] for s in fast.explain(json=True)["segments"]] == ["native"]
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    with torch.no_grad():
        assert torch.equal(torch.load(file, weights_only=False)(x), model(x))


def test_training_goes_the_same_way():
    """Losses differ by rounding alone: about as far from those in float64 as PyTorch's own."""

    def losses(change, dtype):
        torch.manual_seed(0)
        model = torchvision.models.mobilenet_v2(num_classes=4, width_mult=0.25).to(dtype).train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        change(model)
        optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
        torch.manual_seed(1)
        x, y = torch.randn(8, 3, 32, 32).to(dtype), torch.randint(4, (8,))
        found = []
        for _ in range(20):
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        return torch.tensor(found, dtype=torch.float64)

    exact = losses(lambda model: None, torch.float64)
    plain = losses(lambda model: None, torch.float32)
    ours = losses(regroup.accelerate, torch.float32)
    assert (ours - exact).abs().max() <= 4 * (plain - exact).abs().max()


def test_an_accelerated_model_is_traced_by_torch_fx():
    layers = nn.Conv2d(4, 8, 3, groups=4), nn.Conv2d(8, 8, 3, groups=8, padding_mode="circular", padding=1)
    model, x = nn.Sequential(*layers).eval(), torch.randn(2, 4, 8, 8)
    regroup.accelerate(model)
    assert torch.equal(torch.fx.symbolic_trace(model)(x), model(x))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dynamo", [False, True])
def test_an_accelerated_network_is_exported_to_onnx(dynamo, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = nn.Sequential(nn.Conv2d(4, 8, 3, groups=4), nn.ReLU()).eval()
    regroup.accelerate(model)
    x, file = torch.randint(-3, 4, (2, 4, 8, 8)).float(), str(tmp_path / "net.onnx")
    torch.onnx.export(model, (x,), file, dynamo=dynamo)
    (y,) = onnxruntime.InferenceSession(file).run(None, {"input" if dynamo else "input.1": x.numpy()})
    with torch.no_grad():
        assert (torch.from_numpy(y) - model(x)).abs().max() <= 2**-20


@pytest.mark.filterwarnings("ignore:`torch.jit.script`", "ignore:The TorchScript type system")
def test_scripts_of_accelerated_models_are_pytorchs_convolutions():
    layers = [
        (nn.Conv1d(6, 6, 5, padding="same", groups=6), (2, 6, 20)),
        (nn.Conv2d(4, 4, 3, padding=(1, 2), padding_mode="reflect", groups=4), (2, 4, 9, 9)),
        (nn.Conv3d(4, 8, 3, stride=2, padding=1, groups=2), (2, 4, 6, 7, 8)),
        (nn.Conv3d(4, 8, 3, groups=4), (4, 6, 7, 8)),
        (regroup.create_model("shufflenet_v2_050", num_classes=4).eval(), (2, 3, 64, 64)),
    ]
    for layer, shape in layers:
        model, x = (
            nn.Sequential(layer) if isinstance(layer, nn.modules.conv._ConvNd) else layer,
            torch.randn(shape),
        )
        right = model(x)
        assert regroup.accelerate(model).layers
        before = [(name, type(module)) for name, module in model.named_modules()]
        script = torch.jit.script(model)
        assert torch.equal(script(x), right)
        assert [(name, type(module)) for name, module in model.named_modules()] == before


@pytest.mark.filterwarnings("ignore:`torch.jit.script`", "ignore:The TorchScript type system")
def test_what_cannot_be_scripted_is_one_error():
    model = nn.Sequential(nn.Conv2d(4, 8, 3, groups=4)).eval()
    regroup.accelerate(model)
    graph = torch.fx.symbolic_trace(model)

    def by_hand(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return regroup.ops.functional.conv2d(x, weight)

    for scripted in (graph, by_hand):
        with pytest.raises(SpecError, match=r"decelerate\(model\) before torch.jit.script"):
            torch.jit.script(scripted)
