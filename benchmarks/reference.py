"""Does this tree still compute what an earlier commit computed? Trains and exports with both, and compares the bits.

Each case is a set of options of distmnist.train. The cases cover every pair of values of any two options in FACTORS,
then draw at random until there are `--cases` of them. The two sides train at the same time, each from its own tree, on
the same digits. Compared are the figures of summary.json and metrics.jsonl, the SHA-256 of the weights,
predictions.npz and, for the cases of one process, the exported graphs and weights, and the figures of parity.json.
Fields that only one side has are listed once and are no difference. Exit code 1: a difference.

Run: python -m benchmarks.reference 8b33e4c --data-dir DIR [--cases 40] [--only CASE]          from a clone
"""

import argparse
import contextlib
import functools
import hashlib
import itertools
import json
import os
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

ROOT = Path(__file__).parents[1]
STEPS, MIDDLE = 40, 23
"""Of a case; where it resumes, it stops first after MIDDLE steps, in mid-epoch."""
LIMIT = 900.0
"""Seconds for one command."""

FACTORS: dict[str, tuple[Any, ...]] = {
    "processes": (1, 2, 3),
    "resume": (False, True),
    "--model": ("mlp", "cnn", "all"),
    "--amp": ("off", "bf16"),
    "--virtual-ranks": (0, 4),
    "--optimizer": ("adam", "adamw", "sgd"),
    "--weight-decay": (0, 0.01),
    "--schedule": ("constant", "cosine", "onecycle"),
    "--grad-clip": (0, 1),
    "--dropout": (0, 0.3),
    "--augment": (0, 1),
    "--label-smoothing": (0, 0.1),
    "--activation": ("relu", "gelu"),
    "--val-fraction": (0, 0.1),
}
Case = dict[str, Any]
Pair = tuple[tuple[str, Any], tuple[str, Any]]

VOLATILE = {"train_seconds", "images_per_second", "seconds", "versions", "made", "date", "commit", "hardware", "load"}
VOLATILE |= {"trained_at"}
VOLATILE |= {"bytes", "sha256", "worst_error", "from_referee", "net_from_referee", "digit", "worst"}
"""Fields that differ between two runs of the same code, or say which code ran. Files carry their makers' versions and
names, and with other work beside it torch rounds an image in one of two ways, by where in memory the batch lies."""


def pairs(case: Case) -> set[Pair]:
    return set(itertools.combinations(case.items(), 2))


def draw(dice: random.Random) -> Case:
    case = {name: dice.choice(values) for name, values in FACTORS.items()}
    if case["processes"] == 3:
        case["--virtual-ranks"] = 0  # which must be shared out evenly
    return case


def choose(count: int) -> list[Case]:
    """At least `count` cases, the same ones every time: of 200 random ones always that with the most new pairs."""
    dice = random.Random(0)
    missing = set().union(*(pairs(draw(dice)) for _ in range(10_000)))
    cases = []
    while missing or len(cases) < count:
        cases.append(max((draw(dice) for _ in range(200)), key=lambda case: len(pairs(case) & missing)))
        missing -= pairs(cases[-1])
    return cases


def run(root: Path, module: list[str], log: Path) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", *module], cwd=root, env=environment, stdout=output, stderr=output
        )


