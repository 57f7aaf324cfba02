"""One trial of the campaign: a job, the faults that strike it, its restarts, and what came of it."""

import ctypes
import dataclasses
import errno
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from multiprocessing import connection
from pathlib import Path
from typing import Any

import torch.distributed as dist

from distmnist import train
from distmnist.checkpoint import storage
from distmnist.data import known
from distmnist.data.dataset import Dataset
from distmnist.distributed import world
from distmnist.runs import job
from distmnist.training.callbacks import Callback
from distmnist.training.parts import fast_is_there
from distmnist.training.progress import Progress
from distmnist.training.requests import Request

TRAIN, TEST, BATCH, EPOCHS, CHECKPOINT_STEPS = 360, 100, 64, 2, 3
VIRTUAL_RANKS = 8
ATTEMPT_SECONDS = 60.0
HANG_SECONDS = 4.0
"""The job's --timeout where a rank stands still. Elsewhere it must not end a start that is slow on a busy machine."""


class Witness(Callback):
    """Notes every epoch, or what is left of one after a restart, as it begins. Faults strike what it is called for."""

    def __init__(self, events: Path) -> None:
        self.events = events
        self.step: int | None = None

    def on_epoch_start(self, progress: Progress) -> None:
        self.step = progress.global_step
        note(self.events, "training", self.step)

    def request(self) -> Request:
        return Request.NOTHING

    def on_step_end(self, progress: Progress) -> None:
        self.step = progress.global_step

    def on_evaluation_start(self, progress: Progress) -> None:
        pass


MOMENTS: dict[str, tuple[Any, str, int]] = {
    "start-up": (known, "load", 1),
    "set-up: connecting": (world.World, "connect", 1),
    "an agreement": (world.World, "agreement", 6),
    "a step": (Witness, "request", 11),
    "evaluation": (Witness, "on_evaluation_start", 2),
    "evaluation: adding up": (world.World, "sum_", 4),
    "saving: serializing": (storage, "to_buffer", 3),
    "saving: writing": (storage, "write_atomically", 6),
    "saving: fsync": (os, "fsync", 8),
    "saving: renaming": (os, "replace", 8),
    "saving: fsync of the directory": (storage, "sync_directory", 6),
    "leaving": (world, "leave", 1),
}
"""What a fault strikes: owner, function, and the number of calls among which one is drawn."""
if fast_is_there():
    from distmnist.fast import shared_memory

    MOMENTS["set-up: meeting in shared memory"] = (shared_memory, "meet_peers", 1)

HANG, HANG_IN_C, FREEZE, FAIL = "hang", "hang in C", "freeze", "fail"
KINDS = ["SIGKILL"] * 6 + ["SIGTERM"] * 2 + ["SIGINT"]
"""What may happen to a process, as often as it is drawn; with others beside it, standstills too. The name of a signal,
or one of the above: hang, in Python; hang in C, where the interpreter can run nothing else; freeze, all of it; fail, as
a system call does, upon which no rank shares memory."""
STANDSTILLS = [HANG, HANG_IN_C, FREEZE]


class TrialFailed(Exception):
    """The job hung, or did not end well when it was left alone."""


@dataclasses.dataclass(frozen=True)
class Fault:
    """`kind` hits `rank` at the call number `call` of what `moment` names, before or after it is carried out."""

    moment: str
    call: int
    after: bool
    rank: int
    kind: str


@dataclasses.dataclass(frozen=True)
class Trial:
    """A job and what happens to it: one attempt for each fault, of so many processes, and a last one without."""

    model: str
    virtual_ranks: int
    sizes: tuple[int, ...]
    faults: tuple[Fault, ...]


def draw(seed: int, number: int) -> Trial:
    """Trial `number` of the campaign `seed`."""
    dice = random.Random(f"{seed}/{number}")
    virtual = dice.choice((0, VIRTUAL_RANKS))
    count = dice.randint(1, 3)
    size = dice.choice((1, 2, 3, 4))
    sizes = tuple(dice.choice((1, 2, 4, 8)) if virtual else size for _ in range(count + 1))
    faults = tuple(draw_fault(dice, n, exact=virtual > 0 or n < 3) for n in sizes[:-1])
    return Trial(dice.choice(("mlp", "cnn")), virtual, sizes, faults)


def draw_fault(dice: random.Random, size: int, *, exact: bool) -> Fault:
    """exact: without shared memory the gradients have the same bits; three ranks' sums round otherwise over gloo."""
    moment = dice.choice([name for name in MOMENTS if size > 1 or not name.startswith(("set-up", "an agreement"))])
    rank = 0 if moment.startswith("saving") else dice.randrange(size)
    kinds = KINDS + STANDSTILLS * (size > 1) + [FAIL] * 4 * (exact and moment == "set-up: meeting in shared memory")
    return Fault(moment, dice.randint(1, MOMENTS[moment][2]), dice.random() < 0.5, rank, dice.choice(kinds))


def few_digits(name: str, directory: Path) -> Dataset:
    sample = known.load_sample()
    cut = {"train": TRAIN, "test": TEST}
    parts = {name: getattr(sample, name).select(slice(n)) for name, n in cut.items()}
    return dataclasses.replace(sample, **parts)


