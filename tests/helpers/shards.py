"""The gradient of a global batch, shared out over ranks and shards, in plain PyTorch or by fast/."""

import pytest
import torch
from digits import random_digits
from torch import Tensor, nn

from distmnist.data.sampler import EpochPlan
from distmnist.distributed.world import World
from distmnist.training.gradients import Gradients, build_gradients
from distmnist.training.loss import Loss, loss_sums
from distmnist.training.parts import fast_is_there
from distmnist.training.stats import StepStats

BOTH = [False, pytest.param(True, marks=pytest.mark.skipif(not fast_is_there(), reason="distmnist/fast is not there"))]
"""Without fast/, and with it."""


def build(fast: bool, model: nn.Module, world: World, virtual_ranks: int = 0, loss: Loss = loss_sums) -> Gradients:
    if not fast:
        return build_gradients(model, world, virtual_ranks, 10)
    from distmnist.fast.gradients import build_fast_gradients

    return build_fast_gradients(model, world, virtual_ranks, loss)


def add_shard(
    gradients: Gradients, images: Tensor, labels: Tensor, requests: Tensor, count: int, loss: Loss = loss_sums
) -> None:
    """Forward and backward of a shard of a global batch of `count`, as the trainer's steps do it."""
    weight = gradients.average / count
    gradients.start_shard(len(labels))
    if hasattr(gradients, "backward"):
        loss_sum, stats = gradients.module(images, labels, requests)
        gradients.backward(loss_sum, torch.full((), weight), stats)
    else:
        loss_sum, cross_entropy = loss(gradients.module(images), labels)
        (loss_sum * weight).backward()
        gradients.collect(torch.cat((cross_entropy.reshape(1), requests)))


def batch_gradient(
    gradients: Gradients,
    world: World,
    count: int,
    requests: Tensor,
    *,
    virtual_ranks: int = 0,
    loss: Loss = loss_sums,
    seed: int = 0,
) -> StepStats:
    """Leaves the gradient of `count` random digits in the parameters. Returns what all shards say."""
    digits, plan = random_digits(count, seed=seed), EpochPlan(0, 0, count, count)
    parts = virtual_ranks or world.size
    each = parts // world.size
    gradients.clear()
    for part in range(world.rank * each, (world.rank + 1) * each):
        images, labels = digits.batch(torch.arange(*plan.bounds(0, part, parts)))
        add_shard(gradients, images, labels, requests, count, loss)
    return StepStats(*gradients.finish().tolist())
