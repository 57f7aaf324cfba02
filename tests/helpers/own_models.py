"""Small models of one's own, as a user writes them: the text of a module that tests put into an empty directory."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

MINE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes, in_chans, image_size, width=8, dropout=0.0, spare=False):
        super().__init__()
        height, width_of_image = (image_size, image_size) if isinstance(image_size, int) else image_size
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(in_chans * height * width_of_image, width), nn.BatchNorm1d(width), nn.ReLU(),
            nn.Dropout(dropout), nn.Linear(width, num_classes),
        )
        if spare:
            self.spare = nn.Linear(3, 3)

    def forward(self, images):
        return self.layers(images)


class Cnn(Net):
    pass


def plain(num_classes, in_chans, image_size, width=8):
    pixels = in_chans * image_size[0] * image_size[1]
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, width), nn.ReLU(), nn.Linear(width, num_classes))


def small(**options):
    given.append(options)
    return Net(options["num_classes"], 3, (12, 16))


given = []


def deep(depth, num_classes):
    return nn.Sequential(nn.Flatten(), *[nn.LazyLinear(num_classes) for _ in range(depth)])


def grey(num_classes):
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))


def of_five(in_chans, image_size):
    return Net(5, in_chans, image_size)


def whole(num_classes):
    return nn.Flatten()


def nothing(num_classes):
    return None


def broken(num_classes):
    raise KeyError("lost")


class Odd(Net):
    def forward(self, images):
        return self.change(self.layers(images))


class Words(Odd):
    change = staticmethod(lambda logits: {"logits": logits})


class Numbers(Odd):
    change = staticmethod(lambda logits: logits.argmax(1, keepdim=True).expand_as(logits))


class Infinite(Odd):
    change = staticmethod(lambda logits: logits / 0)


class Detached(Odd):
    change = staticmethod(lambda logits: logits.detach())


class OnlyInTraining(Odd):
    def change(self, logits):
        return logits if self.training else logits.softmax(1).argmax(1)


class Leaving(Odd):
    def change(self, logits):
        raise SystemExit("done")


number = 3
"""


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An empty current directory with the module `mine` in it; nothing of it outlives the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    Path("mine.py").write_text(MINE)
    sys.modules.pop("mine", None)
    yield tmp_path
    sys.modules.pop("mine", None)
