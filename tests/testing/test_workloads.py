"""The list of workloads is of layers that are there, and kernels cover it on every CPU."""

from __future__ import annotations

import pytest
import torch
from benchmarks.kernels import problem_of
from torch import nn

from regroup.errors import ParameterError
from regroup.kernels import templates
from regroup.kernels.machine.target import Target
from regroup.networks import networks
from regroup.networks.anywhere import create_any_model
from regroup.ops.shapes import without_numbers
from regroup.testing.workloads import NETWORKS, TRAINED, WORKLOADS, narrow, workload


@pytest.mark.parametrize("network", dict.fromkeys(w.network for w in WORKLOADS))
def test_every_workload_is_a_layer_of_its_network(network):
    pytest.importorskip("timm")
    with without_numbers():
        model = create_any_model(network).eval()
    sizes = {}

    def note(name):
        return lambda layer, inputs: sizes.update({name: tuple(inputs[0].shape[2:])})

    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_pre_hook(note(name))
    with without_numbers():
        model(torch.empty(1, 3, *(networks[network].claims.size if network in networks else (224, 224))))
    for w in WORKLOADS:
        if w.network == network:
            conv = model.get_submodule(w.layer)
            assert (conv.in_channels, conv.out_channels, conv.groups) == (w.inputs, w.outputs, w.groups), w
            assert (conv.kernel_size, conv.stride) == ((w.kernel,) * 2, (w.stride,) * 2), w
            assert (conv.padding, conv.dilation) == ((w.kernel // 2,) * 2, (1, 1)), w
            assert sizes[w.layer] == (w.size, w.size), w


@pytest.mark.parametrize("target", [Target.avx2(), Target.avx512(), Target.neon()], ids=lambda t: t.name)
def test_a_template_does_every_workload(target):
    for w in WORKLOADS:
        assert templates.choose(problem_of(w), target).problem.macs == w.macs, w


def test_names_are_of_one_workload_each():
    assert len({(w.network, w.layer) for w in WORKLOADS}) == len(WORKLOADS)
    assert all(w.group_width <= 16 and w.kernel > 1 for w in narrow())
    assert set(NETWORKS) <= set(networks)
    assert all(name.startswith("timm:") or name in networks for name in TRAINED)


def test_an_unknown_layer_is_refused_with_those_that_there_are():
    with pytest.raises(ParameterError, match="must be one of 'resnext50_32x4d' in the list: stages"):
        workload("resnext50_32x4d", "conv9")
