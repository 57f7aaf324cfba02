"""Which hyperparameters are best? Tries settings over several random seeds, and tests the winner once.

Run: python -m distmnist.sweep [--model cnn] [--search grid] [--lr 1e-3,3e-3] ... [--output DIR]

Settings are judged on held-out training digits, by accuracy, spread over the random seeds, and training time. Every run
is an ordinary one, in DIR/runs. Started again with the same --output, the command keeps what is finished and goes on
with the rest. Exit codes: 0 done, 1 failed, 2 wrong usage or input, 129 SIGHUP, 130 SIGINT, 143 SIGTERM.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from distmnist.commandline import Parser, add_options, answer, check_count, end, to_path
from distmnist.config import FIELDS, TRAINING, Json, is_custom, models_named, option_flag, resolve, rules
from distmnist.distributed.launcher import refuse_separate_tasks
from distmnist.errors import UsageError

SPACE: dict[str, list[Json]] = {
    "lr": [3e-4, 1e-3, 3e-3],
    "batch_size": [32, 64, 128],
    "epochs": [3, 5, 10],
    "activation": ["relu", "leaky_relu", "tanh"],
    "dropout": [0.0, 0.2, 0.5],
    "optimizer": ["adam", "sgd"],
}
"""What is explored if nothing is listed: the published options and batch sizes, each with values on either side."""

PASSED_ON = ("activation", "dropout")
"""Options that a model of the user's own may ignore: they are explored only where they are typed."""

OWN = ("model", "val_fraction", "output", "resume", "seed", "virtual_ranks", "timeout", "print_fast")
"""Options of training that have one value in the whole sweep, or that one process has no use for."""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The sweep's own options; `space`: option -> the values to try; `given`: the other options of training.

    Raises UsageError; `--help` prints and exits.
    """
    parser = Parser(
        prog="distmnist.sweep",
        usage="python -m distmnist.sweep [options]",
        description="Tries hyperparameters on held-out digits, and tests the winner once. Options of training take"
        " several values: --lr 1e-3,3e-3. If none does, the published exploration is repeated: "
        + ", ".join(f"{option_flag(name)} {','.join(map(str, values))}" for name, values in SPACE.items()),
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument(
        "--model",
        default="cnn",
        metavar="MODEL",
        help="the model to explore; package.module:callable for one of your own (default: cnn)",
    )
    parser.add_argument(
        "--search",
        type=lambda text: "one-at-a-time" if text == "star" else text,  # the first edition's word
        choices=("one-at-a-time", "grid", "random", "optuna"),
        default="one-at-a-time",
        help="one-at-a-time: the published setting and all that differ from it in one option; grid: every combination;"
        " random: --trials of them; optuna: --trials that follow from those before (default: one-at-a-time)",
    )
    parser.add_argument("--trials", type=int, default=20, metavar="N", help="of random and optuna (default: 20)")
    parser.add_argument(
        "--repeats", type=int, default=3, metavar="N", help="random seeds a trial, from --seed on (default: 3)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="the first random seed (default: 0)")
    parser.add_argument(
        "--val-fraction",
        type=float,
        default=0.1,
        metavar="X",
        help="share of the training digits held out to choose by (default: 0.1)",
    )
    parser.add_argument(
        "--jobs", type=int, default=None, metavar="N", help="runs at a time (default: one a GPU, else one a core)"
    )
    parser.add_argument(
        "--output",
        type=to_path,
        default=Path("runs/sweep"),
        metavar="DIR",
        help="where the sweep goes, or the one to go on with (default: runs/sweep)",
    )
    names = [name for name in FIELDS if name not in OWN]
    lists = {name for name in names if rules(FIELDS[name]).group == TRAINING} - {"model_args"}  # a list by itself
    add_options(parser, names, lists)
    given = vars(parser.parse_args(arguments))
    typed = {name: given.pop(name) for name in list(given) if name in lists}
    sweeps = ("search", "trials", "repeats", "seed", "jobs", "output")
    own = argparse.Namespace(**{name: given.pop(name) for name in sweeps})
    own.given = given
    left_out = PASSED_ON if is_custom(given["model"]) else ()
    space = {name: values for name, values in SPACE.items() if name not in left_out}
    own.space = typed if any(len(values) > 1 for values in typed.values()) else {**space, **typed}
    check(own)
    return own


def check(own: argparse.Namespace) -> None:
    for name in ("trials", "repeats", "jobs"):
        check_count(option_flag(name), getattr(own, name))
    if len(models_named(model := own.given["model"])) > 1:
        raise UsageError(f"--model {model} cannot be swept: its models have winners of their own; name one of them")
    if not own.given["val_fraction"]:
        raise UsageError("--val-fraction 0 leaves no digits to choose by; use 0.1, say")
    resolve({**own.given, "seed": own.seed})
    for name, values in own.space.items():
        for value in values:
            resolve({**own.given, name: value})


def main(arguments: Sequence[str] | None = None) -> int:
    return answer(lambda: work(arguments))


def work(arguments: Sequence[str] | None) -> int:
    refuse_separate_tasks()
    own = parse(arguments)
    from distmnist.sweep import exploration  # imports torch and scipy: 3 s that a mistyped option need not take

    return exploration.run(own)


def command() -> NoReturn:
    end(main)


if __name__ == "__main__":
    command()
