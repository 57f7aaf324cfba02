"""What a run shows and keeps while it trains, as callbacks of `fit`."""

from collections.abc import Sequence

from tqdm import tqdm

from distmnist.checkpoint.record import Checkpoint, Epoch
from distmnist.config import TrainConfig
from distmnist.console import Log
from distmnist.runs.rundir import RunDirectory
from distmnist.training.callbacks import Callback
from distmnist.training.progress import Progress
from distmnist.training.requests import Request, Signals


class ConsoleOutput(Callback):
    """A progress bar on a terminal, a line after every epoch, a warning where a resumed run is computed otherwise."""

    def __init__(self, log: Log, resumed: Checkpoint | None) -> None:
        self.log, self.resumed = log, resumed
        self.bar: tqdm | None = None

    def on_fit_start(self, config: TrainConfig, progress: Progress, replacements: Sequence[str]) -> None:
        self.config = config
        before = self.resumed.fast if self.resumed else None  # checkpoints of the first edition do not say
        if before is not None and tuple(before) != tuple(replacements):
            self.log.warn(
                f"{config.name} was trained with {listed(before)} and is resumed with {listed(replacements)}:"
                " another number of processes, another machine or another distmnist; the weights may differ in their"
                " last bits"
            )

    def on_epoch_start(self, progress: Progress) -> None:
        epoch, first, stop = progress.part_of_epoch()
        self.bar = self.log.progress(f"{self.config.name} {epoch + 1}/{self.config.epochs}", stop, first)

    def on_step_end(self, progress: Progress) -> None:
        if self.bar is not None:
            self.bar.update()

    def on_epoch_end(self, epoch: Epoch) -> None:
        self.on_fit_end()
        validation = "" if epoch.val_accuracy is None else f"  validation accuracy {epoch.val_accuracy:7.2%}"
        self.log.say(
            f"{self.config.name}  epoch {epoch.epoch}/{self.config.epochs}  train loss {epoch.train_loss:.4f}"
            f"  test loss {epoch.test_loss:.4f}  test accuracy {epoch.test_accuracy:7.2%}{validation}"
            f"  {epoch.images_per_second:,.0f} images/s"
        )

    def on_fit_end(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def listed(replacements: Sequence[str]) -> str:
    return ", ".join(replacements) or "plain PyTorch"


class SaveCheckpoints(Callback):
    """Writes every checkpoint into the run's directory."""

    def __init__(self, directory: RunDirectory, model: str) -> None:
        self.directory, self.model = directory, model

    def on_checkpoint(self, checkpoint: Checkpoint) -> None:
        self.directory.save(self.model, checkpoint)


class RequestOnSignal(Callback):
    """Requests what signals ask for."""

    def __init__(self, signals: Signals) -> None:
        self.signals = signals

    def request(self) -> Request:
        return self.signals()
