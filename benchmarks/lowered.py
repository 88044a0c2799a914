"""ONNX Runtime on the lowered file of a network and on PyTorch's own, in turns, one thread.

python -m benchmarks.lowered
python -m benchmarks.lowered mixnet_s --seconds 10
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn

import regroup

NETWORKS = ("shufflenet_v1_g3_100", "condensenet_74_g4", "igcv3_100", "mixnet_s")
BATCHES, SIDE = (1, 4), 224


def session(model: nn.Module, lowered: bool, folder: Path) -> onnxruntime.InferenceSession:
    """Return what runs a network's file, whose outputs have been compared."""
    path = folder / "net.onnx"
    regroup.export(model, path, torch.zeros(1, 3, SIDE, SIDE), lowered=lowered, replace=True)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path.read_bytes(), settings, providers=["CPUExecutionProvider"])


def least(sessions: list[onnxruntime.InferenceSession], batch: int, seconds: float) -> list[float]:
    """Return the least milliseconds for an image of each session, which take turns."""
    x = np.random.default_rng(0).standard_normal((batch, 3, SIDE, SIDE), np.float32)
    found = [float("inf")] * len(sessions)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for i, one in enumerate(sessions):
            start = time.perf_counter()
            one.run(None, {"images": x})
            found[i] = min(found[i], (time.perf_counter() - start) / batch * 1e3)
    return found


def main() -> None:
    """Measure, and print the rows of the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    for name in options.networks:
        torch.manual_seed(0)
        model = regroup.create_model(name)
        with torch.no_grad():
            model.train()(torch.randn(4, 3, SIDE, SIDE))  # norms that are no identities
        with tempfile.TemporaryDirectory() as folder:
            both = [session(model.eval(), lowered, Path(folder)) for lowered in (False, True)]
        for batch in BATCHES:
            plain, ours = least(both, batch, options.seconds)
            print(f"| `{name}` | {batch} | {plain:.2f} | {ours:.2f} | {plain / ours:.2f} |", flush=True)


if __name__ == "__main__":
    main()
