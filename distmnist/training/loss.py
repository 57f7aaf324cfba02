"""The loss that is differentiated, and the cross entropy that is reported."""

from torch import Tensor
from torch.nn import functional


def loss_sums(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """Logits, float [n, classes]; labels, int64 [n]; n may be 0 -> two scalars, float32, nats, summed over the images.

    The first is to be differentiated, with smoothed labels if asked for. The second is the plain cross entropy, without
    a gradient: it compares with the test loss.
    """
    log_probabilities = functional.log_softmax(logits.float(), 1)
    loss = cross_entropy = functional.nll_loss(log_probabilities, labels, reduction="sum")
    if label_smoothing:
        evenly = -log_probabilities.mean(1).sum()
        loss = (1 - label_smoothing) * cross_entropy + label_smoothing * evenly
    return loss, cross_entropy.detach()
