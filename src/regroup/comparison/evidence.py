"""How sure a comparison's accuracies are: intervals, paired differences, and what cannot be told apart.

>>> one, other = np.array([[True] * 90 + [False] * 10]), np.array([[True] * 80 + [False] * 20])
>>> found = difference(one, other)
>>> round(100 * found.value, 1), found.p < 0.01, round(100 * found.low, 1), round(100 * found.high, 1)
(10.0, True, 3.3, 16.3)

All networks are tested on the same images, so they are compared image by image. Where there are several
seeds, an image's figure is the mean over the trainings, and images are what is drawn: an image on which all
trainings agree counts once. Statements are about the networks trained here, on further images like these.

- The interval of an accuracy is Wilson's (1927), for several trainings a t interval of the images' means with
  two right and two wrong images added (Agresti and Coull, The American Statistician 52(2), 1998).
- The interval of a difference is that of the mean of the images' differences, with one image for and one
  against added (Bonett and Price, J. Educational and Behavioral Statistics 37(4), 2012).
- Whether there is one is asked by the exact test that exchanges the two networks on each image (Fisher, The
  Design of Experiments, 1935, section 21); with one training it is McNemar's exact test (1947).
- Differences from the dense network: p-values by Holm (Scandinavian J. of Statistics 6, 1979), so that with
  95 % confidence every "better" and "worse" is true; intervals by Bonferroni, so that they hold all at once.
- The best set: what the one-sided test against the most accurate network does not refuse at 5 % over the
  number of other networks. The most accurate in truth is in it with 95 % confidence, whichever seems to be it
  (Gupta, Technometrics 7, 1965; Hsu, Annals of Statistics 9, 1981): for it to be missing, some comparison of
  it with a worse one must err.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from regroup.comparison.result import Comparison, Row
from regroup.training.evaluation import LEVEL, wilson

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_IMAGES = 1 << 20
"""Test images up to which answers are kept image by image: 128 KiB for a run."""


def pack(right: NDArray[np.bool_]) -> str:
    """Return which images were classified rightly as text: eight in a byte, in base64."""
    return base64.b64encode(np.packbits(right).tobytes()).decode()


def unpack(text: str, images: int) -> NDArray[np.bool_] | None:
    """Return what `pack` wrote of so many images; None if it is something else."""
    try:
        packed = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
    except (binascii.Error, ValueError):
        return None
    if not images or len(packed) != (images + 7) // 8:
        return None
    return np.unpackbits(packed, count=images).astype(bool)


@dataclass(frozen=True)
class Difference:
    """How much more accurate one network is than another, as a share of the images, and how sure that is.

    Attributes:
        value: accuracy of the one minus that of the other.
        low: lower end of the interval.
        high: upper end.
        p: of the test that there is none.
    """

    value: float
    low: float
    high: float
    p: float


def interval(right: NDArray[np.bool_], level: float = LEVEL) -> tuple[float, float]:
    """Return the confidence interval of an accuracy, as shares.

    Args:
        right: which images were classified rightly, (seeds, images).
        level: of confidence.
    """
    if len(right) == 1:
        return wilson(int(right.sum()), right.size, level)
    low, high = _of_mean(np.concatenate([right.mean(0), [1, 1, 0, 0]]), level)
    return max(0.0, low), min(1.0, high)


def difference(one: NDArray[np.bool_], other: NDArray[np.bool_], level: float = LEVEL) -> Difference:
    """Return how much more accurate one network is than another on the same images.

    Args:
        one: which images it classified rightly, (seeds, images).
        other: likewise, with the same seeds.
        level: of the interval.
    """
    gained = one.astype(int).sum(0) - other.astype(int).sum(0)
    seeds = len(one)
    low, high = _of_mean(np.concatenate([gained / seeds, [1, -1]]), level)
    return Difference(float(gained.mean()) / seeds, low, high, equality(gained, "two-sided"))


def equality(gained: NDArray[np.int_], alternative: Literal["two-sided", "less"]) -> float:
    """Return the p-value of the hypothesis that two networks are equally accurate.

    Args:
        gained: for each image, in how many trainings the one is right less those in which the other is.
        alternative: that they differ, or that the one is less accurate.
    """
    from scipy.signal import fftconvolve
    from scipy.stats import binom

    told = gained[gained != 0]
    if not len(told):
        return 1.0
    # the sum of the differences, were each of either sign: that of a binomial variable for each magnitude
    found, reach = np.ones(1), int(np.abs(told).sum())
    for magnitude, many in zip(*np.unique(np.abs(told), return_counts=True), strict=True):
        steps = np.zeros(2 * int(magnitude * many) + 1)
        steps[:: 2 * int(magnitude)] = binom.pmf(np.arange(many + 1), many, 0.5)
        found = fftconvolve(found, steps)
    sums = np.arange(-reach, reach + 1)
    total = int(told.sum())
    extreme = sums <= total if alternative == "less" else np.abs(sums) >= abs(total)
    return float(min(1.0, found[extreme].sum()))


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Return p-values of which those below a level are all true with that level's confidence (Holm, 1979)."""
    adjusted, least = {}, 0.0
    for rank, name in enumerate(sorted(p, key=lambda name: p[name])):
        least = max(least, min(1.0, p[name] * (len(p) - rank)))
        adjusted[name] = least
    return adjusted