def both(roots: list[Path], folders: list[Path], module: list[str]) -> None:
    """Runs a command on both sides at once; OUTPUT in it stands for the side's folder. Raises SystemExit on failure."""
    sides = list(zip(roots, folders, strict=True))
    processes = [
        run(root, [part.replace("OUTPUT", str(folder)) for part in module], folder.with_suffix(".log"))
        for root, folder in sides
    ]
    try:
        codes = [process.wait(LIMIT) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for (root, folder), code in zip(sides, codes, strict=True):
        if code:
            end = folder.with_suffix(".log").read_text()[-2000:]
            raise SystemExit(f"python -m {' '.join(module)} ended with {code} in {root}:\n{end}")


def carry_out(case: Case, roots: list[Path], folders: list[Path], data: Path) -> None:
    options = [f"{name}={value}" for name, value in case.items() if name.startswith("--")]
    options += [f"--data-dir={data}", "--threads=1", "--output=OUTPUT"]
    command = ["distmnist.train"]
    if case["processes"] > 1:
        elastic = ["--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={case['processes']}"]
        command = ["torch.distributed.run", *elastic, "-m", *command]
    if case["resume"]:
        both(roots, folders, [*command, *options, f"--max-steps={MIDDLE}"])
        options = ["--resume", "--output=OUTPUT"]
    both(roots, folders, [*command, *options, f"--max-steps={STEPS}"])
    if case["processes"] == 1:
        both(roots, folders, ["export", "OUTPUT", f"--data-dir={data}"])


def flatten(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of each number, text or null in parsed JSON, without VOLATILE fields.

    A text that is a JSON object itself, as an ONNX file's metadata are, counts as one.
    """
    if isinstance(value, str) and value.startswith("{"):
        value = json.loads(value)
    if isinstance(value, dict):
        for key, content in value.items():
            if key not in VOLATILE:
                yield from flatten(content, f"{name}.{key}")
    elif isinstance(value, list):
        for number, content in enumerate(value):
            yield from flatten(content, f"{name}[{number}]")
    else:
        yield name, value


def digest(*contents: bytes) -> str:
    return hashlib.sha256(b"".join(contents)).hexdigest()[:16]


def results(run: Path) -> dict[str, Any]:
    """Dotted name -> what a run, and its export if there is one, has computed."""
    found = dict(flatten(json.loads((run / "summary.json").read_text()), "summary"))
    for name in [name for name in found if ".per_class_accuracy[" in name]:
        found[name] = float(np.float32(found[name]))  # the first edition divided in float32
    for path in sorted(run.glob("*/metrics.jsonl")):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        found |= flatten(lines, f"{path.parent.name}.metrics")
    for path in sorted(run.glob("*/predictions.npz")):
        with np.load(path) as arrays:
            found |= {f"{path.parent.name}.predictions.{name}": digest(arrays[name].tobytes()) for name in arrays.files}
    for path in sorted(run.glob("export/*.onnx")):
        onnx_graph = onnx.load(path).graph
        for entry in [*onnx_graph.node, *onnx_graph.initializer, *onnx_graph.value_info]:
            # Where a node comes from in the source, and which exporter wrote it, is no part of what it computes.
            entry.doc_string = ""
            del entry.metadata_props[:]
        found[f"export.{path.name}"] = digest(onnx_graph.SerializeToString(deterministic=True))
    for path in sorted(run.glob("export/*.torchscript.pt")):
        module = torch.jit.load(path)
        graph = module.inlined_graph
        constants = graph.findAllNodes("prim::Constant")  # where freezing has put the weights
        tensors = [node.t("value") for node in constants if node.hasAttribute("value") and node.kindOf("value") == "t"]
        weights = [tensor.numpy().tobytes() for tensor in (*tensors, *module.state_dict().values())]
        # Without the places in the source and the packages of the classes.
        text = re.sub(r" # .*|__torch__(\.\w+)*\.", "", str(graph))
        found[f"export.{path.name}"] = digest(text.encode(), *weights)
    parity = run / "export" / "parity.json"
    return found | (dict(flatten(json.loads(parity.read_text()), "parity")) if parity.exists() else {})


def compare(sides: list[dict[str, Any]]) -> tuple[list[str], set[str]]:
    """Lines on what differs, and the names that only one side has."""
    before, after = sides
    lines = [
        f"{name}: {before[name]} before, {after[name]} now"
        for name in before.keys() & after.keys()
        if before[name] != after[name] and not (before[name] != before[name] and after[name] != after[name])
    ]
    return sorted(lines), set(before.keys() ^ after.keys())


@contextlib.contextmanager
def earlier(commit: str, folder: Path) -> Iterator[Path]:
    """A worktree of `commit` in `folder`. Raises SystemExit where there is no such commit."""
    git = functools.partial(subprocess.run, cwd=ROOT, capture_output=True, text=True)
    added = git(["git", "worktree", "add", "--detach", str(folder), commit])
    if added.returncode:
        raise SystemExit(f"no worktree of {commit}: {added.stderr.strip()}")
    try:
        yield folder
    finally:
        git(["git", "worktree", "remove", "--force", str(folder)])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="the earlier commit")
    parser.add_argument("--data-dir", type=Path, required=True, help="where MNIST is")
    parser.add_argument("--cases", type=int, default=40, help="cases at least (default: 40)")
    parser.add_argument("--only", type=int, metavar="CASE", help="only the case of this number")
    arguments = parser.parse_args()
    different, alone, fields = 0, set(), 0
    cases = list(enumerate(choose(arguments.cases)))
    chosen = cases if arguments.only is None else cases[arguments.only :][:1]
    with tempfile.TemporaryDirectory() as name, earlier(arguments.commit, Path(name) / "tree") as tree:
        for number, case in chosen:
            folders = [Path(name) / f"{number}-{side}" for side in ("before", "now")]
            carry_out(case, [tree, ROOT], folders, arguments.data_dir.resolve())
            sides = [results(folder) for folder in folders]
            lines, only_one = compare(sides)
            alone |= only_one
            fields += len(sides[0].keys() & sides[1].keys())
            different += bool(lines)
            changed = ", ".join(f"{name} {value}" for name, value in case.items() if value != FACTORS[name][0])
            print(f"{'DIFFERENT' if lines else 'the same '} {number}: {changed or 'defaults'}", flush=True)
            for line in lines:
                print(f"    {line}")
    if alone:
        print(f"on one side only: {', '.join(sorted(alone))}")
    print(f"{arguments.commit} and this tree: {len(chosen)} cases, {fields} values compared, {different} cases differ")
    return different > 0


if __name__ == "__main__":
    sys.exit(main())
