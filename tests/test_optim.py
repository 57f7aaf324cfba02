"""The schedules as functions of the update count, and the optimizers beside torch's plain ones."""

import itertools
import math

import pytest
import torch

from distmnist.config import Config
from distmnist.optim import build_optimizer, learning_rate

LR = 0.3


def rates(schedule, total):
    return [learning_rate(Config(schedule=schedule, lr=LR), update, total) for update in range(total + 1)]


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
    config = Config(schedule=schedule, lr=LR)
    assert learning_rate(config, 13, 10) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("options", "plain"),
    [
        ({"optimizer": "adam"}, lambda p: torch.optim.Adam(p, lr=0.1)),
        ({"optimizer": "adam", "weight_decay": 0.1}, lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.1)),
        ({"optimizer": "adamw", "weight_decay": 0.1}, lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1)),
        ({"optimizer": "adamw"}, lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.0)),
        ({"optimizer": "sgd"}, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)),
        (
            {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.2},
            lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.2),
        ),
    ],
    ids=str,
)
def test_each_optimizer_updates_as_torchs_plain_one_does(options, plain):
    start = torch.linspace(-1, 1, 12).reshape(3, 4)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    optimizer, oracle = build_optimizer([ours], Config(lr=0.1, **options)), plain([theirs])
    for update in range(4):
        for parameter, engine in ((ours, optimizer), (theirs, oracle)):
            parameter.grad = torch.sin(start * (update + 1))
            for group in engine.param_groups:
                group["lr"] = 0.1 / (update + 1)
            engine.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
    assert not torch.equal(ours, start)
