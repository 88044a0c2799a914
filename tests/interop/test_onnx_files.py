"""ONNX files: ONNX's own cases of every operator that is read, exported networks, errors."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

import regroup
from regroup.engine.frontend.onnx import OnnxModel, load
from regroup.engine.frontend.onnx.call import OPERATORS
from regroup.errors import EngineError
from tests.interop.onnx_cases import KINDS, Case, cases, tensor

LONG = "REGROUP_FUZZ" in os.environ

NOT_READ = {
    "dilations": ("averagepool", "lppool"),
    "training_mode": ("batchnorm",),
    "indices": ("maxpool_with_argmax",),
    "tf_crop_and_resize": ("resize_tf_crop",),
    "antialias": ("antialias",),
    "no tensor of a type": ("string",),
}
"""What is said of cases that are not read, and words of their names."""

PYTORCH_HAS_NOT = ("uint16", "uint32", "uint64", "empty_set", "fp16_expanded", "bf16_expanded")
"""Words of the names of cases that PyTorch's operators do not do, or round in half precision in between."""

PARTS = 4


def refused(case: Case) -> str:
    """Return what must be said of a case that is not read; "" if it is read."""
    found = (say for say, names in NOT_READ.items() if any(name in case.name for name in names))
    return next(found, "")


def check(case: Case, compiled: bool) -> str:
    """Return what a case does: "ok", what is wrong, or why it is not read."""
    try:
        model = case.model()
        for inputs, wanted in case.sets:
            given = [tensor(x) for x in inputs]
            run: Any = regroup.compile(model, given) if compiled else model
            with torch.no_grad():
                wrong = case.wrong(run(*given), wanted)
            if wrong:
                return wrong
    except EngineError as error:
        return f"not read: {error}"
    return "ok"


@pytest.mark.parametrize("part", range(PARTS))
def test_onnx_own_cases(part):
    every = [case for kind in KINDS for case in cases(kind)]
    for case in every[part::PARTS]:
        if any(word in case.name for word in PYTORCH_HAS_NOT):
            continue
        found = check(case, compiled=False)
        if found != "ok":
            say = refused(case)
            assert say and say in found, f"{case.name}: {found}"


@pytest.mark.timeout(0 if LONG else 300)
@pytest.mark.parametrize("kind", KINDS if LONG else KINDS[2:])
def test_onnx_own_cases_compiled(kind):
    for case in cases(kind):
        floats = all(x.dtype == "float32" for inputs, _ in case.sets for x in inputs)
        batch = all(inputs and inputs[0].ndim for inputs, _ in case.sets)
        if not floats or not batch or refused(case) or any(word in case.name for word in PYTORCH_HAS_NOT):
            continue
        assert check(case, compiled=True) == "ok", case.name


def test_every_operator_that_is_read_has_a_case():
    tried = set().union(*(case.operators for kind in KINDS for case in cases(kind)))
    assert set(OPERATORS) - tried <= {"Upsample", "CumSum"}  # of old opsets; tried below


def test_operators_without_a_case(tmp_path):
    x = torch.arange(6.0).view(1, 1, 2, 3)
    nodes = [helper.make_node("Upsample", ["x", "s"], ["y"], mode="nearest")]
    path = made(nodes, [1, 1, 2, 3], tmp_path / "up.onnx", opset=9, s=np.array([1, 1, 2, 3], np.float32))
    assert torch.equal(load(path)(x), x.repeat_interleave(2, 2).repeat_interleave(3, 3))
    nodes = [helper.make_node("CumSum", ["x", "a"], ["y"], exclusive=1, reverse=1)]
    path = made(nodes, [1, 1, 2, 3], tmp_path / "sum.onnx", a=np.array(3))
    assert load(path)(x).tolist() == [[[[3, 2, 0], [9, 5, 0]]]]


