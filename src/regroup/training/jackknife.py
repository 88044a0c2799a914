"""What each image adds to a figure of all images together, such as mIoU or mAP, and how sure that figure is.

>>> right = np.array([1.0, 0, 1, 1])
>>> shares(0.75, (right.sum() - right) / 3).round(9) + 0.0  # of a mean they are what it is the mean of
array([1., 0., 1., 1.])

They are Tukey's pseudo-values n T - (n - 1) T(without image i), moved so that their mean is T itself; the
variance of T over further images like these is that of their mean (Tukey, Annals of Mathematical Statistics
29, 1958, p. 614; Efron and Stein, Annals of Statistics 9, 1981). So figures of all images are compared image
by image, as accuracies are. An image that alone shows a class has a large share, and intervals are wide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEVEL = 0.95
"""Confidence of intervals."""


def shares(figure: float, without: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the share of each image in a figure, which is their mean.

    Args:
        figure: of all images.
        without: the figure without each image, in turn; NaN where nothing is left to measure.
    """
    known = np.where(np.isnan(without), figure, without)
    return figure + (len(known) - 1) * (known.mean() - known)


def of_mean(values: NDArray[np.floating], level: float) -> tuple[float, float]:
    """Return the t interval of what numbers like these are the mean of; nothing is known of a single one."""
    from scipy.stats import ttest_1samp

    if len(values) < 2:
        return -np.inf, np.inf
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    found = ttest_1samp(values, 0).confidence_interval(level)
    return float(found.low), float(found.high)
