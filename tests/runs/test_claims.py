"""The rules by which published claims are marked, at their edges."""

import dataclasses

import pytest

pytest.importorskip("scipy", reason="the statistics need the extra `study`")

from distmnist.runs import claims
from distmnist.runs.records import Trial
from distmnist.runs.significance import Comparison, Interval, spread


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.0101, 0.02, "confirmed"),
        (0.01, 0.02, "partly supported"),  # over 1 percent; exactly 1 is not
        (0.001, 0.01, "partly supported"),
        (0.0, 0.01, "undecided"),
        (-0.01, 0.03, "undecided"),
        (0.0, 0.0099, "refuted"),
        (0.002, 0.009, "refuted"),  # better, but not by so much
        (-0.02, -0.01, "refuted"),
    ],
)
def test_a_claim_of_more_is_judged_by_where_the_whole_interval_lies(low, high, verdict):
    assert claims.judge(Interval(low, high), claimed=0.01, nothing=0.0) == verdict


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.3, 0.49, "confirmed"), (0.4, 0.6, "partly supported"), (0.4, 1.0, "undecided"), (0.51, 0.9, "refuted")],
)
def test_a_claim_of_less_is_judged_likewise(low, high, verdict):
    assert claims.judge(Interval(low, high), claimed=0.5, nothing=1.0) == verdict


def test_no_interval_decides_nothing():
    assert claims.judge(None, claimed=0.01, nothing=0.0) == "undecided"


def comparison(seeds, digits, loss_seeds, loss_digits):
    return Comparison((0, 1), 0.014, seeds, digits, [], 0.41, loss_seeds, loss_digits)


def test_the_claims_about_the_nets_need_both_kinds_of_chance_and_quote_our_figures():
    firm = comparison(Interval(0.011, 0.017), Interval(0.012, 0.016), Interval(0.3, 0.4), Interval(0.35, 0.45))
    better, loss = claims.of_the_nets(firm)
    assert (better.verdict, loss.verdict) == ("confirmed", "confirmed")
    assert "+1.40 percentage points" in better.words and "+1.10 to +1.70 over 2 random seeds" in better.words
    assert "0.41 times" in loss.words and "0.30 to 0.45" in loss.words
    few_digits = dataclasses.replace(firm, digits_interval=Interval(0.009, 0.019))
    assert claims.of_the_nets(few_digits)[0].verdict == "partly supported"
    one_seed = dataclasses.replace(firm, seeds=(0,), seeds_interval=None, loss_seeds_interval=None)
    assert [claim.verdict for claim in claims.of_the_nets(one_seed)] == ["undecided", "undecided"]
    assert "from one random seed" in claims.of_the_nets(one_seed)[0].words


@pytest.mark.parametrize(
    ("intervals", "verdict"),
    [
        ([(-0.3, -0.1), (-0.2, -0.1)], "confirmed"),
        ([(-0.3, -0.1), (-0.2, 0.0)], "partly supported"),
        ([(-0.3, 0.1), (-0.2, 0.0)], "undecided"),
        ([(-0.3, -0.1), (0.0, 0.2)], "partly supported"),
        ([(-0.3, -0.1), (0.1, 0.2)], "refuted"),
        ([], "undecided"),
    ],
)
def test_the_best_of_all_is_what_no_other_beats(intervals, verdict):
    assert claims.judge_best([Interval(*ends) for ends in intervals]) == verdict


def trial(accuracies, seconds=10.0, **options):
    return Trial(
        trial=0,
        options={"lr": 0.001, "batch_size": 64, **options},
        seeds=list(range(len(accuracies))),
        val_accuracy=spread(accuracies),
        train_seconds=spread([seconds]),
        pareto=False,
    )


def verdicts(*trials):
    return {claim.claim: claim for claim in claims.of_the_hyperparameters("cnn", list(trials))}


def test_a_hyperparameter_is_judged_by_the_trials_that_differ_in_it_alone():
    published = trial([0.98, 0.981, 0.982])
    worse = trial([0.96, 0.961, 0.962], batch_size=128, seconds=5.0)
    better = trial([0.99, 0.991, 0.992], lr=0.003)
    both = trial([0.999, 0.999, 0.999], lr=0.003, batch_size=32)
    found = verdicts(published, worse, better, both)
    batch, rate = found["batch size 64 was best"], found["learning rate 0.001 was best"]
    assert (batch.verdict, rate.verdict) == ("confirmed", "refuted")
    assert "128 -2.00 points (-2.00 to -2.00) in 0.50 times the time" in batch.words and "32" not in batch.words
    assert "0.003 +1.00 points" in rate.words and "over 3 random seeds" in rate.words
    assert found["5 epochs were best"].verdict == "undecided"
    assert "no trial differs from the published setting in --epochs alone" in found["5 epochs were best"].words


def test_the_more_values_are_tried_the_wider_are_their_intervals():
    published = trial([0.98, 0.98, 0.98])
    # -0.3, -0.4 and -0.5 points: t = 6.9; the table's 95 % for 2 degrees of freedom is 4.3, and 11.8 for seven at once
    other = trial([0.977, 0.976, 0.975], lr=0.01)
    assert verdicts(published, other)["learning rate 0.001 was best"].verdict == "confirmed"
    many = [trial([0.977, 0.976, 0.975], lr=0.01 * number) for number in range(1, 8)]
    assert verdicts(published, *many)["learning rate 0.001 was best"].verdict == "undecided"


def test_without_the_published_setting_among_the_trials_nothing_is_judged():
    found = verdicts(trial([0.9, 0.9], dropout=0.5), trial([0.8, 0.8], dropout=0.5, batch_size=32))
    assert {claim.verdict for claim in found.values()} == {"undecided"}
    assert "the published setting is not among the trials" in found["batch size 64 was best"].words


def test_one_random_seed_judges_no_hyperparameter():
    found = verdicts(trial([0.9]), trial([0.1], lr=0.1))["learning rate 0.001 was best"]
    assert found.verdict == "undecided" and "over one random seed" in found.words
