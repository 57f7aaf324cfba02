"""Many runs at a time: each an ordinary run of `distmnist.train` in one process, with its share of the machine.

`python -m distmnist.runs.pool [options of distmnist.train]` is such a process: the command, tied to the one that
started it.
"""

import contextlib
import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TypeVar

import torch

from distmnist import train
from distmnist.checkpoint.record import ModelResult
from distmnist.config import Options, TrainConfig, data_is_chosen, option_flag, resolve, to_json
from distmnist.console import Log
from distmnist.data import known
from distmnist.data.dataset import DatasetFacts
from distmnist.distributed.launcher import VARIABLES
from distmnist.distributed.world import World
from distmnist.errors import RunError, UsageError
from distmnist.machine import die_with_parent, usable_cores
from distmnist.runs.dataset import option_of, read_dataset
from distmnist.runs.models import check_options
from distmnist.runs.records import FINISHED, Record, RunConfig, RunSummary, read
from distmnist.runs.rundir import RunDirectory
from distmnist.training.requests import Request

POLL = 0.05
"""Seconds between two looks at the processes."""

STOP_SECONDS = 30.0
"""Seconds that a process that was asked to stop has for its checkpoint: what torchrun grants."""


MEANT_FOR_ALL = {*VARIABLES, "SLURM_STEP_NUM_TASKS"}
"""Variables that tell of this process and its siblings: its runs are on their own."""

R = TypeVar("R", bound=Record)


@dataclasses.dataclass(frozen=True)
class Member:
    """One run: its directory and the options of distmnist.train, but --output, --resume and --threads."""

    path: Path
    given: Options

    def check(self) -> None:
        """Raises UsageError, naming the option, if the run in `path` has another result: it would be taken for ours.

        Of the data, see `check_dataset`: those that were not chosen are not known yet.
        """
        config, job = self.config(), resolve(self.given)
        check_options(job)
        for wanted in job.configs:
            if not config or wanted.name not in config.options:
                continue
            before = {"model": wanted.name, **TrainConfig().options(), **config.options[wanted.name]}
            for name, value in {"model": wanted.model, **wanted.options()}.items():
                if value != before[name] and name != "data" and (name, value) != ("amp", "auto"):
                    raise UsageError(
                        f"{option_flag(name)} {value}: the run in {self.path} has {before[name]};"
                        " keep it or choose a different --output"
                    )

    def config(self) -> RunConfig | None:
        """config.json if the run was begun. Raises UsageError if it cannot be read."""
        return self._read("config.json", RunConfig)

    def _read(self, name: str, kind: type[R]) -> R | None:
        try:
            return read(self.path / name, kind)
        except FileNotFoundError:
            return None
        except UsageError as error:
            raise UsageError(f"{error}; move {self.path} away to train that run again") from error

    def data(self) -> str | None:
        """The value of --data of the known set with which the run was begun, if it was, and with one."""
        config = self.config()
        if not config or not config.dataset or config.dataset.name not in known.NAMES.values():
            return None
        return known.option_of(config.dataset.name)

    def summary(self) -> RunSummary | None:
        """summary.json if the run is finished, with all its nets. Raises UsageError if it cannot be read."""
        summary = self._read("summary.json", RunSummary)
        if summary is None or summary.status != FINISHED:
            return None
        return summary if summary.models.keys() >= set(resolve(self.given).names) else None

    @property
    def seed(self) -> int:
        return resolve(self.given).common.seed

    def result(self, net: str) -> ModelResult:
        """A net's entry in the summary of a finished run."""
        summary = self.summary()
        assert summary is not None, "it is finished"
        return summary.models[net]

    def check_dataset(self, dataset: DatasetFacts) -> None:
        """Raises UsageError if the run in `path` is finished, on other digits."""
        summary = self.summary()
        if summary and (difference := dataset.difference(summary.dataset)):
            raise UsageError(
                f"{self.path} was trained on different data: {difference}; choose the right --data and --data-dir, or a"
                " different --output"
            )

    def command(self, threads: int) -> list[str]:
        options = {**self.given, "threads": threads, "output": self.path}
        resume = ["--resume"] if (self.path / "config.json").exists() else []
        given = to_json(options).items()
        flags = [option_flag(name) if value is True else f"{option_flag(name)}={value}" for name, value in given]
        return [sys.executable, "-m", "distmnist.runs.pool", *flags, *resume]


@contextlib.contextmanager
def open_directory(path: Path) -> Iterator[RunDirectory]:
    """The directory of many runs, locked. Raises UsageError if it is in use, or one run's own."""
    directory = RunDirectory(path)
    try:
        if directory.holds_run():
            raise UsageError(f"--output {path} holds a run of distmnist.train; choose a different directory")
        yield directory
    finally:
        directory.release()


