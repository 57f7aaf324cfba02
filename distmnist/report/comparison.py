"""Sets the models beside each other: means, intervals, and in words what they show and what they do not."""

import dataclasses
import json
from collections.abc import Sequence

import numpy as np

from distmnist.report.reading import Material, Net, result_options
from distmnist.runs.significance import over_seeds
from distmnist.runs.table import PUBLISHED


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the comparison: a model with its options, over its random seeds. Lists are in the order of seeds.

    nets: those runs that are there; of a study there may be fewer than values.
    """

    label: str
    net: str
    nets: list[Net]
    values: list[float]
    losses: list[float]
    seconds: list[float]
    parameters: int
    interval: tuple[float, float] | None
    published: float | None

    @property
    def mean(self) -> float:
        return float(np.mean(self.values))

    @property
    def deviation(self) -> float | None:
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else None

    @property
    def balanced(self) -> float | None:
        """The mean balanced accuracy; None where not all runs are there."""
        found = [net.evaluation.balanced_accuracy for net in self.nets]
        return float(np.mean(found)) if len(found) == len(self.values) else None


def compare(material: Material) -> list[Row]:
    """The study's own figures, then what the other runs say, those with the same options together."""
    rows = []
    recipes = material.study.recipes if material.study else {}
    for recipe, models in recipes.items():
        for model, figures in models.items():
            of_it = [r.nets[model] for r in material.runs if r.of_study and model in r.nets]
            of_it = [n for n in of_it if n.options.get("recipe") == recipe]
            low, high = figures.accuracy.low, figures.accuracy.high
            rows.append(
                Row(
                    label=f"{model}, {recipe}" if len(recipes) > 1 else model,
                    net=model,
                    nets=of_it,
                    values=figures.accuracy.values,
                    losses=figures.loss.values,
                    seconds=figures.train_seconds.values,
                    parameters=figures.parameters,
                    interval=None if low is None or high is None else (low, high),
                    published=published(material, model, recipe),
                )
            )
    groups: dict[str, list[Net]] = {}
    for run in material.runs:
        for net in run.nets.values() if not run.of_study else ():
            key = json.dumps([net.name, sorted((k, v) for k, v in varied(net).items())])
            groups.setdefault(key, []).append(net)
    for key, nets in sorted(groups.items(), key=lambda item: item[1][0].name, reverse=True):
        nets.sort(key=lambda net: net.seed)
        values = [net.result.test_accuracy for net in nets]
        rows.append(
            Row(
                label=label(nets[0], [other[0] for other_key, other in groups.items() if other_key != key]),
                net=nets[0].name,
                nets=nets,
                values=values,
                losses=[net.result.test_loss for net in nets],
                seconds=[net.result.train_seconds for net in nets],
                parameters=nets[0].result.parameters,
                interval=over_seeds(values),
                published=published(material, nets[0].name, nets[0].options.get("recipe")),
            )
        )
    return rows


def published(material: Material, net: str, recipe: object) -> float | None:
    """The published accuracy, beside the recipe that is its own, on the images that are its own."""
    comparable = material.dataset.name == "mnist" and recipe == "reference" and net in PUBLISHED
    return PUBLISHED[net][0] if comparable else None


def varied(net: Net) -> dict[str, object]:
    """The options that make a result another one, the random seed apart; the model as it was named in full."""
    options = {name: value for name, value in net.options.items() if name in result_options() - {"seed"}}
    return {"model": net.model, **options}


def label(net: Net, others: Sequence[Net]) -> str:
    """The model's name, and its options as far as another group of the same model has other ones."""
    same = [varied(other) for other in others if other.name == net.name]
    differing = [
        f"{name} {value}" for name, value in varied(net).items() if any(other.get(name) != value for other in same)
    ]
    return ", ".join([net.name, *differing])


def verdicts(material: Material, rows: Sequence[Row]) -> list[str]:
    """The comparison in words, no stronger than what was measured."""
    if material.study:
        return [c.words for c in material.study.comparisons + material.study.recipe_comparisons]
    words = []
    if any(len(row.values) == 1 for row in rows):
        alone = ", ".join(row.label for row in rows if len(row.values) == 1)
        words.append(
            f"One random seed ({alone}): no interval is drawn, because one result does not say how much another random"
            " seed would change it. Train several seeds, or run a study."
        )
    for first in rows:
        for second in rows:
            if first.net == second.net or rows.index(first) > rows.index(second):
                continue
            pairs = {a.seed: (a, b) for a in first.nets for b in second.nets if a.seed == b.seed}
            gains = [b.result.test_accuracy - a.result.test_accuracy for a, b in pairs.values()]
            between = over_seeds(gains)
            if between is None:
                continue
            low, high = between
            sure = "it leaves out 0" if low > 0 or high < 0 else "it holds 0, so no difference is shown"
            words.append(
                f"{second.label} minus {first.label}, same random seeds: {100 * np.mean(gains):+.2f} points, 95 %"
                f" interval {100 * low:+.2f} to {100 * high:+.2f} over {len(gains)} seeds; {sure}."
            )
    return words
