"""Class weights: an image's training loss is multiplied by the weight of its class; reported losses are not."""

import dataclasses
import functools

import pytest
import torch
from digits import few_digits, random_digits
from ranks import run_ranks
from shards import BOTH, batch_gradient, build
from torch.nn import functional

from distmnist.config import TrainConfig
from distmnist.data.dataset import Dataset
from distmnist.data.splits import hold_out
from distmnist.distributed.world import World
from distmnist.models.build import build_model
from distmnist.training.evaluation import evaluate
from distmnist.training.loss import balanced_weights, build_loss, loss_sums
from distmnist.training.trainer import fit

WEIGHTS, COUNTS = torch.linspace(0.1, 4.0, 10), [64, 21, 1, 2]


@pytest.mark.parametrize("classes", [2, 10])
def test_a_class_weighs_as_much_as_any_other_and_the_mean_over_the_images_is_1(classes):
    labels = torch.randint(classes, (1000,), generator=torch.Generator().manual_seed(0)) ** 2 % classes
    labels[:classes] = torch.arange(classes)
    weights = balanced_weights(labels, classes)
    assert weights.dtype == torch.float32 and weights.shape == (classes,)
    assert weights[labels].double().mean().item() == pytest.approx(1, rel=2**-24)  # that of a rounded weight
    shares = labels.bincount().double() * weights
    assert shares.tolist() == pytest.approx([1000 / classes] * classes, rel=2**-24)


def test_a_class_without_images_weighs_nothing_and_does_not_count():
    assert balanced_weights(torch.tensor([0, 2, 2, 2]), 5).tolist() == pytest.approx([2, 0, 2 / 3, 0, 0])
    assert balanced_weights(torch.tensor([], dtype=torch.int64), 2).tolist() == [0, 0]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_classes_of_equal_size_give_the_loss_and_the_gradient_without_weights_to_the_bit(smoothing):
    labels = torch.arange(10).repeat(7)
    logits = torch.randn(70, 10, generator=torch.Generator().manual_seed(0), requires_grad=True)
    config = TrainConfig(label_smoothing=smoothing)
    plain, weighted = (
        build_loss(dataclasses.replace(config, class_weights=each), labels, 10) for each in ("none", "balanced")
    )
    (loss, _), (other, _) = plain(logits, labels), weighted(logits, labels)
    assert torch.equal(loss, other)
    assert torch.equal(*(torch.autograd.grad(each, logits)[0] for each in (loss, other)))


def gradients(world, fast, virtual_ranks, smoothing):
    """For each batch, shared out: its gradient, and the loss that the stats tell."""
    model = build_model("mlp", seed=1)
    loss = functools.partial(loss_sums, label_smoothing=smoothing, class_weights=WEIGHTS)
    own = build(fast, model, world, virtual_ranks, loss)
    found = []
    for count in COUNTS:
        stats = batch_gradient(own, world, count, torch.zeros(2), virtual_ranks=virtual_ranks, loss=loss)
        found.append((torch.cat([p.grad.flatten() for p in model.parameters()]), stats.loss_sum))
    return found


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("fast", BOTH)
@pytest.mark.parametrize(("size", "virtual_ranks"), [(1, 0), (3, 0), (2, 8)])
def test_the_gradient_is_that_of_the_weighted_losses_and_the_stats_tell_the_cross_entropy(
    size, virtual_ranks, fast, smoothing
):
    """Where labels are not smoothed, as torch's own weighted cross entropy has it; where they are, image by image."""
    arguments = fast, virtual_ranks, smoothing
    answers = [gradients(World(), *arguments)] if size == 1 else run_ranks(gradients, size, *arguments)
    for number, count in enumerate(COUNTS):
        model = build_model("mlp", seed=1)
        images, labels = random_digits(count).batch(torch.arange(count))
        logits = model(images)
        if smoothing:
            each = functional.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
            loss_sum = (WEIGHTS[labels] * each).sum()
        else:
            loss_sum = functional.cross_entropy(logits, labels, weight=WEIGHTS, reduction="sum")
        expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss_sum / count, list(model.parameters()))])
        told_of_one = functional.cross_entropy(model(images), labels, reduction="sum").item()
        for answer in answers:
            gradient, told = answer[number]
            assert float((gradient - expected).norm()) <= 1e-5 * float(expected.norm())
            assert told == pytest.approx(told_of_one, rel=1e-5)


def uneven(digits: Dataset) -> Dataset:
    """The digits with every training image of 3 five times, and none but one of 7."""
    labels = digits.train.labels
    repeated = torch.where(labels == 3, 5, 1)
    repeated[labels == 7] = 0
    repeated[(labels == 7).nonzero()[0]] = 1
    return dataclasses.replace(digits, train=digits.train.select(torch.arange(len(labels)).repeat_interleave(repeated)))


ONE_STEP = {
    "model": "mlp",
    "epochs": 1,
    "batch_size": 1000,
    "lr": 0.1,
    "optimizer": "sgd",
    "momentum": 0.0,
    "amp": "off",
}


@pytest.mark.parametrize("fast", ["auto", "off"])
@pytest.mark.parametrize("val_fraction", [0.0, 0.2])
def test_a_fit_weighs_by_the_images_that_it_trains_on_and_reports_losses_without_weights(digits, fast, val_fraction):
    """One whole-batch step, written down: classes as held out are of other shares, so their counts would show."""
    data = uneven(digits)
    train, _ = hold_out(data, val_fraction)
    counts = train.labels.bincount(minlength=10)
    present = int((counts > 0).sum())
    weights = torch.tensor([len(train) / (present * n) if n else 0.0 for n in counts.tolist()])
    model = build_model("mlp")
    images, labels = train.batch(torch.arange(len(train)))
    loss = functional.cross_entropy(model(images), labels, weight=weights, reduction="sum") / len(train)
    loss.backward()

    result = fit(TrainConfig(**ONE_STEP, class_weights="balanced", val_fraction=val_fraction, fast=fast), data)
    for name, parameter in model.named_parameters():
        parameter, step = parameter.detach(), 0.1 * parameter.grad
        assert float((result.state[name] - (parameter - step)).norm()) <= 1e-5 * float(step.norm()) + 1e-7, name
    before = evaluate(build_model("mlp"), train, 10, World())
    assert result.history[0].train_loss == pytest.approx(before.loss, rel=1e-5)
    assert abs(loss.item() - before.loss) > 1e-3 * before.loss


def test_repeating_all_images_of_a_class_changes_a_balanced_step_only_by_rounding(digits):
    labels = digits.train.labels
    repeated = digits.train.select(torch.arange(300).repeat_interleave(torch.where(labels == 3, 5, 1)))
    more = dataclasses.replace(digits, train=repeated)
    steps = {}
    for weights in ("none", "balanced"):
        once, often = (fit(TrainConfig(**ONE_STEP, class_weights=weights), data).state for data in (few_digits(), more))
        first = build_model("mlp").state_dict()
        step, change = (
            torch.cat([(now[name] - then[name]).flatten() for name in first]).norm()
            for now, then in ((once, first), (often, once))
        )
        steps[weights] = float(change / step)
    assert steps["balanced"] < 1e-4 and steps["none"] > 0.1
