"""JSON that others wrote, checked before it is believed: each file has its shape, and what does not fit is one line."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from distmnist.errors import UsageError

NUMBER = (int, float)
SHAPES: dict[str, Any] = {
    "run": {
        "schema": int,
        "status": str,
        "dataset": {"name": str, "train": int, "test": int},
        "versions": dict,
        "models": dict,
    },
    "config": {"given": dict, "options": dict},
    "net": {"test_accuracy": NUMBER, "test_loss": NUMBER, "train_seconds": NUMBER, "parameters": int, "correct": int},
    "epoch": {"epoch": int, "train_loss": NUMBER, "test_loss": NUMBER, "test_accuracy": NUMBER},
    "study": {"schema": int, "status": str, "dataset": {"name": str}, "seeds": [int], "recipes": dict},
    "recipe": {"accuracy": {"mean": NUMBER, "values": [NUMBER]}, "parameters": int},
    "comparison": {"a": str, "b": str, "words": str},
    "mcnemar": {"seed": int, "only_a": int, "only_b": int, "p": NUMBER},
    "claim": {"claim": str, "verdict": str, "words": str},
    "sweep": {"schema": int, "status": str, "dataset": {"name": str}, "model": str, "trials": list, "winner": dict},
    "failed": {"options": dict, "words": str},
    "winner": {"options": dict, "test_accuracy": {"mean": NUMBER, "values": [NUMBER]}},
    "trial": {
        "options": dict,
        "val_accuracy": {"mean": NUMBER, "values": [NUMBER]},
        "train_seconds": {"mean": NUMBER},
        "pareto": bool,
    },
}
"""What a file must have for the page to be made of it: key -> type, or the same of an object in it; [] for a list."""


def load(path: Path, kind: str | None = None) -> dict[str, Any]:
    """A JSON object, of schema 1, finished, and of the shape of its kind."""
    content = parse(path)
    if kind:
        conform(content, SHAPES[kind], str(path))
        if content["schema"] != 1:
            raise UsageError(f"{path} has schema {content['schema']}; this distmnist reads 1")
        if content["status"] != "finished":
            raise UsageError(f"{path.parent} is not finished ({content['status']}): go on with it, then ask again")
    elif not isinstance(content, dict):
        raise UsageError(f"{path} is damaged: no object")
    return content


def parse(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is damaged: {' '.join(str(error).split())}") from error


def conform(value: Any, shape: Any, where: str) -> None:
    """Raises UsageError unless `value` has what `shape` says. NaN and infinity are no numbers."""
    if isinstance(shape, dict):
        conform(value, dict, where)
        for key, inner in shape.items():
            if key not in value:
                raise UsageError(f"{where} lacks {key!r}: damaged, or of another version")
            conform(value[key], inner, f"{where}, {key}")
    elif isinstance(shape, list):
        conform(value, list, where)
        for number, item in enumerate(value, 1):
            conform(item, shape[0], f"{where}, number {number}")
    elif not isinstance(value, shape) or (isinstance(value, bool) and shape is not bool):
        raise UsageError(f"{where} is no {shape.__name__ if isinstance(shape, type) else 'number'}: damaged")
    elif isinstance(value, float) and not np.isfinite(value):
        raise UsageError(f"{where} is {value}: damaged")
