"""Every plot, made with matplotlib, which is optional: the main job leaves some in its run, the report has them all.

One panel a figure, so that a narrow screen can put them below each other. Colours come from PALETTE alone, so that the
report can hand them over to its style sheet, light or dark.
"""

import importlib.util
import io
import logging
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from distmnist.errors import RunError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = {
    "paper": "#fffffe",
    "ink": "#21201e",
    "soft": "#6b6862",
    "line": "#dcd9d2",
    "a": "#b5502b",
    "b": "#1f6f93",
    "c": "#8a6d00",
    "d": "#6b4c9a",
    "e": "#3b7a44",
    "f": "#a03466",
}
"""name -> colour on white paper. The report's style sheet has a variable of each name."""

SERIES = [PALETTE[name] for name in "abcdef"]
SIZE = (4.4, 3.1)
"""Inches: small, so that a telephone shows its text at nearly its own size."""

FULL = 100.5
"""Where an axis of accuracies, in per cent, ends at the latest: a point at 100 is whole."""

COUNTED = 20
"""Classes up to which a confusion matrix has the count in each cell, and the name of every class."""

NAME, WHOLE_NAME = 16, 300
"""Characters of a class name on an axis, and in its tooltip where it is longer."""


class Epoch(Protocol):
    """What is drawn of `checkpoint.record.Epoch`, a line of metrics.jsonl."""

    @property
    def epoch(self) -> int: ...
    @property
    def train_loss(self) -> float: ...
    @property
    def test_loss(self) -> float: ...
    @property
    def test_accuracy(self) -> float: ...


class Spread(Protocol):
    """What is drawn of `runs.records.Spread`, a figure over random seeds. std: None for a single seed."""

    @property
    def mean(self) -> float: ...
    @property
    def std(self) -> float | None: ...


class Trial(Protocol):
    """What is drawn of `runs.records.Trial`."""

    @property
    def val_accuracy(self) -> Spread: ...
    @property
    def train_seconds(self) -> Spread: ...
    @property
    def pareto(self) -> bool: ...


Curves = Mapping[str, Sequence[Sequence[Epoch]]]
"""label -> the histories of its repeats."""


def available() -> bool:
    return importlib.util.find_spec("matplotlib") is not None


def style() -> Any:
    """matplotlib's settings, as a context manager: for making figures and for writing them."""
    # It says on standard error that it builds its font cache, or has no place to keep it: no matter for a plot.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    matplotlib = imported()
    return matplotlib.rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "distmnist",
            "font.family": "sans-serif",
            "font.size": 9.5,
            "text.parse_math": False,
            "figure.facecolor": PALETTE["paper"],
            "axes.facecolor": "none",
            "axes.edgecolor": PALETTE["soft"],
            "axes.labelcolor": PALETTE["ink"],
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "grid.color": PALETTE["line"],
            "grid.linewidth": 0.6,
            "text.color": PALETTE["ink"],
            "xtick.color": PALETTE["soft"],
            "ytick.color": PALETTE["soft"],
            "xtick.labelcolor": PALETTE["ink"],
            "ytick.labelcolor": PALETTE["ink"],
            "legend.frameon": False,
            "lines.linewidth": 1.6,
            "lines.markersize": 4.5,
        }
    )


def imported() -> Any:
    """matplotlib. Raises RunError where it finds no place for its files.

    MPLBACKEND is hidden from it meanwhile: a notebook's names a module that only the notebook's own Python has, which
    fails the import, and no plot here needs a backend to be chosen.
    """
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    except OSError as error:
        raise RunError(f"matplotlib cannot be used: {' '.join(str(error).split())}") from error
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    return matplotlib


def panel(size: tuple[float, float] = SIZE) -> tuple["Figure", "Axes"]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.add_subplot()


