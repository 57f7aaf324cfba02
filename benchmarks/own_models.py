"""Models of one's own under torchrun: do kill -9, other numbers of processes and a second run leave the same bits?

For each of four models, on random images of 3 x 32 x 32: with DistributedDataParallel on 1, 2 and 3 processes the same
command twice, and once with a process killed in the middle and resumed; with --virtual-ranks 4 on 1, 2 and 4 processes,
and once killed on two, resumed on one, stopped, and resumed on four. All weights of a row must have one digest.

Run: python -m benchmarks.own_models [--models NAME ...]             a quarter of an hour. Exit code 1: digests differ.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from torch import Tensor, nn
from torchvision.models import VisionTransformer

ROOT = Path(__file__).parents[1]
LIMIT = 300.0
"""Seconds for one command."""


def small_vit(num_classes: int, image_size: int) -> nn.Module:
    return VisionTransformer(
        image_size=image_size,
        patch_size=8,
        num_layers=2,
        num_heads=2,
        hidden_dim=32,
        mlp_dim=64,
        dropout=0.1,
        num_classes=num_classes,
    )


class GRU(nn.Module):
    """Reads an image row by row."""

    def __init__(self, num_classes: int, in_chans: int, image_size: int) -> None:
        super().__init__()
        self.rnn = nn.GRU(in_chans * image_size, 32, num_layers=2, dropout=0.2, batch_first=True)
        self.head = nn.Linear(32, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        rows = images.permute(0, 2, 1, 3).flatten(2)
        logits: Tensor = self.head(self.rnn(rows)[0][:, -1])
        return logits


MODELS = {
    "resnet18": "torchvision.models:resnet18",
    "mobilenet_v3_small": "torchvision.models:mobilenet_v3_small",
    "small_vit": "benchmarks.own_models:small_vit",
    "GRU": "benchmarks.own_models:GRU",
}


def start(processes: int, *options: str) -> subprocess.Popen[bytes]:
    module = ["-m", "distmnist.train", *options]
    if processes > 1:
        elastic = ["--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={processes}"]
        module = ["-m", "torch.distributed.run", *elastic, *module]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([sys.executable, *module], env=environment, **silent)


def finish(processes: int, output: Path, *options: str) -> str:
    """Runs the command to its end. Returns the digest of the weights."""
    code = start(processes, f"--output={output}", *options).wait(LIMIT)
    if code:
        raise SystemExit(f"{' '.join(options)} on {processes} processes ended with {code}")
    (model,) = json.loads((output / "summary.json").read_text())["models"].values()
    return str(model["weights_sha256"])


def kill(processes: int, output: Path, *options: str) -> None:
    """Starts the command, and kills one of its processes at random as soon as there is a checkpoint."""
    launcher = start(processes, f"--output={output}", *options)
    deadline = time.monotonic() + LIMIT
    while not any(output.glob("*/last.pt")):
        if launcher.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"{' '.join(options)} on {processes} processes left no checkpoint")
        time.sleep(0.01)
    victims = [launcher.pid]
    if processes > 1:
        victims = list(map(int, Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()))
    os.kill(random.choice(victims), signal.SIGKILL)
    launcher.wait(LIMIT)
    if (output / "summary.json").exists():
        raise SystemExit("the run had ended before it was killed")


def compare(model: str, folder: Path, data: Path) -> int:
    """Prints a line for each set of runs that must agree. Returns how many do not."""
    common = [f"--model={MODELS[model]}", f"--data={data}", "--epochs=3", "--batch-size=16", "--threads=1"]
    common += ["--checkpoint-steps=1"]
    wrong = 0

    def report(what: str, digests: list[str]) -> None:
        nonlocal wrong
        wrong += len(set(digests)) > 1
        verdict = "DIFFERENT" if len(set(digests)) > 1 else "equal"
        print(f"{model:<20} {what:<62} {verdict} {digests[0][:8]}", flush=True)

    for size in (1, 2, 3):
        digests = [finish(size, folder / f"{size}-{number}", *common) for number in (1, 2)]
        kill(size, folder / f"{size}-killed", *common)
        digests.append(finish(size, folder / f"{size}-killed", *common, "--resume"))
        report(f"{size} processes: twice; killed and resumed", digests)
    exact = [*common, "--virtual-ranks=4"]
    digests = [finish(size, folder / f"v{size}", *exact) for size in (1, 2, 4)]
    kill(2, folder / "resized", *exact)
    finish(1, folder / "resized", *exact, "--resume", "--max-steps=9")
    digests.append(finish(4, folder / "resized", *exact, "--resume", "--max-steps=100"))
    report("virtual ranks: 1, 2, 4 processes; killed on 2, resumed on 1, 4", digests)
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS), help="default: all")
    arguments = parser.parse_args()
    draws, wrong = np.random.default_rng(0), 0
    with tempfile.TemporaryDirectory() as name:
        data = Path(name) / "images.npz"
        arrays = {}
        for split, count in (("train", 62), ("test", 20)):
            arrays[f"{split}_images"] = draws.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
            arrays[f"{split}_labels"] = np.arange(count) % 4
        np.savez(data, **arrays)
        for model in arguments.models:
            wrong += compare(model, Path(name) / model, data)
    return wrong > 0


if __name__ == "__main__":
    sys.exit(main())
