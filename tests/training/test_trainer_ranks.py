"""The loop on several ranks: the result of one process, and one mind about when to stop."""

import math

import pytest
import torch
from digits import few_digits
from hooks import Ask, Keep
from ranks import run_ranks
from torch import nn

from distmnist.config import TrainConfig
from distmnist.distributed.world import World
from distmnist.errors import RunError
from distmnist.models.build import MODELS
from distmnist.training import trainer
from distmnist.training.requests import Request
from distmnist.training.trainer import fit

SGD = {"epochs": 2, "batch_size": 70, "amp": "off", "optimizer": "sgd", "lr": 0.02}  # 5 steps an epoch, the last of 20


def trained(world, options):
    saved = []
    result = fit(TrainConfig(**options), few_digits(), world=world, callbacks=[Keep(saved.append, world.rank)])
    return result.state, result.history, result.figures, [checkpoint.progress.global_step for checkpoint in saved]


@pytest.mark.parametrize(("net", "sizes"), [("mlp", (2, 3, 8)), ("cnn", (2,))])
def test_any_number_of_processes_trains_what_one_trains_within_rounding(net, sizes):
    options = {**SGD, "model": net, "val_fraction": 0.1}
    state, history, figures, _ = trained(World(), options)
    for size in sizes:
        answers = run_ranks(trained, size, options)
        for other_state, other_history, other_figures, positions in answers:
            for name, tensor in state.items():
                assert torch.equal(other_state[name], answers[0][0][name])
                assert float((other_state[name] - tensor).norm()) <= 1e-4 * float(tensor.norm())
            assert [e.step for e in other_history] == [4, 8]
            for one, other in zip(history, other_history, strict=True):
                for key in ("train_loss", "test_loss", "val_loss", "lr"):
                    assert getattr(other, key) == pytest.approx(getattr(one, key), rel=1e-4)
            assert other_figures.count == figures.count == 120
            assert other_figures.weights_sha256 == answers[0][2].weights_sha256
            assert positions in ([4, 8], [])
        assert [positions for *_, positions in answers] == [[4, 8]] + [[]] * (size - 1)


class Toy(nn.Module):
    """Brought along by a test. On rank `Toy.bad[0]`, its training pass number `Toy.bad[1]` gives no number."""

    bad = (-1, 0)

    def __init__(self, activation, dropout):
        super().__init__()
        self.linear = nn.Linear(784, 10)
        self.passes = 0

    def forward(self, images):
        self.passes += self.training
        logits = self.linear(images.flatten(1))
        return logits * math.nan if self.training and self.passes == Toy.bad[1] else logits


def train_toy(world, bad_rank, bad_pass):
    MODELS["toy"] = Toy
    if world.rank == bad_rank:
        Toy.bad = (bad_rank, bad_pass)
    saved = []
    try:
        result = fit(
            TrainConfig(**SGD, model="toy"), few_digits(), world=world, callbacks=[Keep(saved.append, world.rank)]
        )
        return result.figures.parameters, len(saved)
    except RunError as error:
        return str(error), len(saved)


def test_a_net_that_the_trainer_has_never_heard_of_is_trained_and_saved():
    assert run_ranks(train_toy, 2, -1, 0) == [(7850, 2), (7850, 0)]


def test_a_loss_that_is_not_finite_on_one_rank_stops_all_with_one_text_before_anything_is_saved():
    warm_ups = 2
    answers = run_ranks(train_toy, 3, 1, warm_ups + 4)
    assert answers == [("the loss is nan (toy, epoch 1, step 4, --lr 0.02)", 0)] * 3
    answers = run_ranks(train_toy, 2, 1, warm_ups + 6)
    assert [text for text, _ in answers] == ["the loss is nan (toy, epoch 2, step 1, --lr 0.02)"] * 2
    assert answers[0][1] == 1


class Normalised(nn.Module):
    """What many a user's own net looks like: it has buffers."""

    def __init__(self, activation, dropout):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 5, stride=4)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4 * 36, 10)

    def forward(self, images):
        return self.fc(torch.relu(self.norm(self.conv(images))).flatten(1))


def train_normalised(world):
    MODELS["normalised"] = Normalised
    result = fit(TrainConfig(**SGD, model="normalised"), few_digits(), world=world)
    return result.figures.weights_sha256, result.history[-1].train_loss < result.history[0].train_loss


def test_a_net_with_buffers_can_be_trained_on_several_ranks():
    answers = run_ranks(train_normalised, 2)
    assert answers[0] == answers[1] and answers[0][1]


def stop_on_request(world, asker, step):
    asked, saved = [], []

    def requests():
        asked.append(1)
        return Request.STOP if world.rank == asker and len(asked) >= step else Request.NOTHING

    result = fit(
        TrainConfig(**SGD, model="mlp"),
        few_digits(),
        world=world,
        callbacks=[Keep(saved.append, world.rank), Ask(requests)],
    )
    return len(asked), result.figures, [checkpoint.progress.global_step for checkpoint in saved]


@pytest.mark.parametrize(("asker", "step", "saved"), [(1, 3, [3]), (2, 7, [5, 7])])
def test_a_request_to_stop_on_any_rank_stops_all_after_the_same_step_and_is_saved(asker, step, saved):
    answers = run_ranks(stop_on_request, 3, asker, step)
    assert answers == [(step, None, saved if rank == 0 else []) for rank in range(3)]


def drift(world):
    if world.rank == 1:
        rate = trainer.learning_rate
        trainer.learning_rate = lambda *args: 1.001 * rate(*args)
    try:
        return fit(TrainConfig(**SGD, model="mlp"), few_digits(), world=world).figures
    except RunError as error:
        return str(error)


def test_weights_that_drift_apart_are_noticed_and_the_rank_is_named():
    answers = run_ranks(drift, 3)
    assert answers[0].startswith("the weights of rank 1 differ from rank 0's (mlp, epoch 1, step 5")
    assert all("weights of rank 1" in answer for answer in answers)
