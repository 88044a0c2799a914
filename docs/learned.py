"""Write docs/learned.md: the learned groupings, how to use them, and what they were measured to give.

    python -m docs.learned                    write the page anew
    python -m docs.learned --comparison report/learned/comparison.json
    python -m docs.learned --dsconv dsconv.json --condensed condensed.json --dynamic dynamic.json

The others take in what `regroup compare` and the benchmarks have found. What was measured is kept in
docs/learned.json; the page says by which commands.
"""

from __future__ import annotations

import argparse
import inspect
import json
import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from regroup.comparison.result import Comparison
from regroup.profiling.machine import Machine
from regroup.report import text
from regroup.strategies import parse_strategy, strategies
from regroup.strategies.shifted import Shifted

DATA = Path(__file__).with_name("learned.json")
PAGE = Path(__file__).with_name("learned.md")
TEXT = Path(__file__).with_name("learned_text.md")
PAIRS = (
    ("condensed", "grouped:groups=4"),
    ("dynamic", "grouped:groups=2"),
    ("mixed_learned", "mixed"),
    ("scaled_learned", "scaled:norm=true"),
)
"""Each learned strategy, and the fixed one of equal cost."""
LEARNED = {
    "assigned": "Learns the groups of inputs and outputs, of unequal sizes; deploys to one convolution for "
    "each size of group, between two channel orders.",
    "condensed": "Learns which inputs feed which group; deploys to gather, grouped convolution, shuffle.",
    "dynamic": "Learns to say which inputs matter; deploys to a layer that gathers these alone, image by "
    "image.",
    "groupable": "Learns the number of groups and their form; deploys to a plain grouped convolution between "
    "two channel orders.",
    "mixed_learned": "Learns the kernel size of each channel; deploys to one depthwise convolution for each "
    "size, as in `mixed`.",
    "reactivated": "Learns which outputs each group of inputs feeds; deploys to a grouped convolution that "
    "adds into the outputs.",
    "scaled_learned": "Learns the resolution of each output; deploys to `scaled` with a channel order.",
    "shifted": "Learns integers; deploys to a convolution that keeps them, at b + 32/B bits a weight on "
    "disk.",
}
"""What each strategy learns, and what of it is there when it is deployed."""


