"""A rank that hangs or fails, wherever ranks wait for each other: all end by themselves, and one line names it."""

import dataclasses
import os
import re
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from digits import few_digits
from ranks import end_processes

from benchmarks.faults import FAIL, FREEZE, HANG, HANG_IN_C, MOMENTS, Fault, Witness, strike
from distmnist import train
from distmnist.data import known
from distmnist.distributed import rendezvous
from distmnist.distributed.heartbeat import Heartbeat
from distmnist.runs import dataset
from distmnist.training.parts import fast_is_there

SMALL = ("--model=mlp", "--epochs=2", "--batch-size=60", "--amp=off", "--threads=1", "--timeout=4", "--output=run")

MOMENTS["start-up: meeting"] = (rendezvous, "gather_members", 1)
"""A moment for the rank that hosts the store to be stopped: when the others know of it, and do not beat yet."""


@dataclasses.dataclass(frozen=True)
class Case:
    """`rank` of `size` hangs at `moment`, before or after it; torchrun: see `ranks.end_processes`."""

    moment: str
    rank: int
    size: int
    torchrun: bool
    kind: str = HANG
    after: bool = False


HANGS = [
    Case("start-up", 1, 2, True),
    Case("start-up: meeting", 0, 2, False, FREEZE, after=True),
    Case("set-up: connecting", 1, 3, False),
    Case("an agreement", 2, 3, True),
    Case("a step", 1, 2, False),
    Case("a step", 1, 2, True, HANG_IN_C),
    Case("a step", 2, 3, True, FREEZE),
    Case("a step", 0, 3, False, FREEZE),  # it hosts the store
    Case("evaluation", 0, 3, True),
    Case("evaluation: adding up", 1, 2, False, HANG_IN_C),
    Case("saving: writing", 0, 2, True),
    Case("leaving", 1, 2, True, HANG_IN_C),
    Case("leaving", 0, 3, False),
]


def prepare(folder: Path) -> None:
    """This process is about to run the command in `folder`, on a few digits."""
    os.chdir(folder)
    known.fetch, known.load = lambda *_: None, lambda name, directory: few_digits()


def run_with(folder: Path, fault: Fault, *more: str) -> int:
    """The command; `fault` strikes on its rank."""
    prepare(folder)
    if fault.rank == int(os.environ["RANK"]):
        strike(fault, folder / "events")
    return train.main([*SMALL, *more], [Witness(folder / "events")])


GLOO_INSTEAD: list[tuple[str, int]] = []
"""A step of the setting up of shared memory, and the rank on which it fails."""
if fast_is_there():
    from distmnist.fast import shared_memory

    HANGS.append(Case("set-up: meeting in shared memory", 0, 2, False))
    GLOO_INSTEAD += [("listen", 2), ("meet_peers", 0), ("meet_peers", 1), ("make_memory", 0), ("receive_memory", 2)]


def run_without_memory(folder: Path, step: str, rank: int) -> int:
    MOMENTS["a step of it"] = (shared_memory, step, 1)
    return run_with(folder, Fault("a step of it", 1, False, rank, FAIL), "--max-steps=3")


ERRORS = [
    ("start-up", 1, MemoryError(), "rank 1 on .*: MemoryError"),
    ("start-up", 0, OSError(28, "No space left on device", "/x/gloo"), "distmnist: /x/gloo: No space left on device"),
    ("a step", 1, MemoryError(), "rank 1 on .*: MemoryError"),
    ("a step", 1, RuntimeError("the gloo/transport of my model"), "rank 1 on .*: RuntimeError: the gloo/transport"),
    ("evaluation", 1, ValueError("odd"), "rank 1 on .*: ValueError: odd"),
    ("saving: writing", 0, OSError(28, "No space left on device"), "run/mlp cannot be written: No space left"),
]
"""What is raised where, on which rank, and what is to be told."""


def fail_on(folder: Path, moment: str, rank: int, error: Exception) -> int:
    """The command; `error` is raised on `rank` by what `moment` names."""
    prepare(folder)
    if rank == int(os.environ["RANK"]):
        owner, name, _ = MOMENTS[moment]

        def fail(*_args, **_options):
            raise error

        setattr(owner, name, fail)
    return train.main([*SMALL], [Witness(folder / "events")])


