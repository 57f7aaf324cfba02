"""Training speed of distmnist and of what a user would pick instead, side by side in one interleaved run.

Case by case, each contestant is a new process; they train in turn, round after round. Every time is of one epoch over
the same digits, after a warm-up of 10 batches and all compilation; every result is evaluated on all test digits by the
same code. Medians over the rounds.

Run: python -m benchmarks.speed --data-dir DIR [--output DIR] [--page benchmarks/README.md]       30 minutes
     python -m benchmarks.speed --data-dir DIR --quick                                            2 minutes
The peers come with the extra [bench]; those that are not installed are rows that say so.
"""

import argparse
import importlib.util
import itertools
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks import setting, speed_table
from benchmarks.arena import Arena
from benchmarks.limits import training_flops
from distmnist.models.build import MODELS

PACKAGES = {
    "ours": "distmnist",
    "off": "distmnist",
    "published": "torchvision",
    "resident": "torch",
    "tuned": "torch",
    "lightning": "lightning",
    "accelerate": "accelerate",
    "keras": "keras",
    "jax": "optax",
}
"""Contestant, a module of benchmarks/peers -> the package without which it cannot run."""

OURS_BY_PROCESSES = {"ours, 1 process of 1 thread": 1, "ours, 2 processes of 1 thread": 2}

SLOW = ("jax",)
"""Too slow on the cnn for as many digits as the others; their number is stated."""

QUICK = {"rounds": 1, "batches": [64], "amps": ["off"], "mlp_digits": 19_200, "cnn_digits": 3_200, "slow_digits": 256}


def measure(arguments: argparse.Namespace, contestants: list[str]) -> dict[str, Any]:
    """All cases. Returns lists of what was measured, each entry with its round and its case."""
    found: dict[str, list[dict[str, Any]]] = {"limits": [], "loader": [], "training": []}
    for net, amp, batch in itertools.product(arguments.nets, arguments.amps, arguments.batches):
        case = {"net": net, "batch": batch, "amp": amp}
        digits = arguments.mlp_digits if net == "mlp" else arguments.cnn_digits
        with Arena(arguments.data_dir) as arena:
            found["limits"].append(arena.start("limits").ask())
            loader = arena.start("loader")
            running = {name: (arena.start(name), None) for name in contestants}
            if "ours" in contestants:
                running |= {name: (arena.start("ours", count), 1) for name, count in OURS_BY_PROCESSES.items()}
            for number in range(1, arguments.rounds + 1):
                if amp == arguments.amps[0]:
                    found["loader"].append(case | loader.ask(**case, digits=digits))
                for name, (contestant, threads) in running.items():
                    slow = name in SLOW and net == "cnn"
                    job = case | {"digits": arguments.slow_digits if slow else digits}
                    answer = contestant.ask(**job, threads=threads, seed=number)
                    found["training"].append({"round": number, "contestant": name, **job, **answer})
                    print(
                        f"{net} batch {batch:<4} amp {amp:4} round {number}: {name:30}"
                        f" {answer['images_per_second']:10,.0f} images/s {answer['test_accuracy']:7.2%}",
                        file=sys.stderr,
                        flush=True,
                    )
    return found


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contestants", nargs="+", choices=PACKAGES, default=list(PACKAGES), metavar="NAME")
    parser.add_argument("--nets", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--amps", nargs="+", choices=("off", "bf16"), default=["off", "bf16"])
    parser.add_argument("--mlp-digits", type=int, default=60_000, help="of the one epoch (default: all 60,000)")
    parser.add_argument("--cnn-digits", type=int, default=12_800, help="default: 12,800, that is 200 batches of 64")
    parser.add_argument("--slow-digits", type=int, default=1_024, help=f"of the cnn by {', '.join(SLOW)}")
    parser.add_argument("--quick", action="store_true", help="one round, batch 64, amp off, few digits")
    parser.add_argument("--output", type=Path, help="folder for speed.json, speed.md and, with matplotlib, speed.svg")
    parser.add_argument("--page", type=setting.page, help="a Markdown page whose marked tables are filled in")
    arguments = parser.parse_args()
    if arguments.quick:
        vars(arguments).update(QUICK)
    return arguments


def main() -> None:
    arguments = parse()
    present = [name for name in arguments.contestants if importlib.util.find_spec(PACKAGES[name])]
    facts = setting.setting("benchmarks.speed", *PACKAGES.values(), "jax")
    found = {
        "setting": facts,
        "absent": [name for name in arguments.contestants if name not in present],
        "flops": {net: training_flops(net) for net in arguments.nets},
        **measure(arguments, present),
    }
    text = speed_table.report(found)
    print(text)
    if arguments.output:
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / "speed.json").write_text(json.dumps(found, indent=1) + "\n")
        (arguments.output / "speed.md").write_text(text + "\n")
        if setting.installed("matplotlib"):
            speed_table.plot(found, arguments.output / "speed.svg")
    if arguments.page:
        setting.fill(arguments.page, "speed", text)


if __name__ == "__main__":
    main()