def written(figure: "Figure", kind: str) -> bytes:
    """The figure as a file, kind "svg" or "png": the same figure gives the same bytes.

    An SVG shows text in the reader's fonts. A PNG shows boxes for characters that matplotlib's own font lacks.
    """
    buffer = io.BytesIO()
    backend = {"svg": "svg", "png": "agg"}[kind]
    metadata = {"Date": None} if kind == "svg" else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a line for each character that the font lacks
        figure.savefig(buffer, format=kind, backend=backend, dpi=160, metadata=metadata)
    if kind == "png":
        return buffer.getvalue()
    # What `label_classes` left: an SVG's own tooltip is an element, which matplotlib cannot write.
    return re.sub(rb"""<g id=(["'])title:(.*?)\1>""", rb"<g><title>\2</title>", buffer.getvalue())


def inline(svg: bytes, name: str, label: str) -> str:
    """An SVG file as an element of a page: colours as the page's variables, ids its own, a label for who cannot see.

    `name` must be unique in the page; `label` is plain text.
    """
    from html import escape

    text = svg.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"<[^<>]+>", lambda tag: _inline_tag(tag[0], name), text)
    return re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', f'role="img" aria-label="{escape(label)}"', text, count=1)


def _inline_tag(tag: str, name: str) -> str:
    tag = re.sub(r'\bid="', f'id="{name}-', tag)
    tag = re.sub(r"(url\(|href=\")#", rf"\1#{name}-", tag)
    for variable, colour in PALETTE.items():
        tag = tag.replace(colour, "transparent" if variable == "paper" else f"var(--{variable})")
    return tag


def of_run(
    histories: Mapping[str, Sequence[Epoch]], confusions: Mapping[str, Any], class_names: Sequence[str]
) -> dict[str, bytes]:
    """The main job's plots: name of the file -> SVG. histories and confusions: by model."""
    curves = {model: [history] for model, history in histories.items()}
    with style():
        figures = {"loss": loss(curves), "accuracy": accuracy(curves)}
        figures |= {f"confusion-{model}": confusion(matrix, model, class_names) for model, matrix in confusions.items()}
        return {f"{name}.svg": written(figure, "svg") for name, figure in figures.items()}


def loss(curves: Curves) -> "Figure":
    """Cross entropy over the epochs: on the test images, and dashed while training."""
    figure, axes = panel()
    for colour, (label, histories) in zip(series(curves), curves.items(), strict=True):
        draw(axes, histories, "test_loss", colour, label)
        draw(axes, histories, "train_loss", colour, None, dashed=True)
    axes.set(xlabel="epoch", ylabel="mean cross entropy (nats)", yscale="log")
    plain_logarithm(axes)
    axes.legend()
    return figure


def accuracy(curves: Curves) -> "Figure":
    """Accuracy on the test images over the epochs, in per cent."""
    figure, axes = panel()
    for colour, (label, histories) in zip(series(curves), curves.items(), strict=True):
        draw(axes, histories, "test_accuracy", colour, label, factor=100)
    axes.set(xlabel="epoch", ylabel="test accuracy (%)")
    axes.set_ylim(top=min(axes.get_ylim()[1], FULL))
    axes.legend()
    return figure


def series(labels: Iterable[str]) -> list[str]:
    """A colour for each label."""
    return [SERIES[index % len(SERIES)] for index, _ in enumerate(labels)]


