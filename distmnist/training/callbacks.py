"""What `fit` tells while it trains, for whoever shows, saves or measures something."""

from collections.abc import Sequence

from distmnist.checkpoint.record import Checkpoint, Epoch
from distmnist.config import TrainConfig
from distmnist.training.progress import Progress
from distmnist.training.requests import Request


class Callback:
    """Called by `fit` on every rank, callbacks in the order given. Override what you need.

    No collective inside: the ranks wait for each other at places of their own. An exception ends the run on all ranks
    of a command, with one line; `fit` alone raises it. `progress` is the fit's own counter: only read it.
    """

    def on_fit_start(self, config: TrainConfig, progress: Progress, replacements: Sequence[str]) -> None:
        """progress: where the fit starts, or is resumed; replacements: what stands for plain PyTorch, in words."""

    def on_epoch_start(self, progress: Progress) -> None:
        """Before the first step of an epoch, or of what is left of it."""

    def request(self) -> Request:
        """Called before every step: what this rank asks of all. All act on it after the same step; on CUDA, where the
        host runs ahead of the device, that may be 100 steps later.
        """
        return Request.NOTHING

    def on_step_end(self, progress: Progress) -> None:
        """On CUDA the device may still be at work on the step."""

    def on_evaluation_start(self, progress: Progress) -> None:
        """Before the test images are evaluated, at the end of an epoch; not where a finished fit is resumed."""

    def on_epoch_end(self, epoch: Epoch) -> None:
        """After an epoch and its evaluation."""

    def on_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Its tensors are the training's own: write or copy them before returning."""

    def on_fit_end(self) -> None:
        """Also where the fit ends with an exception, even before `on_fit_start`."""
