"""Weights to start training from: --weights."""

import hashlib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from distmnist.checkpoint.record import InitialWeights
from distmnist.errors import UsageError
from distmnist.text import shown, some

KEYS = ("model", "state_dict", "model_state_dict")
"""Where a file that holds more than a state dict has it: our checkpoints, Lightning's, those of PyTorch's tutorials."""

DDP_PREFIX = "module."
"""What DistributedDataParallel puts before every name."""


def load_weights(model: nn.Module, path: Path, num_classes: int) -> InitialWeights:
    """Gives the model the parameters and buffers in a file: safetensors, or a state dict as torch.save writes it, alone
    or in a checkpoint. No code in the file is run.

    Names and shapes must fit. A last layer for another number of classes, if it is the only layer that does not fit,
    keeps the weights that it has.

    Raises UsageError, one line: no such file, a file of another kind, a name or a shape that does not fit.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"--weights {shown(path)} cannot be read: {error.strerror}") from error
    state = state_dict(content, path)
    last = layer_of_other_classes(model, state, num_classes)
    fitting = {name: tensor for name, tensor in state.items() if name not in last}
    check_names_and_shapes(model, fitting, last, path)
    with torch.no_grad():
        model.load_state_dict(fitting, strict=False)
    if broken := [name for name, value in model.named_parameters() if not bool(value.isfinite().all())]:
        raise UsageError(f"--weights {shown(path)}: {broken[0]} is not finite; choose another file")
    return InitialWeights(sha256=hashlib.sha256(content).hexdigest(), reinitialized=last)


def state_dict(content: bytes, path: Path) -> dict[str, Tensor]:
    """The state dict in a file's content, which is read as what it is, whatever the file is called."""
    try:
        if content[8:9] == b"{":  # after the length of its header: no file of torch.save has that there
            found: object = load_safetensors(content)
        else:
            found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise UsageError(f"--weights {shown(path)} is no whole safetensors file: {shown(str(error))}") from error
    except Exception as error:  # a hostile pickle can have the unpickler raise anything
        raise UsageError(
            f"--weights {shown(path)} is neither safetensors nor a state dict that can be read without running code"
            " from it; save one with torch.save(model.state_dict(), FILE)"
        ) from error
    for candidate in candidates(found):
        tensors = {
            name: value for name, value in candidate.items() if isinstance(name, str) and isinstance(value, Tensor)
        }
        if candidate and len(tensors) == len(candidate):
            return without_prefix(tensors)
    raise UsageError(
        f"--weights {shown(path)} holds no state dict, alone or as one of {', '.join(KEYS)}; save one with"
        " torch.save(model.state_dict(), FILE)"
    )


def candidates(found: object) -> Iterator[Mapping[object, object]]:
    if isinstance(found, Mapping):
        yield found
        for key in KEYS:
            if isinstance(inner := found.get(key), Mapping):
                yield inner


def without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    if all(name.startswith(DDP_PREFIX) for name in state):
        return {name.removeprefix(DDP_PREFIX): tensor for name, tensor in state.items()}
    return state


def layer_of_other_classes(model: nn.Module, state: Mapping[str, Tensor], num_classes: int) -> tuple[str, ...]:
    """The parameters of the one layer that differs in the number of classes alone; () if there is no such layer."""
    different = [
        (name, value.shape, state[name].shape)
        for name, value in model.named_parameters()
        if name in state and state[name].shape != value.shape
    ]
    layers = {name.rpartition(".")[0] for name, _, _ in different}
    of_classes = all(
        mine and theirs and mine[0] == num_classes != theirs[0] and mine[1:] == theirs[1:]
        for _, mine, theirs in different
    )
    return tuple(name for name, _, _ in different) if len(layers) == 1 and of_classes else ()


def check_names_and_shapes(model: nn.Module, state: Mapping[str, Tensor], last: tuple[str, ...], path: Path) -> None:
    """Raises UsageError unless the state dict has the model's parameters and buffers; `last`: those that it need not.

    Counters of batch norms may be missing: older files have none.
    """
    own = {name: value.shape for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    needed = [name for name in own if name not in last and not name.endswith("num_batches_tracked")]
    if missing := [name for name in needed if name not in state]:
        raise UsageError(f"--weights {shown(path)} is of another model: it has no {some(missing)}")
    if unknown := [name for name in state if name not in own]:
        raise UsageError(f"--weights {shown(path)} is of another model: this one has no {some(unknown)}")
    for name, tensor in state.items():
        if tensor.shape != own[name]:
            raise UsageError(
                f"--weights {shown(path)} is of another model: {name} has the shape {list(tensor.shape)}, and in this"
                f" one {list(own[name])}"
            )
