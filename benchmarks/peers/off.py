"""This project's trainer in plain PyTorch, `--fast off`; all else as in `ours`."""

from benchmarks.peers import ours
from benchmarks.peers.case import Case, Run
from distmnist.data.dataset import LabelledImages
from distmnist.distributed.world import World


def prepare(case: Case, digits: LabelledImages, world: World) -> Run:
    return ours.prepare(case, digits, world, fast="off")
