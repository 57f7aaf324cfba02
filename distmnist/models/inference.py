"""What a trained model says of images, in batches of one size."""

import torch
from torch import Tensor, nn

BATCH = 64
"""Images a forward pass, wherever a model is evaluated: with the same batches its logits have the same bits."""


@torch.no_grad()
def predict_logits(model: nn.Module, images: Tensor) -> Tensor:
    """Normalised images, float [n, C, H, W] -> logits, float [n, classes]."""
    return torch.cat([model(part) for part in images.split(BATCH)])
