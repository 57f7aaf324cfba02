"""What a fit keeps count of: batches, optimizer steps, losses, seconds, epochs."""

import math
import time

from distmnist.checkpoint.record import Epoch, ProgressState
from distmnist.config import TrainConfig
from distmnist.data.sampler import EpochPlan
from distmnist.training.evaluation import Evaluation


class Progress:
    """Two counters: `global_step`, batches consumed; `optimizer_steps`, without those that were skipped.

    `steps`: of an epoch; `total`: of all epochs; `target`: where this fit ends. `loss_sum`: nats, over this epoch's
    images so far. Seconds are of training alone. `history`: the epochs that are closed.
    """

    def __init__(self, config: TrainConfig, plan: EpochPlan) -> None:
        self.plan = plan
        self.steps = plan.steps
        self.total = self.steps * config.epochs
        self.target = min(self.total, config.max_steps or self.total)
        self.global_step = self.optimizer_steps = 0
        self.loss_sum = 0.0
        self.started = self.train_seconds = self.epoch_seconds = 0.0
        self.history: list[Epoch] = []

    def start_clock(self) -> None:
        self.started = time.perf_counter()

    def stop_clock(self) -> None:
        seconds = time.perf_counter() - self.started
        self.train_seconds += seconds
        self.epoch_seconds += seconds

    def advance(self, updated: bool) -> None:
        """Counts a batch, and its optimizer step if there was one."""
        self.global_step += 1
        self.optimizer_steps += updated

    def is_at_end(self) -> bool:
        return self.global_step >= self.target

    def epoch_is_over(self) -> bool:
        return self.global_step > 0 and (self.global_step % self.steps == 0 or self.global_step == self.target)

    def epoch_is_closed(self) -> bool:
        return bool(self.history) and self.history[-1].step == self.global_step

    def part_of_epoch(self) -> tuple[int, int, int]:
        """The epoch that is next, from 0, its first step that is left, and the step before which this fit leaves it."""
        epoch, first = divmod(self.global_step, self.steps)
        return epoch, first, min(self.steps, self.target - epoch * self.steps)

    def start_epoch(self) -> None:
        self.loss_sum = self.epoch_seconds = 0.0

    def close_epoch(self, lr: float, test: Evaluation, validation: Evaluation | None) -> Epoch:
        """Adds the epoch that ends at `global_step` to the history, and returns it."""
        images = self._images(self.global_step) - self._images((self.epochs - 1) * self.steps)
        epoch = Epoch(
            epoch=self.epochs,
            step=self.global_step,
            train_loss=self.loss_sum / images,
            test_loss=test.loss,
            test_accuracy=test.accuracy,
            lr=lr,
            images_per_second=images / self.epoch_seconds,
            val_loss=validation.loss if validation else None,
            val_accuracy=validation.accuracy if validation else None,
        )
        self.history.append(epoch)
        return epoch

    @property
    def epochs(self) -> int:
        """Epochs begun."""
        return math.ceil(self.global_step / self.steps)

    @property
    def images_per_second(self) -> float:
        """Over the whole training."""
        return self._images(self.global_step) / self.train_seconds

    def place(self, batch: int) -> str:
        """For people: where batch number `batch`, from 1, is."""
        epoch, step = divmod(batch - 1, self.steps)
        return f"epoch {epoch + 1}, step {step + 1}"

    def state(self) -> ProgressState:
        return ProgressState(
            global_step=self.global_step,
            optimizer_steps=self.optimizer_steps,
            loss_sum=self.loss_sum,
            history=tuple(self.history),
            train_seconds=self.train_seconds,
            epoch_seconds=self.epoch_seconds,
        )

    def restore(self, state: ProgressState) -> None:
        """Takes over what an equal fit counted; it may have ended earlier."""
        self.global_step, self.optimizer_steps = state.global_step, state.optimizer_steps
        self.loss_sum, self.history = state.loss_sum, list(state.history)
        self.train_seconds, self.epoch_seconds = state.train_seconds, state.epoch_seconds
        if self.history and self.history[-1].step % self.steps and not self.is_at_end():
            self.history.pop()  # of the part of an epoch at which --max-steps had stopped

    def _images(self, batches: int) -> int:
        """Images in the first `batches` batches."""
        epochs, steps = divmod(batches, self.steps)
        return epochs * self.plan.size + min(steps * self.plan.batch_size, self.plan.size)
