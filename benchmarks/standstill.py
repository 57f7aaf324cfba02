"""Has a rank hang at each place where ranks wait for each other: all must end in time, and one line must name it.

For each place the hang alternates: on 2 and on 3 ranks, under torchrun and under a launcher of one's own, in Python, in
C, and as a process that is stopped. Fails where a rank outlives the time-out by more than 10 s, where not exactly one
line is printed, or where it names another rank.

Run: python -m benchmarks.standstill [--repeats 20] [--place "a step"]          2 minutes a place
"""

import argparse
import collections
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks import workers
from benchmarks.faults import FREEZE, HANG, HANG_IN_C, MOMENTS, Fault, read_events

TIMEOUT, GRACE = 5.0, 10.0
PLACES = [name for name in MOMENTS if not name.startswith("saving: f")]
KINDS = (HANG, HANG_IN_C, HANG, FREEZE, HANG)
GIVE_UP = 90.0


def trial(place: str, number: int) -> tuple[float | None, list[str], Fault, str]:
    """Seconds from the hang to the end of all ranks, None if some did not end; the lines printed; the fault; how."""
    with tempfile.TemporaryDirectory() as name:
        return trial_in(Path(name), place, number)


def trial_in(folder: Path, place: str, number: int) -> tuple[float | None, list[str], Fault, str]:
    size, torchrun = 2 + number % 2, number // 2 % 2 == 0
    rank = 0 if place.startswith("saving") else number % size
    fault = Fault(place, 1, False, rank, KINDS[number % len(KINDS)])
    arguments = ["--model=mlp", "--epochs=2", "--threads=1", f"--timeout={TIMEOUT}", f"--output={folder / 'run'}"]
    processes = workers.start(size, arguments, folder, torchrun=torchrun, fault=fault)
    deadline = time.monotonic() + GIVE_UP
    try:
        while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
            time.sleep(0.05)
        now = time.monotonic()
        ended = all(process.poll() is not None for process in processes)
    finally:
        workers.end(processes)
    hung = [event["at"] for event in read_events(folder) if event["event"] == "fault"]
    seconds = now - hung[0] if hung and ended else None
    lines = [line for line in (folder / "err").read_text().splitlines() if line.startswith("distmnist: ")]
    how = f"{fault.kind} of rank {rank} of {size}, {'torchrun' if torchrun else 'own launcher'}"
    return seconds, lines, fault, how


def fine(seconds: float | None, lines: list[str], fault: Fault) -> bool:
    if seconds is None or seconds > TIMEOUT + GRACE:
        return False
    return len(lines) == 1 and f"rank {fault.rank} " in lines[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20, help="hangs at each place (default: 20)")
    parser.add_argument("--jobs", type=int, default=3, help="trials at a time (default: 3)")
    parser.add_argument("--place", choices=PLACES, help="only this place")
    arguments = parser.parse_args()
    good: collections.Counter[str] = collections.Counter()
    for place in [arguments.place] if arguments.place else PLACES:
        times = []
        with ThreadPoolExecutor(arguments.jobs) as threads:  # nearly all that a trial does is wait
            outcomes = list(threads.map(lambda number, place=place: trial(place, number), range(arguments.repeats)))
        for number, (seconds, lines, fault, how) in enumerate(outcomes):
            if fine(seconds, lines, fault):
                good[place] += 1
                times.append(seconds)
            else:
                print(f"  FAILED {number}: {how}: {seconds} s, {lines}", flush=True)
        spread = f"median {statistics.median(times):.1f} s, slowest {max(times):.1f} s" if times else "none"
        print(
            f"{good[place]:3} of {arguments.repeats} {place:34} {spread} after the hang, time-out {TIMEOUT:g} s",
            flush=True,
        )
        if good[place] < arguments.repeats:
            good["failed"] += 1
    return 1 if good["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
