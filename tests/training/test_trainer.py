"""The loop of one net: what it computes, when it stops, what it says and saves."""

import copy
import math
import signal

import msgspec
import pytest
import torch
from digits import few_digits
from hooks import Ask, Keep
from ranks import run_ranks
from torch import nn

from distmnist.checkpoint.storage import weights_sha256
from distmnist.config import TrainConfig
from distmnist.data.dataset import DatasetFacts
from distmnist.data.sampler import EpochPlan
from distmnist.data.splits import hold_out
from distmnist.distributed.world import World
from distmnist.errors import RunError
from distmnist.models.build import MODELS, build_model
from distmnist.training import progress, trainer
from distmnist.training.evaluation import evaluate
from distmnist.training.optimizer import learning_rate
from distmnist.training.precision import Precision
from distmnist.training.requests import Request
from distmnist.training.trainer import fit

SMALL = {"model": "mlp", "epochs": 2, "batch_size": 70, "amp": "off"}  # 5 steps an epoch, the last one of 20 digits


def states_equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_loss_falls_and_the_digits_are_learned(digits):
    result = fit(TrainConfig(model="mlp", epochs=8, batch_size=30, lr=3e-3, amp="off"), digits)
    losses = [entry.train_loss for entry in result.history]
    assert losses == sorted(losses, reverse=True) and losses[-1] < 0.2 * losses[0]
    assert result.history[-1].test_accuracy > 0.7


def test_two_epochs_are_those_of_a_loop_written_from_the_publication(digits):
    """Adam, lr 0.001, mean cross entropy; batches as the plans of the epochs deal them."""
    model = build_model("mlp", seed=6)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    sums = [0.0, 0.0]
    for epoch in range(2):
        for batch in EpochPlan(seed=6, epoch=epoch, size=300, batch_size=70).order.split(70):
            pixels = (digits.train.images[batch, None] / 255 - 0.1307) / 0.3081
            loss = nn.functional.cross_entropy(model(pixels), digits.train.labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            sums[epoch] += loss.item() * len(batch)
    result = fit(TrainConfig(**{**SMALL, "seed": 6}), digits)
    assert [entry.train_loss for entry in result.history] == pytest.approx([s / 300 for s in sums], rel=1e-4)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(result.state[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"dropout": 0.3, "amp": "bf16", "schedule": "onecycle", "grad_clip": 1.0}])
def test_a_run_has_the_same_bits_each_time_and_others_with_another_seed(digits, options):
    config = TrainConfig(**{**SMALL, **options})
    first = fit(config, digits)
    torch.rand(11)  # nobody else's random state matters
    assert states_equal(fit(config, digits).state, first.state)
    assert not states_equal(fit(TrainConfig(**{**SMALL, **options, "seed": 1}), digits).state, first.state)


def test_a_net_trained_alone_equals_itself_trained_after_another(digits):
    cnn = TrainConfig(**{**SMALL, "model": "cnn", "epochs": 1, "dropout": 0.2, "max_steps": 2})
    alone = fit(cnn, digits)
    fit(TrainConfig(**SMALL), digits)
    assert states_equal(fit(cnn, digits).state, alone.state)


def test_dropout_differs_from_step_to_step(digits, monkeypatch):
    kept = []

    class Probe(nn.Module):
        def __init__(self, activation, dropout):
            super().__init__()
            self.linear, self.dropout = nn.Linear(784, 10), nn.Dropout(dropout)

        def forward(self, images):
            if self.training:
                kept.append(tuple(self.dropout(torch.ones(64)).tolist()))
            return self.linear(images.flatten(1))

    monkeypatch.setitem(MODELS, "probe", Probe)
    fit(TrainConfig(**{**SMALL, "model": "probe", "dropout": 0.5}), digits)
    assert len(kept) == len(set(kept)) == 10


