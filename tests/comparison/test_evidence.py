"""What is said of accuracies is wrong no oftener than it says: simulations of known truth; definitions."""

import csv
import io
import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest, permutation_test

from regroup.comparison.evidence import (
    LEVEL,
    Evidence,
    best_set,
    difference,
    equality,
    holm,
    interval,
    pack,
    unpack,
)
from regroup.comparison.result import Comparison, Row, Run, TimePerImage
from regroup.report.summary import summary_lines

SHARES = np.array([0.6, 0.25, 0.1, 0.05])
"""Of images that are easy, less easy, hard and harder; all networks find the same ones hard."""
EASE = np.array([0.999, 0.97, 0.7, 0.3])


def chances(skill):
    """How probably a network of some skill classifies each kind of image rightly."""
    return EASE + skill * EASE * (1 - EASE)


TRUTHS = {
    "all alike": [0.0] * 8,
    "one is better": [0.0] * 7 + [0.5],
    "a little apart": list(np.linspace(-0.5, 0.5, 8)),
    "far apart": list(np.linspace(-2, 0.5, 8)),
}


def drawn(truth, seeds, images, rng):
    kind = rng.choice(4, size=images, p=SHARES)
    return [rng.random((seeds, images)) < chances(skill)[kind] for skill in TRUTHS[truth]]


def comparison(rights, ms=None):
    def row(i, right):
        name = "dense" if i == 0 else f"grouped:groups={i}"
        runs = [Run(s, 100 * float(r.mean()), 10.0, right=pack(r)) for s, r in enumerate(right)]
        times = {} if ms is None else {"compiled": TimePerImage(ms[i], 0.99 * ms[i], 1.01 * ms[i])}
        dense = {} if ms is None else {"compiled": TimePerImage(ms[0], 0.99 * ms[0], 1.01 * ms[0])}
        return Row(name, "", 10, 1000 - i, 1000, runs, times, dense)

    rows = [row(i, right) for i, right in enumerate(rights)]
    return Comparison({"images": {"test": rights[0].shape[1]}, "out": "r", "epochs": 3}, {}, rows)


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("truth", TRUTHS)
def test_the_sentences_are_wrong_no_more_often_than_they_say(truth, seeds):
    """The best is missing from the set, a verdict is false, an interval misses: in 5 % of times at most."""
    rng, times, wrong = np.random.default_rng(7), 100, dict.fromkeys(("set", "verdict", "intervals"), 0)
    accuracy = np.array([SHARES @ chances(skill) for skill in TRUTHS[truth]])
    for _ in range(times):
        evidence = Evidence.of(comparison(drawn(truth, seeds, 359, rng)))
        names = list(evidence.rows)
        wrong["set"] += names[int(accuracy.argmax())] not in evidence.best
        signs = {"better": 1, "worse": -1}
        differences = dict(zip(names[1:], accuracy[1:] - accuracy[0], strict=True))
        said = {name: signs.get(evidence.verdict(name)) for name in differences}
        wrong["verdict"] += any(said[n] not in (None, np.sign(d)) for n, d in differences.items())
        bounds = evidence.against_dense
        wrong["intervals"] += any(not bounds[n].low <= d <= bounds[n].high for n, d in differences.items())
    for what, count in wrong.items():
        assert binomtest(count, times, 1 - LEVEL, alternative="greater").pvalue > 1e-3, (what, count)


def test_what_differs_much_is_told_apart():
    """An answer that is never wrong because it never says anything would be of no use."""
    rng = np.random.default_rng(3)
    evidence = Evidence.of(comparison(drawn("far apart", 3, 4000, rng)))
    assert "dense" not in evidence.best and evidence.verdict("grouped:groups=7") == "better"


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_equality_is_the_exact_test_of_exchanging_two_networks_on_each_image(seeds):
    rng = np.random.default_rng(seeds)
    for alternative in ("two-sided", "less"):
        gained = rng.integers(-seeds, seeds + 1, 12)
        told = gained[gained != 0]
        signs = np.array(list(itertools.product((-1, 1), repeat=len(told))))
        sums = (signs * np.abs(told)).sum(1)
        extreme = sums <= told.sum() if alternative == "less" else np.abs(sums) >= abs(told.sum())
        assert equality(gained, alternative) == pytest.approx(extreme.mean())
        scipys = permutation_test(
            (told,), np.sum, permutation_type="samples", n_resamples=np.inf, alternative=alternative
        )
        assert equality(gained, alternative) == pytest.approx(scipys.pvalue)
        if seeds == 1:  # McNemar's
            right = int((told > 0).sum())
            assert equality(gained, alternative) == pytest.approx(
                binomtest(right, len(told), alternative=alternative).pvalue
            )
    assert equality(np.zeros(5, int), "two-sided") == 1


