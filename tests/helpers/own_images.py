"""Data sets of images of one's own, of any shape and classes, and runs that were really trained on them."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from distmnist.config import resolve, to_json
from distmnist.data.dataset import Dataset, LabelledImages
from distmnist.runs.callbacks import SaveCheckpoints
from distmnist.runs.records import FINISHED, RunConfig, RunSummary
from distmnist.runs.rundir import RunDirectory
from distmnist.training.trainer import fit


def own_images(
    class_names: Sequence[str], shape: tuple[int, int, int], name: str = "garden", tests: Sequence[int] = (4,)
) -> Dataset:
    """A disc on noise in each image; its size and its colour, or grey, tell the class. Six of a class to train on.

    tests: of how many test images each class has, repeated over the classes.
    """
    draw = torch.Generator().manual_seed(0)
    channels, height, width = shape
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    distance = torch.hypot(y - height / 2, x - width / 2) / max(height, width)
    share = torch.arange(len(class_names)) / len(class_names)
    colours = torch.stack([share, (3 * share) % 1, 1 - share], 1)[:, :channels] * 255

    def part(counts: Sequence[int]) -> LabelledImages:
        labels = torch.cat([torch.full((count,), index) for index, count in enumerate(counts)])
        images = torch.randint(0, 100, (len(labels), *shape), generator=draw).float()
        for image, label in zip(images, labels.tolist(), strict=True):
            image[:, distance < 0.15 + 0.3 * share[label]] = colours[label][:, None]
        return LabelledImages(images.to(torch.uint8), labels, (0.3,) * channels, (0.25,) * channels)

    counts = [tests[index % len(tests)] for index in range(len(class_names))]
    return Dataset(name, "made up", part([6] * len(class_names)), part(counts), tuple(class_names))


def own_run(target: Path, dataset: Dataset, models: Sequence[str] = ("mlp", "cnn"), epochs: int = 1) -> Path:
    """A finished run on the data set, in the form that the command leaves it."""
    job = resolve({"model": ",".join(models) if len(models) < 2 else "all", "epochs": epochs, "batch_size": 8})
    directory, results = RunDirectory(target), {}
    for config in job.configs:
        config = dataclasses.replace(config, amp="off")
        result = fit(config, dataset, callbacks=[SaveCheckpoints(directory, config.model)])
        assert result.figures is not None and result.evaluation is not None
        results[config.model] = result.figures
        directory.write_predictions(config.model, result.evaluation.arrays())
    facts = dataset.describe()
    options = {config.model: to_json(dataclasses.asdict(config)) for config in job.configs}
    directory.write_record("config.json", RunConfig(given={}, options=options, dataset=facts))
    machine = {"world_size": 1, "device": "cpu", "hardware": "a processor", "amp": "off", "threads": 1, "versions": {}}
    directory.write_record("summary.json", RunSummary(status=FINISHED, dataset=facts, models=results, **machine))
    directory.release()
    return target
