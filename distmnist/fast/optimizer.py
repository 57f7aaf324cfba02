"""Optimizers by the fused kernels of torch.optim alone: the same bits."""

import abc
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from distmnist.config import TrainConfig
from distmnist.training.gradients import gradient_of


class FusedOptimizer(abc.ABC):
    """What torch.optim's class of the same name does with fused=True, by its kernel alone: the same bits.

    Around the kernel those classes add twice its time for a small net, and they import torch._dynamo when the first
    object is made, which takes a second and 150 MB. The kernels' names are private to torch: a test holds each against
    its class.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, **options: Any) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.options = options
        self.param_groups = [{"params": self.parameters, "lr": lr, "fused": True, **options}]
        """torch.optim's, a single one: torch's GradScaler reads the parameters here."""
        self.state: dict[str, list[Tensor]] = {}

    @property
    def lr(self) -> float:
        return self.param_groups[0]["lr"]

    @abc.abstractmethod
    def step(self) -> None:
        """Updates the parameters from their gradients."""

    def _gradients(self) -> list[Tensor]:
        return [gradient_of(parameter) for parameter in self.parameters]

    def _zeros(self) -> list[Tensor]:
        return [torch.zeros_like(parameter) for parameter in self.parameters]

    def state_dict(self) -> dict[str, Any]:
        """In torch.optim's format: either class resumes from the other's state."""
        numbers, (group,) = range(len(self.parameters)), self.param_groups
        state = {number: {name: tensors[number] for name, tensors in self.state.items()} for number in numbers}
        return {"state": state, "param_groups": [{**group, "params": list(numbers)}]}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.param_groups[0]["lr"] = saved["param_groups"][0]["lr"]
        for number, state in saved["state"].items():
            for name, tensors in self.state.items():
                tensors[number].copy_(state[name])


class FusedAdam(FusedOptimizer):
    """With torch's defaults for betas and eps."""

    kernel: Callable[..., object] = staticmethod(torch._fused_adam_)

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0) -> None:
        betas, common = (0.9, 0.999), {"eps": 1e-8, "weight_decay": weight_decay, "amsgrad": False, "maximize": False}
        super().__init__(parameters, lr, betas=betas, **common)
        self.constants = {"beta1": betas[0], "beta2": betas[1], **common}
        self.averages, self.squares = self._zeros(), self._zeros()
        self.updates = torch.zeros(len(self.parameters), device=self.parameters[0].device)
        self.steps = list(self.updates.unbind())  # of each parameter: the kernel's idea of a count
        self.state = {"step": self.steps, "exp_avg": self.averages, "exp_avg_sq": self.squares}

    @torch.no_grad()
    def step(self) -> None:
        self.updates += 1
        tensors: Any = self.parameters, self._gradients(), self.averages, self.squares, [], self.steps
        self.kernel(*tensors, lr=self.lr, **self.constants)


class FusedAdamW(FusedAdam):
    """Adam whose weight decay is decoupled from the gradient."""

    kernel = staticmethod(torch._fused_adamw_)


class FusedSGD(FusedOptimizer):
    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.0, weight_decay: float = 0.0
    ) -> None:
        plain = {"dampening": 0.0, "nesterov": False, "maximize": False}
        super().__init__(parameters, lr, momentum=momentum, weight_decay=weight_decay, **plain)
        self.momenta = self._zeros() if momentum else []
        self.state = {"momentum_buffer": self.momenta} if momentum else {}

    @torch.no_grad()
    def step(self) -> None:
        tensors: Any = self.parameters, self._gradients(), self.momenta
        torch._fused_sgd_(*tensors, lr=self.lr, is_first_step=False, **self.options)


def build_fused_optimizer(parameters: Iterable[nn.Parameter], config: TrainConfig) -> FusedOptimizer:
    match config.optimizer:
        case "adam":
            return FusedAdam(parameters, config.lr, config.weight_decay)
        case "adamw":
            return FusedAdamW(parameters, config.lr, config.weight_decay)
        case "sgd":
            return FusedSGD(parameters, config.lr, config.momentum, config.weight_decay)
    raise AssertionError(config.optimizer)
