"""The loss that is differentiated, and the cross entropy that is reported."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from distmnist.config import TrainConfig

Loss = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""`loss_sums` of logits and labels, with the options of a training."""


def loss_sums(
    logits: Tensor, labels: Tensor, label_smoothing: float = 0.0, class_weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Logits, float [n, classes]; labels, int64 [n]; n may be 0 -> two scalars, float32, nats, summed over the images.

    The first is to be differentiated, with smoothed labels if asked for, and with each image's loss times the weight of
    its class, float32 [classes], if given. (torch's cross_entropy weighs smoothed labels by each of their classes.) The
    second is the plain cross entropy, without a gradient: it compares with the test loss.
    """
    log_probabilities = functional.log_softmax(logits.float(), 1)
    loss = cross_entropy = functional.nll_loss(log_probabilities, labels, reduction="sum")
    if class_weights is not None:
        loss = functional.nll_loss(log_probabilities, labels, class_weights, reduction="sum")
    if label_smoothing:
        evenly = -log_probabilities.mean(1)
        if class_weights is not None:
            evenly = evenly * class_weights[labels]
        loss = (1 - label_smoothing) * loss + label_smoothing * evenly.sum()
    return loss, cross_entropy.detach()


def balanced_weights(labels: Tensor, classes: int) -> Tensor:
    """Labels of the training images, int64 [n] -> the weight of each class, float32 [classes], on the same device.

    In proportion to 1 / (images of the class), with mean 1 over the images: n / (classes that have images * images of
    the class), scikit-learn's "balanced". So the loss is still divided by a plain count. A class without images has 0.
    """
    counts = torch.bincount(labels.cpu(), minlength=classes)
    weights = len(labels) * (counts > 0).double() / (counts.count_nonzero() * counts).clamp(min=1)
    return weights.to(labels.device, torch.float32)


def build_loss(config: TrainConfig, labels: Tensor, classes: int) -> Loss:
    """What `config` asks for; labels, int64 [n]: of the images that are trained on."""
    weights = balanced_weights(labels, classes) if config.class_weights == "balanced" else None
    return functools.partial(loss_sums, label_smoothing=config.label_smoothing, class_weights=weights)
