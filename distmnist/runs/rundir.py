"""The directory of a run: choosing it, keeping others out of it, and every file in it."""

import dataclasses
import io
import itertools
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from distmnist.checkpoint import storage
from distmnist.checkpoint.record import Checkpoint
from distmnist.checkpoint.storage import write_atomically
from distmnist.errors import RunError, UsageError
from distmnist.machine import versions
from distmnist.runs.records import FINISHED, LaunchFacts, Record, RunConfig, RunSummary, encode, read

RUNS, LATEST = Path("runs"), "latest"


@dataclasses.dataclass(frozen=True)
class Launch:
    """What started a run: torchrun's id for it, and its agents, as `launcher.parent_process` names them.

    attempt: the highest of the agents' counts of restarts; process: rank 0's. All of them None or empty without
    torchrun.
    """

    run_id: str | None
    agents: frozenset[str]
    attempt: int = 0
    process: str = ""

    def facts(self) -> LaunchFacts:
        return LaunchFacts(run_id=self.run_id, agents=sorted(self.agents), attempt=self.attempt, process=self.process)

    def earlier_attempt(self, output: Path | None, is_same: Callable[[RunConfig], bool]) -> Path | None:
        """The directory in which an earlier attempt of this launch began its run: `output`, or one in runs/.

        An agent that was there then has restarted its workers. In a directory that was named all agents may be new,
        after a requeue, if torchrun was given an id of its own; "none" is its default. Not an earlier attempt: a run
        that this very process has trained, one whose config.json `is_same` finds to be of another command, and one
        that was finished before the agent restarted anything, which is an earlier command of the same script.
        """
        if self.run_id is None:
            return None
        for path in [output] if output else sorted(RUNS.glob("[!.]*"), reverse=True):
            try:
                config = read(path / "config.json", RunConfig)
            except (UsageError, FileNotFoundError):
                continue  # nothing that an attempt of ours has left
            if (noted := config.launch) is None:
                continue
            same_agent = not self.agents.isdisjoint(noted.agents)
            restarted = not same_agent or self.attempt > noted.attempt
            if (
                noted.run_id == self.run_id
                and (same_agent or (output and self.run_id != "none"))
                and noted.process != self.process
                and is_same(config)
                and (restarted or not is_finished(path))
            ):
                return path
        return None


def is_finished(path: Path) -> bool:
    """Whether the run in `path` has come to its end."""
    try:
        return read(path / "summary.json", RunSummary).status == FINISHED
    except (UsageError, FileNotFoundError):
        return False


def new_directory() -> Path:
    """Makes runs/<UTC time>, or runs/<UTC time>-2 and so on where runs start in the same second."""
    name = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    for number in itertools.count(1):
        path = RUNS / (name if number == 1 else f"{name}-{number}")
        RUNS.mkdir(parents=True, exist_ok=True)  # each time: a run that was refused takes an empty runs/ away again
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise AssertionError


def noted_data(path: Path) -> list[Path]:
    """Where the run that `path` is part of found its data; empty if it does not say.

    path: the directory of the run or of a model in it, a checkpoint, or an export that lies where exports do.
    """
    path = path.resolve()
    for folder in (path, *path.parents[:2]):
        try:
            config = read(folder / "config.json", RunConfig)
        except (UsageError, FileNotFoundError):
            continue  # another program's, or none
        places = [options.get("data_dir") for options in (config.given, *config.options.values())]
        return list(dict.fromkeys(Path(place) for place in places if place and isinstance(place, str)))
    return []


def newer_than_latest(path: Path) -> Path | None:
    """The newest other run if `path` is runs/latest and a directory of its own: it does not name the newest run then.

    It came to be by --output runs/latest, or by a copy that followed the link.
    """
    if path.name != LATEST or path.is_symlink() or not path.is_dir() or path.parent.resolve() != RUNS.resolve():
        return None
    others = [config.parent for config in RUNS.glob("[!.]*/config.json") if config.parent.name != LATEST]
    return max(others, key=lambda run: (run / "config.json").stat().st_mtime, default=None)


