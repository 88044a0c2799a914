"""A service that classifies images: one compiled network, called from many threads. Needs fastapi, uvicorn.

    python examples/serve.py shufflenet_v1_g3_100 --port 8000
    curl --data-binary @cat.jpg http://127.0.0.1:8000/classify

The network is compiled once, for one thread: requests are the parallelism, one on each of the server's
threads, and calls of a compiled network do not disturb each other. `frozen=True` takes a copy of the weights.
Random weights are served unless `--weights` has others: the point is the service.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import torch
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as F

import regroup

MOST_BYTES = 10 << 20
MEAN, DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def service(model: nn.Module, side: int, best: int = 5) -> FastAPI:
    """Return the service of a network that takes images of side x side."""
    network = regroup.compile(model.eval(), torch.zeros(1, 3, side, side), threads=1, frozen=True)
    app = FastAPI(title="regroup")

    def classified(content: bytes) -> list[dict[str, int | float]]:
        try:
            images = prepared(content, side)
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise HTTPException(422, "the body is no image") from error
        with torch.inference_mode():
            shares = network(images).softmax(1)[0]
        top = shares.topk(min(best, len(shares)))
        return [{"class": int(i), "share": float(share)} for share, i in zip(*top, strict=True)]

    @app.post("/classify")
    async def classify(request: Request) -> list[dict[str, int | float]]:
        return await run_in_threadpool(classified, await _body(request))

    return app


def prepared(content: bytes, side: int) -> Tensor:
    """Return an image file as a batch of one image, as networks trained on ImageNet take it."""
    image = Image.open(io.BytesIO(content)).convert("RGB").resize((side, side))
    return F.normalize(F.to_dtype(F.to_image(image), torch.float32, scale=True), MEAN, DEVIATION)[None]


async def _body(request: Request) -> bytes:
    """Return a request's body, of which no more is kept than may be."""
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > MOST_BYTES:
            raise HTTPException(413, f"an image may have {MOST_BYTES} bytes")
    return bytes(content)


def main() -> None:
    """Serve a network of the registry."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--weights", type=Path, help="a file of safetensors, under the network's names")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    model = regroup.create_model(options.model)
    if options.weights is not None:
        from safetensors.torch import load_file

        model.load_state_dict(load_file(options.weights))
    uvicorn.run(service(model, options.side), host="127.0.0.1", port=options.port)


if __name__ == "__main__":
    main()
