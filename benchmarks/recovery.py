"""Kills a worker of two under torchrun, ten times, and measures how long it takes until both train again.

Run: python -m benchmarks.recovery [--kills 10]          3 minutes
"""

import argparse
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import workers
from benchmarks.faults import read_events


def await_training(folder: Path, known: int, deadline: float) -> list[dict[str, Any]]:
    """The events, once more of them than `known` are of training steps. Raises TimeoutError."""
    while time.monotonic() < deadline:
        events = [event for event in read_events(folder) if event["event"] == "training"]
        if len(events) >= known + 2:
            return events
        time.sleep(0.02)
    raise TimeoutError("the two ranks did not train again within a minute")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    arguments = parser.parse_args()
    dice = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options = [
            "--model=cnn",
            "--epochs=100000",
            "--threads=1",
            f"--output={folder / 'run'}",
            "--checkpoint-steps=20",
        ]
        processes = workers.start(2, options, folder, torchrun=True, restarts=arguments.kills)
        try:
            events, seconds = await_training(folder, 0, time.monotonic() + 60), []
            for _ in range(arguments.kills):
                time.sleep(dice.uniform(0.5, 2.0))
                victim = events[-2:][dice.randrange(2)]
                known = len([event for event in read_events(folder) if event["event"] == "training"])
                killed = time.monotonic()
                os.kill(victim["pid"], signal.SIGKILL)
                while True:
                    events = await_training(folder, known, killed + 60)
                    fresh = [
                        event for event in events[known:] if event["pid"] not in {e["pid"] for e in events[:known]}
                    ]
                    if len(fresh) >= 2:
                        break
                    known = len(events) - len(fresh)
                seconds.append(max(event["at"] for event in fresh[:2]) - killed)
                print(f"{seconds[-1]:.1f} s", flush=True)
        finally:
            workers.end(processes)
    print(
        f"from kill -9 to the next training step, {len(seconds)} kills: median {statistics.median(seconds):.1f} s,"
        f" slowest {max(seconds):.1f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
