import re
from html.parser import HTMLParser

import pytest

from regroup.comparison.result import WAYS, Comparison, Row, Run, TimePerImage
from regroup.report.looks import COLOURS, looks
from regroup.report.render import render
from regroup.report.table import COLUMNS, MEANINGS

FIGURES = (
    "accuracy-macs",
    "accuracy-eager",
    "accuracy-compiled",
    "curves-test_accuracy",
    "curves-train_loss",
)


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
    table = html[html.index('id="comparison"') :].partition("</table>")[0].replace("<wbr>", "")
    for row in result.rows:
        assert row.strategy in table
    for figure in FIGURES:
        part = html[html.index(f'<figure id="{figure}">') :].partition("</figure>")[0]
        assert part.count("<svg") == 2, figure  # for wide windows and for narrow ones
    named = html[html.index('<figure id="accuracy-compiled-named" class="wide">') :].partition("</figure>")[0]
    assert all(f">{row.strategy}</text>" in named for row in result.rows), "all names, in one of them"
    for tiles in ("reach", "correlation"):
        part = html[html.index(f'<div class="tiles" id="{tiles}">') :].partition("</div>")[0]
        assert part.count("<img") == len(result.rows), tiles
    assert "never" in table


def test_the_first_screen_answers_with_a_sentence_the_front_and_ten_rows():
    extra = [Row(f"own{i}", runs=[Run(0, 90.0 + i, 1.0)], macs=1000 * (20 - i)) for i in range(20)]
    result = comparison(extra)
    html = render(result)
    few = html[html.index('id="few"') :].partition("</table>")[0].replace("<wbr>", "")
    assert (
        html.index('class="lead"')
        < html.index("<figure")
        < html.index('id="few"')
        < html.index('id="comparison"')
    )
    names = re.findall(r"</svg>([^<]*)</td>", few)
    assert len(names) == 10 and "dense" in names
    assert names == [row.strategy for row in result.sorted().rows if row.strategy in names]
    assert 'id="few"' not in render(comparison())  # as many rows as these are shown once


def test_every_column_says_what_it_is():
    assert list(MEANINGS) == list(COLUMNS)
    html = render(comparison())
    for name, meaning in MEANINGS.items():
        assert f"{name}<small>{meaning}</small></th>" in html
        assert not meaning or f"<dt>{name}</dt><dd>{meaning}</dd>" in html


def test_layers_without_a_gap_are_named_and_not_drawn():
    whole = Row(
        "own", runs=[Run(0, 9.0, 1.0)], macs=5, reach={"layer": "l", "matrix": [[1]], "layer_fill": 1.0}
    )
    html = render(comparison([whole]))
    assert "1 strategies connect" not in html and "1 strategy connects" in html
    assert html.count("<img") == 2 * len(comparison().rows)


def test_families_are_told_apart_by_shape_or_by_colour_and_never_by_colour_alone_where_it_repeats():
    names = [f"family{i}" for i in range(len(COLOURS) * 11)]
    found = looks(names)
    assert len({(look.colour, look.shape) for look in found.values()}) == len(names)
    few = list(looks(names[:11]).values())
    assert len({look.shape for look in few}) == len({look.colour for look in few}) == 11
    for look in few:
        numbers = [float(n) for n in re.findall(r"-?[\d.]+", look.path)]
        assert max(map(abs, numbers)) == pytest.approx(1, abs=0.01)


def test_cells_break_between_words_and_never_inside_a_number():
    html = render(comparison())
    assert "grouped:<wbr>groups=2" in html
    shown = re.sub(r"<[^>]*>", "", html[html.index("<tbody") : html.index("</tbody>")])
    assert "95.50\N{NO-BREAK SPACE}±" in shown and not re.search(r"\d (%|ms|x|k|M|G)\b", shown)


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


def test_what_was_learned_is_a_table_and_a_picture():
    groups = [{"inputs": [0, 2], "outputs": [0]}, {"inputs": [1, 3, 4], "outputs": [1, 2]}]
    learned = {"stages.0.conv1": {"kind": "assigned", "groups": groups, "scales": [1, 2.5]}}
    html = render(comparison([Row("assigned", runs=[Run(0, 90.0, 1.0)], macs=5, learned=learned)]))
    part = html[html.index("What was learned") :]
    assert "2 groups, inputs→outputs: 2→1, 3→2; scales: [1, 2.5]" in part
    assert "stages.0.conv1" in part
    assert "<img" in part
