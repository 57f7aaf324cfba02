"""The table with which a run ends: it sets the models beside the published ones."""

from distmnist.checkpoint.record import ModelResult
from distmnist.data.dataset import Dataset

HANDWRITTEN = {"mnist": "MNIST", "mnist-sample": "the sample"}
"""The data sets of handwritten digits: name -> in a sentence. Nothing published is said of any other."""

PUBLISHED = {"mlp": (0.9742, 0.0013), "cnn": (0.9888, 0.0006)}
"""model -> test accuracy and test loss, in the convention of `notebook_test_loss`: the published work's results."""

EXPECTED_ON_SAMPLE = "mlp about 92 %, cnn about 96 %"
"""With the defaults, over five random seeds: see docs/figures.md."""


def results(data: Dataset, figures: dict[str, ModelResult]) -> str:
    """The comparison. Published figures stand beside those on MNIST alone: on other images they are of another test.

    The balanced accuracy is given where the classes have different numbers of test images.
    """
    comparable, digits = data.name == "mnist", data.name in HANDWRITTEN
    uneven = any(len(set(map(sum, figure.confusion))) > 1 for figure in figures.values())
    rows: list[dict[str, str]] = []
    for model, figure in figures.items():
        accuracy, loss = f"{figure.test_accuracy:.2%}", f"{figure.notebook_test_loss:.4f}"
        if comparable and model in PUBLISHED:
            accuracy += f" ({PUBLISHED[model][0]:.2%})"
            loss += f" ({PUBLISHED[model][1]:.4f})"
        row = {"model": model, "accuracy": accuracy}
        if uneven:
            balanced = figure.balanced_accuracy
            row["balanced accuracy"] = "-" if balanced is None else f"{balanced:.2%}"
        row["test loss"] = f"{figure.test_loss:.4f}"
        if digits:
            row["as published*"] = loss
        row["parameters"] = f"{figure.parameters:,}"
        row["train time"] = f"{figure.train_seconds:.1f} s"
        row["images/s"] = f"{figure.images_per_second:,.0f}"
        rows.append(row)
    lines = align([list(rows[0]), *(list(row.values()) for row in rows)])
    if comparable:
        lines += ["In brackets: the published result.", "* The sum of the means of batches of 64, divided by 10,000."]
    elif digits:
        lines.append("* The sum of the means of batches of 64, divided by the number of test images.")
    if data.name == "mnist-sample":
        lines.append(f"On the sample expect {EXPECTED_ON_SAMPLE}; no result on it compares with one on MNIST.")
    return "\n".join(lines)


def align(rows: list[list[str]]) -> list[str]:
    """The rows of a table as lines, the columns two spaces apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
