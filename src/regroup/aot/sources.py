"""The files beside the object: headers, an example that builds with any C compiler, and what builds it.

They are the files in `text/`, with what is different from network to network put in.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from string import Template

from regroup.aot.network import Network, Port
from regroup.aot.object import ABI_VERSION, Object
from regroup.aot.targets import Board, Machine
from regroup.kernels.program.entry import ALIGNMENT, NO_CPU, NO_SHARES, NULL_POINTER, UNALIGNED


def sources(network: Network, made: Object, machine: Machine, name: str, title: str) -> dict[str, bytes]:
    """Return the text files of an export, by name.

    Args:
        network: its inputs and outputs.
        made: the object code.
        machine: what it is for.
        name: prefix of all names in C.
        title: what people call the network.
    """
    words = _words(network, made, name)
    words |= {"title": _quotable(title), "machine": machine.name}
    words |= {"version": sys.modules["regroup"].__version__}
    words |= {"compiler": machine.compiler, "flags": machine.flags, "runs_with": machine.runs_with}
    words |= _ways_to_run(name, made, words["given"])
    words["more"] = "".join(_part(part, words) for part in _parts(made, name))
    found = {}
    for file in _files(network, machine, made, name):
        text = Template(file.read_text("utf-8")).substitute(words)
        stem, _, kind = file.name.partition(".")
        found[f"{name}.{kind}" if stem == "net" else file.name] = text.encode()
    return found | ({} if machine.board is None else board_sources(machine.board))


def board_sources(board: Board) -> dict[str, bytes]:
    """Return what a program needs where there is no operating system: its start, and where all goes."""
    words = {"board": board.name}
    for what in ("code", "data"):
        start, size = getattr(board, what)
        words |= {what: f"{start:#x}", f"{what}_bytes": str(size)}
    folder = resources.files("regroup.aot") / "text" / "board"
    texts = {name: Template((folder / name).read_text("utf-8")) for name in ("start.c", "board.ld")}
    return {name: text.substitute(words).encode() for name, text in texts.items()}


def _parts(made: Object, name: str) -> list[str]:
    """Return the parts of the header that tell of further functions."""
    asked = {"parallel.h": f"{name}_run_parallel", "hook.h": f"{name}_run_hooked", "cpus.h": f"{name}_cpu"}
    return [part for part, symbol in asked.items() if symbol in made.symbols]


def _part(part: str, words: Mapping[str, str]) -> str:
    file = resources.files("regroup.aot") / "text" / "parts" / part
    return Template(file.read_text("utf-8")).substitute(words)


def _files(network: Network, machine: Machine, made: Object, name: str) -> list[Traversable]:
    """Return the files of `text/` that belong to an export."""
    folder = resources.files("regroup.aot") / "text"
    missing = {"parallel.h", "hook.h"} - set(_parts(made, name))
    unused = {{"parallel.h": "parallel.h", "hook.h": "times.h"}[part] for part in missing}
    inner = sorted((folder / ("wasm" if machine.is_wasm else "c")).iterdir(), key=lambda file: file.name)
    if machine.board is not None:  # what builds it there
        inner = [file for file in inner if file.name not in ("Makefile", "CMakeLists.txt")]
        inner.append(folder / "board" / "Makefile")
    inner = [file for file in inner if file.name not in unused]
    is_classifier = [len(p.shape) for p in (*network.inputs, *network.outputs)] == [3, 1]
    if not is_classifier or network.inputs[0].shape[0] != 3:
        inner = [file for file in inner if file.name != "index.html"]
    return [folder / "net.h", *inner]


def sample_file(port: Port) -> str:
    """Return the name of the file of a port's numbers."""
    return f"{port.name}.bin"


