"""The processes: they meet, agree before they train, and say who is missing or differs."""

import os
import re
import signal
import socket
import time

import pytest
import torch
import torch.distributed as dist
from ranks import end_processes, run_processes, run_ranks

from distmnist.distributed.launcher import VARIABLES
from distmnist.distributed.world import World, choose_device, join
from distmnist.errors import RunError, UsageError


def message(error_type, function, *args):
    """The text of the error that the call raises; "" if it raises none."""
    try:
        function(*args)
    except error_type as error:
        return str(error)
    return ""


def state(world, values):
    with world.agreement() as statement:
        statement |= values[world.rank]


def objections(world, *rounds):
    return [message(UsageError, state, world, values) for values in rounds]


def test_ranks_that_say_the_same_agree_and_the_first_that_differs_is_named_to_all():
    same = {"--lr": 0.1, "torch": "2"}
    differing = [same, same, {**same, "--lr": 0.2}, {**same, "torch": "1"}]
    answers = run_ranks(objections, 4, [same] * 4, differing, [same] * 4)
    told = f"rank 2 on {socket.gethostname()} has --lr 0.2, rank 0 has 0.1; start all processes alike"
    assert answers == [["", told, ""]] * 4


def fail_in_agreement(world, failing):
    def block():
        with world.agreement() as statement:
            statement["--lr"] = world.rank  # differs, too
            if world.rank in failing:
                raise UsageError(f"disk {world.rank} is full")

    return message(UsageError, block)


@pytest.mark.parametrize(("failing", "told"), [((0, 2), "disk 0 is full"), ((1,), "rank 1 on .*: disk 1 is full")])
def test_a_usage_error_of_one_rank_is_raised_on_all_with_one_text(failing, told):
    answers = run_ranks(fail_in_agreement, 3, failing)
    assert len(set(answers)) == 1
    assert re.fullmatch(told, answers[0])


def stay_away():
    with join(3.0) as world:
        if world.rank != 2:
            state(world, [{}, {}, {}])
    return 0


def test_ranks_that_wait_for_different_things_are_told_so():
    ended = end_processes(stay_away, 3)
    assert all(one.code for one in ended)
    (line,) = [line for one in ended for line in one.err]
    assert "ranks 0, 1, 2 wait for each other" in line


def join_unless_last():
    def block():
        with join(1.0):
            raise AssertionError("all ranks are said to be here")

    return "" if os.environ["RANK"] == "2" else message(RunError, block)


def test_a_rank_that_never_comes_is_named_after_the_time_out():
    answers = run_processes(join_unless_last, 3)
    assert answers[0] == answers[1] and answers[0].startswith("rank 2 of 3 did not come")


def talk(world):
    return (
        world.announce({"rank": world.rank, "list": [1, None]}),
        world.announce("second"),
        world.broadcast({"weights": torch.full((2,), float(world.rank + 5))}),
        world.gather(2**62 + world.rank),
        world.sum_(torch.tensor([1, world.rank])).tolist(),
        [tensor.tolist() for tensor in world.all_gather(torch.tensor([[world.rank]]))],
        (world.rank, world.size, world.local_rank, world.local_size, world.is_main, world.device.type),
    )


def test_what_rank_0_announces_and_broadcasts_and_what_all_gather_and_add_up_arrives_everywhere():
    for rank, answer in enumerate(run_ranks(talk, 3)):
        assert answer[:2] == ({"rank": 0, "list": [1, None]}, "second")
        assert torch.equal(answer[2]["weights"], torch.full((2,), 5.0))
        assert answer[3] == [2**62, 2**62 + 1, 2**62 + 2]
        assert answer[4:6] == ([3, 3], [[[0]], [[1]], [[2]]])
        assert answer[6] == (rank, 3, rank, 3, rank == 0, "cpu")


def test_a_process_alone_does_all_this_without_peers():
    with join(1.0) as world:
        world.connect()
        answer = talk(world)
        assert not dist.is_initialized()
    assert answer[3:6] == ([2**62], [1, 0], [[[0]]])
    assert answer[6] == (0, 1, 0, 1, True, "cpu")
    with pytest.raises(UsageError, match="mine"), world.agreement():
        raise UsageError("mine")


