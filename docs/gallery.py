"""The gallery of the site: a page for each strategy and each family of networks, and a table of each.

What the pages say is taken from the docstrings, the registries, and the figures that are kept in docs/*.json;
pictures are drawn by the directive `draw`.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.strategies import Row, rows_of
from docs import generate, times
from docs.papers import NUMBER, cited, short, titled

from regroup.networks import SOURCES, Network, networks
from regroup.ops.reach import fill
from regroup.report import text
from regroup.strategies import Strategy, strategies
from regroup.strategies.condensing import Condensing
from regroup.strategies.described import EXAMPLE, SIZE, Description, describe

FEATURED = {
    "alexnet": ("alexnet", "stage3"),
    "condensenet": ("condensenet_74_g4", "stages.0.1"),
    "googlenet": ("googlenet_bn", ""),
    "igcv1": ("igcv1_18_l4m32", "stages.0.0"),
    "mixnet": ("mixnet_s", "stages.3.0"),
    "mobilenet_v2": ("mobilenet_v2_035", "stages.2.1"),
    "octave": ("oct_resnet50_a05", "stages.0.1"),
    "resnext": ("resnext50_32x4d", "stages.0.1"),
    "shufflenet_v1": ("shufflenet_v1_g3_100", "stage2.1"),
    "shufflenet_v2": ("shufflenet_v2_050", "stages.1.1"),
}
"""Family -> network and block that its page shows; of others the smallest network's first with groups."""

DOCS = Path(__file__).parent


def write(folder: Path) -> None:
    """Write all pages; what is as it was is left alone, so that Sphinx does not read it again."""
    pages = {"index": _index()}
    speeds, taken, counts = _speeds(), times.load(), generate.load()["networks"]
    for name in strategies:
        pages[f"strategies/{name}"] = "\n".join(_strategy(strategies[name], speeds, taken))
    kinds = families()
    for name, members in kinds.items():
        pages[f"networks/{name}"] = "\n".join(_family(name, members, taken, counts))
    pages["strategies/index"] = "\n".join(_strategies(speeds))
    pages["networks/index"] = "\n".join(_networks(kinds, taken))
    for name, said in pages.items():
        path = folder / f"{name}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text() != said + "\n":
            path.write_text(said + "\n")


def _speeds() -> dict[str, dict[str, Row]]:
    """Return what was measured of each variant, by vector unit; the same rows as docs/strategies.md has."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows_of(json.loads((DOCS / "strategies.json").read_text())):
        if (row.network, row.size, row.batch) == ("resnet18", 112, 1):
            found.setdefault(row.strategy, {})[row.unit] = row
    return found


def _timed(name: str, taken: dict[str, Any]) -> str:
    """Return what `docs.times` measured of a network, in a sentence."""
    entry = taken["networks"].get(name, {})
    if not all(way in entry for way in times.WAYS):
        return f"`{name}` has not been timed: `python -m docs.times`, on a quiet machine."
    eager, compiled = (entry[way]["seconds"] for way in times.WAYS)
    said = f"Compiled, `{name}` takes {text.milliseconds(1e3 * compiled)} for an image, where PyTorch takes "
    return f"{said}{text.milliseconds(1e3 * eager)}: {text.times(eager / compiled)}."


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> Iterator[str]:
    """Yield the lines of a table, of which the first columns are words and the others numbers."""
    yield f"| {' | '.join(columns)} |"
    yield "|" + "---|" * words + "---:|" * (len(columns) - words)
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
    yield ""


def _index() -> str:
    return f"""# Gallery

Every way of grouping, and every published network made of it: what it is, looks like, costs, connects and
takes. All of it is written by `docs/gallery.py` from the code and from what was measured.

- {{doc}}`strategies/index`: {len(list(strategies))} ways to stand in for a convolution
- {{doc}}`networks/index`: {len(list(networks))} networks in {len(families())} families

Click on the head of a column to sort a table.

