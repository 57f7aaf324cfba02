"""What a trained model says of images, in batches of one size."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

BATCH = 64
"""Images of a forward pass at most, wherever a model is evaluated."""

BATCH_BYTES = 16 * 2**20
"""Of float32 images in a forward pass at most: 27 colour images of 224 x 224, whose activations take a hundred times
that in some models."""


def batch_size(shape: Sequence[int]) -> int:
    """Images of `shape` (channels, height, width) a forward pass: with the same batches logits have the same bits."""
    return max(1, min(BATCH, BATCH_BYTES // (math.prod(shape) * torch.float32.itemsize)))


@torch.no_grad()
def predict_logits(model: nn.Module, images: Tensor) -> Tensor:
    """Normalised images, float [n, C, H, W] -> logits, float [n, classes]."""
    return torch.cat([model(part) for part in images.split(batch_size(images.shape[1:]))])
