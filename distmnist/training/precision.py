"""Automatic mixed precision: the only place that casts, scales, unscales and clips."""

import contextlib
from typing import cast

import torch
from torch import Tensor, nn

from distmnist.machine import has_native_bf16
from distmnist.training.optimizer import Optimizer

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose_amp(requested: str, device: torch.device) -> tuple[str, str]:
    """`--amp` and the device -> ("off", "bf16" or "fp16", and the reason in words)."""
    if requested != "auto":
        return requested, "as asked"
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16", "native on this GPU"
        return "fp16", "with gradient scaling: this GPU has no native bf16"
    if has_native_bf16():
        return "bf16", "native on this CPU"
    return "off", "this CPU has no native bf16"


class Precision:
    """One net's casts and updates. amp: "off", "bf16" or "fp16"; grad_clip: the largest L2 norm, 0 for any."""

    def __init__(self, amp: str, device: torch.device, grad_clip: float = 0.0) -> None:
        self.device = device
        self.dtype = DTYPES.get(amp)
        self.grad_clip = grad_clip
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp == "fp16")
        self.last_scale = self.scaler.get_scale()

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def scale(self, weight: Tensor) -> Tensor:
        """What to multiply a loss by instead of `weight`: small fp16 gradients would otherwise become 0."""
        return self.scaler.scale(weight)

    def step(self, optimizer: Optimizer, parameters: list[nn.Parameter]) -> bool:
        """Updates the parameters. Returns False if the scaler skipped it because a gradient was not finite.

        Only a lower scale tells: with a fused optimizer of torch.optim, `GradScaler.step` returns None either way. To
        read the scale the host waits for the device; without fp16 nothing is waited for.
        """
        stepped = cast(torch.optim.Optimizer, optimizer)  # GradScaler asks no more of it than `Optimizer` has
        if self.grad_clip:
            self.scaler.unscale_(stepped)
            nn.utils.clip_grad_norm_(parameters, self.grad_clip)
        self.scaler.step(stepped)
        self.scaler.update()
        before, self.last_scale = self.last_scale, self.scaler.get_scale()
        return self.last_scale >= before

    def state_dict(self) -> dict[str, object]:
        return self.scaler.state_dict()

    def load_state_dict(self, state: dict[str, object]) -> None:
        self.scaler.load_state_dict(state)
        self.last_scale = self.scaler.get_scale()
