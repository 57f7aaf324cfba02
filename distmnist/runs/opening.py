"""Opens a run: a new one, the one that --resume names, or that of the attempt which torchrun restarted."""

import contextlib
import os
from pathlib import Path

from distmnist.checkpoint.record import Checkpoint
from distmnist.config import (
    Job,
    Options,
    RunOptions,
    TrainConfig,
    from_json,
    is_custom,
    is_function,
    is_own,
    models_named,
    option_flag,
    resolve,
    resolve_model,
    to_json,
)
from distmnist.console import Log
from distmnist.data import known
from distmnist.distributed.launcher import this_process
from distmnist.distributed.world import World
from distmnist.errors import UsageError
from distmnist.runs.models import check_options
from distmnist.runs.records import RunConfig
from distmnist.runs.rundir import Launch, RunDirectory, newer_than_latest, noted_data


def open_run(
    world: World, log: Log, asked: Job, stack: contextlib.ExitStack
) -> tuple[Job, RunDirectory | None, dict[str, Checkpoint]]:
    """Rank 0 opens the run's directory: a new one, the one to resume, or that of the attempt which torchrun restarted.

    Returns what is to be done; the directory, on rank 0; and the checkpoints to resume from, on rank 0. A resumed run
    has its own options, overridden by those typed now. --data-dir, --threads, and where images of one's own and weights
    are is this node's: nodes may differ.
    """
    names = {"data_dir", "threads", "weights"} | ({"data"} if is_own(asked.common.data) else set())
    own = {name: value for name, value in asked.explicit.items() if name in names}
    explicit, directory = asked.explicit, None
    checkpoints: dict[str, Checkpoint] = {}
    with world.agreement():
        if world.is_main:
            output = asked.run.output
            earlier = launch(world).earlier_attempt(output, lambda config: is_same_command(config, asked))
            # What an earlier attempt left behind needs a moment to die and let go of the lock.
            directory = RunDirectory(earlier or output, patience=10.0 if earlier else 0.0)
            stack.callback(directory.release)
            if asked.run.resume and output and (newer := newer_than_latest(output)):
                raise UsageError(
                    f"--resume: {output} is a directory, not a link to the newest run, which is {newer};"
                    f" name that with --output, or rename {output} to resume it"
                )
            if asked.run.resume or earlier:
                explicit, checkpoints = resume(directory, asked, log)
            elif directory.holds_run():
                raise UsageError(
                    f"--output {directory.path} holds a run; add --resume to continue it,"
                    " or choose a different directory"
                )
    return resolve(from_json(world.announce(to_json(explicit))) | own), directory, checkpoints


def launch(world: World) -> Launch:
    run_id = os.environ.get("TORCHELASTIC_RUN_ID")
    return Launch(run_id, frozenset(world.agents), world.attempt, this_process())


def is_same_command(config: RunConfig, asked: Job) -> bool:
    """Whether a config.json is of a run that was started with the same options, those of this machine apart."""
    if asked.run.resume:
        return True
    try:
        before, now = from_json(config.given), asked.explicit
    except UsageError:  # options of another version
        return False
    names = {*TrainConfig().options(), "model", "recipe"} - {"amp"} - ({"data"} - now.keys())  # noted as found
    return all(before.get(name) == now.get(name) for name in names)


def resume(directory: RunDirectory, asked: Job, log: Log) -> tuple[Options, dict[str, Checkpoint]]:
    """The run's own options under what was typed now, and its checkpoints.

    Raises UsageError if what was typed would change the result: only the length of a run may change.
    """
    config = directory.read_config()
    before, in_force = options_of(config, directory.path / "config.json")
    typed = {name: value for name, value in asked.explicit.items() if (name, value) != ("amp", "auto")}
    merged = {**before.explicit, **typed}
    if is_function(data := str(before.explicit.get("data", ""))) and "data" not in typed:
        raise UsageError(
            f"--resume: the run in {directory.path} has its images from the function {data}; add --data {data}, because"
            " no file of a run chooses what is imported"
        )
    merged = with_typed_model(merged, typed, directory.path)
    if "data_dir" not in merged and not os.environ.get("DISTMNIST_DATA"):
        wanted = known.KNOWN_SETS.get(resolve(merged).common.data)
        places = [place for place in noted_data(directory.path) if wanted and known.find(place, wanted)]
        merged |= {"data_dir": places[0]} if places else {}
    checkpoints = {}
    job = resolve(merged)
    check_options(job)
    for new in job.configs:
        net = new.name
        for name, options in in_force.items():
            if name.casefold() == net.casefold() and options.model != new.model:
                raise UsageError(
                    f"--resume with --model {new.model}: the run in {directory.path} has {options.model}; keep it, or"
                    " choose a different --output"
                )
        old = in_force.get(net) or resolve_model(before.explicit, new.model)  # a recipe may have changed since
        extended = new.epochs > old.epochs and new.schedule == "constant"
        was = old.options()
        moved = is_own(new.data) and is_own(old.data)  # the checkpoint knows the images by their digest
        for name, value in new.options().items():
            free = name == "max_steps" or (name == "epochs" and extended) or (name == "data" and moved)
            if value != was[name] and not free:
                raise UsageError(
                    f"--resume with {option_flag(name)} {value}: the run in {directory.path} has {was[name]}; keep it"
                )
        checkpoint, trouble = directory.load(net)
        if trouble:
            log.warn(f"{trouble}; resuming from the checkpoint before it")
        if checkpoint:
            if (trained := checkpoint.config.get("model")) != new.model:
                raise UsageError(
                    f"--resume: {directory.path / net} holds a checkpoint of {trained}, not of {new.model}; put the"
                    " right one there, or choose a different --output"
                )
            position = checkpoint.progress.global_step
            if new.max_steps and new.max_steps < position:
                raise UsageError(
                    f"--max-steps {new.max_steps}: {net} has already had {position} steps; use {position} or more"
                )
            log.say(f"resuming {net} after step {position:,}")
            checkpoints[net] = checkpoint
    return merged, checkpoints


def with_typed_model(merged: Options, typed: Options, path: Path) -> Options:
    """The options of the run in `path` under those typed, without arguments for a model that is not asked for.

    Raises UsageError if a model of the user's own is asked for by the run alone: that would import what a file names.
    """
    models = models_named(merged.get("model", "all"))
    own = [model for model in models if is_custom(model)]
    if not own:
        return {name: value for name, value in merged.items() if name != "model_args" or name in typed}
    if "model" not in typed:
        raise UsageError(
            f"--resume: the run in {path} has a model of your own, {own[0]}; add --model {merged['model']}, because no"
            " file of a run chooses what is imported"
        )
    return merged


def options_of(config: RunConfig, path: Path) -> tuple[Job, dict[str, TrainConfig]]:
    """What was asked of the run whose config.json is `path`, and the options in force for each of its nets.

    Raises UsageError for values that no option may have: people edit the file.
    """
    try:
        before = from_json(config.given)
        if "data" not in before and config.dataset:  # written before there was --data
            before["data"] = known.option_of(config.dataset.name)
        asked = resolve(before)
        own = {"data": before["data"]} if "data" in before else {}
        in_force = {}
        for net, options in config.options.items():
            values = own | from_json(options)
            RunOptions.of(values | {"resume": False})  # checked like the rest: the file may have been edited
            if options:
                in_force[net] = TrainConfig.of(values)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    return asked, in_force
