"""The optimizer, and the learning rate as a pure function of the number of updates."""

import math
from collections.abc import Iterable
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from distmnist.config import TrainConfig

WARM_UP = 0.2
"""Share of the updates over which onecycle climbs from a tenth of the peak to the peak."""


class Optimizer(Protocol):
    """What the trainer needs of torch.optim.Optimizer. `param_groups[0]["lr"]` may be set before any update."""

    param_groups: list[dict[str, object]]

    def step(self) -> object: ...

    def state_dict(self) -> dict[str, object]: ...

    def load_state_dict(self, state_dict: dict[str, object]) -> None: ...


def build_optimizer(parameters: Iterable[nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
    """torch.optim's, fused, on the parameters that are trained."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    lr, decay = config.lr, config.weight_decay
    match config.optimizer:
        case "adam":
            return torch.optim.Adam(trained, lr=lr, weight_decay=decay, fused=True)
        case "adamw":
            return torch.optim.AdamW(trained, lr=lr, weight_decay=decay, fused=True)
        case "sgd":
            return torch.optim.SGD(trained, lr=lr, momentum=config.momentum, weight_decay=decay, fused=True)
    raise AssertionError(config.optimizer)


def state_on_cpu(optimizer: Optimizer) -> dict[str, object]:
    """The optimizer's state dict with its tensors on the CPU, as a checkpoint keeps it."""
    saved = optimizer.state_dict()
    state = {
        number: {name: value.cpu() if isinstance(value, Tensor) else value for name, value in values.items()}
        for number, values in cast(dict[int, dict[str, object]], saved["state"]).items()
    }
    return {**saved, "state": state}


def learning_rate(config: TrainConfig, update: int, total: int) -> float:
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
