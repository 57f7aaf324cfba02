"""The optimizers that call fused kernels alone: the bits of torch's classes, whose state they read and write."""

import copy

import pytest
import torch

from distmnist.config import TrainConfig
from distmnist.fast.optimizer import build_fused_optimizer

KINDS = [
    ({"optimizer": "adam"}, lambda p, **how: torch.optim.Adam(p, lr=0.1, **how)),
    ({"optimizer": "adam", "weight_decay": 0.1}, lambda p, **how: torch.optim.Adam(p, lr=0.1, weight_decay=0.1, **how)),
    (
        {"optimizer": "adamw", "weight_decay": 0.1},
        lambda p, **how: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1, **how),
    ),
    ({"optimizer": "adamw"}, lambda p, **how: torch.optim.AdamW(p, lr=0.1, weight_decay=0.0, **how)),
    ({"optimizer": "sgd"}, lambda p, **how: torch.optim.SGD(p, lr=0.1, momentum=0.9, **how)),
    (
        {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.2},
        lambda p, **how: torch.optim.SGD(p, lr=0.1, weight_decay=0.2, **how),
    ),
]
"""Our options, and torch's class with the same."""


def weights():
    return [torch.nn.Parameter(torch.linspace(-1, 1, 12).reshape(shape)) for shape in ((3, 4), (12,))]


def update(optimizer, parameters, numbers):
    """Updates number `numbers`, each with its own gradient and rate."""
    for number in numbers:
        for parameter in parameters:
            parameter.grad = torch.sin((number + 1) * torch.linspace(-1, 1, 12)).reshape(parameter.shape)
        optimizer.param_groups[0]["lr"] = 0.1 / (number + 1)
        optimizer.step()


def name_of(value):
    return str(value) if isinstance(value, dict) else "torch"


@pytest.mark.parametrize(("options", "theirs"), KINDS, ids=name_of)
def test_each_optimizer_updates_as_torchs_plain_one_does_and_bit_for_bit_as_its_fused_one(options, theirs):
    ours, plain, fused = weights(), weights(), weights()
    update(build_fused_optimizer(ours, TrainConfig(lr=0.1, **options)), ours, range(4))
    update(theirs(plain), plain, range(4))
    update(theirs(fused, fused=True), fused, range(4))
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-7)
    assert all(map(torch.equal, ours, fused))
    assert not any(map(torch.equal, ours, weights()))


@pytest.mark.parametrize("torch_goes_on", [False, True])
@pytest.mark.parametrize(("options", "theirs"), KINDS, ids=name_of)
def test_torchs_optimizers_go_on_from_the_state_of_ours_and_ours_from_theirs(options, theirs, torch_goes_on):
    makers = [lambda p: build_fused_optimizer(p, TrainConfig(lr=0.1, **options)), lambda p: theirs(p, fused=True)]
    first, second = makers if torch_goes_on else makers[::-1]
    whole, parts = weights(), weights()
    update(first(whole), whole, range(5))
    before = first(parts)
    update(before, parts, range(3))
    after = second(parts)
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    update(after, parts, range(3, 5))
    assert all(map(torch.equal, whole, parts))


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_a_frozen_parameter_stays_as_it_is(name):
    frozen, trained = torch.nn.Parameter(torch.ones(3), requires_grad=False), torch.nn.Parameter(torch.ones(3))
    optimizer = build_fused_optimizer([frozen, trained], TrainConfig(optimizer=name, lr=0.1))
    trained.grad = torch.ones(3)
    optimizer.step()
    assert torch.equal(frozen, torch.ones(3)) and not torch.equal(trained, torch.ones(3))