def draw(
    axes: "Axes",
    histories: Sequence[Sequence[Epoch]],
    key: str,
    colour: str,
    label: str | None,
    *,
    factor: float = 1.0,
    dashed: bool = False,
) -> None:
    """The mean of the repeats over the epochs that all of them have, and each of several repeats as a thin line."""
    from matplotlib.ticker import MaxNLocator

    line: dict[str, Any] = {"color": colour, "linestyle": "--" if dashed else "-"}
    if len(histories) > 1:
        for history in histories:
            values = [factor * getattr(one, key) for one in history]
            axes.plot([one.epoch for one in history], values, alpha=0.3, lw=0.7, **line)
    epochs = range(1, min(map(len, histories)) + 1)
    means = [factor * sum(getattr(h[epoch - 1], key) for h in histories) / len(histories) for epoch in epochs]
    axes.plot(epochs, means, label=label, marker="o" if not dashed else "_" if len(means) == 1 else None, **line)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def plain_logarithm(axes: "Axes") -> None:
    """0.02, 0.05, 0.1 rather than powers of ten: a loss spans about one decade."""
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator, StrMethodFormatter

    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def confusion(matrix: Any, model: str, class_names: Sequence[str]) -> "Figure":
    """Counts of the test images, int [classes, classes]: row the label, column the prediction. Mistakes stand out.

    With more than `COUNTED` classes the cells are the pixels of one image, and have no numbers: what the file takes
    does not grow with the number of mistakes.
    """
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Rectangle

    counts = np.asarray(matrix)
    right, mistakes = np.diag(counts), counts - np.diag(np.diag(counts))
    shades = np.where(mistakes, 0.12 + 0.55 * np.sqrt(mistakes / max(mistakes.max(), 1)), 0.0)
    names, counted = shortened(class_names), len(counts) <= COUNTED
    longest, side = max(map(len, names)), 4.1 if len(counts) <= 12 else 5.4
    upright = counted and longest * len(counts) < 45
    beside = 0.075 * (longest - 1)  # inches: about what the names take
    figure, axes = panel((side + 0.2 + beside, side + (0 if upright else beside)))
    if counted:
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour, shade = ("line", 0.35) if row == column else ("a", shades[row, column])
            corner = (column - 0.46, row - 0.46)
            axes.add_patch(Rectangle(corner, 0.92, 0.92, color=PALETTE[colour], alpha=shade, lw=0))
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=8)
    else:
        image = np.empty((*counts.shape, 4))
        image[..., :3], image[..., 3] = to_rgb(PALETTE["a"]), shades
        found = right / np.maximum(counts.sum(1), 1)
        diagonal = np.arange(len(counts))
        image[diagonal, diagonal, :3], image[diagonal, diagonal, 3] = to_rgb(PALETTE["soft"]), 0.6 * found
        axes.imshow(image, interpolation="none")
    end = len(counts) - 0.4
    axes.set(xlim=(-0.6, end), ylim=(end, -0.6), aspect="equal")
    axes.set(xlabel=f"predicted by the {model}", ylabel="true class")
    label_classes(axes, class_names, names, upright=upright)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure


