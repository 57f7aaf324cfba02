"""One evaluation: find the models and the images, ask the models, say the figures."""

import json
import math
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch

from distmnist import streams
from distmnist.config import RunOptions
from distmnist.console import Log
from distmnist.data import sources
from distmnist.data.dataset import Dataset
from distmnist.data.labelled import load_for
from distmnist.errors import RunError, UsageError
from distmnist.evaluate import models
from distmnist.evaluate.figures import lines, to_json
from distmnist.machine import usable_cores
from distmnist.runs.records import RunSummary, read
from distmnist.runs.rundir import newer_than_latest, noted_data
from distmnist.training.evaluation import Evaluation


def run(
    path: Path, data: str | None, data_dir: Path | None, model: str | None, model_args: str | None, *, as_json: bool
) -> None:
    """Evaluates the models in `path` and prints their figures. See __main__.py for the arguments.

    Raises UsageError for a model or images that cannot be used, and RunError for a loss that is not finite.
    """
    found, warnings = models.load(path, model, model_args)
    if newer := newer_than_latest(path):
        warnings = [*warnings, f"{path} is a directory, not a link to the newest run, which is {newer}"]
    for warning in warnings:
        streams.warn(warning)
    if threads := threads_of(path):
        torch.set_num_threads(min(threads, usable_cores()))
    dataset = find_images(path, found, data, data_dir, as_json)
    evaluations = {one.name: one.evaluate(dataset.test) for one in found}
    for name, evaluation in evaluations.items():
        if not math.isfinite(evaluation.loss):
            raise RunError(f"{name}: the loss is {evaluation.loss}: the model's logits for these images are not finite")
    if as_json:
        streams.say(as_object(dataset, evaluations))
    else:
        for line in lines(evaluations, dataset.class_names):
            streams.say(line)


def threads_of(path: Path) -> int | None:
    """With how many threads the run was trained that `path` is part of: with another number sums are rounded otherwise.

    None if it does not say.
    """
    path = path.resolve()
    for folder in (path, *path.parents[:2]):
        try:
            return max(1, read(folder / "summary.json", RunSummary).threads)
        except (UsageError, FileNotFoundError):
            continue  # another program's, or none
    return None


def find_images(
    path: Path, found: list[models.Model], data: str | None, data_dir: Path | None, as_json: bool
) -> Dataset:
    """The images to evaluate on, as the models take them; what is said of them goes to standard error under --json.

    Raises UsageError for images that are not there or cannot be used.
    """
    facts = found[0].dataset
    for other in found[1:]:
        if difference := other.dataset.difference(facts):
            raise UsageError(f"{path}: the models were trained on different data sets: {difference}; name one of them")
    say = partial(streams.write, sys.stderr) if as_json else streams.say
    if data is not None:
        with Log().progress("reading images", 1, unit="image") as bar:

            def progress(done: int, of: int) -> None:
                bar.total = of
                bar.update(done)

            return load_for(facts, data, data_dir or RunOptions().data_dir, say, progress)
    purpose = "the evaluation needs its test images"
    dataset = sources.find_dataset(facts, found[0].options, None, data_dir, noted_data(path), purpose)
    say(f"evaluating the {len(dataset.test):,} test images of {dataset.name}, on which training was tested")
    return dataset


def as_object(dataset: Dataset, evaluations: Mapping[str, Evaluation]) -> str:
    """What --json prints."""
    return json.dumps(
        {
            "dataset": dataset.describe().to_json(),
            "models": {name: to_json(evaluation) for name, evaluation in evaluations.items()},
        }
    )
