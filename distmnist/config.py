"""Every option of a training run: declared, documented and checked here, once.

The command line, the JSON in `config.json` and the comparison between ranks are all made from the fields of `Config`.
It imports nothing heavy, so that `--help` and a mistyped option answer at once.
"""

import dataclasses
import json
import math
import numbers
import os
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from distmnist.errors import UsageError
from distmnist.recipes import RECIPES

ACTIVATIONS = ("relu", "leaky_relu", "gelu", "silu", "tanh", "elu")
"""Names in torch.nn.functional, which is where models/published.py takes the functions from."""


MAX_THREADS = 1024
"""Of one process. Far above it the OpenMP runtime cannot start them, and ends the process with a segmentation fault."""

MAX_TIMEOUT = 7 * 24 * 3600.0
"""Seconds: a week. The libraries below count milliseconds in 32 bits, which overflow after 24 days."""


def option(
    default: Any,
    help: str,
    *,
    group: str,
    choices: Sequence[str] | None = None,
    valid: Callable[[Any], bool] | None = None,
    must: str = "",
    metavar: str | None = None,
    result: bool = False,
) -> Any:
    """A field of `Config`. `must` says in words what `valid` checks; `result` marks what changes the weights."""
    metadata = {
        "help": help,
        "group": group,
        "choices": choices,
        "valid": valid,
        "must": must,
        "metavar": metavar,
        "result": result,
    }
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def positive(value: float) -> bool:
    return 0 < value < math.inf


def not_negative(value: float) -> bool:
    return 0 <= value < math.inf


def fraction(value: float) -> bool:
    return 0 <= value < 1


