"""The site: what its pages link to is there, what they draw exists, and nothing public is left out."""

import re
from pathlib import Path

import pytest
from docs import api, gallery, links

import regroup
from regroup.networks import networks
from regroup.strategies import parse_strategy, strategies

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted([*DOCS.glob("*.md"), *(DOCS / "learn").glob("*.md"), *(DOCS / "do").glob("*.md")])


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    gallery.write(folder / "gallery")
    api.write(folder / "api")
    return folder


def test_every_strategy_network_and_public_name_has_its_place(written):
    for name in strategies:
        page = (written / "gallery" / "strategies" / f"{name}.md").read_text()
        assert page.startswith(f"# {name}\n")
        assert ("## Options" in page) == bool(gallery.describe(strategies[name]).options)
        assert all(f"`{variant.label}`" in page for variant in strategies[name].variants())
    table = (written / "gallery" / "networks" / "index.md").read_text()
    assert all(f"[`{name}`](" in table for name in networks)
    said = "".join(path.read_text() for path in (written / "api").glob("*.md"))
    assert all(f":: regroup.{name}\n" in said for name in regroup._HOME)


def test_written_again_nothing_is_touched(written):
    before = {path: path.stat().st_mtime_ns for path in written.rglob("*.md")}
    api.write(written / "api")
    assert {path: path.stat().st_mtime_ns for path in written.rglob("*.md")} == before


def test_what_is_drawn_exists(written):
    drawn = 0
    for page in [*PAGES, *written.rglob("*.md")]:
        for what, options in re.findall(r"```\{draw\} (\S+)\n((?::.*\n)*)```", page.read_text()):
            drawn += 1
            if what.partition(":")[0] in strategies:
                parse_strategy(what)
            else:
                assert what in networks, (page, what)
            assert {*re.findall(r"^:(\w+):", options, re.M)} <= {"channels", "layers", "block", "progress"}
    assert drawn > 70


def test_pages_link_to_pages_that_are_there():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page.read_text()):
            target = (page.parent / link).resolve()
            generated = target.is_relative_to(DOCS / "gallery") or target.is_relative_to(DOCS / "api")
            assert target.exists() or generated, (page.name, link)


def test_every_page_is_in_the_contents():
    listed = set(re.findall(r"^([\w/]+)$", (DOCS / "index.md").read_text(), re.M))
    assert {page.stem for page in DOCS.glob("*.md")} - {"index", "learned_text"} <= listed


def test_links_of_a_site_are_checked(tmp_path):
    (tmp_path / "a.html").write_text('<h1 id="here">a</h1><a href="b.html#there"></a><a href="#here"></a>')
    (tmp_path / "b.html").write_text(
        '<a href="a.html#gone"></a><img src="no.png"><a href="https://x.y/z">x</a>'
    )
    assert sorted(links.broken(tmp_path)) == [
        "a.html: b.html#there: there is no such place in it",
        "b.html: a.html#gone: there is no such place in it",
        "b.html: no.png: there is no such file",
    ]
    assert links.outside(tmp_path) == ["https://x.y/z"]
