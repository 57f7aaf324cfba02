"""The command line, made from the options of config.py; what a command raises, made into one line and an exit code.

python -m distmnist.commandline [options of distmnist.train]    only checks them: nothing, or one line and exit code 2
"""

import argparse
import dataclasses
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from distmnist import streams
from distmnist.config import FIELDS, Job, expand, option_flag, positive, resolve, rules, value_type
from distmnist.distributed.failure import describe, exit_code, print_failure, print_once_a_machine
from distmnist.distributed.launcher import has_siblings
from distmnist.errors import RunError, UsageError

if TYPE_CHECKING:
    from _typeshed import SupportsWrite


class Parser(argparse.ArgumentParser):
    """argparse's, with one line for wrong usage."""

    def error(self, message: str) -> NoReturn:
        if "--local-rank" in message or "--local_rank" in message:
            raise UsageError(
                "--local-rank is what torch.distributed.launch adds, the launcher that torchrun has replaced;"
                " use torchrun with the same options"
            )
        raise UsageError(f"{message}; --help lists the options")

    def print_help(self, file: "SupportsWrite[str] | None" = None) -> None:
        """Raises OutputLost."""
        if file:
            super().print_help(file)
        else:
            streams.say(self.format_help().rstrip("\n"))


class RanksParser(Parser):
    """Of a command that several processes run: rank 0 alone prints its help."""

    def print_help(self, file: "SupportsWrite[str] | None" = None) -> None:
        if not has_siblings() or os.environ.get("RANK") == "0":
            super().print_help(file)


def add_options(parser: argparse.ArgumentParser, names: Iterable[str], lists: Collection[str] = ()) -> None:
    """Adds these options of training; those named in `lists` take several values, as in --lr 0.1,0.01."""
    groups: dict[str, argparse._ArgumentGroup] = {}
    for name in names:
        field = FIELDS[name]
        allowed, kind = rules(field), value_type(field)
        if allowed.group not in groups:
            groups[allowed.group] = parser.add_argument_group(allowed.group)
        group = groups[allowed.group]
        if kind is bool:
            group.add_argument(option_flag(name), action="store_true", help=allowed.help.replace("%", "%%"))
            continue
        default = allowed.shown or field.default
        text = allowed.help
        if default not in (None, dataclasses.MISSING):
            text += f" (default: {default})"
        parse: Callable[[str], Any] = to_path if kind is Path else kind
        choices = allowed.choices
        metavar = allowed.metavar or (None if choices else "X")
        if name in lists:
            text += f"; {', '.join(choices)}" if choices else ""
            parse, metavar, choices = several(kind), f"{metavar or 'NAME'},...", None
        text = text.replace("%", "%%")
        group.add_argument(option_flag(name), type=parse, choices=choices, metavar=metavar, help=text)
        if allowed.alias:
            group.add_argument(option_flag(allowed.alias), dest=name, type=parse, help=argparse.SUPPRESS)


def several(kind: type) -> Callable[[str], list[Any]]:
    """The type of an option that takes values separated by commas; a value given twice counts once."""

    def values(text: str) -> list[Any]:
        try:
            return list(dict.fromkeys(kind(part) for part in text.split(",")))
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no list of {kind.__name__} values like A,B,C") from None

    return values


def to_path(text: str) -> Path:
    """The type of an option or argument that is a path: with ~ for the home directory, and never empty.

    Path("") would be the current directory, and an unset variable the likeliest cause.
    """
    if not text:
        raise argparse.ArgumentTypeError("the path is empty; is it a variable that is not set?")
    return expand(text)


def hint(*words: str | Path) -> str:
    """A command for this Python that can be typed where it is printed: quoted, and with a name the shell finds."""
    here = Path(sys.executable).parent
    names = (name for name in ("python", "python3") if (found := shutil.which(name)) and Path(found).parent == here)
    python = next(names, sys.executable)
    return " ".join([quoted(python), *map(quoted, words)])


def quoted(word: str | Path) -> str:
    """The word as a shell takes it; a path that begins with a dash is no option."""
    dashed = isinstance(word, Path) and str(word).startswith("-")
    return shlex.quote(f"./{word}" if dashed else str(word))


def check_count(flag: str, value: int | None) -> None:
    """Raises UsageError if `value`, what was given with `flag`, is below 1."""
    if value is not None and not positive(value):
        raise UsageError(f"{flag} {value} must be at least 1")


def parse(arguments: Sequence[str] | None = None) -> Job:
    """The command line -> what is to be done. Raises UsageError; `--help` prints and exits."""
    parser = RanksParser(
        prog="distmnist.train",
        usage="torchrun --nproc_per_node=N -m distmnist.train [options]\n"
        "       python -m distmnist.train [options]             the same with one process",
        description="Trains image classifiers on any number of processes: MNIST's two, or your model on your images.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    add_options(parser, FIELDS)
    return resolve(vars(parser.parse_args(arguments)))


def answer(work: Callable[[], int], *, ranks: bool = False) -> int:
    """What `work` returns, or the exit code of what it raises, whose one line is printed.

    That is UsageError, RunError, and OSError of a file, such as one below a directory that this user may not enter.

    ranks: several processes may run this command; then one of them prints the line.
    """
    try:
        return work()
    except streams.OutputLost as lost:
        if not lost.printed:
            print_failure(str(lost))
        return lost.code
    except (UsageError, RunError) as error:
        if not error.printed:
            (print_once_a_machine if ranks and has_siblings() else print_failure)(str(error))
        return exit_code(error)
    except OSError as error:
        if not error.filename:
            raise
        (print_once_a_machine if ranks and has_siblings() else print_failure)(describe(error))
        return exit_code(error)
    except KeyboardInterrupt:
        return 130


def end(main: Callable[[], int]) -> NoReturn:
    """Ends the process as the program `main`, with its exit code."""
    try:
        sys.exit(main())
    finally:
        streams.settle()


def check() -> int:
    """Exit code 0 if the command line is one of distmnist.train."""
    parse()
    return 0


if __name__ == "__main__":
    end(lambda: answer(check))