TRAINING, RUN, MACHINE = "training", "the run", "the machine"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """The options of one net's training. Construct it directly, or through `resolve` to have the recipe applied."""

    model: str = option("all", "net to train: mlp, cnn, or all for one after the other", group=TRAINING, metavar="NET")
    recipe: str = option(
        "reference",
        "settings for each net: reference, the published ones; fast, one epoch; best, the most from five epochs;"
        " long, the most from 20 (cnn) and 60 (mlp). Options that are typed win",
        group=TRAINING,
        choices=tuple(RECIPES),
    )
    epochs: int = option(
        5,
        "passes over the training digits",
        group=TRAINING,
        valid=positive,
        must="be at least 1",
        metavar="N",
        result=True,
    )
    batch_size: int = option(
        64,
        "GLOBAL batch, in digits, shared out over all processes",
        group=TRAINING,
        valid=positive,
        must="be at least 1",
        metavar="N",
        result=True,
    )
    lr: float = option(
        1e-3, "peak learning rate", group=TRAINING, valid=positive, must="be above 0 and finite", result=True
    )
    optimizer: str = option("adam", "optimizer", group=TRAINING, choices=("adam", "adamw", "sgd"), result=True)
    momentum: float = option(
        0.9, "momentum of sgd", group=TRAINING, valid=fraction, must="be at least 0 and below 1", result=True
    )
    weight_decay: float = option(
        0.0,
        "L2 penalty (adam, sgd) or decoupled decay (adamw)",
        group=TRAINING,
        valid=not_negative,
        must="be at least 0 and finite",
        result=True,
    )
    schedule: str = option(
        "constant",
        "learning rate over the run; onecycle warms up over its first fifth",
        group=TRAINING,
        choices=("constant", "cosine", "onecycle"),
        result=True,
    )
    grad_clip: float = option(
        0.0,
        "clip the gradient's global L2 norm to this; 0 leaves it alone",
        group=TRAINING,
        valid=not_negative,
        must="be at least 0 and finite",
        result=True,
    )
    dropout: float = option(
        0.0,
        "probability of dropping a hidden unit of the fully connected layers",
        group=TRAINING,
        valid=fraction,
        must="be at least 0 and below 1",
        result=True,
    )
    label_smoothing: float = option(
        0.0,
        "share of the target probability spread evenly over all digits; reported losses are those without it",
        group=TRAINING,
        valid=fraction,
        must="be at least 0 and below 1",
        result=True,
    )
    augment: float = option(
        0.0,
        "strength of random affine views of the training digits: 1 turns them by up to 10 degrees, moves them 2 pixels,"
        " sizes them by 10 %, slants them by 0.1; 0 leaves them as they are",
        group=TRAINING,
        valid=lambda value: 0 <= value <= 4,
        must="be from 0 to 4",
        result=True,
    )
    activation: str = option("relu", "non-linearity of both nets", group=TRAINING, choices=ACTIVATIONS, result=True)
    val_fraction: float = option(
        0.0,
        "share of the training digits held out and reported apart from test; the same digits for every seed",
        group=TRAINING,
        valid=fraction,
        must="be at least 0 and below 1",
        result=True,
    )
    seed: int = option(
        0,
        "random seed of weights, order, dropout and augmentation",
        group=TRAINING,
        valid=not_negative,
        must="be at least 0",
        metavar="N",
        result=True,
    )
    max_steps: int | None = option(
        None,
        "stop a net after this many steps in all; the schedule keeps its length",
        group=TRAINING,
        valid=positive,
        must="be at least 1",
        metavar="N",
        result=True,
    )
    virtual_ranks: int = option(
        0,
        "cut each batch into this many fixed shares, one thread a process: the same bits for 1, 2, 4, ... up to V"
        " processes; a power of two, or 0 for ordinary training",
        group=TRAINING,
        valid=lambda value: value >= 0 and value & (value - 1) == 0,
        must="be 0 or a power of two",
        metavar="V",
        result=True,
    )
    fast: str = option(
        "auto",
        "auto: the replacements for plain PyTorch in distmnist/fast that apply here; off: plain PyTorch",
        group=MACHINE,
        choices=("auto", "off"),
        result=True,
    )
    data: str = option(
        "mnist",
        "data set; sample: the 5,000 digits of MNIST that come with distmnist. Where neither this nor --data-dir nor"
        " $DISTMNIST_DATA is given, the sample stands in for an MNIST that cannot be had",
        group=RUN,
        choices=("mnist", "sample"),
        result=True,
    )
    data_dir: Path = option(
        lambda: expand(os.environ.get("DISTMNIST_DATA") or "data"),
        "MNIST's IDX files, raw or .gz, here or in MNIST/raw/ below; downloaded into it if it is empty or missing"
        " (default: $DISTMNIST_DATA, else ./data)",
        group=RUN,
        metavar="DIR",
    )
    output: Path | None = option(
        None,
        "where the run goes (default: runs/<UTC time>); several nodes must name it",
        group=RUN,
        metavar="DIR",
    )
    resume: bool = option(False, "go on with the run in --output, with its options", group=RUN)
    print_fast: bool = option(False, "print for each net what --fast replaces here, and exit", group=RUN)
    snapshot_steps: int = option(
        0,
        "keep a snapshot every this many steps; always at the end of an epoch and when interrupted",
        group=RUN,
        valid=not_negative,
        must="be at least 0",
        metavar="K",
    )
    device: str = option("auto", "auto: cuda if there is one, else cpu", group=MACHINE, choices=("auto", "cpu", "cuda"))
    amp: str = option(
        "auto",
        "automatic mixed precision; auto: what the device computes natively",
        group=MACHINE,
        choices=("auto", "off", "bf16", "fp16"),
        result=True,
    )
    threads: int | None = option(
        None,
        "CPU threads of each process (default: usable cores / processes on this machine)",
        group=MACHINE,
        valid=lambda value: 1 <= value <= MAX_THREADS,
        must=f"be from 1 to {MAX_THREADS}",
        metavar="N",
    )
    timeout: float = option(
        300.0,
        "seconds that a process waits for the others before it gives up",
        group=MACHINE,
        valid=lambda value: 0 < value <= MAX_TIMEOUT,
        must=f"be above 0 and at most {MAX_TIMEOUT:.0f}, a week",
        metavar="SECONDS",
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, rules = checked_type(field, getattr(self, field.name)), field.metadata
            object.__setattr__(self, field.name, value)  # 1 as 1.0 for a float: the class is frozen for its users
            if value is None:
                continue
            if rules["choices"] and value not in rules["choices"]:
                raise UsageError(
                    f"{option_flag(field.name)} {value} is unknown; choose from {', '.join(rules['choices'])}"
                )
            if rules["valid"] and not rules["valid"](value):
                raise UsageError(f"{option_flag(field.name)} {value} must {rules['must']}")
        if self.resume and self.output is None:
            raise UsageError("--resume needs --output: the run to go on with; runs/latest names the newest")

    def result_options(self) -> dict[str, Any]:
        """The options that change the trained weights, by name: what ranks compare, and what `--resume` must keep."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.metadata["result"]}


def option_flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def value_type(field: dataclasses.Field) -> type:
    """The type of a value that is given: `int` for a field declared `int | None`."""
    if isinstance(field.type, types.UnionType):
        return next(t for t in typing.get_args(field.type) if t is not types.NoneType)
    return field.type


def checked_type(field: dataclasses.Field, value: Any) -> Any:
    """`value` as the type that the field declares: whole numbers of any library as int, numbers as float.

    Raises UsageError, which names the option, for a value of another type: values also come from files edited by hand.
    """
    kind = value_type(field)
    if value is None and isinstance(field.type, types.UnionType):
        return None
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if is_number and isinstance(value, numbers.Integral) and abs(int(value)) >= 2**63:
        raise UsageError(f"{option_flag(field.name)} has more digits than 64 bits hold; use a smaller number")
    if kind is int and is_number and isinstance(value, numbers.Integral):
        return int(value)
    if kind is float and is_number:
        return float(value)
    if kind is Path and value == "":  # not Path(""), which is "."
        raise UsageError(f"{option_flag(field.name)} is an empty path; name one")
    if kind is Path and isinstance(value, str | Path) and "\0" not in str(value):
        return value if isinstance(value, Path) else expand(value)
    if kind is bool and isinstance(value, bool):
        return value
    if kind is str and isinstance(value, str) and value.isprintable():
        return value
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a word", Path: "a path"}
    raise UsageError(f"{option_flag(field.name)} {show(value)} must be {words[kind]}")


def expand(path: str) -> Path:
    """The path, with a leading ~ replaced by the home directory: shells leave --output=~/runs to the program."""
    return Path(os.path.expanduser(path))  # not Path.expanduser, which takes "./~" for "~"


def show(value: Any) -> str:
    """A value of the wrong type in one line of bounded length; strings in quotation marks, as JSON has them."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        text = f"of type {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def to_json(options: dict[str, Any]) -> dict[str, Any]:
    """Options by name -> the same as JSON values; paths as strings."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}


def from_json(options: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `to_json`. Raises UsageError for an option that this version does not have."""
    fields = {f.name: f for f in dataclasses.fields(Config)}
    if unknown := options.keys() - fields.keys():
        raise UsageError(f"unknown options {', '.join(sorted(unknown))}: written by another version of distmnist?")
    paths = {name for name, value in options.items() if value_type(fields[name]) is Path and isinstance(value, str)}
    return {name: checked_type(fields[name], v) if name in paths else v for name, v in options.items()}


def data_is_chosen(given: dict[str, Any]) -> bool:
    """Whether the data were named, with an option or in the environment: then nothing may stand in for them."""
    return not given.keys().isdisjoint({"data", "data_dir"}) or bool(os.environ.get("DISTMNIST_DATA"))


def resolve(given: dict[str, Any], model: str | None = None) -> Config:
    """Defaults, then the recipe's options for `model`, then `given`: the options that were typed."""
    model = model or given.get("model", "all")
    name = given.get("recipe", "reference")
    recipe = RECIPES.get(name, {}) if isinstance(name, str) else {}
    settings = recipe.get(model, {}) if isinstance(model, str) else {}
    return Config(**{**recipe.get("*", {}), **settings, **given, "model": model})  # which refuses what is no string
