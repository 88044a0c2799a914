"""Pictures of modules: what they connect is what is connected, and everything in them can be read."""

import re
import xml.etree.ElementTree as ElementTree
from itertools import combinations, pairwise

import pytest
import torch
from torch import nn

import regroup
from regroup.cli import main
from regroup.errors import ConfigError, StrategyError, UnknownNameError
from regroup.ops.reach import measured_reach
from regroup.profiling.reach import reach
from regroup.profiling.schematic import schematic
from regroup.profiling.thinning import thinned
from regroup.profiling.wiring import wiring
from regroup.report.colouring import colours
from regroup.report.diagram import diagram
from regroup.report.draw import draw
from regroup.report.stages import by_group
from regroup.spec import ConvSpec
from regroup.strategies import strategies

VARIANTS = sorted(variant.label for name in strategies for variant in strategies[name].variants())
BLOCKS = {
    "shufflenet_v1_g3_025": "stage2.1",
    "shufflenet_v2_050": "stages.1.1",
    "mixnet_s": "stages.1.0",
    "condensenet_cifar_50": "stages.0.1",
    "oct_resnet50_a05": "stages.0.1",
}


def deployed(label, channels):
    torch.manual_seed(0)
    module = regroup.parse_strategy(label).build(ConvSpec(channels, channels, 3, padding=1))
    regroup.set_progress(module, 1)
    return module if "dynamic" in label else regroup.deploy(module)


@pytest.mark.parametrize("label", VARIANTS)
def test_a_picture_connects_what_the_jacobian_does(label):
    spec = ConvSpec(32, 32, 3, padding=1)
    if regroup.parse_strategy(label).why_not(spec):
        spec = ConvSpec(128, 128, 3, padding=1)
    module = deployed(label, spec.in_channels)
    found = schematic(wiring(module, torch.zeros(1, spec.in_channels, 14, 14)))
    if "shifted" in label:  # integers have no derivatives
        truth = regroup.parse_strategy(label).reach(spec)
    else:
        truth = measured_reach(module, spec.in_channels, (14, 14))
    assert torch.equal(found.reach(), truth)


def crowded(found):
    """Yield what lies on something else, or is cut off."""
    boxes = [words.box for words in found.words]
    for a, b in combinations(boxes, 2):
        if a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]:
            yield a, b
    dots = sorted((dot.y, dot.x, dot.radius) for dot in found.dots)
    for (y, x, r), (other_y, other_x, other_r) in pairwise(dots):
        if y == other_y and other_x - x < r + other_r:
            yield (x, y), (other_x, other_y)
    ends = [(box[i], box[i + 1]) for box in boxes for i in (0, 2)]
    ends += [point for rail in found.rails for point in rail.points] + [(dot.x, dot.y) for dot in found.dots]
    yield from ((x, y) for x, y in ends if not (0 < x < found.width and 0 < y < found.height))


@pytest.mark.parametrize("label", VARIANTS)
def test_no_word_and_no_dot_lies_on_another(label):
    assert not list(crowded(draw(label).diagram))


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_is_drawn_as_it_is_wired(name):
    model = regroup.create_model(name)
    picture = draw(model, block=BLOCKS[name], name=name)
    assert not list(crowded(picture.diagram))
    block = picture.title.partition(", ")[2]
    image = torch.zeros(1, *model.pretrained_cfg["input_size"])
    truth = reach(model, image[..., :64, :64], start=block, end=block).matrix
    counts = truth.sum(1)
    low, high = int(counts.min()), int(counts.max())
    said = f"{low} of {truth.shape[1]}" if low == high else f"{low} to {high} of {truth.shape[1]}"
    assert f"an output depends on {said} inputs" in picture.notes