def _words(network: Network, made: Object, name: str) -> dict[str, str]:
    upper, inputs, outputs = name.upper(), network.inputs, network.outputs
    kinds = [f"const float *{p.name}" for p in inputs] + [f"float *{p.name}" for p in outputs]
    names = [p.name for p in (*inputs, *outputs)]
    apart = made.apart
    prototype = ", ".join([*kinds, "void *arena", *(["const void *weights"] if apart else [])])
    weights = f"#define {upper}_WEIGHTS_BYTES {len(made.weights)} /* of {name}.weights, a file beside this */"
    return {
        "name": name,
        "NAME": upper,
        "abi": str(ABI_VERSION),
        "digest": made.digest,
        "arena": str(made.arena_bytes),
        "alignment": str(ALIGNMENT),
        "null_pointer": str(NULL_POINTER),
        "unaligned": str(UNALIGNED),
        "no_cpu": str(NO_CPU),
        "no_shares": str(NO_SHARES),
        "and_weights": " and of weights" if apart else "",
        "or_weights": ", or weights" if apart else "",
        "weights_bytes": weights + "\n" if apart else "",
        "signature": f"{name}_run({', '.join([*names, 'arena', *(['weights'] if apart else [])])})",
        "prototype": prototype,
        **_more_functions(name, made, prototype),
        "ports": _port_macros(upper, inputs, outputs),
        **_example(name, made, inputs, outputs),
        **_wrapper(name, made, kinds, names),
        **_script(inputs, outputs),
    }


def _more_functions(name: str, made: Object, prototype: str) -> dict[str, str]:
    """Return what the parts of the header need."""
    lines = []
    for level in made.levels:
        lines.append(f"int {name}_run_{level}({prototype});")
        if f"{name}_run_parallel" in made.symbols:
            kinds = f"int shares, {name}_parallel_for *parallel_for, void *context"
            lines.append(f"int {name}_run_parallel_{level}({prototype}, {kinds});")
        if f"{name}_run_hooked" in made.symbols:
            lines.append(f"int {name}_run_hooked_{level}({prototype}, {name}_hook *hook, void *context);")
    return {
        "functions": "\n".join(lines),
        "levels": ", ".join(f"{i} for {level}" for i, level in enumerate(made.levels, 1)),
        "steps": str(max(len(arrangement.steps) for arrangement in made.arrangements)),
        "arena_alone": str(made.arena_bytes - made.share_bytes),
        "share": str(made.share_bytes),
    }


def _ways_to_run(name: str, made: Object, given: str) -> dict[str, str]:
    """Return how the example runs the network: with its steps' times, or on threads."""
    uses, at_end, arena = "", "", f"{name.upper()}_ARENA_BYTES"
    run = f"    int status = {name}_run({given});\n"
    if f"{name}_run_hooked" in made.symbols:
        uses, at_end = '#include "times.h"\n', "    times_print();\n"
        run = f"    int status = {name}_run_hooked({given}, times_hook, NULL);\n"
    if f"{name}_run_parallel" in made.symbols:
        uses, run = (
            f"#ifdef THREADS /* make -B THREADS=4 */\n{threaded}#else\n{alone}#endif\n"
            for threaded, alone in zip(
                _on_threads(name, given), (f"#define ARENA_BYTES {arena}\n{uses}", run), strict=True
            )
        )
        uses, arena = f"\n{uses}\n", "ARENA_BYTES"
        at_end = f"#ifndef THREADS\n{at_end}#endif\n" if at_end else ""
    return {"uses": uses, "at_end": at_end, "arena_size": arena, "run": run}


def _on_threads(name: str, given: str) -> tuple[str, str]:
    """Return what the example includes to run on threads, and how it runs then."""
    uses = f'#include "parallel.h"\n#define ARENA_BYTES {name.upper()}_PARALLEL_BYTES(THREADS)\n'
    run = f"""    static struct pool pool;
    if (!pool_start(&pool, THREADS)) {{
        fprintf(stderr, "there are no %d threads\\n", THREADS);
        return 1;
    }}
    int status = {name}_run_parallel({given}, THREADS, pool_for, &pool);
    pool_stop(&pool);
"""
    return uses, run


