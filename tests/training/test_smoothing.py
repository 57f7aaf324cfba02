"""Label smoothing: the gradient is that of the smoothed loss everywhere; what is told is the cross entropy."""

import functools

import pytest
import torch
from digits import few_digits, random_digits
from ranks import run_ranks
from shards import BOTH, batch_gradient, build
from torch.nn import functional

from distmnist.config import TrainConfig
from distmnist.distributed.world import World
from distmnist.models.build import build_model
from distmnist.training.evaluation import evaluate
from distmnist.training.loss import loss_sums
from distmnist.training.trainer import fit

SMOOTHING, COUNTS = 0.3, [64, 21, 1, 2]
LOSS = functools.partial(loss_sums, label_smoothing=SMOOTHING)


def gradients(world, fast, virtual_ranks):
    """For each batch, shared out: its gradient, and the loss that the stats tell."""
    model = build_model("mlp", seed=1)
    own = build(fast, model, world, virtual_ranks, LOSS)
    found = []
    for count in COUNTS:
        stats = batch_gradient(own, world, count, torch.zeros(2), virtual_ranks=virtual_ranks, loss=LOSS)
        found.append((torch.cat([p.grad.flatten() for p in model.parameters()]), stats.loss_sum))
    return found


@pytest.mark.parametrize("fast", BOTH)
@pytest.mark.parametrize(("size", "virtual_ranks"), [(1, 0), (3, 0), (2, 8)])
def test_the_gradient_is_that_of_smoothed_targets_and_the_stats_tell_the_cross_entropy(size, virtual_ranks, fast):
    answers = [gradients(World(), fast, 0)] if size == 1 else run_ranks(gradients, size, fast, virtual_ranks)
    for number, count in enumerate(COUNTS):
        model = build_model("mlp", seed=1)
        images, labels = random_digits(count).batch(torch.arange(count))
        log_probabilities = model(images).log_softmax(1)
        target = (1 - SMOOTHING) * functional.one_hot(labels, 10) + SMOOTHING / 10
        loss = -(target * log_probabilities).sum(1).mean()
        expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])
        for answer in answers:
            gradient, told = answer[number]
            assert float((gradient - expected).norm()) <= 1e-5 * float(expected.norm())
            assert told == pytest.approx(-float(log_probabilities[range(count), labels].detach().sum()), rel=1e-5)


def test_reported_losses_compare_with_those_of_a_run_without_smoothing():
    """One whole-batch step: the train loss is that of the initial weights, as evaluation computes it."""
    digits = few_digits()
    given = {"model": "mlp", "epochs": 1, "batch_size": 300, "amp": "off"}
    smoothed = fit(TrainConfig(**given, label_smoothing=SMOOTHING), digits)
    before = evaluate(build_model("mlp"), digits.train, 10, World())
    assert smoothed.history[0].train_loss == pytest.approx(before.loss, rel=1e-5)
