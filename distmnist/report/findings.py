"""What the runs say: the comparison and its intervals, the nets' mistakes, how far their certainty can be trusted."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from distmnist import source
from distmnist.config import UsageError
from distmnist.data import Digits
from distmnist.metrics import BATCH, CLASSES
from distmnist.report.reading import Material, Net, result_options
from distmnist.source import Trained
from distmnist.summary import PUBLISHED

CONFIDENCE = 0.95
BINS = 10
"""Of equal width, as the expected calibration error is usually given (Guo et al., 2017)."""

TOLERATED = 0.001
"""Share of the test digits that this machine may read otherwise than the one that evaluated: another processor's
rounding moves a digit or two of 10,000. More, and the predictions are of another net."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the comparison: a net with its options, over its random seeds. Lists are in the order of seeds."""

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


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The mean's 95 % interval by Student's t over independent repeats; None from a single one."""
    if len(values) < 2:
        return None
    from scipy import stats

    error = float(stats.sem(values))
    if error == 0:
        return float(np.mean(values)), float(np.mean(values))
    low, high = stats.t.interval(CONFIDENCE, len(values) - 1, float(np.mean(values)), error)
    return float(low), float(high)


def compare(material: Material) -> list[Row]:
    """The study's own figures, then what the other runs say, those with the same options together."""
    on_mnist = material.dataset["name"] == "mnist"
    rows = []
    for recipe, nets in (material.study or {"recipes": {}})["recipes"].items():
        for net, entry in nets.items():
            of_it = [r.nets[net] for r in material.runs if r.of_study and net in r.nets]
            of_it = [n for n in of_it if n.options.get("recipe") == recipe]
            accuracy = entry["accuracy"]
            several = len(accuracy["values"]) > 1 and "low" in accuracy
            rows.append(
                Row(
                    label=f"{net}, {recipe}" if len(material.study["recipes"]) > 1 else net,
                    net=net,
                    nets=of_it,
                    values=accuracy["values"],
                    losses=entry.get("loss", {}).get("values", []),
                    seconds=entry.get("train_seconds", {}).get("values", []),
                    parameters=entry["parameters"],
                    interval=(accuracy["low"], accuracy["high"]) if several else None,
                    published=PUBLISHED[net][0] if on_mnist and net in PUBLISHED else None,
                )
            )
    groups: dict[str, list[Net]] = {}
    for run in material.runs:
        for net in run.nets.values() if not run.of_study else ():
            key = json.dumps([net.name, sorted((k, v) for k, v in varied(net).items())])
            groups.setdefault(key, []).append(net)
    for key, nets in sorted(groups.items(), key=lambda item: item[1][0].name, reverse=True):
        nets.sort(key=lambda net: net.seed)
        values = [net.figures["test_accuracy"] for net in nets]
        rows.append(
            Row(
                label=label(nets[0], [other[0] for other_key, other in groups.items() if other_key != key]),
                net=nets[0].name,
                nets=nets,
                values=values,
                losses=[net.figures["test_loss"] for net in nets],
                seconds=[net.figures["train_seconds"] for net in nets],
                parameters=nets[0].figures["parameters"],
                interval=interval(values),
                published=PUBLISHED[nets[0].name][0] if on_mnist and nets[0].name in PUBLISHED else None,
            )
        )
    return rows


def varied(net: Net) -> dict[str, Any]:
    """The options that make a result another one, the random seed apart."""
    return {name: value for name, value in net.options.items() if name in result_options() - {"seed"}}


def label(net: Net, others: Sequence[Net]) -> str:
    """The net's name, and its options as far as another group of the same net has other ones."""
    same = [varied(other) for other in others if other.name == net.name]
    differing = [name for name, value in varied(net).items() if any(other.get(name) != value for other in same)]
    return ", ".join([net.name, *(f"{name} {net.options[name]}" for name in differing)])


def verdicts(material: Material, rows: Sequence[Row]) -> list[str]:
    """The comparison in words, no stronger than what was measured."""
    if material.study:
        return [c["words"] for c in material.study["comparisons"]]
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
            gains = [b.figures["test_accuracy"] - a.figures["test_accuracy"] for a, b in pairs.values()]
            between = interval(gains)
            if between is None:
                continue
            low, high = between
            sure = "it leaves out 0" if low > 0 or high < 0 else "it holds 0, so no difference is shown"
            words.append(
                f"{second.label} minus {first.label}, same random seeds: {100 * np.mean(gains):+.2f} points, 95 %"
                f" interval {100 * low:+.2f} to {100 * high:+.2f} over {len(gains)} seeds; {sure}."
            )
    return words


