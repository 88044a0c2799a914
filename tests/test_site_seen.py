"""The site as people see it: some of its pages, built and opened on a telephone, a tablet and a screen."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.report import browser

ROOT = Path(__file__).parents[1]
PAGES = (
    "index", "learn/mixing", "do/researcher", "claims", "api/index",
    "gallery/strategies/condensed", "gallery/networks/index",
)  # fmt: skip
pytestmark = [
    pytest.mark.skipif(browser.CHROMIUM is None, reason="no Chromium: apt-get install chromium"),
    pytest.mark.skipif(not find_spec("furo"), reason="the site is built with the extra 'docs'"),
    pytest.mark.slow,
    pytest.mark.timeout(900),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The pages alone: links to others are of no matter here."""
    folder = tmp_path_factory.mktemp("site")
    only = ",".join(f"{page}.md" for page in PAGES)
    command = [sys.executable, "-m", "sphinx", "-Q", "-d", str(folder / "doctrees")]
    command += ["-D", f"include_patterns={only}", str(ROOT / "docs"), str(folder / "html")]
    subprocess.run(command, check=True, cwd=ROOT, timeout=600)
    return folder / "html"


@pytest.mark.parametrize(("dark", "widths"), [(False, (768,)), (True, (360, 1400))], ids=["light", "dark"])
def test_nothing_is_beyond_the_page_faint_or_out_of_reach(site, tmp_path, dark, widths):
    pages = [site / f"{page}.html" for page in PAGES]
    for page, found in browser.seen(pages, widths, tmp_path, dark=dark).items():
        assert found["scrolls"] <= found["wide"], page
        for fault in ("beyond", "clipped", "covered", "faint", "axe"):
            assert found[fault] == [], (page, fault)
        assert found["least"] >= 9, page


def test_the_search_finds_a_page_without_a_network(site, tmp_path):
    found = browser.dom(site / "search.html", tmp_path, "?q=condensation")
    assert "gallery/strategies/condensed.html" in found


def test_a_table_is_sorted_by_the_column_that_is_clicked(site, tmp_path):
    page = site / "gallery" / "networks" / "index.html"
    click = (
        "<script>addEventListener('load', () => { const heads = document.querySelectorAll('th.sorts');"
        + (
            "heads[3].click(); document.title = [...document.querySelectorAll('tbody tr td:nth-child(4)')]"
            ".map(cell => cell.textContent.replaceAll(',', '')).join(' '); })</script></body>"
        )
    )
    clicked = page.with_name("clicked.html")
    clicked.write_text(page.read_text().replace("</body>", click))
    numbers = browser.dom(clicked, tmp_path).partition("<title>")[2].partition("</title>")[0].split()
    assert len(numbers) > 150
    assert [int(n) for n in numbers] == sorted(int(n) for n in numbers)
