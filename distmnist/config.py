"""Every option of a training run: declared, documented and checked here, once; and how they are resolved to a `Job`.

The command line and config.json are made from the fields of `TrainConfig` and `RunOptions`; ranks compare those of
`TrainConfig`. Nothing heavy is imported, so that `--help` and a mistyped option answer at once.
"""

import dataclasses
import json
import math
import numbers
import os
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self, TypeVar

from distmnist.arguments import parse_arguments
from distmnist.errors import UsageError
from distmnist.importing import check_form
from distmnist.recipes import RECIPES

ACTIVATIONS = ("relu", "leaky_relu", "gelu", "silu", "tanh", "elu")
"""Names in torch.nn.functional, which is where models/build.py takes the functions from."""

MODEL_NAMES = ("mlp", "cnn")
"""What --model all stands for: the names in models/build.py."""

RESERVED_NAMES = (*MODEL_NAMES, "all", "plots", "export", "report")
"""What no model of the user's own may be called, in any case: names in a run's directory, some of which fold case."""

KNOWN_DATA = ("mnist", "fashion-mnist", "kmnist", "cifar10", "cifar100", "sample")
"""Values of --data that name a data set: the keys of data/known.py's table."""

Json = str | int | float | bool | None
Value = Json | Path
Options = dict[str, Value]
"""Options by name. The explicit ones are those that were typed: what is left is up to the recipe and the defaults."""

MAX_THREADS = 1024
"""Of one process. Far above it the OpenMP runtime cannot start them, and ends the process with a segmentation fault."""

MAX_TIMEOUT = 7 * 24 * 3600.0
"""Seconds: a week. The libraries below count milliseconds in 32 bits, which overflow after 24 days."""