def download(folder: Path, seconds: float, limit: float) -> int:
    """The command; the download takes so long, and may take as long as `limit`."""
    prepare(folder)
    dataset.DOWNLOAD_SECONDS = limit
    known.fetch = lambda *_: time.sleep(seconds)
    return train.main([*SMALL, "--max-steps=3"])


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """What came of a case. All are under way together, four at a time: nearly all that they do is wait."""
    with ThreadPoolExecutor(4) as threads:
        started = {}

        def start(key, function, size, *arguments, **options):
            folder = tmp_path_factory.mktemp("ranks")
            started[key] = threads.submit(end_processes, function, size, folder, *arguments, **options)

        for case in HANGS:
            fault = Fault(case.moment, 1, case.after, case.rank, case.kind)
            start(case, run_with, case.size, fault, timeout=120.0, torchrun=case.torchrun)
        for step, rank in GLOO_INSTEAD:
            start((step, rank), run_without_memory, 3, step, rank)
        for number, (moment, rank, error, _) in enumerate(ERRORS):
            start(("error", number), fail_on, 2, moment, rank, error, torchrun=number % 2 == 0)
        start("slow", download, 2, 8.0, 60.0)
        start("too slow", download, 2, 1000.0, 6.0, torchrun=False)
        yield lambda key: started[key].result()


@pytest.mark.parametrize("case", HANGS, ids=lambda case: f"{case.moment}, {case.kind}, {case.rank} of {case.size}")
def test_all_ranks_end_by_themselves_and_one_line_names_the_one_that_hangs(outcome, case):
    ended = outcome(case)
    assert None not in [one.code for one in ended], "a rank was left behind"
    assert ended[case.rank].code != 0
    (line,) = [line for one in ended for line in one.err]
    store = case.kind == FREEZE and case.rank == 0 and not case.torchrun
    assert ("which rank 0 hosts, " if store else f"distmnist: rank {case.rank} on ") in line


@pytest.mark.parametrize(("step", "rank"), GLOO_INSTEAD)
def test_where_shared_memory_cannot_be_set_up_on_a_rank_all_train_over_gloo(outcome, step, rank):
    assert [(one.code, one.err) for one in outcome((step, rank))] == [(0, [])] * 3


@pytest.mark.parametrize("number", range(len(ERRORS)), ids=[f"{moment} {error!r}" for moment, _, error, _ in ERRORS])
def test_whatever_goes_wrong_on_whichever_rank_is_told_once(outcome, number):
    ended = outcome(("error", number))
    assert all(one.code for one in ended)
    (line,) = [line for one in ended for line in one.err]
    assert re.search(ERRORS[number][3], line), line


def test_work_that_is_known_to_take_long_is_waited_for(outcome):
    assert [(one.code, one.err) for one in outcome("slow")] == [(0, [])] * 2


def test_work_that_takes_longer_than_its_own_limit_is_named(outcome):
    ended = outcome("too slow")
    assert all(one.code for one in ended)
    (line,) = [line for one in ended for line in one.err]
    assert re.search("^distmnist: rank 0 on .* has not finished downloading the data set within 6 s$", line), line


def stop_rank_0_before_the_others_watch(folder: Path) -> int:
    """The command; rank 0, which hosts the store, is stopped once all have met and before another one beats."""
    prepare(folder)
    enter = Heartbeat.__enter__

    def stop_or_dawdle(heartbeat: Heartbeat) -> Heartbeat:
        if heartbeat.rank == 0:
            enter(heartbeat)
            time.sleep(1)
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(3)
        return enter(heartbeat)

    Heartbeat.__enter__ = stop_or_dawdle
    return train.main([*SMALL])


def test_a_rank_0_that_is_stopped_before_the_others_watch_it_is_named_and_ended(tmp_path):
    """Apart from the others: it is told once a machine."""
    ended = end_processes(stop_rank_0_before_the_others_watch, 2, tmp_path, torchrun=False)
    assert [one.code for one in ended] == [-signal.SIGKILL, 1]
    (line,) = [line for one in ended for line in one.err]
    assert "which rank 0 hosts, has not answered for" in line


def run_long(folder: Path) -> int:
    prepare(folder)
    (folder / f"pid-{os.environ['RANK']}").write_text(str(os.getpid()))
    # A time-out below the pause, and above what starting takes beside other tests.
    return train.main([*SMALL, "--epochs=1000", "--timeout=7"])


def test_a_standstill_of_all_processes_is_nobodys_fault(tmp_path):
    """A container is paused, say, for longer than the time-out: they resume, and stop when they are asked to."""

    def pause() -> None:
        while not (tmp_path / "run/mlp/last.pt").exists():
            time.sleep(0.1)
        pids = [int((tmp_path / f"pid-{rank}").read_text()) for rank in range(2)]
        for number, seconds in ((signal.SIGSTOP, 10), (signal.SIGCONT, 3), (signal.SIGTERM, 0)):
            for pid in pids:
                os.kill(pid, number)
            time.sleep(seconds)

    thread = threading.Thread(target=pause, daemon=True)
    thread.start()
    # A second SIGTERM, as soon as one rank has ended, could strike the other after its handlers are gone.
    ended = end_processes(run_long, 2, tmp_path, terminate=False)
    assert [(one.code, one.err) for one in ended] == [(143, [])] * 2
