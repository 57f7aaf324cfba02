"""The command: its options, its output and its exit codes."""

import argparse
import contextlib
import csv
import io
import json
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from .errors import PredictError, shown
from .images import sources
from .model import Predictor, Reading

MAX_BATCH_BYTES = 64 * 2**20
"""Of the pixels of one batch: a model of large images takes fewer than --batch-size at once."""

COLUMNS = ("path", "label", "index", "probability", "error")
"""Of --csv."""


class Parser(argparse.ArgumentParser):
    def error(self, text: str) -> NoReturn:
        raise PredictError(f"{text}; --help lists the options")

    def print_help(self, file: Any = None) -> None:
        say(self.format_help().rstrip("\n"))


def to_path(text: str) -> str:
    """The type of an argument that is a path: with ~ for the home directory, and never empty."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty; is it a variable that is not set?")
    return os.path.expanduser(text)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="distmnist-predict",
        description="Classifies images with an exported model; prefer <model>.pixels.onnx.",
        allow_abbrev=False,
    )
    parser.add_argument("model", type=to_path, metavar="MODEL.onnx", help="<model>.pixels.onnx or <model>.onnx")
    parser.add_argument(
        "images", type=to_path, metavar="IMAGE", nargs="+", help="an image file, a directory of them, or - for stdin"
    )
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="one JSON object an image, one image a line")
    output.add_argument("--csv", action="store_true", help=f"a table with the columns {', '.join(COLUMNS)}")
    parser.add_argument("--top", type=int, default=1, metavar="K", help="name the K likeliest classes (default: 1)")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="images a run (default: 64)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: the cores, 4 at most)")
    parser.add_argument(
        "--min-probability", type=float, default=0.0, metavar="P", help="below it the answer is unsure (default: 0)"
    )
    parser.add_argument("--show", action="store_true", help="draw what the model sees, in grey, on standard error")
    given = parser.parse_args(arguments)
    if not 1 <= given.batch_size <= 1024:
        raise PredictError(f"--batch-size {given.batch_size} must be 1 to 1024")
    if given.threads is not None and not 1 <= given.threads <= 1024:
        raise PredictError(f"--threads {given.threads} must be 1 to 1024")
    if not 0 <= given.min_probability <= 1:
        raise PredictError(f"--min-probability {given.min_probability} must be 0 to 1")
    return given


class OutputLost(Exception):
    """An answer cannot be written: the OSError, or the ValueError of a closed stream, is the only argument."""


def say(line: str) -> None:
    """Writes an answer to standard output, which may have been closed from the start. Raises OutputLost."""
    try:
        if sys.stdout is not None:
            print(line, flush=True)
    except (OSError, ValueError) as error:
        raise OutputLost(error) from error


def say_error(line: str) -> None:
    """Writes a remark to standard error, if that can be written: there is no other place for it."""
    with contextlib.suppress(OSError, ValueError):
        print(f"distmnist: {shown(line)}", file=sys.stderr or io.StringIO(), flush=True)


def describe(
    name: str, reading: Reading | None, error: str | None, given: argparse.Namespace, is_mnist: bool
) -> dict[str, Any]:
    """The object that --json prints for an image: always these keys. is_mnist: with the first edition's `digit`."""

    def answer(index: int, probability: float) -> dict[str, Any]:
        assert reading is not None
        digit = {"digit": index} if is_mnist else {}
        return digit | {"label": reading.class_names[index], "index": index, "probability": probability}

    found = answer(reading.index, reading.probability) if reading else dict.fromkeys(("label", "index", "probability"))
    return {
        "path": name,
        **({"digit": None} if is_mnist else {}),
        **found,
        "unsure": reading and reading.probability < given.min_probability,
        "top": [answer(*each) for each in reading.top(given.top)] if reading else [],
        "warnings": reading.warnings if reading else [],
        "error": error,
    }


def best_label(reading: Reading, given: argparse.Namespace) -> str:
    """For a part of a line."""
    return "unsure" if reading.probability < given.min_probability else shown(reading.label)


