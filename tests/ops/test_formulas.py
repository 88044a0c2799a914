"""Every formula against definitions: products counted one by one, by numbers that are all one.

What multiplies two tensors gives, from ones and without padding or bias, sums of as many ones as it has
products: so the sum of its results is its number of MACs, whatever it is called and however it is done.
"""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import flop_registry

from regroup.ops.counting import Counter
from regroup.ops.formulas import FORMULAS
from regroup.ops.no_macs import NO_MACS

small = st.integers(1, 4)


def macs(function, *inputs, grad=False):
    with torch.set_grad_enabled(grad), Counter() as counter:
        function(*inputs)
    assert not counter.uncounted
    return counter.macs


def ones(module):
    """Return the module with weights of one and biases of zero."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.fill_(0.0 if "bias" in name else 1.0)
    return module


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data(), st.sampled_from([1, 2, 3]), st.booleans())
def test_convolutions_of_every_kind(data, dims, transposed):
    groups, width, outputs, batch = (data.draw(small) for _ in range(4))
    kernel, stride, dilation, extra = (
        data.draw(st.lists(small, min_size=dims, max_size=dims)) for _ in range(4)
    )
    kinds = [
        (nn.Conv1d, nn.ConvTranspose1d),
        (nn.Conv2d, nn.ConvTranspose2d),
        (nn.Conv3d, nn.ConvTranspose3d),
    ]
    kind = kinds[dims - 1][transposed]
    layer = ones(kind(groups * width, groups * outputs, kernel, stride, dilation=dilation, groups=groups))
    size = [(k - 1) * d + e for k, d, e in zip(kernel, dilation, extra, strict=True)]
    x = torch.ones(batch, groups * width, *size)
    assert macs(layer, x) == layer(x).sum()


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (torch.mm, [(3, 4), (4, 5)]),
        (torch.bmm, [(2, 3, 4), (2, 4, 5)]),
        (torch.mv, [(3, 4), (4,)]),
        (torch.dot, [(7,), (7,)]),
        (torch.vdot, [(7,), (7,)]),
        (torch.linalg.vecdot, [(7,), (7,)]),
        (torch.linalg.vecdot, [(2, 3, 4), (3, 4)]),
        (partial(torch.linalg.vecdot, dim=0), [(3, 1, 4), (3, 5, 1)]),
        (torch.matmul, [(2, 1, 3, 4), (5, 4, 6)]),
        (torch.matmul, [(4,), (2, 4, 3)]),
        (torch.inner, [(2, 3), (5, 3)]),
        (lambda a, b: torch.tensordot(a, b, 2), [(2, 3, 4), (3, 4, 5)]),
        (lambda a, b: torch.linalg.multi_dot([a, b]), [(2, 3), (3, 4)]),
        (lambda a, b: torch.zeros(3, 5).addmm(a, b), [(3, 4), (4, 5)]),
        (lambda a, b: torch.zeros(3, 5).addmm_(a, b), [(3, 4), (4, 5)]),
        (lambda a, b: torch.zeros(2, 3, 5).baddbmm(a, b), [(2, 3, 4), (2, 4, 5)]),
        (lambda a, b: torch.zeros(2, 3, 5).baddbmm_(a, b), [(2, 3, 4), (2, 4, 5)]),
        (lambda a, b: torch.zeros(3, 5).addbmm(a, b), [(2, 3, 4), (2, 4, 5)]),
        (lambda a, b: torch.zeros(3, 5).addbmm_(a, b), [(2, 3, 4), (2, 4, 5)]),
        (lambda a, b: torch.zeros(3).addmv(a, b), [(3, 4), (4,)]),
        (lambda a, b: torch.zeros(3).addmv_(a, b), [(3, 4), (4,)]),
        (lambda a, b: torch.zeros(3, 4).addr(a, b), [(3,), (4,)]),
        (lambda a, b: torch._addmm_activation(torch.zeros(5), a, b), [(3, 4), (4, 5)]),
        (lambda a, b: F.linear(a, b), [(2, 3, 4), (5, 4)]),
        (lambda a, b: torch.vmap(torch.mm)(a, b), [(2, 3, 4), (2, 4, 5)]),
    ],
)
def test_products_of_matrices_and_vectors(function, shapes):
    inputs = [torch.ones(shape) for shape in shapes]
    expected = function(*inputs).sum()
    assert macs(function, *inputs) == expected
    with torch.inference_mode():
        assert macs(function, *inputs) == expected


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.permutations("abcdef"), st.data())
def test_einsum(letters, data):
    shared = data.draw(st.integers(1, 2))
    left, right = letters[: 2 + shared], letters[2 : 4 + shared]
    kept = [*left[:2], *right[shared:], *(left[2:-1] if data.draw(st.booleans()) else [])]
    sizes = {c: data.draw(st.integers(2, 4)) for c in letters}
    a, b = (torch.ones([sizes[c] for c in side]) for side in (left, right))
    equation = f"{''.join(left)},{''.join(right)}->{''.join(kept)}"
    assert macs(torch.einsum, equation, a, b) == torch.einsum(equation, a, b).sum()


def test_a_complex_product_is_four_real_ones():
    a, b = torch.ones(3, 4, dtype=torch.complex64), torch.ones(4, 5, dtype=torch.complex64)
    assert macs(torch.mm, a, b) == 4 * 3 * 4 * 5


@settings(max_examples=20, deadline=None, derandomize=True)
@given(*[small] * 4)
def test_a_bilinear_layer_multiplies_twice(batch, first, second, outputs):
    layer = ones(nn.Bilinear(first, second, outputs, bias=False))
    x, y = torch.ones(batch, first), torch.ones(batch, second)
    products = layer(x, y).sum()  # of the weight by x, and then of what is left by y
    assert macs(layer, x, y) == products + batch * outputs * second


@settings(max_examples=30, deadline=None, derandomize=True)
@given(small, st.sampled_from([(4, 4), (4, 2), (3, 1)]), small, small, small, st.booleans())
def test_attention_however_pytorch_carries_it_out(batch, heads, length, keys, width, causal):
    q = torch.randn(batch, heads[0], length, 2 * width)
    k, v = torch.randn(2, batch, heads[1], keys, 2 * width)

    def run():
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)

    found = macs(run)
    with sdpa_kernel(SDPBackend.MATH):
        assert found == macs(run) == batch * heads[0] * length * keys * 4 * width


def test_attentions_gradient_takes_five_products():
    q, k, v = (torch.randn(2, 3, n, 8, requires_grad=True) for n in (5, 7, 7))
    with Counter() as counter:
        out = F.scaled_dot_product_attention(q, k, v)
        forward = counter.macs
        out.sum().backward()
    assert (forward, counter.macs - forward) == (2 * 2 * 3 * 5 * 7 * 8, 5 * 2 * 3 * 5 * 7 * 8)


@pytest.mark.parametrize("keys", [None, 7])
def test_multihead_attention_counts_alike_on_its_fast_path(keys):
    layer = nn.MultiheadAttention(12, 3, batch_first=True).eval()
    x = torch.randn(2, 5, 12)
    other = x if keys is None else torch.randn(2, keys, 12)
    expected = 2 * (12 * 12 * (2 * 5 + 2 * other.shape[1]) + 2 * 5 * other.shape[1] * 12)
    for fast in (True, False):
        torch.backends.mha.set_fastpath_enabled(fast)
        assert macs(layer, x, other, other) == expected
    torch.backends.mha.set_fastpath_enabled(True)


def test_a_transformers_layer_counts_alike_on_its_fast_path():
    layer = nn.TransformerEncoderLayer(12, 3, 20, batch_first=True).eval()
    x = torch.randn(2, 5, 12)
    found = []
    for fast in (True, False):
        torch.backends.mha.set_fastpath_enabled(fast)
        found.append(macs(layer, x))
    torch.backends.mha.set_fastpath_enabled(True)
    assert found == [2 * 5 * (4 * 12 * 12 + 2 * 5 * 12 + 2 * 12 * 20)] * 2


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("grad", [False, True])
def test_recurrent_layers_take_each_weight_once_a_step(kind, directions, grad):
    layer = kind(5, 6, num_layers=2, batch_first=True, bidirectional=directions == 2)
    matrices = sum(p.numel() for n, p in layer.named_parameters() if "weight" in n)
    assert macs(layer, torch.randn(3, 7, 5), grad=grad) == 3 * 7 * matrices
    packed = nn.utils.rnn.pack_sequence([torch.randn(n, 5) for n in (4, 2, 1)])
    assert macs(layer, packed, grad=grad) == 7 * matrices


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_a_recurrent_layer_with_a_projection_and_single_cells():
    layer = nn.LSTM(5, 6, proj_size=4)
    matrices = sum(p.numel() for n, p in layer.named_parameters() if "weight" in n)
    assert macs(layer, torch.randn(7, 3, 5)) == 7 * 3 * matrices
    for cell in (nn.RNNCell(5, 6), nn.GRUCell(5, 6), nn.LSTMCell(5, 6)):
        assert macs(cell, torch.randn(3, 5)) == 3 * (cell.weight_ih.numel() + cell.weight_hh.numel())


def test_a_recurrent_layers_training_step_takes_three_times_as_many():
    layer, x = nn.LSTM(5, 6), torch.randn(7, 3, 5, requires_grad=True)
    with Counter() as counter:
        out, _ = layer(x)
        forward = counter.macs
        out.sum().backward()
    assert counter.macs == 3 * forward


def test_what_samples_and_what_measures():
    x = torch.randn(2, 3, 8, 8)
    grid = torch.rand(2, 5, 6, 2)
    for mode, taps in {"bilinear": 4, "nearest": 0, "bicubic": 16}.items():
        assert macs(partial(F.grid_sample, mode=mode, align_corners=False), x, grid) == taps * 2 * 3 * 5 * 6
    voxels, places = torch.randn(2, 3, 4, 4, 4), torch.rand(2, 5, 6, 7, 3)
    assert macs(partial(F.grid_sample, align_corners=False), voxels, places) == 8 * 2 * 3 * 5 * 6 * 7
    affine = partial(F.affine_grid, size=[2, 3, 5, 6], align_corners=False)
    assert macs(affine, torch.ones(2, 2, 3)) == 2 * 5 * 6 * 2 * 3
    for points in (4, 40):  # few, and so many that they are multiplied as matrices
        a, b = torch.randn(points, 7), torch.randn(points + 1, 7)
        assert macs(torch.cdist, a, b) == points * (points + 1) * 7
    assert macs(F.pdist, torch.randn(5, 7)) == 10 * 7


def test_an_embedding_bag_multiplies_where_its_rows_have_weights():
    weight, index = torch.randn(9, 5), torch.randint(9, (4, 3))
    assert macs(F.embedding_bag, index, weight) == 0
    scale = torch.randn(4, 3)
    assert macs(lambda: F.embedding_bag(index, weight, per_sample_weights=scale, mode="sum")) == 4 * 3 * 5


def test_a_deformable_convolution_samples_and_convolves():
    layer = ones(torchvision.ops.DeformConv2d(4, 6, 3, groups=2, bias=False))
    x, offset = torch.ones(2, 4, 7, 8), torch.zeros(2, 18, 5, 6)
    products = layer(x, offset).sum()
    assert macs(layer, x, offset) == products + 4 * (2 * 5 * 6 * 4 * 9)


def test_a_region_is_aligned_by_means_of_samples_between_four_neighbours():
    """Of two bins each way: two samples each way, or as many as a bin of the region has pixels."""
    x, regions = torch.randn(1, 5, 20, 20), torch.tensor([[0.0, 2, 3, 10, 9], [0.0, 0, 0, 2, 2]])
    assert macs(torchvision.ops.roi_align, x, regions, 2, 1.0, 2) == 2 * (2 * 2 * 5) * 4 * (2 * 2)
    assert macs(torchvision.ops.roi_align, x, regions, 2, 1.0, -1) == (2 * 2 * 5) * 4 * (4 * 3 + 1 * 1)
    assert macs(torchvision.ops.nms, regions[:, 1:], torch.ones(2), 0.5) == 0


@pytest.mark.parametrize("size", [8, 12])
def test_fourier_transforms_have_their_nominal_number(size):
    x = torch.randn(3, size, size)
    points = size * size
    whole = round(2.5 * 3 * points * math.log2(points))
    assert macs(torch.fft.fft2, x.to(torch.complex64)) == whole
    assert macs(torch.fft.rfft2, x) == macs(lambda: torch.fft.irfft2(torch.fft.rfft2(x))) // 2
    assert macs(torch.fft.rfft2, x) == round(1.25 * 3 * points * math.log2(points))


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(context, x, weight):
        context.save_for_backward(x, weight)
        return 2 * x @ weight

    @staticmethod
    def backward(context, grad):
        x, weight = context.saved_tensors
        return 2 * grad @ weight.t(), 2 * x.t() @ grad


def test_autograd_functions_of_the_users_own():
    x, weight = torch.randn(3, 4, requires_grad=True), torch.randn(4, 5, requires_grad=True)
    with Counter() as counter:
        Doubled.apply(x, weight).sum().backward()
    assert counter.macs == 3 * (3 * 4 * 5)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x: x.cumprod(1), "aten.cumprod"),
        (lambda x: x.prod(), "aten.prod"),
        (torch.linalg.inv, "aten.linalg_inv_ex"),
        (torch.linalg.svd, "aten._linalg_svd"),
        (torch.linalg.matrix_exp, "aten.linalg_matrix_exp"),
        (lambda x: torch.sparse.mm(x.to_sparse(), x), "aten._sparse_addmm"),
        (lambda x: torch.cond(x.sum() > 0, torch.t, torch.neg, (x,)), "cond"),
        (lambda x: torch.from_numpy(x.numpy() @ x.numpy()), "Tensor.numpy"),
    ],
)
def test_what_multiplies_and_has_no_formula_is_named(function, name):
    with Counter() as counter:
        function(torch.eye(3))
    assert name in counter.uncounted


def test_every_name_is_an_operators():
    names = NO_MACS | set(FORMULAS)
    unknown = []
    for name in names:
        namespace, _, operator = name.partition(".")
        found = getattr(torch.ops, namespace)
        unknown += [name] if not any(hasattr(found, operator + end) for end in ("", "_")) else []
    assert not unknown
    assert not NO_MACS & ({str(packet) for packet in flop_registry} | set(FORMULAS))
