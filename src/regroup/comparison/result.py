"""What a comparison found, as data: rows that a report can draw and a program can read."""

from __future__ import annotations

import csv
import io
import json
import statistics
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from regroup.errors import PlanError
from regroup.files.disk import write_file
from regroup.files.documents import DocumentError, read_document, require

_MOST_BYTES = 64 << 20


@dataclass(frozen=True)
class Run:
    """One training: the seed, the accuracy at its end, the curves on the way there, and which run it was.

    Where the task is another than classifying, the accuracy is the first of its figures, such as mIoU.

    `curves` holds one number an epoch by name: train_loss, test_loss, test_accuracy (per cent); `identity` is
    the hash of all that decides the weights (`regroup.training.identity`); `right` says which test images it
    classified rightly, or each one's share in its figure (`regroup.comparison.evidence.unpack`), and is empty
    where that is not known.
    """

    seed: int
    accuracy: float
    seconds: float
    curves: dict[str, list[float]] = field(default_factory=dict)
    identity: str = ""
    right: str = ""


WAYS = ("eager", "compiled")
"""Ways of running a network that are timed: PyTorch as it is, and `regroup.compile`."""


@dataclass(frozen=True)
class TimePerImage:
    """Milliseconds for one image: median and quartiles of samples taken in turns with the other networks.

    `verdict` is the clock's: quiet, noisy, or unusable where the machine was busy with something else.
    """

    median: float
    low: float
    high: float
    verdict: str = "quiet"

    @property
    def spread(self) -> float:
        """Interquartile range as a share of the median."""
        return (self.high - self.low) / self.median


@dataclass(frozen=True)
class Row:
    """One strategy in the backbone.

    Args:
        strategy: its label, such as "grouped:groups=4".
        paper: where it was published.
        parameters: of the whole network.
        macs: multiply-adds for one image, of the whole network.
        dense_macs: those of the dense network.
        runs: a training per seed.
        times: milliseconds for one image by way of running, "eager" (PyTorch) and "compiled" (our engine);
            empty if not measured.
        dense_times: those of the dense network in the same run.
        reach: of the network: share of (block input, output) channel pairs that are connected, after each
            replaced layer in order; and of one layer, as rows of 0 and 1 (out, in).
        correlation: between the filters of two neighbouring layers (out, in), 0 to 1.
        replaced: how many layers use the strategy.
        left: layers that do not though they were chosen, and why.
        error: why the strategy could not be run at all, or "".
        cause: whose fault that is: "grouping", which fits no layer or cannot be trained, or "machine": disk,
            memory, damage; then the same comparison, run again, takes it up.
    """

    strategy: str
    paper: str = ""
    parameters: int = 0
    macs: int = 0
    dense_macs: int = 0
    runs: list[Run] = field(default_factory=list)
    times: dict[str, TimePerImage] = field(default_factory=dict)
    dense_times: dict[str, TimePerImage] = field(default_factory=dict)
    reach: dict[str, Any] = field(default_factory=dict)
    correlation: dict[str, Any] = field(default_factory=dict)
    replaced: int = 0
    left: dict[str, str] = field(default_factory=dict)
    learned: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    cause: Literal["", "grouping", "machine"] = ""

    @property
    def accuracy(self) -> float | None:
        """Mean test accuracy over the seeds, in per cent."""
        return statistics.fmean(r.accuracy for r in self.runs) if self.runs else None

    @property
    def spread(self) -> float | None:
        """Sample standard deviation of the accuracy over the seeds; None below two seeds."""
        return statistics.stdev(r.accuracy for r in self.runs) if len(self.runs) > 1 else None

    @property
    def promised(self) -> float | None:
        """How many times faster the MACs say it should be than the dense network."""
        return self.dense_macs / self.macs if self.macs else None

    def measured(self, way: str) -> float | None:
        """Return how many times faster than the dense network the clock says it is, both run this way."""
        if way not in self.times or way not in self.dense_times:
            return None
        return self.dense_times[way].median / self.times[way].median

    def kept(self, way: str) -> float | None:
        """Return the share of the promised speed that the clock confirms: measured / promised."""
        measured = self.measured(way)
        return None if measured is None or not self.promised else measured / self.promised


