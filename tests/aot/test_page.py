"""The page of an exported classifier, in a browser: an image that is dropped on it gets its classes."""

from __future__ import annotations

import functools
import html
import http.server
import json
import re
import subprocess
import threading

import pytest
import torch
from torch import nn

import regroup
from tests.report.browser import CHROMIUM, FLAGS

COLOUR = (200, 90, 30)
DROP = f"""<!doctype html><body><iframe src="index.html" width="800" height="600"></iframe><script>
const until = async (test) => {{ while (!test()) await new Promise((go) => setTimeout(go, 20)); }};
addEventListener("load", async () => {{
  const frame = document.querySelector("iframe"), page = frame.contentDocument;
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [40, 30];
  const context = canvas.getContext("2d");
  context.fillStyle = "rgb{COLOUR}";
  context.fillRect(0, 0, 40, 30);
  const blob = await new Promise((found) => canvas.toBlob(found));
  const drop = async (file) => {{
    const data = new frame.contentWindow.DataTransfer();
    data.items.add(file);
    page.querySelector("#took").textContent = "";
    await until(() => {{  // the page listens once it has loaded the network
      const event = new frame.contentWindow.DragEvent("drop", {{ dataTransfer: data, cancelable: true }});
      page.dispatchEvent(event);
      return event.defaultPrevented;
    }});
    await until(() => page.querySelector("#took").textContent);
  }};
  await drop(new frame.contentWindow.File([blob], "a.png"));
  const lines = [...page.querySelectorAll("#found li")].map((item) => item.textContent);
  await drop(new frame.contentWindow.File(["no image"], "b.png"));
  const found = JSON.stringify([lines, page.querySelector("#took").textContent]);
  document.body.textContent = `FOUND ${{found}} END`;
}});
</script>"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")
def test_an_image_that_is_dropped_gets_its_classes(tmp_path):
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    model, names = nn.Sequential(*layers).eval(), ["ant", "bee", "cat", "dog", "emu"]
    about, size = {"classes": names}, torch.zeros(1, 3, 16, 24)
    regroup.export(model, tmp_path / "net", size, to="object", target="wasm32-simd128", about=about)
    (tmp_path / "net" / "drop.html").write_text(DROP)
    handler = functools.partial(Quiet, directory=tmp_path / "net")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_port}/drop.html"
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    finally:
        server.shutdown()
        server.server_close()
    found = re.search(r"FOUND (.*) END", done.stdout, re.DOTALL)
    assert found, done.stdout + done.stderr
    lines, complaint = json.loads(html.unescape(found[1]))
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixel = (torch.tensor(COLOUR) / 255 - mean) / deviation
    with torch.no_grad():
        likely = model(pixel.view(1, 3, 1, 1).expand(1, 3, 16, 24)).softmax(1)[0]
    wanted = [f"{names[i]}: {100 * p:.1f} %" for p, i in zip(*likely.sort(descending=True), strict=True)]
    assert lines == wanted
    assert complaint == "b.png is no image that this browser reads"
