"""What the published models have in common."""

from torch import nn


def dropping(probability: float) -> nn.Module:
    """Dropout, or no operation at all: with probability 0 it would still be dispatched in every step."""
    return nn.Dropout(probability) if probability else nn.Identity()
