"""The models by name. A third one is a class in a file of its own, a line in `MODELS`, and a name in config.py's
`MODEL_NAMES`. It is trained as it is written."""

import torch
from torch import nn

from distmnist.models.cnn import CNN
from distmnist.models.mlp import FullyConnectedNN
from distmnist.seeds import seed_for

MODELS: dict[str, type[nn.Module]] = {"mlp": FullyConnectedNN, "cnn": CNN}
"""Command-line name -> class, in the order in which `--model all` trains them."""


def build_model(name: str, *, activation: str = "relu", dropout: float = 0.0, seed: int = 0) -> nn.Module:
    """A net of `MODELS` on the CPU, its initial weights a function of (seed, name) alone. KeyError: unknown name."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "weights", name))
        return MODELS[name](activation=activation, dropout=dropout)