@dataclasses.dataclass(frozen=True)
class Shown:
    """A net whose answers the page shows one by one. probabilities: float32 [n, 10]; said: its predictions' own."""

    net: Net
    trained: Trained
    probabilities: np.ndarray
    read_otherwise: int

    @property
    def said(self) -> np.ndarray:
        return self.probabilities[np.arange(len(self.net.labels)), self.net.predictions]

    @property
    def right(self) -> np.ndarray:
        return self.net.predictions == self.net.labels

    def worst(self, count: int) -> list[int]:
        """The mistakes with the largest cross entropy: the label was held least likely."""
        wrong = np.flatnonzero(~self.right)
        return wrong[np.argsort(-self.net.losses[wrong], kind="stable")][:count].tolist()

    def confusion(self) -> np.ndarray:
        """int [10, 10]: row the label, column what was said."""
        cells = np.bincount(self.net.labels.astype(int) * CLASSES + self.net.predictions, minlength=CLASSES**2)
        return cells.reshape(CLASSES, CLASSES)

    def calibration(self) -> list[dict[str, float]]:
        """The bins that hold digits: count, mean confidence, accuracy and its 95 % interval (Wilson)."""
        from scipy import stats

        which = np.minimum((self.said * BINS).astype(int), BINS - 1)
        bins = []
        for index in np.unique(which):
            inside = which == index
            count, right = int(inside.sum()), int(self.right[inside].sum())
            spread = stats.binomtest(right, count).proportion_ci(CONFIDENCE, method="wilson")
            bins.append(
                {
                    "from": index / BINS,
                    "count": count,
                    "confidence": float(self.said[inside].mean()),
                    "accuracy": right / count,
                    "low": min(spread.low, right / count),
                    "high": max(spread.high, right / count),
                }
            )
        return bins

    def calibration_error(self) -> float:
        """The expected calibration error: the bins' gaps between confidence and accuracy, weighed by their counts."""
        return sum(b["count"] * abs(b["confidence"] - b["accuracy"]) for b in self.calibration()) / len(self.said)


def featured(material: Material) -> list[Net]:
    """One of each net: of the first run named; of a study, the last recipe's first random seed."""
    recipes = list(material.study["recipes"]) if material.study else []

    def order(net: Net) -> tuple[int, Any]:
        recipe = net.options.get("recipe")
        return (-recipes.index(recipe) if recipe in recipes else 1), net.seed

    nets = [net for run in material.runs if not run.of_study for net in run.nets.values()]
    nets += sorted((net for run in material.runs if run.of_study for net in run.nets.values()), key=order)
    first: dict[str, Net] = {}
    for net in nets:
        first.setdefault(net.name, net)
    return list(first.values())


@torch.no_grad()
def show(net: Net, test: Digits) -> Shown:
    """Asks the trained net about every test digit. UsageError: the run's files or the digits do not belong together."""
    where = net.run / net.name
    trained = source.load(where)[0][0]
    if trained.weights_sha256 != net.figures.get("weights_sha256"):
        raise UsageError(f"{where} holds other weights than those whose result summary.json tells; train again")
    if not np.array_equal(test.labels.numpy(), net.labels):
        raise UsageError(f"{where}/predictions.npz is not about these test digits; name the right --data-dir")
    batches = torch.arange(len(test)).split(BATCH)
    logits = torch.cat([trained.net(test.batch(indices)[0]) for indices in batches])
    otherwise = int((logits.argmax(1).numpy() != net.predictions).sum())
    if otherwise > TOLERATED * len(test):
        raise UsageError(f"{where}: the net reads {otherwise} test digits otherwise than predictions.npz says")
    return Shown(net, trained, logits.softmax(1).numpy(), otherwise)


def disagreement(a: Shown, b: Shown) -> dict[str, Any]:
    """Two nets on the same digits: who was right where, McNemar's exact test, and where they differ, surest first."""
    from scipy import stats

    only_a, only_b = int((a.right & ~b.right).sum()), int((b.right & ~a.right).sum())
    differing = np.flatnonzero(a.net.predictions != b.net.predictions)
    sure = np.minimum(a.said, b.said)[differing]
    return {
        "both": int((a.right & b.right).sum()),
        "only_a": only_a,
        "only_b": only_b,
        "neither": int((~a.right & ~b.right).sum()),
        "p": float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0,
        "digits": differing[np.argsort(-sure, kind="stable")].tolist(),
    }
