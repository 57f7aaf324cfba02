"""Runs that were never trained: directories that a study and a sweep take for finished members, with chosen figures."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from distmnist.config import resolve, resolve_model, to_json

LABELS = np.arange(120) % 10
"""Of as many test digits as the fixture `digits` has."""
MNIST = {"name": "mnist", "train": 300, "test": 120}
SAMPLE = {**MNIST, "name": "mnist-sample"}


def figures(wrong: range | list[int] = range(0), loss: float = 0.1) -> dict[str, Any]:
    """A net's entry in summary.json, and its answers: wrong about the digits `wrong`, with the same loss on each."""
    predictions = LABELS.copy()
    predictions[list(wrong)] = (predictions[list(wrong)] + 1) % 10
    return {
        "test_accuracy": float((predictions == LABELS).mean()),
        "test_loss": loss,
        "notebook_test_loss": loss / 64,
        "parameters": 1000,
        "train_seconds": 1.0,
        "arrays": {"predictions": predictions, "losses": np.full(120, loss, np.float32), "labels": LABELS},
    }


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
    summary = {"status": "finished", "dataset": dataset, "amp": "off", "device": "cpu", "models": models}
    (path / "summary.json").write_text(json.dumps(summary))