def _port_macros(upper: str, inputs: Sequence[Port], outputs: Sequence[Port]) -> str:
    lines = [f"#define {upper}_INPUTS {len(inputs)}", f"#define {upper}_OUTPUTS {len(outputs)}"]
    for port in (*inputs, *outputs):
        shape = ", ".join(map(str, port.shape))
        lines.append(f"#define {upper}_{port.name.upper()}_FLOATS {port.floats} /* ({shape}) */")
    return "\n".join(lines) + "\n"


def _example(name: str, made: Object, inputs: Sequence[Port], outputs: Sequence[Port]) -> dict[str, str]:
    """Return what `main.c` and its builders need."""
    upper, ports = name.upper(), (*inputs, *outputs)
    buffers = [f"static float {p.name}[{upper}_{p.name.upper()}_FLOATS];" for p in ports]
    table = [f'    {{"{p.name}", {p.name}, {upper}_{p.name.upper()}_FLOATS}},' for p in ports]
    files = [sample_file(port) for port in inputs]
    if made.apart:
        size = f"{upper}_WEIGHTS_BYTES"
        buffers.append(f"static _Alignas({upper}_ALIGNMENT) unsigned char weights[{size}];")
        table.insert(0, f'    {{"weights", (float *)weights, {size} / sizeof(float)}},')
        files.insert(0, f"{name}.weights")
    given = [*(p.name for p in ports), "arena", *(["weights"] if made.apart else [])]
    return {
        "buffers": "\n".join(buffers) + "\n",
        "table": "\n".join(table) + "\n",
        "inputs": str(len(files)),
        "most": str(max(port.floats for port in outputs)),
        "input_files": " ".join(files),
        "expected_files": " ".join(sample_file(port) for port in outputs),
        "given": ", ".join(given),
    }


def _wrapper(name: str, made: Object, kinds: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """Return what the C++ header needs."""
    upper, function = name.upper(), f"{name}_run"
    members = "    const void *weights_;\n" if made.apart else ""
    for number, level in enumerate(made.levels, 1):
        function = f"cpu_ == {number} ? {name}_run_{level} : {function}"
    if made.levels:
        function, members = f"({function})", f"{members}    int cpu_ = {name}_cpu();\n"
    constructor = "    Network() = default;"
    if made.apart:
        about = "    /// The weights must stay where they are.\n"
        constructor = f"{about}    explicit Network(const void *weights) : weights_(weights) {{}}"
    return {
        "constructor": constructor,
        "parameters": ", ".join(kinds),
        "arguments": ", ".join([*names, "arena_->bytes", *(["weights_"] if made.apart else [])]),
        "members": members,
        "function": function,
        "sizes": "; ".join(f"{n}: {upper}_{n.upper()}_FLOATS numbers" for n in names) + ".",
    }


def _script(inputs: Sequence[Port], outputs: Sequence[Port]) -> dict[str, str]:
    """Return what the files in JavaScript need."""
    words = {
        "first_output": outputs[0].name,
        "height": str(inputs[0].shape[-2] if len(inputs[0].shape) > 1 else 1),
        "width": str(inputs[0].shape[-1] if inputs[0].shape else 1),
        "js_parameters": ", ".join(f"{port.name}: ArrayLike<number>" for port in inputs),
        "js_result": "{ " + "; ".join(f"{port.name}: Float32Array" for port in outputs) + " }",
    }
    for kind, ports in (("input", inputs), ("output", outputs)):
        words[f"{kind}_shapes"] = json.dumps({port.name: list(port.shape) for port in ports})
        words[f"{kind}_types"] = "{ " + "; ".join(f"{port.name}: number[]" for port in ports) + " }"
    return words


def _quotable(text: str) -> str:
    """Return a text that may stand in a comment and between quotation marks."""
    return "".join(c if c.isascii() and (c.isalnum() or c in " .,:_-+=") else "_" for c in text)[:100]
