"""What a study found: the figures of its finished runs, the comparisons, and the published claims; study.json."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from distmnist.config import resolve
from distmnist.data.datasets import DatasetFacts
from distmnist.errors import UsageError
from distmnist.machine import versions
from distmnist.runs import claims
from distmnist.runs.pool import Jobs, Member
from distmnist.runs.significance import LEVEL, Answers, Comparison, compare, spread
from distmnist.runs.summary import PUBLISHED, align

LEGEND = """\
Intervals are of 95 %. Over the random seeds: where the mean of all trainings by this recipe lies. Over the test digits:
what other digits would say of these nets (bootstrap). Significant: both leave out zero. McNemar's test is of two
trained nets each time, not of their recipes. Train time is one run's while others ran beside it."""


class Findings:
    """members: (recipe, random seed) -> run. `given`: the options of training that were typed, for all of them."""

    def __init__(
        self,
        dataset: DatasetFacts,
        members: Mapping[tuple[str, int], Member],
        given: dict[str, Any],
        jobs: Jobs,
    ) -> None:
        self.dataset, self.members, self.given, self.jobs = dataset, members, given, jobs
        self.nets = resolve(given).models
        self.recipes = list(dict.fromkeys(recipe for recipe, _ in members))
        self.seeds = list(dict.fromkeys(seed for _, seed in members))
        summaries = {key: member.summary() for key, member in members.items()}
        self.summaries = {key: summary for key, summary in summaries.items() if summary}
        self.concluded: dict[str, Any] | None = None

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
        member.check_digits(self.dataset)
        told = "  ".join(f"{net} {summary['models'][net]['test_accuracy']:.2%}" for net in self.nets)
        return f"{member.path.name}  {told}  ({self.done} of {len(self.members)})"

    def to_json(self) -> dict[str, Any]:
        """study.json, schema 1. Nothing is compared before all runs are finished."""
        return {
            "schema": 1,
            "status": "finished" if self.finished else "interrupted",
            "dataset": self.dataset.to_json(),
            "repeats": len(self.seeds),
            "seeds": self.seeds,
            "versions": versions("scipy"),
            "jobs": str(self.jobs),
            "recipes": {recipe: self._figures(recipe) for recipe in self.recipes},
            **self._conclude(),
        }

    def _figures(self, recipe: str) -> dict[str, Any]:
        """Net -> the spread of its figures over the finished runs; {} if there are none yet."""
        runs = [self.summaries[recipe, seed]["models"] for seed in self.seeds if (recipe, seed) in self.summaries]
        return {
            net: {
                "accuracy": spread([run[net]["test_accuracy"] for run in runs]),
                "loss": spread([run[net]["test_loss"] for run in runs]),
                "notebook_loss": spread([run[net]["notebook_test_loss"] for run in runs]),
                "train_seconds": spread([run[net]["train_seconds"] for run in runs]),
                "parameters": runs[0][net]["parameters"],
            }
            for net in self.nets
            if runs
        }

    def _conclude(self) -> dict[str, Any]:
        if self.concluded is None and self.finished:
            self.concluded = self._compare()
        left = "nothing is concluded from unfinished runs"
        return self.concluded or {"comparisons": [], "recipe_comparisons": [], "claims": [], "notes": [left]}

    def _compare(self) -> dict[str, Any]:
        self._refuse_mixtures()
        answers = {
            (recipe, net): read_answers({seed: self.members[recipe, seed].path / net for seed in self.seeds})
            for recipe in self.recipes
            for net in self.nets
        }
        of_nets, of_recipes, judged, notes = [], [], [], []
        if len(self.seeds) == 1:
            notes.append("one random seed says nothing about a recipe: nothing is called significant; use --repeats 5")
        for recipe in self.recipes:
            for a, b in itertools.combinations(self.nets, 2):
                comparison = compare(answers[recipe, a], answers[recipe, b])
                of_nets.append({"recipe": recipe, **entry(a, b, f"with {recipe}", comparison)})
                if (recipe, a, b) == ("reference", "mlp", "cnn"):
                    reason = self._not_as_published()
                    judged = [] if reason else claims.of_the_nets(comparison)
                    notes += [f"the published claims are not judged: {reason}"] if reason else []
        for net in self.nets:
            for a, b in itertools.combinations(self.recipes, 2):
                comparison = compare(answers[a, net], answers[b, net])
                of_recipes.append({"model": net, **entry(a, b, f"for the {net}", comparison)})
        return {"comparisons": of_nets, "recipe_comparisons": of_recipes, "claims": judged, "notes": notes}

    def _refuse_mixtures(self) -> None:
        for what in ("amp", "device"):
            found = sorted({summary[what] for summary in self.summaries.values()})
            if len(found) > 1:
                raise UsageError(
                    f"the runs have {what} {' and '.join(found)}: they cannot be compared; name another --output"
                )

    def _not_as_published(self) -> str | None:
        if self.dataset.name != "mnist":
            return "these digits are the sample, not MNIST"
        if not all(claims.published({**self.given, "recipe": "reference"}, net) for net in self.nets):
            return "an option that was typed departs from the published recipe"
        return None

    def table(self) -> str:
        """What a person reads. Published figures stand beside the recipe that is theirs, on MNIST only."""
        comparable = self._not_as_published() is None
        head = ["recipe", "net", "accuracy", "s.d.", "95 % interval", "test loss", "parameters", "train time"]
        rows = [head + ["published"] * comparable]
        for recipe in self.recipes:
            for net, figures in self._figures(recipe).items():
                accuracy, seconds = figures["accuracy"], figures["train_seconds"]
                several = accuracy["std"] is not None
                rows.append(
                    [
                        recipe,
                        net,
                        f"{accuracy['mean']:.2%}",
                        f"{100 * accuracy['std']:.2f}" if several else "-",
                        f"{accuracy['low']:.2%} to {accuracy['high']:.2%}" if several else "-",
                        f"{figures['loss']['mean']:.4f}",
                        f"{figures['parameters']:,}",
                        f"{seconds['mean']:.1f} s",
                    ]
                )
                if comparable:
                    rows[-1].append(f"{PUBLISHED[net][0]:.2%}" if recipe == "reference" and net in PUBLISHED else "")
        found = self._conclude()
        lines = ["", *align(rows), ""]
        lines += [line["words"] for line in (*found["comparisons"], *found["recipe_comparisons"])]
        lines += ["", LEGEND] if found["comparisons"] or found["recipe_comparisons"] else []
        for claim in found["claims"]:
            lines.append(f'\n"{claim["claim"]}": {claim["verdict"].upper()}; {claim["words"]}')
        lines += [f"({claims.RULE})"] if found["claims"] else []
        return "\n".join([*lines, *found["notes"]])