def test_what_is_left_out_keeps_every_way_between_groups():
    block = regroup.create_model("shufflenet_v1_g3_100").get_submodule("stages.1.1")
    whole = schematic(wiring(block, torch.zeros(1, 240, 8, 8)))
    fewer = thinned(whole, 24)
    assert max(sum(len(part.channels) for part in row) for row in fewer.rows) <= 24
    assert fewer.reach().all() and whole.reach().all()
    for part in fewer.parts:
        groups = {channel * 3 // part.whole for channel in part.channels}
        assert groups == {0, 1, 2} and part.channels == sorted(part.channels)
    assert thinned(whole, 240) is whole


def test_a_block_of_many_groups_shows_some_of_them_whole():
    layer = nn.Conv2d(128, 128, 3, padding=1, groups=32)
    fewer = thinned(schematic(wiring(layer, torch.zeros(1, 128, 4, 4))), 24)
    part = fewer.rows[1][0]
    (link,) = part.links
    assert link.matrix.shape == (24, 24) and (link.matrix.sum(0) == 4).all()
    assert torch.equal(torch.tensor(part.channels) // 4, torch.tensor(fewer.rows[0][0].channels) // 4)


def test_the_figures_that_everybody_knows():
    """What they show, row by row: ShuffleNet 1c, IGC 1, CondenseNet 3, Octave 2, MixConv 2."""

    def rows(label, layers=1):
        module = nn.Sequential(*(deployed(label, 12) for _ in range(layers)))
        found = schematic(wiring(module, torch.zeros(1, 12, 28, 28)))
        return [[", ".join(dict.fromkeys(link.label for link in p.links)) for p in row] for row in found.rows]

    assert rows("shuffled:groups=3", 2) == [[""], *[["3x3, 3 groups"], ["shuffle, 3 groups"]] * 2]
    assert rows("interleaved:primary=2")[1:] == [
        ["3x3, 2 groups"], ["shuffle, 2 groups"], ["1x1, 6 groups"], ["shuffle, 6 groups"],
    ]  # fmt: skip
    assert rows("condensed:groups=3")[1:] == [["gather"], ["3x3, 3 groups"], ["shuffle, 3 groups"]]
    assert rows("octave")[1:] == [
        ["", "average 2x2"], ["3x3, 3x3, up 2", "average 2x2, 3x3, 3x3"], ["", "up 2"],
    ]  # fmt: skip
    assert rows("mixed")[1:] == [["3x3, depthwise", "5x5, depthwise", "7x7, depthwise"], ["1x1"]]


def test_a_picture_is_a_file_and_shows_itself(tmp_path):
    picture = draw("grouped:groups=3", channels=6)
    assert picture.save(tmp_path / "new" / "a.svg").read_text() == picture.alone
    assert picture.save(tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert draw("grouped:groups=3", channels=6).svg == picture.svg
    assert "prefers-color-scheme" in regroup.parse_strategy("grouped:groups=3")._repr_svg_()
    assert "<table>" in regroup.profile(nn.Conv2d(3, 4, 1), torch.zeros(1, 3, 4, 4), time=False)._repr_html_()
    assert regroup.parse_strategy("grouped:groups=7")._repr_svg_() is None  # no picture: 12 channels
    assert ElementTree.fromstring(picture._repr_svg_()).tag.endswith("svg")
    (style,) = re.findall("<style>(.+?)</style><defs>", picture._repr_svg_())
    assert not re.search(r"(^|[ {}])svg\b", style), (
        "of this picture alone, not of its neighbours in a notebook"
    )
    assert "max-width: 100%" in style
    assert len(repr(picture)) < 200
    assert len(re.findall("aria-label=", picture.svg)) == 1 and "<script" not in picture.svg


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"what": "grouped:groups=5", "channels": 12}, StrategyError, "groups=5"),
        ({"what": "grouped", "layers": 0}, ConfigError, "layers=0"),
        ({"what": "grouped", "most": 1}, ConfigError, "most=1"),
        ({"what": "grouped", "block": "stage1"}, ConfigError, "left out for a strategy"),
        ({"what": "grouped", "image": 32}, ConfigError, "left out for a strategy"),
        ({"what": "grouped", "spec": ConvSpec(16, 8, 3), "layers": 2}, ConfigError, "layers=2"),
        ({"what": "grouped", "spec": ConvSpec(8, 8, 3, dims=1)}, ConfigError, "of two dimensions"),
        ({"what": "grouped", "progress": "stages"}, ConfigError, "does not learn in stages"),
        ({"what": "condensed", "progress": "stages", "layers": 2}, ConfigError, "layers=2"),
        ({"what": "condensed", "progress": "stages", "channels": 64}, ConfigError, "channels=64"),
        ({"what": "resnet20", "progress": "stages"}, ConfigError, "left out for a network"),
        ({"what": "resnet20", "layers": 2}, ConfigError, "layers=2: must be left out for a network"),
        ({"what": "resnet20", "progress": 0.5}, ConfigError, "progress=0.5: must be left out for a network"),
        ({"what": "resnet20", "block": "stage9.0"}, UnknownNameError, "stages.0.0"),
        ({"what": "gruoped"}, UnknownNameError, "gruoped"),
    ],
)
def test_a_mistake_is_said(options, error, says):
    with pytest.raises(error, match=re.escape(says)):
        draw(**options)


