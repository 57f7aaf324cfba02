"""The command: python -m distmnist.evaluate RUN, CHECKPOINT or MODEL.onnx; one process, on the CPU.

Exit codes: 0 done, 1 failed, 2 wrong usage or input, 130 SIGINT.
"""

import argparse
from collections.abc import Sequence
from typing import NoReturn

from distmnist.commandline import Parser, answer, end, to_path
from distmnist.config import is_custom
from distmnist.distributed.launcher import refuse_separate_tasks
from distmnist.errors import UsageError
from distmnist.importing import check_form


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line. Raises UsageError; `--help` prints and exits."""
    parser = Parser(
        prog="distmnist.evaluate",
        usage="python -m distmnist.evaluate {RUN|CHECKPOINT|MODEL.onnx} [options]",
        description="Evaluates models on labelled images: those that they were tested on in training, or others.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "path",
        type=to_path,
        metavar="RUN|CHECKPOINT|MODEL.onnx",
        help="a run's directory, for all its models; one checkpoint (.pt); or an exported model, <model>.onnx or"
        " <model>.pixels.onnx",
    )
    parser.add_argument(
        "--data",
        metavar="DATA",
        help="other labelled images: a folder of class folders, a .csv or .npz file, package.module:function, or a"
        " known data set; classes are matched by name (default: the test images of the training)",
    )
    parser.add_argument(
        "--data-dir",
        type=to_path,
        metavar="DIR",
        help="where a known data set is (default: $DISTMNIST_DATA, the run's, ./data)",
    )
    parser.add_argument(
        "--model",
        metavar="package.module:callable",
        help="a custom model, as in training: no file chooses what is imported",
    )
    parser.add_argument(
        "--model-args", metavar="NAME=VALUE,...", help="arguments of the custom model (default: those of its training)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    given = parser.parse_args(arguments)
    if given.model is not None:
        if not is_custom(given.model):
            raise UsageError(f"--model {given.model}: only a custom model, package.module:callable, must be named")
        check_form("--model", given.model, "callable")
    elif given.model_args is not None:
        raise UsageError("--model-args is for a custom model; add --model package.module:callable")
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    return answer(lambda: work(arguments))


def work(arguments: Sequence[str] | None) -> int:
    refuse_separate_tasks()
    given = parse(arguments)
    from distmnist.evaluate import evaluation  # imports torch: 2 s that --help and a mistyped option need not take

    evaluation.run(given.path, given.data, given.data_dir, given.model, given.model_args, as_json=given.json)
    return 0


def command() -> NoReturn:
    end(main)


if __name__ == "__main__":
    command()
