"""Intervals and paired tests against figures worked out by hand, and the verdict where the truth is known."""

import math

import numpy as np
import pytest

pytest.importorskip("scipy", reason="the statistics need the extra `study`")

from distmnist.errors import UsageError
from distmnist.runs.records import McNemar, Spread
from distmnist.runs.significance import (
    Answers,
    Interval,
    compare,
    mcnemar,
    over_digits,
    over_seeds,
    ratio_of_means,
    spread,
)

LABELS = np.arange(1000) % 10


def answers(right, seeds=None, losses=None):
    """right: [seeds, digits]."""
    right = np.asarray(right, bool)
    losses = np.ones(right.shape) if losses is None else losses
    return Answers(tuple(seeds or range(len(right))), LABELS[: right.shape[1]], right, losses)


def nets(seed, accuracies, digits=1000):
    """Nets that are right by independent chance, one an accuracy."""
    draw = np.random.default_rng(seed)
    return answers(np.stack([draw.random(digits) < accuracy for accuracy in accuracies]))


def test_the_interval_over_seeds_is_students_of_the_mean():
    # mean 3, deviation sqrt(2.5), standard error sqrt(0.5); 2.7764 is the t table's 97.5 % for 4 degrees of freedom
    low, high = over_seeds([1, 2, 3, 4, 5])
    assert (low, high) == pytest.approx((3 - 2.7764 * math.sqrt(0.5), 3 + 2.7764 * math.sqrt(0.5)), abs=1e-4)
    # and 4.6041 its 99.5 %
    assert over_seeds([1, 2, 3, 4, 5], level=0.99).high == pytest.approx(3 + 4.6041 * math.sqrt(0.5), abs=1e-4)
    assert over_seeds([0.5, 0.5, 0.5]) == (0.5, 0.5)


def test_one_value_has_no_spread_and_no_interval():
    assert over_seeds([0.97]) is None
    assert spread([0.97]) == Spread(mean=0.97, values=[0.97])


def test_mcnemar_asks_whether_the_digits_that_one_alone_gets_right_are_half_each():
    a, b = np.array([1] + [0] * 5 + [1] * 9 + [0], bool), np.array([0] + [1] * 5 + [1] * 9 + [0], bool)
    # six tosses, at most one head or at most one tail: 2 (1 + 6) / 64
    assert mcnemar(a, b) == McNemar(only_a=1, only_b=5, p=pytest.approx(14 / 64))
    assert mcnemar(a, a) == McNemar(only_a=0, only_b=0, p=1.0)


def test_the_interval_over_digits_is_that_of_a_share_of_so_many_digits():
    share = np.zeros(1000)
    share[:60] = 1
    low, high = over_digits(np.mean, share)
    reach = 1.96 * math.sqrt(0.06 * 0.94 / 1000)
    assert (low, high) == pytest.approx((0.06 - reach, 0.06 + reach), abs=0.002)


def test_digits_are_resampled_together_for_both_nets():
    losses = np.random.default_rng(0).exponential(size=1000) ** 3
    assert over_digits(ratio_of_means, losses, losses / 2) == pytest.approx((0.5, 0.5))


def test_nets_that_answer_alike_do_not_differ():
    one = nets(0, [0.97, 0.975, 0.98])
    comparison = compare(one, one)
    assert not comparison.significant and comparison.difference == 0
    assert comparison.interval == (0, 0) and comparison.loss_interval == (1, 1)


def test_nets_that_differ_by_chance_alone_do_not_differ_significantly():
    found = [compare(nets(seed, [0.97] * 5), nets(100 + seed, [0.97] * 5)).significant for seed in range(8)]
    assert sum(found) <= 1


def test_a_net_that_is_clearly_better_with_every_seed_is_significantly_better_and_the_other_worse():
    good, poor = nets(1, [0.98, 0.985, 0.98]), nets(2, [0.92, 0.915, 0.92])
    assert compare(poor, good).significant and compare(poor, good).interval.low > 0
    assert compare(good, poor).significant and compare(good, poor).interval.high < 0


def test_a_single_seed_is_never_significant_however_large_the_difference():
    comparison = compare(nets(1, [0.1]), nets(2, [0.99]))
    assert comparison.mcnemar[0].p < 1e-9 and not comparison.significant
    assert comparison.interval is None and comparison.facts("mlp", "cnn", "").difference.low is None


def test_a_difference_that_hangs_on_the_random_seed_is_not_significant():
    # better by 20 points with two seeds, worse with one: the mean is better on any digits, but not with any seeds
    comparison = compare(nets(1, [0.75, 0.75, 0.75]), nets(2, [0.95, 0.95, 0.65]))
    assert comparison.digits_interval.low > 0 > comparison.seeds_interval.low
    assert not comparison.significant


def test_a_difference_that_hangs_on_a_few_digits_is_not_significant():
    # one digit of a thousand, the same one with every seed
    right = np.ones((3, 1000), bool)
    worse = right.copy()
    worse[:, 0] = False
    comparison = compare(answers(worse), answers(right))
    assert comparison.seeds_interval.low > 0 >= comparison.digits_interval.low
    assert not comparison.significant


def test_the_loss_ratio_is_that_of_the_mean_losses_seed_by_seed():
    right = np.ones((2, 4), bool)
    a, b = np.array([[1.0, 3, 2, 2], [4, 4, 4, 4]]), np.array([[1.0, 1, 1, 1], [1, 1, 1, 1]])
    comparison = compare(answers(right, losses=a), answers(right, losses=b))
    assert comparison.loss_ratio == pytest.approx(math.sqrt(1 / 2 * 1 / 4))


def test_runs_that_are_not_pairs_are_refused():
    one = nets(0, [0.9, 0.9])
    with pytest.raises(UsageError, match="other random seeds or other test images"):
        compare(one, Answers((0, 2), one.labels, one.right, one.losses))
    with pytest.raises(UsageError, match="other random seeds or other test images"):
        compare(one, Answers(one.seeds, one.labels[::-1], one.right, one.losses))


def test_the_hull_of_two_intervals_holds_both_and_the_ends_belong_to_an_interval():
    assert Interval(1, 2).hull(Interval(0.5, 1.5)) == (0.5, 2)
    assert not Interval(0, 1).excludes(0) and Interval(0.1, 1).excludes(0) and Interval(-1, -0.1).excludes(0)
