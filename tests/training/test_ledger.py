"""Each digit counts exactly once an epoch in the final weights, however often training is killed and resumed."""

import numpy as np
import torch
from hooks import Ask, Keep
from torch import Tensor, nn

from distmnist.checkpoint.storage import from_bytes, to_bytes
from distmnist.config import TrainConfig
from distmnist.data.dataset import MNIST_MEAN, MNIST_STD, Dataset, LabelledImages
from distmnist.data.sampler import EpochPlan
from distmnist.models.build import MODELS
from distmnist.training.requests import Request
from distmnist.training.trainer import fit

DIGITS, BATCH, EPOCHS, LR, STEPS_BETWEEN_CHECKPOINTS = 90, 16, 3, 0.5, 2


class Ledger(nn.Module):
    """One column of weights for each digit: digit number i lights pixel i alone, so only it writes column i."""

    def __init__(self, activation: str = "relu", dropout: float = 0.0) -> None:
        super().__init__()
        self.columns = nn.Linear(784, 10, bias=False)
        nn.init.zeros_(self.columns.weight)

    def forward(self, images: Tensor) -> Tensor:
        return self.columns(images.flatten(1) * MNIST_STD[0] + MNIST_MEAN[0])  # undoes the normalisation: 0 or 1


class Killed(Exception):
    pass


def ledger_digits() -> LabelledImages:
    images = torch.zeros(DIGITS, 784, dtype=torch.uint8)
    images[torch.arange(DIGITS), torch.arange(DIGITS)] = 255
    return LabelledImages(images.reshape(-1, 1, 28, 28), torch.arange(DIGITS) % 10, MNIST_MEAN, MNIST_STD)


def expected_columns() -> np.ndarray:
    """[10, DIGITS]: plain gradient descent on each digit's column by itself, in the batches of the epochs' plans."""
    columns = np.zeros((10, DIGITS))
    for epoch in range(EPOCHS):
        plan = EpochPlan(seed=0, epoch=epoch, size=DIGITS, batch_size=BATCH)
        for step, start in enumerate(range(0, DIGITS, BATCH)):
            for digit in plan.order[start : start + BATCH].tolist():
                chances = np.exp(columns[:, digit]) / np.exp(columns[:, digit]).sum()
                chances[digit % 10] -= 1
                columns[:, digit] -= LR * chances / plan.count(step)
    return columns


def test_every_digit_counts_once_an_epoch_across_kills(monkeypatch):
    monkeypatch.setitem(MODELS, "ledger", Ledger)
    digits = ledger_digits()
    dataset = Dataset("ledger", "made up", digits, digits, tuple("0123456789"))
    config = TrainConfig(
        model="ledger",
        optimizer="sgd",
        momentum=0.0,
        lr=LR,
        batch_size=BATCH,
        epochs=EPOCHS,
        amp="off",
    )
    saved: list[bytes] = []
    for kill_after in (1, 3, 4, 7, 8, None):  # asked so often, the process is gone; what it did not save is lost
        left = iter(range(kill_after)) if kill_after else None

        def requests(left=left) -> Request:
            if left is not None and next(left, None) is None:
                raise Killed
            return Request.NOTHING

        checkpoint = from_bytes(saved[-1], "test") if saved else None
        try:
            result = fit(
                config,
                dataset,
                checkpoint=checkpoint,
                checkpoint_steps=STEPS_BETWEEN_CHECKPOINTS,
                callbacks=[Keep(lambda made: saved.append(to_bytes(made))), Ask(requests)],
            )
        except Killed:
            continue
    columns = result.state["columns.weight"][:, :DIGITS].numpy()
    np.testing.assert_allclose(columns, expected_columns(), atol=1e-5)
    assert result.history[-1].step == EPOCHS * -(-DIGITS // BATCH)
