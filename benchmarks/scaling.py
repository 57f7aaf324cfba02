"""What more processes give: steps and all-reduces measured at 1, 2 and 4, a model of them, and what it projects.

Run: python -m benchmarks.scaling --data-dir DIR [--page benchmarks/README.md]        (8 minutes)
Every process has one thread. The partition over 4,096 simulated ranks is checked as well: see partition.py.
"""

import argparse
import itertools
import statistics
from pathlib import Path
from typing import Any

from benchmarks import partition
from benchmarks.arena import Arena
from benchmarks.linkmodel import LINKS, Link, Point, errors, fit
from benchmarks.setting import describe, fill, markdown, page, setting
from distmnist.models.build import MODELS, build_model

PROCESSES = (1, 2, 4)
BATCHES = (64, 512)
LEFT_OUT = (1 << 14, 1 << 20)
"""Bytes of messages that the model is not fitted to, beside the nets' own gradients."""
FITTED = (1 << 10, 1 << 12, 1 << 16, 1 << 18, 1 << 22)
GLOO, SHARED = TRANSPORTS = ("gloo", "shared memory")
"""Between machines, and as the trainer adds up gradients within one."""
RANKS = (2, 8, 64, 512, 4096)
DIGITS = 60_000


def gradient_bytes(net: str) -> int:
    """The float32 message of a step: the gradients of all parameters, without the few numbers that travel along."""
    return 4 * sum(p.numel() for p in build_model(net).parameters())


