"""The published baseline. distmnist.fast.forward has a faster `forward` of it: keep the two in sync."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from distmnist.models.layers import dropping


class FullyConnectedNN(nn.Module):
    """The published baseline: 784-128-64-10, 109,386 parameters."""

    def __init__(self, activation: str = "relu", dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(784, 128)
        self.fc2 = nn.Linear(128, 64)
        self.fc3 = nn.Linear(64, 10)
        self.dropout = dropping(dropout)
        self.activation = getattr(functional, activation)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images, float [n, 1, 28, 28] -> logits, float [n, 10]."""
        x = torch.flatten(images, 1)
        x = self.dropout(self.activation(self.fc1(x)))
        x = self.dropout(self.activation(self.fc2(x)))
        return self.fc3(x)
