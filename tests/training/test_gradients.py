"""Gradients of any number of processes are one process's, in plain PyTorch and by fast/, and so are the statistics."""

import pytest
import torch
from digits import random_digits
from ranks import run_ranks
from shards import BOTH, batch_gradient, build
from torch.nn import functional

from distmnist.distributed.world import World
from distmnist.models.build import build_model

BATCHES = [[64, 64, 21], [5, 1, 64, 2], [1, 64, 3]]
"""Digits in each global batch: the last one smaller; some shards empty; some empty from the start."""


def one_gradient(net, images, labels):
    """The gradient of the mean loss of a whole batch, in one process, without any of our code but the net."""
    model = build_model(net, seed=1)
    loss = functional.cross_entropy(model(images), labels, reduction="mean")
    return torch.autograd.grad(loss, list(model.parameters())), loss.item() * len(labels)


def gradients_of(world, cases, fast, shared, virtual_ranks):
    """For each batch of each case: its gradient and its stats, each rank asking for something else."""
    if fast and not shared:
        from distmnist.fast import gradients as fast_gradients

        fast_gradients.share_memory = lambda world, slot: None
    requests = torch.tensor([float(world.rank == 1), 1.0])
    found = []
    for net, counts in cases:
        torch.manual_seed(world.rank)
        model = build_model(net, seed=1)
        gradients = build(fast, model, world, virtual_ranks)
        found.append([])
        for number, count in enumerate(counts):
            stats = batch_gradient(gradients, world, count, requests, virtual_ranks=virtual_ranks, seed=number)
            found[-1].append(([parameter.grad.clone() for parameter in model.parameters()], stats))
    return found


def check(answers, net, counts, shards):
    for number, count in enumerate(counts):
        images, labels = random_digits(count, seed=number).batch(torch.arange(count))
        expected, loss_sum = one_gradient(net, images, labels)
        for answer in answers:
            found, stats = answer[number]
            for mine, theirs, reference in zip(found, answers[0][number][0], expected, strict=True):
                assert torch.equal(mine, theirs)
                assert float((mine - reference).norm()) <= 1e-5 * float(reference.norm())
            assert stats.loss_sum == pytest.approx(loss_sum, rel=1e-5)
            assert stats.checkpoint == shards and (stats.stop > 0) == (len(answers) > 1)


@pytest.mark.parametrize("fast", BOTH)
@pytest.mark.parametrize(
    ("size", "nets", "shared", "virtual_ranks"),
    [
        (1, ["mlp"], False, 0),
        (1, ["mlp"], False, 4),
        (2, ["cnn"], True, 0),
        (2, ["cnn"], False, 0),
        (3, ["mlp", "cnn"], True, 0),
        (3, ["mlp"], False, 0),
        (2, ["mlp"], True, 8),
        (8, ["mlp"], True, 0),
    ],
)
def test_gradients_and_stats_are_those_of_one_process_for_uneven_and_empty_shards(
    fast, size, nets, shared, virtual_ranks
):
    if not fast and not shared and size > 1:
        pytest.skip("plain PyTorch shares no memory")
    cases = [(net, counts) for net in nets for counts in BATCHES]
    arguments = cases, fast, shared, virtual_ranks
    answers = [gradients_of(World(), *arguments)] if size == 1 else run_ranks(gradients_of, size, *arguments)
    for number, (net, counts) in enumerate(cases):
        check([answer[number] for answer in answers], net, counts, shards=virtual_ranks or size)
