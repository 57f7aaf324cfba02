"""Kills training at random, restarts it, and compares the final weights with those of the run that nobody disturbed.

Each trial takes a random rank, a random moment (starting up, a step, evaluating, each sub-step of saving) and a random
signal, up to three times over, then lets the job finish; with --virtual-ranks 8 the number of processes changes at
each restart. Restarting is left to the job: it gets what torchrun would give it, and no --resume. All is drawn from
the seed: `--seed S --only T` replays one trial.

Run: python -m benchmarks.campaign [--kills 300] [--damages 1000] [--seed 0] [--only TRIAL]
"""

import argparse
import collections
import statistics
import sys
import time
from collections.abc import Callable

from benchmarks.damage import damages
from benchmarks.faults import CHECKPOINT_STEPS, Trial, TrialFailed, carry_out, draw, undisturbed


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def campaign(kills: int, seed: int, only: int | None, say: Callable[[str], None]) -> int:
    """Trials until `kills` faults have struck. Returns how many trials hung, failed or ended with other weights."""
    references: dict[Trial, str] = {}
    struck: collections.Counter[str] = collections.Counter()
    recoveries, lost, failed, number = [], [], 0, only or 0
    began = time.monotonic()
    while struck.total() < kills and (only is None or number == only):
        trial = draw(seed, number)
        quiet = undisturbed(trial)
        if quiet not in references:
            references[quiet] = carry_out(quiet).digest
        try:
            outcome = carry_out(trial)
        except TrialFailed as failure:
            failed += 1
            say(f"FAILED, {failure}: trial {number}: {trial}")
            number += 1
            continue
        struck.update(f"{fault.moment}, {fault.kind}" for fault in outcome.struck)
        recoveries += outcome.recoveries
        lost += outcome.lost
        if outcome.digest != references[quiet]:
            failed += 1
            say(f"MISMATCH in trial {number}: {trial}")
        number += 1
    for what, times in sorted(struck.items()):
        say(f"  {times:4} x {what}")
    say(
        f"seed {seed}: {number - (only or 0)} trials, {struck.total()} faults;"
        f" {failed} trials failed or ended with other weights;"
        f" in {(time.monotonic() - began) / 60:.0f} minutes"
    )
    if recoveries:
        say(
            f"from the fault to the next training: median {statistics.median(recoveries):.1f} s,"
            f" 95th percentile {percentile(recoveries, 0.95):.1f} s; steps done again: at most {max(lost, default=0)}"
            f" with a snapshot every {CHECKPOINT_STEPS}"
        )
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300, help="faults that must have struck (default: 300)")
    parser.add_argument("--damages", type=int, default=1000, help="damaged snapshots (default: 1000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="the number of one trial to replay")
    arguments = parser.parse_args()
    wrong = campaign(arguments.kills, arguments.seed, arguments.only, print)
    if arguments.only is None:
        wrong += damages(arguments.damages, arguments.seed, print)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
