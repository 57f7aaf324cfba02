"""The directory of a run: choosing it, keeping others out of it, and every file in it."""

import dataclasses
import functools
import io
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from distmnist import __version__, checkpoint
from distmnist.checkpoint import write_atomically
from distmnist.config import RunError, UsageError

RUNS = Path("runs")


def versions() -> dict[str, str]:
    """Of everything that a result may depend on."""
    return {
        "distmnist": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def default_path() -> Path:
    return RUNS / time.strftime("%Y%m%d-%H%M%S", time.gmtime())


@dataclasses.dataclass(frozen=True)
class Launch:
    """What started a run: torchrun's id for it, and its agents, as `machine.agent` names them."""

    run_id: str | None
    agents: frozenset[str]

    def to_json(self) -> dict[str, Any]:
        return {"run_id": self.run_id, "agents": sorted(self.agents)}

    def earlier_attempt(self, output: Path | None) -> Path | None:
        """The directory in which an earlier attempt of this launch began its run: `output`, or one in runs/.

        An agent that was there then has restarted its workers. In a directory that was named all agents may be new,
        after a requeue, if torchrun was given an id of its own; "none" is its default.
        """
        if self.run_id is None:
            return None
        for path in [output] if output else sorted(RUNS.glob("[!.]*"), reverse=True):
            try:
                noted = json.loads((path / "config.json").read_text())["launch"]
            except (OSError, ValueError, KeyError):
                continue  # nothing that an attempt of ours has left
            same_agent = not self.agents.isdisjoint(noted["agents"])
            if noted["run_id"] == self.run_id and (same_agent or (output and self.run_id != "none")):
                return path
        return None


class RunDirectory:
    """One run's directory, locked for as long as this process lives. Only rank 0 has one."""

    def __init__(self, path: Path, patience: float = 0.0) -> None:
        """Raises UsageError if `path` cannot be written, or another run is still using it after `patience` seconds."""
        if path.is_symlink():  # runs/latest, which this run may come to be
            path = path.parent / path.readlink()
        self.path = path
        self.damaged: set[str] = set()
        """The models whose last.pt was found damaged by `load` and is still there."""
        try:
            self.made = not path.exists()
            path.mkdir(parents=True, exist_ok=True)
            self.lock = FileLock(path / ".lock", timeout=patience)
            self.lock.acquire()
        except Timeout:
            raise UsageError(f"--output {path} is in use by another run; wait for it or name another") from None
        except OSError as error:
            raise UsageError(f"--output {path} cannot be written: {error.strerror}; name another") from error

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

    def read_config(self) -> dict[str, Any]:
        """config.json. Raises UsageError if it is not there or cannot be read."""
        path = self.path / "config.json"
        try:
            config = json.loads(path.read_text())
            if not isinstance(config, dict) or not {"given", "options"} <= config.keys():
                raise ValueError("it is not of distmnist")
            return config
        except FileNotFoundError:
            raise UsageError(
                f"--resume: {self.path} holds no run (no config.json); name the run with --output"
            ) from None
        except (OSError, ValueError) as error:
            raise UsageError(f"{path} cannot be read: {error}") from error

    def write(self, name: str, content: bytes) -> None:
        """Writes `name` below the directory, whole or not at all. Raises RunError: the disk is full, say."""
        path = self.path / name
        try:
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, content)
        except OSError as error:
            raise RunError(f"{path} cannot be written: {error.strerror}; what was there before is whole") from error

    def write_json(self, name: str, value: dict[str, Any]) -> None:
        self.write(name, (json.dumps(value, indent=2) + "\n").encode())

    def saver(self, model: str) -> Callable[[dict[str, Any]], None]:
        return functools.partial(self.save, model)

    def save(self, model: str, snapshot: dict[str, Any]) -> None:
        """Writes <model>/last.pt, then metrics.jsonl."""
        folder = self.path / model
        try:
            folder.mkdir(exist_ok=True)
            if model in self.damaged:
                checkpoint.set_damaged_aside(folder)
                self.damaged.remove(model)
            written = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            checkpoint.save(folder, {**snapshot, "written": written, "versions": versions()})
        except OSError as error:
            raise RunError(f"{folder} cannot be written: {error.strerror}; the snapshot before is whole") from error
        self.write_history(model, snapshot)

    def write_history(self, model: str, snapshot: dict[str, Any]) -> None:
        """Writes <model>/metrics.jsonl as the snapshot tells it; a run killed before may lack the last line."""
        lines = [json.dumps(entry) + "\n" for entry in snapshot["train"]["history"]]
        self.write(f"{model}/metrics.jsonl", "".join(lines).encode())

    def load(self, model: str) -> tuple[dict[str, Any] | None, str | None]:
        """The newest whole snapshot of <model> and what is wrong with a newer one: see `checkpoint.load_newest`."""
        snapshot, trouble = checkpoint.load_newest(self.path / model)
        if trouble:
            self.damaged.add(model)
        return snapshot, trouble

    def write_predictions(self, model: str, arrays: dict[str, np.ndarray]) -> None:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        self.write(f"{model}/predictions.npz", buffer.getvalue())

    def become_latest(self) -> None:
        """Has runs/latest name this run if it lies in runs/, where symbolic links can be made (Windows: seldom)."""
        if self.path.parent.resolve() != RUNS.resolve():
            return
        link = RUNS / ".latest.tmp"
        try:
            link.unlink(missing_ok=True)
            link.symlink_to(self.path.name)
            os.replace(link, RUNS / "latest")
        except OSError:
            link.unlink(missing_ok=True)
