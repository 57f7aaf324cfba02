"""How a net lies in memory while it is trained: what suits the device, with the same parameters and the same function.

Channels last is what tensor cores want, and oneDNN under autocast. On an x86 CPU in float32, oneDNN's own tensors are
faster yet, by a sixth of a CNN step: channels in blocks of 16, one AVX-512 register, and a max pooling that remembers
places in a byte each instead of eight. `Tensor.to_mkldnn` is PyTorch's door to them; mkldnn was oneDNN's name.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from distmnist.models import CNN


class Blocked(nn.Module):
    """A CNN whose features are computed on oneDNN's tensors; its parameters are the CNN's own."""

    def __init__(self, cnn: CNN) -> None:
        super().__init__()
        self.cnn = cnn

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images, float32 [n, 1, 28, 28] -> logits, float32 [n, 10]: the CNN's, but for rounding."""
        return self.cnn.classify(self.cnn.features(images.to_mkldnn()).to_dense())


def lay_out(model: nn.Module, device: torch.device, amp: str) -> nn.Module:
    """Lays out the parameters of `model`, on `device`, in place. Returns what to compute with instead of `model`.

    oneDNN's tensors know few operations, ReLU among them, and autocast cannot convert them: hence this net alone. A net
    without convolutions is left as it is.
    """
    x86 = torch.backends.cpu.get_cpu_capability().startswith("AVX") and torch.backends.mkldnn.is_available()
    if x86 and device.type == "cpu" and amp == "off" and type(model) is CNN and model.activation is functional.relu:
        return Blocked(model)
    return model.to(memory_format=torch.channels_last)