def work(
    rank: int, size: int, port: int, attempt: int, arguments: list[str], fault: Fault | None, events: Path
) -> None:
    """One worker process, in the environment that torchrun would give it."""
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RUN_ID": f"campaign-{port}",
        "TORCHELASTIC_RESTART_COUNT": str(attempt),
    }
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    known.load, known.fetch = few_digits, lambda *_: None
    job.PLOTS_SECONDS = HANG_SECONDS  # or a hang while they are drawn would take ten minutes
    if fault and fault.rank == rank:
        strike(fault, events)
    sys.exit(train.main(arguments, [Witness(events)]))


def strike(fault: Fault, events: Path) -> None:
    """Wraps what the fault's moment names, so that the signal comes exactly there."""
    owner, name, _ = MOMENTS[fault.moment]
    original = getattr(owner, name)
    calls = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        hit = calls == fault.call
        if hit and not fault.after:
            hurt(fault, events, args)
        result = original(*args, **kwargs)
        if hit and fault.after:
            hurt(fault, events, args)
        return result

    setattr(owner, name, wrapped)


def hurt(fault: Fault, events: Path, args: tuple[Any, ...]) -> None:
    note(events, "fault", args[0].step if args and isinstance(args[0], Witness) else None)
    if fault.kind == HANG:
        while True:
            time.sleep(1)
    elif fault.kind == HANG_IN_C:
        ctypes.PyDLL(None).sleep(1_000_000)
    elif fault.kind == FREEZE:
        os.kill(os.getpid(), signal.SIGSTOP)
    elif fault.kind == FAIL:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    else:
        os.kill(os.getpid(), signal.Signals[fault.kind])


def note(events: Path, what: str, step: int | None) -> None:
    entry = {"event": what, "step": step, "at": time.monotonic(), "pid": os.getpid()}
    with events.open("a") as file:
        file.write(json.dumps(entry) + "\n")


def attempt(trial: Trial, number: int, store: dist.TCPStore, folder: Path) -> bool:
    """One attempt of the trial's job; True if all its processes ended well. The rest is killed as soon as one fails."""
    size = trial.sizes[number]
    fault = trial.faults[number] if number < len(trial.faults) else None
    options = {
        "--model": trial.model,
        "--output": folder / "run",
        "--epochs": EPOCHS,
        "--batch-size": BATCH,
        "--dropout": 0.1,
        "--checkpoint-steps": CHECKPOINT_STEPS,
        "--virtual-ranks": trial.virtual_ranks,
        "--timeout": HANG_SECONDS if fault and fault.kind in STANDSTILLS else ATTEMPT_SECONDS,
        "--threads": 1,
    }
    arguments = [str(part) for pair in options.items() for part in pair]
    context = forkserver()
    workers = [
        context.Process(target=work, args=(rank, size, store.port, number, arguments, fault, folder / "events"))
        for rank in range(size)
    ]
    for worker in workers:
        worker.start()
    deadline = time.monotonic() + ATTEMPT_SECONDS
    running = {worker.sentinel: worker for worker in workers}
    fine = True
    try:
        while running and fine:
            ended = connection.wait(list(running), max(0.0, deadline - time.monotonic()))
            if not ended:
                raise TrialFailed(f"attempt {number} hangs")
            fine = all(running.pop(sentinel).exitcode == 0 for sentinel in ended)
    finally:
        for worker in workers:
            worker.kill()
            worker.join()
    return fine


def forkserver() -> Any:
    """Its processes find torch imported; torch._dynamo is what DDP imports when it is made."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torch._dynamo", "distmnist.runs.job"])
    return context


@dataclasses.dataclass
class Outcome:
    """digest: of the final weights; struck: faults that found their moment; recoveries in seconds; lost in steps."""

    digest: str
    struck: list[Fault]
    recoveries: list[float]
    lost: list[int]


def carry_out(trial: Trial) -> Outcome:
    """Runs the trial's attempts until one ends well with no fault to come. Raises TrialFailed."""
    struck = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        for number in range(len(trial.sizes)):
            before = len(read_events(folder))
            fine = attempt(trial, number, store, folder)
            if number < len(trial.faults):
                if any(event["event"] == "fault" for event in read_events(folder)[before:]):
                    struck.append(trial.faults[number])
            elif not fine:
                raise TrialFailed("the attempt without a fault failed")
        summary = json.loads((folder / "run" / "summary.json").read_text())
        if summary["status"] != "finished":
            raise TrialFailed(f"summary.json says {summary['status']}")
        recoveries, lost = recovery(read_events(folder))
        return Outcome(summary["models"][trial.model]["weights_sha256"], struck, recoveries, lost)


def read_events(folder: Path) -> list[dict[str, Any]]:
    path = folder / "events"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def recovery(events: list[dict[str, Any]]) -> tuple[list[float], list[int]]:
    """Seconds from each fault to the next training, and the steps that were done twice where it struck a step."""
    seconds, lost = [], []
    for index, event in enumerate(events):
        after = [later for later in events[index:] if later["event"] == "training"]
        if event["event"] == "fault" and after:
            seconds.append(after[0]["at"] - event["at"])
            if event["step"] is not None:
                lost.append(max(0, event["step"] - after[0]["step"]))
    return seconds, lost


def undisturbed(trial: Trial) -> Trial:
    """The same job, left alone; in the exact mode one process says it for all."""
    size = 1 if trial.virtual_ranks else trial.sizes[0]
    return dataclasses.replace(trial, sizes=(size,), faults=())
