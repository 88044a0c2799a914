"""The site: what its pages link to is there, what they draw exists, and nothing public is left out."""

import json
import re
from pathlib import Path

import pytest
from benchmarks.strategies import rows_of
from docs import api, gallery, links
from docs.drawn import Draw
from docs.papers import ADDRESS, NUMBER, PAPERS

import regroup
from regroup.networks import networks
from regroup.strategies import parse_strategy, strategies

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted([*DOCS.glob("*.md"), *(DOCS / "learn").glob("*.md"), *(DOCS / "do").glob("*.md")])


def kept(name):
    return json.loads((DOCS / f"{name}.json").read_text())


def sections(page):
    """Return what stands under each heading of a page, by its words."""
    parts = re.split(r"^#+ (.+)\n", page, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def tables(text):
    """Return the rows of the tables in a text, each a cell for each column."""
    lines = [
        [c.strip() for c in line.strip("|").split(" | ")] for line in text.splitlines() if line[:1] == "|"
    ]
    head = lines[0] if lines else []
    return [dict(zip(head, line, strict=True)) for line in lines[2:]]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    gallery.write(folder / "gallery")
    api.write(folder / "api")
    return folder


def test_every_strategy_has_a_page_with_all_that_is_known_of_it(written):
    for name in strategies:
        cls, page = strategies[name], (written / "gallery" / "strategies" / f"{name}.md").read_text()
        parts = sections(page)
        title, definition = next(iter(parts.items()))
        assert title == name
        assert gallery.describe(cls).form in definition, "its definition"
        assert re.search(r"[=*+/]|1/|\d", definition), f"{name}: its formula"
        assert "Paper: " in definition
        assert "```{draw} " in parts["What it looks like"]
        costs = tables(parts["What it costs and connects"])
        assert set(costs[0]) >= {"parameters", "MACs", "reach", "promised", "measured, AVX-512"}
        for variant in cls.variants():
            if variant.why_not(gallery.EXAMPLE) is None:
                (row,) = [row for row in costs if f"`{variant.label}`" in row["strategy"]]
                assert all(row.values()), f"{variant.label}: not measured"
        assert ("Options" in parts) == bool(gallery.describe(cls).options)
        numbers = set(re.findall(r"arXiv:\d+\.\d+", cls.paper))
        own = [n for n in networks if numbers & set(re.findall(r"arXiv:\d+\.\d+", networks[n].paper))]
        shown = {row["network"].split("`")[1] for row in tables(parts["Published networks"])}
        assert shown == set(own)
        assert "regroup.replace(" in parts["Using it"]
        assert cls.__module__.replace(".", "/") + ".py" in parts["Using it"]


def test_speeds_are_those_of_the_page_of_all_strategies(written):
    lines = (DOCS / "strategies.md").read_text().splitlines()
    said, unit = {}, ""
    for line in lines:
        unit = line.rpartition(", ")[2] if line.startswith("## resnet18, 112x112, batch 1, ") else unit
        if unit and line.startswith("| `"):
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            said.setdefault((cells[0].strip("`"), unit), cells[4])
    rows = tables((written / "gallery" / "strategies" / "index.md").read_text())
    assert len(rows) > 35
    for row in rows:
        name = row["strategy"].split("`")[1]
        for column in ("AVX-512", "AVX2"):
            assert row[f"measured, {column}"] == said[name, column], (name, column)


def test_every_network_has_a_page_with_all_that_is_known_of_it(written):
    counts, times = kept("networks")["networks"], kept("times")["networks"]
    seen = set()
    for family, members in gallery.families().items():
        parts = sections((written / "gallery" / "networks" / f"{family}.md").read_text())
        definition = next(iter(parts.values()))
        assert "Paper: " in definition
        assert "```{draw} " in parts["A block"]
        published = {row["network"].strip("`"): row for row in tables(parts["Its networks"])}
        counted = {row["network"].strip("`"): row for row in tables(parts["What they cost and connect"])}
        assert set(published) == set(counted) == {network.name for network in members}
        for network in members:
            ours, theirs = counted[network.name], published[network.name]
            assert ours["parameters"] == f"{counts[network.name]['parameters']:,}"
            assert theirs["parameters"] == f"{network.claims.parameters:,}"
            assert theirs["M MACs"] and ours["MACs"] and ours["if dense"] and ours["to mix"]
        drawn = gallery.shown(family, members)[0]
        assert set(times[drawn]) >= {"PyTorch", "regroup"}, f"{drawn}: python -m docs.times"
        assert f"Compiled, `{drawn}` takes " in parts["Its networks"]
        assert "Measured on " in parts["Its networks"]
        assert f'create_model("{drawn}")' in parts["Using it"]
        seen |= set(published)
    assert seen == set(networks)
    table = (written / "gallery" / "networks" / "index.md").read_text()
    assert all(f"[`{name}`](" in table for name in networks)


def test_every_public_name_is_in_the_api(written):
    said = "".join(path.read_text() for path in (written / "api").glob("*.md"))
    assert all(f":: regroup.{name}\n" in said for name in regroup._HOME)


def test_prose_before_a_colon_is_no_type():
    from sphinx.ext.napoleon import Config, GoogleDocstring

    said = ["Another one: it is like this.", ""]
    api.prose(None, "attribute", "x", None, None, said)
    assert ":type:" not in str(GoogleDocstring(said, Config(), what="attribute", name="x"))
    said = ["Do it.", "", "Returns:", "    What was done: nothing, mostly.", ""]
    api.prose(None, "function", "f", None, None, said)
    found = str(GoogleDocstring(said, Config(), what="function", name="f"))
    assert ":rtype:" not in found and "What was done: nothing, mostly." in found


def test_written_again_nothing_is_touched(written):
    before = {path: path.stat().st_mtime_ns for path in written.rglob("*.md")}
    api.write(written / "api")
    assert {path: path.stat().st_mtime_ns for path in written.rglob("*.md")} == before


def test_what_is_drawn_exists(written):
    drawn, drawn_options = 0, Draw.option_spec
    for page in [*PAGES, *written.rglob("*.md")]:
        for what, options in re.findall(r"```\{draw\} (\S+)\n((?::.*\n)*)```", page.read_text()):
            drawn += 1
            if what.partition(":")[0] in strategies:
                parse_strategy(what)
            else:
                assert what in networks, (page, what)
            assert {*re.findall(r"^:(\w+):", options, re.M)} <= set(drawn_options)
    assert drawn > 70


def test_pages_link_to_pages_that_are_there():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page.read_text()):
            target = (page.parent / link).resolve()
            generated = target.is_relative_to(DOCS / "gallery") or target.is_relative_to(DOCS / "api")
            assert target.exists() or generated, (page.name, link)


