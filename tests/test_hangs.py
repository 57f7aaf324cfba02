"""A rank that hangs, wherever ranks wait for each other: all end by themselves, and one line names it."""

import dataclasses
import os
import signal
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from digits import few_digits
from ranks import Ended, end_processes

from benchmarks.faults import FAIL, FREEZE, HANG, HANG_IN_C, MOMENTS, Fault, strike
from distmnist import data, job, train

SMALL = ("--model=mlp", "--epochs=2", "--batch-size=60", "--amp=off", "--threads=1", "--timeout=4", "--output=run")


@dataclasses.dataclass(frozen=True)
class Case:
    """`rank` of `size` hangs at `moment`; torchrun: see `ranks.end_processes`."""

    moment: str
    rank: int
    size: int
    torchrun: bool
    kind: str = HANG


CASES = [
    Case("start-up", 1, 2, True),
    Case("set-up: connecting", 1, 3, False),
    Case("set-up: meeting in shared memory", 0, 2, False),
    Case("an agreement", 2, 3, True),
    Case("a step", 1, 2, False),
    Case("a step", 1, 2, True, HANG_IN_C),
    Case("a step", 2, 3, True, FREEZE),
    Case("a step", 0, 2, False, FREEZE),  # it hosts the store
    Case("evaluation", 0, 3, True),
    Case("evaluation: adding up", 1, 2, False, HANG_IN_C),
    Case("saving: writing", 0, 2, True),
    Case("leaving", 1, 2, True),
    Case("leaving", 0, 3, False),
]


def run_with(folder: Path, fault: Fault | None, *more: str) -> int:
    """The command, in `folder`, on a few digits; `fault` strikes on its rank."""
    os.chdir(folder)
    data.fetch, data.load = lambda directory, say: None, lambda directory: few_digits()
    if fault and fault.rank == int(os.environ["RANK"]):
        strike(fault, folder / "events")
    return train.main([*SMALL, *more])


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict[Case, Future[list[Ended]]]:
    """The cases are under way together, four at a time: nearly all that they do is wait."""
    with ThreadPoolExecutor(4) as threads:
        started = {}
        for case in CASES:
            fault = Fault(case.moment, 1, False, case.rank, case.kind)
            folder = tmp_path_factory.mktemp("hang")
            started[case] = threads.submit(
                end_processes, run_with, case.size, folder, fault, timeout=120.0, torchrun=case.torchrun
            )
        yield started


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.moment}, {case.kind}, {case.rank} of {case.size}")
def test_all_ranks_end_by_themselves_and_one_line_names_the_one_that_hangs(outcomes, case):
    ended = outcomes[case].result()
    frozen_store = case.kind == FREEZE and not case.torchrun and case.rank == 0
    assert [one.code for one in ended if one.code is None] == [None] * frozen_store, "a rank was left behind"
    assert ended[case.rank].code != 0
    lines = [line for one in ended for line in one.err if "WARNING" not in line]
    if frozen_store:
        assert len(lines) == case.size - 1 and all("which rank 0 hosts, has not answered" in line for line in lines)
    else:
        assert len(lines) == 1 and lines[0].startswith(f"distmnist: rank {case.rank} on "), lines


@pytest.mark.parametrize("rank", [0, 1, 2])
@pytest.mark.parametrize("step", ["listen", "meet_peers", "make_memory", "receive_memory"])
def test_where_setting_up_shared_memory_fails_on_a_rank_training_goes_over_gloo(tmp_path, step, rank, monkeypatch):
    if (step == "make_memory" and rank) or (step == "receive_memory" and not rank):
        pytest.skip("this rank does not take this step")
    ended = end_processes(run_without_memory, 3, tmp_path, step, rank)
    assert [(one.code, one.err) for one in ended] == [(0, [])] * 3


def run_without_memory(folder: Path, step: str, rank: int) -> int:
    from distmnist import shared_memory

    MOMENTS["set-up"] = (shared_memory, step, 1)
    return run_with(folder, Fault("set-up", 1, False, rank, FAIL), "--max-steps=3")


