"""What is said of mIoU and mAP is wrong no oftener than it says: simulations of known truth; definitions.

Networks that are exchangeable, or mirror images of each other (one is better at one class, the other at the
other), have the same mIoU and mAP in truth, whatever these are; others are apart.
"""

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, bootstrap, ttest_1samp

from regroup.comparison.evidence import (
    LEVEL,
    best_set,
    difference,
    equality,
    interval,
    pack,
    unpack,
)
from regroup.training import jackknife
from regroup.training.precision import evaluated, matches, without_each
from regroup.training.tasks.detect import average_precision
from regroup.training.tasks.segment import Overlap, overlap
from tests.training.test_detect import made_up

SKILLS = {"exchangeable": ((0.5, 0.5), (0.5, 0.5)), "mirrored": ((0.2, 0.9), (0.9, 0.2))}


def pixels(skills, images, rng):
    """Return pixels (images, 3, 3 classes) of each network on the same images, some of them hard."""
    ease = rng.beta(2, 1, (images, 1))
    shown = rng.integers(20, 200, (images, 2)) * (rng.random((images, 2)) < 0.6)
    found = []
    for skill in skills:
        share = np.clip(ease * np.array(skill) + rng.normal(0, 0.2, (images, 2)), 0.02, 0.98)
        right = np.rint(shown * share)
        more = np.rint(rng.gamma(1.0, 20, (images, 2)) * (1 - share))  # seen where there is background
        ground = 4096 - shown.sum(1)
        lost, gained = (shown - right).sum(1), more.sum(1)
        of_ground = np.stack([ground - gained, ground, ground - gained + lost])
        of_classes = np.stack([right, shown, right + more], 1)
        found.append(np.concatenate([of_ground.T[:, :, None], of_classes], 2).astype(float))
    return found


def segmented(counts):
    iou, dice = overlap(counts.sum(0))
    figures = {"miou": 100 * iou.mean(), "objects_miou": 100 * iou[1:].mean(), "dice": 100 * dice.mean()}
    return Overlap(loss=0.0, images=len(counts), classes={}, counts=counts, **figures)


def boxes(skills, images, rng):
    """Return (objects, detections of each network) as rows, some images hard for all."""
    shown, found = [], [[] for _ in skills]
    for image in range(images):
        ease = rng.beta(2, 1)
        for _ in range(rng.integers(0, 5)):
            x, y, w, h = *rng.uniform(0, 60, 2), *rng.uniform(10, 40, 2)
            label = int(rng.integers(1, 3))
            shown.append([image, x, y, x + w, y + h, label, w * h, 0])
            for rows, skill in zip(found, skills, strict=True):
                sure = ease * skill[label - 1]
                if rng.random() < 0.3 + 0.7 * sure:
                    near = np.array([x, y, x + w, y + h]) + rng.normal(0, 4 * (1 - sure), 4)
                    rows.append([image, *near, label, 0.5 * sure + 0.5 * rng.random()])
        for rows in found:
            for _ in range(rng.integers(0, 3)):
                x, y, w, h = *rng.uniform(0, 60, 2), *rng.uniform(10, 40, 2)
                rows.append([image, x, y, x + w, y + h, int(rng.integers(1, 3)), 0.7 * rng.random()])
    return shown, found


def detected(skills, images, rng):
    shown, found = boxes(skills, images, rng)
    names = ("background", "a", "b")
    return [average_precision(torch.tensor(shown), torch.tensor(rows), images, names) for rows in found]


def wrongly(differences):
    """Return how often a difference of nothing is said to be one, and how often the interval misses it."""
    said = sum(each.p < 1 - LEVEL for each in differences)
    missed = sum(not each.low <= 0 <= each.high for each in differences)
    return said, missed


@pytest.mark.parametrize("truth", SKILLS)
@pytest.mark.parametrize(("images", "times"), [(30, 200), (200, 100)])
def test_differences_of_miou_are_said_no_oftener_than_they_may(truth, images, times):
    rng, found = np.random.default_rng(images), []
    for _ in range(times):
        one, other = (segmented(each).each()[None] for each in pixels(SKILLS[truth], images, rng))
        found.append(difference(one, other))
    for count in wrongly(found):
        assert binomtest(count, times, 1 - LEVEL, alternative="greater").pvalue > 1e-3, count


@pytest.mark.parametrize("truth", SKILLS)
def test_differences_of_map_are_said_no_oftener_than_they_may(truth):
    rng, found, times = np.random.default_rng(1), [], 60
    for _ in range(times):
        one, other = (each.each()[None] for each in detected(SKILLS[truth], 30, rng))
        found.append(difference(one, other))
    for count in wrongly(found):
        assert binomtest(count, times, 1 - LEVEL, alternative="greater").pvalue > 1e-3, count