def test_what_learn_says_of_speed_is_what_was_measured():
    rows = {
        r.strategy: r for r in rows_of(kept("strategies")) if r.key[:4] == ("resnet18", 112, 1, "AVX-512")
    }
    said = re.findall(r"^\| `(\S+)` \| (\S+)x \| (\S+)x \|$", (DOCS / "learn" / "speed.md").read_text(), re.M)
    assert len(said) == 4
    for name, *figures in said:
        assert figures == [f"{rows[name].promised:.2f}", f"{rows[name].measured:.2f}"], name


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
    assert list(links.needed(tmp_path)) == []


def test_addresses_elsewhere_are_of_known_kinds(tmp_path):
    good = ["https://arxiv.org/abs/1711.09224", "https://github.com/ShichenLiu/CondenseNet"]
    wrong = ["http://arxiv.org/abs/1711.09224", "https://arxiv.org/abs/1711.09225", "https://x.y/z"]
    page = "".join(f'<a href="{address}">there</a>' for address in [*good, *wrong])
    (tmp_path / "a.html").write_text(page)
    assert [line.rpartition(": ")[0] for line in links.odd(tmp_path)] == sorted(wrong)


def test_every_paper_is_cited_with_its_title(written):
    named = {cls.paper for cls in map(strategies.__getitem__, strategies)}
    named |= {networks[name].paper for name in networks}
    numbers = {number for paper in named for number in NUMBER.findall(paper)}
    assert numbers == set(PAPERS)
    pages = "".join(path.read_text() for path in written.rglob("gallery/*/*.md"))
    for number, (authors, title, where) in PAPERS.items():
        assert f"{authors}, *{title}*, {where}, [arXiv:{number}]({ADDRESS}{number})" in pages


def test_what_a_page_would_load_from_elsewhere_is_found(tmp_path):
    (tmp_path / "a.html").write_text(
        '<link rel="stylesheet" href="//f.g/s.css"><link rel="canonical" href="https://x.y/a.html">'
        '<script src="https://x.y/s.js"></script><a href="https://x.y"></a><img src="here.png">'
        "<style>@import 'https://x.y/t.css';</style>"
    )
    (tmp_path / "s.css").write_text(
        "@font-face { src: url(https://x.y/f.woff) } p { background: url(b.png) }"
    )
    assert [line.split(": ")[1] for line in links.needed(tmp_path)] == [
        *("//f.g/s.css", "https://x.y/s.js", "https://x.y/t.css"),
        "https://x.y/f.woff",
    ]