@pytest.mark.parametrize("present", [("RANK",), ("WORLD_SIZE",), tuple(v for v in VARIABLES if v != "MASTER_PORT")])
def test_a_launcher_that_sets_only_some_variables_is_told_which_lack(monkeypatch, present):
    for name in present:
        monkeypatch.setenv(name, "2")
    with pytest.raises(UsageError) as refusal, join(1.0):
        pass
    lacking = [name for name in VARIABLES if name not in present]
    assert f"not {', '.join(lacking)};" in str(refusal.value)


def test_a_variable_that_is_no_number_is_named(monkeypatch):
    for name in VARIABLES:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("LOCAL_RANK", "first")
    with pytest.raises(UsageError, match="LOCAL_RANK=first"), join(1.0):
        pass


def test_a_world_of_one_needs_nobody_and_a_stray_address_is_no_launcher(monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "no.such.host.invalid")
    with join(1.0) as world:
        assert (world.size, world.store) == (1, None)
    for name in VARIABLES:
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with join(1.0) as world:
        assert (world.size, world.store) == (1, None)


def total(world):
    return world.sum_(torch.ones(1)).item()


def test_one_machine_needs_no_name_that_resolves():
    assert run_ranks(total, 2, environment={"MASTER_ADDR": "no.such.host.invalid"}) == [2, 2]


def interface(world):
    return os.environ["MASTER_ADDR"], os.environ.get("GLOO_SOCKET_IFNAME")


def test_processes_of_one_machine_talk_over_loopback_unless_told_otherwise():
    assert run_ranks(interface, 2, connect=False)[0] == ("127.0.0.1", "lo")
    told = {"GLOO_SOCKET_IFNAME": "eth7"}
    assert run_ranks(interface, 2, connect=False, environment=told)[0] == ("127.0.0.1", "eth7")
    several_nodes = {"LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost"}
    assert run_ranks(interface, 2, connect=False, environment=several_nodes)[0] == ("localhost", None)


def leave():
    with join(30.0) as world:
        world.connect()
        inside = dist.is_initialized()
    return inside, dist.is_initialized()


def test_the_process_group_is_left_at_the_end():
    assert run_processes(leave, 2) == [(True, False)] * 2


def lose_a_peer():
    with join(20.0) as world:
        world.connect()
        if world.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        world.sum_(torch.ones(1))


def test_a_peer_that_is_lost_is_a_run_error_that_names_it_in_one_line():
    lost, killed = end_processes(tell_what_is_raised, 2, torchrun=False)
    assert (lost.code, killed.code) == (1, -signal.SIGKILL)
    assert len(lost.err) == 1 and f"rank 1 on {socket.gethostname()} has ended without a word" in lost.err[0]


def tell_what_is_raised():
    return 1 if message(RunError, lose_a_peer) else 0


@pytest.mark.parametrize(
    ("requested", "gpus", "local", "outcome"),
    [
        ("auto", 0, (0, 4), "cpu"),
        ("cpu", 2, (1, 2), "cpu"),
        ("auto", 2, (1, 2), "cuda:1"),
        ("cuda", 1, (0, 1), "cuda:0"),
        ("cuda", 0, (0, 1), "--device cuda: this machine has no GPU"),
        ("auto", 2, (2, 3), "3 processes but 2 GPUs"),
        ("cuda", 1, (0, 2), "2 processes but 1 GPUs"),
    ],
)
def test_each_process_gets_a_gpu_of_its_own_or_a_line_that_says_why_not(monkeypatch, requested, gpus, local, outcome):
    bound = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", bound.append)
    world = World(local_rank=local[0], local_size=local[1], size=local[1])
    if " " in outcome:
        with pytest.raises(UsageError, match=re.escape(outcome)) as refusal:
            choose_device(requested, world)
        assert "--device cpu" in str(refusal.value)
    else:
        assert str(choose_device(requested, world)) == outcome
        assert bound == ([local[0]] if "cuda" in outcome else [])


def read_late(world):
    if world.is_main:
        world.store.set("word", "still here")
        return "still here"
    time.sleep(1.0)
    return world.store.get("word").decode()


def test_without_torchrun_rank_0_hosts_the_store_until_all_have_left():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {"TORCHELASTIC_USE_AGENT_STORE": "False", "MASTER_PORT": str(port)}
    assert run_ranks(read_late, 3, environment=environment) == ["still here"] * 3