def read_answers(folders: Mapping[int, Path]) -> Answers:
    """Random seed -> a net's folder: what its predictions.npz say, all about the same digits."""
    predictions, losses, labels = [], [], []
    for folder in folders.values():
        try:
            with np.load(folder / "predictions.npz") as arrays:
                predictions.append(arrays["predictions"])
                losses.append(arrays["losses"].astype(np.float64))
                labels.append(arrays["labels"])
        except (OSError, ValueError, KeyError) as error:
            raise UsageError(f"{folder / 'predictions.npz'} cannot be read: {error}") from error
    if any(not np.array_equal(one, labels[0]) for one in labels):
        raise UsageError(f"the runs beside {folder.parent} answered about other test digits; name another --output")
    return Answers(tuple(folders), labels[0], np.stack(predictions) == labels[0], np.stack(losses))


def entry(a: str, b: str, where: str, comparison: Comparison) -> dict[str, Any]:
    return {"a": a, "b": b, **comparison.to_json(), "words": words(a, b, where, comparison)}


def words(a: str, b: str, where: str, comparison: Comparison) -> str:
    """The comparison as a sentence."""
    points = f"{100 * comparison.difference:+.2f} points"
    told_apart = sum(test["p"] < 1 - LEVEL for test in comparison.mcnemar)
    pairs = f"McNemar's test tells {told_apart} of {len(comparison.mcnemar)} pairs of trained nets apart"
    seeds, digits = comparison.seeds_interval, comparison.digits_interval
    if seeds is None:
        return f"{where}: {b} against {a} {points} with one random seed; that is no finding about either. {pairs}."
    ends = (
        f"({100 * seeds.low:+.2f} to {100 * seeds.high:+.2f} over {len(comparison.seeds)} random seeds,"
        f" {100 * digits.low:+.2f} to {100 * digits.high:+.2f} over the test digits)"
    )
    if not comparison.significant:
        return f"{where}: no significant difference; {b} against {a} {points} {ends}. {pairs}."
    verdict = "better" if comparison.difference > 0 else "worse"
    return f"{where}: {b} is significantly {verdict} than {a}, {points} {ends}. {pairs}."
