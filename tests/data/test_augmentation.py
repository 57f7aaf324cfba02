"""Random views of the training images: drawn once an epoch for each image, and put where the maps say."""

import math

import pytest
import torch
from digits import few_digits, random_digits
from torch import nn
from torch.nn import functional

from distmnist.config import TrainConfig
from distmnist.data import augmentation
from distmnist.data.augmentation import affine_maps, draw_crops, draw_maps, warp
from distmnist.data.dataset import Dataset, LabelledImages
from distmnist.data.sampler import EpochPlan
from distmnist.models.build import MODELS
from distmnist.seeds import generator
from distmnist.training import trainer
from distmnist.training.trainer import fit

VIEWS = [{"strength": 1.0}, {"flip": True}, {"crop": True}, {"strength": 1.0, "flip": True, "crop": True}]


def places(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Of an image's pixels, from its centre: x [width], y [height, 1]."""
    return torch.arange(width) - (width - 1) / 2, torch.arange(height)[:, None] - (height - 1) / 2


def blob(x: float, y: float, height: int = 28, width: int = 28) -> torch.Tensor:
    """An image [1, 1, H, W] of one soft dot, x pixels right of the centre and y below it, on a background of 0."""
    across, down = places(height, width)
    return torch.exp(-((across - x) ** 2 + (down - y) ** 2) / 4)[None, None]


def centre_of_mass(image: torch.Tensor) -> tuple[float, float]:
    (across, down), mass = places(*image.shape[2:]), image[0, 0] / image.sum()
    return float((mass * across).sum()), float((mass * down).sum())


@pytest.mark.parametrize(("height", "width"), [(28, 28), (32, 48), (50, 28)])
@pytest.mark.parametrize(
    "named", [{}, {"angle": 0.4}, {"growth": -0.2}, {"slant": 0.3}, {"right": 3.0}, {"down": -2.5}, "all"], ids=str
)
def test_a_dot_lands_where_slanting_sizing_turning_and_moving_it_in_this_order_puts_it(named, height, width):
    """Moved by what is pixels at 28 x 28: by a share of the side at any other shape."""
    every = {"angle": -0.3, "growth": 0.15, "slant": 0.2, "right": -2.0, "down": 1.5}
    given = dict.fromkeys(every, 0.0) | (every if named == "all" else named)
    maps = affine_maps(**{name: torch.tensor([value]) for name, value in given.items()}, aspect=width / height)
    right, down = given["right"] * width / 28, given["down"] * height / 28
    cos, sin = math.cos(given["angle"]), math.sin(given["angle"])
    for x, y in ((0.0, 0.0), (5.0, 1.0), (-2.0, 6.0)):
        slanted, below = (1 + given["growth"]) * (x + given["slant"] * y), (1 + given["growth"]) * y
        expected = cos * slanted - sin * below + right, sin * slanted + cos * below + down
        assert centre_of_mass(warp(blob(x, y, height, width), maps)) == pytest.approx(expected, abs=0.02)


def test_what_comes_in_from_outside_is_the_border_not_ink():
    background = torch.full((3, 1, 28, 28), -0.4242)
    torch.testing.assert_close(warp(background, draw_maps(0, 0, 3, 4.0, crop=True)), background, rtol=1e-5, atol=0)


@pytest.mark.parametrize("views", VIEWS, ids=str)
def test_an_images_view_has_the_same_bits_in_any_batch(views):
    images, _ = random_digits(40).batch(torch.arange(40))
    maps = draw_maps(0, 0, 40, **views)
    whole = warp(images, maps)
    for part in (slice(0, 1), slice(7, 10), slice(33, 40), slice(5, 5)):
        assert torch.equal(warp(images[part], maps[part]), whole[part])


def test_the_draws_fill_what_the_strength_allows_and_no_more(monkeypatch):
    drawn = []
    monkeypatch.setattr(augmentation, "affine_maps", lambda *each, aspect: drawn.append(torch.stack(each)))
    draw_maps(0, 0, 5000, 1.0)
    draw_maps(0, 0, 5000, 0.5)
    limits = torch.tensor([math.radians(10), 0.1, 0.1, 2.0, 2.0])
    for draws, strength in zip(drawn, (1.0, 0.5), strict=True):
        for extreme in (draws.amax(1), -draws.amin(1)):
            assert bool((extreme <= strength * limits).all() and (extreme > 0.99 * strength * limits).all())
        assert bool((draws.corrcoef() - torch.eye(5)).abs().max() < 0.1)


@pytest.mark.parametrize("views", VIEWS, ids=str)
def test_every_epoch_and_seed_has_maps_of_its_own(views):
    tables = [draw_maps(seed, epoch, 20, **views) for seed in (0, 1) for epoch in (0, 1)]
    assert not any(torch.equal(tables[i], tables[j]) for i in range(4) for j in range(i))
    assert torch.equal(draw_maps(1, 1, 20, **views), tables[3])


@pytest.mark.parametrize("strength", [0.7, 1.0, 4.0])
def test_the_affine_views_of_square_images_have_the_bits_that_they_had_before_there_were_others(strength):
    """Runs of the first edition are resumed: its own formulas, with its key and its order of draws."""
    draws = torch.rand(1000, 5, generator=generator(3, "augment", 2))
    spread = strength * torch.tensor([math.radians(10), 0.1, 0.1, 2.0, 2.0])
    angle, growth, slant, right, down = ((2 * draws - 1) * spread).T
    cos, sin, size = angle.cos(), angle.sin(), 1 + growth
    x = torch.stack((cos + slant * sin, sin - slant * cos), 1) / size[:, None]
    linear = torch.stack((x, torch.stack((-sin, cos), 1) / size[:, None]), 1)
    moved = -linear @ (torch.stack((right, down), 1) * (2 / 28))[:, :, None]
    assert torch.equal(draw_maps(3, 2, 1000, strength), torch.cat((linear, moved), 2))


def test_half_of_the_images_are_mirrored_each_by_a_draw_of_its_own():
    maps = torch.cat([draw_maps(0, epoch, 5000, flip=True) for epoch in (0, 1)])
    mirrored = maps[:, 0, 0] == -1
    as_they_are = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    assert torch.equal(maps[~mirrored], as_they_are.expand(int((~mirrored).sum()), 2, 3))
    assert torch.equal(maps[mirrored], (as_they_are * torch.tensor([[-1.0], [1.0]])).expand(int(mirrored.sum()), 2, 3))
    assert abs(mirrored.float().mean() - 0.5) < 0.02  # 4 standard errors of 10,000 draws
    pairs = torch.stack((mirrored[:5000], mirrored[5000:])).float()
    neighbours = torch.stack((mirrored[:-1], mirrored[1:])).float()
    assert abs(pairs.corrcoef()[0, 1]) < 0.06 and abs(neighbours.corrcoef()[0, 1]) < 0.04  # 4 standard errors again


@pytest.mark.parametrize(("height", "width"), [(28, 28), (12, 20), (21, 33), (9, 1), (30, 224), (17, 299)])
def test_an_image_that_is_only_mirrored_is_torchs_flip_of_it_and_another_one_as_it_was(height, width):
    """But for roundings of the places, less than W / 2^22 and H / 2^22 pixels, times the step from pixel to pixel."""
    images = torch.rand(40, 3, height, width, generator=torch.Generator().manual_seed(0))  # steps of 1 at most
    maps = draw_maps(0, 0, 40, flip=True)
    mirrored = maps[:, 0, 0] == -1
    expected = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    bound = (height + width) / 2**22
    torch.testing.assert_close(warp(images, maps), expected, rtol=1e-6, atol=bound)
    if width > 1:  # an image like its mirror image would prove nothing
        assert bool((warp(images, maps)[mirrored] - images[mirrored]).abs().amax((1, 2, 3)).min() > 0.1)


def test_a_crop_lies_inside_the_image_and_is_uniform_within_torchvisions_limits():
    """No side is cut off where the area is below 3/4: there area, logarithm of the ratio and place are as drawn."""
    sides, centres = draw_crops(0, 0, 20_000)
    assert sides.shape == centres.shape == (20_000, 2)
    assert bool((sides > 0).all() and (sides <= 1).all() and (centres.abs() + sides <= 1).all())
    area, ratio = sides.prod(1), sides[:, 0] / sides[:, 1]
    rounding = 1e-6
    assert 0.08 * (1 - rounding) <= area.min() and area.max() <= 1
    assert 3 / 4 * (1 - rounding) <= ratio.min() and ratio.max() <= 4 / 3 * (1 + rounding)
    assert bool((sides == 1).any(1).any())

    below = area < 0.75
    count = int(below.sum())
    assert abs(count / 20_000 - 0.67 / 0.92) < 4 * math.sqrt(0.67 * 0.25 / 0.92**2 / 20_000)  # four standard errors
    place = centres[below] / (1 - sides[below])
    draws = torch.stack(
        ((area[below] - 0.08) / 0.67, (ratio[below].log() / math.log(4 / 3) + 1) / 2, *(place.T + 1) / 2)
    )
    assert bool((draws.amin(1) < 0.001).all() and (draws.amax(1) > 0.999).all())
    assert bool(((draws.mean(1) - 1 / 2).abs() < 4 * math.sqrt(1 / 12 / count)).all())
    assert bool(((draws.var(1) - 1 / 12).abs() < 4 * math.sqrt(1 / 180 / count)).all())
    assert bool((draws.corrcoef() - torch.eye(4)).abs().max() < 4 / math.sqrt(count))


def test_the_view_of_a_crop_is_the_part_of_the_image_resized(monkeypatch):
    """A part of whole pixels, at its inner pixels: those at its edge also show what is half a pixel outside."""
    images = torch.rand(1, 3, 20, 32, generator=torch.Generator().manual_seed(0))
    top, left, height, width = 4, 10, 10, 16
    sides = torch.tensor([[width / 32, height / 20]])
    centres = torch.tensor([[(left + width / 2) / 16 - 1, (top + height / 2) / 10 - 1]])
    monkeypatch.setattr(augmentation, "draw_crops", lambda *key: (sides, centres))
    part = images[:, :, top : top + height, left : left + width]
    expected = functional.interpolate(part, (20, 32), mode="bilinear", align_corners=False)
    view = warp(images, draw_maps(0, 0, 1, crop=True, aspect=32 / 20))
    torch.testing.assert_close(view[:, :, 1:-1, 1:-1], expected[:, :, 1:-1, 1:-1], rtol=0, atol=1e-5)


def test_each_view_draws_by_a_key_of_its_own(monkeypatch):
    keys = []
    monkeypatch.setattr(augmentation, "generator", lambda *key: keys.append(key) or generator(*key))
    draw_maps(5, 1, 3, 1.0, flip=True, crop=True)
    assert sorted(keys) == [(5, "augment", 1), (5, "crop", 1), (5, "flip", 1)]


@pytest.mark.parametrize("aspect", [1.0, 0.6])
def test_together_a_view_is_the_crop_mirrored_and_then_slanted_sized_turned_and_moved(aspect):
    """Each with the draws that it has alone. A map leads from the view to the image: the last one comes first."""

    def square(**views):
        maps = draw_maps(5, 1, 50, **views, aspect=aspect)
        return torch.cat((maps, torch.tensor([0.0, 0.0, 1.0]).expand(50, 1, 3)), 1)

    expected = square(crop=True) @ square(flip=True) @ square(strength=1.0)
    found = square(strength=1.0, flip=True, crop=True)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("given", [{"augment": 1.0}, {"flip": True}, {"crop": True}, {"flip": True, "augment": 0.5}])
def test_an_image_is_trained_on_through_its_map_of_the_epoch_and_tested_on_as_it_is(monkeypatch, given):
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
    fit(TrainConfig(model="probe", epochs=2, batch_size=70, seed=5, amp="off", **given), digits)
    expected = []
    for epoch in range(2):
        maps = draw_maps(5, epoch, 300, given.get("augment", 0.0), flip="flip" in given, crop="crop" in given)
        for batch in EpochPlan(seed=5, epoch=epoch, size=300, batch_size=70).order.split(70):
            expected.append(warp(digits.train.batch(batch)[0], maps[batch]))
    assert torch.equal(torch.cat(seen[True]), torch.cat(expected))
    as_they_are, _ = digits.test.batch(torch.arange(120))
    assert torch.equal(torch.cat(seen[False]), torch.cat((as_they_are, as_they_are)))


def test_maps_are_drawn_for_the_shape_of_the_images_and_not_at_all_without_views(monkeypatch):
    asked = []
    monkeypatch.setattr(trainer, "draw_maps", lambda *key, **views: asked.append(views) or draw_maps(*key, **views))
    train, test = (
        LabelledImages(torch.zeros(6, 1, 12, 20, dtype=torch.uint8), torch.arange(6), (0.5,), (0.25,)) for _ in range(2)
    )
    wide = Dataset("wide", "made up", train, test, tuple("abcdef"))
    fit(TrainConfig(model="mlp", epochs=1), wide)
    assert asked == []
    fit(TrainConfig(model="mlp", epochs=1, crop=True), wide)
    assert asked == [{"flip": False, "crop": True, "aspect": 20 / 12}]
