"""Train two MNIST classifiers on any number of processes, and prove that what you ship is what you trained."""

import importlib

__version__ = "0.1.0"

PUBLIC = {
    "TrainConfig": "config",
    "Dataset": "data.dataset",
    "LabelledImages": "data.dataset",
    "load_dataset": "data.sources",
    "build_model": "models.build",
    "Callback": "training.callbacks",
    "fit": "training.trainer",
}
"""Name -> the module that has it. They are imported when they are asked for: torch takes two seconds."""

__all__ = [*PUBLIC]


def __getattr__(name: str) -> object:
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *PUBLIC])
