"""Runs that were never trained: directories that a study and a sweep take for finished members, with chosen figures."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from digits import few_digits, stored

from distmnist.config import resolve, resolve_model, to_json

LABELS = np.arange(120) % 10
"""Of as many test digits as the fixture `digits` has."""
MNIST, SAMPLE = (stored(dataclasses.replace(few_digits(), name=name)) for name in ("mnist", "mnist-sample"))


def figures(wrong: range | list[int] = range(0), loss: float = 0.1) -> dict[str, Any]:
    """A net's entry in summary.json, and its answers: wrong about the digits `wrong`, with the same loss on each."""
    predictions = LABELS.copy()
    predictions[list(wrong)] = (predictions[list(wrong)] + 1) % 10
    correct = int((predictions == LABELS).sum())
    return result(test_accuracy=correct / 120, test_loss=loss, correct=correct) | {
        "arrays": {"predictions": predictions, "losses": np.full(120, loss, np.float32), "labels": LABELS},
    }


def result(**known: Any) -> dict[str, Any]:
    """A net's entry in summary.json, of which `known` matters."""
    loss = known.get("test_loss", 0.1)
    counts = {"correct": 0, "count": 120, "parameters": 1000, "epochs": 5, "steps": 25}
    accuracies = {"test_accuracy": 0.0, "per_class_accuracy": [0.0] * 10, "confusion": [[0] * 10] * 10}
    losses = {"test_loss": loss, "notebook_test_loss": loss / 64, "train_loss": loss}
    rates = {"train_seconds": 1.0, "images_per_second": 1000.0}
    return {**counts, **accuracies, **losses, **rates, "weights_sha256": "0", **known}


def finished(
    path: Path, given: Mapping[str, Any], nets: Mapping[str, dict[str, Any]], dataset: dict[str, Any] = SAMPLE
) -> None:
    """Writes the finished run in `path`. given: what was typed; nets: name -> `figures`, or a part."""
    path.mkdir(parents=True)
    run = dataclasses.asdict(resolve(dict(given)).run)
    options = {net: to_json(dataclasses.asdict(resolve_model(dict(given), net)) | run) for net in nets}
    (path / "config.json").write_text(json.dumps({"given": to_json(dict(given)), "options": options}))
    models = {}
    for net, figure in nets.items():
        models[net] = {name: value for name, value in figure.items() if name != "arrays"}
        if "arrays" in figure:
            (path / net).mkdir()
            np.savez(path / net / "predictions.npz", **figure["arrays"])
    (path / "summary.json").write_text(json.dumps(summary("finished", models, dataset)))


def summary(status: str, models: dict[str, Any], dataset: dict[str, Any] = SAMPLE) -> dict[str, Any]:
    """The content of summary.json. models: name -> `result`."""
    machine = {"world_size": 1, "device": "cpu", "hardware": "a processor", "amp": "off", "threads": 1, "versions": {}}
    return {"status": status, "dataset": dataset, **machine, "models": models}
