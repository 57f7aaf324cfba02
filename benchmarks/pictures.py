"""How many digits export/predict/ still reads when they are photographed, drawn or saved in each of many styles.

    python -m benchmarks.pictures runs/a --data-dir DIR [--seeds 0 1] [--style NAME ...]     from a clone
    python -m benchmarks.pictures runs/a --data-dir DIR --held-back [--jobs 2]

runs/a is an exported run, its export folder, or a file <model>.pixels.onnx. For each seed, 100 test digits of MNIST are
drawn from those that the net reads right as they are, and each style of
tests/helpers/export_styles.py makes a picture of each.
A silent error is a wrong answer without a warning. Exit code 1: an acceptance bound is missed.
"""

import argparse
import dataclasses
import sys
import zlib
from collections.abc import Iterator
from multiprocessing import Queue, get_context
from pathlib import Path
from queue import Empty

import numpy as np

from benchmarks.setting import describe, markdown, setting
from distmnist.data.known import load
from export.predict import PredictError, Predictor
from tests.helpers.export_styles import STYLES, Style

DIGITS = 100
DEVELOPMENT = range(0, 2001)
"""Seeds to work with."""
HELD_BACK = range(2001, 2002)
"""Of the final test: not to be used while the preparation or the styles are being changed. Once a result has led to a
change, the next seeds are held back (1000, 1001 and 2000 were before)."""

KEPT, SHARE_OF_STYLES, SILENT, WARNED = 95, 0.9, 1, 0.02
"""Acceptance: of 100, right answers to be kept by this share of the styles; silent errors allowed to a style; and the
share of all right answers that may carry a warning."""


@dataclasses.dataclass
class Tally:
    """Of one style and seed: counts of DIGITS answers."""

    right: int = 0
    silent: int = 0
    warned_right: int = 0


def find_model(path: Path) -> Path:
    """The cnn's deployed file in an exported run or export; the path itself if it is a file."""
    if path.is_file():
        return path
    for folder in (path / "export", path):
        if (folder / "cnn.pixels.onnx").is_file():
            return folder / "cnn.pixels.onnx"
    raise SystemExit(f"{path} holds no cnn.pixels.onnx; run python -m export {path} first")


def measure(predictor: Predictor, images: np.ndarray, labels: np.ndarray, style: Style, seed: int) -> Tally:
    """One style's pictures of `images`, uint8 [n, 28, 28], drawn with a generator of this style and seed."""
    draw, tally = np.random.default_rng([seed, zlib.crc32(style.__name__.encode())]), Tally()
    for image, label in zip(images, labels, strict=True):
        try:
            reading = predictor.read(style(image, draw))
        except PredictError:  # what cannot be read is no silent error: the command says so and exits with 2
            continue
        if reading.digit == label:
            tally.right += 1
            tally.warned_right += bool(reading.warnings)
        else:
            tally.silent += not reading.warnings
    return tally


def chosen(right: np.ndarray, seed: int) -> np.ndarray:
    """Indices of DIGITS of the test digits that are read right, bool [n]."""
    return np.sort(np.random.default_rng(seed).choice(np.flatnonzero(right), DIGITS, replace=False))


class Meter:
    """The net and, for each seed, the digits that it reads right as they are: one in each process that measures."""

    def __init__(self, model: Path, data_dir: Path, seeds: list[int]) -> None:
        test = load("mnist", data_dir).test
        images, labels = test.images.squeeze(1).numpy(), test.labels.numpy()
        self.predictor = Predictor(model, threads=1)
        said = np.concatenate([self.predictor.predict(part).argmax(1) for part in np.array_split(images, 20)])
        indices = {seed: chosen(said == labels, seed) for seed in seeds}
        self.digits = {seed: (images[index], labels[index]) for seed, index in indices.items()}

    def __call__(self, style: Style) -> list[Tally]:
        """A tally a seed."""
        return [measure(self.predictor, *digits, style, seed) for seed, digits in self.digits.items()]


def share(
    model: Path, data_dir: Path, styles: list[Style], seeds: list[int], results: Queue, job: int, jobs: int
) -> None:
    """One process's part: every `jobs`-th style, each put into `results` as (name, tallies)."""
    meter = Meter(model, data_dir, seeds)
    for style in styles[job::jobs]:
        results.put((style.__name__, meter(style)))


