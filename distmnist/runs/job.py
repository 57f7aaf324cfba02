"""One run of the command: the processes meet and agree, train every net asked for, and say what came of it."""

import contextlib
import dataclasses
import os
import signal
from collections.abc import Sequence

import torch

from distmnist import __version__, plots
from distmnist.checkpoint.record import Checkpoint, Epoch, ModelResult
from distmnist.commandline import hint, quoted
from distmnist.config import (
    Job,
    is_custom,
    is_own,
    option_flag,
    resolve,
    to_json,
)
from distmnist.console import Log, Silence
from distmnist.data.dataset import Dataset
from distmnist.distributed.world import World, choose_device, join
from distmnist.errors import UsageError
from distmnist.machine import (
    be_deterministic,
    default_threads,
    die_with_parent,
    flush_denormals,
    hardware,
    keep_float32,
    keep_freed_memory,
    versions,
)
from distmnist.models.build import build_for
from distmnist.runs import table
from distmnist.runs.callbacks import ConsoleOutput, RequestOnSignal, SaveCheckpoints, listed
from distmnist.runs.dataset import option_of, read_dataset
from distmnist.runs.models import check_options, try_models
from distmnist.runs.opening import launch, open_run
from distmnist.runs.records import FINISHED, INTERRUPTED, RunConfig, RunSummary
from distmnist.runs.rundir import Launch, RunDirectory
from distmnist.training.callbacks import Callback
from distmnist.training.parts import choose_parts
from distmnist.training.precision import choose_amp
from distmnist.training.requests import Signals
from distmnist.training.trainer import fit

PLOTS_SECONDS = 600.0
"""How long the other ranks wait while rank 0 draws: on a fresh machine matplotlib first looks at every font."""


IMPORT_SECONDS = 600.0
"""How long the other ranks wait while one imports a model of the user's own, perhaps from a slow file system."""


def run(asked: Job, callbacks: Sequence[Callback] = ()) -> int:
    """Does what is asked; `callbacks` are called beside the command's own.

    Returns the exit code; raises UsageError and RunError.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        die_with_parent()
    with join(asked.run.timeout) as world, contextlib.ExitStack() as stack:
        log = Log() if world.is_main else Silence()
        compare_options(world, asked)
        if asked.run.print_fast:
            return print_fast(world, log, asked)
        job, directory, checkpoints = open_run(world, log, asked, stack)
        amp, why = set_up_machine(world, job)
        dataset = find_dataset(world, log, job, checkpoints)
        try_models(world, log, job, dataset, checkpoints)
        world.connect()

        job = resolve({**job.explicit, "amp": amp, "data": option_of(dataset, job)})
        if directory:
            directory.write_record("config.json", describe_run(job, dataset, launch(world)))
            if warning := directory.become_latest():
                log.warn(warning)
            for net, checkpoint in checkpoints.items():
                directory.write_history(net, checkpoint)
            header(log, world, job, why, dataset, directory)
        signals = stack.enter_context(Signals())
        figures: dict[str, ModelResult] = {}
        histories: dict[str, list[Epoch]] = {}
        for config in job.configs:
            net = config.name
            own = [ConsoleOutput(log, checkpoints.get(net)), SaveCheckpoints(directory, net)] if directory else []
            result = fit(
                config,
                dataset,
                world=world,
                callbacks=[RequestOnSignal(signals), *own, *callbacks],
                checkpoint=world.broadcast(checkpoints.get(net)),
                checkpoint_steps=job.run.checkpoint_steps,
            )
            if result.figures is None or result.evaluation is None:
                break
            figures[net], histories[net] = result.figures, result.history
            if directory:
                directory.write_predictions(net, result.evaluation.arrays())
        finished = len(figures) == len(job.configs)
        with world.agreement():  # nobody leaves before the run is complete on disk
            if directory:
                status = FINISHED if finished else INTERRUPTED
                directory.write_record("summary.json", summarize(status, dataset, world, amp, figures))
                if finished:
                    with world.heartbeat.busy("drawing the plots", PLOTS_SECONDS):
                        leave_plots(log, directory, dataset, figures, histories)
                footer(log, job, dataset, figures, finished, directory)
        return 0 if finished else 128 + (signals.fatal or signal.SIGTERM)


def print_fast(world: World, log: Log, job: Job) -> int:
    """Says of each net what its training replaces plain PyTorch with on these processes. Returns the exit code."""
    amp, _ = set_up_machine(world, job)
    dataset = read_dataset(world, log, job)
    try_models(world, log, job, dataset, {})
    world.connect()
    for config in job.configs:
        model = build_for(config, dataset.train.shape, dataset.classes).to(world.device)
        replacements = choose_parts(model, config, world, amp, dataset.classes).replacements
        log.say(f"{config.name}: {listed(replacements)}")
    return 0


def compare_options(world: World, job: Job) -> None:
    """Makes sure that all ranks were started alike. Raises UsageError on all of them; it names the one that differs."""
    with world.agreement() as statement:
        statement |= {"distmnist": __version__, "torch": torch.__version__, "--model": ", ".join(job.models)}
        for name in to_json(job.common.options()):
            values = list(dict.fromkeys(to_json(config.options())[name] for config in job.configs))
            statement[option_flag(name)] = values[0] if len(values) == 1 else values  # a recipe may tell nets apart
        if is_own(job.common.data):  # machines may keep them in different places: their digest is compared
            statement["--data"] = "images of your own"
        if job.common.weights:
            statement["--weights"] = "a file"
        with world.heartbeat.busy("importing the model", IMPORT_SECONDS):
            check_options(job)
        if world.size > world.local_size and not job.run.output:
            raise UsageError("--output must be named when there are several nodes; rank 0's node writes it")


def set_up_machine(world: World, job: Job) -> tuple[str, str]:
    """Chooses the device and the threads. Returns the kind of mixed precision, and why in words."""
    config = job.common
    with world.agreement() as statement:
        if config.batch_size < world.size:
            raise UsageError(
                f"--batch-size {config.batch_size} is smaller than the {world.size} processes; use {world.size} or more"
            )
        virtual, threads = config.virtual_ranks, job.run.threads
        if virtual and virtual % world.size:
            raise UsageError(
                f"--virtual-ranks {virtual} cannot be shared out over {world.size} processes; start 1, 2, 4 ...,"
                f" {virtual} at most"
            )
        if virtual and threads not in (None, 1):
            raise UsageError(
                f"--threads {threads} with --virtual-ranks: its bits are the same only with 1; leave it out"
            )
        world.device = choose_device(job.run.device, world)
        if config.sync_bn and world.size > 1 and world.device.type == "cpu":
            raise UsageError("--sync-bn: torch has it on GPUs alone; leave it out, or train in one process")
        torch.set_num_threads(1 if virtual else threads or default_threads(world.local_size))
        if virtual:
            be_deterministic()
        if world.device.type == "cpu":
            keep_freed_memory()
            flush_denormals()
        else:
            keep_float32()
        amp, why = choose_amp(config.amp, world.device)
        statement |= {"--device": world.device.type, "--amp": amp}
    return amp, why


def find_dataset(world: World, log: Log, job: Job, checkpoints: dict[str, Checkpoint]) -> Dataset:
    """The images, on this rank's device. Raises UsageError if they are not those of the checkpoints."""
    dataset = read_dataset(world, log, job)
    with world.agreement():
        for net, checkpoint in checkpoints.items():
            if difference := dataset.describe().difference(checkpoint.dataset):
                raise UsageError(
                    f"--resume: {net} was trained on a different data set: {difference}; choose the right"
                    f" {'--data' if is_own(job.common.data) else '--data-dir'}"
                )
    return dataset.to(world.device)