```{{toctree}}
:hidden:

strategies/index
networks/index
```"""


def _strategies(speeds: dict[str, dict[str, Row]]) -> Iterator[str]:
    yield "# Strategies"
    yield ""
    yield (
        f"Costs are shares of a dense convolution's, {EXAMPLE}; *reach* is the "
        f"share of inputs that an output of one layer"
    )
    yield (
        "depends on; *promised* and *measured* are speed-ups of a whole "
        "ResNet-18 ([how](../../strategies.md))."
    )
    yield ""
    rows = []
    for name in strategies:
        for variant in strategies[name].variants():
            if variant.why_not(EXAMPLE) is None:
                rows.append(_figures(variant, speeds, link=True))
    yield from table(_COLUMNS, rows)
    yield from _tree(list(strategies))


_COLUMNS = ("strategy", "parameters", "MACs", "reach", "promised", "measured, AVX-512", "measured, AVX2")


def _figures(variant: Strategy, speeds: dict[str, dict[str, Row]], link: bool = False) -> list[str]:
    cost, dense = variant.cost(EXAMPLE, SIZE), EXAMPLE.cost(SIZE)
    measured = speeds.get(variant.label, {})
    cells = [f"[`{variant.label}`]({variant.name}.md)" if link else f"`{variant.label}`"]
    cells += [text.percent(cost.parameters / dense.parameters), text.percent(cost.macs / dense.macs)]
    cells.append(text.percent(fill(variant.reach(EXAMPLE))))
    first = next(iter(measured.values()), None)
    cells.append("" if first is None else text.times(first.promised))
    for unit in ("AVX-512", "AVX2"):
        row = measured.get(unit)
        cells.append("" if row is None else text.times(row.measured))
    return cells


def _strategy(cls: type[Strategy], speeds: dict[str, dict[str, Row]], taken: dict[str, Any]) -> Iterator[str]:
    found = describe(cls)
    yield f"# {found.name}"
    yield ""
    yield found.form
    yield ""
    yield from _prose(found.text)
    yield f"*{found.kind.capitalize()}.* Paper: {cited(found.paper)}."
    yield ""
    shown = cls.representative()
    yield "## What it looks like"
    yield ""
    yield from _drawn(shown.label)
    if isinstance(shown, Condensing):
        yield "It learns in stages, each of which drops some of the connections that are left:"
        yield ""
        yield from _drawn(shown.label, progress="stages")
    yield "## What it costs and connects"
    yield ""
    yield (
        f"On {EXAMPLE}, at {SIZE[0]}x{SIZE[1]}; speed-ups are those of a whole ResNet-18 at 112x112, compiled"
    )
    yield "([all of them](../../strategies.md))."
    yield ""
    yield from table(_COLUMNS, [_figures(v, speeds) for v in cls.variants() if v.why_not(EXAMPLE) is None])
    yield from _options(found)
    yield from _with(cls, taken)
    yield "## Using it"
    yield ""
    yield f"""```python
import regroup, torchvision

layer = regroup.parse_strategy("{shown.label}").build(regroup.ConvSpec(64, 64, 3, padding=1))
model = torchvision.models.resnet18()
print(regroup.replace(model, "{shown.label}"))
```

`regroup compare --strategies {" ".join(v.label for v in cls.variants())}` trains it beside a dense network.
Source: `{cls.__module__.replace(".", "/")}.py`."""


def _options(found: Description) -> Iterator[str]:
    if not found.options:
        return
    yield "## Options"
    yield ""
    rows = [[f"`{o.name}`", o.text, o.allowed, f"`{o.default}`"] for o in found.options]
    yield from table(("option", "what it is", "allowed", "if not given"), rows, words=4)


def _with(cls: type[Strategy], taken: dict[str, Any]) -> Iterator[str]:
    """Yield the networks of a strategy's paper: published figures, and ours."""
    yield "## Published networks"
    yield ""
    numbers = set(NUMBER.findall(cls.paper))
    rows = [
        _published(network, taken, f"../networks/{family}.md")
        for family, members in families().items()
        for network in members
        if numbers & set(NUMBER.findall(network.paper))
    ]
    if rows:
        yield "Those of the same paper; letters say where published figures come from"
        yield "([list](../networks/index.md))."
        yield ""
        yield from table(("network", *_PUBLISHED), rows)
    else:
        yield "None of its paper is among ours; `regroup.replace` puts it into any."
        yield ""


def _drawn(what: str, **options: object) -> Iterator[str]:
    yield f"```{{draw}} {what}"
    yield from (f":{name}: {value}" for name, value in options.items())
    yield "```"
    yield ""


def _prose(said: str) -> Iterator[str]:
    """Yield paragraphs of a docstring as Markdown: sessions stay sessions, formulas what they are."""
    for paragraph in inspect.cleandoc(said).split("\n\n"):
        lines = paragraph.splitlines()
        if not paragraph.strip():
            continue
        if any(line.lstrip().startswith(">>>") for line in lines):
            yield from ("```pycon", *lines, "```", "")
        elif all(line.startswith("    ") for line in lines):
            yield from ("```python", *(line[4:] for line in lines), "```", "")
        else:
            yield from (
                re.sub(r"(?<!`)([*_])(?!`)", r"\\\1", line) if "`" not in line else line for line in lines
            )
            yield ""


def families() -> dict[str, list[Network]]:
    """Return the networks by the file that declares them."""
    found: dict[str, list[Network]] = {}
    for name in networks:
        found.setdefault(networks[name].build.__module__.rpartition(".")[2], []).append(networks[name])
    return dict(sorted(found.items()))


