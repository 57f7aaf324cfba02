"""The command: python -m distmnist.export RUN_OR_CHECKPOINT, or python -m distmnist.export --verify DIR.

Exit codes: 0 done and proved; 1 failed; 2 wrong usage or input; 3 parity failed; 130 SIGINT.
"""

import argparse
import contextlib
import sys
from collections.abc import Sequence
from typing import NoReturn

from distmnist import streams
from distmnist.commandline import Parser, answer, end, to_path
from distmnist.config import is_custom
from distmnist.distributed.failure import print_failure
from distmnist.distributed.launcher import refuse_separate_tasks
from distmnist.errors import UsageError
from distmnist.importing import check_form

from .opsets import DEFAULT_OPSET, OPSETS

LINES = 6
"""Failures named on the console; the others are in the report."""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line. Raises UsageError; `--help` prints and exits."""
    parser = Parser(
        prog="distmnist.export",
        usage="python -m distmnist.export RUN_OR_CHECKPOINT [options]\n"
        "       python -m distmnist.export --verify DIR [RUN_OR_CHECKPOINT] [--data-dir DIR]",
        description="Exports trained models and proves that the files decide as the models do, on every test image.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "path", nargs="?", type=to_path, metavar="RUN_OR_CHECKPOINT", help="a run's directory, or a .pt file"
    )
    parser.add_argument("--verify", type=to_path, metavar="DIR", help="prove an exported folder again; writes nothing")
    parser.add_argument("--output", type=to_path, metavar="DIR", help="where the files go (default: RUN/export)")
    parser.add_argument(
        "--data-dir", type=to_path, metavar="DIR", help="where MNIST is (default: $DISTMNIST_DATA, the run's, ./data)"
    )
    parser.add_argument(
        "--opset", type=int, metavar="N", help=f"ONNX opset, {OPSETS[0]} to {OPSETS[-1]} (default: {DEFAULT_OPSET})"
    )
    parser.add_argument(
        "--int8", action="store_true", help="also <model>.int8.onnx, where it decides nearly always as the net does"
    )
    parser.add_argument(
        "--model", metavar="package.module:callable", help="your own model, which is imported only if it is named here"
    )
    parser.add_argument("--model-args", metavar="NAME=VALUE,...", help="its arguments (default: those of the training)")
    parser.add_argument("--data", metavar="DATA", help="where your own images are now (default: where they were)")
    given = parser.parse_args(arguments)
    if given.verify is None and given.path is None:
        raise UsageError("name a run's directory or a checkpoint; --help lists the options")
    if given.verify and (given.output or given.opset or given.int8):
        raise UsageError("--verify writes nothing: leave out --output, --opset and --int8")
    if given.model is not None and not is_custom(given.model):
        raise UsageError(f"--model {given.model}: only a custom model, package.module:callable, must be named")
    if given.model is not None:
        check_form("--model", given.model, "callable")
    elif given.model_args is not None:
        raise UsageError("--model-args is for a custom model; add --model package.module:callable")
    if given.opset is not None and given.opset not in OPSETS:
        raise UsageError(f"--opset {given.opset} must be {OPSETS[0]} to {OPSETS[-1]}")
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    return answer(lambda: work(arguments))


def work(arguments: Sequence[str] | None) -> int:
    refuse_separate_tasks()
    given = parse(arguments)
    from . import job  # imports torch and onnx: 2 s that a mistyped option need not take

    asked = job.Asked(given.model, given.model_args, given.data, given.data_dir)
    try:
        if given.verify:
            job.verify(given.verify, given.path, asked)
        else:
            job.export(given.path, given.output, asked, given.opset or DEFAULT_OPSET, given.int8)
    except job.ParityError as error:
        return failed(error.failures, error.where)
    return 0


def failed(failures: list[str], where: str) -> int:
    for line in failures[:LINES]:
        with contextlib.suppress(streams.OutputLost):
            streams.write(sys.stderr, f"FAILED {line}")
    more = len(failures) - LINES
    print_failure(where + (f" ({more} more failures)" if more > 0 else ""))
    return 3


def command() -> NoReturn:
    end(main)


if __name__ == "__main__":
    command()