def line(name: str, reading: Reading, given: argparse.Namespace) -> str:
    """`path, label, probability`, tab-separated, then the runners-up."""
    (_, probability), *others = reading.top(given.top)
    answers = [f"{best_label(reading, given)}\t{probability:.4f}"]
    answers += [f"{shown(reading.class_names[index])}\t{probability:.4f}" for index, probability in others]
    return "\t".join([shown(name), *answers])


def csv_line(values: Sequence[object]) -> str:
    """Quoted as RFC 4180 says."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow(values)
    return buffer.getvalue()


def csv_row(name: str, reading: Reading | None, error: str | None, given: argparse.Namespace) -> str:
    """An image, as COLUMNS has it."""
    if reading is None:
        return csv_line([shown(name), "", "", "", shown(error or "")])
    return csv_line([shown(name), best_label(reading, given), reading.index, repr(reading.probability), ""])


def drawing(pixels: np.ndarray) -> str:
    """uint8 [H, W] as lines of text, one for each row; of a large image, of every second row and column, or fewer."""
    step = -(-max(pixels.shape) // 64)
    rows = pixels[::step, ::step].tolist()
    return "\n".join("".join(2 * " .:-=+*#%@"[value * 10 // 256] for value in row) for row in rows)


def run(given: argparse.Namespace) -> int:
    """Answers image by image, in order. Returns 2 if one of them could not be read, else 0."""
    predictor = Predictor(given.model, threads=given.threads)
    if not 1 <= given.top <= len(predictor.class_names):
        raise PredictError(f"--top {given.top} must be 1 to {len(predictor.class_names)}")
    if given.show and predictor.shape[0] != 1:
        raise PredictError("--show draws grey images, and this model's are in colour; leave it out")
    batch_size = min(given.batch_size, max(1, MAX_BATCH_BYTES // int(np.prod(predictor.shape))))
    for warning in predictor.warnings:
        say_error(f"WARNING: {warning}")
    if given.csv:
        say(csv_line(COLUMNS))
    failed = False
    batch: list[tuple[str, np.ndarray | None, list[str], str | None]] = []

    def answer() -> None:
        seen = [(pixels, remarks) for _, pixels, remarks, _ in batch if pixels is not None]
        readings = iter(predictor.readings([pixels for pixels, _ in seen], [remarks for _, remarks in seen]))
        for name, pixels, _, error in batch:
            reading = None if pixels is None else next(readings)
            if given.json:
                say(json.dumps(describe(name, reading, error, given, predictor.is_mnist)))
            elif given.csv:
                say(csv_row(name, reading, error, given))
            elif reading:
                say(line(name, reading, given))
            told = [f"WARNING: {name}: {remark}" for remark in reading.warnings] if reading else [f"{name} {error}"]
            for remark in told:
                say_error(remark)
            if given.show and pixels is not None:
                with contextlib.suppress(OSError, ValueError):
                    print(drawing(pixels), file=sys.stderr)
        batch.clear()

    for name, source in sources(given.images, predictor.is_mnist):
        try:
            if isinstance(source, PredictError):
                raise source
            pixels, remarks = predictor.prepare(source)
            batch.append((name, pixels, remarks, None))
        except PredictError as error:
            failed = True
            batch.append((name, None, [], str(error)))
        if len(batch) == batch_size:
            answer()
    answer()
    return 2 if failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name may be no text
    try:
        return run(parse(arguments))
    except PredictError as error:
        say_error(str(error))
        return 2
    except KeyboardInterrupt:
        return 130
    except OutputLost as lost:
        cause = lost.args[0]
        if isinstance(cause, BrokenPipeError):  # `| head` has enough
            return 0
        say_error(f"standard output cannot be written: {getattr(cause, 'strerror', None) or cause}")
        return 1


def command() -> NoReturn:
    """Runs `main` as a program: what is left in a buffer that cannot be written is thrown away without a word."""
    try:
        sys.exit(main())
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                if stream is not None:
                    stream.flush()
            except (OSError, ValueError):
                with contextlib.suppress(OSError, ValueError):
                    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
