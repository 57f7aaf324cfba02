"""What the trained models predict, image by image: their worst mistakes, their confidence, and where they differ."""

import dataclasses
from typing import Any

import numpy as np
import torch
from scipy import stats

from distmnist.checkpoint import source
from distmnist.checkpoint.source import Trained
from distmnist.config import is_custom
from distmnist.data.dataset import LabelledImages
from distmnist.errors import UsageError
from distmnist.models.inference import batch_size
from distmnist.report.reading import Material, Net
from distmnist.runs.records import McNemar
from distmnist.runs.significance import LEVEL, mcnemar
from distmnist.training.evaluation import ClassFigures, Confused

BINS = 10
"""Of equal width, as the expected calibration error is usually given (Guo et al., 2017)."""

TOLERATED = 0.001
"""Share of the test images that this machine may predict otherwise than the one that evaluated: another processor's
rounding moves an image or two of 10,000. More, and the predictions are of another model."""


@dataclasses.dataclass(frozen=True)
class Shown:
    """A model whose predictions the page shows. confidence: float32 [n], the probabilities of its predictions.

    trained, confidence: None for a model of the user's own, which cannot be had without importing it. otherwise: images
    that this machine predicts otherwise.
    """

    net: Net
    trained: Trained | None
    confidence: np.ndarray | None
    otherwise: int = 0

    @property
    def right(self) -> np.ndarray:
        return self.net.predictions == self.net.labels

    def worst(self, count: int) -> list[int]:
        """The mistakes with the largest cross entropy: the label was least probable."""
        wrong = np.flatnonzero(~self.right)
        return wrong[np.argsort(-self.net.losses[wrong], kind="stable")][:count].tolist()

    def classes(self) -> list[ClassFigures]:
        """Of every class, the worst F1 first; last those without test images."""
        return self.net.evaluation.by_class()

    def macro_f1(self) -> float:
        """The mean F1 of the classes that have test images."""
        return float(np.mean([one.f1 for one in self.classes() if one.images]))

    def confused(self, count: int) -> list[Confused]:
        """The most confused pairs of classes: those with the most images."""
        return self.net.evaluation.most_confused(count)

    def calibration(self) -> list[dict[str, float]]:
        """The bins that hold images: count, mean confidence, accuracy and its 95 % interval (Wilson).

        Without confidences there are none.
        """
        if self.confidence is None:
            return []
        which = np.minimum((self.confidence * BINS).astype(int), BINS - 1)
        bins = []
        for index in np.unique(which):
            inside = which == index
            count, right = int(inside.sum()), int(self.right[inside].sum())
            spread = stats.binomtest(right, count).proportion_ci(LEVEL, method="wilson")
            bins.append(
                {
                    "from": index / BINS,
                    "count": count,
                    "confidence": float(self.confidence[inside].mean()),
                    "accuracy": right / count,
                    "low": min(spread.low, right / count),
                    "high": max(spread.high, right / count),
                }
            )
        return bins

    def calibration_error(self) -> float:
        """The expected calibration error: the bins' gaps between confidence and accuracy, weighed by their counts."""
        gaps = sum(b["count"] * abs(b["confidence"] - b["accuracy"]) for b in self.calibration())
        return gaps / len(self.net.labels)


def featured(material: Material) -> list[Net]:
    """One of each model: of the first run named; of a study, the last recipe's first random seed."""
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
    """Has the trained model predict every test image; of a model of the user's own the run's predictions are taken.

    Raises UsageError if the run's files or the images do not fit together.
    """
    where = net.run / net.name
    if not np.array_equal(test.labels.numpy(), net.labels):
        raise UsageError(f"{where}/predictions.npz is not about these test images; name the right --data-dir")
    if is_custom(net.model):
        return Shown(net, None, None)
    trained = source.load(where)[0][0]
    if trained.weights_sha256 != net.result.weights_sha256:
        raise UsageError(f"{where} holds other weights than those whose result summary.json tells; train again")
    if difference := trained.dataset.difference(net.dataset):
        raise UsageError(f"{where} was trained on another data set than summary.json tells: {difference}")
    predictions, confidence, otherwise = net.evaluation.predictions, torch.empty(len(test)), 0
    for indices in torch.arange(len(test)).split(batch_size(test.shape)):
        logits = trained.net(test.batch(indices)[0])
        otherwise += int((logits.argmax(1) != predictions[indices]).sum())
        confidence[indices] = logits.softmax(1).gather(1, predictions[indices, None]).squeeze(1)
    if otherwise > TOLERATED * len(test):
        raise UsageError(f"{where}: the model predicts {otherwise} test images otherwise than predictions.npz says")
    return Shown(net, trained, confidence.numpy(), otherwise)


@dataclasses.dataclass(frozen=True)
class Disagreement:
    """Two models on the same images: of how many both or neither are right, the test, and where they differ."""

    both: int
    neither: int
    test: McNemar
    images: list[int]
    """Indices, first those of which both models are surest, as far as their confidence is known."""


def disagreement(a: Shown, b: Shown) -> Disagreement:
    differing = np.flatnonzero(a.net.predictions != b.net.predictions)
    known = [one.confidence[differing] for one in (a, b) if one.confidence is not None]
    sure = np.min([np.ones(len(differing)), *known], axis=0)
    return Disagreement(
        both=int((a.right & b.right).sum()),
        neither=int((~a.right & ~b.right).sum()),
        test=mcnemar(a.right, b.right),
        images=differing[np.argsort(-sure, kind="stable")].tolist(),
    )
