"""Keeps parts of a model as they are: --freeze."""

from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase

from torch import nn

from distmnist.errors import UsageError


def freeze(model: nn.Module, patterns: str) -> tuple[str, ...]:
    """Takes the gradient from the parameters that a pattern names, by themselves or with a module that they lie in.

    patterns: separated by commas; shell's wildcards, so that `layer*` names layer1 and layer1.0.conv1.weight as well.
    Returns the names of the modules that `set_training` is to keep in evaluation mode: they have buffers, running
    statistics say, and are named themselves, or all of their own parameters are.

    Raises UsageError for a pattern that names nothing, and if nothing is left to train.
    """
    wanted = [pattern.strip() for pattern in patterns.split(",")]
    names = [*dict(model.named_parameters()), *(name for name, _ in model.named_modules() if name)]
    for pattern in wanted:
        if not any(fnmatchcase(name, pattern) for name in names):
            top = ", ".join(name for name, _ in model.named_children())
            raise UsageError(f"--freeze {pattern!r} matches no layer and no parameter; the model's layers are: {top}")

    def is_named(name: str) -> bool:
        return any(fnmatchcase(part, pattern) for part in with_parents(name) for pattern in wanted)

    for name, parameter in model.named_parameters():
        if is_named(name):
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UsageError(f"--freeze {patterns!r} leaves nothing to train; name fewer layers")
    return tuple(
        name
        for name, module in model.named_modules()
        if any(True for _ in module.buffers(recurse=False)) and (is_named(name) or has_frozen_parameters(module))
    )


def has_frozen_parameters(module: nn.Module) -> bool:
    """Whether it has parameters of its own, and none is trained."""
    own = list(module.parameters(recurse=False))
    return bool(own) and not any(parameter.requires_grad for parameter in own)


def with_parents(name: str) -> Iterator[str]:
    """a.b.c -> a.b.c, a.b, a"""
    while name:
        yield name
        name = name.rpartition(".")[0]


def set_training(model: nn.Module, in_eval: Collection[str] = ()) -> None:
    """Training mode, but for the modules named: they neither use nor change statistics of the batch."""
    model.train()
    for name in in_eval:
        model.get_submodule(name).eval()
