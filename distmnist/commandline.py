"""The command line, made from the fields of `Config`; what a command raises, made into one line and an exit code.

python -m distmnist.commandline [options of distmnist.train]    only checks them: nothing, or one line and exit code 2
"""

import argparse
import dataclasses
import os
import sys
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import IO, Any, NoReturn

from distmnist.config import Config, RunError, UsageError, option_flag, positive, resolve, value_type

PATIENCE = 3.0
"""Seconds that the other ranks leave to rank 0 to speak: torchrun ends them all as soon as one has left."""


class Parser(argparse.ArgumentParser):
    """argparse's, with one line for wrong usage, and `--help` from rank 0 alone."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; --help lists the options")

    def print_help(self, file: IO[str] | None = None) -> None:
        if is_first("RANK"):
            super().print_help(file)


def add_options(
    parser: argparse.ArgumentParser, fields: Iterable[dataclasses.Field], lists: Collection[str] = ()
) -> None:
    """Adds the options of these fields of `Config`; those named in `lists` take several values, as in --lr 0.1,0.01."""
    groups: dict[str, Any] = {}
    for field in fields:
        rules, kind = field.metadata, value_type(field)
        if rules["group"] not in groups:
            groups[rules["group"]] = parser.add_argument_group(rules["group"])
        group = groups[rules["group"]]
        if kind is bool:
            group.add_argument(option_flag(field.name), action="store_true", help=rules["help"])
            continue
        shown = field.default not in (None, dataclasses.MISSING)
        metavar = rules["metavar"] or (None if rules["choices"] else "X")
        text = f"{rules['help']} (default: {field.default})" if shown else rules["help"]
        choices = rules["choices"]
        if field.name in lists:
            text += f"; {', '.join(choices)}" if choices else ""
            kind, metavar, choices = several(kind), f"{metavar or 'NAME'},...", None
        group.add_argument(
            option_flag(field.name),
            type=kind,
            choices=choices,
            metavar=metavar,
            help=text.replace("%", "%%"),
        )


def several(kind: type) -> Callable[[str], list[Any]]:
    """The type of an option that takes values separated by commas; a value given twice counts once."""

    def values(text: str) -> list[Any]:
        try:
            return list(dict.fromkeys(kind(part) for part in text.split(",")))
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no list of {kind.__name__} values like A,B,C") from None

    return values


def check_count(flag: str, value: int | None) -> None:
    """Raises UsageError if `value`, what was given with `flag`, is below 1."""
    if value is not None and not positive(value):
        raise UsageError(f"{flag} {value} must be at least 1")


def parse(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """The command line -> the options that were typed, checked. Raises UsageError; `--help` prints and exits."""
    parser = Parser(
        prog="distmnist.train",
        usage="torchrun --nproc_per_node=N -m distmnist.train [options]\n"
        "       python -m distmnist.train [options]             the same with one process",
        description="Trains the MNIST classifiers on any number of processes and compares them.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    add_options(parser, dataclasses.fields(Config))
    given = vars(parser.parse_args(arguments))
    resolve(given)
    return given


def answer(work: Callable[[], int]) -> int:
    """What `work` returns, or the exit code of what it raises, whose one line rank 0 says."""
    try:
        return work()
    except UsageError as error:
        return fail(str(error), 2)
    except RunError as error:
        return fail(str(error), 1)
    except KeyboardInterrupt:
        return 130


def fail(message: str, code: int, speaker: str = "RANK") -> int:
    """Has the process speak, on standard error, whose environment's `speaker` is 0 or absent. Returns `code`.

    All but rank 0 wait first, for rank 0 to speak.
    """
    if not is_first("RANK"):
        time.sleep(PATIENCE)
    if is_first(speaker):
        print(f"distmnist: {message}", file=sys.stderr, flush=True)
    return code


def is_first(name: str) -> bool:
    """Whether this process's number `name`, "RANK" or "LOCAL_RANK", is 0."""
    return os.environ.get(name, "0") == "0"


def check() -> int:
    """Exit code 0 if the command line is one of distmnist.train."""
    parse()
    return 0


if __name__ == "__main__":
    sys.exit(answer(check))