def shown(family: str, members: Sequence[Network]) -> tuple[str, str]:
    """Return the network that a family's page shows, and which block of it; "": the first with groups."""
    smallest = min(members, key=lambda network: network.claims.mega_macs)
    return FEATURED.get(family, (smallest.name, ""))


def _networks(kinds: dict[str, list[Network]], taken: dict[str, Any]) -> Iterator[str]:
    yield "# Networks"
    yield ""
    yield (
        "Published figures, and ours; letters say where the published ones "
        "come from. Times are of one image, in PyTorch and compiled by regroup (frozen)."
    )
    yield from times.told(taken, list(networks))
    yield ""
    yield from (f"- {letter}: {meaning}" for letter, meaning in SOURCES.items())
    yield ""
    rows = []
    for name, members in kinds.items():
        for network in members:
            first, *figures = _published(network, taken, f"{name}.md")
            rows.append([first, short(network.paper), *figures])
    yield from table(("network", "paper", *_PUBLISHED), rows, words=2)
    yield from _tree(list(kinds))


_PUBLISHED = ("image", "parameters", "M MACs", "top-1 error", "top-5 error", *times.WAYS)
_COUNTED = ("image", "parameters", "MACs", "if dense", "bytes", "rearranged", "depth", "to mix")
_COUNTED_HOW = """Counted on the modules themselves, for one image ([all](../../networks.md)). *If dense*: how
many times as many MACs with every convolution ungrouped; *rearranged*: the bytes that are moved and
compute nothing; *to mix*: layers, from the grouped one where it takes longest, until every output depends on
every channel that entered (1: no groups)."""


def _published(network: Network, taken: dict[str, Any], link: str) -> list[str]:
    claims = network.claims
    errors = [
        f"{e:.2f} % {claims.stated}" if e is not None else "-" for e in (claims.top1_error, claims.top5_error)
    ]
    cells = [f"[`{network.name}`]({link})" if link else f"`{network.name}`"]
    cells += [
        "x".join(map(str, claims.size)),
        f"{claims.parameters:,}",
        f"{claims.mega_macs:,.1f} {claims.counted}",
    ]
    return [*cells, *errors, *times.cells(taken, network.name)]


def _counted(network: Network, counts: dict[str, Any]) -> list[str]:
    found = dict(zip(generate.COUNTED, generate.cells(counts[network.name]), strict=True))
    return [f"`{network.name}`", *(found[column] for column in _COUNTED)]


def _family(
    name: str, members: Sequence[Network], taken: dict[str, Any], counts: dict[str, Any]
) -> Iterator[str]:
    module = importlib.import_module(members[0].build.__module__)
    summary, _, rest = (module.__doc__ or name).partition("\n")
    title, said = titled(summary)
    yield f"# {title}"
    yield ""
    yield said
    yield ""
    yield from _prose(rest)
    papers = dict.fromkeys(cited(network.paper) for network in members)
    sources = dict.fromkeys(
        f"[{n.source}](https://github.com/{n.source})" for n in members if "/" in n.source
    )
    yield f"Paper: {'; '.join(papers)}. Followed: {', '.join(sources) or members[0].source}."
    yield ""
    drawn, block = shown(name, members)
    yield "## A block"
    yield ""
    yield from _drawn(drawn, **({"block": block} if block else {}))
    yield "## Its networks"
    yield ""
    yield "Letters: " + "; ".join(f"{k}: {v}" for k, v in SOURCES.items()) + "."
    yield ""
    yield from table(("network", *_PUBLISHED), [_published(n, taken, "") for n in members])
    yield _timed(drawn, taken)
    yield from times.told(taken, [network.name for network in members])
    yield ""
    yield "## What they cost and connect"
    yield ""
    yield _COUNTED_HOW
    yield ""
    yield from table(("network", *_COUNTED), [_counted(network, counts) for network in members])
    pretrained = [network.name for network in members if network.pretrained]
    yield "## Using it"
    yield ""
    yield f"""```python
import regroup, torch

model = regroup.create_model("{drawn}").eval()
image = torch.randn(1, *model.pretrained_cfg["input_size"])
fast = regroup.compile(model, image)
print(fast(image).shape)
```
"""
    if pretrained:
        yield f"`pretrained=True` loads weights for {', '.join(f'`{n}`' for n in pretrained)}."
    yield f"Source: `{module.__name__.replace('.', '/')}.py`."


def _tree(names: Sequence[str]) -> Iterator[str]:
    yield "```{toctree}"
    yield ":hidden:"
    yield ""
    yield from names
    yield "```"
