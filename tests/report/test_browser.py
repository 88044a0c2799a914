"""The page of a comparison as people see it: on a telephone, a tablet, a screen, in the dark, on paper."""

import random
import re
import unicodedata

import pytest

from regroup.comparison.result import WAYS, Comparison, Row, Run, TimePerImage
from regroup.report.render import render, write_report
from tests.report import browser

pytestmark = [
    pytest.mark.skipif(browser.CHROMIUM is None, reason="no Chromium: apt-get install chromium"),
    pytest.mark.timeout(600),
]
WIDTHS = (360, 768, 1400)
NAMES = [
    *("dense", "grouped:groups=2", "grouped:groups=4", "grouped:groups=8", "grouped:group_width=4", "octave"),
    *("inception:widths=384+192+384+48+128+128", "separable:order=pointwise-depthwise", "assigned:groups=8"),
    *("shifted:bits=3,block=32,mantissa=6", "mixed:kernels=3+5+7+9,split=exponential", "biglittle", "fire"),
    *("scaled:allocation=62+9+5+12", "interleaved:version=2", "shuffled:groups=2,form=unit", "flattened"),
]


@pytest.fixture(scope="module")
def comparison():
    """Strategies of nearly the same accuracy at nearly the same costs: names have to get out of the way."""
    chance, rows = random.Random(0), []
    for i, name in enumerate(NAMES):
        accuracy = 97 + 2 * chance.random()
        curves = {"test_accuracy": [50.0, 80.0, accuracy], "train_loss": [2.0, 1.0, 0.5 + chance.random()]}
        matrix = [[chance.random() for _ in range(8)] for _ in range(8)]
        times = {w: TimePerImage(t := 0.02 + 0.001 * i, 0.9 * t, 1.1 * t) for w in WAYS}
        reach = {"layer": "8 -> 8", "matrix": matrix, "layer_fill": 0.5 + 0.5 * (i % 2), "mixing_depth": 2}
        correlation = {"layers": "a and b", "matrix": matrix, "inside": 0.5}
        learned = {"stages.0.conv1": {"kind": "assigned", "groups": [{"inputs": [0], "outputs": [0, 1]}]}}
        row = Row(name, "p", 12345 * (i + 1), 60_000 + 1000 * i, 764_000, [Run(0, accuracy, 1.0, curves)])
        given = {"reach": reach, "correlation": correlation, "times": times, "dense_times": times}
        given |= {"left": {"conv1": "has 3 channels"} if i == 3 else {}, "learned": learned if i == 8 else {}}
        rows.append(Row(**{**vars(row), **given}))
    rows.append(Row("mixed:kernels=99", error="kernels=99: must be at most 31; use smaller ones"))
    return Comparison({"data": "digits", "backbone": "b", "seeds": [0], "epochs": 3}, {"device": "cpu"}, rows)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_nothing_is_cut_off_covered_or_faint(comparison, tmp_path, dark):
    page = render(comparison).replace("<details", "<details open")
    for width, found in browser.measured(page, WIDTHS, tmp_path, dark=dark).items():
        assert found["wide"] == width
        assert (found["meanings"] > 15) == (width <= 1000)  # where rows are cards, heads are not seen
        for fault in ("beyond", "clipped", "covered", "faint", "axe"):
            assert found[fault] == [], (width, fault)
        assert (found["paper"] == "rgb(255, 255, 255)") != dark
        assert all(w > 0.75 * min(width, 640) - 40 and h > 90 for w, h in found["boxes"].values()), found[
            "boxes"
        ]


def test_the_measure_finds_what_it_should(tmp_path):
    page = """<!doctype html><html><head></head><body style="margin:0"><p style="width:500px">wide</p>
    <p style="color:#ccc">faint</p><figure><svg width="300" height="50"><text y="20">one</text>
    <text y="20">two</text></svg></figure><img src="data:,"></body></html>"""
    found = browser.measured(page, (360,), tmp_path)[360]
    assert (
        found["beyond"]
        and found["covered"]
        and found["faint"]
        and any("image-alt" in a for a in found["axe"])
    )


def test_on_paper_every_number_is_there_once_and_whole(comparison, tmp_path):
    import pypdf

    page = write_report(comparison, tmp_path)
    pdf = pypdf.PdfReader(browser.printed(page, tmp_path))
    assert all(p.mediabox.width > p.mediabox.height for p in pdf.pages)  # landscape: the table is wide
    text = unicodedata.normalize("NFKC", "".join(p.extract_text() for p in pdf.pages))  # ligatures apart
    text = re.sub(r"\s+", "", text)
    html = page.read_text()
    table = html[html.index("<tbody") : html.index("</tbody>")]
    cells = [re.sub(r"<[^>]*>|\s", "", c) for c in re.findall(r"<td.*?</td>", table, re.DOTALL)]
    for cell in filter(None, cells):
        assert cell in text, cell


def test_the_figures_hold_ink(comparison, tmp_path):
    import numpy as np
    from PIL import Image

    shot = browser.screenshot(write_report(comparison, tmp_path), tmp_path, 1400, 3600)
    pixels = np.asarray(Image.open(shot).convert("L"))
    bands = [(pixels[top : top + 300] < 200).mean() for top in range(0, 3000, 300)]
    assert min(bands) > 0.002, bands
