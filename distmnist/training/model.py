"""The model of a training as `fit` starts with it, on the CPU: built, given weights, partly frozen, tried."""

import dataclasses

from torch import nn

from distmnist.checkpoint.record import InitialWeights
from distmnist.checkpoint.weights import load_weights
from distmnist.config import TrainConfig, is_custom
from distmnist.models.build import build_for
from distmnist.models.custom import check_model
from distmnist.models.freezing import freeze
from distmnist.training.batches import check_batches


@dataclasses.dataclass(frozen=True)
class PreparedModel:
    """unused: names of trained parameters that get no gradient; in_eval: names of modules that stay in evaluation mode;
    initial_weights: what --weights gave.
    """

    model: nn.Module
    unused: tuple[str, ...] = ()
    in_eval: tuple[str, ...] = ()
    initial_weights: InitialWeights | None = None


def prepare_model(
    config: TrainConfig, shape: tuple[int, int, int], num_classes: int, images: int, shards: int, *, resumed: bool
) -> PreparedModel:
    """shape: channels, height, width; images: how many are trained on; shards: into how many each batch is cut.

    resumed: whether a checkpoint will give it other weights: the file of --weights is not read.

    Raises UsageError, one line: whatever is wrong with the model, its weights or the size of its batches.
    """
    model = build_for(config, shape, num_classes)
    weights = load_weights(model, config.weights, num_classes) if config.weights and not resumed else None
    in_eval = freeze(model, config.freeze) if config.freeze else ()
    if not is_custom(config.model):
        return PreparedModel(model, in_eval=in_eval, initial_weights=weights)
    unused = check_model(model, shape, num_classes, f"--model {config.model}")
    check_batches(config, model, shape, images, shards, in_eval)
    return PreparedModel(model, unused, in_eval, weights)
