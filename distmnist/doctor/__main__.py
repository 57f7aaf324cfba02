"""Checks a machine, or a cluster, before anything is trained on it.

python -m distmnist.doctor [options]                            this machine, and its network
torchrun --nproc_per_node=N -m distmnist.doctor [options]       also: N processes, their all-reduce, their step times

Every line is ok, a warning or a problem with what to do about it. Exit codes: 0 no problem, 1 a problem, 2 wrong usage.
"""

import argparse
from collections.abc import Sequence
from typing import NoReturn

from distmnist.commandline import RanksParser, add_options, answer, end
from distmnist.config import FIELDS, IMAGES, Job, resolve, rules
from distmnist.distributed.launcher import refuse_separate_tasks

OPTIONS = (
    *(name for name, field in FIELDS.items() if rules(field).group == IMAGES),
    *("data_dir", "output", "device", "amp", "threads", "timeout"),
)
"""Options of training that the doctor takes: give those that the training will be given."""


def parse(arguments: Sequence[str] | None = None) -> tuple[Job, argparse.Namespace]:
    """The command line -> the options of training, and the doctor's own. Raises UsageError; `--help` exits."""
    parser = RanksParser(
        prog="distmnist.doctor",
        usage="python -m distmnist.doctor [options]                          this machine\n"
        "       torchrun --nproc_per_node=N -m distmnist.doctor [options]     all processes together",
        description="Checks a machine or a cluster, in some ten seconds. Give it the options that training will get.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--json", action="store_true", default=False, help="print one JSON object instead of lines")
    parser.add_argument(
        "--endpoint",
        metavar="HOST:PORT",
        default=None,
        help="without torchrun, where several hosts are to meet: does the name resolve, which interface, a free port?",
    )
    add_options(parser, OPTIONS)
    given = vars(parser.parse_args(arguments))
    own = argparse.Namespace(**{name: given.pop(name) for name in ("json", "endpoint")})
    return resolve(given), own


def main(arguments: Sequence[str] | None = None) -> int:
    return answer(lambda: work(arguments), ranks=True)


def work(arguments: Sequence[str] | None) -> int:
    refuse_separate_tasks()
    job, own = parse(arguments)
    from distmnist.doctor import examination  # imports torch: 2 s that --help and a mistyped option need not take

    return examination.run(job, own.endpoint, as_json=own.json)


def command() -> NoReturn:
    end(main)


if __name__ == "__main__":
    command()
