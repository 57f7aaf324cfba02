"""Weights between our nets and libraries that keep channels last: JAX and Keras.

Ours: linear [out, in], convolution [out, in, height, width], flattened as channels, height, width.
Theirs: linear [in, out], convolution [height, width, in, out], flattened as height, width, channels.
"""

import numpy as np
import torch
from torch import Tensor

FLATTENED = (64, 7, 7)
"""Channels, height and width of what the cnn's fc1 reads."""

Weights = dict[str, tuple[np.ndarray, np.ndarray]]
"""layer -> kernel and bias, float32, in the order of the layers."""


def to_channels_last(state: dict[str, Tensor]) -> Weights:
    weights = {}
    for layer in dict.fromkeys(name.split(".")[0] for name in state):
        kernel, bias = state[f"{layer}.weight"], state[f"{layer}.bias"]
        if kernel.dim() == 4:
            kernel = kernel.permute(2, 3, 1, 0)
        elif is_flattened(layer, kernel.shape[1]):
            kernel = kernel.reshape(-1, *FLATTENED).permute(2, 3, 1, 0).flatten(0, 2)
        else:
            kernel = kernel.T
        weights[layer] = kernel.contiguous().numpy(), bias.numpy()
    return weights


def from_channels_last(weights: Weights) -> dict[str, Tensor]:
    """The inverse of `to_channels_last`."""
    state = {}
    for layer, arrays in weights.items():
        kernel, bias = (torch.tensor(np.asarray(array, np.float32)) for array in arrays)
        if kernel.dim() == 4:
            kernel = kernel.permute(3, 2, 0, 1)
        elif is_flattened(layer, kernel.shape[0]):
            channels, height, width = FLATTENED
            kernel = kernel.reshape(height, width, channels, -1).permute(3, 2, 0, 1).flatten(1)
        else:
            kernel = kernel.T
        state |= {f"{layer}.weight": kernel.contiguous(), f"{layer}.bias": bias}
    return state


def is_flattened(layer: str, inputs: int) -> bool:
    return layer == "fc1" and inputs == np.prod(FLATTENED)
