"""The recipes: settings of each net that were chosen together, each with its reason and its measured gain."""

from typing import Any

RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "reference": {},
    "fast": {
        "*": {
            "epochs": 1,
            "schedule": "onecycle",
            "lr": 4e-3,
            "label_smoothing": 0.1,
        },
    },
    "best": {
        "*": {
            "schedule": "onecycle",
            "lr": 3e-3,
        },
        "mlp": {
            "augment": 0.7,
        },
        "cnn": {
            "label_smoothing": 0.1,
        },
    },
    "long": {
        "*": {
            "schedule": "onecycle",
            "batch_size": 128,
            "lr": 4e-3,
        },
        "mlp": {
            "epochs": 60,
            "augment": 0.7,
        },
        "cnn": {
            "epochs": 15,
            "augment": 1.0,
            "label_smoothing": 0.1,
            "dropout": 0.1,
        },
    },
}
"""recipe -> net, or "*" for every net -> options. Defaults give way to the recipe, and the recipe to what was typed."""
