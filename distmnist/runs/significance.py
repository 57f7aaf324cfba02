"""What may be concluded from a few runs: intervals over random seeds and over test digits, and paired tests.

Two kinds of chance, two intervals. Another random seed gives another net: the seeds' interval (Student's t) speaks of
the recipe. Other test digits give another accuracy: the digits' interval (bootstrap) speaks of these nets on all such
digits. A difference is called significant if both leave out zero. McNemar's test compares two trained nets, digit by
digit, and says nothing of the recipes that they came from.
"""

import dataclasses
import math
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distmnist.errors import UsageError
from distmnist.runs.records import ComparisonFacts, Ends, McNemar, Mean, Spread

try:
    from scipy import stats
except ModuleNotFoundError as error:
    raise UsageError("the statistics need scipy; install distmnist with the extra: pip install '.[study]'") from error

Labels = NDArray[np.int64]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]

LEVEL = 0.95
RESAMPLES = 9999
"""As scipy's default: the ends of the interval then move by about a hundredth of its width."""

BATCH = 100
"""Resamples held in memory at a time: 10,000 digits each."""


class Interval(NamedTuple):
    low: float
    high: float

    def excludes(self, value: float) -> bool:
        return not self.low <= value <= self.high

    def hull(self, other: "Interval") -> "Interval":
        return Interval(min(self.low, other.low), max(self.high, other.high))


def over_seeds(values: Sequence[float], level: float = LEVEL) -> Interval | None:
    """Where the mean over all random seeds lies, by Student's t; None for a single seed, which cannot tell."""
    if len(values) < 2:
        return None
    reach = stats.t.ppf((1 + level) / 2, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.fmean(values)
    return Interval(float(mean - reach), float(mean + reach))


def spread(values: Sequence[float]) -> Spread:
    low, high = over_seeds(values) or (None, None)
    std = statistics.stdev(values) if len(values) > 1 else None
    return Spread(mean=statistics.fmean(values), std=std, low=low, high=high, values=list(values))


def over_digits(statistic: Callable[..., Floats], *samples: Floats) -> Interval:  # type: ignore[explicit-any]
    """Where `statistic(*samples, axis)` lies for other digits; samples: [digits] each, resampled together."""
    found = stats.bootstrap(
        samples,
        statistic,
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=BATCH,
        confidence_level=LEVEL,
        method="percentile",  # BCa has no answer where nothing varies, and differs little at thousands of digits
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Interval(float(found.low), float(found.high))


def mcnemar(right_a: Bools, right_b: Bools, seed: int | None = None) -> McNemar:
    """The exact test of whether two trained nets differ: of the digits that one alone gets right, is it half each?

    right_a, right_b: bool [digits].
    """
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    p = float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return McNemar(seed=seed, only_a=only_a, only_b=only_b, p=p)


@dataclasses.dataclass(frozen=True)
class Answers:
    """What the nets of one recipe said. labels: [digits]; right: bool, losses: float64, both [seeds, digits]."""

    seeds: tuple[int, ...]
    labels: Labels
    right: Bools
    losses: Floats


@dataclasses.dataclass(frozen=True)
class Comparison:
    """b against a, paired by random seed and by digit. Differences of accuracy are b - a, fractions of 1.

    `loss_ratio` is b's test loss over a's: the geometric mean over the seeds.
    """

    seeds: tuple[int, ...]
    difference: float
    seeds_interval: Interval | None
    digits_interval: Interval
    mcnemar: list[McNemar]
    loss_ratio: float
    loss_seeds_interval: Interval | None
    loss_digits_interval: Interval

    @property
    def interval(self) -> Interval | None:
        """For both kinds of chance: from the lower to the higher end of the two. None for a single seed."""
        return self.seeds_interval and self.seeds_interval.hull(self.digits_interval)

    @property
    def loss_interval(self) -> Interval | None:
        """As `interval`, for the loss ratio."""
        return self.loss_seeds_interval and self.loss_seeds_interval.hull(self.loss_digits_interval)

    @property
    def significant(self) -> bool:
        return self.interval is not None and self.interval.excludes(0)

    def facts(self, a: str, b: str, words: str, **common: str) -> ComparisonFacts:
        """The comparison's entry in study.json; common: `recipe` or `model`."""
        low, high = self.seeds_interval or (None, None)
        loss_low, loss_high = self.loss_seeds_interval or (None, None)
        return ComparisonFacts(
            **common,
            a=a,
            b=b,
            difference=Mean(mean=self.difference, low=low, high=high),
            bootstrap=Ends(**self.digits_interval._asdict()),
            mcnemar=self.mcnemar,
            loss_ratio=Mean(mean=self.loss_ratio, low=loss_low, high=loss_high),
            loss_ratio_bootstrap=Ends(**self.loss_digits_interval._asdict()),
            significant=self.significant,
            words=words,
        )


def compare(a: Answers, b: Answers) -> Comparison:
    """Raises UsageError if the two did not answer about the same digits, or have other random seeds."""
    if a.seeds != b.seeds or not np.array_equal(a.labels, b.labels):
        raise UsageError(
            "the runs to compare have other random seeds or other test images; choose a different --output"
        )
    differences = (b.right.mean(1) - a.right.mean(1)).tolist()
    logarithms = np.log(b.losses.mean(1) / a.losses.mean(1)).tolist()
    ratios = over_seeds(logarithms)
    return Comparison(
        seeds=a.seeds,
        difference=statistics.fmean(differences),
        seeds_interval=over_seeds(differences),
        digits_interval=over_digits(np.mean, b.right.mean(0) - a.right.mean(0)),
        mcnemar=[
            mcnemar(right_a, right_b, seed) for seed, right_a, right_b in zip(a.seeds, a.right, b.right, strict=True)
        ],
        loss_ratio=math.exp(statistics.fmean(logarithms)),
        loss_seeds_interval=ratios and Interval(*map(math.exp, ratios)),
        loss_digits_interval=over_digits(ratio_of_means, a.losses.mean(0), b.losses.mean(0)),
    )


def ratio_of_means(a: Floats, b: Floats, axis: int) -> Floats:
    return b.mean(axis) / a.mean(axis)
