"""Gradients of any number of processes, by gloo or in shared memory, are one process's; ballots cost no message."""

import pytest
import torch
from digits import random_digits
from ranks import run_ranks
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from distmnist.data.sampler import EpochPlan
from distmnist.distributed.world import World
from distmnist.fast.shared_memory import SharedMemory
from distmnist.models.published import build_model
from distmnist.training import gradients
from distmnist.training.gradients import Ballot, BallotBox, build_reducer, differentiate

BATCHES = [[64, 64, 21], [5, 1, 64, 2], [1, 64, 3]]
"""Digits in each global batch: the last one smaller; some shares empty; some empty from the start."""


def one_gradient(net, images, labels):
    """The gradient of the mean loss of a whole batch, in one process, without any of our code but the net."""
    model = build_model(net, seed=1)
    loss = functional.cross_entropy(model(images), labels, reduction="mean")
    return torch.autograd.grad(loss, list(model.parameters())), loss.item() * len(labels)


def gradients_of(world, net, counts, virtual_ranks=0):
    """For each batch: its gradient, the sum of the ballots, each rank voting otherwise."""
    torch.manual_seed(world.rank)
    model = build_model(net, seed=1)
    reducing = build_reducer(model, world, virtual_ranks)
    votes = torch.tensor([float(world.rank == 1), 1.0])
    found = []
    for number, count in enumerate(counts):
        digits = random_digits(count, seed=number)
        plan = EpochPlan(0, 0, count, count)
        parts = virtual_ranks or world.size
        each = parts // world.size
        reducing.start()
        for part in range(world.rank * each, (world.rank + 1) * each):
            images, labels = digits.batch(torch.arange(*plan.bounds(0, part, parts)))
            loss_sum, ballot = reducing.module(images, labels, votes)
            reducing.backward(loss_sum, reducing.weight(count), ballot)
        sums = reducing.finish()
        found.append(([p.grad.clone() for p in model.parameters()], Ballot(*sums.tolist())))
    return found


def check(answers, net, counts, voters):
    for number, count in enumerate(counts):
        images, labels = random_digits(count, seed=number).batch(torch.arange(count))
        expected, loss_sum = one_gradient(net, images, labels)
        for answer in answers:
            found, ballot = answer[number]
            for mine, theirs, reference in zip(found, answers[0][number][0], expected, strict=True):
                assert torch.equal(mine, theirs)
                assert float((mine - reference).norm()) <= 1e-5 * float(reference.norm())
            assert ballot.loss_sum == pytest.approx(loss_sum, rel=1e-5)
            assert (ballot.stop, ballot.snapshot) == (min(voters - 1, 1), voters)


def gradients_of_all(world, cases, shared):
    if not shared:
        gradients.share_memory = lambda world, slot: None
    return [gradients_of(world, net, counts) for net, counts in cases]


@pytest.mark.parametrize(
    ("size", "nets", "shared"),
    [
        (1, ["mlp"], False),
        (2, ["cnn"], True),
        (2, ["cnn"], False),
        (3, ["mlp", "cnn"], True),
        (3, ["mlp"], False),
        (4, ["mlp"], True),
        (8, ["mlp"], True),
    ],
)
def test_gradients_and_ballots_are_those_of_one_process_for_uneven_and_empty_shares(size, nets, shared):
    cases = [(net, counts) for net in nets for counts in BATCHES]
    answers = (
        [gradients_of_all(World(), cases, True)] if size == 1 else run_ranks(gradients_of_all, size, cases, shared)
    )
    for number, (net, counts) in enumerate(cases):
        check([answer[number] for answer in answers], net, counts, voters=size)


def test_differentiating_gives_the_bits_of_torchs_backward_and_grad_and_nothing_is_kept():
    model, weight = build_model("mlp"), torch.tensor(0.3)
    parameters = tuple(model.parameters())
    images, labels = random_digits(7).batch(torch.arange(7))

    def loss():
        return functional.cross_entropy(model(images), labels, reduction="sum")

    (loss() * weight).backward()
    expected = [parameter.grad for parameter in parameters]
    returned = differentiate((loss(),), (weight,), parameters)
    assert all(torch.equal(*pair) for pair in zip(returned, expected, strict=True))
    assert all(torch.equal(parameter.grad, each) for parameter, each in zip(parameters, expected, strict=True))

    model.zero_grad()
    total = loss()
    differentiate((total,), (weight,))
    assert all(torch.equal(parameter.grad, each) for parameter, each in zip(parameters, expected, strict=True))
    with pytest.raises(RuntimeError, match="second time"):
        differentiate((total,), (weight,))


def messages(world, shared):
    """What is sent in one step, after the warm-ups and the step at which DDP sorts its buckets anew."""
    if not shared:
        gradients.share_memory = lambda world, slot: None
    gathered = []
    gather = SharedMemory.all_gather
    SharedMemory.all_gather = lambda memory, tensor: gathered.append("shared memory") or gather(memory, tensor)
    model = build_model("cnn")
    reducing = build_reducer(model, world)
    digits = random_digits(8)
    for _ in range(reducing.warm_ups + 2):
        gathered.clear()
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            loss_sum, ballot = reducing.module(*digits.batch(torch.arange(8)), torch.zeros(2))
            reducing.backward(loss_sum, reducing.weight(8), ballot)
            reducing.finish()
    return gathered + [event.name for event in profiled.events() if event.name.startswith("gloo:")]


@pytest.mark.parametrize(("shared", "message"), [(True, "shared memory"), (False, "gloo:all_reduce")])
def test_a_step_is_one_message_ballots_included(shared, message):
    assert run_ranks(messages, 2, shared) == [[message]] * 2


def state_names(world):
    model = build_model("mlp")
    reducing = build_reducer(model, world)
    return list(model.state_dict()), [len(list(net.parameters())) for net in (model, reducing.module)]


def test_the_ballot_has_no_part_in_the_nets_state():
    names = list(build_model("mlp").state_dict())
    assert state_names(World()) == (names, [6, 6])
    assert run_ranks(state_names, 2) == [(names, [6, 7])] * 2  # under DDP a parameter beside the net carries it


class FakeEvent:
    """Stands in for a CUDA event: notes whether the host has waited for the copy it stands behind."""

    def record(self):
        self.waited = False

    def synchronize(self):
        self.waited = True


@pytest.fixture
def windowed(monkeypatch):
    """A ballot box that works as on CUDA, on the CPU."""
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(BallotBox, "EVERY", 4)
    plain_empty = torch.empty
    monkeypatch.setattr(
        gradients.torch, "empty", lambda *args, pin_memory=False, device=None, **rest: plain_empty(*args, **rest)
    )
    return BallotBox(torch.device("cuda"))


@pytest.mark.parametrize("steps", [0, 1, 3, 4, 5, 8, 9, 13])
def test_on_cuda_every_ballot_is_read_once_in_order_a_window_late(windowed, steps):
    read = []
    for step in range(steps):  # at each, the device may be up to a window behind: nothing newer is waited for
        fresh = windowed.put(torch.tensor([float(step), 0.0, 1.0]))
        assert all(ballot.loss_sum <= step - 4 for ballot in fresh)
        read += fresh
    read += windowed.drain()
    assert read == [Ballot(float(step), 0.0, 1.0) for step in range(steps)]
    assert windowed.drain() == []


def test_on_the_cpu_every_ballot_is_read_at_once():
    box = BallotBox(torch.device("cpu"))
    assert box.put(torch.tensor([2.5, 1.0, 0.0])) == [Ballot(2.5, 1.0, 0.0)]
    assert box.drain() == []
