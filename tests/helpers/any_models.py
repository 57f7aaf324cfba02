"""Models as users have them, which the published ones are not: with buffers, draws and parameters that nothing uses."""

import torch
from torch import Tensor, nn


class Mixed(nn.Module):
    """Batch norm, spectral norm, dropout, a bool and a float64 buffer, and a layer that nothing uses."""

    def __init__(self, num_classes: int = 10, momentum: float | None = 0.1, rate: float = 0.0) -> None:
        super().__init__()
        self.first = nn.utils.parametrizations.spectral_norm(nn.Linear(784, 12))
        self.norm = nn.BatchNorm1d(12, momentum=momentum)
        self.drop = nn.Dropout(rate)
        self.idle = nn.Linear(3, 3)
        self.last = nn.Linear(12, num_classes)
        self.register_buffer("seen", torch.tensor(False))
        self.register_buffer("wide", torch.zeros(2, dtype=torch.float64))
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))

    def forward(self, images: Tensor) -> Tensor:
        assert len(images), "an empty shard does not call the model"
        if self.training:
            self.seen.fill_(True)
            self.wide += images.double().mean()
        return self.last(self.drop(self.norm(self.first(images.flatten(1))).relu()))


IDLE = ("idle.weight", "idle.bias")
