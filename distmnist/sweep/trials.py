"""What a sweep found: its trials judged by held-out digits, the winner, the published claims; sweep.json.

Of a trial's runs only the figures on held-out digits and the training time are looked at. The test digits' figures,
which every run writes, are read of the winner's runs alone, after it was chosen.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from distmnist.config import MODEL_NAMES, option_flag
from distmnist.errors import RunError
from distmnist.machine import versions
from distmnist.runs import claims
from distmnist.runs.pool import Member
from distmnist.runs.records import (
    FINISHED,
    INTERRUPTED,
    Claim,
    FailedTrial,
    Setting,
    SweepFacts,
    SweepResult,
    Trial,
    Winner,
)
from distmnist.runs.significance import spread
from distmnist.runs.table import HANDWRITTEN, align

RULE = (
    "of the settings whose mean held-out accuracy is within one standard error of the best mean, the one that trains"
    " fastest"
)
"""One standard error: Breiman et al., Classification and Regression Trees, 1984, section 3.4.3."""


def pareto(points: Sequence[tuple[float, float, float]]) -> list[bool]:
    """Of each (accuracy, spread, seconds): whether none is at least as good in all three, and better in one."""

    def beats(p: tuple[float, float, float], q: tuple[float, float, float]) -> bool:
        return p != q and p[0] >= q[0] and p[1] <= q[1] and p[2] <= q[2]

    return [not any(beats(other, point) for other in points) for point in points]


def choose(trials: Iterable[Trial]) -> Trial:
    """The winner, by `RULE`. With a single random seed there is no standard error: the best accuracy."""
    trials = list(trials)
    best = max(trials, key=lambda trial: trial.val_accuracy.mean)
    error = (best.val_accuracy.std or 0.0) / math.sqrt(len(best.seeds))
    close = [trial for trial in trials if trial.val_accuracy.mean >= best.val_accuracy.mean - error]
    return min(close, key=lambda trial: trial.train_seconds.mean)


class Trials:
    """Takes in the runs as they end."""

    def __init__(self, net: str, seeds: Sequence[int], facts: SweepFacts, known: Sequence[Setting] = ()) -> None:
        """known: the settings that are known beforehand, by number."""
        self.net, self.seeds, self.facts = net, list(seeds), facts
        self.settings = dict(enumerate(known))
        self.numbers: dict[Path, int] = {}
        self.runs: dict[tuple[int, int], tuple[float, float] | str] = {}
        self.winner: Winner | None = None

    def propose(self, number: int, setting: Setting, members: Sequence[Member]) -> None:
        """Takes note of a trial and its runs before they start."""
        self.settings[number] = setting
        self.numbers |= {member.path: number for member in members}

    def add(self, member: Member, error: RunError | None) -> int | None:
        """Takes in a run. Returns the trial's number if that was its last one."""
        number, seed = self.numbers[member.path], member.seed
        if error:
            self.runs[number, seed] = str(error)
        else:
            result = member.result(self.net)
            assert result.val_accuracy is not None, "digits are held out"
            self.runs[number, seed] = result.val_accuracy, result.train_seconds
        return number if all((number, seed) in self.runs for seed in self.seeds) else None

    def accuracy(self, number: int) -> float | None:
        """The mean on held-out digits; None if a run of the trial failed."""
        trial = self.trial(number)
        return trial.val_accuracy.mean if trial else None

    def choose(self) -> Trial:
        """The winner. Raises RunError if every trial failed."""
        if not (entries := self.entries()):
            raise RunError(f"every trial failed; the last: {self.failed()[-1].words}")
        return choose(entries)

    def trial(self, number: int) -> Trial | None:
        """The trial, not yet compared with others (`pareto`); None if a run of it is missing or failed."""
        runs = [self.runs.get((number, seed)) for seed in self.seeds]
        figures = [run for run in runs if isinstance(run, tuple)]
        if len(figures) < len(runs):
            return None
        accuracies, seconds = zip(*figures, strict=True)
        return Trial(
            trial=number,
            options=self.settings[number],
            seeds=self.seeds,
            val_accuracy=spread(accuracies),
            train_seconds=spread(seconds),
            pareto=False,
        )

    def entries(self) -> list[Trial]:
        """The finished trials, in order, with `pareto`."""
        trials = [trial for number in self.settings if (trial := self.trial(number))]
        points = [(t.val_accuracy.mean, t.val_accuracy.std or 0.0, t.train_seconds.mean) for t in trials]
        return [replace(trial, pareto=first) for trial, first in zip(trials, pareto(points), strict=True)]

    def failed(self) -> list[FailedTrial]:
        """The trials of which a run failed, and why."""
        reasons = {number: run for (number, _), run in self.runs.items() if isinstance(run, str)}
        return [FailedTrial(trial=n, options=self.settings[n], words=why) for n, why in reasons.items()]

    def test(self, chosen: Trial, members: Sequence[Member]) -> None:
        """Reads what the winner's runs, which are finished, say of the test digits."""
        results = [member.result(self.net) for member in members]
        self.winner = Winner(
            trial=chosen.trial,
            options=chosen.options,
            seeds=[member.seed for member in members],
            test_accuracy=spread([result.test_accuracy for result in results]),
            test_loss=spread([result.test_loss for result in results]),
            train_seconds=spread([result.train_seconds for result in results]),
        )

    def result(self) -> SweepResult:
        """sweep.json. There is a winner, and a claim is judged, once all is finished."""
        judged, notes = self._judge()
        return SweepResult(
            status=FINISHED if self.winner else INTERRUPTED,
            **vars(self.facts),
            model=self.net,
            seeds=self.seeds,
            versions=versions("scipy"),
            rule=RULE,
            proposed=list(self.settings.values()),
            trials=self.entries(),
            failed=self.failed(),
            winner=self.winner,
            claims=judged,
            notes=notes,
        )

    def _judge(self) -> tuple[list[Claim], list[str]]:
        if not self.winner:
            return [], ["nothing is concluded from an unfinished sweep"]
        if self.facts.dataset.name not in HANDWRITTEN or self.net not in MODEL_NAMES:
            return [], []
        if self.facts.dataset.name != "mnist":
            return [], [
                f"the published claims are not judged: these images are of {self.facts.dataset.name}, not of mnist"
            ]
        notes = ["one random seed tells no setting from another: use --repeats 3"] if len(self.seeds) == 1 else []
        return claims.of_the_hyperparameters(self.net, self.entries()), notes

    def line(self, number: int) -> str:
        """A trial in a line."""
        trial = self.trial(number)
        options = "  ".join(f"{name} {value}" for name, value in self.settings[number].items() if self._varies(name))
        if not trial:
            why = next(failed.words for failed in self.failed() if failed.trial == number)
            return f"trial {number}  {options}  failed: {why}"
        accuracy, seconds = trial.val_accuracy.mean, trial.train_seconds.mean
        return f"trial {number}  {options}  held-out accuracy {accuracy:.2%}  {seconds:.1f} s"

    def _varies(self, name: str) -> bool:
        return len(self.facts.space[name]) > 1

    def table(self) -> str:
        """What a person reads: accuracy, spread and time of every trial, the best first, and then the winner's test."""
        varied = [name for name in self.facts.space if self._varies(name)]
        rows = [["trial", *map(option_flag, varied), "held-out accuracy", "s.d.", "train time", "Pareto"]]
        for trial in sorted(self.entries(), key=lambda trial: -trial.val_accuracy.mean):
            accuracy = trial.val_accuracy
            rows.append(
                [
                    str(trial.trial),
                    *(str(trial.options[name]) for name in varied),
                    f"{accuracy.mean:.2%}",
                    "-" if accuracy.std is None else f"{100 * accuracy.std:.2f}",
                    f"{trial.train_seconds.mean:.1f} s",
                    "*" if trial.pareto else "",
                ]
            )
        lines = ["", *align(rows), "* No other is at least as good in accuracy, spread and time together."]
        lines += [f"trial {trial.trial} failed: {trial.words}" for trial in self.failed()]
        if self.winner:
            accuracy, ends = self.winner.test_accuracy, ""
            if accuracy.low is not None:
                ends = f" (95 % interval {accuracy.low:.2%} to {accuracy.high:.2%})"
            lines.append(
                f"\nwinner: trial {self.winner.trial}; {RULE}."
                f"\nTested once, trained on all training images with random seeds not used before"
                f" ({', '.join(map(str, self.winner.seeds))}): test accuracy {accuracy.mean:.2%}{ends},"
                f" test loss {self.winner.test_loss.mean:.4f}"
            )
        judged, notes = self._judge()
        lines += [f'\n"{claim.claim}": {claim.verdict.upper()}; {claim.words}' for claim in judged]
        lines += [f"({claims.BEST_RULE})"] if judged else []
        return "\n".join([*lines, *notes])
