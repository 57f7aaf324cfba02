"""What a fit keeps count of: batches, updates, losses, seconds, epochs."""

import math
import time
from typing import Any

from distmnist.config import Config
from distmnist.data.sampler import EpochPlan
from distmnist.training.evaluation import Evaluation


class Record:
    """Two counters: `position`, batches consumed; `updates`, without those that were skipped.

    `steps`: of an epoch; `total`: of all epochs; `target`: where this fit ends. `loss_sum`: nats, over this epoch's
    digits so far. Seconds are of training alone. `history`: the lines of metrics.jsonl, one an epoch.
    """

    def __init__(self, config: Config, plan: EpochPlan) -> None:
        self.plan = plan
        self.steps = plan.steps
        self.total = self.steps * config.epochs
        self.target = min(self.total, config.max_steps or self.total)
        self.position = self.updates = 0
        self.loss_sum = 0.0
        self.started = self.train_seconds = self.epoch_seconds = 0.0
        self.history: list[dict[str, Any]] = []

    def start_clock(self) -> None:
        self.started = time.perf_counter()

    def stop_clock(self) -> None:
        seconds = time.perf_counter() - self.started
        self.train_seconds += seconds
        self.epoch_seconds += seconds

    def advance(self, updated: bool) -> None:
        """Counts a batch, and its update if there was one."""
        self.position += 1
        self.updates += updated

    def is_at_end(self) -> bool:
        return self.position >= self.target

    def epoch_is_over(self) -> bool:
        return self.position > 0 and (self.position % self.steps == 0 or self.position == self.target)

    def epoch_is_closed(self) -> bool:
        return bool(self.history) and self.history[-1]["step"] == self.position

    def start_epoch(self) -> None:
        self.loss_sum = self.epoch_seconds = 0.0

    def close_epoch(self, lr: float, test: Evaluation, validation: Evaluation | None) -> dict[str, Any]:
        """Adds the epoch that ends at `position` to the history, and returns its entry."""
        images = self._images(self.position) - self._images((self._epochs() - 1) * self.steps)
        entry = {
            "epoch": self._epochs(),
            "step": self.position,
            "train_loss": self.loss_sum / images,
            "test_loss": test.loss,
            "test_accuracy": test.accuracy,
            "lr": lr,
            "images_per_second": images / self.epoch_seconds,
        }
        if validation:
            entry |= {"val_loss": validation.loss, "val_accuracy": validation.accuracy}
        self.history.append(entry)
        return entry

    def figures(self) -> dict[str, Any]:
        """What summary.json says of the training, at the end of an epoch."""
        last = self.history[-1]
        return {
            "epochs": self._epochs(),
            "steps": self.position,
            "train_loss": last["train_loss"],
            "train_seconds": self.train_seconds,
            "images_per_second": self._images(self.position) / self.train_seconds,
            **{name: value for name, value in last.items() if name.startswith("val_")},
        }

    def place(self, position: int) -> str:
        """For people: where batch number `position`, from 1, is."""
        epoch, step = divmod(position - 1, self.steps)
        return f"epoch {epoch + 1}, step {step + 1}"

    def state_dict(self) -> dict[str, Any]:
        return {
            "position": self.position,
            "updates": self.updates,
            "loss_sum": self.loss_sum,
            "history": self.history,
            "train_seconds": self.train_seconds,
            "epoch_seconds": self.epoch_seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what an equal fit counted; it may have ended earlier."""
        self.position, self.updates = state["position"], state["updates"]
        self.loss_sum, self.history = state["loss_sum"], list(state["history"])
        self.train_seconds, self.epoch_seconds = state["train_seconds"], state["epoch_seconds"]
        if self.history and self.history[-1]["step"] % self.steps and not self.is_at_end():
            self.history.pop()  # of the part of an epoch at which --max-steps had stopped

    def _epochs(self) -> int:
        """Epochs begun."""
        return math.ceil(self.position / self.steps)

    def _images(self, position: int) -> int:
        """Digits in the first `position` batches."""
        epochs, steps = divmod(position, self.steps)
        return epochs * self.plan.size + min(steps * self.plan.batch_size, self.plan.size)
