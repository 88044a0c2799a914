import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from regroup.comparison.result import WAYS, Comparison, Row, Run, TimePerImage
from regroup.report.render import render, write_report

FIGURES = (
    "accuracy-macs",
    "accuracy-eager",
    "accuracy-compiled",
    "curves-accuracy",
    "curves-loss",
    "reach",
    "correlation",
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def comparison(extra=()):
    rows = []
    for i, name in enumerate(["dense", "grouped:groups=2", "grouped:groups=4", "octave", "mixed", "fire"]):
        curves = {"test_accuracy": [50.0, 80.0, 95.0 - i], "train_loss": [2.0, 1.0, 0.5]}
        runs = [Run(seed, 95.0 - i + seed, 1.0, curves) for seed in range(2)]
        matrix = [[float((a < 4) == (b < 4)) for a in range(8)] for b in range(8)]
        reach = {"layer": "8 -> 8", "matrix": matrix, "layer_fill": 0.5, "mixing_depth": None if i else 1}
        correlation = {"layers": "a and b", "matrix": matrix, "inside": 0.5}
        time = {way: TimePerImage(1 / (i + 1), 0.9 / (i + 1), 1.1 / (i + 1)) for way in WAYS}
        rows.append(
            Row(
                name,
                "p",
                1000,
                10**6 // (i + 1),
                10**6,
                runs,
                time,
                rows[0].times if i else time,
                reach,
                correlation,
            )
        )
    return Comparison({"data": "digits", "seeds": [0, 1], "epochs": 3}, {"device": "cpu"}, [*rows, *extra])


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *a) for a in attrs]

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_needs_no_script_and_no_other_file():
    page = Page(render(comparison()))
    assert "script" not in page.tags and "link" not in page.tags and "iframe" not in page.tags
    for _, name, value in page.attributes:
        if name in ("src", "href", "xlink:href") and value:
            assert value.startswith(("#", "data:")), (name, value)
        assert not name.startswith("on")
    html = render(comparison())
    assert not re.search(r"url\((?!#)", html)
    assert not re.search(r'(src|href)="https?:', html)


def test_every_row_and_every_figure_is_there():
    result = comparison()
    html = render(result)
    table = html[html.index('id="comparison"') : html.index("</table>")]
    for row in result.rows:
        assert row.strategy in table
    for figure in FIGURES:
        start = html.index(f'<figure id="{figure}">')
        assert "<svg" in html[start : start + 200], figure
    assert "never" in table


def test_names_from_outside_are_text_and_nothing_else():
    evil = "<script>alert(1)</script>\"'&\u202e" + "x" * 10_000
    row = Row(evil, error=evil, left={evil: evil})
    good = Row(f"own:{evil}", runs=[Run(0, 9.0, 1.0)], macs=5, left={evil: evil}, reach={"layer": evil})
    page = Page(render(comparison([row, good])))
    assert "script" not in page.tags
    assert any("alert(1)" in t for t in page.text)


def test_a_comparison_in_which_everything_failed_still_gives_a_page():
    html = render(Comparison({"data": "d"}, {}, [Row("a", error="too small")]))
    assert "too small" in html


def test_equal_data_gives_an_equal_page():
    assert render(comparison()) == render(comparison())


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")
def test_a_browser_shows_the_table_and_the_figures(tmp_path):
    page = write_report(comparison(), tmp_path)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-quic"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1200,3400"]
    shot = tmp_path / "page.png"
    run = {"capture_output": True, "text": True, "timeout": 120}
    subprocess.run([CHROMIUM, *flags, f"--screenshot={shot}", page.as_uri()], check=True, **run)
    probe = """<script>addEventListener('load', () => {
      const box = e => (r => [r.top, r.width, r.height].map(Math.round))(e.getBoundingClientRect());
      const boxes = [...document.querySelectorAll('figure, #comparison')].map(e => e.id + ' ' + box(e));
      const wide = document.documentElement.scrollWidth;
      document.body.textContent = 'BOXES ' + boxes.join(' | ') + ' WIDE ' + wide;
    })</script>"""
    probed = tmp_path / "probed.html"
    probed.write_text(page.read_text().replace("</head>", probe + "</head>"))
    dom = subprocess.run([CHROMIUM, *flags, "--dump-dom", probed.as_uri()], check=True, **run).stdout
    boxes = dict(re.findall(r"([\w-]+) (\d+,\d+,\d+)", dom[dom.index("BOXES") :]))
    for name in ("comparison", *FIGURES):
        _, width, height = map(int, boxes[name].split(","))
        assert width > 300 and height > 100, (name, boxes[name])
    assert int(re.search(r"WIDE (\d+)", dom).group(1)) <= 1200  # nothing sticks out
    _holds_ink_where_the_figures_are(shot, boxes)


def _holds_ink_where_the_figures_are(shot, boxes):
    import numpy as np
    from PIL import Image

    pixels = np.asarray(Image.open(shot).convert("L"))
    for name, box in boxes.items():
        top, _, height = map(int, box.split(","))
        part = pixels[top : top + height, :]
        assert (part < 200).mean() > 0.002, f"{name} is blank"


def test_what_was_learned_is_a_table_and_a_picture():
    groups = [{"inputs": [0, 2], "outputs": [0]}, {"inputs": [1, 3, 4], "outputs": [1, 2]}]
    learned = {"stages.0.conv1": {"kind": "assigned", "groups": groups, "scales": [1, 2.5]}}
    html = render(comparison([Row("assigned", runs=[Run(0, 90.0, 1.0)], macs=5, learned=learned)]))
    part = html[html.index("What was learned") :]
    assert "2 groups, inputs→outputs: 2→1, 3→2; scales: [1, 2.5]" in part
    assert "stages.0.conv1" in part
    assert "<svg" in part
