"""How long the command takes to answer, and to its first training step; and where that time goes.

Run: python -m benchmarks.startup [--data-dir DIR] [--rounds 5] [--page benchmarks/README.md]
The commands take turns, round after round; without --data-dir the job trains on the sample that comes along.
"""

import argparse
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.first_step import FILE
from benchmarks.setting import describe, fill, markdown, page, setting

TRAIN = ["-m", "distmnist.train"]
TORCHRUN = ["-m", "torch.distributed.run", "--nproc_per_node=2"]
ANSWERS = {
    "Python itself": (["-c", "pass"], 0),
    "`import torch`": (["-c", "import torch"], 0),
    "`--help`": ([*TRAIN, "--help"], 0),
    "a mistyped option": ([*TRAIN, "--epoch=5"], 2),
}
"""What -> arguments of Python, exit code."""
JOBS = {"1 process": [], "2 processes, torchrun": TORCHRUN}


def seconds_of(arguments: list[str], code: int) -> float:
    began = time.monotonic()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    seconds = time.monotonic() - began
    if done.returncode != code:
        raise RuntimeError(f"{arguments} answered {done.returncode}, not {code}: {done.stderr[-2000:]}")
    return seconds


def stages_of(launcher: list[str], options: list[str], folder: Path) -> dict[str, float]:
    """Stage -> seconds from the command to its end."""
    moments = folder / "moments.json"
    command = [sys.executable, *launcher, "-m", "benchmarks.first_step", *options, "--output", str(folder / "run")]
    began = time.monotonic()
    subprocess.run(command, env=os.environ | {FILE: str(moments)}, check=True, capture_output=True)
    return {name: moment - began for name, moment in json.loads(moments.read_text()).items()}


def import_costs(options: list[str], folder: Path) -> dict[str, float]:
    """Package, or second-level package of torch -> seconds of importing its own modules, up to the first step.

    Measured with -X importtime, which itself slows imports down by a few percent.
    """
    command = [sys.executable, "-X", "importtime", "-m", "benchmarks.first_step", *options, "--output", str(folder)]
    environment = os.environ | {FILE: str(folder / "moments.json")}
    printed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stderr
    costs: dict[str, float] = {}
    for own, module in re.findall(r"^import time: +(\d+) \| +\d+ \| +(\S+)$", printed, re.MULTILINE):
        parts = module.split(".")
        package = ".".join(parts[: 2 if parts[0] == "torch" else 1])
        costs[package] = costs.get(package, 0.0) + int(own) / 1e6
    return dict(sorted(costs.items(), key=lambda item: -item[1]))


def report(facts: dict, answers: dict[str, list[float]], stages: dict[str, list[dict]], costs: dict[str, float]) -> str:
    rounds = len(next(iter(answers.values())))
    rows = [[name, f"{statistics.median(times):.2f} s"] for name, times in answers.items()]
    medians = f"Medians of {rounds} round{'s' if rounds > 1 else ''}."
    parts = [describe(facts), medians, markdown(["command", "answer after"], rows)]
    names = list(next(iter(stages.values()))[0])
    rows = []
    for job, runs in stages.items():
        ends = {name: statistics.median(run[name] for run in runs) for name in names}
        lasts = [ends[after] - ends[name] for name, after in itertools.pairwise(names)]
        rows.append([job, *(f"{seconds:.2f}" for seconds in [ends[names[0]], *lasts, ends[names[-1]]])])
    head = ["seconds of each stage", "launcher, interpreter", *names[:-1], "command to first step"]
    parts.append(markdown(head, rows))
    top = [[f"`{name}`", f"{seconds:.2f} s"] for name, seconds in list(costs.items())[:10]]
    parts.append(markdown(["own modules, imported up to the first step of 1 process", "time"], top))
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", default="cnn")
    parser.add_argument("--page", type=page, help="a Markdown page whose marked tables are filled in")
    arguments = parser.parse_args()
    facts = setting("benchmarks.startup")
    answers: dict[str, list[float]] = {name: [] for name in ANSWERS}
    stages: dict[str, list[dict[str, float]]] = {name: [] for name in JOBS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = ["--data-dir", str(arguments.data_dir)] if arguments.data_dir else ["--data", "sample"]
        options = ["--model", arguments.model, *data]
        for number in range(arguments.rounds):
            for what, command in ANSWERS.items():
                answers[what].append(seconds_of(*command))
            for what, launcher in JOBS.items():
                (run := folder / f"{number}-{len(launcher)}").mkdir()
                stages[what].append(stages_of(launcher, options, run))
        (imports := folder / "imports").mkdir()
        costs = import_costs(options, imports)
    text = report(facts, answers, stages, costs)
    print(text)
    if arguments.page:
        fill(arguments.page, "startup", text)


if __name__ == "__main__":
    main()
