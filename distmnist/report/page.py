"""Puts the page together: gathers what it shows, draws its plots, fills the template, writes it all whole."""

import base64
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from torch import nn

from distmnist import __version__, plots
from distmnist.checkpoint.record import as_json
from distmnist.checkpoint.storage import write_atomically
from distmnist.data.dataset import DatasetFacts, Duplicates, LabelledImages
from distmnist.errors import RunError, UsageError
from distmnist.models.cnn import CNN
from distmnist.models.mlp import FullyConnectedNN
from distmnist.plots import COUNTED, WHOLE_NAME
from distmnist.report import answers, comparison, reading
from distmnist.report.answers import Shown
from distmnist.report.comparison import Row
from distmnist.report.pictures import picture
from distmnist.report.reading import Material
from distmnist.runs.records import Spread, Trial
from distmnist.runs.table import HANDWRITTEN

HERE = Path(__file__).parent
GENERATOR = "distmnist report"
"""In the page's head: by it a report is known, which alone may be written over."""

PICTURES = 24
"""Mistakes, and disagreements, that are shown as pictures."""

PAIRS = 20
"""Pairs of confused classes in the table that stands for a matrix too large to be read."""

LISTED = 500
"""Classes, the worst, in the table of each class's figures."""

NAME = 40
"""Characters of a class name in a table."""

CHECKED = 4
"""Test digits on which the page compares its own arithmetic with the trained model's before it answers."""


def write(paths: Sequence[Path], output: Path | None, data: str | None, data_dir: Path | None) -> Path:
    """Writes index.html and its plots into `output`. Returns the page's path. Raises UsageError and RunError."""
    material = reading.read(paths)
    folder = output or paths[0] / "report"
    page = folder / "index.html"
    try:
        if page.exists() and GENERATOR.encode() not in page.read_bytes()[:2000]:
            raise UsageError(f"{page} is no report; name another directory with --output")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output {folder} cannot be written: {error.strerror}; name another") from error
    files = make(material, data, data_dir)
    try:
        for name, content in files.items():  # the page last: what it is about is there before it
            write_atomically(folder / name, content)
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {error.strerror}; each file in it is whole") from error
    return page


def make(material: Material, data: str | None, data_dir: Path | None) -> dict[str, bytes]:
    """Name of the file -> content: the plots as SVG and PNG, then the page."""
    rows = comparison.compare(material)
    nets = answers.featured(material)
    test = reading.find_dataset(material, data, data_dir).test if nets else None
    shown = [] if test is None else [answers.show(net, test) for net in nets]
    files: dict[str, bytes] = {}
    inlined = {}
    with plots.style():
        for name, (figure, told) in figures(material, rows, shown).items():
            for kind in ("svg", "png"):
                files[f"{name}.{kind}"] = plots.written(figure, kind)
            inlined[name] = plots.inline(files[f"{name}.svg"], name, told)
    page = render(context(material, rows, shown, test), inlined)
    files["index.html"] = page.encode(errors="replace")  # paths and names may hold what is not UTF-8
    return files


def figures(material: Material, rows: Sequence[Row], shown: Sequence[Shown]) -> dict[str, tuple[Any, str]]:
    """Name -> the figure, and in words what is to be seen: the tables have the figures themselves."""
    made: dict[str, tuple[Any, str]] = {}
    if rows:
        bars = [vars(row) for row in rows]
        made["comparison"] = plots.comparison(bars), "Test accuracies with their intervals; the table has the figures."
    curves = {row.label: [net.history for net in row.nets] for row in rows if row.nets}
    if curves:
        made["loss"] = plots.loss(curves), "Loss over the epochs; the table has the figures."
        made["accuracy"] = plots.accuracy(curves), "Test accuracy over the epochs; the table has the figures."
    for one in shown:
        net, told = one.net.name, f"Confusion matrix of the {one.net.name}; the table has the figures."
        confusion = one.net.evaluation.confusion.numpy()
        made[f"confusion-{net}"] = plots.confusion(confusion, net, material.dataset.class_names), told
    if bins := {one.net.name: one.calibration() for one in shown if one.confidence is not None}:
        made["calibration"] = plots.calibration(bins), "Accuracy against confidence; the table has the figures."
    for number, sweep in enumerate(material.sweeps, 1):
        told = f"Validation accuracy against training time, {len(sweep.trials)} trials; see the table."
        made[f"sweep{number}"] = plots.trade_off(sweep.trials), told
        for option, values in searched(sweep.trials).items():
            named = f"sweep{number}-{''.join(c if c.isalnum() else '-' for c in option)}"
            made[named] = plots.effect(option, values), f"Validation accuracy by {option}; see the table."
    return made


