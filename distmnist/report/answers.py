"""What the trained nets answer, digit by digit: their worst mistakes, their certainty, and where they differ."""

import dataclasses
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy import stats

from distmnist.checkpoint import source
from distmnist.checkpoint.source import Trained
from distmnist.data.dataset import LabelledImages
from distmnist.errors import UsageError
from distmnist.models.inference import BATCH
from distmnist.report.reading import Material, Net
from distmnist.runs.records import McNemar
from distmnist.runs.significance import LEVEL, mcnemar
from distmnist.training.evaluation import Evaluation

BINS = 10
"""Of equal width, as the expected calibration error is usually given (Guo et al., 2017)."""

TOLERATED = 0.001
"""Share of the test digits that this machine may read otherwise than the one that evaluated: another processor's
rounding moves a digit or two of 10,000. More, and the predictions are of another net."""


@dataclasses.dataclass(frozen=True)
class Shown:
    """A net whose answers the page shows. probabilities: float32 [n, classes]; said: those of its predictions."""

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

    @cached_property
    def evaluation(self) -> Evaluation:
        """Of its predictions: what summary.json says, counted again."""
        predictions, losses, labels = map(torch.from_numpy, (self.net.predictions, self.net.losses, self.net.labels))
        return Evaluation(predictions.long(), losses, labels.long(), self.probabilities.shape[1])

    def calibration(self) -> list[dict[str, float]]:
        """The bins that hold digits: count, mean confidence, accuracy and its 95 % interval (Wilson)."""
        which = np.minimum((self.said * BINS).astype(int), BINS - 1)
        bins = []
        for index in np.unique(which):
            inside = which == index
            count, right = int(inside.sum()), int(self.right[inside].sum())
            spread = stats.binomtest(right, count).proportion_ci(LEVEL, method="wilson")
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
    recipes = list(material.study.recipes) if material.study else []

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
def show(net: Net, test: LabelledImages) -> Shown:
    """Asks the trained net about every test digit. UsageError: the run's files or the digits do not belong together."""
    where = net.run / net.name
    trained = source.load(where)[0][0]
    if trained.weights_sha256 != net.result.weights_sha256:
        raise UsageError(f"{where} holds other weights than those whose result summary.json tells; train again")
    if not np.array_equal(test.labels.numpy(), net.labels):
        raise UsageError(f"{where}/predictions.npz is not about these test digits; name the right --data-dir")
    batches = torch.arange(len(test)).split(BATCH)
    logits = torch.cat([trained.net(test.batch(indices)[0]) for indices in batches])
    otherwise = int((logits.argmax(1).numpy() != net.predictions).sum())
    if otherwise > TOLERATED * len(test):
        raise UsageError(f"{where}: the net reads {otherwise} test digits otherwise than predictions.npz says")
    return Shown(net, trained, logits.softmax(1).numpy(), otherwise)


@dataclasses.dataclass(frozen=True)
class Disagreement:
    """Two nets on the same digits: of how many both or neither are right, the test, and where they differ."""

    both: int
    neither: int
    test: McNemar
    digits: list[int]
    """Indices, those of which both nets are surest first."""


def disagreement(a: Shown, b: Shown) -> Disagreement:
    differing = np.flatnonzero(a.net.predictions != b.net.predictions)
    sure = np.minimum(a.said, b.said)[differing]
    return Disagreement(
        both=int((a.right & b.right).sum()),
        neither=int((~a.right & ~b.right).sum()),
        test=mcnemar(a.right, b.right),
        digits=differing[np.argsort(-sure, kind="stable")].tolist(),
    )
