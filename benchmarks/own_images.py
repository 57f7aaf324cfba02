"""Images of one's own: how fast they are decoded, and how much memory training on them takes.

Makes JPEGs of 224 x 224 in a temporary directory. The peer is what a user would write: a process a core that opens
files with Pillow and keeps the arrays. Memory is the peak of Pss_Anon + Pss_Shmem, summed over all processes of a run
of the mlp on two processes with --val-fraction: what proc(5) counts of memory that no file backs, shared pages once.

Run: python -m benchmarks.own_images [--images 20000] [--few 2000] [--repeats 3]
"""

import argparse
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.setting import describe, setting
from distmnist.data.decode import decode_files
from distmnist.data.memory import SharedImages
from distmnist.data.prepare import Preparation, prepare
from distmnist.machine import usable_cores

SIDE, QUALITY = 224, 85


def make(folder: Path, numbers: range) -> None:
    """Smooth colours under noise, which compress about as photographs do."""
    for number in numbers:
        draws = np.random.default_rng(number)
        smooth = Image.fromarray(draws.integers(0, 256, (14, 14, 3), dtype=np.uint8)).resize((SIDE, SIDE))
        pixels = np.asarray(smooth) + draws.normal(0, 6, (SIDE, SIDE, 3))
        path = folder / f"class{number % 10}" / f"{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=QUALITY)


def keep(paths: list[Path]) -> None:
    arrays = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    assert len(arrays) == len(paths)


def theirs(paths: list[Path]) -> float:
    """Seconds of the peer."""
    cores = usable_cores()
    processes = [multiprocessing.Process(target=keep, args=(paths[core::cores],)) for core in range(cores)]
    began = time.perf_counter()
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return time.perf_counter() - began


def ours(paths: list[Path]) -> float:
    """Seconds of decoding, with the digest and the sums of each image."""
    preparation = Preparation(height=SIDE, width=SIDE, resize_mode="squash", channels=3)
    began = time.perf_counter()
    memory = SharedImages.make(len(paths), (3, SIDE, SIDE))
    outcomes = decode_files(paths, preparation, True, memory, lambda done: None)
    seconds = time.perf_counter() - began
    assert all(outcome.pixels for outcome in outcomes)
    return seconds


def alone(paths: list[Path]) -> float:
    """Ratio of the peer's rate that preparing images reaches in one process, without digest and sums."""
    preparation = Preparation(height=SIDE, width=SIDE, resize_mode="squash", channels=3)
    began = time.perf_counter()
    keep(paths)
    between = time.perf_counter()
    memory = SharedImages.make(len(paths), (3, SIDE, SIDE))
    for path, image in zip(paths, memory.images.numpy(), strict=True):
        prepare(path.read_bytes(), preparation, image)
    return (between - began) / (time.perf_counter() - between)


def peak_memory(folder: Path) -> int:
    """Bytes: of a run that trains the mlp on the folder's images, on two processes."""
    with tempfile.TemporaryDirectory() as output:
        command = ["torch.distributed.run", "--nproc_per_node=2", "-m", "distmnist.train", f"--data={folder}"]
        options = ["--model=mlp", "--val-fraction=0.1", "--epochs=1", f"--image-size={SIDE}", f"--output={output}/run"]
        process = subprocess.Popen(
            [sys.executable, "-m", *command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        peak = 0
        while process.poll() is None:
            peak = max(peak, sum(map(memory_of, family(process.pid))))
            time.sleep(0.1)
        if process.returncode:
            raise SystemExit(f"the run failed with exit code {process.returncode}")
    return peak


def family(pid: int) -> list[int]:
    """The process and all that it has started."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += map(int, task.read_text().split())
            except OSError:
                continue  # it has ended
    return found


def memory_of(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0  # it has ended
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--few", type=int, default=2_000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    about = setting("benchmarks.own_images", "pillow")
    with tempfile.TemporaryDirectory() as place:
        few, many = Path(place, "few"), Path(place, "many")
        with multiprocessing.Pool() as pool:
            pool.starmap(
                make, [(many, range(n, min(n + 100, arguments.images))) for n in range(0, arguments.images, 100)]
            )
        make(few, range(arguments.few))
        paths = sorted(many.rglob("*.jpg"))
        ratios = []
        for _ in range(arguments.repeats):
            peer, own = theirs(paths), ours(paths)
            ratios.append(peer / own)
            print(
                f"decoded: {len(paths) / own:,.0f} images/s; the peer {len(paths) / peer:,.0f}; ratio {ratios[-1]:.2f}"
            )
        preparing = [alone(paths[: arguments.few]) for _ in range(arguments.repeats)]
        added = (arguments.images - arguments.few) * 3 * SIDE**2
        growth = peak_memory(many) - peak_memory(few)
    print(f"decoding at {statistics.median(preparing):.2f} of the peer's rate in one process, without digest and sums")
    print(f"decoding, digest and sums at {statistics.median(ratios):.2f} of it on all cores")
    print(f"memory: {growth / 2**20:,.0f} MiB more for {added / 2**20:,.0f} MiB more of pixels: {growth / added:.3f}")
    print(describe(about))


if __name__ == "__main__":
    main()
