"""The models by name. A third one is a class in a file of its own, a line in `MODELS`, and a name in config.py's
`MODEL_NAMES`. It is trained as it is written. A model of the user's own is imported by its name: see custom.py.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import nn

from distmnist.config import TrainConfig, is_custom
from distmnist.errors import UsageError
from distmnist.models.cnn import CNN
from distmnist.models.custom import build_custom
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
    model_args: str | None = None,
) -> nn.Module:
    """The model `name` on the CPU, its initial weights a function of (seed, name), the shapes and the arguments alone.

    name: one of `MODELS`, or package.module:callable, which is imported; in_chans: channels of an image; image_size:
    height and width, passed as one number where they are equal; model_args: more arguments of such a callable, as
    --model-args has them. The defaults are MNIST's: then the published models.

    Raises UsageError for an unknown name, for images that are too small, and for whatever `custom` refuses.
    """
    check_models([name])
    if model_args is not None and not is_custom(name):
        raise UsageError(f"--model-args is for a model of your own, and {name} is none; leave it out")
    height, width = image_size
    known = {
        "num_classes": num_classes,
        "in_chans": in_chans,
        "image_size": height if height == width else (height, width),
        "activation": activation,
        "dropout": dropout,
    }
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: it would seed the GPUs' generators, too, which are not put back.
        torch.default_generator.manual_seed(seed_for(seed, "weights", name))
        if is_custom(name):
            return build_custom(name, known, model_args)
        return MODELS[name](**accepted(MODELS[name], known))


def build_for(config: TrainConfig, shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """The model of `config` for images of `shape` (channels, height, width): see `build_model`."""
    channels, height, width = shape
    return build_model(
        config.model,
        num_classes=num_classes,
        in_chans=channels,
        image_size=(height, width),
        activation=config.activation,
        dropout=config.dropout,
        seed=config.seed,
        model_args=config.model_args,
    )


def check_models(names: Iterable[str]) -> None:
    """Raises UsageError for a name that is not in `MODELS`, nor package.module:callable. Imports nothing."""
    for name in names:
        if name not in MODELS and not is_custom(name):
            raise UsageError(
                f"--model {name} is unknown; choose from all, {', '.join(MODELS)}, package.module:callable"
            )


def accepted(build: Callable[..., nn.Module], known: Mapping[str, object]) -> dict[str, object]:
    """Those of the arguments that the signature names."""
    return {name: value for name, value in known.items() if name in inspect.signature(build).parameters}
