"""Processes that come back find each other, their run, and the very weights they would have had."""

import dataclasses
import datetime
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import members
import pytest
import torch.distributed as dist

from benchmarks import faults
from benchmarks.damage import damages
from distmnist.config import resolve
from distmnist.distributed.launcher import parent_process
from distmnist.distributed.rendezvous import Member, meet
from distmnist.errors import RunError, UsageError
from distmnist.runs import opening, records
from distmnist.runs.rundir import Launch


@pytest.fixture
def store() -> dist.Store:
    limit = datetime.timedelta(seconds=20)
    return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=limit)


def all_meet(store: dist.Store, size: int) -> list[dist.Store]:
    """What `meet` returns for each rank, the last rank being the first to come."""
    met: dict[int, dist.Store] = {}

    def come(rank: int) -> None:
        met[rank] = meet(store.clone(), rank, size, timeout=20)

    threads = [threading.Thread(target=come, args=(rank,)) for rank in reversed(range(size))]
    for thread in threads:
        thread.start()
        time.sleep(0.05)
    for thread in threads:
        thread.join()
    return [met[rank] for rank in range(size)]


def test_all_ranks_of_an_attempt_share_a_store_of_their_own(store):
    first, again = all_meet(store, 3), all_meet(store, 3)
    first[0].set("word", "of the first attempt")
    assert [rank.check(["word"]) for rank in first] == [True] * 3
    assert [rank.check(["word"]) for rank in again] == [False] * 3


def test_a_rank_waits_for_a_new_rank_0_when_it_finds_the_roll_of_a_dead_one(store):
    all_meet(store, 2)
    with pytest.raises(RunError, match="rank 0 of 2 did not admit rank 1"):
        meet(store.clone(), 1, 2, timeout=0.3)


def test_rank_0_waits_for_a_new_rank_when_it_finds_the_hello_of_a_dead_one(store):
    all_meet(store, 3)
    with pytest.raises(RunError, match="rank 1, 2 of 3 did not come"):
        meet(store.clone(), 0, 3, timeout=0.3)


def test_an_attempt_may_have_other_ranks_than_the_one_before(store):
    all_meet(store, 4)
    assert len(all_meet(store, 2)) == 2
    assert len(all_meet(store, 3)) == 3


def test_a_process_of_an_attempt_that_was_given_up_is_not_admitted_and_the_right_one_is(store, monkeypatch):
    """A worker that was stopped, say, and comes to after torchrun has started the next attempt."""
    late = Member("late", 1, 2, parent_process(), 0)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    right = threading.Thread(target=meet, args=(store.clone(), 1, 2, 20), daemon=True)
    right.start()
    time.sleep(0.1)
    shared = dist.PrefixStore("distmnist", store)
    shared.append("members", json.dumps(dataclasses.asdict(late)) + "\n")
    meet(store.clone(), 0, 2, timeout=20)
    right.join(20)
    assert not right.is_alive()
    assert "late" not in json.loads(shared.get("list"))["members"].values()


def test_a_rank_0_of_an_attempt_that_was_given_up_says_so(store, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    with pytest.raises(RunError, match="did not admit"):
        meet(store.clone(), 1, 2, timeout=0.3)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    with pytest.raises(RunError, match="newer attempt"):
        meet(store.clone(), 0, 2, timeout=20)


def test_a_process_with_another_world_size_is_told_so_and_the_right_one_is_admitted(store):
    with ThreadPoolExecutor() as threads:
        wrong = threads.submit(meet, store.clone(), 1, 3, 20)
        leader = threads.submit(meet, store.clone(), 0, 2, 20)
        with pytest.raises(UsageError, match="rank 1 was started with WORLD_SIZE=3, rank 0 with 2"):
            wrong.result()
        meet(store.clone(), 1, 2, 20)
        leader.result()


def noted_run(folder, run_id="job", agents=("a", "b"), attempt=0, process="old", given=None, status=None):
    """A run that the agents began under torchrun's id `run_id`."""
    folder.mkdir(parents=True)
    launch = Launch(run_id, frozenset(agents), attempt, process)
    config = records.RunConfig(given=given or {}, options={}, launch=launch.facts())
    (folder / "config.json").write_bytes(records.encode(config))
    if status:
        (folder / "summary.json").write_text(json.dumps(members.summary(status, {})))
    return folder


@pytest.mark.parametrize(
    ("run_id", "agents", "output", "found"),
    [
        ("none", {"b", "c"}, "unnamed", "unnamed"),  # an agent is left: it restarted its workers
        ("none", {"c"}, "unnamed", None),  # somebody else's launch, by mistake into the same directory
        ("job", {"c"}, "named", "named"),  # requeued: all agents are new, the id is the same
        ("other", {"a"}, "named", None),
        (None, {"a"}, "named", None),  # not under torchrun at all
        ("none", {"a"}, None, "unnamed"),
        ("job", {"a"}, None, "named"),
        ("job", {"c"}, None, None),  # the id of a finished run, used again: a new run
        ("none", {"a"}, "elsewhere", None),
    ],
)
def test_a_restarted_launch_finds_its_run_and_only_its_own(tmp_path, monkeypatch, run_id, agents, output, found):
    monkeypatch.chdir(tmp_path)
    noted_run(tmp_path / "runs/named", "job")
    noted_run(tmp_path / "runs/unnamed", "none")
    path = Launch(run_id, frozenset(agents)).earlier_attempt(output and tmp_path / "runs" / output, lambda _: True)
    assert path and path.name == found if found else path is None


@pytest.mark.parametrize(
    ("what", "noted", "mine", "found"),
    [
        ("restarted", {}, {"attempt": 1}, True),
        ("restarted, and the run had just come to its end", {"status": "finished"}, {"attempt": 1}, True),
        ("only the peers changed", {}, {"attempt": 0}, True),
        ("requeued after its end", {"status": "finished"}, {"agents": {"c"}}, True),
        ("a second training in one process", {}, {"process": "old"}, False),
        ("a second command of one script", {"status": "finished"}, {"attempt": 0}, False),
        ("another command of one script, the first was interrupted", {"given": {"seed": 1}}, {"attempt": 0}, False),
        ("other options, in a directory used before", {"given": {"seed": 1}}, {"agents": {"c"}}, False),
    ],
)
def test_only_a_restart_of_the_same_command_is_an_earlier_attempt(tmp_path, what, noted, mine, found):
    path = noted_run(tmp_path / "run", **noted)
    mine = {"run_id": "job", "agents": {"a"}, "process": "new", **mine}
    launch = Launch(**mine | {"agents": frozenset(mine["agents"])})
    found_path = launch.earlier_attempt(path, lambda config: opening.is_same_command(config, resolve({})))
    assert found_path == (path if found else None), what


@pytest.mark.parametrize("number", [0, 2, 3, 6])
def test_killed_and_restarted_the_job_ends_with_the_undisturbed_weights(number):
    trial = faults.draw(seed=1, number=number)
    outcome = faults.carry_out(trial)
    assert outcome.struck
    assert outcome.digest == faults.carry_out(faults.undisturbed(trial)).digest


def test_no_damaged_snapshot_is_accepted():
    assert damages(300, seed=0, say=lambda line: None) == 0
