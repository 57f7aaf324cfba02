"""What each setting of a recipe is worth: the recipe, and the recipe with one setting back at its default, or one more.

Judged on training digits held out, never on test digits. A difference is taken seed by seed against the whole recipe.
Runs that are finished below --output are not trained again, so the command can be interrupted and repeated.
Run: python -m benchmarks.ablation --data-dir DIR --output DIR [--recipe best] [--model cnn] [--add dropout=0.1 ...]
"""

import argparse
import itertools
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from distmnist.commandline import answer, parse
from distmnist.config import TrainConfig, option_flag
from distmnist.models.build import MODELS
from distmnist.recipes import RECIPES
from distmnist.runs import pool
from distmnist.training.requests import Request


def variants(recipe: str, net: str, added: Sequence[str] = ()) -> dict[str, list[str]]:
    """What is called how -> the options to type beside the recipe's name. `added`: settings as in lr=0.01."""
    given = {**RECIPES[recipe].get("*", {}), **RECIPES[recipe].get(net, {})}
    found: dict[str, list[str]] = {f"recipe {recipe}": []}
    for name in given:
        default = getattr(TrainConfig(), name)
        if default != given[name]:
            found[f"{option_flag(name)} {default}, not {given[name]}"] = [option_flag(name), str(default)]
    for setting in added:
        name, _, value = setting.partition("=")
        found[f"and {option_flag(name)} {value}"] = [option_flag(name), value]
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


def work() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--recipe", default="best", choices=[name for name in RECIPES if RECIPES[name]])
    parser.add_argument("--model", default="cnn", choices=list(MODELS))
    parser.add_argument(
        "--add", nargs="+", default=[], metavar="NAME=VALUE", help="settings to try beside the recipe's"
    )
    parser.add_argument("--seeds", type=int, default=5, help="random seeds 0 to N - 1, at least 2 (default: 5)")
    parser.add_argument("--val-fraction", type=float, default=0.1, help="share of training digits to judge on")
    parser.add_argument("options", nargs="*", help="further options of distmnist.train, after --")
    arguments = parser.parse_args()
    if arguments.seeds < 2:
        parser.error("--seeds must be at least 2: one seed has no spread")
    net, seeds = arguments.model, range(arguments.seeds)
    common = ["--recipe", arguments.recipe, "--model", net, "--data-dir", str(arguments.data_dir)]
    common += ["--val-fraction", str(arguments.val_fraction), *arguments.options]
    members: dict[str, list[pool.Member]] = {}
    for name, typed in variants(arguments.recipe, net, arguments.add).items():
        folders = ["-".join([arguments.recipe, net, *typed, str(seed), *arguments.options]) for seed in seeds]
        given = parse([*common, *typed])
        members[name] = [
            pool.Member(arguments.output / folder, {**given, "seed": seed})
            for folder, seed in zip(folders, seeds, strict=True)
        ]
    every = list(itertools.chain(*members.values()))
    accuracies: dict[Path, float] = {}
    whole, waiting = members[f"recipe {arguments.recipe}"], list(members)
    print(f"{'':42} {'mean %':>7} {'s.d.':>6} {'s.e.':>6} {'differ.':>7} {'s.e.':>6}")
    for member, error in pool.run(every, pool.share_out(None, None, "auto", len(every)), lambda: Request.NOTHING):
        if error:
            raise error
        accuracies[member.path] = 100 * member.result(net).val_accuracy
        while waiting and all(one.path in accuracies for one in members[waiting[0]]):
            name = waiting.pop(0)
            own, base = ([accuracies[one.path] for one in these] for these in (members[name], whole))
            print(f"{name:42} {summarize(own, base)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(answer(work))
