"""The published CNN. distmnist.fast.forward has a faster `forward` of it: keep the two in sync."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from distmnist.models.layers import dropping

NON_DECREASING = (functional.relu, functional.leaky_relu, functional.tanh, functional.elu)


class CNN(nn.Module):
    """The published convolutional net: two 3x3 convolutions with pooling, then 3136-128-64-10; 429,258 parameters."""

    def __init__(self, activation: str = "relu", dropout: float = 0.0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, kernel_size=3, padding=1)
        self.pool = nn.MaxPool2d(kernel_size=2, stride=2)
        self.conv2 = nn.Conv2d(32, 64, kernel_size=3, padding=1)
        self.fc1 = nn.Linear(64 * 7 * 7, 128)
        self.fc2 = nn.Linear(128, 64)
        self.fc3 = nn.Linear(64, 10)
        self.dropout = dropping(dropout)
        self.activation = getattr(functional, activation)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images, float [n, 1, 28, 28] -> logits, float [n, 10]."""
        x = self._activate_and_pool(self.conv1(images))
        x = self._activate_and_pool(self.conv2(x))
        return self.classify(x)

    def classify(self, features: Tensor) -> Tensor:
        """The convolutions' features, float [n, 64, 7, 7] -> logits, float [n, 10]."""
        x = torch.flatten(features, 1)
        x = self.dropout(self.activation(self.fc1(x)))
        x = self.dropout(self.activation(self.fc2(x)))
        return self.fc3(x)

    def _activate_and_pool(self, x: Tensor) -> Tensor:
        """The maximum of a non-decreasing activation is the activation of the maximum, for a quarter of the work."""
        if self.activation in NON_DECREASING:
            return self.activation(self.pool(x))
        return self.pool(self.activation(x))
