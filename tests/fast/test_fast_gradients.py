"""Fewer messages and less Python, and the same gradients: tests/training/test_gradients.py compares those."""

import pytest
import torch
from digits import random_digits
from ranks import run_ranks
from shards import add_shard
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from distmnist.distributed.world import World
from distmnist.fast import gradients
from distmnist.fast.gradients import build_fast_gradients, differentiate
from distmnist.fast.shared_memory import SharedMemory
from distmnist.models.build import build_model


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
    own = build_fast_gradients(model, world)
    batch = random_digits(8).batch(torch.arange(8))
    for _ in range(4):
        gathered.clear()
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            add_shard(own, *batch, torch.zeros(2), 8)
            own.finish()
    return gathered + [event.name for event in profiled.events() if event.name.startswith("gloo:")]


@pytest.mark.parametrize(("shared", "message"), [(True, "shared memory"), (False, "gloo:all_reduce")])
def test_a_step_is_one_message_stats_included(shared, message):
    assert run_ranks(messages, 2, shared) == [[message]] * 2


def state_names(world):
    model = build_model("mlp")
    own = build_fast_gradients(model, world)
    return list(model.state_dict()), [len(list(net.parameters())) for net in (model, own.module)]


def test_the_stats_have_no_part_in_the_models_state():
    names = list(build_model("mlp").state_dict())
    assert state_names(World()) == (names, [6, 6])
    assert run_ranks(state_names, 2) == [(names, [6, 7])] * 2  # under DDP a parameter beside the model carries them
