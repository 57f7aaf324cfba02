"""The gate: an exported file passes only if it decides as the trained net does, on every test digit and on probes.

The bounds. With u = 2^-24, a sum of K products in float32 differs from the exact one by about sqrt(K) u times its
size: rounding errors are independent and of both signs (Higham and Mary, 2019, theorem 2.4; the worst case, K u times
the sum of absolute values, is never met by a net of this depth, and no test could fail it). The errors of the layers
add up, and weights of a trained net neither cancel nor blow up the signal much, so two evaluations that add in
different orders differ in a logit by about

    error = u M (sqrt(K_1) + ... + sqrt(K_L))        M: the largest magnitude that goes in or comes out

For the mlp the sum is 28 + 11 + 8 = 47, for the cnn 3 + 17 + 56 + 11 + 8 = 95. On the test digits M is about 24 and
20: 7e-5 and 1.1e-4. Hence 1e-4 on digits, in absolute terms. The error is proportional to M, so on probes, which may
be thousands of times larger, the bound is 1e-4 M / M_DIGITS, and never below 1e-4.

Probabilities: a row of softmax's Jacobian has absolute values that add up to 2 p (1 - p), at most 1/2. So half the
bound of the logits, and 16 u for the exponentials, their sum and the division.

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

from .predict import session_options
from .record import Measured, Run, Unmeasured
from .reference import Case

BOUND = 1e-4
M_DIGITS = 20.0
BATCHES = (1, 2, 7, 64, 256, 1024)
LEVELS = {
    "off": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}

Outputs = dict[str, np.ndarray]
Runner = Callable[[Case, slice], Outputs]
"""A reloaded file: answers a slice of a case, by output name."""


def bound(case: Case, output: str = "logits") -> float:
    """The largest absolute error that is allowed."""
    logits = BOUND if case.is_digits else BOUND * max(1.0, case.magnitude / M_DIGITS)
    return logits if output == "logits" else logits / 2 + 16 * 2**-24


def session(content: bytes, level: str) -> onnxruntime.InferenceSession:
    """One thread: the gate runs several sessions side by side. Raises ONNX Runtime's own exceptions."""
    options = session_options(threads=1)
    options.graph_optimization_level = LEVELS[level]
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def onnx_runner(loaded: onnxruntime.InferenceSession, kind: str) -> Runner:
    names = [end.name for end in loaded.get_outputs()]

    def run(case: Case, rows: slice) -> Outputs:
        whole = case.pixels if kind == "pixels" else case.images
        assert whole is not None, "cases that are no pixels are left out"
        feed = {"pixels" if kind == "pixels" else "input": whole[rows]}
        return dict(zip(names, loaded.run(names, feed), strict=True))

    return run


def torchscript_runner(module: torch.jit.ScriptModule) -> Runner:
    @torch.no_grad()
    def run(case: Case, rows: slice) -> Outputs:
        return {"logits": module(torch.from_numpy(case.images[rows])).numpy()}

    return run


def compare_runs(kind: str, runners: dict[str, Runner], cases: list[Case]) -> list[Run]:
    """Asks a file at each level (`runners`), in each batch size, about each case.

    kind: "logits" or "pixels"; cases that are no pixels are left out for the latter.
    """
    suited = [case for case in cases if kind == "logits" or case.pixels is not None]
    plan = list(itertools.product(runners, BATCHES, suited))

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
    count = len(case.images)
    parts = [run(case, slice(start, start + batch)) for start in range(0, count, batch)]
    for start, part in zip(range(0, count, batch), parts, strict=True):
        expected = min(batch, count - start)
        for name, values in part.items():
            if len(values) != expected:
                raise ValueError(f"{name} has {len(values)} rows for {expected} images")
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def measure(case: Case, outputs: Outputs) -> Measured | Unmeasured:
    """Holds outputs against the net."""
    count = len(case.images)
    if set(outputs) == {"logits"}:
        name, got, mine, referee = "logits", outputs["logits"], case.logits, case.referee
        labels = got.argmax(1) if got.ndim == 2 else None
    elif set(outputs) == {"probabilities", "label"}:
        name, got = "probabilities", outputs["probabilities"]
        mine, referee, labels = softmax(case.logits), softmax(case.referee), outputs["label"]
        if labels.dtype != np.int64 or labels.shape != (count,):
            return Unmeasured(f"label is {labels.dtype} {list(labels.shape)}, not int64 [{count}]")
    else:
        return Unmeasured(f"outputs are {', '.join(sorted(outputs))}")
    if got.dtype != np.float32 or got.shape != (count, 10):
        return Unmeasured(f"{name} is {got.dtype} {list(got.shape)}, not float32 [{count}, 10]")
    if not np.isfinite(got).all():
        return Unmeasured(f"{name} is not finite for digit {int(np.argmin(np.isfinite(got).all(1)))}")

    limit = bound(case, name)
    errors = np.abs(got.astype(np.float64) - mine).max(1)
    flipped = np.flatnonzero(labels != case.labels)
    excused = [int(index) for index in flipped if case.margins[index] < bound(case)]
    worst, failure = int(errors.argmax()), None
    if errors[worst] > limit:
        failure = f"{name} of digit {worst} off by {errors[worst]:.2g}, bound {limit:.2g}"
    elif len(flipped) > len(excused):
        first = next(int(index) for index in flipped if int(index) not in excused)
        failure = f"{len(flipped) - len(excused)} labels differ, digit {first} first"
    return Measured(
        worst_error=float(errors[worst]),
        digit=worst,
        bound=limit,
        from_referee=float(np.abs(got - referee).max()),
        net_from_referee=float(np.abs(mine - referee).max()),
        labels_agree=count - len(flipped),
        excused=excused,
        count=count,
        failure=failure,
    )


def softmax(logits: np.ndarray) -> np.ndarray:
    """[n, 10] -> the same shape and dtype."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)
