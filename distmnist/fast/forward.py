"""The published models computed faster while they are trained: the same parameters and the same function.

On an x86 CPU in float32, oneDNN's own tensors make a CNN step a sixth shorter: channels in blocks of 16, one AVX-512
register, and a max pooling that remembers places in a byte each instead of eight. `Tensor.to_mkldnn` is PyTorch's door
to them; mkldnn was oneDNN's name.

The fully connected net's step is so short that calling modules and looking up their parameters is a twentieth of it.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from distmnist.models.cnn import CNN
from distmnist.models.mlp import FullyConnectedNN


class OneDNNCNN(nn.Module):
    """A CNN with ReLU, on oneDNN's tensors as far as its last pooling; its parameters are the CNN's own.

    Its last ReLU is on an ordinary tensor, where a call costs a sixth of what it does on oneDNN's: 2 % of a step.
    """

    name = "oneDNN tensors"

    def __init__(self, cnn: CNN) -> None:
        super().__init__()
        self.cnn = cnn

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images, float32 [n, C, H, W] -> logits, float32 [n, classes]: the CNN's, but for rounding."""
        x = functional.relu(self.cnn.pool(self.cnn.conv1(images.to_mkldnn())))
        x = self.cnn.pool(self.cnn.conv2(x)).to_dense()
        return self.cnn.classify(functional.relu_(x))  # nothing else reads what it overwrites


class FunctionalMLP(nn.Module):
    """A fully connected net without dropout, computed by bare operations: the same bits."""

    name = "mlp by bare operations"

    def __init__(self, mlp: FullyConnectedNN) -> None:
        super().__init__()
        self.mlp = mlp
        self.hidden = [(layer.weight, layer.bias) for layer in (mlp.fc1, mlp.fc2)]
        self.last = mlp.fc3.weight, mlp.fc3.bias

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images, float [n, C, H, W] -> logits, float [n, classes]."""
        x = torch.flatten(images, 1)
        for weight, bias in self.hidden:
            x = self.mlp.activation(functional.linear(x, weight, bias))
        return functional.linear(x, *self.last)


def select_forward(model: nn.Module, device: torch.device, amp: str) -> OneDNNCNN | FunctionalMLP | None:
    """What computes the same function as `model`, with its parameters, and is faster; None if there is no such thing.

    oneDNN's tensors know few operations, ReLU among them, and autocast cannot convert them: hence this net alone.
    """
    if type(model) is FullyConnectedNN and isinstance(model.dropout, nn.Identity):
        return FunctionalMLP(model)
    x86 = torch.backends.cpu.get_cpu_capability().startswith("AVX") and torch.backends.mkldnn.is_available()
    if x86 and device.type == "cpu" and amp == "off" and type(model) is CNN and model.activation is functional.relu:
        return OneDNNCNN(model)
    return None
