"""What each setting of a recipe is worth: the recipe, and the recipe with one setting back at its default.

Judged on training digits held out, never on test digits. A difference is taken seed by seed against the whole recipe.
Runs that are finished below --output are not trained again, so the command can be interrupted and repeated.
Run: python -m benchmarks.ablation --data-dir DIR --output DIR [--recipe best] [--model cnn] [--seeds 5] [-- OPTIONS]
"""

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.seeds import train
from distmnist.config import Config, option_flag
from distmnist.recipes import RECIPES


def variants(recipe: str, net: str) -> dict[str, list[str]]:
    """What is called how -> the options to type beside the recipe's name."""
    given = {**RECIPES[recipe].get("*", {}), **RECIPES[recipe].get(net, {})}
    found: dict[str, list[str]] = {f"recipe {recipe}": []}
    for name in given:
        default = getattr(Config(), name)
        if default != given[name]:
            found[f"{option_flag(name)} {default}, not {given[name]}"] = [option_flag(name), str(default)]
    return found


def summarize(accuracies: Sequence[float], whole: Sequence[float]) -> str:
    """Per cent: mean, standard deviation, standard error; and the mean difference from `whole` with its error."""
    differences = [own - base for own, base in zip(accuracies, whole, strict=True)]
    root = len(accuracies) ** 0.5
    spread = statistics.stdev(accuracies)
    line = f"{statistics.mean(accuracies):7.3f} {spread:6.3f} {spread / root:6.3f}"
    if any(differences):
        line += f" {statistics.mean(differences):+7.3f} {statistics.stdev(differences) / root:6.3f}"
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--recipe", default="best", choices=[name for name in RECIPES if RECIPES[name]])
    parser.add_argument("--model", nargs="+", default=["cnn", "mlp"], choices=["cnn", "mlp"])
    parser.add_argument("--seeds", type=int, default=5, help="random seeds 0 to N - 1, at least 2 (default: 5)")
    parser.add_argument("--val-fraction", type=float, default=0.1, help="share of training digits to judge on")
    parser.add_argument("options", nargs="*", help="further options of distmnist.train, after --")
    arguments = parser.parse_args()
    if arguments.seeds < 2:
        parser.error("--seeds must be at least 2: one seed has no spread")
    print(f"{'net':4} {'':42} {'mean %':>7} {'s.d.':>6} {'s.e.':>6} {'differ.':>7} {'s.e.':>6}")
    for net in arguments.model:
        common = ["--recipe", arguments.recipe, "--model", net, "--data-dir", str(arguments.data_dir)]
        common += ["--val-fraction", str(arguments.val_fraction), *arguments.options]
        whole: list[float] = []
        for name, typed in variants(arguments.recipe, net).items():
            accuracies = []
            for seed in range(arguments.seeds):
                folder = arguments.output / "-".join([arguments.recipe, net, *typed, str(seed), *arguments.options])
                run = train(folder, 1, [*common, *typed, "--seed", str(seed)])
                accuracies.append(100 * run["models"][net]["val_accuracy"])
            whole = whole or accuracies
            print(f"{net:4} {name:42} {summarize(accuracies, whole)}", flush=True)


if __name__ == "__main__":
    main()