def test_the_command_says_what_it_drew(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["draw", "shuffled:groups=3"])
    assert not ended.value.code and (tmp_path / "shuffled-groups=3.svg").exists()
    assert "on 12 after 2" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["draw", "shuffled", "--out", "a.jpg"])
    assert ended.value.code == 2 and ".svg or .png" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["draw", "resnet20", "--channels", "1", "--block", "stem", "--out", "grey.svg"])
    assert not ended.value.code and "depends on 1 of 1 inputs" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["draw", "condensed:groups=3", "--outputs", "6", "--kernel", "1", "--progress", "stages"])
    assert not ended.value.code and "thinner the longer ago" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["draw", "resnet20", "--kernel", "1"])
    assert ended.value.code == 2 and "kernel=1: must be left out for a network" in capsys.readouterr().err


def test_what_a_learned_gather_picks_has_the_colour_of_the_group_that_reads_it():
    """As in CondenseNet's figure 3: inputs of several groups, and of none, are grey."""
    found = schematic(wiring(deployed("condensed:groups=4", 32), torch.zeros(1, 32, 14, 14)))
    inputs, gathered, convolved = (row[0] for row in found.rows[:3])
    of = colours(found).of
    assert of[id(gathered)] == of[id(convolved)] == [n // 8 for n in range(32)]
    readers = [set() for _ in inputs.channels]
    for target, source in gathered.links[0].matrix.nonzero().tolist():
        readers[source].add(target // 8)
    assert of[id(inputs)] == [min(own) if len(own) == 1 else None for own in readers]
    assert {len(own) for own in readers} >= {0, 1, 2}


def test_condensing_is_drawn_stage_by_stage():
    """CondenseNet's figure 3, G = C = 3: a third of the inputs goes after each stage, the least important."""
    spec = ConvSpec(12, 6, 1)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        weight = regroup.parse_strategy("condensed:groups=3").build(spec).conv.weight.detach()[:, :, 0, 0]
    importance = torch.stack([weight[g::3].abs().sum(0) for g in range(3)])
    ranks = importance.argsort(1, descending=True).argsort(1)
    picture = draw("condensed:groups=3", spec=spec, progress="stages")
    said = [words.text for words in picture.diagram.words]
    stages = ["condensing stage 1", "condensing stage 2", "optimization stage"]
    assert [text for text in said if "stage" in text] == stages
    assert [text for text in said if "reads" in text] == [f"an output reads {n} inputs" for n in (12, 8, 4)]
    assert not list(crowded(picture.diagram))

    module, link = regroup.parse_strategy("condensed:groups=3").build(spec), None
    module.conv.weight.data[:, :, 0, 0] = weight
    lost, before = [], None
    for (progress, _), left in zip(module.stages(), (12, 8, 4), strict=True):
        module.set_progress(progress)
        link = schematic(wiring(module, torch.zeros(1, 12, 8, 8))).rows[1][0].links[0]
        assert torch.equal(link.matrix, (ranks < left).repeat(2, 1))
        lost += [] if before is None else [before & ~link.matrix]
        before = link.matrix
    grouped = by_group(link, lost, module)
    (shown,) = grouped.rows[1][0].links
    assert grouped.rows[1][0].channels == [0, 3, 1, 4, 2, 5]
    assert [int(table.sum()) for table in (shown.matrix, *shown.lost)] == [24, 24, 24]
    lines = diagram(grouped, labelled=False).lines
    widths = sorted({line.width for line in lines})
    assert [sum(line.width == w for line in lines) for w in widths] == [24, 24, 24]  # thinner, longer ago
    ends = {(line.start, line.end) for line in lines}
    assert len(ends) == 72  # all connections of the dense layer, each once