def run(
    model: Path, data_dir: Path, styles: list[Style], seeds: list[int], jobs: int
) -> Iterator[tuple[str, list[Tally]]]:
    """(style, a tally a seed) as they are measured. Raises SystemExit if a process fails."""
    context = get_context("spawn")
    results = context.Queue()
    arguments = (model, data_dir, styles, seeds, results)
    processes = [context.Process(target=share, args=(*arguments, job, jobs), daemon=True) for job in range(jobs)]
    for process in processes:
        process.start()
    for _ in styles:
        while True:
            try:
                yield results.get(timeout=5)
                break
            except Empty:
                if any(process.exitcode for process in processes):
                    raise SystemExit("a measuring process failed") from None


def verdict(results: dict[str, list[Tally]]) -> tuple[list[str], bool]:
    """What is to be said of all styles, and whether every bound is met. Figures are of 100, means over seeds."""
    below = {
        name: np.mean([tally.right for tally in tallies])
        for name, tallies in results.items()
        if np.mean([tally.right for tally in tallies]) < KEPT
    }
    loud = {
        name: np.mean([tally.silent for tally in tallies])
        for name, tallies in results.items()
        if np.mean([tally.silent for tally in tallies]) > SILENT
    }
    everything = [tally for tallies in results.values() for tally in tallies]
    right = sum(tally.right for tally in everything)
    warned = sum(tally.warned_right for tally in everything) / max(right, 1)
    kept = len(results) - len(below)
    lines = [
        f"{kept} of {len(results)} styles keep at least {KEPT} of 100"
        + (f"; not: {', '.join(f'{name} {value:.1f}' for name, value in below.items())}" if below else ""),
        f"{len(results) - len(loud)} of {len(results)} styles have at most {SILENT} silent error in 100"
        + (f"; not: {', '.join(f'{name} {value:.1f}' for name, value in loud.items())}" if loud else ""),
        f"right answers: {right / (DIGITS * len(everything)):.2%}; of them with a warning: {warned:.2%}",
    ]
    return lines, kept >= SHARE_OF_STYLES * len(results) and not loud and warned <= WARNED


def main() -> int:
    known = {style.__name__: style for style in STYLES}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="an exported run, its export folder, or <model>.pixels.onnx")
    parser.add_argument("--data-dir", type=Path, required=True, help="where MNIST/raw is")
    parser.add_argument("--style", nargs="+", choices=known, metavar="NAME", default=[*known], help="default: all")
    parser.add_argument("--jobs", type=int, default=1, help="processes that measure (default: 1)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--seeds", type=int, nargs="+", metavar="S", default=[0], help="of development (default: 0)")
    which.add_argument("--held-back", action="store_true", help="the final test, on seeds not used in the work")
    given = parser.parse_args()
    if not set(given.seeds) <= set(DEVELOPMENT):
        parser.error(f"--seeds must be {DEVELOPMENT[0]} to {DEVELOPMENT[-1]}; --held-back takes the others")
    seeds = list(HELD_BACK) if given.held_back else given.seeds
    print(describe(setting("benchmarks.pictures", "onnxruntime", "pillow")), end="\n\n")
    styles = [known[name] for name in given.style]
    results: dict[str, list[Tally]] = {}
    for name, tallies in run(find_model(given.model), given.data_dir, styles, seeds, given.jobs):
        results[name] = tallies
        print(f"{name}: {', '.join(str(tally.right) for tally in tallies)}", file=sys.stderr)
    results = {style.__name__: results[style.__name__] for style in styles}
    rows = [
        [
            name,
            f"{np.mean([tally.right for tally in tallies]):.1f}",
            str(min(tally.right for tally in tallies)),
            f"{np.mean([tally.silent for tally in tallies]):.1f}",
            str(max(tally.silent for tally in tallies)),
            f"{np.mean([tally.warned_right for tally in tallies]):.1f}",
        ]
        for name, tallies in results.items()
    ]
    head = ["of 100 pictures", "right", "fewest", "silent errors", "most", "right, with a warning"]
    print(f"Seeds {', '.join(map(str, seeds))}: means, and the worst seed.\n\n{markdown(head, rows)}\n")
    lines, met = verdict(results)
    print("\n".join(lines))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