@dataclass(frozen=True)
class Comparison:
    """All rows, by rising MACs, what they were measured on, and what they are evidence of.

    `evidence` is for those who read the JSON: see `regroup.comparison.evidence.Evidence.to_json`.
    """

    settings: dict[str, Any]
    machine: dict[str, Any]
    rows: list[Row]
    evidence: dict[str, Any] = field(default_factory=dict)

    def sorted(self) -> Comparison:
        """Return it with rows by rising MACs, those that failed last."""
        rows = sorted(self.rows, key=lambda r: (bool(r.error), r.macs, r.parameters, r.strategy))
        return replace(self, rows=rows)

    def save(self, path: str | Path) -> None:
        """Write it as JSON, in one step: the file is old or new, never half.

        Raises:
            OSError: it could not be written; the old one stays.
        """
        write_file(Path(path), json.dumps(asdict(self), indent=1).encode())

    @classmethod
    def load(cls, path: str | Path) -> Comparison:
        """Read what `save` wrote.

        Raises:
            PlanError: the file is missing or is not a comparison.
        """
        try:
            found = read_document(Path(path), cls, most=_MOST_BYTES, finite=False)
            for row in found.rows:
                for way, time in (*row.times.items(), *row.dense_times.items()):
                    require(time.median > 0, f"{row.strategy}: {way}.median", time.median, "above 0")
            return found
        except OSError as error:
            raise PlanError(path, error.strerror or "cannot be read") from error
        except DocumentError as error:
            raise PlanError(path, f"is not a comparison written by regroup ({error})") from error

    def loses_to(self, earlier: Comparison) -> list[str]:
        """Return the strategies of which `earlier` has results and the machine left this one without."""
        had = {row.strategy for row in earlier.rows if not row.error}
        return [row.strategy for row in self.rows if row.cause == "machine" and row.strategy in had]

    def table(self) -> list[dict[str, Any]]:
        """Return one flat record a row: what the CSV file and the printed table show."""
        said = self.evidence.get("rows", {})
        return [_record(row) | _evidence_record(said.get(row.strategy, {})) for row in self.rows]

    def csv(self) -> str:
        """Return the table as CSV with a header."""
        text = io.StringIO()
        writer = csv.DictWriter(text, list(_record(Row("")) | _evidence_record({})))
        writer.writeheader()
        writer.writerows(self.table())
        return text.getvalue()

    def pareto(self, cost: str) -> list[Row]:
        """Return the rows that no other beats in both accuracy and `cost`: "macs" or one of `WAYS`."""
        rows = [r for r in self.rows if r.accuracy is not None and _cost(r, cost) is not None]
        rows.sort(key=lambda r: (_cost(r, cost), -(r.accuracy or 0)))
        front: list[Row] = []
        for row in rows:
            if not front or (row.accuracy or 0) > (front[-1].accuracy or 0):
                front.append(row)
        return front


def _cost(row: Row, cost: str) -> float | None:
    if cost == "macs":
        return row.macs
    return row.times[cost].median if cost in row.times else None


def _record(row: Row) -> dict[str, Any]:
    return {
        "strategy": row.strategy,
        "parameters": row.parameters,
        "macs": row.macs,
        "accuracy": row.accuracy,
        "accuracy_spread": row.spread,
        "seeds": len(row.runs),
        "reach": row.reach.get("layer_fill"),
        "mixing_depth": row.reach.get("mixing_depth"),
        "promised_speedup": row.promised,
        **{f"{way}_{name}": value for way in WAYS for name, value in _time_record(row, way).items()},
        "error": row.error,
    }


def _evidence_record(said: dict[str, Any]) -> dict[str, Any]:
    against = said.get("against_dense", {})
    return {
        "accuracy_low": said.get("low"),
        "accuracy_high": said.get("high"),
        **{
            f"against_dense_{name}": against.get(name)
            for name in ("difference", "low", "high", "p", "verdict")
        },
    }


def _time_record(row: Row, way: str) -> dict[str, float | None]:
    time = row.times.get(way)
    return {
        "ms_per_image": time.median if time else None,
        "ms_low": time.low if time else None,
        "ms_high": time.high if time else None,
        "speedup": row.measured(way),
        "kept": row.kept(way),
    }
