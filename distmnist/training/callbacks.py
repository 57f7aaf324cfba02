"""What `fit` tells while it trains, for whoever shows, saves or measures something."""

from collections.abc import Sequence

from distmnist.checkpoint.record import Checkpoint, Epoch
from distmnist.config import TrainConfig
from distmnist.training.progress import Progress
from distmnist.training.requests import Request


class Callback:
    """Called by `fit` on every rank, callbacks in the order given. Override what you need.

    No collective inside: the ranks wait for each other at places of their own. An exception ends the run on all ranks,
    with one line. `progress` is the fit's own counter: read it, and change nothing.
    """

    def on_fit_start(self, config: TrainConfig, progress: Progress, replacements: Sequence[str]) -> None:
        """progress: where the fit starts, or is resumed; replacements: what stands for plain PyTorch, in words."""

    def on_epoch_start(self, progress: Progress) -> None:
        """Before the first step of an epoch, or of what is left of it."""

    def request(self) -> Request:
        """What this process asks of all of them. Before every step; all act on it after the same step."""
        return Request.NOTHING

    def on_step_end(self, progress: Progress) -> None:
        """On CUDA the device may still be at work on the step."""

    def on_evaluation_start(self, progress: Progress) -> None:
        """Before the test images are evaluated, at the end of an epoch."""

    def on_epoch_end(self, epoch: Epoch) -> None:
        """After an epoch and its evaluation."""

    def on_checkpoint(self, checkpoint: Checkpoint) -> None:
        """It shares its tensors with the training: write it, or copy it."""

    def on_fit_end(self) -> None:
        """Also where the fit ends with an exception."""