def main(argv: list[str] | None = None) -> None:
    """Take in what is given, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--comparison", type=Path, nargs="+", default=[])
    for name in ("dsconv", "condensed", "dynamic"):
        parser.add_argument(f"--{name}", type=Path)
    options = parser.parse_args(argv)
    data = load()
    for path in options.comparison:
        data["comparison"] = merged(data["comparison"], Comparison.load(path))
    for name in ("dsconv", "condensed", "dynamic"):
        if getattr(options, name):
            data[name] = json.loads(getattr(options, name).read_text())
    DATA.write_text(json.dumps(data, indent=1) + "\n")
    PAGE.write_text(page(data))


def load() -> dict[str, Any]:
    """Return the data as stored; what has not been measured is None."""
    nothing = dict.fromkeys(("comparison", "dsconv", "condensed", "dynamic"))
    return nothing | (json.loads(DATA.read_text()) if DATA.exists() else {})


def merged(before: dict[str, Any] | None, found: Comparison) -> dict[str, Any]:
    """Return the stored comparison with the rows of another, which must have had the same settings."""
    elsewhere = ("strategies", "out", "time", "timed_batch")
    settings = {name: value for name, value in found.settings.items() if name not in elsewhere}
    if before is not None and before["settings"] != settings:
        raise SystemExit("the comparisons had different settings: remove the old one from docs/learned.json")
    rows = {} if before is None else dict(before["rows"])
    for row in found.rows:
        if not row.error:
            accuracies = [round(run.accuracy, 3) for run in row.runs]
            figures = {"parameters": row.parameters, "macs": row.macs, "accuracies": accuracies}
            rows[row.strategy] = figures
    return {"settings": settings, "torch": found.machine["torch"], "rows": rows}


def page(data: dict[str, Any]) -> str:
    """Return the page: the text, with a table in place of each `{name}` line."""
    tables = {
        "strategies": _strategies(),
        "comparison": _comparison(data["comparison"]),
        "dsconv": _dsconv(data["dsconv"]),
        "condensed": _condensed(data["condensed"]),
        "dynamic": _dynamic(data["dynamic"]),
    }
    lines = []
    for line in TEXT.read_text().splitlines():
        name = line.removeprefix("{{").removesuffix("}}")
        lines += tables[name] if line == f"{{{{{name}}}}}" else [line]
    return "\n".join([*lines, ""])


def _table(header: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield "|---|" + "--:|" * (len(header) - 1)
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _strategies() -> Iterator[str]:
    """Say what each learned strategy is in the words of its docstring."""
    for name in strategies:
        cls = strategies[name]
        if name in LEARNED:
            summary = inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0].replace("\n", " ")
            link = f"[{cls.paper}](https://arxiv.org/abs/{cls.paper.removeprefix('arXiv:')})"
            yield f"- **`{name}`** ({link}). {summary}"
            yield f"  {LEARNED[name]}"


def _comparison(found: dict[str, Any] | None) -> Iterator[str]:
    if found is None:
        yield "Not measured yet."
        return
    rows, s = found["rows"], found["settings"]
    pairs = [pair for pair in PAIRS if all(name in rows for name in pair)]
    header = ("strategy", "parameters", "MACs", "accuracy", "by seed")
    names = [name for pair in pairs for name in pair] + ["dense"]
    yield from _table(header, (_accuracy_row(name, rows) for name in names if name in rows))
    yield ""
    images, (_, height, width) = s["images"], s["shape"]
    yield (
        f"{s['backbone']} on {s['data']} at {height} x {width}, {images['train']:,} training and "
        f"{images['test']:,} test images of fonts that were not trained on; {s['epochs']} epochs of "
        f"{s['opt']} at lr {s['lr']:g}, batch {s['batch_size']}; PyTorch {found['torch']} on a CPU. Mean and "
        "standard deviation of the seeds, in per cent. MACs and parameters are those of the deployed network."
    )
    yield ""
    yield from (_reading(learned, fixed, rows) for learned, fixed in pairs)
    missing = [f"`{name}`" for pair in PAIRS for name in pair if name not in rows]
    if missing:
        yield f"- Not trained yet: {', '.join(missing)}. The command above goes on where it stopped."


def _accuracy_row(name: str, rows: dict[str, Any]) -> tuple[str, ...]:
    row, values = rows[name], rows[name]["accuracies"]
    spread = statistics.stdev(values) if len(values) > 1 else None
    counts = f"{row['parameters']:,}", f"{row['macs']:,}"
    seeds = ", ".join(f"{value:.1f}" for value in values)
    return f"`{name}`", *counts, text.accuracy(statistics.fmean(values), spread), seeds


def _reading(learned: str, fixed: str, rows: dict[str, Any]) -> str:
    """Say what the seeds show of a pair: the difference against its standard error."""
    ours, theirs = rows[learned], rows[fixed]
    a, b = ours["accuracies"], theirs["accuracies"]
    difference = statistics.fmean(a) - statistics.fmean(b)
    error = math.sqrt(sum(statistics.variance(v) / len(v) for v in (a, b)))
    side = "above" if difference > 0 else "below"
    clear = abs(difference) > 2 * error
    verdict = f"clearly {side}" if clear else "no difference that these seeds could show"
    costs = []
    for name in ("macs", "parameters"):
        share = ours[name] / theirs[name] - 1
        unit = {"macs": "MACs"}.get(name, name)
        direction = "more" if share > 0 else "fewer"
        costs.append(f"{abs(share):.1%} {direction} {unit}" if share else f"equal {unit}")
    return (
        f"- `{learned}` against `{fixed}` ({', '.join(costs)}): {difference:+.1f} points, standard error "
        f"{error:.1f}: {verdict}."
    )


def _dsconv(found: dict[str, Any] | None) -> Iterator[str]:
    if found is None:
        yield "Not measured yet."
        return
    header = ("bits", "block", "bits a weight", "bytes on disk", "of float32", "converted", "adapted")
    size, top1 = found["bytes"], found["top1"]

    def rows() -> Iterator[tuple[str, ...]]:
        yield "float32", "", "32", f"{size:,}", "100 %", f"{top1:.2f} %", ""
        for r in found["rows"]:
            form = parse_strategy(r["strategy"])
            assert isinstance(form, Shifted)
            sizes = f"{r['bits_per_weight']:.2f}", f"{r['bytes']:,}", text.percent(r["bytes"] / size)
            yield str(form.bits), str(form.block), *sizes, f"{r['converted']:.2f} %", f"{r['adapted']:.2f} %"

    yield from _table(header, rows())
    yield ""
    yield f"{found['model']} on {found['data']}, trained once."


def _condensed(found: list[dict[str, Any]] | None) -> Iterator[str]:
    if found is None:
        yield "Not measured yet."
        return
    header = ("epochs", "groups", "of them complete", "parameters", "MACs", "top-1")
    yield from _table(header, (_condensed_row(r) for r in found))


def _condensed_row(r: dict[str, Any]) -> tuple[str, ...]:
    changed = (
        f"{r['parameters']:,} → {r['deployed_parameters']:,}",
        f"{r['macs']:,} → {r['deployed_macs']:,}",
        f"{r['top1']:.2f} → {r['deployed_top1']:.2f} %",
    )
    return str(r["epochs"]), str(r["groups"]), str(r["complete"]), *changed


def _dynamic(found: dict[str, Any] | None) -> Iterator[str]:
    if found is None:
        yield "Not measured yet."
        return
    header = ("network", "batch", "gate", "MMACs", "PyTorch, ms", "of dense", "compiled, ms", "of dense")

    def rows() -> Iterator[tuple[str, ...]]:
        for r in found["rows"]:
            gate = "dense" if r["gate"] is None else f"{r['gate']:g}"
            taken = f"{r['milliseconds']:.2f} ({r['low']:.2f} .. {r['high']:.2f})"
            noisy = "" if r["verdict"] == "quiet" else " (!)"
            figures = f"{r['mega_macs']:.1f}", taken + noisy, f"{r['of_dense']:.2f}"
            native = f"{r['compiled']:.2f}", f"{r['compiled_of_dense']:.2f}"
            yield f"`{r['model']}`", str(r["batch"]), gate, *figures, *native

    yield from _table(header, rows())
    yield ""
    threads = found["rows"][0]["threads"]
    yield f"Milliseconds per image, {threads} thread(s), on {Machine(**found['machine'])}."
    yield "(!): a noisy clock."


if __name__ == "__main__":
    main()
