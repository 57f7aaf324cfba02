"""The published baseline. distmnist.fast.forward has a faster `forward` of it: keep the two in sync."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from distmnist.models.layers import Size, dropping, height_and_width


class FullyConnectedNN(nn.Module):
    """The published baseline: on MNIST 784-128-64-10, 109,386 parameters."""

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 1,
        image_size: Size = 28,
        activation: str = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        height, width = height_and_width(image_size)
        self.fc1 = nn.Linear(in_chans * height * width, 128)
        self.fc2 = nn.Linear(128, 64)
        self.fc3 = nn.Linear(64, num_classes)
        self.dropout = dropping(dropout)
        self.activation = getattr(functional, activation)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images, float [n, C, H, W] -> logits, float [n, classes]."""
        x = torch.flatten(images, 1)
        x = self.dropout(self.activation(self.fc1(x)))
        x = self.dropout(self.activation(self.fc2(x)))
        return self.fc3(x)
