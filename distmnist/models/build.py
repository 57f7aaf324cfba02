"""The models by name. A third one is a class in a file of its own, a line in `MODELS`, and a name in config.py's
`MODEL_NAMES`. It is trained as it is written."""

import inspect
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import nn

from distmnist.errors import UsageError
from distmnist.models.cnn import CNN
from distmnist.models.mlp import FullyConnectedNN
from distmnist.seeds import seed_for

MODELS: dict[str, Callable[..., nn.Module]] = {"mlp": FullyConnectedNN, "cnn": CNN}
"""Command-line name -> class, in the order in which `--model all` trains them."""


def build_model(
    name: str,
    *,
    num_classes: int = 10,
    in_chans: int = 1,
    image_size: tuple[int, int] = (28, 28),
    activation: str = "relu",
    dropout: float = 0.0,
    seed: int = 0,
) -> nn.Module:
    """A model of `MODELS` on the CPU, its initial weights a function of (seed, name) and the shapes alone.

    in_chans: channels of an image; image_size: height and width, as one number where they are equal. The defaults are
    MNIST's: then the published models. Raises UsageError for an unknown name, and for images that are too small.
    """
    check_models([name])
    height, width = image_size
    known = {
        "num_classes": num_classes,
        "in_chans": in_chans,
        "image_size": height if height == width else (height, width),
        "activation": activation,
        "dropout": dropout,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "weights", name))
        return MODELS[name](**accepted(MODELS[name], known))


def check_models(names: Iterable[str]) -> None:
    """Raises UsageError for a name that is not in `MODELS`."""
    for name in names:
        if name not in MODELS:
            raise UsageError(f"--model {name} is unknown; choose from all, {', '.join(MODELS)}")


def accepted(build: Callable[..., nn.Module], known: Mapping[str, object]) -> dict[str, object]:
    """Those of the arguments that the signature names."""
    return {name: value for name, value in known.items() if name in inspect.signature(build).parameters}
