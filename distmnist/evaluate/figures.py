"""The figures of an evaluation, as tables for people and as JSON: those of summary.json."""

from collections.abc import Mapping, Sequence

from distmnist.runs.table import align
from distmnist.text import shown
from distmnist.training.evaluation import ClassFigures, Evaluation

ROWS, PAIRS = 30, 10
"""Classes and confused pairs that are shown; --json has all."""


def to_json(evaluation: Evaluation) -> dict[str, object]:
    """The figures under the names that they have in summary.json: see `ModelResult`."""
    return {
        "test_accuracy": evaluation.accuracy,
        "test_loss": evaluation.loss,
        "correct": evaluation.correct,
        "count": evaluation.count,
        "per_class_accuracy": evaluation.per_class_accuracy,
        "balanced_accuracy": evaluation.balanced_accuracy,
        "precision": evaluation.precision,
        "recall": evaluation.recall,
        "f1": evaluation.f1,
        "confusion": evaluation.confusion.tolist(),
    }


def lines(evaluations: Mapping[str, Evaluation], class_names: Sequence[str]) -> list[str]:
    """A row for each model; then for each its classes, and the pairs of classes that it confuses most."""
    names = [shown(name) for name in class_names]
    found = overview(evaluations)
    for name, evaluation in evaluations.items():
        found += ["", *class_table(name, evaluation, names), *confusions(evaluation, names)]
    return found


def overview(evaluations: Mapping[str, Evaluation]) -> list[str]:
    rows = [
        [
            name,
            f"{evaluation.accuracy:.2%}",
            f"{evaluation.balanced_accuracy:.2%}",
            f"{evaluation.loss:.4f}",
            f"{evaluation.count:,}",
        ]
        for name, evaluation in evaluations.items()
    ]
    return align([["model", "accuracy", "balanced accuracy", "loss", "images"], *rows])


def class_table(model: str, evaluation: Evaluation, names: Sequence[str]) -> list[str]:
    """All classes in their order; where they are many, those with the lowest F1."""
    classes = evaluation.by_class()
    more = len(classes) - ROWS
    chosen = classes[:ROWS] if more > 0 else sorted(classes, key=lambda one: one.index)
    rows = [[names[one.index], f"{one.images:,}", *shares(one)] for one in chosen]
    table = align([[f"{model}: class", "images", "precision", "recall", "F1"], *rows])
    return [*table, f"... {more:,} more"] if more > 0 else table


def shares(one: ClassFigures) -> list[str]:
    """Of a class without images nothing is known."""
    return [f"{share:.2%}" for share in (one.precision, one.recall, one.f1)] if one.images else ["-"] * 3


def confusions(evaluation: Evaluation, names: Sequence[str]) -> list[str]:
    rows = [
        [names[pair.label], names[pair.prediction], f"{pair.images:,}", f"{pair.share:.2%}"]
        for pair in evaluation.most_confused(PAIRS)
    ]
    return align([["images of", "predicted as", "images", "share of the class"], *rows]) if rows else []
