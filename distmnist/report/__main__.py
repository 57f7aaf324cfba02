"""The command: python -m distmnist.report RUN...; a RUN is what train, study or sweep left behind.

Exit codes: 0 done, 1 failed, 2 wrong usage or input, 130 SIGINT.
"""

import argparse
import importlib.util
from collections.abc import Sequence
from typing import NoReturn

from distmnist import streams
from distmnist.commandline import Parser, answer, end, to_path
from distmnist.distributed.launcher import refuse_separate_tasks
from distmnist.errors import UsageError

NEEDED = ("matplotlib", "scipy", "jinja2")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line. Raises UsageError; `--help` prints and exits."""
    parser = Parser(
        prog="distmnist.report",
        usage="python -m distmnist.report RUN... [--output DIR] [--data DATA] [--data-dir DIR]",
        description="Writes one self-contained page on what was trained: open DIR/index.html in any browser.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "runs", nargs="+", type=to_path, metavar="RUN", help="a finished run's directory, a study's or a sweep's"
    )
    parser.add_argument(
        "--output",
        type=to_path,
        metavar="DIR",
        help="where the page and its plots go (default: report/ in the first RUN)",
    )
    parser.add_argument(
        "--data",
        metavar="DATA",
        help="your own images, where they have moved; a function must be named (default: what the run says)",
    )
    parser.add_argument(
        "--data-dir",
        type=to_path,
        metavar="DIR",
        help="where a known data set is (default: $DISTMNIST_DATA, the run's, ./data)",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    return answer(lambda: work(arguments))


def work(arguments: Sequence[str] | None) -> int:
    refuse_separate_tasks()
    given = parse(arguments)
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise UsageError(f"the report needs {', '.join(missing)}; install: pip install 'distmnist[report]'")
    import torch  # 2 s that a mistyped option need not take

    from distmnist.report import page
    from distmnist.runs.rundir import newer_than_latest

    for path in given.runs:
        if newer := newer_than_latest(path):
            streams.warn(f"{path} is a directory, not a link to the newest run, which is {newer}")
    torch.set_num_threads(1)  # 3 s for MNIST's 10,000; two threads take 1.5 s, but 15 s where others use the cores
    streams.say(f"report: {page.write(given.runs, given.output, given.data, given.data_dir)}")
    return 0


def command() -> NoReturn:
    end(main)


if __name__ == "__main__":
    command()