def test_intervals_of_miou_cover_the_truth():
    """The truth is that of a million images."""
    rng, times = np.random.default_rng(0), 200
    (many,) = pixels([(0.3, 0.8)], 1_000_000, rng)
    truth, missed = segmented(many).miou, 0
    for _ in range(times):
        low, high = segmented(pixels([(0.3, 0.8)], 60, rng)[0]).interval
        missed += not low <= truth <= high
    assert binomtest(missed, times, 1 - LEVEL, alternative="greater").pvalue > 1e-3, missed


def test_what_differs_much_is_told_apart_and_the_best_is_in_the_set():
    rng = np.random.default_rng(2)
    of_pixels = [segmented(each).each()[None] for each in pixels([(0.9, 0.9), (0.5, 0.5)], 100, rng)]
    of_boxes = [found.each()[None] for found in detected([(1.0, 1.0), (0.2, 0.2)], 60, rng)]
    for one, other in (of_pixels, of_boxes):
        found = difference(one, other)
        assert found.p < 0.01 and 0 < found.low < found.value < found.high
        assert best_set([other, one]) == [1]


@pytest.mark.parametrize("images", [1, 2, 7, 40])
def test_the_shares_of_images_are_what_pycocotools_says_without_each(images):
    rng = np.random.default_rng(images)
    shown, found = made_up(rng, images, 400)
    rows, seen = np.array(shown), np.array(found)

    def precision(kept):
        parts = (torch.tensor(each[np.isin(each[:, 0], kept)]) for each in (rows, seen))
        value = evaluated(*parts, images, [1, 2, 3]).stats[0]
        return np.nan if value < 0 else value

    everything = evaluated(torch.tensor(rows), torch.tensor(seen), images, [1, 2, 3])
    classes = matches(everything)
    assert np.nanmean([each.precision() for each in classes]) == pytest.approx(everything.stats[0], abs=1e-12)
    numbers = np.arange(images)
    expected = [precision(numbers[numbers != i]) for i in numbers]
    assert without_each(classes, images) == pytest.approx(expected, abs=1e-12, nan_ok=True)
    names = ("background", "a", "b", "c")
    found = average_precision(torch.tensor(rows), torch.tensor(seen), images, names)
    assert 100 * found.each().mean() == pytest.approx(found.map)


def test_shares_of_miou_are_by_leaving_images_out_and_of_a_mean_its_values():
    rng = np.random.default_rng(3)
    (counts,) = pixels([(0.5, 0.7)], 12, rng)
    whole = segmented(counts)
    without = [segmented(np.delete(counts, i, 0)).miou / 100 for i in range(12)]
    pseudo = 12 * whole.miou / 100 - 11 * np.array(without)
    assert whole.each() == pytest.approx(pseudo - pseudo.mean() + whole.miou / 100)
    values = rng.random(9)
    assert jackknife.shares(values.mean(), (values.sum() - values) / 8) == pytest.approx(values)


def test_the_interval_is_about_that_of_scipys_bootstrap():
    """Two methods of the same 95 %: within a sixth of each other's width at 200 images."""
    (counts,) = pixels([(0.5, 0.7)], 200, np.random.default_rng(4))

    def miou(index):
        return overlap(counts[index].sum(0))[0].mean()

    found = bootstrap(
        (np.arange(200),), miou, vectorized=False, n_resamples=999, rng=np.random.default_rng(0)
    ).confidence_interval
    low, high = segmented(counts).interval
    width = 100 * (found.high - found.low)
    assert abs(low - 100 * found.low) < width / 6 and abs(high - 100 * found.high) < width / 6


def test_the_test_is_scipys_of_the_values_with_the_farthest_for_and_against():
    gained = np.random.default_rng(5).normal(0.2, 1, 10)
    more = [*gained, abs(gained).max(), -abs(gained).max()]
    for alternative in ("two-sided", "less"):
        expected = ttest_1samp(more, 0, alternative=alternative).pvalue
        assert equality(gained, alternative) == pytest.approx(expected)
    assert equality(np.zeros(5), "two-sided") == 1


@pytest.mark.parametrize("images", [1, 2])
def test_a_few_images_show_nothing(images):
    one, other = np.full((1, images), 0.9), np.full((1, images), 0.1)
    found = difference(one, other)
    assert found.p >= 0.25 and found.low <= 0 and best_set([one, other]) == [0, 1]
    low, high = interval(one[:, :1])
    assert (low, high) == (0, 1)


def test_shares_are_kept_to_the_bit_and_others_are_none():
    each = np.random.default_rng(0).normal(0, 3, 359)
    assert (unpack(pack(each), 359) == each).all() and unpack(pack(each), 358) is None
    assert (
        unpack(pack(np.array([np.nan, 1.0])), 2) is None and unpack(pack(np.array([1e300, 1.0])), 2) is None
    )
