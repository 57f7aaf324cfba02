"""Random views of digits: drawn once an epoch for each digit, and put where the maps say."""

import math

import pytest
import torch
from digits import few_digits, random_digits
from torch import nn

from distmnist.config import TrainConfig
from distmnist.data import augmentation
from distmnist.data.augmentation import affine_maps, draw_maps, warp
from distmnist.data.sampler import EpochPlan
from distmnist.models.build import MODELS
from distmnist.training.trainer import fit


def blob(x: float, y: float) -> torch.Tensor:
    """An image [1, 1, 28, 28] of one soft dot, x pixels right of the centre and y below it, on a background of 0."""
    across = torch.arange(28) - 13.5
    return torch.exp(-((across - x) ** 2 + (across[:, None] - y) ** 2) / 4)[None, None]


def centre_of_mass(image: torch.Tensor) -> tuple[float, float]:
    across, mass = torch.arange(28) - 13.5, image[0, 0] / image.sum()
    return float((mass.sum(0) * across).sum()), float((mass.sum(1) * across).sum())


@pytest.mark.parametrize(
    "named", [{}, {"angle": 0.4}, {"growth": -0.2}, {"slant": 0.3}, {"right": 3.0}, {"down": -2.5}, "all"], ids=str
)
def test_a_dot_lands_where_slanting_sizing_turning_and_moving_it_in_this_order_puts_it(named):
    every = {"angle": -0.3, "growth": 0.15, "slant": 0.2, "right": -2.0, "down": 1.5}
    given = dict.fromkeys(every, 0.0) | (every if named == "all" else named)
    maps = affine_maps(**{name: torch.tensor([value]) for name, value in given.items()})
    cos, sin = math.cos(given["angle"]), math.sin(given["angle"])
    for x, y in ((0.0, 0.0), (5.0, 1.0), (-2.0, 6.0)):
        slanted, below = (1 + given["growth"]) * (x + given["slant"] * y), (1 + given["growth"]) * y
        expected = cos * slanted - sin * below + given["right"], sin * slanted + cos * below + given["down"]
        assert centre_of_mass(warp(blob(x, y), maps)) == pytest.approx(expected, abs=0.02)


def test_what_comes_in_from_outside_is_the_border_not_ink():
    background = torch.full((3, 1, 28, 28), -0.4242)
    torch.testing.assert_close(warp(background, draw_maps(0, 0, 3, 4.0)), background, rtol=1e-5, atol=0)


def test_a_digits_view_has_the_same_bits_in_any_batch():
    images, _ = random_digits(40).batch(torch.arange(40))
    maps = draw_maps(0, 0, 40, 1.0)
    whole = warp(images, maps)
    for part in (slice(0, 1), slice(7, 10), slice(33, 40), slice(5, 5)):
        assert torch.equal(warp(images[part], maps[part]), whole[part])


def test_the_draws_fill_what_the_strength_allows_and_no_more(monkeypatch):
    drawn = []
    monkeypatch.setattr(augmentation, "affine_maps", lambda *each: drawn.append(torch.stack(each)))
    draw_maps(0, 0, 5000, 1.0)
    draw_maps(0, 0, 5000, 0.5)
    limits = torch.tensor([math.radians(10), 0.1, 0.1, 2.0, 2.0])
    for draws, strength in zip(drawn, (1.0, 0.5), strict=True):
        for extreme in (draws.amax(1), -draws.amin(1)):
            assert bool((extreme <= strength * limits).all() and (extreme > 0.99 * strength * limits).all())
        assert bool((draws.corrcoef() - torch.eye(5)).abs().max() < 0.1)


def test_every_epoch_and_seed_has_maps_of_its_own():
    tables = [draw_maps(seed, epoch, 20, 1.0) for seed in (0, 1) for epoch in (0, 1)]
    assert not any(torch.equal(tables[i], tables[j]) for i in range(4) for j in range(i))
    assert torch.equal(draw_maps(1, 1, 20, 1.0), tables[3])


def test_a_digit_is_trained_on_through_its_map_of_the_epoch_and_tested_on_as_it_is(monkeypatch):
    seen = {True: [], False: []}

    class Probe(nn.Module):
        def __init__(self, activation, dropout):
            super().__init__()
            self.linear = nn.Linear(784, 10)

        def forward(self, images):
            seen[self.training].append(images)
            return self.linear(images.flatten(1))

    monkeypatch.setitem(MODELS, "probe", Probe)
    digits = few_digits()
    fit(TrainConfig(model="probe", epochs=2, batch_size=70, augment=1.0, seed=5, amp="off"), digits)
    expected = []
    for epoch in range(2):
        maps = draw_maps(5, epoch, 300, 1.0)
        for batch in EpochPlan(seed=5, epoch=epoch, size=300, batch_size=70).order.split(70):
            expected.append(warp(digits.train.batch(batch)[0], maps[batch]))
    assert torch.equal(torch.cat(seen[True]), torch.cat(expected))
    as_they_are, _ = digits.test.batch(torch.arange(120))
    assert torch.equal(torch.cat(seen[False]), torch.cat((as_they_are, as_they_are)))