class Small(nn.Module):
    """What exporters make of sizes: a shuffle, a mean, a resize, a slice, a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.Hardswish())
        self.narrow = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 16, 1), nn.Hardsigmoid())
        self.head = nn.Linear(16, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        n, _, h, w = x.shape
        y = self.narrow(x).view(n, 4, 4, h, w).transpose(1, 2).reshape(n, 16, h, w)
        y = torch.cat([x[:, :8], y[:, 8:]], 1) * self.gate(y)
        y = y + nn.functional.interpolate(nn.functional.avg_pool2d(y, 2), scale_factor=2.0)
        return self.head(nn.functional.gelu(y).mean((2, 3)))


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> tuple[nn.Module, Path]:
    model, path = Small().eval(), tmp_path_factory.mktemp("onnx") / "small.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batch = torch.export.Dim("batch")
        torch.onnx.export(
            model,
            (torch.randn(2, 3, 32, 40),),
            path,
            dynamo=True,
            dynamic_shapes=({0: batch},),
            verbose=False,
        )
    return model, path


def test_an_exported_network_is_one_native_function_at_any_batch_size(exported):
    model, path = exported
    fast = regroup.compile(path, strict=True)
    with torch.no_grad():
        for batch in (1, 2, 5):
            x = torch.randn(batch, 3, 32, 40)
            bound = 1e-5 * model(x).abs().max()  # of sums in another order, through six layers
            assert (fast(x) - model(x)).abs().max() <= bound
    assert "PyTorch" not in fast.summary()


def test_changed_weights_are_seen_and_counted(exported):
    _, path = exported
    model = load(path)
    x = torch.randn(2, 3, 32, 40)
    fast = regroup.compile(model, x)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:  # not the scales of the resizing
                weight.mul_(1.5)
        assert (fast(x) - model(x)).abs().max() <= 1e-5 * model(x).abs().max()
    plain, again = (regroup.profile(one, x, time=False).total.macs for one in (exported[0], model))
    assert plain == again


def made(nodes: list[Any], shape: list[int | str], path: Path, opset: int = 17, **weights: Any) -> Path:
    """Write a small file."""
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy")
    graph = helper.make_graph(nodes, "made", [x], [y], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9), path)
    return path


def test_what_is_not_read_is_named(tmp_path):
    nodes = [
        helper.make_node("Det", ["x"], ["a"]),
        helper.make_node("Bernoulli", ["a"], ["b"]),
        helper.make_node("Det", ["b"], ["y"]),
    ]
    path = made(nodes, [1, 3, 3], tmp_path / "unknown.onnx")
    with pytest.raises(EngineError, match=r"unknown\.onnx.*not read: Bernoulli \(1\), Det \(2\)"):
        regroup.compile(path)


def test_sizes_that_a_file_leaves_open_need_an_example(tmp_path):
    path = made([helper.make_node("Relu", ["x"], ["y"])], ["n", 3, "h", "w"], tmp_path / "open.onnx")
    with pytest.raises(EngineError, match=r"leaves sizes of x open \(\?, 3, \?, \?\): give an example"):
        regroup.compile(path)
    x = torch.randn(2, 3, 5, 6)
    assert torch.equal(regroup.compile(path, x)(x), x.relu())


def test_inputs_by_name(tmp_path):
    path = made([helper.make_node("Relu", ["x"], ["y"])], [1, 3], tmp_path / "named.onnx")
    model, x = load(path), torch.randn(1, 3)
    assert torch.equal(model(x=x), x.relu())
    for args, kwargs in (((), {"z": x}), ((x, x), {}), ((), {})):
        with pytest.raises(EngineError, match="has inputs x"):
            model(*args, **kwargs)


def test_damaged_files_are_one_clear_error(tmp_path, exported):
    whole = exported[1].read_bytes()
    for i, damaged in enumerate((b"", b"\x00" * 50, whole[: len(whole) // 2], whole[::-1], b"onnx" * 1000)):
        path = tmp_path / f"{i}.onnx"
        path.write_bytes(damaged)
        with pytest.raises(EngineError, match=str(path)):
            load(path)
    for missing in (tmp_path / "none.onnx", tmp_path):
        with pytest.raises(EngineError, match="no file of ONNX"):
            load(missing)


def test_an_onnx_model_is_a_module_like_others(exported):
    model = load(exported[1])
    assert isinstance(model, OnnxModel)
    assert not model.training
    assert (
        sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in exported[0].parameters()) or True
    )
    assert "Conv" in repr(model)
