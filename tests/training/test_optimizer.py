"""The schedules as functions of the update count; torch's fused optimizers, as the options say."""

import itertools
import math

import pytest
import torch

from distmnist.config import TrainConfig
from distmnist.training.optimizer import build_optimizer, learning_rate, state_on_cpu

LR = 0.3


def rates(schedule, total):
    return [learning_rate(TrainConfig(schedule=schedule, lr=LR), update, total) for update in range(total + 1)]


def test_constant_is_constant():
    assert set(rates("constant", 50)) == {LR}


@pytest.mark.parametrize("total", [1, 2, 7, 100])
def test_cosine_falls_from_the_peak_to_zero_as_torchs_does(total):
    found = rates("cosine", total)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    oracle = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
    for rate in found:
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        oracle.step()
    assert found[0] == LR and found[-1] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("total", [10, 100, 4690])
def test_onecycle_climbs_over_a_fifth_of_the_run_from_a_tenth_to_the_peak_then_falls_to_zero(total):
    found = rates("onecycle", total)
    top = total // 5
    assert found[0] == pytest.approx(LR / 10) and found[top] == pytest.approx(LR)
    assert found[-1] == pytest.approx(0, abs=1e-12)
    assert max(found) == found[top]
    assert all(a < b for a, b in itertools.pairwise(found[: top + 1]))
    assert all(a > b for a, b in itertools.pairwise(found[top:]))
    # Straight up; down, a cosine is steepest in its middle: pi / 2 times its mean slope.
    assert all(b - a == pytest.approx(0.9 * LR / top) for a, b in itertools.pairwise(found[: top + 1]))
    assert all(a - b <= 1.01 * LR * math.pi / 2 / (total - top) for a, b in itertools.pairwise(found[top:]))


@pytest.mark.parametrize("total", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("schedule", ["cosine", "onecycle"])
def test_the_shortest_runs_have_rates_that_train(schedule, total):
    assert all(0 < rate <= LR for rate in rates(schedule, total)[:-1])


@pytest.mark.parametrize("schedule", ["cosine", "onecycle"])
def test_beyond_its_end_a_schedule_stays_at_zero(schedule):
    config = TrainConfig(schedule=schedule, lr=LR)
    assert learning_rate(config, 13, 10) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("options", "kind", "group"),
    [
        ({"optimizer": "adam"}, torch.optim.Adam, {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}),
        ({"optimizer": "adamw", "weight_decay": 0.1}, torch.optim.AdamW, {"weight_decay": 0.1}),
        ({"optimizer": "sgd", "momentum": 0.8}, torch.optim.SGD, {"momentum": 0.8, "weight_decay": 0.0}),
    ],
)
def test_an_optimizer_is_torchs_own_fused_and_has_what_is_trained(options, kind, group):
    frozen, trained = torch.nn.Parameter(torch.ones(3), requires_grad=False), torch.nn.Parameter(torch.ones(3))
    optimizer = build_optimizer([frozen, trained], TrainConfig(lr=LR, **options))
    assert type(optimizer) is kind
    (found,) = optimizer.param_groups
    assert found["fused"] and found["lr"] == LR and group.items() <= found.items()
    assert [id(parameter) for parameter in found["params"]] == [id(trained)]


def test_the_state_that_is_kept_is_of_the_cpu_and_torchs_own_reads_it():
    weights = torch.nn.Parameter(torch.ones(3))
    optimizer = build_optimizer([weights], TrainConfig())
    assert state_on_cpu(optimizer)["state"] == {}
    weights.grad = torch.ones(3)
    optimizer.step()
    saved = state_on_cpu(optimizer)
    assert {tensor.device.type for tensor in saved["state"][0].values()} == {"cpu"}
    other = build_optimizer([weights], TrainConfig())
    other.load_state_dict(saved)
    assert torch.equal(other.state[weights]["exp_avg"], optimizer.state[weights]["exp_avg"])
