"""What an export writes, and what it refuses: one clear error each, and nothing written."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import nn

from regroup import export_object
from regroup.aot.export import object_files
from regroup.aot.targets import MACHINES, listed
from regroup.errors import CheckpointError, EngineError, ParameterError, UnknownNameError
from regroup.files.sealed import verify_sealed
from tests.aot.running import require, run
from tests.aot.test_symbols import undefined


def small(seed: int = 0) -> nn.Module:
    """Return a network of integers, so that results are exact."""
    torch.manual_seed(seed)
    layers = (nn.Conv2d(3, 16, 3, 1, 1), nn.ReLU(), nn.Conv2d(16, 8, 1, groups=4), nn.AdaptiveMaxPool2d(1))
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 5))
    for parameter in model.parameters():
        parameter.data = torch.randint(-2, 3, parameter.shape).float()
    return model.eval()


PAGE = Path(__file__).parents[2] / "docs" / "object.md"

EXAMPLE = torch.randint(-3, 4, (2, 3, 12, 10)).float()


@pytest.mark.parametrize(("machine", "packed"), [("x86-64", "inside"), ("aarch64", "apart")])
def test_the_example_builds_and_gives_what_pytorch_gives(machine, packed, tmp_path):
    """Alone with the times of steps, on threads of its own, and on those of OpenMP."""
    require(machine)
    export_object(small(), EXAMPLE, machine, tmp_path / "net", packed=packed, hook=True)
    make = ["make", "-B", "-C", tmp_path / "net", "check"]
    for options in ("THREADS=3 CFLAGS=-fopenmp", "THREADS=3", ""):
        flags, _, more = options.partition("CFLAGS=")
        printed = run([*make, f"CFLAGS=-O1 -Wall -Wextra -Werror {more}", *flags.split()])
        assert "output: at most 0 from what is expected, whose largest number is" in printed
        steps = re.findall(r"^step (\d+): [\d.]+ us, (conv|pool|linear)", printed, re.MULTILINE)
        assert [int(number) for number, _ in steps] == ([] if flags else list(range(len(steps))))
        assert bool(steps) != bool(flags)
    files = ["net.weights"] if packed == "apart" else []
    emulator = MACHINES[machine].runs_with.split()
    paths = [tmp_path / "net" / file for file in ("main", *files, "input.bin")]
    lines = [line for line in run([*emulator, *paths]).splitlines() if not line.startswith("step")]
    assert [line.split()[:2] for line in lines] == [["output", str(i)] for i in range(5)]
    if MACHINES[machine].more:  # a CPU that there is no code for
        old = subprocess.run(["qemu-x86_64", "-cpu", "Nehalem", *paths], capture_output=True, text=True)
        assert (old.returncode, old.stderr) == (1, "net_run: 3\n")


def test_the_example_in_javascript_gives_what_pytorch_gives(tmp_path):
    require("wasm32-simd128")
    export_object(small(), EXAMPLE, "wasm32-simd128", tmp_path / "net")
    printed = run(["node", tmp_path / "net" / "check.mjs"])
    assert printed.startswith("output: at most 0 from what is expected, whose largest number is")
    wrong = tmp_path / "wrong.mjs"
    wrong.write_text("""
        import { readFileSync } from "node:fs";
        import { inputs, load, outputs } from "./net/net.js";
        if (inputs.input.join() !== "3,12,10" || outputs.output.join() !== "5") throw new Error("shapes");
        const network = await load(await WebAssembly.compile(readFileSync("net/net.wasm")));
        for (const images of [[], [new Float32Array(3)], [1, 2].map(() => new Float32Array(360))])
            try { network.run(...images); console.log("taken"); }
            catch (error) { console.log(error.message); }
        const x = new Float32Array(360).fill(1), first = network.run(x).output;
        network.run(x.map(() => 2));  // results are the caller's own
        console.log(first.join() === network.run(x).output.join());
    """)
    done = subprocess.run(["node", wrong], capture_output=True, text=True, cwd=tmp_path)
    lines = ["0 inputs; there are 1", "input has 3 numbers, not 360", "2 inputs; there are 1", "true"]
    assert done.stdout.splitlines() == lines, done.stderr
    with pytest.raises(ParameterError, match="packed='apart': must be 'inside' for wasm32-simd128"):
        export_object(small(), EXAMPLE, "wasm32-simd128", tmp_path / "other", packed="apart")


def test_two_networks_in_one_program_on_many_threads(tmp_path):
    """Each image on one of eight threads, and then each step on one to eight of them."""
    require("x86-64")
    for name, seed in (("one", 1), ("other", 2)):
        export_object(small(seed), EXAMPLE, "x86-64", tmp_path / name, name=name)
    program = tmp_path / "threads.cpp"
    program.write_text("""
        #include <cstring>
        #include <thread>
        #include <vector>
        #include "one.hpp"
        #include "other.hpp"
        static float x[ONE_INPUT_FLOATS], first[2][5];
        template <class Network> void work(int which, int times, bool *good) {
            Network network;
            for (int i = 0; i < times; i++) {
                float y[5];
                network.run(x, y);
                if (times == 1) std::memcpy(first[which], y, sizeof y);
                *good = *good && !std::memcmp(first[which], y, sizeof y);
            }
        }
        alignas(64) static unsigned char wide[ONE_PARALLEL_BYTES(8)];
        static void at_once(void *context, int shares, one_task *task, void *state) {
            std::vector<std::thread> threads;
            for (int i = 0; i < shares; i++) threads.emplace_back(task, state, i);
            for (auto &thread : threads) thread.join();
            ++*static_cast<int *>(context);
        }
        int main() {
            for (int i = 0; i < ONE_INPUT_FLOATS; i++) x[i] = i % 17 - 8;
            bool good[8];
            std::vector<std::thread> threads;
            for (int i = 0; i < 8; i++) good[i] = true;
            work<one::Network>(0, 1, good), work<other::Network>(1, 1, good);
            for (int i = 0; i < 8; i++)
                threads.emplace_back(
                    i % 2 ? work<other::Network> : work<one::Network>, i % 2, 2000, &good[i]);
            for (auto &thread : threads) thread.join();
            for (bool one : good) if (!one) return 1;
            for (int shares = 1, last = 0; shares <= 8; shares++) {
                float y[5];
                int steps = 0;
                if (one_run_parallel(x, y, wide, shares, at_once, &steps)) return 4;
                if (std::memcmp(first[0], y, sizeof y) || !steps || (last && steps != last)) return 5;
                last = steps;
            }
            try { one::Network().run(x, nullptr); } catch (const std::invalid_argument &) {
                return std::memcmp(first[0], first[1], sizeof first[0]) ? 0 : 2;
            }
            return 3;
        }
    """)
    folders = [tmp_path / name for name in ("one", "other")]
    include = [f"-I{folder}" for folder in folders]
    libraries = [folder / f"lib{folder.name}.a" for folder in folders]
    flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread"]
    run(["c++", *flags, *include, program, *libraries, "-o", tmp_path / "threads"])
    run([tmp_path / "threads"])


def test_the_report_adds_up(tmp_path):
    found = export_object(small(), EXAMPLE, "x86-64-avx2", tmp_path / "net")
    data = json.loads((tmp_path / "net" / "report.json").read_text())
    header = (tmp_path / "net" / "net.h").read_text()
    assert found.macs == data["macs"] == 120 * (27 * 16 + 4 * 8) + 8 * 5
    assert found.flash == data["flash"] == found.code + found.weights
    assert f"#define NET_ARENA_BYTES {found.arena}\n" in header
    assert found.ram == found.arena + 4 * (3 * 12 * 10 + 5)
    assert found.weights >= 4 * sum(p.numel() for p in small().parameters())
    assert max(step.bytes for step in found.steps) <= found.arena
    assert sum(step.share for step in found.steps) == pytest.approx(1)
    assert str(found) == (tmp_path / "net" / "report.txt").read_text()


WAYS_OF_WINOGRAD = [
    ("aarch64", {}, True),
    ("aarch64", {"winograd": False}, False),
    ("aarch64", {"flash": "1M"}, False),
    ("aarch64", {"flash": "1M", "winograd": True}, True),
    ("cortex-m55", {}, False),
    ("cortex-m55", {"winograd": True}, True),
]


@pytest.mark.parametrize(("machine", "options", "taken"), WAYS_OF_WINOGRAD)
def test_where_flash_counts_weights_are_there_once(machine, options, taken):
    """Transformed weights are 16 where the definition has 9, which are kept besides."""
    model, x = nn.Conv2d(48, 48, 3, 1, 1, bias=False).eval(), torch.randn(1, 48, 16, 16)
    _, found = object_files(model, x, machine, **options)
    given = model.weight.numel() * 4
    assert found.winograd == (given * 16 // 9 + 4 * 48 if taken else None)
    assert found.weights - (found.winograd or 0) == pytest.approx(given, abs=512)  # a head, and a bias
    assert ("are for Winograd" in str(found)) == taken and ("is left out" in str(found)) != taken


def test_the_same_network_gives_the_same_files(tmp_path):
    for name in ("a", "b"):
        export_object(small(), EXAMPLE, "aarch64", tmp_path / name)
    files = verify_sealed(tmp_path / "a")
    assert "net.o" in files and "libnet.a" in files
    assert all((tmp_path / "b" / name).read_bytes() == path.read_bytes() for name, path in files.items())


@pytest.mark.parametrize("machine", MACHINES)
def test_there_is_an_export_for_every_machine_which_calls_nothing(machine, tmp_path):
    export_object(small(), EXAMPLE, machine, tmp_path / "net", hook="wasm" not in machine)
    code = (tmp_path / "net" / "net.o").read_bytes()
    kinds = {"apple": (b"\xcf\xfa\xed\xfe", None), "wasm": (b"\0asm", None)}
    kinds |= {"x86-64": (b"\x7fELF", 62), "aarch64": (b"\x7fELF", 183)}
    kinds |= {"riscv64": (b"\x7fELF", 243), "arm": (b"\x7fELF", 40), "cortex": (b"\x7fELF", 40)}
    magic, number = next(kinds[key] for key in kinds if key in machine)
    assert code[:4] == magic and number in (None, int.from_bytes(code[18:20], "little"))
    assert (tmp_path / "net" / "libnet.a").exists() == (magic == b"\x7fELF")
    assert magic != b"\x7fELF" or not undefined(code)
    about = MACHINES[machine].about
    assert f"{machine} " in listed() and f"| `{machine}` | {about} | " in PAGE.read_text()


class Sort(nn.Module):
    def forward(self, x):
        return x.sort(1).values + torch.cumsum(x, 1)


REFUSED = {
    "target": ({"target": "cortex-m3"}, UnknownNameError, "target='cortex-m3': must be one of aarch64, "),
    "ram": ({"ram": "4k"}, ParameterError, r"ram=4096: must be at least \d+, .*step \d+, .*conv"),
    "flash": ({"flash": "1k"}, ParameterError, r"flash=1024: must be at least \d+, .*weights"),
    "size": ({"ram": "much"}, ParameterError, "ram='much': must be a number of bytes"),
    "name": ({"name": "1net"}, ParameterError, "name='1net': must be a name in C"),
    "reserved": ({"name": "main"}, ParameterError, "name='main': must be a name in C"),
    "packed": ({"packed": "beside"}, ParameterError, "packed='beside': must be 'inside' or 'apart'"),
    "winograd": ({"winograd": "some"}, ParameterError, "winograd='some': must be true, false, or left out"),
    "hook": ({"hook": 1}, ParameterError, "hook=1: must be true or false"),
    "hook there": ({"hook": True, "target": "wasm32-simd128"}, ParameterError, "hook=True: must be left out"),
    "training": ({"model": small().train()}, EngineError, "training mode"),
    "operators": ({"model": Sort().eval()}, EngineError, "no kernel for aten::(sort|cumsum).*no kernel for"),
    "nothing": ({"model": nn.Identity().eval()}, EngineError, "computes nothing"),
}


def test_images_that_fit_are_told(tmp_path):
    model, x = small(), torch.zeros(1, 3, 64, 48)
    needed = export_object(model, x, "cortex-m4", tmp_path / "net").ram
    with pytest.raises(ParameterError, match=r"take images of \d+x\d+, which fit") as refused:
        export_object(model, x, "cortex-m4", tmp_path / "other", ram=needed - 1)
    side = [int(n) for n in re.search(r"images of (\d+)x(\d+),", str(refused.value)).groups()]
    export_object(model, torch.zeros(1, 3, *side), "cortex-m4", tmp_path / "other", ram=needed - 1)
    assert 0.6 * 64 * 48 < side[0] * side[1] < 64 * 48
    with pytest.raises(ParameterError, match="take a narrower network"):
        export_object(model, x, "cortex-m4", tmp_path / "third", ram=100)


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_is_refused_and_nothing_is_written(what, tmp_path):
    given, error, message = REFUSED[what]
    given = {"model": small(), "example": EXAMPLE, "target": "x86-64-avx2", **given}
    with pytest.raises(error, match=message):
        export_object(directory=tmp_path / "net", **given)
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_not_overwritten_unasked(tmp_path):
    mine = tmp_path / "net" / "thesis.tex"
    mine.parent.mkdir()
    mine.write_text("years")
    for replace, message in ((False, "empty or not there yet"), (True, "an earlier export")):
        with pytest.raises(ParameterError, match=message):
            export_object(small(), EXAMPLE, "x86-64-avx2", mine.parent, replace=replace)
    with pytest.raises(ParameterError, match="must be a directory"):
        export_object(small(), EXAMPLE, "x86-64-avx2", mine)
    with pytest.raises((OSError, CheckpointError), match="thesis"):
        export_object(small(), EXAMPLE, "x86-64-avx2", mine / "net")
    assert mine.read_text() == "years" and list(mine.parent.iterdir()) == [mine]


def test_an_earlier_export_is_replaced_as_a_whole(tmp_path):
    export_object(small(), EXAMPLE, "x86-64-avx2", tmp_path / "net", packed="apart")
    with pytest.raises(ParameterError, match="empty or not there yet"):
        export_object(small(), EXAMPLE, "x86-64-avx2", tmp_path / "net")
    export_object(small(), EXAMPLE, "x86-64-avx2", tmp_path / "net", replace=True)
    assert not (tmp_path / "net" / "net.weights").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["net"]


def test_cmake_builds_it_too(tmp_path):
    require("x86-64-avx2")
    if shutil.which("cmake") is None:
        pytest.skip("there is no cmake")
    export_object(small(), EXAMPLE, "x86-64-avx2", tmp_path / "net")
    run(["cmake", "-S", tmp_path / "net", "-B", tmp_path / "build"])
    run(["cmake", "--build", tmp_path / "build"])
    found = subprocess.run([tmp_path / "build" / "main"], capture_output=True, text=True)
    assert found.returncode == 2 and "usage:" in found.stderr
