"""Is one net better than the other, one recipe than another? Trains both over several random seeds and says so.

Run: python -m distmnist.study [--repeats 5] [--recipes reference,best] [--jobs N] [--output DIR] [options of training]

Every run is an ordinary one, in DIR/runs/<recipe>-seed<k>. Started again with the same --output, the command keeps
what is finished and goes on with the rest. Exit codes: 0 done, 1 failed, 2 wrong usage or input, 129 SIGHUP, 130
SIGINT, 143 SIGTERM.
"""

import argparse
import contextlib
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from distmnist.commandline import Parser, add_options, answer, check_count, end, hint, several, to_path
from distmnist.config import FIELDS, Options, resolve
from distmnist.distributed.launcher import refuse_separate_tasks
from distmnist.errors import UsageError
from distmnist.recipes import RECIPES

OWN = ("recipe", "output", "resume", "seed", "virtual_ranks", "timeout", "print_fast")
"""Options of training that a study sets itself, or that one process has no use for."""


def parse(arguments: Sequence[str] | None = None) -> tuple[argparse.Namespace, Options]:
    """The study's own options, and those of training that were typed. Raises UsageError; `--help` prints and exits."""
    parser = Parser(
        prog="distmnist.study",
        usage="python -m distmnist.study [options]",
        description="Trains the nets over several random seeds and recipes, and says what differs significantly.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument(
        "--repeats", type=int, default=5, metavar="N", help="random seeds a recipe, from --seed on (default: 5)"
    )
    parser.add_argument(
        "--recipes",
        type=several(str),
        default=["reference", "best"],
        metavar="NAME,...",
        help=f"recipes to compare: {', '.join(RECIPES)} (default: reference,best)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="the first random seed (default: 0)")
    parser.add_argument(
        "--jobs", type=int, default=None, metavar="N", help="runs at a time (default: one a GPU, else one a core)"
    )
    parser.add_argument(
        "--output",
        type=to_path,
        default=Path("runs/study"),
        metavar="DIR",
        help="where the study goes, or the one to go on with (default: runs/study)",
    )
    add_options(parser, [name for name in FIELDS if name not in OWN])
    given = vars(parser.parse_args(arguments))
    own = argparse.Namespace(**{name: given.pop(name) for name in ("repeats", "recipes", "seed", "jobs", "output")})
    check_count("--repeats", own.repeats)
    check_count("--jobs", own.jobs)
    for recipe in own.recipes:
        if recipe not in RECIPES:
            raise UsageError(f"--recipes {recipe} is unknown; choose from {', '.join(RECIPES)}")
        resolve({**given, "recipe": recipe, "seed": own.seed})
    return own, given


def main(arguments: Sequence[str] | None = None) -> int:
    return answer(lambda: work(arguments))


def work(arguments: Sequence[str] | None) -> int:
    refuse_separate_tasks()
    own, given = parse(arguments)
    # torch and scipy: 3 s that a mistyped option need not take
    from distmnist.console import Log
    from distmnist.runs import pool
    from distmnist.study.findings import Findings
    from distmnist.training.requests import Signals

    log = Log()
    seeds = range(own.seed, own.seed + own.repeats)
    with pool.open_directory(own.output) as directory:

        def members_of(given: Options) -> dict[tuple[str, int], pool.Member]:
            return {
                (recipe, seed): pool.Member(
                    directory.path / "runs" / f"{recipe}-seed{seed}", {**given, "recipe": recipe, "seed": seed}
                )
                for recipe in own.recipes
                for seed in seeds
            }

        given, dataset = pool.find_dataset(given, list(members_of(given).values()), log)
        members, asked = members_of(given), resolve(given).run
        jobs = pool.share_out(own.jobs, asked.threads, asked.device, len(members))
        findings = Findings(dataset, members, given, jobs)
        log.say(
            f"{len(own.recipes)} recipes x {own.repeats} random seeds, {jobs}; {findings.done} of {len(members)} runs"
            f" are finished\ndata: {dataset.name}\noutput: {directory.path}"
        )
        directory.write_record("study.json", findings.result())
        with Signals() as signals, contextlib.closing(pool.run(members.values(), jobs, signals)) as outcomes:
            for member, error in outcomes:
                if error:
                    raise error
                log.say(findings.add(member))
                directory.write_record("study.json", findings.result())
        log.say(findings.table())
        if findings.finished:
            log.say(f"\nnext: {hint('-m', 'distmnist.report', directory.path)}")
            return 0
        log.say(f"\ninterrupted; the same command goes on with {directory.path}")
        return 128 + (signals.fatal or signal.SIGTERM)


def command() -> NoReturn:
    end(main)


if __name__ == "__main__":
    command()
