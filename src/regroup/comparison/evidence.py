"""How sure a comparison's accuracies are: intervals, paired differences, and what cannot be told apart.

>>> one, other = np.array([[True] * 90 + [False] * 10]), np.array([[True] * 80 + [False] * 20])
>>> found = difference(one, other)
>>> round(100 * found.value, 1), found.p < 0.01, round(100 * found.low, 1), round(100 * found.high, 1)
(10.0, True, 3.3, 16.3)

All networks are tested on the same images, so they are compared image by image. Where there are several
seeds, an image's figure is the mean over the trainings, and images are what is drawn: an image on which all
trainings agree counts once. Statements are about the networks trained here, on further images like these.

An image is right or wrong where networks classify; where mIoU or mAP are measured, which are figures of all
images together, it has its share in them (`regroup.training.jackknife`), a number.

- The interval of an accuracy is Wilson's (1927), for several trainings a t interval of the images' means with
  two right and two wrong images added (Agresti and Coull, The American Statistician 52(2), 1998). That of a
  figure of all images is the t interval of their shares.
- The interval of a difference is that of the mean of the images' differences, with one image for and one
  against added (Bonett and Price, J. Educational and Behavioral Statistics 37(4), 2012); of shares these are
  as far off as the farthest.
- Whether there is one is asked by the exact test that exchanges the two networks on each image (Fisher, The
  Design of Experiments, 1935, section 21); with one training it is McNemar's exact test (1947). Of shares it
  is the t test of what the interval is of: exchanging them is exact only if the networks err alike; in
  simulations of equal networks on 10 and 30 images it told 3 to 7 % apart, this one .7 to 2 %.
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
from regroup.training.evaluation import wilson
from regroup.training.jackknife import LEVEL, of_mean

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_IMAGES = 1 << 20
"""Test images up to which answers are kept image by image: 128 KiB for a run."""


def pack(each: NDArray) -> str:
    """Return what was done with each image as text: right or wrong, eight in a byte; or float64 shares."""
    content = np.packbits(each) if each.dtype == bool else each.astype("<f8")
    return base64.b64encode(content.tobytes()).decode()


def unpack(text: str, images: int) -> NDArray | None:
    """Return what `pack` wrote of so many images; None if it is something else."""
    try:
        packed = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    if images and len(packed) == (images + 7) // 8:
        return np.unpackbits(np.frombuffer(packed, np.uint8), count=images).astype(bool)
    if images and len(packed) == 8 * images:
        found = np.frombuffer(packed, "<f8").astype(float)
        return found if np.isfinite(found).all() and np.abs(found).max() < 1e100 else None
    return None


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


def interval(each: NDArray, level: float = LEVEL) -> tuple[float, float]:
    """Return the confidence interval of an accuracy, or of another figure, as shares.

    Args:
        each: which images were classified rightly, or their shares, (seeds, images).
        level: of confidence.
    """
    if each.dtype == bool and len(each) == 1:
        return wilson(int(each.sum()), each.size, level)
    more = [1, 1, 0, 0] if each.dtype == bool else []
    low, high = of_mean(np.concatenate([each.mean(0), more]), level)
    return max(0.0, low), min(1.0, high)


def difference(one: NDArray, other: NDArray, level: float = LEVEL) -> Difference:
    """Return how much more accurate one network is than another on the same images.

    Args:
        one: which images it classified rightly, or their shares, (seeds, images).
        other: likewise, with the same seeds.
        level: of the interval.
    """
    seeds, gained = len(one), _summed(one) - _summed(other)
    each = gained / seeds
    more = np.append(each, [1, -1]) if one.dtype == bool else _with_farthest(each)
    low, high = of_mean(more, level)
    return Difference(float(each.mean()), max(-1.0, low), min(1.0, high), equality(gained, "two-sided"))


def _summed(each: NDArray) -> NDArray:
    """Return the sum over the trainings: whole numbers where images are right or wrong."""
    return (each.astype(int) if each.dtype == bool else each).sum(0)


def equality(gained: NDArray, alternative: Literal["two-sided", "less"]) -> float:
    """Return the p-value of the hypothesis that two networks are equally accurate.

    Args:
        gained: for each image, in how many trainings the one is right less those in which the other is; or
            what its share is more than that of the other.
        alternative: that they differ, or that the one is less accurate.
    """
    told = gained[gained != 0]
    if not len(told):
        return 1.0
    if np.issubdtype(told.dtype, np.integer):
        return _exact(told, alternative)
    return _of_shares(gained, alternative)


def _exact(told: NDArray[np.int_], alternative: str) -> float:
    from scipy.signal import fftconvolve
    from scipy.stats import binom

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


def _of_shares(told: NDArray[np.floating], alternative: Literal["two-sided", "less"]) -> float:
    from scipy.stats import ttest_1samp

    return float(ttest_1samp(_with_farthest(told), 0, alternative=alternative).pvalue)


def _with_farthest(each: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return differences of shares with the largest of them added once for and once against."""
    farthest = np.abs(each).max()
    return np.append(each, [farthest, -farthest])


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Return p-values of which those below a level are all true with that level's confidence (Holm, 1979)."""
    adjusted, least = {}, 0.0
    for rank, name in enumerate(sorted(p, key=lambda name: p[name])):
        least = max(least, min(1.0, p[name] * (len(p) - rank)))
        adjusted[name] = least
    return adjusted


def best_set(rights: Sequence[NDArray], level: float = LEVEL) -> list[int]:
    """Return which networks cannot be told from the most accurate one, by rising number.

    Args:
        rights: of each network which images it classified rightly, or their shares, (seeds, images).
        level: of confidence that the most accurate one in truth is among them.
    """
    counts = [_summed(right) for right in rights]
    best = max(range(len(counts)), key=lambda i: counts[i].sum())
    bar = (1 - level) / max(len(counts) - 1, 1)
    return [i for i, one in enumerate(counts) if i == best or equality(one - counts[best], "less") > bar]


@dataclass(frozen=True)
class Evidence:
    """What a comparison's answers, image by image, allow to be said.

    Attributes:
        rows: those with answers to all test images, with the same seeds, by strategy.
        rights: their answers, or the images' shares, (seeds, images).
    """

    rows: dict[str, Row]
    rights: dict[str, NDArray]

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
        return max(self.rows, key=lambda name: (_summed(self.rights[name]).sum(), -self.rows[name].macs))

    @property
    def resolution(self) -> float:
        """Accuracies that differ by less cannot be told apart by so many images.

        Of right and wrong that holds whatever the answers are; of shares it is the least difference from the
        leader of which the interval would leave out none.
        """
        bar = (1 - LEVEL) / max(len(self.rows) - 1, 1)
        leader = self.rights[self.leader]
        if leader.dtype == bool:
            return math.ceil(math.log2(1 / bar)) / (self.images * self.seeds)
        others = [right for name, right in self.rights.items() if name != self.leader]
        found = [difference(leader, other, 1 - 2 * bar) for other in others]
        return min((each.high - each.low) / 2 for each in found)

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