def download_slowly(folder: Path) -> int:
    def fetch(directory, say):
        time.sleep(8)

    os.chdir(folder)
    data.fetch, data.load = fetch, lambda directory: few_digits()
    return train.main([*SMALL, "--max-steps=3"])


def test_work_that_is_known_to_take_long_is_waited_for(tmp_path):
    ended = end_processes(download_slowly, 2, tmp_path)
    assert [(one.code, one.err) for one in ended] == [(0, [])] * 2


def download_too_slowly(folder: Path) -> int:
    job.DOWNLOAD_SECONDS = 6.0
    data.fetch = lambda directory, say: time.sleep(1000)
    os.chdir(folder)
    return train.main([*SMALL, "--max-steps=3"])


def test_work_that_takes_longer_than_its_own_limit_is_named(tmp_path):
    ended = end_processes(download_too_slowly, 2, tmp_path, torchrun=False)
    (line,) = [line for one in ended for line in one.err]
    assert all(one.code for one in ended)
    assert line.startswith("distmnist: rank 0 on ") and "has not finished downloading the data set within 6 s" in line


def stand_still_together(folder: Path) -> int:
    """All processes are stopped for longer than the time-out, at once, and continued."""
    os.chdir(folder)
    data.fetch, data.load = lambda directory, say: None, lambda directory: few_digits()
    (folder / f"pid-{os.environ['RANK']}").write_text(str(os.getpid()))
    return train.main([*SMALL, "--epochs=400"])


def test_a_standstill_of_all_is_nobodys_fault(tmp_path):
    def freeze() -> None:
        files = [tmp_path / f"pid-{rank}" for rank in range(2)]
        while not (tmp_path / "run/mlp/last.pt").exists():
            time.sleep(0.1)
        pids = [int(file.read_text()) for file in files]
        for number in (signal.SIGSTOP, signal.SIGCONT, signal.SIGTERM):
            for pid in pids:
                os.kill(pid, number)
            time.sleep(8 if number == signal.SIGSTOP else 3)

    thread = threading.Thread(target=freeze, daemon=True)
    thread.start()
    ended = end_processes(stand_still_together, 2, tmp_path)
    assert [(one.code, one.err) for one in ended] == [(143, [])] * 2, "they go on, and stop when they are asked to"


def fail_on(folder: Path, rank: int, error: Exception, moment: str) -> int:
    """The command; `error` is raised on `rank` by what `moment` names."""
    os.chdir(folder)
    data.fetch, data.load = lambda directory, say: None, lambda directory: few_digits()
    if rank == int(os.environ["RANK"]):
        owner, name, _ = MOMENTS[moment]

        def fail(*_args, **_options):
            raise error

        setattr(owner, name, fail)
    return train.main([*SMALL])


@pytest.mark.parametrize(
    ("moment", "rank", "error", "told"),
    [
        ("start-up", 1, MemoryError(), "MemoryError"),
        ("start-up", 0, OSError(28, "No space left on device", "/somewhere/gloo"), "/somewhere/gloo: No space left"),
        ("a step", 1, MemoryError(), "rank 1 on .*: MemoryError"),
        (
            "a step",
            1,
            RuntimeError("the gloo/transport of my model"),
            "rank 1 on .*: RuntimeError: the gloo/transport of my model",
        ),
        ("evaluation", 1, ValueError("odd"), "rank 1 on .*: ValueError: odd"),
        ("saving: writing", 0, OSError(28, "No space left on device"), "run/mlp cannot be written: No space left"),
    ],
)
@pytest.mark.parametrize("torchrun", [True, False])
def test_whatever_goes_wrong_on_whichever_rank_is_told_once(tmp_path, moment, rank, error, told, torchrun):
    ended = end_processes(fail_on, 2, tmp_path, rank, error, moment, torchrun=torchrun)
    assert all(one.code for one in ended)
    (line,) = [line for one in ended for line in one.err]
    import re

    assert re.search(told, line), line