def find_dataset(given: Options, members: Sequence[Member], log: Log) -> tuple[Options, DatasetFacts]:
    """Downloads the digits if need be, before many runs do; members that were begun keep the data that they have.

    given: the options of training that were typed. Returns them with --data, so that every run takes the same, and
    what the data are: see `Dataset.describe`. Raises UsageError for a member that `Member.check` refuses, or that is
    finished on other digits.
    """
    for member in members:
        member.check()
    begun = next((name for member in members if (name := member.data())), None)
    if begun and not data_is_chosen(given):
        given = {**given, "data": begun}
    job = resolve(given)
    dataset = read_dataset(World(), log, job)
    for member in members:
        member.check_dataset(dataset.describe())
    return {**given, "data": option_of(dataset, job)}, dataset.describe()


@dataclasses.dataclass(frozen=True)
class Jobs:
    """How the machine is shared out: so many runs at a time, the threads of each, the GPUs in turn."""

    number: int
    threads: int
    gpus: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = f", one of {len(self.gpus)} GPUs each" if self.gpus else ""
        return f"{self.number} at a time, {self.threads} thread{'s' if self.threads > 1 else ''} each{where}"


def share_out(asked: int | None, threads: int | None, device: str, runs: int) -> Jobs:
    """By default one run a GPU, else one a core: whole runs never wait for each other, as threads do."""
    gpus = () if device == "cpu" else visible_gpus()
    number = min(asked or len(gpus) or usable_cores(), runs)
    return Jobs(number, threads or max(1, usable_cores() // number), gpus)


def visible_gpus() -> tuple[str, ...]:
    """The names of this process's GPUs, as CUDA_VISIBLE_DEVICES takes them."""
    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return tuple(named.split(",") if named else map(str, range(count)))[:count]


Outcome = tuple[Member, UsageError | RunError | None]
"""A member that has ended, and what went wrong."""


@dataclasses.dataclass
class Running:
    """A member's process. errors: what it writes to standard error."""

    member: Member
    slot: int
    process: subprocess.Popen
    errors: IO[str]

    def error(self) -> UsageError | RunError | None:
        """Why the ended process failed: its own last line, or how it ended. None if it did not."""
        if self.process.returncode == 0:
            return None
        self.errors.seek(0)
        lines = [line.strip() for line in self.errors if line.strip()]
        told = lines[-1].removeprefix("distmnist: ") if lines else f"ended with exit code {self.process.returncode}"
        return (UsageError if self.process.returncode == 2 else RunError)(f"{self.member.path}: {told}")


def run(members: Iterable[Member], jobs: Jobs, requests: Callable[[], Request]) -> Generator[Outcome, None, None]:
    """Yields each member once it is finished, with None, or once it has failed, with the error.

    A member that is finished already is not run, one that was begun goes on. The next one is drawn from `members` when
    there is room for it, so what has been yielded may decide what comes. When `requests` says to stop, and when the
    generator is closed, those that run are asked to keep a checkpoint and waited for; nothing more is yielded.
    """
    waiting, slots, running = iter(members), set(range(jobs.number)), []
    try:
        while not requests() & Request.STOP:
            if slots and (member := next(waiting, None)):
                member.check()
                if member.summary():
                    yield member, None
                else:
                    running.append(start(member, slots.pop(), jobs))
                continue
            if not running:
                return
            if ended := next((one for one in running if one.process.poll() is not None), None):
                running.remove(ended)
                slots.add(ended.slot)
                with ended.errors:
                    error = ended.error()
                yield ended.member, error
            else:
                time.sleep(POLL)
    finally:
        stop(running)


def start(member: Member, slot: int, jobs: Jobs) -> Running:
    """Out of reach of the terminal's Ctrl-C, which is for the process that runs them all."""
    environment = {name: value for name, value in os.environ.items() if name not in MEANT_FOR_ALL}
    if jobs.gpus:
        environment["CUDA_VISIBLE_DEVICES"] = jobs.gpus[slot % len(jobs.gpus)]
    # Beside the run, where there is a directory that can be written for certain.
    member.path.parent.mkdir(parents=True, exist_ok=True)
    errors = tempfile.TemporaryFile("w+", dir=member.path.parent)  # noqa: SIM115, closed once the process has ended
    process = subprocess.Popen(
        member.command(jobs.threads),
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        start_new_session=True,
    )
    return Running(member, slot, process, errors)


def stop(running: Sequence[Running]) -> None:
    """Asks the processes to save a checkpoint and end. One that takes too long is killed; its last checkpoint stays."""
    for one in running:
        one.process.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for one in running:
        try:
            one.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            one.process.kill()
            one.process.wait()
        one.errors.close()


if __name__ == "__main__":
    die_with_parent()
    train.command()
