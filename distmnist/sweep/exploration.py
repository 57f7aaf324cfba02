"""The course of a sweep: every trial on held-out digits, then the winner once on the test digits."""

import argparse
import contextlib
import functools
import signal
from collections.abc import Callable, Generator, Iterable, Iterator

from distmnist.commandline import hint
from distmnist.config import option_flag, resolve, short_name
from distmnist.console import Log
from distmnist.errors import UsageError
from distmnist.runs import pool
from distmnist.runs.pool import Member, Outcome
from distmnist.runs.records import Setting, SweepFacts, SweepResult, read
from distmnist.sweep import search
from distmnist.sweep.search import Search
from distmnist.sweep.trials import Trials
from distmnist.training.requests import Signals

Start = Callable[[Iterable[Member]], Generator[Outcome, None, None]]
"""Runs members and yields them as they end: `pool.run`, with everything else said."""


def run(own: argparse.Namespace) -> int:
    """Runs the sweep for the options of `sweep.parse`. Returns the exit code; raises UsageError and RunError."""
    log, net, held = Log(), short_name(own.given["model"]), own.given["val_fraction"]
    with pool.open_directory(own.output) as directory:
        plan = plan_search(own)
        known = [member for number, setting in enumerate(plan.known) for member in members(own, number, setting)]
        own.given, dataset = pool.find_dataset(own.given, known, log)
        count = len(plan.known) if isinstance(plan, search.Listed) else min(own.trials, search.size(own.space))
        jobs = pool.share_out(own.jobs, own.given.get("threads"), resolve(own.given).run.device, count * own.repeats)
        facts = SweepFacts(dataset=dataset, search=own.search, space=own.space, val_fraction=held, jobs=str(jobs))
        trials = Trials(net, range(own.seed, own.seed + own.repeats), facts, plan.known)
        log.say(
            f"{net}: {own.search} search, {count} trials x {own.repeats} random seeds, {jobs}\n"
            f"data: {dataset.name}; {held:.0%} of the training digits are held out to choose by;"
            " nothing said of test digits is looked at before\n"
            f"output: {directory.path}"
        )

        def save() -> None:
            directory.write_record("sweep.json", trials.result())

        with Signals() as signals:
            start = functools.partial(pool.run, jobs=jobs, requests=signals)
            explore(own, plan, trials, start, save, log)
            if not signals.fatal:
                try_winner(own, trials, start, log)
            save()
        log.say(trials.table())
        if trials.winner:
            log.say(f"\nnext: {hint('-m', 'distmnist.report', directory.path)}")
            return 0
        log.say(f"\ninterrupted; the same command goes on with {directory.path}")
        return 128 + (signals.fatal or signal.SIGTERM)


def members(own: argparse.Namespace, number: int, setting: Setting) -> list[Member]:
    """The runs of a trial, one a random seed."""
    return [
        Member(own.output / f"runs/trial{number:03}-seed{seed}", {**own.given, **setting, "seed": seed})
        for seed in range(own.seed, own.seed + own.repeats)
    ]


def explore(
    own: argparse.Namespace, plan: Search, trials: Trials, start: Start, save: Callable[[], None], log: Log
) -> None:
    """Runs every trial that `plan` proposes, until a stop is requested."""

    def proposals() -> Iterator[Member]:
        for number, setting in plan:
            runs = members(own, number, setting)
            trials.propose(number, setting, runs)
            save()
            yield from runs

    with contextlib.closing(start(proposals())) as outcomes:
        for member, error in outcomes:
            if isinstance(error, UsageError):
                raise error
            if (number := trials.add(member, error)) is not None:
                plan.tell(number, trials.accuracy(number))
                log.say(trials.line(number))


def try_winner(own: argparse.Namespace, trials: Trials, start: Start, log: Log) -> None:
    """Trains the winner on all training digits, with random seeds that no trial had, and has it tested."""
    chosen = trials.choose()
    log.say(f"winner: trial {chosen.trial}; now trained on all training digits")
    given = {**own.given, **chosen.options, "val_fraction": 0.0}
    last = own.seed + own.repeats
    finals = [
        Member(own.output / f"runs/winner-seed{seed}", {**given, "seed": seed})
        for seed in range(last, last + own.repeats)
    ]
    done = []
    with contextlib.closing(start(finals)) as outcomes:
        for member, error in outcomes:
            if error:
                raise error
            done.append(member)
    if len(done) == len(finals):
        trials.test(chosen, finals)


def plan_search(own: argparse.Namespace) -> Search:
    """The search that was asked for. Optuna is told the settings of an earlier attempt, from its sweep.json."""
    match own.search:
        case "one-at-a-time":
            return search.Listed(search.one_at_a_time(own.space))
        case "grid":
            return search.Listed(search.grid(own.space))
        case "random":
            return search.Listed(search.random(own.space, own.trials, own.seed))
    path = own.output / "sweep.json"
    known = read(path, SweepResult).proposed if path.exists() else []
    for setting in known:
        for name in own.space.keys() | setting.keys():
            if setting.get(name) not in own.space.get(name, ()):
                raise UsageError(
                    f"{option_flag(name)}: the sweep in {own.output} has tried {setting.get(name)}; list it too,"
                    " or choose a different --output"
                )
    return search.Optuna(own.space, own.trials, own.seed, known)
