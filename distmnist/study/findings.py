"""What a study found: the figures of its finished runs, the comparisons, and the published claims; study.json."""

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from distmnist.config import Options, resolve
from distmnist.data.dataset import DatasetFacts
from distmnist.errors import UsageError
from distmnist.machine import versions
from distmnist.runs import claims
from distmnist.runs.pool import Jobs, Member
from distmnist.runs.records import (
    FINISHED,
    INTERRUPTED,
    Claim,
    ComparisonFacts,
    RecipeFigures,
    StudyResult,
)
from distmnist.runs.significance import LEVEL, Answers, Comparison, compare, spread
from distmnist.runs.table import HANDWRITTEN, PUBLISHED, align

LEGEND = """\
Intervals are of 95 %. Over the random seeds: where the mean of all trainings by this recipe lies. Over the test images:
what other images would say of these models (bootstrap). Significant: both leave out zero. McNemar's test is of two
trained models each time, not of their recipes. Train time is one run's while others ran beside it."""


@dataclasses.dataclass
class Conclusions:
    """of_nets: two models under one recipe; of_recipes: one model under two recipes."""

    of_nets: list[ComparisonFacts] = dataclasses.field(default_factory=list)
    of_recipes: list[ComparisonFacts] = dataclasses.field(default_factory=list)
    claims: list[Claim] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)


class Findings:
    """members: (recipe, random seed) -> run. `given`: the options of training that were typed, for all of them."""

    def __init__(
        self,
        dataset: DatasetFacts,
        members: Mapping[tuple[str, int], Member],
        given: Options,
        jobs: Jobs,
    ) -> None:
        self.dataset, self.members, self.given, self.jobs = dataset, members, given, jobs
        self.nets = resolve(given).names
        self.recipes = list(dict.fromkeys(recipe for recipe, _ in members))
        self.seeds = list(dict.fromkeys(seed for _, seed in members))
        summaries = {key: member.summary() for key, member in members.items()}
        self.summaries = {key: summary for key, summary in summaries.items() if summary}
        self.concluded: Conclusions | None = None

    @property
    def done(self) -> int:
        return len(self.summaries)

    @property
    def finished(self) -> bool:
        return self.done == len(self.members)

    def add(self, member: Member) -> str:
        """Takes the finished member in. Returns a line about it."""
        key = next(key for key, one in self.members.items() if one is member)
        summary = member.summary()
        assert summary is not None, "it is finished"
        self.summaries[key] = summary
        member.check_dataset(self.dataset)
        told = "  ".join(f"{net} {summary.models[net].test_accuracy:.2%}" for net in self.nets)
        return f"{member.path.name}  {told}  ({self.done} of {len(self.members)})"

    def result(self) -> StudyResult:
        """study.json. Nothing is compared before all runs are finished."""
        found = self._conclude()
        return StudyResult(
            status=FINISHED if self.finished else INTERRUPTED,
            dataset=self.dataset,
            repeats=len(self.seeds),
            seeds=self.seeds,
            versions=versions("scipy"),
            jobs=str(self.jobs),
            recipes={recipe: self._figures(recipe) for recipe in self.recipes},
            comparisons=found.of_nets,
            recipe_comparisons=found.of_recipes,
            claims=found.claims,
            notes=found.notes,
        )

    def _figures(self, recipe: str) -> dict[str, RecipeFigures]:
        """Model -> the spread of its figures over the finished runs; {} if there are none yet."""
        runs = [self.summaries[recipe, seed].models for seed in self.seeds if (recipe, seed) in self.summaries]
        return {
            net: RecipeFigures(
                accuracy=spread([run[net].test_accuracy for run in runs]),
                loss=spread([run[net].test_loss for run in runs]),
                notebook_loss=spread([run[net].notebook_test_loss for run in runs]),
                train_seconds=spread([run[net].train_seconds for run in runs]),
                parameters=runs[0][net].parameters,
            )
            for net in self.nets
            if runs
        }

    def _conclude(self) -> Conclusions:
        if self.concluded is None and self.finished:
            self.concluded = self._compare()
        return self.concluded or Conclusions(notes=["nothing is concluded from unfinished runs"])

    def _compare(self) -> Conclusions:
        self._refuse_mixtures()
        answers = {
            (recipe, net): read_answers({seed: self.members[recipe, seed].path / net for seed in self.seeds})
            for recipe in self.recipes
            for net in self.nets
        }
        found = Conclusions()
        if len(self.seeds) == 1:
            found.notes.append(
                "one random seed says nothing about a recipe: nothing is called significant; use --repeats 5"
            )
        for recipe in self.recipes:
            for a, b in itertools.combinations(self.nets, 2):
                comparison = compare(answers[recipe, a], answers[recipe, b])
                told = words(a, b, f"with {recipe}", comparison)
                found.of_nets.append(comparison.facts(a, b, told, recipe=recipe))
                if (recipe, a, b) == ("reference", "mlp", "cnn") and self.dataset.name in HANDWRITTEN:
                    if reason := self._not_as_published():
                        found.notes.append(f"the published claims are not judged: {reason}")
                    else:
                        found.claims += claims.of_the_nets(comparison)
        for net in self.nets:
            for a, b in itertools.combinations(self.recipes, 2):
                comparison = compare(answers[a, net], answers[b, net])
                told = words(a, b, f"for the {net}", comparison)
                found.of_recipes.append(comparison.facts(a, b, told, model=net))
        return found

    def _refuse_mixtures(self) -> None:
        for what in ("amp", "device"):
            found = sorted({getattr(summary, what) for summary in self.summaries.values()})
            if len(found) > 1:
                raise UsageError(
                    f"the runs have {what} {' and '.join(found)}: they cannot be compared; choose a different --output"
                )

    def _not_as_published(self) -> str | None:
        if self.dataset.name != "mnist":
            return f"these images are of {self.dataset.name}, not of mnist"
        if not all(claims.published({**self.given, "recipe": "reference"}, net) for net in self.nets):
            return "an option that was typed departs from the published recipe"
        return None

    def table(self) -> str:
        """What a person reads. Published figures stand beside the recipe that is theirs, on MNIST only."""
        comparable = self._not_as_published() is None
        head = ["recipe", "model", "accuracy", "s.d.", "95 % interval", "test loss", "parameters", "train time"]
        rows = [head + ["published"] * comparable]
        for recipe in self.recipes:
            for net, figures in self._figures(recipe).items():
                accuracy = figures.accuracy
                rows.append(
                    [
                        recipe,
                        net,
                        f"{accuracy.mean:.2%}",
                        "-" if accuracy.std is None else f"{100 * accuracy.std:.2f}",
                        "-" if accuracy.low is None else f"{accuracy.low:.2%} to {accuracy.high:.2%}",
                        f"{figures.loss.mean:.4f}",
                        f"{figures.parameters:,}",
                        f"{figures.train_seconds.mean:.1f} s",
                    ]
                )
                if comparable:
                    rows[-1].append(f"{PUBLISHED[net][0]:.2%}" if recipe == "reference" and net in PUBLISHED else "")
        found = self._conclude()
        lines = ["", *align(rows), ""]
        lines += [line.words for line in (*found.of_nets, *found.of_recipes)]
        lines += ["", LEGEND] if found.of_nets or found.of_recipes else []
        for claim in found.claims:
            lines.append(f'\n"{claim.claim}": {claim.verdict.upper()}; {claim.words}')
        lines += [f"({claims.RULE})"] if found.claims else []
        return "\n".join([*lines, *found.notes])


