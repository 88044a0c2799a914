"""What a comparison found, as data: rows that a report can draw and a program can read."""

from __future__ import annotations

import csv
import io
import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from regroup.errors import PlanError


@dataclass(frozen=True)
class Run:
    """One training: the seed, the accuracy at its end, and the curves on the way there.

    `curves` holds one number an epoch by name: train_loss, test_loss, test_accuracy (per cent).
    """

    seed: int
    accuracy: float
    seconds: float
    curves: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class TimePerImage:
    """Milliseconds for one image: median and quartiles of samples taken in turns with the other networks."""

    median: float
    low: float
    high: float


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
        timing: time per image, or None if it was not measured.
        dense_timing: that of the dense network in the same run.
        reach: of the network: share of (block input, output) channel pairs that are connected, after each
            replaced layer in order; and of one layer, as rows of 0 and 1 (out, in).
        correlation: between the filters of two neighbouring layers (out, in), 0 to 1.
        replaced: how many layers use the strategy.
        left: layers that do not though they were chosen, and why.
        error: why the strategy could not be run at all, or "".
    """

    strategy: str
    paper: str = ""
    parameters: int = 0
    macs: int = 0
    dense_macs: int = 0
    runs: list[Run] = field(default_factory=list)
    timing: TimePerImage | None = None
    dense_timing: TimePerImage | None = None
    reach: dict[str, Any] = field(default_factory=dict)
    correlation: dict[str, Any] = field(default_factory=dict)
    replaced: int = 0
    left: dict[str, str] = field(default_factory=dict)
    learned: dict[str, Any] = field(default_factory=dict)
    error: str = ""

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

    @property
    def measured(self) -> float | None:
        """How many times faster the clock says it is than the dense network."""
        if self.timing is None or self.dense_timing is None:
            return None
        return self.dense_timing.median / self.timing.median

    @property
    def kept(self) -> float | None:
        """Share of the promised speed that the clock confirms: measured / promised."""
        if self.measured is None or self.promised is None:
            return None
        return self.measured / self.promised

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Row:
        """Return the row that `asdict` made JSON of."""
        data = dict(data)
        data["runs"] = [Run(**r) for r in data["runs"]]
        for name in ("timing", "dense_timing"):
            data[name] = TimePerImage(**data[name]) if data[name] else None
        return cls(**data)


@dataclass(frozen=True)
class Comparison:
    """All rows, by rising MACs, and what they were measured on."""

    settings: dict[str, Any]
    machine: dict[str, Any]
    rows: list[Row]

    def sorted(self) -> Comparison:
        """Return it with rows by rising MACs, those that failed last."""
        rows = sorted(self.rows, key=lambda r: (bool(r.error), r.macs, r.parameters, r.strategy))
        return Comparison(self.settings, self.machine, rows)

    def save(self, path: str | Path) -> None:
        """Write it as JSON, in one step: the file is old or new, never half."""
        path = Path(path)
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text(json.dumps(asdict(self), indent=1))
        temporary.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> Comparison:
        """Read what `save` wrote.

        Raises:
            PlanError: the file is missing or is not a comparison.
        """
        try:
            data = json.loads(Path(path).read_text())
            return cls(data["settings"], data["machine"], [Row.from_json(r) for r in data["rows"]])
        except OSError as error:
            raise PlanError(path, error.strerror or "cannot be read") from error
        except (ValueError, KeyError, TypeError) as error:
            raise PlanError(path, f"is not a comparison written by regroup ({error})") from error

    def table(self) -> list[dict[str, Any]]:
        """Return one flat record a row: what the CSV file and the printed table show."""
        return [_record(row) for row in self.rows]

    def csv(self) -> str:
        """Return the table as CSV with a header."""
        text = io.StringIO()
        writer = csv.DictWriter(text, list(_record(Row(""))))
        writer.writeheader()
        writer.writerows(self.table())
        return text.getvalue()

    def pareto(self, cost: str) -> list[Row]:
        """Return the rows that no other row beats in both accuracy and `cost` ("macs" or "time")."""
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
    return row.timing.median if row.timing else None


def _record(row: Row) -> dict[str, Any]:
    return {
        "strategy": row.strategy,
        "parameters": row.parameters,
        "macs": row.macs,
        "ms_per_image": row.timing.median if row.timing else None,
        "ms_low": row.timing.low if row.timing else None,
        "ms_high": row.timing.high if row.timing else None,
        "accuracy": row.accuracy,
        "accuracy_spread": row.spread,
        "seeds": len(row.runs),
        "reach": row.reach.get("layer_fill"),
        "mixing_depth": row.reach.get("mixing_depth"),
        "promised_speedup": row.promised,
        "measured_speedup": row.measured,
        "kept": row.kept,
        "error": row.error,
    }