@pytest.mark.parametrize("virtual_ranks", [0, 2])
def test_a_frozen_parameter_stays_as_it_is(digits, monkeypatch, virtual_ranks):
    class Tuned(nn.Module):
        def __init__(self, activation, dropout):
            super().__init__()
            self.frozen, self.tuned = nn.Linear(784, 20).requires_grad_(False), nn.Linear(20, 10)

        def forward(self, images):
            return self.tuned(torch.relu(self.frozen(images.flatten(1))))

    monkeypatch.setitem(MODELS, "tuned", Tuned)
    result = fit(TrainConfig(**{**SMALL, "model": "tuned", "virtual_ranks": virtual_ranks}), digits)
    fresh = build_model("tuned").state_dict()
    assert torch.equal(result.state["frozen.weight"], fresh["frozen.weight"])
    assert not torch.equal(result.state["tuned.weight"], fresh["tuned.weight"])


def test_history_and_figures_say_what_the_contract_lists_and_the_last_weights_are_reported(digits):
    saved = []
    result = fit(TrainConfig(**SMALL), digits, callbacks=[Keep(saved.append)])
    assert [(entry.epoch, entry.step) for entry in result.history] == [(1, 5), (2, 10)]
    keys = {"epoch", "step", "train_loss", "test_loss", "test_accuracy", "lr", "images_per_second"}
    assert all(entry.to_json().keys() == keys and entry.lr == 1e-3 for entry in result.history)
    figures = result.figures
    keys = {"test_accuracy", "test_loss", "notebook_test_loss", "correct", "count", "parameters", "epochs"}
    assert keys | {"train_seconds", "images_per_second", "weights_sha256"} <= figures.to_json().keys()
    assert (figures.parameters, figures.epochs, figures.count) == (109_386, 2, 120)
    assert figures.weights_sha256 == weights_sha256(result.state)

    model = build_model("mlp")
    model.load_state_dict(result.state)
    again = evaluate(model, digits.test, 10, World())
    assert torch.equal(again.losses, result.evaluation.losses)
    assert figures.test_loss == again.loss == result.history[-1].test_loss
    assert states_equal(saved[-1].model, result.state)


def test_a_checkpoint_is_kept_after_every_epoch_with_what_schema_2_lists(digits):
    saved = []
    fit(TrainConfig(**SMALL), digits, callbacks=[Keep(saved.append)])
    assert [checkpoint.progress.global_step for checkpoint in saved] == [5, 10]
    stored = [checkpoint.to_dict() for checkpoint in saved]
    keys = {"schema", "model", "optimizer", "scaler", "progress", "config", "dataset", "result", "fast", "written"}
    assert all(
        content.keys() == keys | {"versions", "initial_weights"} and content["schema"] == 2 for content in stored
    )
    assert stored[0]["progress"].keys() == {
        *("global_step", "optimizer_steps", "loss_sum", "history", "train_seconds", "epoch_seconds")
    }
    assert stored[0]["model"].keys() == build_model("mlp").state_dict().keys()  # bare names
    assert msgspec.convert(stored[0]["dataset"], DatasetFacts) == digits.describe()
    assert stored[0]["result"] is None and stored[1]["result"]["count"] == 120


def test_a_fit_goes_on_from_an_epochs_checkpoint_as_if_it_had_not_stopped(digits):
    saved = []
    whole = fit(TrainConfig(**SMALL), digits, callbacks=[Keep(lambda snapshot: saved.append(copy.deepcopy(snapshot)))])
    resumed = fit(TrainConfig(**SMALL), digits, checkpoint=saved[0])
    assert states_equal(resumed.state, whole.state)
    assert [e.train_loss for e in resumed.history] == [e.train_loss for e in whole.history]
    done = fit(TrainConfig(**SMALL), digits, checkpoint=saved[1])
    assert states_equal(done.state, whole.state) and done.figures == whole.figures


def test_max_steps_stops_within_an_epoch_and_leaves_the_schedule_its_length(digits):
    config = TrainConfig(**{**SMALL, "schedule": "cosine", "max_steps": 7})
    result = fit(config, digits)
    assert [entry.step for entry in result.history] == [5, 7]
    assert result.history[-1].lr == learning_rate(config, 6, 10)
    assert (result.figures.steps, result.figures.epochs) == (7, 2)
    longer = TrainConfig(**{**SMALL, "max_steps": 1000})
    assert fit(longer, digits).history[-1].step == 10


