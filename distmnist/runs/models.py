"""The models of a run: whether they can be had and trained, found out before anything is written."""

from collections.abc import Mapping

from torch import Tensor, nn

from distmnist.checkpoint.record import Checkpoint
from distmnist.config import Job, is_custom, option_flag
from distmnist.console import Log
from distmnist.data.dataset import Dataset
from distmnist.data.splits import hold_out
from distmnist.distributed.world import World
from distmnist.errors import UsageError
from distmnist.models.build import check_models
from distmnist.models.custom import check_custom, ignores
from distmnist.seeds import seed_for
from distmnist.text import some
from distmnist.training.model import prepare_model

TRIAL_SECONDS = 600.0
"""How long the other ranks wait while one builds a model and tries it on two images."""


def check_options(job: Job) -> None:
    """Imports a model of the user's own, and nothing else: what --model names was typed, or the caller checks that.

    Raises UsageError for models that there are not, for arguments that do not fit, and for an option that was typed and
    that no model is passed.
    """
    check_models(job.models)
    for config in job.configs:
        if is_custom(config.model):
            check_custom(config.model, config.model_args)
    for option in ("activation", "dropout"):
        if option in job.explicit and all(
            is_custom(config.model) and ignores(config.model, option, config.model_args) for config in job.configs
        ):
            raise UsageError(
                f"{option_flag(option)} has no effect on --model {job.common.model}, which takes no {option} or has it"
                " from --model-args; leave it out"
            )


def try_models(world: World, log: Log, job: Job, dataset: Dataset, checkpoints: Mapping[str, Checkpoint]) -> None:
    """Builds every model for the images, with the weights to start from, and tries one of the user's own on two images.

    checkpoints: those to resume from, by name, on rank 0. Raises UsageError on all ranks: a model cannot be built,
    fails, or is another one on another rank; a checkpoint is of another one.
    """
    images = len(hold_out(dataset, job.common.val_fraction)[0])
    for config in job.configs:
        checkpoint = checkpoints.get(config.name)
        resumed = bool(world.announce(checkpoint is not None))
        with world.agreement() as statement, world.heartbeat.busy("trying the model", TRIAL_SECONDS):
            shards = config.virtual_ranks or world.size
            prepared = prepare_model(config, dataset.train.shape, dataset.classes, images, shards, resumed=resumed)
            if is_custom(config.model):
                statement[f"a model {config.name} of"] = described(prepared.model)
            if weights := prepared.initial_weights:
                statement["--weights of SHA-256"] = weights.sha256
            if checkpoint:
                check_checkpoint(config.model, prepared.model, checkpoint.model)
        if prepared.unused:
            log.say(f"{config.name}: no gradient reaches {some(prepared.unused)}: not trained")
        if weights and weights.reinitialized:
            log.say(
                f"{config.name}: the file of --weights has another number of classes; {some(weights.reinitialized)}"
                " start from random weights"
            )


def described(model: nn.Module) -> str:
    """Its parameters in words: other code on another machine mostly has others."""
    shapes = [f"{name} {list(value.shape)}" for name, value in model.named_parameters()]
    count = sum(value.numel() for value in model.parameters())
    return f"{count:,} parameters ({some(shapes)}; checksum {seed_for(*shapes)})"


def check_checkpoint(name: str, model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Raises UsageError if the state dict is not of such a model: its code or its arguments have changed since."""
    wanted = {key: list(value.shape) for key, value in model.state_dict().items() if isinstance(value, Tensor)}
    found = {key: list(value.shape) for key, value in state.items()}
    for key in dict.fromkeys([*wanted, *found]):
        if wanted.get(key) != found.get(key):
            told = [f"a tensor of shape {one[key]}" if key in one else "none" for one in (found, wanted)]
            raise UsageError(
                f"--resume: the checkpoint of {name} is of another model: for {key} it has {told[0]}, and the model"
                f" {told[1]}; resume with the code that it was trained with"
            )
