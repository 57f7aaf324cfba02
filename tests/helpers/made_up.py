"""Runs, studies and sweeps made up from a trained run, in the form that the commands leave them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

RATES = {"reference": 1e-3, "best": 3e-3}

Change = Callable[[dict[str, Any]], Any]


def change(path: Path, how: Change) -> None:
    """Changes a JSON file in place."""
    content = json.loads(path.read_text())
    how(content)
    path.write_text(json.dumps(content))


def made_up(run: Path, target: Path, *, seed: int = 0, wrong: int = 0, **options: Any) -> Path:
    """A copy of `run` as if trained with another seed and options, `wrong` more digits of each net being misread."""
    shutil.copytree(run, target, ignore=shutil.ignore_patterns("report", "prev.pt"))
    for net in ("mlp", "cnn"):
        change(target / "config.json", lambda c, net=net: c["options"][net].update(seed=seed, **options))
        if not wrong:
            continue
        with np.load(target / net / "predictions.npz") as arrays:
            arrays = dict(arrays)
        spoilt = np.flatnonzero(arrays["predictions"] == arrays["labels"])[:wrong]
        arrays["predictions"][spoilt] = (arrays["labels"][spoilt] + 1) % 10
        np.savez(target / net / "predictions.npz", **arrays)
        correct = int((arrays["predictions"] == arrays["labels"]).sum())
        figures = {"correct": correct, "test_accuracy": correct / len(arrays["labels"])}
        change(target / "summary.json", lambda s, net=net, figures=figures: s["models"][net].update(figures))
    return target


def study(run: Path, target: Path) -> Path:
    """Two recipes and two seeds of both nets, in the form that distmnist.study leaves."""

    def figure(*values: float) -> dict[str, Any]:
        return {
            "mean": sum(values) / 2,
            "std": 0.01,
            "low": min(values) - 0.01,
            "high": max(values) + 0.01,
            "values": values,
        }

    (target / "runs").mkdir(parents=True)
    for recipe in ("reference", "best"):
        made_up(run, target / "runs" / f"{recipe}-seed0", recipe=recipe, lr=RATES[recipe])
        made_up(run, target / "runs" / f"{recipe}-seed1", recipe=recipe, lr=RATES[recipe], seed=1, wrong=3)
    net = {
        "accuracy": figure(0.91, 0.93),
        "loss": figure(0.3, 0.2),
        "notebook_loss": figure(0.003, 0.002),
        "train_seconds": figure(2.0, 3.0),
        "parameters": 9,
    }
    comparison = {
        "recipe": "best",
        "a": "mlp",
        "b": "cnn",
        "difference": {"mean": 0.01, "low": 0.0, "high": 0.02},
        "bootstrap": {"low": 0.0, "high": 0.02},
        "mcnemar": [{"seed": 0, "only_a": 3, "only_b": 17, "p": 0.0026}],
        "loss_ratio": {"mean": 0.7, "low": 0.6, "high": 0.8},
        "loss_ratio_bootstrap": {"low": 0.6, "high": 0.8},
        "significant": True,
        "words": "The cnn is better by 1.00 points.",
    }
    content = {
        "schema": 1,
        "status": "finished",
        "dataset": {"name": "mnist-sample", "train": 4000, "test": 1000},
        "repeats": 2,
        "seeds": [0, 1],
        "versions": {},
        "jobs": "2 at a time",
        "recipes": {recipe: {"mlp": net, "cnn": net} for recipe in ("reference", "best")},
        "comparisons": [comparison],
        "recipe_comparisons": [],
        "notes": [],
        "claims": [{"claim": "over 1 percent better", "verdict": "sharpened", "words": "by 1.6 to 2.0 points"}],
    }
    (target / "study.json").write_text(json.dumps(content))
    return target


def sweep(target: Path) -> Path:
    """Six trials over the learning rate and the activation, in the form that distmnist.sweep leaves."""
    target.mkdir(parents=True)
    trials = [
        {
            "trial": number,
            "options": {"lr": rate, "activation": activation},
            "seeds": [0, 1],
            "val_accuracy": {"mean": accuracy, "std": 0.002, "values": [accuracy - 0.002, accuracy + 0.002]},
            "train_seconds": {"mean": seconds, "std": 0.1, "values": [seconds, seconds]},
            "pareto": pareto,
        }
        for number, (rate, activation, accuracy, seconds, pareto) in enumerate(
            [
                (3e-4, "relu", 0.951, 3.0, False),
                (1e-3, "relu", 0.971, 3.1, True),
                (3e-3, "relu", 0.968, 3.0, True),
                (3e-4, "gelu", 0.953, 4.0, False),
                (1e-3, "gelu", 0.9735, 4.2, True),
                (3e-3, "gelu", 0.967, 4.1, False),
            ]
        )
    ]
    content = {
        "schema": 1,
        "status": "finished",
        "dataset": {"name": "mnist-sample", "train": 4000, "test": 1000},
        "model": "mlp",
        "search": "grid",
        "space": {"lr": [3e-4, 1e-3, 3e-3], "activation": ["relu", "gelu"]},
        "val_fraction": 0.1,
        "jobs": "2 at a time",
        "seeds": [0, 1],
        "versions": {},
        "rule": "the best",
        "proposed": [trial["options"] for trial in trials],
        "trials": trials,
        "winner": {
            "trial": 4,
            "options": trials[4]["options"],
            "seeds": [2, 3],
            "test_accuracy": {"mean": 0.9712, "values": [0.97, 0.9724]},
            "test_loss": {"mean": 0.1, "values": [0.1, 0.1]},
            "train_seconds": {"mean": 4.2, "values": [4.2, 4.2]},
        },
        "claims": [],
        "notes": [],
    }
    (target / "sweep.json").write_text(json.dumps(content))
    return target
