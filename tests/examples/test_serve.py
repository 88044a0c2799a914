"""A compiled network behind a web service: many requests at once, and bad ones."""

from __future__ import annotations

import importlib.util
import io
import json
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from PIL import Image

import regroup

uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")

CLIENTS, REQUESTS, SIDE = 8, 200, 32


@pytest.fixture(scope="module")
def example():
    path = Path(__file__).parents[2] / "examples" / "serve.py"
    spec = importlib.util.spec_from_file_location("serve", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = regroup.create_model("shufflenet_v1_g3_025", num_classes=10)
    with torch.no_grad():
        model.train()(torch.randn(8, 3, SIDE, SIDE))
    return model.eval()


@pytest.fixture(scope="module")
def address(example, model):
    """Serve on a free port of this machine, in a thread."""
    config = uvicorn.Config(example.service(model, SIDE), host="127.0.0.1", port=0, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    end = time.monotonic() + 30
    while not server.started and time.monotonic() < end:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/classify"
    server.should_exit = True
    thread.join(30)
    assert not thread.is_alive()


def picture(number: int) -> bytes:
    file = io.BytesIO()
    pixels = torch.randint(0, 256, (40, 50, 3), generator=torch.Generator().manual_seed(number))
    Image.fromarray(pixels.to(torch.uint8).numpy()).save(file, "png")
    return file.getvalue()


def post(address: str, content: bytes) -> tuple[int, object]:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, content), timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_many_requests_at_once_get_what_pytorch_gives(address, example, model):
    pictures = [picture(number) for number in range(10)]
    with torch.no_grad():
        inputs = [example.prepared(content, SIDE) for content in pictures]
        own = torch.cat([model(x).softmax(1) for x in inputs])
        exact = torch.cat([model.double()(x.double()).softmax(1) for x in inputs])
        model.float()
    most = 4 * (float((own - exact).abs().max()) + torch.finfo(torch.float32).eps)
    with ThreadPoolExecutor(CLIENTS) as clients:
        answers = list(clients.map(lambda i: post(address, pictures[i % 10]), range(REQUESTS)))
    for i, (status, found) in enumerate(answers):
        assert status == 200 and len(found) == 5
        assert found == answers[i % 10][1], "another answer for the same image"
        for one in found:
            assert abs(one["share"] - float(exact[i % 10, one["class"]])) <= most


def test_what_is_no_image_is_an_answer_not_a_failure(address, example):
    cut = picture(1)[:200]
    assert [post(address, content)[0] for content in (b"", b"no image", cut)] == [422] * 3
    assert post(address, b"x" * (example.MOST_BYTES + 1))[0] == 413
    assert post(address, picture(1))[0] == 200