class RunDirectory:
    """One run's directory, locked for as long as this process lives. Only rank 0 has one."""

    def __init__(self, path: Path | None, patience: float = 0.0) -> None:
        """Opens or makes `path`; None: a new directory in runs/.

        Raises UsageError if it cannot be written, or another run is still using it after `patience` seconds.
        """
        self.damaged: set[str] = set()
        """The models whose last.pt was found damaged by `load` and is still there."""
        try:
            if path and path.is_symlink():  # runs/latest, which this run may come to be
                path = path.parent / path.readlink()
            self.made = path is None or not path.exists()
            self.path = path = path or new_directory()
            path.mkdir(parents=True, exist_ok=True)
            self.lock = FileLock(path / ".lock", timeout=patience)
            self.lock.acquire()
        except Timeout:
            raise UsageError(
                f"--output {path} is in use by another run; wait for it or choose a different directory"
            ) from None
        except OSError as error:
            raise UsageError(
                f"--output {path or RUNS} cannot be written: {error.strerror}; choose a different directory"
            ) from error

    def release(self) -> None:
        """Lets others in. A directory that this run made and put nothing into is taken away again."""
        self.lock.release()
        if self.made and self.path.is_dir() and {entry.name for entry in self.path.iterdir()} <= {".lock"}:
            (self.path / ".lock").unlink(missing_ok=True)
            self.path.rmdir()
            if self.path.parent == RUNS and not any(RUNS.iterdir()):
                RUNS.rmdir()

    def holds_run(self) -> bool:
        return (self.path / "config.json").exists()

    def read_config(self) -> RunConfig:
        """config.json. Raises UsageError if it is not there or cannot be read."""
        try:
            return read(self.path / "config.json", RunConfig)
        except FileNotFoundError:
            raise UsageError(
                f"--resume: {self.path} holds no run (no config.json); name the run with --output"
            ) from None

    def write(self, name: str, content: bytes) -> None:
        """Writes `name` below the directory, whole or not at all. Raises RunError: the disk is full, say."""
        path = self.path / name
        try:
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, content)
        except OSError as error:
            raise RunError(f"{path} cannot be written: {error.strerror}; what was there before is whole") from error

    def write_record(self, name: str, record: Record) -> None:
        self.write(name, encode(record))

    def save(self, model: str, checkpoint: Checkpoint) -> None:
        """Writes <model>/last.pt, then metrics.jsonl. Raises RunError: the disk is full, say."""
        folder = self.path / model
        try:
            folder.mkdir(exist_ok=True)
            if model in self.damaged:
                storage.set_damaged_aside(folder)
                self.damaged.remove(model)
            written = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            storage.save(folder, dataclasses.replace(checkpoint, written=written, versions=versions()))
        except OSError as error:
            raise RunError(f"{folder} cannot be written: {error.strerror}; the checkpoint before is whole") from error
        self.write_history(model, checkpoint)

    def write_history(self, model: str, checkpoint: Checkpoint) -> None:
        """Writes <model>/metrics.jsonl as the checkpoint tells it; a run killed before may lack the last line."""
        lines = [json.dumps(epoch.to_json()) + "\n" for epoch in checkpoint.progress.history]
        self.write(f"{model}/metrics.jsonl", "".join(lines).encode())

    def load(self, model: str) -> tuple[Checkpoint | None, str | None]:
        """The newest whole checkpoint of <model> and what is wrong with a newer one: see `storage.load_newest`."""
        checkpoint, trouble = storage.load_newest(self.path / model)
        if trouble:
            self.damaged.add(model)
        return checkpoint, trouble

    def write_predictions(
        self, model: str, arrays: Mapping[str, NDArray[np.uint8] | NDArray[np.int32] | NDArray[np.float32]]
    ) -> None:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # the stub takes a name for an option
        self.write(f"{model}/predictions.npz", buffer.getvalue())

    def become_latest(self) -> str | None:
        """Has runs/latest name this run if it lies in runs/, where symbolic links can be made (Windows: seldom).

        Returns a warning if something that is no link has that name: it is left alone.
        """
        if self.path.parent.resolve() != RUNS.resolve():
            return None
        latest = RUNS / LATEST
        if latest.exists() and not latest.is_symlink():
            return (
                f"{latest} is not a link and stays as it is, so it does not name this run; rename it to have the link"
            )
        link = RUNS / f".latest-{os.getpid()}.tmp"  # of this process: runs may start at the same time
        try:
            link.unlink(missing_ok=True)
            link.symlink_to(self.path.name)
            os.replace(link, latest)
        except OSError:
            link.unlink(missing_ok=True)
        return None
