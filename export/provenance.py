"""Where an exported net comes from, as the strings that travel inside its ONNX files (`metadata_props`)."""

import json
from collections.abc import Sequence

import onnx
import torch

from distmnist import __version__
from distmnist.checkpoint.source import Trained


def describe(trained: Trained, opset: int) -> dict[str, str]:
    """key -> value. Made of the checkpoint and of versions alone: the same on any machine."""
    described = {
        "project": "distmnist",
        "version": __version__,
        "model": trained.name,
        "weights_sha256": trained.weights_sha256,
        "mean": numbers(trained.dataset.mean),
        "std": numbers(trained.dataset.std),
        "class_names": json.dumps(trained.dataset.class_names),
        "dataset": json.dumps(trained.dataset.to_json(), sort_keys=True),
        "test_accuracy": repr(trained.result.test_accuracy) if trained.result else "training was interrupted",
        "training_options": json.dumps(trained.options, sort_keys=True),
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "opset": str(opset),
    }
    if trained.written is not None:
        described["trained_at"] = trained.written
    if trained.versions is not None:
        described["trained_with"] = json.dumps(trained.versions, sort_keys=True)
    return described


def numbers(values: Sequence[float]) -> str:
    """One number a channel, separated by commas."""
    return ",".join(map(repr, values))
