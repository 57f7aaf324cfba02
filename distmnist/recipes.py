"""The recipes: settings of each net that were chosen together, each with its reason and its measured gain."""

from typing import Any

RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "reference": {},
    "fast": {"*": {"epochs": 1, "schedule": "onecycle", "lr": 3e-3}},
    "best": {"*": {"schedule": "onecycle", "lr": 3e-3}},
    "long": {"*": {"schedule": "onecycle", "lr": 3e-3}},
}
"""recipe -> net, or "*" for every net -> options. Defaults give way to the recipe, and the recipe to what was typed."""
