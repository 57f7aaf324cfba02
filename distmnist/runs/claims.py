"""The published claims, restated, and marked by one rule on our intervals: nothing here is decided by hand.

The published work says, of single runs: the CNN improves "the model accuracy by over 1 percent" and cuts "the testing
loss in half"; and of its hyperparameters that 0.001 learning rate, batch size 64, 5 epochs and ReLU were best.
"""

import statistics
from collections.abc import Collection, Mapping, Sequence

from distmnist.config import TrainConfig, Value, option_flag, resolve_model
from distmnist.runs.records import CONFIRMED, PARTLY, REFUTED, UNDECIDED, Claim, Trial
from distmnist.runs.significance import LEVEL, Comparison, Interval, over_seeds

RULE = (
    "confirmed: the whole 95 % interval is what the claim says; refuted: none of it is; partly supported: part of it"
    " is, and it leaves out no difference at all; undecided: the rest, and one random seed"
)
BEST_RULE = (
    "confirmed: every other value tried is worse (its 95 % interval, all of an option's together, lies below 0);"
    " refuted: one is better; partly supported: none is better and some are worse; undecided: none is told apart"
)

FACTORS = {
    "lr": "learning rate 0.001 was best",
    "batch_size": "batch size 64 was best",
    "epochs": "5 epochs were best",
    "activation": "ReLU was the best activation",
}
"""option -> the claim that its published value, which is the default, was the best."""


def judge(interval: Interval | None, *, claimed: float, nothing: float) -> str:
    """The verdict on "beyond `claimed`, away from `nothing`", where `nothing` means no difference."""
    if interval is None:
        return UNDECIDED
    if interval.excludes(claimed):
        beyond = interval.low > claimed if claimed > nothing else interval.high < claimed
        return CONFIRMED if beyond else REFUTED
    return PARTLY if interval.excludes(nothing) else UNDECIDED


def of_the_nets(comparison: Comparison) -> list[Claim]:
    """The claims about the CNN against the baseline. comparison: cnn against mlp, under the published recipe on MNIST.

    The interval is the one for both kinds of chance, random seeds and test digits.
    """
    better, loss = comparison.interval, comparison.loss_interval
    told = f"over {len(comparison.seeds)} random seeds and the test digits" if better else "from one random seed"
    accuracy = f"the cnn's accuracy less the mlp's is {100 * comparison.difference:+.2f} percentage points"
    ratio = f"the cnn's test loss is {comparison.loss_ratio:.2f} times the mlp's"
    if better and loss:
        accuracy += f" (95 % interval {100 * better.low:+.2f} to {100 * better.high:+.2f} {told})"
        ratio += f" (95 % interval {loss.low:.2f} to {loss.high:.2f} {told})"
    else:
        accuracy, ratio = f"{accuracy}, {told}", f"{ratio}, {told}"
    judged = judge(better, claimed=0.01, nothing=0.0), judge(loss, claimed=0.5, nothing=1.0)
    return [
        Claim(claim="the CNN is over 1 percent better", verdict=judged[0], words=accuracy),
        Claim(claim="the CNN cuts the loss in half", verdict=judged[1], words=ratio),
    ]


def published(given: Mapping[str, Value], net: str, but: Collection[str] = ()) -> bool:
    """Whether the options in force for `net` are the published ones, the defaults. Free: seed, precision, `but`."""
    ours, theirs = resolve_model(given, net).options(), TrainConfig().options()
    return all(value == theirs[name] for name, value in ours.items() if name not in {"seed", "amp", *but})


def of_the_hyperparameters(net: str, trials: Sequence[Trial]) -> list[Claim]:
    """The claims about the published setting, from trials, all with the same random seeds.

    Each option by itself: the trials that differ from the published setting in it alone, against that setting, paired
    by random seed, on the held-out digits. The intervals of one option hold together (Bonferroni).
    """
    centre = next((trial for trial in trials if published(trial.options, net, ["val_fraction"])), None)
    claims = []
    for name, claim in FACTORS.items():
        default = getattr(TrainConfig(), name)
        others = [
            trial
            for trial in trials
            if trial.options.get(name, default) != default and published(trial.options, net, ["val_fraction", name])
        ]
        verdict, words = UNDECIDED, f"no trial differs from the published setting in {option_flag(name)} alone"
        if centre is None:
            words = "the published setting is not among the trials"
        elif others:
            verdict, words = best_of(name, centre, others)
        claims.append(Claim(claim=claim, verdict=verdict, words=words))
    return claims


def best_of(name: str, centre: Trial, others: Sequence[Trial]) -> tuple[str, str]:
    """The verdict on the value of option `name` in `centre` against those in `others`, and the figures in words."""
    intervals, told = [], []
    for other in others:
        pairs = zip(other.val_accuracy.values, centre.val_accuracy.values, strict=True)
        differences = [theirs - ours for theirs, ours in pairs]
        text = f"{other.options[name]} {100 * statistics.fmean(differences):+.2f} points"
        if interval := over_seeds(differences, level=1 - (1 - LEVEL) / len(others)):
            intervals.append(interval)
            text += f" ({100 * interval.low:+.2f} to {100 * interval.high:+.2f})"
        time = other.train_seconds.mean / centre.train_seconds.mean
        told.append(f"{text} in {time:.2f} times the time")
    seeds = len(centre.val_accuracy.values)
    over = f"{seeds} random seeds" if seeds > 1 else "one random seed"
    return judge_best(intervals), f"against {getattr(TrainConfig(), name)}, over {over}: {'; '.join(told)}"


def judge_best(intervals: Sequence[Interval]) -> str:
    """The verdict on "the best of all", from the simultaneous intervals of the others' differences to it.

    confirmed: all others are worse; refuted: one is better; partly supported: none is better, some are worse.
    """
    worse = [interval.high < 0 for interval in intervals]
    if any(interval.low > 0 for interval in intervals):
        return REFUTED
    if worse and all(worse):
        return CONFIRMED
    return PARTLY if any(worse) else UNDECIDED
