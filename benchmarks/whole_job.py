"""Our whole command against the published loop's, start-up, training and evaluation of both nets included.

The two run in turn, round after round, so that a machine whose speed drifts does not favour either.
Run: python -m benchmarks.whole_job --data-dir DIR [--rounds 3] [--epochs 5] [--processes 2]
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def timed(command: list[str]) -> tuple[float, str]:
    """Wall seconds and standard output. Raises CalledProcessError if the command fails."""
    began = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return time.perf_counter() - began, done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    options = ["--data-dir", str(arguments.data_dir), "--epochs", str(arguments.epochs)]
    torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={arguments.processes}"]
    ours, published, ratios = [], [], []
    for number in range(1, arguments.rounds + 1):
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            seconds, _ = timed([*torchrun, "-m", "distmnist.train", *options, "--output", str(run)])
            nets = json.loads((run / "summary.json").read_text())["models"]
        theirs, output = timed([sys.executable, "-m", "benchmarks.published_loop", *options])
        reference = [json.loads(line) for line in output.splitlines()]
        ours.append(seconds)
        published.append(theirs)
        ratios.append(theirs / seconds)
        print(f"round {number}: ours {seconds:.1f} s, published {theirs:.1f} s, ratio {ratios[-1]:.2f}")
        for name, net in nets.items():
            print(f"  ours      {name} {net['test_accuracy']:.2%} {net['images_per_second']:,.0f} images/s")
        for net in reference:
            print(f"  published {net['net']} {net['test_accuracy']:.2%} {net['images_per_second']:,.0f} images/s")
    medians = [statistics.median(values) for values in (ours, published, ratios)]
    print("medians: ours {:.1f} s, published {:.1f} s, ratio {:.2f}".format(*medians))


if __name__ == "__main__":
    main()
