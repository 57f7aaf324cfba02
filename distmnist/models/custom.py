"""A model of the user's own: imported by its name, given its arguments, and tried before it is trained."""

import copy
import inspect
import re
from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from distmnist.arguments import parse_arguments
from distmnist.errors import UsageError
from distmnist.importing import import_callable, told
from distmnist.models.freezing import set_training
from distmnist.seeds import generator

PASSED = ("num_classes", "in_chans", "image_size", "activation", "dropout")
"""What a callable is passed if its signature names it; with **kwargs, `num_classes` in any case."""

IMAGES = 2
"""Images of a trial: a batch norm needs two values per channel, and its layer may see one pixel of an image."""

CHANNELS = re.compile(r"expected input\[.*\] to have (\d+) channels, but got (\d+) channels")
"""How torch refuses the input of a convolution."""


def build_custom(name: str, known: Mapping[str, object], model_args: str | None) -> nn.Module:
    """What the callable `name` makes of the arguments; known: a value for each of `PASSED`.

    Raises UsageError, one line: what `arguments_of` refuses; what the callable raises; no nn.Module with parameters.
    """
    build = import_callable("--model", name, "callable")
    arguments = arguments_of(name, build, known, model_args)
    try:
        model = build(**arguments)
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"--model {name} raised {told(error)}; it was called with"
            f" {', '.join(f'{key}={value!r}' for key, value in arguments.items()) or 'no arguments'}: correct it, or"
            " choose others with --model-args"
        ) from error
    if not isinstance(model, nn.Module):
        raise UsageError(f"--model {name} made an object of type {type(model).__name__}; return a torch.nn.Module")
    parameters = list(model.parameters())
    if not parameters:
        raise UsageError(f"--model {name} has no parameters: there is nothing to train")
    if any(isinstance(parameter, nn.parameter.UninitializedParameter) for parameter in parameters):
        raise UsageError(f"--model {name} has lazy layers, whose shapes are not known yet; give them their sizes")
    return model.cpu()


def check_custom(name: str, model_args: str | None) -> None:
    """Imports the callable `name` and compares its signature with the arguments that it will get.

    Raises UsageError; see `arguments_of`.
    """
    arguments_of(name, import_callable("--model", name, "callable"), dict.fromkeys(PASSED), model_args)


def arguments_of(
    name: str, build: Callable[..., object], known: Mapping[str, object], model_args: str | None
) -> dict[str, object]:
    """The arguments for the callable: those of `known` that it takes, under those of --model-args.

    Raises UsageError for arguments that it does not know, and if it needs more.
    """
    given = parse_arguments("--model-args", model_args) if model_args is not None else {}
    parameters = parameters_of(name, build)
    named, takes_any = names_in(parameters), takes_any_name(parameters)
    if not takes_any and (unknown := [key for key in given if key not in named]):
        raise UsageError(
            f"--model-args {unknown[0]}: --model {name} has no such argument; it takes {', '.join(named) or 'none'}"
        )
    passed = {*named, *(["num_classes"] if takes_any else [])}
    arguments = {key: value for key, value in known.items() if key in passed} | given
    try:
        inspect.signature(build).bind(**arguments)
    except TypeError as error:
        raise UsageError(f"--model {name}: {error}; give it with --model-args NAME=VALUE,...") from error
    return arguments


def ignores(name: str, option: str, model_args: str | None) -> bool:
    """Whether `option`, one of `PASSED`, has no effect: the callable does not name it, or --model-args gives it."""
    named = names_in(parameters_of(name, import_callable("--model", name, "callable")))
    given = parse_arguments("--model-args", model_args) if model_args is not None else {}
    return option not in named or option in given


Parameters = Mapping[str, inspect.Parameter]


def parameters_of(name: str, build: Callable[..., object]) -> Parameters:
    """Raises UsageError for a callable whose signature is not known: some of those written in C."""
    try:
        return inspect.signature(build).parameters
    except (TypeError, ValueError) as error:
        raise UsageError(f"--model {name} does not say which arguments it takes; wrap it in a function") from error


def names_in(parameters: Parameters) -> list[str]:
    """The arguments that can be passed by name."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [name for name, parameter in parameters.items() if parameter.kind in kinds]


def takes_any_name(parameters: Parameters) -> bool:
    return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())


def check_model(
    model: nn.Module, shape: tuple[int, int, int], num_classes: int, name: str = "the model"
) -> tuple[str, ...]:
    """Tries the model on two made-up images, forward and backward, and once more in evaluation mode.

    shape: channels, height, width; name: for messages. All is done on a copy: neither the model nor the default
    generators of its device and the CPU are changed. Returns the names of the trainable parameters that got no
    gradient.

    Raises UsageError, one line: whatever the model raises; an output that is not floating-point [2, num_classes] and
    finite.
    """
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    images = torch.randn(IMAGES, *shape, generator=generator("trial")).to(device)
    labels = torch.arange(IMAGES, device=device) % num_classes
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.enable_grad():
        try:
            tried = copy.deepcopy(model).train()
            tried.zero_grad()
            logits = check_logits(tried(images), num_classes, name)
            if not bool(logits.isfinite().all()):
                raise UsageError(f"{name} returns logits that are not finite for images that are; correct it")
            functional.cross_entropy(logits, labels).backward()
            with torch.no_grad():
                check_logits(tried.eval()(images), num_classes, name)
        except UsageError:
            raise
        except (Exception, SystemExit) as error:
            raise UsageError(f"{name} raised {told(error)}; {advice(error, shape)}") from error
    return tuple(key for key, value in tried.named_parameters() if value.requires_grad and value.grad is None)


def check_logits(logits: object, num_classes: int, name: str) -> Tensor:
    """The output for `IMAGES` images. Raises UsageError if it cannot be that of a classifier."""
    if not isinstance(logits, Tensor):
        raise UsageError(f"{name} returns an object of type {type(logits).__name__}; return logits [n, {num_classes}]")
    if tuple(logits.shape) != (IMAGES, num_classes) or not logits.is_floating_point():
        raise UsageError(
            f"{name} returns {str(logits.dtype).removeprefix('torch.')} {list(logits.shape)} for {IMAGES} images of"
            f" {num_classes} classes; return floating-point logits [n, {num_classes}]: num_classes says how many"
        )
    return logits


def advice(error: BaseException, shape: tuple[int, int, int]) -> str:
    """What to do about what the model raised for images of this shape."""
    channels, height, width = shape
    if (found := CHANNELS.search(" ".join(str(error).split()))) and int(found[2]) == channels:
        return (
            f"the images have {channels} channel{'s' * (channels > 1)} and it takes {found[1]}: have it take in_chans,"
            " or read image files with --channels 1 (grey) or 3 (colour)"
        )
    return f"correct it: the images are {channels} x {height} x {width} (channels, height, width)"


def trains_on_one(model: nn.Module, shape: tuple[int, int, int], in_eval: Collection[str] = ()) -> bool:
    """Whether a copy of the model takes a single image in training mode; in_eval: see `freezing.set_training`."""
    device = next(model.parameters()).device
    image = torch.randn(1, *shape, generator=generator("trial")).to(device)
    tried = copy.deepcopy(model)
    set_training(tried, in_eval)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.no_grad():
        try:
            tried(image)
        except ValueError:
            return False
    return True
