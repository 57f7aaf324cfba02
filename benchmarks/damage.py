"""Damages snapshots at random: one that is not whole must be refused, and the one before it taken."""

import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from distmnist.checkpoint import storage
from distmnist.checkpoint.record import Checkpoint, ProgressState
from distmnist.data.dataset import DatasetFacts
from distmnist.errors import UsageError


def damage(content: bytes, dice: random.Random) -> bytes:
    """Cuts, flips, zeroes or repeats a random region. Never returns the content unchanged."""
    start = dice.randrange(len(content))
    stop = min(len(content), start + dice.choice((1, 8, 512, 65536)))
    kind = dice.choice(("cut", "flip", "zero", "repeat"))
    if kind == "cut":
        return content[:start]
    if kind == "zero" and any(content[start:stop]):
        return content[:start] + bytes(stop - start) + content[stop:]
    if kind == "repeat":
        return content[:stop] + content[start:]
    flipped = content[start] ^ (1 << dice.randrange(8))
    return content[:start] + bytes([flipped]) + content[start + 1 :]


def made_up(step: int) -> Checkpoint:
    """A checkpoint after `step` steps, of weights drawn from it."""
    progress = ProgressState(
        global_step=step, optimizer_steps=step, loss_sum=0.0, history=(), train_seconds=0.0, epoch_seconds=0.0
    )
    weights = {"weight": torch.randn(64, 64, generator=torch.Generator().manual_seed(step))}
    return Checkpoint(
        model=weights, optimizer={}, scaler={}, progress=progress, config={}, dataset=DatasetFacts("made up", 0, 0)
    )


def damages(count: int, seed: int, say: Callable[[str], None]) -> int:
    """Damages last.pt `count` times beside a whole prev.pt. Returns how often it was not refused in favour of it."""
    dice = random.Random(f"{seed}/damage")
    accepted = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for step in (1, 2):
            storage.save(folder, made_up(step))
        whole = (folder / storage.LAST).read_bytes()
        for _ in range(count):
            (folder / storage.LAST).write_bytes(damage(whole, dice))
            try:
                checkpoint, trouble = storage.load_newest(folder)
                accepted += not trouble or checkpoint is None or checkpoint.progress.global_step != 1
            except UsageError:
                accepted += 1
    say(f"{count} damaged snapshots: {accepted} accepted")
    return accepted
