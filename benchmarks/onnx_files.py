"""Trained ONNX files of other people: regroup against ONNX Runtime and OpenVINO, on the file itself.

python -m benchmarks.onnx_files
python -m benchmarks.onnx_files model.onnx --size 1 3 224 224

Without files: the text detection, direction and recognition networks of PP-OCRv4, if the package that carries
them is installed (`pip install rapidocr-onnxruntime`). There are times only where regroup's result is at most
twice as far from that in float64 as PyTorch's in float32; the others' distances are shown.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import torch
from benchmarks.engine import Runtime, in_onnxruntime, in_openvino, take_turns

import regroup
from regroup.engine.frontend.onnx import load

OCR = {"det": (1, 3, 320, 320), "cls": (1, 3, 48, 192), "rec": (1, 3, 48, 320)}
"""Sizes of the images that PP-OCRv4's networks are given, by words of the files' names."""


def found() -> list[tuple[Path, tuple[int, ...]]]:
    """Return the files of an installed package, and sizes for them."""
    spec = importlib.util.find_spec("rapidocr_onnxruntime")
    if spec is None or spec.origin is None:
        return []
    files = sorted((Path(spec.origin).parent / "models").glob("*.onnx"))
    return [(path, size) for path in files for word, size in OCR.items() if f"_{word}_" in path.name]


PEERS = {"onnxruntime": in_onnxruntime, "openvino": in_openvino}


def compare(path: Path, size: tuple[int, ...], threads: int, seconds: float) -> dict[str, Any]:
    """Time one file in all runtimes that are installed, once their outputs agree."""
    torch.manual_seed(0)
    x, model = torch.randn(size), load(path)
    fast = regroup.compile(model, x)
    runtimes: dict[str, Runtime] = {"regroup": lambda: fast(x)}
    runtimes |= {n: make(path, x, threads) for n, make in PEERS.items() if importlib.util.find_spec(n)}
    with torch.no_grad():
        exact = load(path).double()(x.double())
        errors = {name: float((run() - exact).abs().max()) for name, run in runtimes.items()}
        if not errors["regroup"] <= 2 * float((model(x) - exact).abs().max()):
            sys.exit(f"{path.name}: regroup's result is wrong, so no times: {errors}")
        timings = take_turns(runtimes, seconds)
    milliseconds = {n: [1e3 * q for q in (t.low, t.median, t.high)] for n, t in timings.items()}
    row = {"file": path.name, "size": size, "runs": fast.summary()}
    return row | {"milliseconds": milliseconds, "errors": errors}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--size", nargs="+", type=int, default=[1, 3, 224, 224], help="of the files' input")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=2.0, help="for each runtime and file")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    files = [(path, tuple(options.size)) for path in options.files] or found()
    if not files:
        print("no files: name some, or pip install rapidocr-onnxruntime")
    rows = []
    for path, size in files:
        rows.append(compare(path, size, options.threads, options.seconds))
        times = ", ".join(
            f"{name} {median:.2f} ({low:.2f} .. {high:.2f})"
            for name, (low, median, high) in rows[-1]["milliseconds"].items()
        )
        print(f"{path.name} {'x'.join(map(str, size))}: {rows[-1]['runs']}\n  ms: {times}", flush=True)
        print("  off float64:", ", ".join(f"{n} {error:.1e}" for n, error in rows[-1]["errors"].items()))
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
