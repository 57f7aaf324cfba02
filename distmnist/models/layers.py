"""What the published models have in common."""

from torch import nn

Size = int | tuple[int, int]
"""Of an image: height and width, one number where they are equal."""


def height_and_width(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def dropping(probability: float) -> nn.Module:
    """Dropout, or no operation at all: with probability 0 it would still be dispatched in every step."""
    return nn.Dropout(probability) if probability else nn.Identity()
