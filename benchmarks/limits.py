"""What the machine could do at best, the peak of a matrix product; and what is asked of it, FLOPs a training image."""

import time

import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from distmnist.machine import has_native_bf16
from distmnist.models.build import build_model

SIZE = 2048
REPEATS = 5


def gemm_peaks() -> dict[str, float]:
    """dtype -> FLOP/s of the best of `REPEATS` products of two square matrices of `SIZE`, on all usable cores.

    bf16 only where it is native: an emulated product takes a minute.
    """
    dtypes = {"off": torch.float32} | ({"bf16": torch.bfloat16} if has_native_bf16() else {})
    return {name: gemm_peak(dtype) for name, dtype in dtypes.items()}


def gemm_peak(dtype: torch.dtype) -> float:
    left, right = (torch.randn(SIZE, SIZE).to(dtype) for _ in range(2))
    out = torch.empty(SIZE, SIZE, dtype=dtype)
    torch.mm(left, right, out=out)
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        torch.mm(left, right, out=out)
        times.append(time.perf_counter() - began)
    return 2 * SIZE**3 / min(times)


def training_flops(net: str) -> int:
    """Of the matrix products and convolutions, forward and backward, that one training image takes.

    Counted by torch as they are called: the gradient with respect to the image is not computed, and so not counted.
    """
    model = build_model(net)
    with FlopCounterMode(display=False) as counter:
        functional.cross_entropy(model(torch.zeros(1, 1, 28, 28)), torch.zeros(1, dtype=torch.int64)).backward()
    return counter.get_total_flops()
