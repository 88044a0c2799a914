"""Programs: threads, batches, halos, steps, weights, and what they refuse."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from regroup.errors import EngineError
from regroup.kernels.problems import AdaptivePool, Conv, Epilogue, Linear, Pool
from regroup.kernels.problems.view import Halo, View
from regroup.kernels.program import Part, Program, Step, build, why_not
from regroup.ops.bounds import rounding_bound, worst_ratio

_ROOM = Halo(1, 1, 1, 1)
_BIASED = Epilogue(bias=True)


def _numbers(layer: nn.Module) -> dict[str, np.ndarray]:
    return {name: p.detach().numpy() for name, p in layer.named_parameters()}


@pytest.fixture(scope="module")
def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 24, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(24, 24, 3, 1, 1, groups=24),
        nn.Conv2d(24, 40, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(40, 10),
    ).eval()


def _steps(network: nn.Sequential) -> list[Step]:
    a = View.nhwc(16, 16, 24, halo=_ROOM).placed(0)
    b = View.nhwc(16, 16, 24).placed(a.floats)
    c = View.nhwc(16, 16, 40).placed(a.floats + b.floats)
    d = View.vector(40).placed(0)
    x, y = View.nchw(32, 32, 3, buffer=2), View.vector(10, buffer=3)
    relu = Epilogue(True, "relu")
    first = Conv(x, a, epilogue=relu, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1))
    depthwise = Conv(a, b, epilogue=_BIASED, kernel_size=(3, 3), padding=(1, 1), groups=24)
    problems = (
        first,
        depthwise,
        Conv(b, c, epilogue=_BIASED),
        AdaptivePool(c, d),
        Linear(d, y, epilogue=_BIASED),
    )
    layers = (network[0], network[2], network[3], network[4], network[6])
    return [
        Step(type(p).__name__, (Part(p, _numbers(layer)),)) for p, layer in zip(problems, layers, strict=True)
    ]


def _run(program: Program, x: torch.Tensor, threads: int = 1, **options: object) -> torch.Tensor:
    arena = program.new_arena(threads, bool(options.get("image_per_thread")))
    arena[:] = np.nan  # whatever a kernel reads must have been written in this run, halos too
    y = torch.full((len(x), 10), torch.nan)
    strides = [x[0].numel(), 10]
    pointers = [arena.ctypes.data, x.data_ptr(), y.data_ptr()]
    program.run(pointers, threads=threads, images=len(x), strides=strides, **options)
    return y


def test_every_number_of_threads_gives_the_same_bits_in_both_ways_of_sharing_a_batch(network):
    program, x = build(_steps(network)), torch.randn(5, 3, 32, 32)
    want = _run(program, x)
    exact = network.double()(x.double()).detach()
    magnitude = exact.abs().max() * torch.ones_like(exact)
    network.float()
    bound = rounding_bound(exact, magnitude, terms=27 + 9 + 24 + 256 + 40)
    assert worst_ratio(want, exact, bound) <= 1
    for threads in (1, 2, 3, 7):
        for image_per_thread in (False, True):
            assert torch.equal(_run(program, x, threads, image_per_thread=image_per_thread), want)


def test_python_threads_share_a_program(network):
    program, x = build(_steps(network)), torch.randn(2, 3, 32, 32)
    want, got = _run(program, x), []
    workers = [threading.Thread(target=lambda: got.append(_run(program, x, 2))) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(got) == 6 and all(torch.equal(y, want) for y in got)


def test_steps_can_be_run_one_by_one(network):
    steps, x = _steps(network), torch.randn(1, 3, 32, 32)
    program = build(steps)
    arena, y = program.new_arena(1), torch.zeros(1, 10)
    for i in range(len(steps)):
        program.run([arena.ctypes.data, x.data_ptr(), y.data_ptr()], threads=1, steps=(i, i + 1))
    assert torch.equal(y, _run(program, x))


def test_packing_again_replaces_the_weights_and_leaves_the_old_program_as_it_was(network):
    steps, x = _steps(network), torch.randn(1, 3, 32, 32)
    program = build(steps)
    before = _run(program, x)
    doubled = [
        replace(
            step,
            parts=tuple(Part(p.problem, {k: v * 2 for k, v in p.parameters.items()}) for p in step.parts),
        )
        for step in steps[-1:]
    ]
    after = program.pack([*steps[:-1], *doubled])
    assert torch.equal(_run(after, x), before * 2)
    assert torch.equal(_run(program, x), before)


def test_problems_that_differ_only_in_places_share_a_kernel():
    x, y = View.nhwc(4, 4, 8), View.nhwc(4, 4, 8)
    size = x.floats
    done: list[tuple[int, int]] = []
    steps = [
        Step(
            str(i),
            (
                Part(
                    Conv(x.placed(i * size), y.placed((i + 1) * size)),
                    {"weight": np.eye(8)[:, :, None, None]},
                ),
            ),
        )
        for i in range(4)
    ]
    build(steps, progress=lambda *at: done.append(at))
    assert done == [(1, 1)]


def test_parts_of_a_step_write_slices_of_one_tensor():
    x, y = View.nhwc(6, 5, 4).placed(0), View.nhwc(6, 5, 9).placed(200)
    torch.manual_seed(0)
    w1, w2 = torch.randint(-2, 3, (4, 4, 1, 1)).float(), torch.randint(-2, 3, (5, 4, 1, 1)).float()
    parts = (
        Part(Conv(x, y.slice(0, 4)), {"weight": w1.numpy()}),
        Part(Conv(x, y.slice(4, 5)), {"weight": w2.numpy()}),
    )
    program = build([Step("both", parts)])
    arena = program.new_arena(2)
    image = torch.randint(-2, 3, (1, 4, 6, 5)).float()
    arena[:120] = image[0].permute(1, 2, 0).flatten().numpy()
    program.run([arena.ctypes.data], threads=2)
    got = torch.from_numpy(arena[200 : 200 + 270].copy()).view(6, 5, 9).permute(2, 0, 1)
    assert torch.equal(got, F.conv2d(image, torch.cat([w1, w2]))[0])


def test_a_problem_without_a_template_is_refused_with_a_reason():
    x, y = View.nhwc(8, 8, 4), View.nhwc(8, 8, 4)
    dilated = Pool(x, y, kernel_size=(3, 3), stride=(1, 1), padding=(2, 2), dilation=(2, 2))
    assert "Pool" in (why_not(dilated) or "")
    assert why_not(replace(dilated, dilation=(1, 1), padding=(1, 1))) is None


def test_a_wrong_number_of_buffers_is_an_error(network):
    program = build(_steps(network))
    with pytest.raises(EngineError, match="3 buffers was given 2"):
        program.run([0, 0], threads=1)
