"""The command line, made from the fields of `Config`.

python -m distmnist.commandline [options of distmnist.train]    only checks them: nothing, or one line and exit code 2
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from distmnist.config import Config, UsageError, option_flag, resolve, value_type


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; --help lists the options")


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
    groups: dict[str, Any] = {}
    for field in dataclasses.fields(Config):
        heading = field.metadata["group"]
        if heading not in groups:
            groups[heading] = parser.add_argument_group(heading)
        add_option(groups[heading], field)
    given = vars(parser.parse_args(arguments))
    resolve(given)
    return given


def add_option(group: argparse._ActionsContainer, field: dataclasses.Field) -> None:
    """Adds the option that a field of `Config` declares."""
    rules, kind = field.metadata, value_type(field)
    if kind is bool:
        group.add_argument(option_flag(field.name), action="store_true", help=rules["help"])
        return
    shown = field.default not in (None, dataclasses.MISSING)
    metavar = rules["metavar"] or (None if rules["choices"] else "X")
    text = f"{rules['help']} (default: {field.default})" if shown else rules["help"]
    group.add_argument(
        option_flag(field.name),
        type=kind,
        choices=rules["choices"],
        metavar=metavar,
        help=text.replace("%", "%%"),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        parse(arguments)
    except UsageError as error:
        print(f"distmnist: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
