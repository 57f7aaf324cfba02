"""The optimizer, and the learning rate as a pure function of the number of updates."""

import abc
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from distmnist.config import Config

WARM_UP = 0.2
"""Share of the updates over which onecycle climbs from a tenth of the peak to the peak."""


class Optimizer(abc.ABC):
    """What torch.optim's class of the same name does with fused=True, by its kernel alone: the same bits.

    Around the kernel those classes add twice its time for a small net, and they import torch._dynamo when the first
    object is made, which takes a second and 150 MB. The kernels' names are private to torch: a test holds each against
    its class. `lr` may be set before any update.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, **options: Any) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.lr, self.options = lr, options
        self.state: dict[str, list[Tensor]] = {}

    @abc.abstractmethod
    def step(self) -> bool:
        """Updates the parameters from their gradients. Returns True, which GradScaler hands on unless it skips."""

    def _gradients(self) -> list[Tensor]:
        return [parameter.grad for parameter in self.parameters]

    def _zeros(self) -> list[Tensor]:
        return [torch.zeros_like(parameter) for parameter in self.parameters]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """torch.optim's, a single one: torch's GradScaler reads the parameters here."""
        return [{"params": self.parameters, "lr": self.lr, "fused": True, **self.options}]

    def state_dict(self) -> dict[str, Any]:
        """In torch.optim's format: its class can go on from here, and this one from there. Tensors are on the CPU."""
        numbers, (group,) = range(len(self.parameters)), self.param_groups
        state = {number: {name: tensors[number].cpu() for name, tensors in self.state.items()} for number in numbers}
        return {"state": state, "param_groups": [{**group, "params": list(numbers)}]}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.lr = saved["param_groups"][0]["lr"]
        for number, state in saved["state"].items():
            for name, tensors in self.state.items():
                tensors[number].copy_(state[name])


class Adam(Optimizer):
    """With torch's defaults for betas and eps."""

    kernel = staticmethod(torch._fused_adam_)

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0) -> None:
        betas, common = (0.9, 0.999), {"eps": 1e-8, "weight_decay": weight_decay, "amsgrad": False, "maximize": False}
        super().__init__(parameters, lr, betas=betas, **common)
        self.constants = {"beta1": betas[0], "beta2": betas[1], **common}
        self.averages, self.squares = self._zeros(), self._zeros()
        self.updates = torch.zeros(len(self.parameters), device=self.parameters[0].device)
        self.steps = list(self.updates.unbind())  # of each parameter: the kernel's idea of a count
        self.state = {"step": self.steps, "exp_avg": self.averages, "exp_avg_sq": self.squares}

    @torch.no_grad()
    def step(self) -> bool:
        self.updates += 1
        tensors = self.parameters, self._gradients(), self.averages, self.squares, [], self.steps
        self.kernel(*tensors, lr=self.lr, **self.constants)
        return True


class AdamW(Adam):
    """Adam whose weight decay is decoupled from the gradient."""

    kernel = staticmethod(torch._fused_adamw_)


class SGD(Optimizer):
    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.0, weight_decay: float = 0.0
    ) -> None:
        plain = {"dampening": 0.0, "nesterov": False, "maximize": False}
        super().__init__(parameters, lr, momentum=momentum, weight_decay=weight_decay, **plain)
        self.momenta = self._zeros() if momentum else []
        self.state = {"momentum_buffer": self.momenta} if momentum else {}

    @torch.no_grad()
    def step(self) -> bool:
        tensors = self.parameters, self._gradients(), self.momenta
        torch._fused_sgd_(*tensors, lr=self.lr, is_first_step=False, **self.options)
        return True


def build_optimizer(parameters: Iterable[nn.Parameter], config: Config) -> Optimizer:
    match config.optimizer:
        case "adam":
            return Adam(parameters, config.lr, config.weight_decay)
        case "adamw":
            return AdamW(parameters, config.lr, config.weight_decay)
        case "sgd":
            return SGD(parameters, config.lr, config.momentum, config.weight_decay)
    raise AssertionError(config.optimizer)


def learning_rate(config: Config, update: int, total: int) -> float:
    """The rate of update number `update`, from 0, of a run of `total` updates."""
    match config.schedule:
        case "constant":
            return config.lr
        case "cosine":
            return config.lr * cosine(update / total)
        case "onecycle":
            warm_up = WARM_UP * total
            if update < warm_up:
                return config.lr * (0.1 + 0.9 * update / warm_up)
            return config.lr * cosine((update - warm_up) / (total - warm_up))
    raise AssertionError(config.schedule)


def cosine(progress: float) -> float:
    """From 1 at progress 0 to 0 at progress 1, and 0 beyond it."""
    return (1 + math.cos(math.pi * min(progress, 1.0))) / 2
