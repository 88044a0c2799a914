"""What a comparison allows to be said, in sentences: no more than its images, seeds and clock show."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import fields
from statistics import fmean

from regroup.comparison.evidence import LEVEL, Evidence
from regroup.comparison.result import WAYS, Comparison, Row
from regroup.comparison.settings import CompareConfig
from regroup.report import text

_NAMES = {"eager": "in PyTorch", "compiled": "with regroup.compile"}
_SURE = f"{100 * LEVEL:.0f} %"


def summary_lines(comparison: Comparison) -> list[str]:
    """Return the sentences that say what the table shows.

    The first recommends the network of the shortest measured time among those whose accuracy cannot be told
    from that of the most accurate one; the others say exactly what that means, how it stands against dense,
    which come next, and what would decide. See `regroup.comparison.evidence` for the statistics.
    """
    good = [row for row in comparison.rows if not row.error and row.accuracy is not None]
    if len(good) < 2:
        return []
    evidence = Evidence.of(comparison)
    lines, measure = [], text.measure(comparison)
    if unknown := len(good) - len(evidence.rows):
        lines.append(
            f"Of {unknown} networks it is not known how they do image by image, so nothing is said of their "
            f"{measure}. The same command, run again, finds out without training."
        )
    if len(evidence.rows) > 1:
        lines += _recommendation(comparison, evidence)
    lines += _clock(good)
    return lines


def _recommendation(comparison: Comparison, evidence: Evidence) -> Iterator[str]:
    order, way = evidence.fastest()
    first, leader, rows, many = order[0], evidence.leader, evidence.rows, len(order)
    measure, best = text.measure(comparison), text.best(comparison)
    trainings = f"{evidence.images} test images and {evidence.seeds} seed" + (
        "s" if evidence.seeds > 1 else ""
    )
    if many == 1:
        yield f"{first} is the {best} of {len(rows)} networks, with {_SURE} confidence ({trainings})."
    else:
        yield (
            f"{first} {_how_fast(rows[first], way)} of the {_of(many, len(rows))} whose "
            f"{measure} cannot be told from that of the {best} here, {leader} "
            f"({rows[leader].accuracy:.2f} %)."
        )
        yield (
            f"With {_SURE} confidence the {best} in truth is among these {many}; that they are equal "
            f"is not shown: {trainings} show no differences below {100 * evidence.resolution:.2g} points."
        )
    if first in evidence.against_dense:
        yield _against_dense(first, evidence, measure)
    if many > 1:
        yield _runners_up(order[1:4], rows, way, rows[first])
        yield _what_decides(comparison, evidence, list(dict.fromkeys([*order[:3], leader])))


def _of(many: int, there_are: int) -> str:
    return f"{many} networks" if many == there_are else f"{many} networks, among {there_are},"


def _how_fast(row: Row, way: str) -> str:
    if way == "macs":
        return f"has the fewest MACs ({text.count(row.macs)}; times were not measured)"
    speed = row.measured(way)
    against = "" if speed is None or row.strategy == "dense" else f", {speed:.2f} times as fast as dense"
    return f"is the fastest ({text.milliseconds(row.times[way].median)} an image {_NAMES[way]}{against})"


def _against_dense(name: str, evidence: Evidence, measure: str) -> str:
    found, (low, high) = evidence.against_dense[name], evidence.intervals[name]
    shown = {"better": "it is better than", "worse": "it is worse than"}.get(
        evidence.verdict(name), "no difference is shown from"
    )
    own, dense = (evidence.rows[each].accuracy for each in (name, "dense"))
    return (
        f"Its {measure} is {own:.2f} % ({100 * low:.1f} to {100 * high:.1f}); {shown} dense ({dense:.2f} %): "
        f"{100 * found.low:+.1f} to {100 * found.high:+.1f} points on the same images "
        f"({_SURE}, for all networks at once)."
    )


def _runners_up(names: list[str], rows: dict[str, Row], way: str, first: Row) -> str:
    said = []
    for name in names:
        row = rows[name]
        if way == "macs":
            said.append(f"{name} ({text.count(row.macs)} MACs)")
            continue
        even = row.times[way].low <= first.times[way].high
        within = ", as fast within the spread" if even else ""
        said.append(f"{name} ({text.milliseconds(row.times[way].median)}{within})")
    return f"Next of these: {'; '.join(said)}."


def _what_decides(comparison: Comparison, evidence: Evidence, contenders: list[str]) -> str:
    seeds = max(5, 2 * evidence.seeds)
    trained = list(dict.fromkeys(["dense", *contenders]))
    each = [fmean(run.seconds for run in evidence.rows[n].runs) for n in trained if n in evidence.rows]
    command = _command(comparison, [name for name in contenders if name != "dense"], seeds)
    return (
        f"What would decide: more seeds, `{command}` (about {text.duration(seeds * sum(each))} of training), "
        "or more test images: four times as many halve the intervals."
    )


def _command(comparison: Comparison, strategies: list[str], seeds: int) -> str:
    """Return the command that compares some of the strategies again with more seeds."""
    words = ["regroup", "compare"]
    if strategies:
        words += ["--strategies", *strategies]
    words += ["--seeds", str(seeds)]
    settings = comparison.settings
    for option in fields(CompareConfig):
        value = settings.get(option.name, option.default)
        value = tuple(value) if isinstance(value, list) and isinstance(option.default, tuple) else value
        known = (option.default, [], *(["classify"] if option.name == "task" else []))
        if option.name in ("strategies", "seeds", "out", "wait", "retime", "time") or value in known:
            continue
        flag = {"backbone": "model"}.get(option.name, option.name.replace("_", "-"))
        values = value if isinstance(value, (list, tuple)) else [value]
        words += (
            [f"--{flag}" if value else f"--no-{flag}"]
            if isinstance(value, bool)
            else [f"--{flag}", *map(str, values)]
        )
    return shlex.join([*words, "--out", f"{settings.get('out', 'report')}-{seeds}-seeds"])


def _clock(good: list[Row]) -> Iterator[str]:
    dense = next((row for row in good if row.strategy == "dense"), None)
    grouped = [row for row in good if dense is not None and row.macs < dense.macs]
    shares = {way: [kept for r in grouped if (kept := r.kept(way)) is not None] for way in WAYS}
    said = [f"{100 * fmean(kept):.0f} per cent {_NAMES[way]}" for way, kept in shares.items() if kept]
    if said:
        yield f"Of the speed-up that the MACs promise, the clock confirms {' and '.join(said)}."
    busy = sorted({r.strategy for r in good if any(t.verdict == "unusable" for t in r.times.values())})
    if busy:
        yield (
            f"The machine was busy while {len(busy)} of {len(good)} networks were timed (marked ?): "
            "measure again with --retime when it is idle."
        )