def searched(trials: Sequence[Trial]) -> dict[str, list[tuple[str, list[Spread]]]]:
    """The options that differ between trials -> each value, in order, with its trials' validation accuracies.

    Of trials that differ in this option alone, where they cover all its values; else of all.
    """
    found = {}
    for option in dict.fromkeys(name for trial in trials for name in trial.options):
        groups: dict[str, dict[Any, list[Spread]]] = {}
        for trial in trials:
            others = {name: value for name, value in trial.options.items() if name != option}
            value = trial.options.get(option)
            value = value if isinstance(value, int | float | str) else json.dumps(value)
            group = groups.setdefault(json.dumps(others, sort_keys=True), {})
            group.setdefault(value, []).append(trial.val_accuracy)
        every = {value for group in groups.values() for value in group}
        chosen = [group for group in groups.values() if group.keys() == every] or groups.values()
        if len(every) > 1:
            order = sorted(every, key=lambda v: (isinstance(v, str), v))
            found[option] = [
                (f"{v:g}" if isinstance(v, float) else str(v), [a for group in chosen for a in group.get(v, [])])
                for v in order
            ]
    return found


def context(
    material: Material, rows: Sequence[Row], shown: Sequence[Shown], test: LabelledImages | None
) -> dict[str, Any]:
    """What the template is filled with."""
    wanted: dict[str, list[int]] = {one.net.name: one.worst(PICTURES) for one in shown}
    pair = answers.disagreement(*shown) if len(shown) == 2 else None
    pictured = {index for indices in wanted.values() for index in indices}
    pictured |= set(pair.images[:PICTURES]) if pair else set()
    parts = [part for part in (material.study, *material.sweeps) if part]
    name = material.dataset.name
    digits = name in HANDWRITTEN  # only they are drawn by hand
    drawable = [one for one in shown if digits and one.trained and type(one.trained.net) in (FullyConnectedNN, CNN)]
    images = [one.net.evaluation.confusion.sum(1).tolist() for one in shown]
    return {
        "generator": GENERATOR,
        "version": __version__,
        "now": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "dataset": material.dataset,
        "described": described(material.dataset),
        "title": HANDWRITTEN.get(name, plots.cut(name, NAME)),
        "digits": digits,
        "uneven": any(len(set(counts)) > 1 for counts in images),
        "rows": rows,
        "epochs": [(row, by_epoch(row)) for row in rows if row.nets],
        "verdicts": comparison.verdicts(material, rows),
        "claims": [claim for part in parts for claim in part.claims],
        "notes": list(dict.fromkeys(note for part in parts for note in part.notes)),
        "shown": shown,
        "sure": [one for one in shown if one.confidence is not None],
        "not_asked": [one.net for one in shown if one.trained is None],
        "worst": wanted,
        "pair": pair,
        "pictures": {index: picture(test.images[index].numpy()) for index in sorted(pictured)} if test else {},
        "runs": material.runs,
        "study": material.study,
        "sweeps": [(number, sweep, list(searched(sweep.trials))) for number, sweep in enumerate(material.sweeps, 1)],
        "result_options": sorted(reading.result_options()),
        "most_pictures": PICTURES,
        "most_pairs": PAIRS,
        "most_classes": LISTED,
        "counted": len(material.dataset.class_names) <= COUNTED,
        "undrawable": [one.net.name for one in shown if one not in drawable],
        "drawable": {
            "mean": material.dataset.mean[0],
            "std": material.dataset.std[0],
            "nets": [] if test is None else [carried(one, test) for one in drawable],
        },
    }


def by_epoch(row: Row) -> list[dict[str, float]]:
    """The means over the row's repeats, for the epochs that all of them have."""
    keys = ("train_loss", "test_loss", "test_accuracy")
    return [
        {"epoch": entries[0].epoch} | {key: float(np.mean([getattr(entry, key) for entry in entries])) for key in keys}
        for entries in zip(*(net.history for net in row.nets), strict=False)
    ]