def test_held_out_digits_are_not_trained_on_and_reported_apart(digits, monkeypatch):
    trained = []

    class Noting(trainer.GlobalBatchSampler):
        def __init__(self, dataset, **rest):
            trained.append(dataset)
            super().__init__(dataset, **rest)

    monkeypatch.setattr(trainer, "GlobalBatchSampler", Noting)
    kept, held = hold_out(digits, 0.25)
    result = fit(TrainConfig(**{**SMALL, "val_fraction": 0.25, "seed": 3}), digits)
    assert [len(part) for part in trained] == [225] and torch.equal(trained[0].rows, kept.rows)
    model = build_model("mlp")
    model.load_state_dict(result.state)
    validation = evaluate(model, held, 10, World())
    for said in (result.history[-1], result.figures):
        assert (said.val_loss, said.val_accuracy) == (validation.loss, validation.accuracy)
    assert result.figures.count == 120
    assert "val_loss" not in fit(TrainConfig(**SMALL), digits).figures.to_json()


def test_evaluation_uses_the_float32_weights_whatever_the_training_precision(digits):
    result = fit(TrainConfig(**{**SMALL, "amp": "bf16"}), digits)
    model = build_model("mlp")
    model.load_state_dict(result.state)
    assert torch.equal(evaluate(model, digits.test, 10, World()).losses, result.evaluation.losses)


def test_seconds_and_images_are_those_of_training_alone(digits, monkeypatch):
    clock = [0.0]

    def tick():
        clock[0] += 1.0
        return clock[0]

    def slowly(*args):
        clock[0] += 1000
        return evaluate(*args)

    monkeypatch.setattr(progress.time, "perf_counter", tick)
    monkeypatch.setattr(trainer, "evaluate", slowly)
    result = fit(TrainConfig(**SMALL), digits, callbacks=[Keep(lambda snapshot: clock.__setitem__(0, clock[0] + 1000))])
    assert result.figures.train_seconds == 2.0
    assert result.figures.images_per_second == 300
    assert [entry.images_per_second for entry in result.history] == [300, 300]


def test_a_loss_that_is_not_finite_is_named_and_nothing_is_saved(digits):
    saved = []
    config = TrainConfig(**{**SMALL, "optimizer": "sgd", "lr": 1e30})
    with pytest.raises(RunError, match=r"the loss is (nan|inf) \(mlp, epoch 1, step [2-5], --lr 1e\+30\)"):
        fit(config, digits, callbacks=[Keep(saved.append)])
    assert saved == []


@pytest.mark.parametrize(("step", "epoch"), [(5, 1), (10, 2)])
def test_weights_that_the_last_step_of_an_epoch_ruins_are_not_saved(digits, monkeypatch, step, epoch):
    calls, saved = [], []

    def ruin(self, loss):
        calls.append(1)
        return loss * (math.inf if len(calls) == step else 1.0)

    monkeypatch.setattr(Precision, "scale", ruin)
    with pytest.raises(RunError, match=rf"nan \(mlp, epoch {epoch}, step 5, --lr 0.001\)"):
        fit(TrainConfig(**SMALL), digits, callbacks=[Keep(saved.append)])
    assert len(saved) == epoch - 1


def test_a_fit_touches_no_signal_handler(digits):
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    seen = []

    def requests():
        seen.append({number: signal.getsignal(number) for number in before})
        return Request.NOTHING

    fit(TrainConfig(**SMALL), digits, callbacks=[Ask(requests)])
    assert len(seen) == 10 and all(during == before for during in seen)


def train_inside_a_larger_job(world):
    digits = few_digits()
    own = fit(TrainConfig(**SMALL, seed=world.rank), digits)
    return weights_sha256(own.state), world.gather(world.rank)


def test_one_process_fits_run_inside_a_larger_job(digits):
    for rank, (digest, ranks) in enumerate(run_ranks(train_inside_a_larger_job, 2)):
        assert digest == weights_sha256(fit(TrainConfig(**SMALL, seed=rank), digits).state)
        assert ranks == [0, 1]