def best_set(rights: Sequence[NDArray[np.bool_]], level: float = LEVEL) -> list[int]:
    """Return which networks cannot be told from the most accurate one, by rising number.

    Args:
        rights: of each network which images it classified rightly, (seeds, images).
        level: of confidence that the most accurate one in truth is among them.
    """
    counts = [right.astype(int).sum(0) for right in rights]
    best = max(range(len(counts)), key=lambda i: int(counts[i].sum()))
    bar = (1 - level) / max(len(counts) - 1, 1)
    return [i for i, one in enumerate(counts) if i == best or equality(one - counts[best], "less") > bar]


def _of_mean(values: NDArray[np.floating], level: float) -> tuple[float, float]:
    from scipy.stats import ttest_1samp

    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    found = ttest_1samp(values, 0).confidence_interval(level)
    return max(-1.0, float(found.low)), min(1.0, float(found.high))


@dataclass(frozen=True)
class Evidence:
    """What a comparison's answers, image by image, allow to be said.

    Attributes:
        rows: those with answers to all test images, with the same seeds, by strategy.
        rights: their answers, (seeds, images).
    """

    rows: dict[str, Row]
    rights: dict[str, NDArray[np.bool_]]

    @classmethod
    def of(cls, comparison: Comparison) -> Evidence:
        """Return the evidence of a comparison; of no rows, if it was made without answers."""
        count = comparison.settings.get("images", {})
        images = count.get("test", 0) if isinstance(count, dict) else 0
        rights, rows = {}, {}
        seeds: list[int] | None = None
        for row in comparison.rows:
            answers = [unpack(run.right, images) for run in row.runs]
            known = [answer for answer in answers if answer is not None]
            if not known or len(known) < len(answers):
                continue
            seeds = seeds or [run.seed for run in row.runs]
            if seeds == [run.seed for run in row.runs]:
                rights[row.strategy], rows[row.strategy] = np.stack(known), row
        return cls(rows, rights)

    @property
    def images(self) -> int:
        """Test images."""
        return next(iter(self.rights.values())).shape[1] if self.rights else 0

    @property
    def seeds(self) -> int:
        """Trainings of each network."""
        return len(next(iter(self.rights.values()))) if self.rights else 0

    @cached_property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """The interval of each accuracy, as shares."""
        return {name: interval(right) for name, right in self.rights.items()}

    @cached_property
    def against_dense(self) -> dict[str, Difference]:
        """Each difference from the dense network: p-values by Holm, intervals that hold all at once."""
        dense = self.rights.get("dense")
        if dense is None:
            return {}
        others = {name: right for name, right in self.rights.items() if name != "dense"}
        level = 1 - (1 - LEVEL) / max(len(others), 1)
        found = {name: difference(right, dense, level) for name, right in others.items()}
        adjusted = holm({name: each.p for name, each in found.items()})
        return {n: Difference(each.value, each.low, each.high, adjusted[n]) for n, each in found.items()}

    def verdict(self, name: str) -> str:
        """Say 'better' or 'worse' than dense where that is shown, else 'no difference shown'."""
        found = self.against_dense[name]
        if found.p > 1 - LEVEL:
            return "no difference shown"
        return "better" if found.value > 0 else "worse"

    @cached_property
    def best(self) -> list[str]:
        """The networks that cannot be told from the most accurate one."""
        names = list(self.rights)
        return [names[i] for i in best_set([self.rights[name] for name in names])] if names else []

    @property
    def leader(self) -> str:
        """The one that is the most accurate on these images; of equals the one of the fewest MACs."""
        return max(self.rows, key=lambda name: (int(self.rights[name].sum()), -self.rows[name].macs))

    @property
    def resolution(self) -> float:
        """Accuracies that differ by less cannot be told apart by so many images, whatever the answers are."""
        fewest = math.ceil(math.log2(max(len(self.rows) - 1, 1) / (1 - LEVEL)))
        return fewest / (self.images * self.seeds)

    def fastest(self) -> tuple[list[str], str]:
        """Return the best set, the fastest first, and the way of running whose times that is by.

        By MACs, and "macs", where not all of them were timed. What is shown to be worse than dense is last.
        """
        worse = {n: n in self.against_dense and self.verdict(n) == "worse" for n in self.best}
        for way in ("compiled", "eager"):
            if all(way in self.rows[name].times for name in self.best):
                times = {name: self.rows[name].times[way].median for name in self.best}
                return sorted(self.best, key=lambda name: (worse[name], times[name])), way
        return sorted(self.best, key=lambda name: (worse[name], self.rows[name].macs)), "macs"

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain data; accuracies and differences in per cent."""
        if not self.rows:
            return {}
        order, way = self.fastest()
        rows: dict[str, dict[str, Any]] = {}
        for name, (low, high) in self.intervals.items():
            rows[name] = {"low": 100 * low, "high": 100 * high}
            if name in self.against_dense:
                found = self.against_dense[name]
                against = {"difference": found.value, "low": found.low, "high": found.high}
                said = {"p": found.p, "verdict": self.verdict(name)}
                rows[name]["against_dense"] = {key: 100 * value for key, value in against.items()} | said
        return {
            "confidence": LEVEL,
            "images": self.images,
            "seeds": self.seeds,
            "best_set": order,
            "ordered_by": way,
            "recommended": order[0],
            "rows": rows,
        }


NOTHING = Evidence({}, {})
"""The evidence of a comparison that nothing is known of."""
