"""The command `distmnist VERB [options]`: distmnist train, distmnist evaluate, and so on.

python -m distmnist VERB [options]                                in a clone, too
torchrun --nproc_per_node=N -m distmnist train [options]          on several processes

Each verb is a command of its own: `distmnist train` is `python -m distmnist.train`.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

from distmnist.commandline import RanksParser, answer, end
from distmnist.errors import UsageError
from distmnist.text import shown


class Verb(NamedTuple):
    """module: has the verb's function `command`, which reads sys.argv and ends the process."""

    module: str
    help: str


VERBS = {
    "train": Verb("distmnist.train", "trains image classifiers, on any number of processes"),
    "evaluate": Verb("distmnist.evaluate.__main__", "evaluates trained or exported models on labelled images"),
    "export": Verb("distmnist.export.__main__", "exports trained models and proves that the files predict alike"),
    "predict": Verb("distmnist.export.predict", "predicts the classes of images with an exported model"),
    "study": Verb("distmnist.study.__main__", "trains with several random seeds and compares models and recipes"),
    "sweep": Verb("distmnist.sweep.__main__", "searches for good values of options"),
    "report": Verb("distmnist.report.__main__", "writes a page on what was trained"),
    "doctor": Verb("distmnist.doctor.__main__", "checks a machine or a cluster before training"),
}
"""Imported when they are asked for: most import torch, which takes two seconds."""


def choose(arguments: Sequence[str]) -> Verb:
    """The verb that the command line begins with. Raises UsageError without one; `--help` prints and exits."""
    width = max(map(len, VERBS))
    parser = RanksParser(
        prog="distmnist",
        usage="distmnist VERB [options]\n       distmnist VERB --help",
        description="Trains image classifiers on any number of processes, and proves that what you ship is what you"
        "\ntrained.",
        epilog="verbs:\n" + "\n".join(f"  {name:{width}}  {verb.help}" for name, verb in VERBS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    choices = f"choose from {', '.join(VERBS)}"
    if not arguments:
        raise UsageError(f"no verb is given; {choices}")
    first = arguments[0]
    if first not in VERBS:
        if first.startswith("-"):
            parser.parse_args([first])
        raise UsageError(f"there is no verb {shown(first)}; {choices}")
    return VERBS[first]


def command() -> NoReturn:
    """Runs the verb, which ends the process with its own exit code."""
    module = ""

    def find() -> int:
        nonlocal module
        module = choose(sys.argv[1:]).module
        return 0

    if code := answer(find, ranks=True):
        end(lambda: code)
    del sys.argv[1]
    importlib.import_module(module).command()
    raise AssertionError("a command ends the process")
