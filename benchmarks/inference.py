"""How fast exported nets answer on the CPU, against eager PyTorch, TorchScript and OpenVINO, and that all agree.

    python benchmarks/inference.py runs/x [--seconds 2] [--threads N]      from a clone, with the extra [bench]

runs/x is a trained run that has been exported. All contenders take turns in one process, round after round, so that
whatever else the machine does hits them alike. Every answer is compared with eager PyTorch's. predict.py is timed as a
new process, from its start to its answer.
"""

import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from distmnist.checkpoint import source
from distmnist.data.known import load_sample
from distmnist.machine import usable_cores
from export.formats import torchscript
from export.predict import session_options

Answer = Callable[[], np.ndarray]

BOUND = 1e-4
"""Of the exporter's own proof, in logits."""


def contenders(run: Path, net: source.Trained, images: torch.Tensor, threads: int) -> dict[str, Answer]:
    """name -> a function that answers `images`, float32 [n, 1, 28, 28], with logits [n, 10]."""
    exported = run / "export"
    content = (exported / f"{net.name}.onnx").read_bytes()
    script = torchscript.load((exported / f"{net.name}.torchscript.pt").read_bytes())
    array = images.numpy()
    found: dict[str, Answer] = {
        "eager": lambda: net.net(images).numpy(),
        "TorchScript": lambda: script(images).numpy(),
    }
    for count in sorted({1, threads}):
        session = onnxruntime.InferenceSession(content, session_options(count), providers=["CPUExecutionProvider"])
        name = f"ONNX Runtime, {count} thread{'s' if count > 1 else ''}"
        found[name] = lambda session=session: session.run(None, {"input": array})[0]
    return found | openvino_contender(exported / f"{net.name}.onnx", array, threads)


def openvino_contender(path: Path, array: np.ndarray, threads: int) -> dict[str, Answer]:
    """OpenVINO in float32 (it would use bfloat16 by itself where the CPU has it), told to answer soon."""
    try:
        import openvino
    except ImportError:
        print("OpenVINO is not installed: left out (pip install distmnist[bench])", file=sys.stderr)
        return {}
    options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    request = openvino.Core().compile_model(str(path), "CPU", options).create_infer_request()
    return {"OpenVINO, fp32": lambda: request.infer([array])[0]}


def measure(found: dict[str, Answer], seconds: float) -> dict[str, list[float]]:
    """name -> seconds of each call. Rounds of short bursts in turn, the first two of each burst thrown away."""
    times: dict[str, list[float]] = {name: [] for name in found}
    end = time.perf_counter() + seconds * len(found)
    while time.perf_counter() < end:
        for name, answer in found.items():
            burst = time.perf_counter() + 0.05
            answer(), answer()
            while time.perf_counter() < burst or not times[name]:
                began = time.perf_counter()
                answer()
                times[name].append(time.perf_counter() - began)
    return times


def first_answer(exported: Path, model: str, rounds: int = 5) -> float:
    """Seconds from the start of a new process to the end of its answer about one image, in the median."""
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "digit.png"
        Image.fromarray(load_sample().test.images[0, 0].numpy()).save(image)
        for _ in range(rounds):
            began = time.perf_counter()
            command = [sys.executable, exported / "predict.py", exported / f"{model}.pixels.onnx", image]
            subprocess.run(command, check=True, capture_output=True)
            seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


@torch.inference_mode()
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a trained and exported run")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each contender and batch (default: 2)")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="default: the usable cores")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(
        f"torch {torch.__version__}, ONNX Runtime {onnxruntime.__version__}, Python {platform.python_version()},"
        f" {given.threads} threads, {platform.machine()}"
    )
    agree = True
    for net in source.load(given.run)[0]:
        seconds = first_answer(given.run / "export", net.name)
        print(f"\n{net.name}, predict.py in a new process: {seconds:.2f} s")
        for batch in (1, 256):
            images = load_sample().test.batch(torch.arange(batch))[0]
            found = contenders(given.run, net, images, given.threads)
            expected = found["eager"]()
            print(f"\n{net.name}, batch {batch:<4} {'p50':>25} {'p99':>10} {'images/s':>10} {'from eager':>11}")
            for name, times in measure(found, given.seconds).items():
                middle, slow = statistics.median(times), float(np.percentile(times, 99))
                error = float(np.abs(found[name]() - expected).max())
                agree &= error <= BOUND
                print(f"{name:24} {1e6 * middle:13,.0f} us {1e6 * slow:7,.0f} us {batch / middle:10,.0f} {error:11.1e}")
    if not agree:
        print(f"distmnist: some logits differ by more than {BOUND}", file=sys.stderr)
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
