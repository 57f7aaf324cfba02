"""`resident` under this project's machine settings for a CPU: freed memory is kept, denormals count as 0."""

from benchmarks.peers import resident
from benchmarks.peers.case import Case, Run
from distmnist.data.dataset import LabelledImages
from distmnist.distributed.world import World
from distmnist.machine import flush_denormals, keep_freed_memory


def prepare(case: Case, digits: LabelledImages, world: World) -> Run:
    keep_freed_memory()
    flush_denormals()
    return resident.prepare(case, digits, world)