T = TypeVar("T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
    """What an option is for and what it may be. `must` says in words what `valid` or `pattern` checks."""

    help: str
    group: str
    choices: Sequence[str] | None = None
    valid: Callable[[float], bool] | None = None
    pattern: str | None = None
    """A regular expression that a string matches as a whole."""
    must: str = ""
    metavar: str | None = None
    shown: str | None = None
    """The default to show in the help, where it is not the field's."""
    alias: str | None = None
    """An older name of the option."""


def rules(field: "dataclasses.Field[object]") -> Rules:
    found: Rules = field.metadata["rules"]
    return found


def option(
    default: T,
    help: str,
    *,
    group: str,
    factory: Callable[[], T] | None = None,
    choices: Sequence[str] | None = None,
    valid: Callable[[float], bool] | None = None,
    pattern: str | None = None,
    must: str = "",
    metavar: str | None = None,
    shown: str | None = None,
    alias: str | None = None,
) -> T:
    """A field of `TrainConfig` or `RunOptions` with its `Rules`. factory: makes the default, and overrides it."""
    known = Rules(
        help=help,
        group=group,
        choices=choices,
        valid=valid,
        pattern=pattern,
        must=must,
        metavar=metavar,
        shown=shown,
        alias=alias,
    )
    if factory:
        return dataclasses.field(default_factory=factory, metadata={"rules": known})
    return dataclasses.field(default=default, metadata={"rules": known})


def positive(value: float) -> bool:
    return 0 < value < math.inf


def not_negative(value: float) -> bool:
    return 0 <= value < math.inf


def fraction(value: float) -> bool:
    return 0 <= value < 1


TRAINING, IMAGES, RUN, MACHINE = "training", "the images", "the run", "the machine"

NUMBER = r"\d+(\.\d+)?"
NUMBERS = rf"{NUMBER}(,{NUMBER}){{0,2}}"


class _Checked:
    """Checks the types and ranges of the fields of a dataclass, wherever their values come from."""

    __dataclass_fields__: "ClassVar[dict[str, dataclasses.Field[object]]]"

    @classmethod
    def of(cls, options: Mapping[str, Value]) -> Self:
        """Made of the options that it declares; the rest are ignored. Raises UsageError."""
        return cls(**{name: options[name] for name in options if name in cls.__dataclass_fields__})

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, allowed = checked_type(field, getattr(self, field.name)), rules(field)
            object.__setattr__(self, field.name, value)  # 1 as 1.0 for a float: the class is frozen for its users
            if value is None:
                continue
            if allowed.choices and value not in allowed.choices:
                raise UsageError(
                    f"{option_flag(field.name)} {value} is unknown; choose from {', '.join(allowed.choices)}"
                )
            if allowed.valid and isinstance(value, int | float) and not allowed.valid(value):
                raise UsageError(f"{option_flag(field.name)} {value} must {allowed.must}")
            if allowed.pattern and isinstance(value, str) and not re.fullmatch(allowed.pattern, value):
                raise UsageError(f"{option_flag(field.name)} {show(value)} must {allowed.must}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig(_Checked):
    """What one model is trained with. Ranks compare it, and a resumed run keeps it: only `max_steps` may change, and,
    with a constant schedule, `epochs` may grow. Raises UsageError for a value that an option may not have.
    """

    model: str = option(
        "cnn",
        "what to train: mlp, cnn, all for both, or package.module:callable for a model of your own; several separated"
        " by commas, at most one of your own",
        group=TRAINING,
        metavar="MODEL",
        shown="all",
    )
    model_args: str | None = option(
        None,
        "arguments for your own model, beside num_classes, in_chans, image_size, activation and dropout, which it is"
        " passed if it names them: numbers, True, False, None, lists and words. A value given here wins",
        group=TRAINING,
        metavar="NAME=VALUE,...",
    )
    weights: Path | None = option(
        None,
        "file to start from: safetensors, a state dict that torch.save wrote, or a checkpoint of distmnist. Names and"
        " shapes must fit; a last layer for another number of classes starts from random weights",
        group=TRAINING,
        metavar="FILE",
    )
    freeze: str | None = option(
        None,
        "layers or parameters to leave as they are, by name, with the shell's wildcards: conv1,bn1,layer*; batch norms"
        " among them keep their statistics",
        group=TRAINING,
        pattern=r"[^,]+(,[^,]+)*",
        must="be names separated by commas",
        metavar="PATTERN,...",
    )
    epochs: int = option(
        5,
        "passes over the training images",
        group=TRAINING,
        valid=positive,
        must="be at least 1",
        metavar="N",
    )
    batch_size: int = option(
        64,
        "GLOBAL batch, in images, divided among all processes",
        group=TRAINING,
        valid=positive,
        must="be at least 1",
        metavar="N",
    )
    micro_batch_size: int = option(
        0,
        "images of one forward pass at most: what a process has of a batch is cut into equal pieces, for models that"
        " need much memory; 0: no limit. The same training up to rounding, except for batch norm",
        group=TRAINING,
        valid=not_negative,
        must="be at least 0",
        metavar="N",
    )
    lr: float = option(1e-3, "peak learning rate", group=TRAINING, valid=positive, must="be above 0 and finite")
    optimizer: str = option("adam", "optimizer", group=TRAINING, choices=("adam", "adamw", "sgd"))
    momentum: float = option(0.9, "momentum of sgd", group=TRAINING, valid=fraction, must="be at least 0 and below 1")
    weight_decay: float = option(
        0.0,
        "L2 penalty (adam, sgd) or decoupled decay (adamw)",
        group=TRAINING,
        valid=not_negative,
        must="be at least 0 and finite",
    )
    schedule: str = option(
        "constant",
        "learning rate over the run; onecycle warms up over its first fifth",
        group=TRAINING,
        choices=("constant", "cosine", "onecycle"),
    )
    grad_clip: float = option(
        0.0,
        "clip the gradient's global L2 norm to this; 0 leaves it alone",
        group=TRAINING,
        valid=not_negative,
        must="be at least 0 and finite",
    )
    dropout: float = option(
        0.0,
        "probability of dropping a hidden unit of the fully connected layers; a model of your own is passed it if it"
        " names it",
        group=TRAINING,
        valid=fraction,
        must="be at least 0 and below 1",
    )
    label_smoothing: float = option(
        0.0,
        "share of the target probability spread evenly over all classes; reported losses are those without it",
        group=TRAINING,
        valid=fraction,
        must="be at least 0 and below 1",
    )
    augment: float = option(
        0.0,
        "strength of random affine views of the training images: 1 turns them by up to 10 degrees, moves them by a 14th"
        " of a side (2 of 28 pixels), sizes them by 10 %, slants them by 0.1; 0 leaves them as they are",
        group=TRAINING,
        valid=lambda value: 0 <= value <= 4,
        must="be from 0 to 4",
    )
    flip: bool = option(
        False,
        "mirror half of the training images left to right, others in each epoch: for photographs, not for digits or"
        " text",
        group=TRAINING,
    )
    crop: bool = option(
        False,
        "show a random part of each training image, 8 to 100 % of its area, in full size, another one in each epoch:"
        " for photographs, not for digits or text",
        group=TRAINING,
    )
    class_weights: str = option(
        "none",
        "balanced: each class weighs the same in the training loss, however many images it has; reported losses are"
        " those without weights",
        group=TRAINING,
        choices=("none", "balanced"),
    )
    activation: str = option(
        "relu",
        "non-linearity of mlp and cnn; a model of your own is passed it if it names it",
        group=TRAINING,
        choices=ACTIVATIONS,
    )
    val_fraction: float = option(
        0.0,
        "share of the training images held out and reported apart from test; the same images for every seed",
        group=TRAINING,
        valid=fraction,
        must="be at least 0 and below 1",
    )
    seed: int = option(
        0,
        "random seed of weights, order, dropout and augmentation",
        group=TRAINING,
        valid=not_negative,
        must="be at least 0",
        metavar="N",
    )
    max_steps: int | None = option(
        None,
        "stop a model after this many steps in all; the schedule keeps its length",
        group=TRAINING,
        valid=positive,
        must="be at least 1",
        metavar="N",
    )
    virtual_ranks: int = option(
        0,
        "cut each batch into this many fixed shares, one thread a process: the same bits for 1, 2, 4, ... up to V"
        " processes; a power of two, or 0 for ordinary training",
        group=TRAINING,
        valid=lambda value: int(value) >= 0 and int(value) & (int(value) - 1) == 0,
        must="be 0 or a power of two",
        metavar="V",
    )
    sync_bn: bool = option(
        False,
        "batch norm over the whole batch, not over what a process has of it: on several GPUs, without --virtual-ranks",
        group=TRAINING,
    )
    fast: str = option(
        "auto",
        "auto: the replacements for plain PyTorch in distmnist/fast that apply here; off: plain PyTorch",
        group=MACHINE,
        choices=("auto", "off"),
    )
    data: str = option(
        "mnist",
        f"{', '.join(KNOWN_DATA)} (5,000 digits of MNIST that come with distmnist); or images of your own: a folder of"
        " class folders, or of train/, val/ and test/ with class folders in them, a CSV file with the columns path,"
        " label and perhaps split, an npz file, or package.module:function. Where neither this nor --data-dir nor"
        " $DISTMNIST_DATA is given, the sample is used if MNIST can be neither found nor downloaded",
        group=IMAGES,
        pattern=r"(?s).+",
        must="be the name of a data set",
        metavar="DATA",
    )
    test_fraction: float = option(
        0.2,
        "share of the image files held out for testing where there is no test set, chosen by their content",
        group=IMAGES,
        valid=lambda value: 0 < value < 1,
        must="be above 0 and below 1",
    )
    image_size: str | None = option(
        None,
        "height and width to which image files are brought, as one number or HxW (default: theirs, if all are equal)",
        group=IMAGES,
        pattern=r"[1-9]\d{0,8}(x[1-9]\d{0,8})?",
        must="be a number of pixels or HxW",
        metavar="N",
    )
    resize_mode: str = option(
        "squash",
        "what to do if the aspect ratio differs: squash distorts the image, crop cuts off its edges, pad adds black"
        " borders",
        group=IMAGES,
        choices=("squash", "crop", "pad"),
    )
    channels: int | None = option(
        None,
        "1 reads image files as grey, 3 as colour (default: 3)",
        group=IMAGES,
        valid=lambda value: value in (1, 3),
        must="be 1 or 3",
        metavar="C",
    )
    mean: str | None = option(
        None,
        "mean of the pixels scaled to 0..1, one number or one a channel, such as 0.485,0.456,0.406, with --std"
        " (default: computed from the training images; for known data sets as published)",
        group=IMAGES,
        pattern=NUMBERS,
        must="be one number or three, separated by commas",
        metavar="X",
    )
    std: str | None = option(
        None, "standard deviation, likewise", group=IMAGES, pattern=NUMBERS, must="be one number or three", metavar="X"
    )
    on_error: str = option(
        "stop",
        "what to do about image files that cannot be decoded: stop and list them, or skip and count them",
        group=IMAGES,
        choices=("stop", "skip"),
    )
    amp: str = option(
        "auto",
        "automatic mixed precision; auto: bf16 where it is native, else fp16 on GPUs and off on CPUs",
        group=MACHINE,
        choices=("auto", "off", "bf16", "fp16"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model_args is not None:
            self.arguments()  # checked
        if self.sync_bn and self.virtual_ranks:
            raise UsageError(
                "--sync-bn does not go with --virtual-ranks, which normalizes each shard by itself; leave one out"
            )

    @property
    def name(self) -> str:
        """What the model is called in directories, files and figures."""
        return short_name(self.model)

    def arguments(self) -> dict[str, object]:
        """`model_args` by name. Raises UsageError."""
        return {} if self.model_args is None else parse_arguments("--model-args", self.model_args)

    def options(self) -> Options:
        """By name, without the model's."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "model"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions(_Checked):
    """What is not compared and may change at a resume: paths, the machine (whose threads and device may change the
    last bits), and the name of the recipe, whose settings are in `TrainConfig`.
    """

    recipe: str = option(
        "reference",
        "settings for each net: reference, the published ones; fast, one epoch; best, the most from five epochs;"
        " long, the most from 20 (cnn) and 60 (mlp). Options that are typed win",
        group=TRAINING,
        choices=tuple(RECIPES),
    )
    data_dir: Path = option(
        Path("data"),
        "where known data sets are, in torchvision's layout (MNIST/raw/train-images-idx3-ubyte and so on; IDX files may"
        " lie here directly, and be gzipped), and where missing ones are downloaded to (default: $DISTMNIST_DATA, else"
        " ./data)",
        group=RUN,
        factory=lambda: expand(os.environ.get("DISTMNIST_DATA") or "data"),
        metavar="DIR",
    )
    output: Path | None = option(
        None,
        "where the run goes (default: runs/<UTC time>); several nodes must name it",
        group=RUN,
        metavar="DIR",
    )
    resume: bool = option(
        False,
        "resume the run in --output with its own options; only --max-steps and, with a constant schedule, a larger"
        " --epochs may change its training",
        group=RUN,
    )
    print_fast: bool = option(False, "print for each net what --fast replaces here, and exit", group=RUN)
    checkpoint_steps: int = option(
        0,
        "keep a checkpoint every this many steps; always at the end of an epoch and when interrupted",
        group=RUN,
        valid=not_negative,
        must="be at least 0",
        metavar="K",
        alias="snapshot_steps",
    )
    device: str = option("auto", "auto: cuda if there is one, else cpu", group=MACHINE, choices=("auto", "cpu", "cuda"))
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
        "seconds without progress after which a process counts as hung",
        group=MACHINE,
        valid=lambda value: 0 < value <= MAX_TIMEOUT,
        must=f"be above 0 and at most {MAX_TIMEOUT:.0f}, a week",
        metavar="SECONDS",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resume and self.output is None:
            raise UsageError("--resume needs --output: the run to go on with; runs/latest names the newest")


FIELDS: dict[str, "dataclasses.Field[object]"] = {
    field.name: field for kind in (TrainConfig, RunOptions) for field in dataclasses.fields(kind)
}
"""Every option by name."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What is to be done, resolved once: explicit options, then the recipe, then the defaults.

    configs: one a model, in the order in which they are trained.
    """

    explicit: Options
    run: RunOptions
    configs: tuple[TrainConfig, ...]

    @property
    def models(self) -> list[str]:
        """As they were typed, all of them named."""
        return [config.model for config in self.configs]

    @property
    def names(self) -> list[str]:
        """What the models are called in directories, files and figures."""
        return [config.name for config in self.configs]

    @property
    def common(self) -> TrainConfig:
        """For what all models have alike: data, precision, seed, virtual ranks."""
        return self.configs[0]


def option_flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def value_type(field: "dataclasses.Field[object]") -> type:
    """The type of a value that is given: `int` for a field declared `int | None`."""
    kinds = typing.get_args(field.type) or (field.type,)
    return next(kind for kind in kinds if isinstance(kind, type) and kind is not types.NoneType)


def checked_type(field: "dataclasses.Field[object]", value: object) -> Value:
    """`value` as the type that the field declares: whole numbers of any library as int, numbers as float.

    Raises UsageError, which names the option, for a value of another type: values also come from files edited by hand.
    """
    kind = value_type(field)
    if value is None and isinstance(field.type, types.UnionType):
        return None
    if kind in (int, float) and isinstance(value, numbers.Real) and not isinstance(value, bool):
        if isinstance(value, numbers.Integral) and abs(int(value)) >= 2**63:
            raise UsageError(f"{option_flag(field.name)} has more digits than 64 bits hold; use a smaller number")
        if kind is float:
            return float(value)
        if isinstance(value, numbers.Integral):
            return int(value)
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


def show(value: object) -> str:
    """A value of the wrong type in one line of bounded length; strings in quotation marks, as JSON has them."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        text = f"of type {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def to_json(options: Mapping[str, Value]) -> dict[str, Json]:
    """Options by name -> the same as JSON values; paths as strings."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}


def from_json(options: Mapping[str, object]) -> Options:
    """The inverse of `to_json`, also for options as older versions named them.

    Raises UsageError for an option that this version does not have, and for a value of another type than its own.
    """
    now = {rules(field).alias: name for name, field in FIELDS.items() if rules(field).alias}
    options = {now.get(name, name): value for name, value in options.items()}
    if unknown := options.keys() - FIELDS.keys():
        raise UsageError(f"unknown options {', '.join(sorted(unknown))}: written by another version of distmnist?")
    return {name: checked_type(FIELDS[name], value) for name, value in options.items()}


def data_is_chosen(explicit: Mapping[str, Value]) -> bool:
    """Whether the data were named, with an option or in the environment: then nothing may stand in for them."""
    return not explicit.keys().isdisjoint({"data", "data_dir"}) or bool(os.environ.get("DISTMNIST_DATA"))


def is_own(data: object) -> bool:
    """Whether a value of --data names images of the user's own, not a known set."""
    return data not in KNOWN_DATA


def is_function(data: str) -> bool:
    """Whether a value of --data has the form package.module:function, and is no path."""
    parts = data.replace(":", ".", 1).split(".")
    return ":" in data and all(map(str.isidentifier, parts)) and not os.path.lexists(expand(data))


def lasting(data: str) -> str:
    """A value of --data as it can be used from another directory, too: a path becomes absolute."""
    return str(expand(data).absolute()) if data and is_own(data) and not is_function(data) else data


def resolve(explicit: Mapping[str, Value]) -> Job:
    """Explicit options -> what is to be done. Raises UsageError."""
    if isinstance(data := explicit.get("data"), str):
        explicit = {**explicit, "data": lasting(data)}
    if isinstance(weights := explicit.get("weights"), Path):
        explicit = {**explicit, "weights": weights.absolute()}
    run = RunOptions.of(explicit)
    models = models_named(explicit.get("model", "all"))
    if explicit.get("model_args") is not None and not any(map(is_custom, models)):
        raise UsageError("--model-args is for a model of your own, and --model names none: package.module:callable")
    if explicit.get("weights") and len(models) > 1:
        raise UsageError(f"--weights is for one model, and --model names {len(models)}: {', '.join(map(str, models))}")
    return Job(dict(explicit), run, tuple(resolve_model(explicit, model) for model in models))


def models_named(model: Value) -> list[Value]:
    """The models that a value of --model names, in their order. Nothing is imported.

    Raises UsageError for two of the user's own, and for one that cannot be called as it is.
    """
    if not isinstance(model, str):
        return [model]  # TrainConfig refuses it
    names: list[Value] = []
    for name in model.split(","):
        names += MODEL_NAMES if name == "all" else [name]
    names = list(dict.fromkeys(names))
    own = [str(name) for name in names if is_custom(name)]
    if len(own) > 1:
        raise UsageError(f"--model {model} names {len(own)} models of your own; train them one at a time")
    for name in own:
        check_form("--model", name, "callable")
        if short_name(name).casefold() in RESERVED_NAMES:
            raise UsageError(
                f"--model {name}: a run has something else called {short_name(name)}; give the callable another name"
            )
    return names


def is_custom(model: object) -> bool:
    """Whether a model's name is package.module:callable, not one of `MODEL_NAMES`."""
    return isinstance(model, str) and ":" in model


def short_name(model: str) -> str:
    """What a model is called in directories, files and figures: a model of the user's own by its callable."""
    return model.rpartition(":")[2]


def resolve_model(explicit: Mapping[str, Value], model: Value) -> TrainConfig:
    """The defaults under the recipe's settings for `model` under the explicit options. Raises UsageError."""
    recipe = explicit.get("recipe", "reference")
    settings = RECIPES.get(recipe, {}) if isinstance(recipe, str) else {}  # RunOptions refuses what is no recipe
    own = settings.get(model, {}) if isinstance(model, str) else {}  # TrainConfig refuses what is no string
    theirs = {} if is_custom(model) else {"model_args": None}
    return TrainConfig.of({**settings.get("*", {}), **own, **explicit, **theirs, "model": model})
