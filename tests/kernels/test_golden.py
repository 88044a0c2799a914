"""Generated code is what it was when somebody last read it: `pytest tests/kernels/test_golden.py --accept`.

The excerpts in `golden/` are for one CPU as data, with AVX2, so they are the same on every machine.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from regroup.kernels import templates
from regroup.kernels.machine.target import Target
from regroup.kernels.problems import Chain, Conv, Epilogue, Linear, Pointwise, Pool, Prologue, Resize
from regroup.kernels.problems.view import Halo, View
from regroup.kernels.program.code import code_of_kernel
from tests.kernels.problems import MAKERS

GOLDEN = Path(__file__).parent / "golden"
TARGET = Target.avx2()
AROUND = Halo(1, 1, 1, 1)


def nhwc(size, channels, halo=None):
    return View.nhwc(size, size, channels, halo=halo or Halo())


def conv(size, channels_in, channels_out, kernel=3, **further):
    around = AROUND if kernel == 3 else None
    x, y = nhwc(size, channels_in, around), nhwc(size, channels_out)
    return Conv(x, y, kernel_size=(kernel, kernel), padding=(kernel // 2, kernel // 2), **further)


RELU = Epilogue(bias=True, activation="relu")

PROBLEMS = {
    "dense": conv(6, 2, 8, epilogue=RELU),
    "grouped": conv(6, 8, 8, groups=4, epilogue=RELU),
    "depthwise": conv(6, 8, 8, groups=8, epilogue=RELU),
    "pointwise_conv": conv(4, 16, 12, kernel=1, epilogue=replace(RELU, residual=nhwc(4, 12))),
    "winograd": conv(4, 16, 16, epilogue=Epilogue(bias=True)),
    "chain": Chain(
        nhwc(6, 8),
        nhwc(6, 8),
        links=(conv(6, 8, 8, kernel=1, epilogue=RELU), conv(6, 8, 8, groups=8)),
        band=2,
    ),
    "linear": Linear(View.vector(32), View.vector(20), epilogue=Epilogue(bias=True)),
    "pool": Pool(nhwc(6, 8), nhwc(3, 8), kernel_size=(3, 3), stride=(2, 2), padding=(1, 1)),
    "elementwise": Pointwise(nhwc(4, 12), nhwc(4, 12), Prologue(activation="silu")),
    "resize": Resize(nhwc(3, 12), nhwc(6, 12), mode="bilinear"),
}


def kernel_of(name):
    problem = PROBLEMS[name]
    if name == "winograd":  # so small a one is quicker by the definition
        return next(k for k in templates.kernels(problem, TARGET) if k.template == name)
    return templates.choose(problem, TARGET)


@pytest.mark.parametrize("name", PROBLEMS)
def test_generated_code_is_as_it_was_last_read(name, accept):
    path, code = GOLDEN / f"{name}.txt", code_of_kernel(kernel_of(name)) + "\n"
    if accept:
        path.write_text(code)
    assert path.exists() and code == path.read_text(), (
        f"the code for {name!r} has changed: read it, and keep it with pytest {Path(__file__).name} --accept"
    )


def test_every_excerpt_is_of_a_problem():
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(PROBLEMS)


WORDS = {
    r"^.*call .*@llvm\.fmuladd": r"\bfma\(",
    r"= load (<|float)|@llvm\.masked\.load.*%": r"\b(load(_ints)?\d*|broadcast)\(",
    r"^store (<|float)|^call .*@llvm\.masked\.store": r"\bstore\d*\(",
    r"^loop\d+:": r"\bfor \w+ in range\(",
    r"label %(then|yes)": r"^ *if ",
}
"""What stands for what: in LLVM's assembly, and in a listing."""


@pytest.mark.parametrize("family", MAKERS)
@pytest.mark.parametrize("target", [Target.avx2(), Target.avx512(), Target.neon()], ids=lambda t: t.name)
def test_a_listing_leaves_out_no_operation(family, target):
    rng, ways = Random(family), []
    while not ways:
        ways = templates.kernels(MAKERS[family](rng, False), target)
    kernel = rng.choice(ways)
    llvm, listing = code_of_kernel(kernel, "llvm"), re.sub(r"#.*", "", code_of_kernel(kernel))
    for theirs, ours in WORDS.items():
        there, here = re.findall(theirs, llvm, re.MULTILINE), re.findall(ours, listing, re.MULTILINE)
        assert len(there) == len(here), ours
