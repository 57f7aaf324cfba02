"""Processes that come back find each other, their run, and the very weights they would have had."""

import datetime
import json
import threading
import time

import pytest
import torch.distributed as dist

from benchmarks import faults
from benchmarks.damage import damages
from distmnist import heartbeat
from distmnist.config import RunError
from distmnist.heartbeat import Heartbeat
from distmnist.rendezvous import meet
from distmnist.rundir import Launch


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
    with pytest.raises(RunError, match="rank 0 did not call rank 1"):
        meet(store.clone(), 1, 2, timeout=0.3)


def test_rank_0_waits_for_a_new_rank_when_it_finds_the_hello_of_a_dead_one(store):
    all_meet(store, 3)
    with pytest.raises(RunError, match="rank 1, 2 of 3 did not come"):
        meet(store.clone(), 0, 3, timeout=0.3)


def test_an_attempt_may_have_other_ranks_than_the_one_before(store):
    all_meet(store, 4)
    assert len(all_meet(store, 2)) == 2
    assert len(all_meet(store, 3)) == 3


@pytest.fixture
def quick_beats(monkeypatch):
    monkeypatch.setattr(heartbeat, "INTERVAL", 0.02)


def test_the_rank_before_a_silent_one_says_so(store, quick_beats):
    alarms: list[str] = []
    with Heartbeat(store, 1, 3, timeout=0.3, alarm=alarms.append):
        time.sleep(0.2)
        assert alarms == []
        time.sleep(0.6)
    assert alarms[0] == "rank 2 has given no sign of life for 0.3 s"


def test_ranks_that_beat_or_have_left_raise_no_alarm(store, quick_beats):
    alarms: list[str] = []
    with Heartbeat(store, 0, 2, timeout=0.3, alarm=alarms.append):
        with Heartbeat(store, 1, 2, timeout=0.3, alarm=alarms.append):
            time.sleep(0.6)
        time.sleep(0.6)
    assert alarms == []


@pytest.fixture
def noted(tmp_path, monkeypatch):
    """A run that the agents a and b began under torchrun's id "job"; and another, under its default id."""
    monkeypatch.chdir(tmp_path)
    for name, run_id in (("named", "job"), ("unnamed", "none")):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        launch = Launch(run_id, frozenset({"a", "b"}))
        (folder / "config.json").write_text(json.dumps({"launch": launch.to_json()}))
    return tmp_path / "runs"


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
def test_a_restarted_launch_finds_its_run_and_only_its_own(noted, run_id, agents, output, found):
    path = Launch(run_id, frozenset(agents)).earlier_attempt(output and noted / output)
    assert path and path.name == found if found else path is None


@pytest.mark.parametrize("number", [0, 2, 3, 6])
def test_killed_and_restarted_the_job_ends_with_the_undisturbed_weights(number):
    trial = faults.draw(seed=1, number=number)
    outcome = faults.carry_out(trial)
    assert outcome.struck
    assert outcome.digest == faults.carry_out(faults.undisturbed(trial)).digest


def test_no_damaged_snapshot_is_accepted():
    assert damages(300, seed=0, say=lambda line: None) == 0