def described(dataset: DatasetFacts) -> list[tuple[str, str]]:
    """The data set in words: what it is, and its value."""
    channels, height, width = dataset.shape
    names, colour = dataset.class_names, "colour" if channels == 3 else "grey"
    more = f" and {len(names) - COUNTED:,} more" if len(names) > COUNTED else ""
    told = [
        ("name", plots.cut(dataset.name, WHOLE_NAME)),
        ("training images", f"{dataset.train:,}"),
        ("test images", f"{dataset.test:,}"),
        ("image", f"{height} x {width} pixels (height x width), {channels} channel{'s' * (channels > 1)} ({colour})"),
        ("classes", Markup("{:,}: {}{}").format(len(names), Markup(", ").join(map(named, names[:COUNTED])), more)),
        ("mean of the pixels, 0 to 1", ", ".join(f"{value:.4f}" for value in dataset.mean)),
        ("standard deviation", ", ".join(f"{value:.4f}" for value in dataset.std)),
    ]
    rest: dict[str, object] = {
        "preparation": dataset.preparation,
        "decoder": dataset.decoder,
        "validation images": dataset.validation or None,
        "images per class": dataset.class_counts,
        "duplicates": dataset.duplicates and duplicates_in_words(dataset.duplicates),
        "skipped files": dataset.skipped or None,
        "digest": dataset.digest,
    }
    return told + [
        (name, plots.cut(in_words(as_json(value)), WHOLE_NAME)) for name, value in rest.items() if value is not None
    ]


def duplicates_in_words(found: Duplicates) -> str:
    pairs = "; ".join(f"{one} = {other}" for one, other in found.examples)
    return (
        f"{found.across_splits:,} images for testing or validation are training images as well, {found.two_labels:,}"
        f" have two labels{f': {pairs}' if pairs else ''}"
    )


def in_words(value: object) -> str:
    """A value of JSON. Of many numbers the smallest and the largest."""
    if isinstance(value, Mapping) and len(value) > COUNTED:
        value = list(value.values())
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {in_words(one)}" for name, one in value.items())
    if isinstance(value, list):
        numbers = [one for one in value if isinstance(one, int | float)]
        if len(numbers) == len(value) > COUNTED:
            return f"{in_words(min(numbers))} to {in_words(max(numbers))}"
        return ", ".join(map(in_words, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def carried(one: Shown, test: LabelledImages) -> dict[str, Any]:
    """A model as net.js takes it: its layers in order, float32 as base64, and its logits on a few digits as a check."""
    assert one.trained is not None, "it can be drawn for"
    digits = test.images[:CHECKED]
    logits = one.trained.net(test.normalised(digits))
    return {
        "name": one.net.name,
        "activation": one.trained.options.get("activation", "relu"),
        "layers": layers(one.trained.net),
        "check": [
            {"pixels": image.flatten().tolist(), "logits": values.tolist()}
            for image, values in zip(digits, logits, strict=True)
        ],
    }


def layers(net: nn.Module) -> list[dict[str, Any]]:
    """The weights and biases of a model of convolutions, pooled, and then fully connected layers, in that order."""
    state = list(net.state_dict().values())
    return [
        {"shape": list(weight.shape), "weight": encoded(weight.numpy()), "bias": encoded(bias.numpy())}
        for weight, bias in zip(state[::2], state[1::2], strict=True)
    ]


def encoded(array: np.ndarray) -> str:
    return base64.b64encode(array.astype("<f4").tobytes()).decode()


def percent(value: float, places: int = 2) -> str:
    return f"{100 * value:.{places}f}\u00a0%"


def named(name: str, most: int = NAME) -> str:
    """A class name as an element that keeps its direction of writing to itself, the whole as a tooltip if it is cut."""
    short, whole = plots.cut(name, most), plots.cut(name, WHOLE_NAME)
    title = Markup("") if short == whole else Markup(' title="{}"').format(whole)
    return Markup("<bdi{}>{}</bdi>").format(title, short)


def render(values: dict[str, Any], inlined: dict[str, str]) -> str:
    """The page. All is escaped on its way into it, but for the plots, which plots.inline made, and our own files."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "named": named,
        "sentence": lambda words: words[:1].upper() + words[1:],
        "shown": lambda value: json.dumps(value) if isinstance(value, dict | list | bool) else str(value),
    }
    script = "".join((HERE / name).read_text() for name in ("net.js", "draw.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("page.html").render(
        **values,
        plots={name: Markup(svg) for name, svg in inlined.items()},
        script=Markup(script),
        script_digest=digest,
        style=Markup((HERE / "page.css").read_text()),
    )
