"""How far an exported file's answers may lie from the trained model's.

The published models on MNIST's images have a bound of their own, derived here. With u = 2^-24, a sum of K products in
float32 differs from the exact one by about sqrt(K) u times its size: rounding errors are independent and of both signs
(Higham and Mary, 2019, theorem 2.4; the worst case, K u times the sum of absolute values, is never met by a net of this
depth, and no test could fail it). The errors of the layers add up, and weights of a trained net neither cancel nor blow
up the signal much, so two evaluations that add in different orders differ in a logit by about

    error = u M (sqrt(K_1) + ... + sqrt(K_L))        M: the largest magnitude that goes in or comes out

For the mlp the sum is 28 + 11 + 8 = 47, for the cnn 3 + 17 + 56 + 11 + 8 = 95. On the test digits M is about 24 and
20: 7e-5 and 1.1e-4. Hence 1e-4 on digits, in absolute terms. The error is proportional to M, so on probes, which may
be thousands of times larger, the bound is 1e-4 M / M_DIGITS, and never below 1e-4.

For any other model the bound is measured: FACTOR times the largest difference between the trained model in float32 and
in float64 on the same images. It never comes from the file under test. Two evaluations in float32 differ from the exact
one by about as much each; the factor is for the largest of many numbers, and for sums in other orders.

Probabilities: a row of softmax's Jacobian has absolute values that add up to 2 p (1 - p), at most 1/2. So half the
bound of the logits, and 16 u for the exponentials, their sum and the division.
"""

from distmnist.checkpoint.source import Trained
from distmnist.models.build import MODELS

BOUND = 1e-4
M_DIGITS = 20.0
MNIST_SHAPE = (1, 28, 28)

FACTOR = 16
"""Of the measured bound. resnet18 and mobilenet_v3_small used up to 3 of it, see docs/export.md."""


def is_published(trained: Trained) -> bool:
    """Whether the derived bound holds: a published model of images of MNIST's shape."""
    return trained.name in MODELS and trained.dataset.shape == MNIST_SHAPE


def published(magnitude: float, of_test_images: bool) -> float:
    """The largest absolute error of a logit. magnitude: the largest number that goes in or comes out."""
    return BOUND if of_test_images else BOUND * max(1.0, magnitude / M_DIGITS)


def measured(difference: float) -> float:
    """difference: the largest one between the model's logits in float32 and in float64."""
    return FACTOR * difference


def of_probabilities(logits: float) -> float:
    """The largest absolute error of a probability. logits: that of a logit."""
    return logits / 2 + 16 * 2**-24