def measure(data_dir: Path, rounds: int, digits: dict[str, int]) -> tuple[dict[str, list[Point]], dict[tuple, float]]:
    """All-reduces by transport, and seconds of a step by (net, processes, batch): medians over interleaved rounds."""
    sizes = (*FITTED, *LEFT_OUT, *(gradient_bytes(net) for net in MODELS))
    messages: dict[tuple[str, int, int], list[float]] = {}
    steps: dict[tuple[str, int, int], list[float]] = {}
    # What a process computes when a batch of BATCHES is shared out, measured alone: the model's other half.
    alone = {batch // count for batch in BATCHES for count in PROCESSES}
    with Arena(data_dir) as arena:
        trainers = {count: arena.start("ours", count) for count in PROCESSES}
        reducers = {count: arena.start("all_reduce", count) for count in PROCESSES if count > 1}
        for _ in range(rounds):
            for count, contestant in reducers.items():
                for name, size in itertools.product(TRANSPORTS, sizes):
                    answer = contestant.ask(bytes=size, shared=name == SHARED)
                    messages.setdefault((name, count, size), []).append(answer["seconds"])
            for net in MODELS:
                for count, contestant in trainers.items():
                    for batch in sorted(alone if count == 1 else BATCHES):
                        job = {"net": net, "batch": batch, "threads": 1, "digits": digits[net]}
                        seconds = contestant.ask(**job)["seconds"] / -(-digits[net] // batch)
                        steps.setdefault((net, count, batch), []).append(seconds)
    points: dict[str, list[Point]] = {name: [] for name in TRANSPORTS}
    for (name, count, size), times in messages.items():
        points[name].append(Point(count, size, statistics.median(times)))
    return points, {key: statistics.median(times) for key, times in steps.items()}


def predict(steps: dict[tuple, float], link: Link, net: str, count: int, batch: int, cores: int) -> float:
    """Seconds of a step: the share computed alone, for each process that a core has to run, then one all-reduce."""
    waves = -(-count // cores)
    return steps[net, 1, batch // count] * waves + link.ring(count, gradient_bytes(net))


def step_rows(steps: dict[tuple, float], link: Link, cores: int) -> list[list[str]]:
    rows = []
    for (net, count, batch), seconds in steps.items():
        if batch not in BATCHES:
            continue
        row = [net, f"{batch}", f"{count}", f"{1000 * seconds:.2f} ms", f"{steps[net, 1, batch] / seconds:.2f}"]
        if count > 1:
            predicted = predict(steps, link, net, count, batch, cores)
            row += [f"{1000 * predicted:.2f} ms", f"{predicted / seconds - 1:+.0%}"]
        rows.append(row + [""] * (7 - len(row)))
    return rows


def projection(steps: dict[tuple, float], net: str) -> list[list[str]]:
    """64 digits a rank: the all-reduce over each link, by ring and by halving; the share of time left to computing."""
    compute, size, rows = steps[net, 1, 64], gradient_bytes(net), []
    for ranks in RANKS:
        batch = 64 * ranks
        row = [f"{ranks:,}", f"{batch:,}", f"{-(-DIGITS // batch):,}"]
        for link in LINKS.values():
            ring, halving = link.ring(ranks, size), link.halving_doubling(ranks, size)
            best = min(ring, halving)
            row.append(f"{1000 * ring:.2f} / {1000 * halving:.2f} ms, {compute / (compute + best):.0%}")
        rows.append(row)
    return rows


def crowded(link: Link, points: list[Point]) -> str:
    if not points:
        return ""
    median, worst = errors(link, points)
    return f" Where processes share cores, of which it knows nothing: {median:.0%} and {worst:.0%}."


def all_reduces(name: str, points: list[Point], cores: int) -> tuple[Link, list[str]]:
    """The model of one transport, and what to say of it."""
    within = [p for p in points if p.processes <= max(2, cores)]
    beyond = [p for p in points if p not in within]
    link = fit([p for p in within if p.size in FITTED])
    median, worst = errors(link, [p for p in within if p.size not in FITTED])
    cells = {(p.processes, p.size): f"{1e6 * p.seconds:,.0f} us" for p in points}
    sizes = sorted({p.size for p in points})
    rows = [[f"{size:,}{'' if size in FITTED else ' *'}", *(cells[n, size] for n in PROCESSES[1:])] for size in sizes]
    return link, [
        f"All-reduces of a message by {name}, one thread a process (* not used for the fit):",
        markdown(["bytes", *(f"{n} processes" for n in PROCESSES[1:])], rows),
        f"The ring model, fitted where every process has a core: {1e6 * link.alpha:.0f} us a step,"
        f" {link.bandwidth / 1e9:.2f} GB/s. Its error on the sizes left out: {median:.0%} in the median, {worst:.0%} at"
        " worst." + crowded(link, beyond),
    ]


def report(facts: dict[str, Any], points: dict[str, list[Point]], steps: dict[tuple, float]) -> str:
    parts, links = [describe(facts)], {}
    for name in TRANSPORTS:
        links[name], told = all_reduces(name, points[name], facts["cores"])
        parts += told
    parts += [
        f"Steps, and what the model makes of the time of one process that is given the share alone, plus one all-reduce"
        f" by {SHARED}, none of it overlapped:",
        markdown(
            ["net", "batch", "processes", "step", "times as fast as 1", "model", "its error"],
            step_rows(steps, links[SHARED], facts["cores"]),
        ),
    ]
    for net in MODELS:
        parts += [
            f"**Projection, not measured**: {net}, {gradient_bytes(net):,} bytes a step, 64 digits a rank, computed in"
            f" {1000 * steps[net, 1, 64]:.2f} ms as by one core here; all-reduce by ring / by halving and doubling, and"
            " the share of the time that is left to computing with the faster of the two:",
            markdown(["ranks", "global batch", "steps an epoch", *LINKS], projection(steps, net)),
        ]
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mlp-digits", type=int, default=20_000)
    parser.add_argument("--cnn-digits", type=int, default=5_120)
    parser.add_argument("--page", type=page, help="a Markdown page whose marked tables are filled in")
    arguments = parser.parse_args()
    facts = setting("benchmarks.scaling")
    digits = {net: getattr(arguments, f"{net}_digits") for net in MODELS}
    points, steps = measure(arguments.data_dir, arguments.rounds, digits)
    shared = partition.table(RANKS[-1], DIGITS, [4096, 8192, 64 * RANKS[-1]])
    text = (
        f"{report(facts, points, steps)}\n\n{RANKS[-1]:,} simulated ranks, every share of an epoch taken:\n\n{shared}"
    )
    print(text)
    if arguments.page:
        fill(arguments.page, "scaling", text)


if __name__ == "__main__":
    main()
