"""Trains both nets with several random seeds and says mean, spread and standard error, for world sizes and precisions.

Runs that are finished below --output are not trained again, so the command can be interrupted and repeated.
Run: python -m benchmarks.seeds --data-dir DIR --output DIR [--seeds 5] [--processes 1 2] [--amp off bf16] [-- OPTIONS]
     python -m benchmarks.seeds --output DIR -- --data sample
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path


def train(folder: Path, processes: int, options: list[str]) -> dict:
    """Returns summary.json of the run in `folder`, which is trained unless it is finished."""
    summary = folder / "summary.json"
    if not summary.exists() or json.loads(summary.read_text())["status"] != "finished":
        launcher = [sys.executable]
        if processes > 1:
            launcher += ["-m", "torch.distributed.run", f"--nproc_per_node={processes}"]
        command = [*launcher, "-m", "distmnist.train", "--output", str(folder), *options]
        if (folder / "config.json").exists():
            command.append("--resume")
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    return json.loads(summary.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5, help="random seeds 0 to N - 1 (default: 5)")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--amp", nargs="+", default=["off"])
    parser.add_argument("options", nargs="*", help="further options of distmnist.train, after --")
    arguments = parser.parse_args()
    print(f"{'net':4} {'processes':>9} {'amp':>4} {'mean':>8} {'s.d.':>6} {'s.e.':>6} {'test loss':>9}  each")
    for amp in arguments.amp:
        for processes in arguments.processes:
            runs = []
            for seed in range(arguments.seeds):
                folder = arguments.output / f"{'-'.join([amp, str(processes), str(seed), *arguments.options])}"
                options = ["--data-dir", str(arguments.data_dir)] if arguments.data_dir else []
                options += ["--seed", str(seed), "--amp", amp]
                runs.append(train(folder, processes, options + arguments.options)["models"])
            for net in runs[0]:
                accuracies = [100 * run[net]["test_accuracy"] for run in runs]
                spread = statistics.stdev(accuracies) if len(runs) > 1 else float("nan")
                loss = statistics.mean(run[net]["test_loss"] for run in runs)
                print(
                    f"{net:4} {processes:9} {amp:>4} {statistics.mean(accuracies):7.3f}% {spread:6.3f}"
                    f" {spread / len(runs) ** 0.5:6.3f} {loss:9.4f}  {' '.join(f'{a:.2f}' for a in accuracies)}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
