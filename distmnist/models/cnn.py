"""The published CNN. distmnist.fast.forward has a faster `forward` of it: keep the two in sync."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from distmnist.errors import UsageError
from distmnist.models.layers import Size, dropping, height_and_width

NON_DECREASING = (functional.relu, functional.leaky_relu, functional.tanh, functional.elu)


class CNN(nn.Module):
    """The published convolutional net: two 3x3 convolutions with pooling, then, on MNIST, 3136-128-64-10; 429,258
    parameters. Raises UsageError for images that nothing would be left of.
    """

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
        if min(height, width) < 4:
            raise UsageError(f"--model cnn pools twice: images of {height} x {width} are too small, 4 x 4 are needed")
        self.conv1 = nn.Conv2d(in_chans, 32, kernel_size=3, padding=1)
        self.pool = nn.MaxPool2d(kernel_size=2, stride=2)
        self.conv2 = nn.Conv2d(32, 64, kernel_size=3, padding=1)
        self.fc1 = nn.Linear(64 * (height // 4) * (width // 4), 128)
        self.fc2 = nn.Linear(128, 64)
        self.fc3 = nn.Linear(64, num_classes)
        self.dropout = dropping(dropout)
        self.activation = getattr(functional, activation)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images, float [n, C, H, W] -> logits, float [n, classes]."""
        x = self._activate_and_pool(self.conv1(images))
        x = self._activate_and_pool(self.conv2(x))
        return self.classify(x)

    def classify(self, features: Tensor) -> Tensor:
        """The convolutions' features, float [n, 64, H // 4, W // 4] -> logits, float [n, classes]."""
        x = torch.flatten(features, 1)
        x = self.dropout(self.activation(self.fc1(x)))
        x = self.dropout(self.activation(self.fc2(x)))
        return self.fc3(x)

    def _activate_and_pool(self, x: Tensor) -> Tensor:
        """The maximum of a non-decreasing activation is the activation of the maximum, for a quarter of the work."""
        if self.activation in NON_DECREASING:
            return self.activation(self.pool(x))
        return self.pool(self.activation(x))
