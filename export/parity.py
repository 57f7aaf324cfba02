"""Runs exported files, and holds their answers against the trained model's: see bounds.py for how near they must be.

A label may differ only where the float64 referee itself cannot tell: its top two logits are closer than the bound.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime
import torch

from distmnist.machine import usable_cores

from . import bounds
from .predict import session_options
from .record import Measured, Run, Unmeasured
from .reference import Case

BATCHES = (1, 2, 7, 64, 256, 1024)
BATCH, FEW = 64, 65
"""In what batches a larger model is asked about all images, and about how many otherwise: one more than a batch."""
LEVELS = {
    "off": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}

Outputs = dict[str, np.ndarray]
Runner = Callable[[Case, slice], Outputs]
"""A reloaded file: answers a slice of a case, by output name."""


def session(content: bytes, level: str) -> onnxruntime.InferenceSession:
    """One thread: the gate runs several sessions side by side. Raises ONNX Runtime's own exceptions."""
    options = session_options(threads=1)
    options.graph_optimization_level = LEVELS[level]
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def onnx_runner(loaded: onnxruntime.InferenceSession, kind: str) -> Runner:
    names = [end.name for end in loaded.get_outputs()]

    def run(case: Case, rows: slice) -> Outputs:
        feed = {"pixels": case.pixels(rows)} if kind == "pixels" else {"input": case.images(rows)}
        return dict(zip(names, loaded.run(names, feed), strict=True))

    return run


def torchscript_runner(module: torch.jit.ScriptModule) -> Runner:
    @torch.no_grad()
    def run(case: Case, rows: slice) -> Outputs:
        return {"logits": module(torch.from_numpy(case.images(rows))).numpy()}

    return run


def compare_runs(kind: str, runners: dict[str, Runner], cases: list[Case], thorough: bool) -> list[Run]:
    """Asks a file at each level (`runners`), in each batch size, about each case.

    kind: "logits" or "pixels"; cases that are no pixels are left out for the latter. thorough: about all images each
    time; or else about all of them once, at the last level in batches of `BATCH`, and about the first `FEW` otherwise.
    """
    suited = [case for case in cases if kind == "logits" or case.is_pixels]
    plan = list(itertools.product(runners, BATCHES, suited))
    if not thorough:
        usual = list(runners)[-1], BATCH
        plan = [(level, batch, case if (level, batch) == usual else case.first(FEW)) for level, batch, case in plan]

    def one(job: tuple[str, int, Case]) -> Run:
        level, batch, case = job
        try:
            found: Measured | Unmeasured = measure(case, answers(runners[level], case, batch))
        except Exception as error:  # whatever the runtime raises is the file's failure, not the gate's
            found = Unmeasured(f"{type(error).__name__}: {str(error).strip()[:200]}")
        return Run(case=case.name, level=level, batch=batch, measured=found)

    with one_torch_thread(), ThreadPoolExecutor(usable_cores()) as pool:
        return list(pool.map(one, plan))


def failures(runs: list[Run]) -> list[str]:
    return [
        f"{run.case}, level {run.level}, batch {run.batch}: {run.measured.failure}"
        for run in runs
        if run.measured.failure
    ]


@contextlib.contextmanager
def one_torch_thread() -> Iterator[None]:
    """torch's threads inside the gate's own would fight over the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def answers(run: Runner, case: Case, batch: int) -> Outputs:
    """The outputs for the whole case, in batches; each batch's shapes are checked by putting them together."""
    count = len(case)
    parts = [run(case, slice(start, start + batch)) for start in range(0, count, batch)]
    for start, part in zip(range(0, count, batch), parts, strict=True):
        expected = min(batch, count - start)
        for name, values in part.items():
            if len(values) != expected:
                raise ValueError(f"{name} has {len(values)} rows for {expected} images")
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def measure(case: Case, outputs: Outputs) -> Measured | Unmeasured:
    """Holds outputs against the model."""
    count, classes = case.logits.shape
    if set(outputs) == {"logits"}:
        name, got, mine, referee = "logits", outputs["logits"], case.logits, case.referee
        labels, limit = got.argmax(1) if got.ndim == 2 else None, case.bound
    elif set(outputs) == {"probabilities", "label"}:
        name, got, limit = "probabilities", outputs["probabilities"], bounds.of_probabilities(case.bound)
        mine, referee, labels = softmax(case.logits), softmax(case.referee), outputs["label"]
        if labels.dtype != np.int64 or labels.shape != (count,):
            return Unmeasured(f"label is {labels.dtype} {list(labels.shape)}, not int64 [{count}]")
    else:
        return Unmeasured(f"outputs are {', '.join(sorted(outputs))}")
    if got.dtype != np.float32 or got.shape != (count, classes):
        return Unmeasured(f"{name} is {got.dtype} {list(got.shape)}, not float32 [{count}, {classes}]")
    if not np.isfinite(got).all():
        return Unmeasured(f"{name} is not finite for {case.noun} {int(np.argmin(np.isfinite(got).all(1)))}")

    errors = np.abs(got.astype(np.float64) - mine).max(1)
    flipped = np.flatnonzero(labels != case.labels)
    excused = [int(index) for index in flipped if case.undecided(int(index))]
    worst, failure = int(errors.argmax()), None
    if errors[worst] > limit:
        failure = f"{name} of {case.noun} {worst} off by {errors[worst]:.2g}, bound {limit:.2g}"
    elif len(flipped) > len(excused):
        first = next(int(index) for index in flipped if int(index) not in excused)
        failure = f"{len(flipped) - len(excused)} labels differ, {case.noun} {first} first"
    rows = case.rows
    return Measured(
        worst_error=float(errors[worst]),
        digit=worst,
        bound=limit,
        from_referee=float(np.abs(got[rows] - referee).max(initial=0.0)),
        net_from_referee=float(np.abs(mine[rows] - referee).max(initial=0.0)),
        labels_agree=count - len(flipped),
        excused=excused,
        count=count,
        failure=failure,
    )


def softmax(logits: np.ndarray) -> np.ndarray:
    """[n, classes] -> the same shape and dtype."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)