def read_answers(folders: Mapping[int, Path]) -> Answers:
    """Random seed -> a model's folder: what its predictions.npz say, all about the same images."""
    predictions, losses, labels = [], [], []
    for folder in folders.values():
        try:
            with np.load(folder / "predictions.npz") as arrays:
                predictions.append(arrays["predictions"])
                losses.append(arrays["losses"].astype(np.float64))
                labels.append(arrays["labels"].astype(np.int64))
        except (OSError, ValueError, KeyError) as error:
            raise UsageError(f"{folder / 'predictions.npz'} cannot be read: {error}") from error
    if any(not np.array_equal(one, labels[0]) for one in labels):
        raise UsageError(
            f"the runs beside {folder.parent} answered about other test images; choose a different --output"
        )
    return Answers(tuple(folders), labels[0], np.stack(predictions) == labels[0], np.stack(losses))


def words(a: str, b: str, where: str, comparison: Comparison) -> str:
    """The comparison as a sentence."""
    points = f"{100 * comparison.difference:+.2f} points"
    told_apart = sum(test.p < 1 - LEVEL for test in comparison.mcnemar)
    pairs = f"McNemar's test tells {told_apart} of {len(comparison.mcnemar)} pairs of trained models apart"
    seeds, digits = comparison.seeds_interval, comparison.digits_interval
    if seeds is None:
        return f"{where}: {b} against {a} {points} with one random seed; that is no finding about either. {pairs}."
    ends = (
        f"({100 * seeds.low:+.2f} to {100 * seeds.high:+.2f} over {len(comparison.seeds)} random seeds,"
        f" {100 * digits.low:+.2f} to {100 * digits.high:+.2f} over the test images)"
    )
    if not comparison.significant:
        return f"{where}: no significant difference; {b} against {a} {points} {ends}. {pairs}."
    verdict = "better" if comparison.difference > 0 else "worse"
    return f"{where}: {b} is significantly {verdict} than {a}, {points} {ends}. {pairs}."
