"""The table with which a run ends: it sets the nets beside the published ones."""

from distmnist.checkpoint.record import ModelResult
from distmnist.data.dataset import Dataset

PUBLISHED = {"mlp": (0.9742, 0.0013), "cnn": (0.9888, 0.0006)}
"""net -> test accuracy and test loss, in the convention of `notebook_test_loss`: the published work's results."""

EXPECTED_ON_SAMPLE = "mlp about 92 %, cnn about 96 %"
"""With the defaults, over five random seeds: see docs/figures.md."""


def results(data: Dataset, figures: dict[str, ModelResult]) -> str:
    """The comparison. On the sample the published figures are left out: they are of another test."""
    comparable = data.name == "mnist"
    head = ["net", "accuracy", "test loss", "as published*", "parameters", "train time", "images/s"]
    rows = [head]
    for net, figure in figures.items():
        accuracy, loss = f"{figure.test_accuracy:.2%}", f"{figure.notebook_test_loss:.4f}"
        if comparable and net in PUBLISHED:
            accuracy += f" ({PUBLISHED[net][0]:.2%})"
            loss += f" ({PUBLISHED[net][1]:.4f})"
        rows.append(
            [
                net,
                accuracy,
                f"{figure.test_loss:.4f}",
                loss,
                f"{figure.parameters:,}",
                f"{figure.train_seconds:.1f} s",
                f"{figure.images_per_second:,.0f}",
            ]
        )
    lines = align(rows)
    if comparable:
        lines += ["In brackets: the published result.", "* The sum of the means of batches of 64, divided by 10,000."]
    else:
        lines.append("* The sum of the means of batches of 64, divided by the number of test images.")
    if data.name == "mnist-sample":
        lines.append(f"On the sample expect {EXPECTED_ON_SAMPLE}; no result on it compares with one on MNIST.")
    return "\n".join(lines)


def align(rows: list[list[str]]) -> list[str]:
    """The rows of a table as lines, the columns two spaces apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
