"""What a person sees: rank 0 speaks, through tqdm on a terminal; the others are silent."""

import sys
import threading
from typing import Any

from tqdm import tqdm


class Log:
    """Speaks. Lines go to standard output, warnings and progress bars to standard error."""

    def __init__(self) -> None:
        # tqdm's own lock works across processes, for which it starts one and takes semaphores; ours need none.
        tqdm.set_lock(threading.RLock())

    def say(self, line: str = "") -> None:
        tqdm.write(line)
        sys.stdout.flush()

    def warn(self, line: str) -> None:
        tqdm.write(f"WARNING: {line}", file=sys.stderr)
        sys.stderr.flush()

    def epoch(self, net: str, epochs: int, entry: dict[str, Any]) -> None:
        """Says an epoch's line of metrics.jsonl in words."""
        validation = f"  validation accuracy {entry['val_accuracy']:7.2%}" if "val_accuracy" in entry else ""
        self.say(
            f"{net}  epoch {entry['epoch']}/{epochs}  train loss {entry['train_loss']:.4f}"
            f"  test loss {entry['test_loss']:.4f}  test accuracy {entry['test_accuracy']:7.2%}{validation}"
            f"  {entry['images_per_second']:,.0f} images/s"
        )

    def progress(self, name: str, total: int, done: int = 0) -> tqdm:
        """A bar of `total` steps, on a terminal only."""
        hidden = not sys.stderr.isatty()
        return tqdm(total=total, initial=done, desc=name, unit="step", leave=False, disable=hidden, dynamic_ncols=True)


class Silence(Log):
    """Says nothing: what every rank but the first is given."""

    def say(self, line: str = "") -> None:
        pass

    def warn(self, line: str) -> None:
        pass

    def progress(self, name: str, total: int, done: int = 0) -> tqdm:
        return tqdm(disable=True)