def label_classes(axes: "Axes", class_names: Sequence[str], names: Sequence[str], *, upright: bool) -> None:
    """Names along both axes, every k-th where there are many. A shortened one has the whole as its tooltip in SVG."""
    shown = range(0, len(names), -(-len(names) // COUNTED))
    axes.set_xticks(shown, [names[index] for index in shown], rotation=0 if upright else 90)
    axes.set_yticks(shown, [names[index] for index in shown])
    for axis in (axes.xaxis, axes.yaxis):
        for index, label in zip(shown, axis.get_ticklabels(), strict=True):
            whole = cut(class_names[index], WHOLE_NAME)
            if names[index] != whole:
                label.set_gid(f"title:{whole}")  # an id of the SVG: `written` makes it a title


def clean(name: str) -> str:
    """A name on one line, without what XML cannot hold: control characters and undecodable bytes."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]", "\N{REPLACEMENT CHARACTER}", " ".join(name.split()))


def cut(name: str, most: int) -> str:
    """A name in at most `most` characters, one line."""
    name = clean(name)
    return name if len(name) <= most else name[: most - 1].rstrip() + "…"


def shortened(class_names: Sequence[str]) -> list[str]:
    """The names in at most `NAME` characters; those that would then look the same end in the class's number."""
    names = [cut(name, NAME) for name in class_names]
    seen = Counter(names)
    return [
        name if seen[name] == 1 else f"{name[: NAME - 1 - len(str(index))].rstrip('…')}…{index}"
        for index, name in enumerate(names)
    ]


def comparison(rows: Sequence[Mapping[str, Any]]) -> "Figure":
    """rows: label, values (accuracies), interval (low, high) or None, published (an accuracy) or None."""
    figure, axes = panel((4.4, 0.9 + 0.45 * len(rows)))
    for index, (row, colour) in enumerate(zip(rows, series(row["label"] for row in rows), strict=True)):
        values = [100 * value for value in row["values"]]
        axes.plot(values, [index] * len(values), "o", color=colour, alpha=0.45 if len(values) > 1 else 1)
        if row["interval"]:
            low, high = (100 * end for end in row["interval"])
            axes.plot([low, high], [index, index], color=colour, linewidth=2.5, solid_capstyle="butt")
            axes.plot(sum(values) / len(values), index, "|", color=colour, markersize=14, markeredgewidth=2)
        if row["published"] is not None:
            axes.plot(100 * row["published"], index, "x", color=PALETTE["soft"], label="published, one run")
    if handles := axes.get_legend_handles_labels()[0]:
        axes.legend(handles=handles[:1], loc="lower left", bbox_to_anchor=(0, 1), borderpad=0)
    axes.set(yticks=range(len(rows)), yticklabels=[row["label"] for row in rows], xlabel="test accuracy (%)")
    axes.set_xlim(right=min(axes.get_xlim()[1], FULL))
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return figure


def calibration(bins: Mapping[str, Sequence[Mapping[str, Any]]]) -> "Figure":
    """model -> bins: confidence and accuracy (means), low and high (the accuracy's 95 % interval)."""
    figure, axes = panel((4.2, 3.9))
    axes.plot([0, 1], [0, 1], color=PALETTE["soft"], linewidth=0.8, linestyle=":", label="confidence = accuracy")
    for colour, (model, filled) in zip(series(bins), bins.items(), strict=True):
        x, y = [b["confidence"] for b in filled], [b["accuracy"] for b in filled]
        spread = [[b["accuracy"] - b["low"] for b in filled], [b["high"] - b["accuracy"] for b in filled]]
        axes.errorbar(x, y, yerr=spread, fmt="o-", color=colour, linewidth=1.2, elinewidth=0.8, label=model)
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), aspect="equal")
    axes.set(xlabel="confidence (probability of the prediction)", ylabel="accuracy")
    axes.legend(loc="upper left")
    return figure


def trade_off(trials: Sequence[Trial]) -> "Figure":
    """A sweep's trials: validation accuracy, its spread over seeds, and training time; the Pareto front stands out."""
    figure, axes = panel()
    for front, name in ((False, "other trials"), (True, "Pareto front")):
        chosen = sorted((t for t in trials if t.pareto == front), key=lambda t: t.train_seconds.mean)
        if not chosen:
            continue
        x = [t.train_seconds.mean for t in chosen]
        y = [100 * t.val_accuracy.mean for t in chosen]
        spread = [100 * (t.val_accuracy.std or 0.0) for t in chosen]
        colour = PALETTE["a" if front else "soft"]
        axes.errorbar(x, y, yerr=spread, fmt="o", color=colour, elinewidth=0.8, alpha=1 if front else 0.6, label=name)
    axes.set(xlabel="training time (s)", ylabel="validation accuracy (%)")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderpad=0)
    return figure


def effect(option: str, values: Sequence[tuple[str, Sequence[Spread]]]) -> "Figure":
    """One searched option: its values in order, each with the validation accuracies of its trials."""
    figure, axes = panel((4.0, 2.9))
    for index, (_, accuracies) in enumerate(values):
        y, spread = [100 * a.mean for a in accuracies], [100 * (a.std or 0.0) for a in accuracies]
        step = min(0.08, 0.6 / len(y))  # side by side, so that their spreads can be seen
        x = [index + step * (place - (len(y) - 1) / 2) for place in range(len(y))]
        axes.errorbar(x, y, yerr=spread, fmt="o", color=PALETTE["b"], elinewidth=0.8, alpha=0.6)
        axes.plot(index, sum(y) / len(y), "_", color=PALETTE["a"], markersize=18)
    axes.set(xticks=range(len(values)), xticklabels=[value for value, _ in values])
    axes.set(xlabel=option, ylabel="validation accuracy (%)", xlim=(-0.6, len(values) - 0.4))
    axes.grid(False, axis="x")
    return figure
