"""The optimizer, and the learning rate as a pure function of the number of updates."""

import math
from collections.abc import Iterable

from torch import nn, optim

from distmnist.config import Config

WARM_UP = 0.2
"""Share of the updates over which onecycle climbs from a tenth of the peak to the peak."""


def build_optimizer(parameters: Iterable[nn.Parameter], config: Config) -> optim.Optimizer:
    """One fused kernel an update: CPU and CUDA have one for all three optimizers."""
    common = {"lr": config.lr, "weight_decay": config.weight_decay, "fused": True}
    match config.optimizer:
        case "adam":
            return optim.Adam(parameters, **common)
        case "adamw":
            return optim.AdamW(parameters, **common)
        case "sgd":
            return optim.SGD(parameters, momentum=config.momentum, **common)
    raise AssertionError(config.optimizer)


def learning_rate(config: Config, update: int, total: int) -> float:
    """The rate of update number `update`, from 0, of a run of `total` updates."""
    match config.schedule:
        case "constant":
            return config.lr
        case "cosine":
            return config.lr * cosine(update / total)
        case "onecycle":
            warm_up = WARM_UP * total
            if update < warm_up:
                return config.lr * (0.1 + 0.9 * update / warm_up)
            return config.lr * cosine((update - warm_up) / (total - warm_up))
    raise AssertionError(config.schedule)


def cosine(progress: float) -> float:
    """From 1 at progress 0 to 0 at progress 1, and 0 beyond it."""
    return (1 + math.cos(math.pi * min(progress, 1.0))) / 2