def describe_run(job: Job, dataset: Dataset, launch: Launch) -> RunConfig:
    """config.json: what `--resume` starts from (`given`), and every option in force for each net.

    The data's directory is noted as an absolute path: the run may be resumed or exported from another directory.
    """
    place = {"data_dir": job.run.data_dir.absolute()}
    given = {name: value for name, value in job.explicit.items() if name not in ("resume", "output")}
    run = dataclasses.asdict(job.run) | place
    return RunConfig(
        distmnist=__version__,
        given=to_json(given | (place if "data_dir" in given else {})),
        options={config.name: to_json(dataclasses.asdict(config) | run) for config in job.configs},
        dataset=dataset.describe(),
        launch=launch.facts(),
    )


def summarize(status: str, dataset: Dataset, world: World, amp: str, figures: dict[str, ModelResult]) -> RunSummary:
    return RunSummary(
        status=status,
        dataset=dataset.describe(),
        world_size=world.size,
        device=world.device.type,
        hardware=hardware(world.device),
        amp=amp,
        threads=torch.get_num_threads(),
        versions=versions(),
        models=figures,
    )


def header(log: Log, world: World, job: Job, why: str, dataset: Dataset, directory: RunDirectory) -> None:
    """job: with the kind of mixed precision in force; why: that one."""
    config, threads = job.common, torch.get_num_threads()
    shares = sorted({config.batch_size // world.size, -(-config.batch_size // world.size)})
    log.say("  ".join(f"{name} {version}" for name, version in versions().items()))
    log.say(
        f"{world.size} process{'es' if world.size > 1 else ''} x {threads} thread{'s' if threads > 1 else ''}"
        f" on {world.device.type}, amp {config.amp} ({why})"
    )
    log.say(
        f"global batch {config.batch_size}: {' or '.join(map(str, shares))} a process;"
        f" recipe {job.run.recipe}, random seed {config.seed}"
    )
    log.say(f"data: {dataset.name}, {len(dataset.train):,} + {len(dataset.test):,} images ({dataset.origin})")
    log.say(f"output: {directory.path}")


def leave_plots(
    log: Log,
    directory: RunDirectory,
    dataset: Dataset,
    figures: dict[str, ModelResult],
    histories: dict[str, list[Epoch]],
) -> None:
    """Writes plots/*.svg into the run where matplotlib is installed. What fails in it is warned of: the run stands."""
    if not plots.available():
        return
    try:
        confusions = {net: figure.confusion for net, figure in figures.items()}
        for name, content in plots.of_run(histories, confusions, dataset.class_names).items():
            directory.write(f"plots/{name}", content)
    except Exception as error:
        reason = " ".join(str(error).split()) or "no reason given"
        log.warn(f"the run is complete but its plots are not: {type(error).__name__}: {reason}")
    else:
        log.say(f"plots: {directory.path / 'plots'}")


def footer(
    log: Log, job: Job, dataset: Dataset, figures: dict[str, ModelResult], finished: bool, directory: RunDirectory
) -> None:
    if figures:
        log.say()
        log.say(table.results(dataset, figures))
    log.say()
    if finished:
        own = [f"--model={model}" for model in job.models if is_custom(model)]
        log.say(f"next: {hint('-m', 'distmnist.export', directory.path, *own)}")
    else:
        log.say(f"interrupted; to go on: the same command with --resume --output {quoted(directory.path)}")