def test_images_are_what_is_drawn_so_that_copies_of_a_training_show_nothing_more():
    rng = np.random.default_rng(0)
    one, other = rng.random((1, 300)) < 0.95, rng.random((1, 300)) < 0.9
    alone, copied = difference(one, other), difference(np.repeat(one, 4, 0), np.repeat(other, 4, 0))
    assert alone == copied
    low, high = interval(np.repeat(one, 4, 0))
    wilson = interval(one)
    assert high - low == pytest.approx(wilson[1] - wilson[0], rel=0.05)


@pytest.mark.parametrize("right", [0, 1, 358, 359])
def test_intervals_of_extremes_are_within_all_images(right):
    answers = np.arange(359)[None] < right
    for seeds in (1, 2):
        low, high = interval(np.repeat(answers, seeds, 0))
        assert -1e-12 <= low <= right / 359 + 1e-12 and right / 359 - 1e-12 <= high <= 1 + 0.01
    assert difference(answers, answers).p == 1


def test_holm_is_between_no_correction_and_bonferroni():
    p = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.9}
    assert holm(p) == pytest.approx({"a": 0.04, "c": 0.09, "b": 0.09, "d": 0.9})


@pytest.mark.parametrize("images", [1, 8, 359])
def test_answers_are_kept_to_the_bit_and_others_are_none(images):
    right = np.random.default_rng(0).random(images) < 0.5
    assert (unpack(pack(right), images) == right).all()
    for other in (images + 8, 0):
        assert unpack(pack(right), other) is None
    assert unpack("?", images) is None and unpack("", images) is None


def test_the_fastest_of_the_best_set_is_recommended_and_the_rest_is_named():
    right = np.ones((1, 359), bool)
    almost, bad = right.copy(), right.copy()
    almost[0, :1], bad[0, :60] = False, False
    result = comparison([right, almost, almost, bad], ms=[4.0, 2.0, 1.0, 0.1])
    first, sure, against, following, decides, *clock = summary_lines(result)
    assert first.startswith("grouped:groups=2 is the fastest (1 ms an image") and "4.00 times" in first
    assert "of the 3 networks, among 4" in first and "dense (100.00 %)" in first
    assert "is among these 3; that they are equal is not shown: 359 test images and 1 seed" in sure
    assert "no difference is shown from dense" in against
    assert "grouped:groups=1 (2 ms)" in following and "grouped:groups=3" not in first + following + decides
    assert "--seeds 5 --epochs 3 --out r-5-seeds" in decides and "(about 2 min of training)" in decides
    assert len(clock) == 1
    found = Evidence.of(result).to_json()
    assert found["recommended"] == "grouped:groups=2" and found["best_set"][-1] == "dense"
    assert found["rows"]["grouped:groups=3"]["against_dense"]["verdict"] == "worse"
    records = list(csv.DictReader(io.StringIO(replace(result, evidence=found).csv())))
    assert [r["against_dense_verdict"] for r in records] == ["", *["no difference shown"] * 2, "worse"]
    assert all(float(r["accuracy_low"]) < float(r["accuracy"]) for r in records)


def test_one_that_is_told_from_all_others_is_said_to_be_the_best():
    right = np.ones((1, 359), bool)
    bad = right.copy()
    bad[0, :60] = False
    first, *_ = summary_lines(comparison([right, bad, bad]))
    assert (
        first
        == "dense is the most accurate of 3 networks, with 95 % confidence (359 test images and 1 seed)."
    )


def test_a_comparison_without_answers_claims_nothing():
    rows = [Row(name, macs=5, runs=[Run(0, 90.0, 1.0)]) for name in ("dense", "grouped")]
    (line,) = summary_lines(Comparison({"images": {"test": 359}}, {}, rows))
    assert "nothing is said of their accuracy" in line and "image by image" in line
    assert Evidence.of(Comparison({}, {}, rows)).to_json() == {}


def test_the_best_set_of_two_equal_ones_has_both():
    right = np.ones((2, 50), bool)
    assert best_set([right, right]) == [0, 1] and best_set([right]) == [0]
