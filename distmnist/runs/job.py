"""One run of the command: the processes meet and agree, train every net asked for, and say what came of it."""

import contextlib
import dataclasses
import os
import signal
from pathlib import Path
from typing import Any

import torch

from distmnist import __version__, plots
from distmnist.commandline import hint, quoted
from distmnist.config import Config, data_is_chosen, from_json, option_flag, resolve, to_json
from distmnist.console import Log, Silence
from distmnist.data import datasets
from distmnist.data.datasets import Dataset
from distmnist.distributed.launcher import this_process
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
)
from distmnist.models.published import MODELS, build_model
from distmnist.runs import summary
from distmnist.runs.rundir import Launch, RunDirectory, newer_than_latest, noted_data, versions
from distmnist.training.parts import choose_parts
from distmnist.training.precision import choose_amp
from distmnist.training.requests import Signals
from distmnist.training.trainer import Snapshot, fit

Given = dict[str, Any]
"""The options that were typed, by name: what is left is up to the recipe and the defaults."""

DOWNLOAD_SECONDS = 3600.0
"""How long the other ranks wait while one downloads, or waits for another run that does: see `data.LOCK_SECONDS`."""

PLOTS_SECONDS = 600.0
"""How long the other ranks wait while rank 0 draws: on a fresh machine matplotlib first looks at every font."""


def run(given: Given) -> int:
    """Runs the job for the options that were typed. Returns the exit code; raises UsageError and RunError."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        die_with_parent()
    with join(resolve(given).timeout) as world, contextlib.ExitStack() as stack:
        log = Log() if world.is_main else Silence()
        compare_options(world, given)
        if resolve(given).print_fast:
            return print_fast(world, log, given)
        given, directory, snapshots = open_run(world, log, given, stack)
        configs = {net: resolve(given, net) for net in nets(given)}
        common = next(iter(configs.values()))
        amp, why = set_up_machine(world, common)
        dataset = find_digits(world, log, given, common, snapshots)
        world.connect()

        setting = {
            "world_size": world.size,
            "device": world.device.type,
            "hardware": hardware(world.device),
            "amp": amp,
            "threads": torch.get_num_threads(),
        }
        taken = {"amp": amp, "data": datasets.option_of(dataset.name)}
        configs = {net: dataclasses.replace(config, **taken) for net, config in configs.items()}
        if directory:
            config = describe_run({**given, **taken}, configs, dataset, launch(world))
            directory.write_json("config.json", config)
            if warning := directory.become_latest():
                log.warn(warning)
            for net, snapshot in snapshots.items():
                directory.write_history(net, snapshot)
            header(log, world, common, setting, why, dataset, directory)
        signals = stack.enter_context(Signals())
        figures, histories = {}, {}
        for net, config in configs.items():
            result = fit(
                config,
                world,
                dataset,
                log,
                snapshot=world.broadcast(snapshots.get(net)),
                save=directory and directory.saver(net),
                wishes=signals,
            )
            if result.figures is None:
                break
            figures[net], histories[net] = result.figures, result.history
            if directory:
                directory.write_predictions(net, result.evaluation.arrays())
        finished = len(figures) == len(configs)
        with world.agreement():  # nobody leaves before the run is complete on disk
            if directory:
                directory.write_json("summary.json", summary.summarize(finished, dataset, setting, figures))
                if finished:
                    with world.heartbeat.busy("drawing the plots", PLOTS_SECONDS):
                        leave_plots(log, directory, figures, histories)
                footer(log, dataset, figures, finished, directory)
        return 0 if finished else 128 + (signals.fatal or signal.SIGTERM)


def print_fast(world: World, log: Log, given: Given) -> int:
    """Says of each net what its training replaces plain PyTorch with on these processes. Returns the exit code."""
    configs = {net: resolve(given, net) for net in nets(given)}
    amp, _ = set_up_machine(world, next(iter(configs.values())))
    world.connect()
    for net, config in configs.items():
        model = build_model(net, activation=config.activation, dropout=config.dropout).to(world.device)
        replacements = choose_parts(model, config, world, amp).replacements
        log.say(f"{net}: {', '.join(replacements) or 'plain PyTorch'}")
    return 0


def nets(given: Given) -> list[str]:
    """The nets that `--model` names. Raises UsageError for a name that is not in `MODELS`."""
    name = resolve(given).model
    if name == "all":
        return list(MODELS)
    if name not in MODELS:
        raise UsageError(f"--model {name} is unknown; choose from all, {', '.join(MODELS)}")
    return [name]


def compare_options(world: World, given: Given) -> None:
    """Makes sure that all ranks were started alike. Raises UsageError on all of them; it names the one that differs."""
    with world.agreement() as statement:
        options = resolve(given)
        statement |= {"distmnist": __version__, "torch": torch.__version__, "--model": options.model}
        statement |= {option_flag(name): value for name, value in options.result_options().items()}
        nets(given)
        if world.size > world.local_size and not options.output:
            raise UsageError("--output must be named when there are several nodes; rank 0's node writes it")


def open_run(
    world: World, log: Log, given: Given, stack: contextlib.ExitStack
) -> tuple[Given, RunDirectory | None, dict[str, Snapshot]]:
    """Rank 0 opens the run's directory: a new one, the one to resume, or that of the attempt which torchrun restarted.

    Returns the options, which are the run's own under what was typed when it is resumed; the directory, on rank 0;
    and the snapshots to go on from, on rank 0. What was typed here of this machine's own stays: nodes may differ in it.
    """
    own = {name: given[name] for name in ("data_dir", "threads") if name in given}
    directory, snapshots = None, {}
    with world.agreement():
        if world.is_main:
            options = resolve(given)
            earlier = launch(world).earlier_attempt(options.output, lambda config: is_same_command(config, given))
            # What an earlier attempt left behind needs a moment to die and let go of the lock.
            directory = RunDirectory(earlier or options.output, patience=10.0 if earlier else 0.0)
            stack.callback(directory.release)
            if options.resume and (newer := newer_than_latest(options.output)):
                raise UsageError(
                    f"--resume: {options.output} is a directory, not a link to the newest run, which is {newer};"
                    f" name that with --output, or rename {options.output} to resume it"
                )
            if options.resume or earlier:
                given, snapshots = resume(directory, given, log)
            elif directory.holds_run():
                raise UsageError(
                    f"--output {directory.path} holds a run; add --resume to continue it,"
                    " or choose a different directory"
                )
    return from_json(world.announce(to_json(given))) | own, directory, snapshots


def launch(world: World) -> Launch:
    run_id = os.environ.get("TORCHELASTIC_RUN_ID")
    return Launch(run_id, frozenset(world.agents), world.attempt, this_process())


def is_same_command(config: dict[str, Any], given: Given) -> bool:
    """Whether a config.json is of a run that was started with the options `given`, those of this machine apart."""
    if given.get("resume"):
        return True
    before = from_json(config["given"])
    names = {*Config().result_options(), "model", "recipe"} - {"amp"} - ({"data"} - given.keys())  # noted as found
    return all(before.get(name) == given.get(name) for name in names)


def resume(directory: RunDirectory, given: Given, log: Log) -> tuple[Given, dict[str, Snapshot]]:
    """The run's own options under what was typed now, and its snapshots.

    Raises UsageError if what was typed would change the result: only the length of a run may change.
    """
    config = directory.read_config()
    before, in_force = options_of(config, directory.path / "config.json")
    asked = {name: value for name, value in given.items() if (name, value) != ("amp", "auto")}
    merged = {**before, **asked}
    if "data_dir" not in merged and not os.environ.get("DISTMNIST_DATA"):
        places = [place for place in noted_data(directory.path) if datasets.find(place)]
        merged |= {"data_dir": places[0]} if places else {}
    snapshots = {}
    for net in nets(merged):
        old = in_force.get(net) or resolve(before, net)  # a recipe may have changed since
        new = resolve(merged, net)
        extended = new.epochs > old.epochs and new.schedule == "constant"
        for name, value in new.result_options().items():
            was = getattr(old, name)
            if value != was and name != "max_steps" and not (name == "epochs" and extended):
                raise UsageError(
                    f"--resume with {option_flag(name)} {value}: the run in {directory.path} has {was}; keep it"
                )
        snapshot, trouble = directory.load(net)
        if trouble:
            log.warn(f"{trouble}; resuming from the checkpoint before it")
        if snapshot:
            position = snapshot["train"]["position"]
            if new.max_steps and new.max_steps < position:
                raise UsageError(f"--max-steps {new.max_steps}: {net} has had {position} steps; name as many, or more")
            log.say(f"going on with {net} after step {position:,}")
            snapshots[net] = snapshot
    return merged, snapshots


def options_of(config: dict[str, Any], path: Path) -> tuple[Given, dict[str, Config]]:
    """The options that were typed for the run whose config.json is `path`, and those in force for each net.

    Raises UsageError for values that no option may have: people edit the file.
    """
    try:
        before = from_json(config["given"])
        if "data" not in before and isinstance(config.get("dataset"), dict):  # written before there was --data
            before["data"] = datasets.option_of(config["dataset"].get("name"))
        resolve(before)
        own = {"data": before["data"]} if "data" in before else {}
        in_force = {net: Config(**own | from_json(options)) for net, options in config["options"].items() if options}
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    return before, in_force


def set_up_machine(world: World, config: Config) -> tuple[str, str]:
    """Chooses the device and the threads. Returns the kind of mixed precision, and why in words."""
    with world.agreement() as statement:
        if config.batch_size < world.size:
            raise UsageError(
                f"--batch-size {config.batch_size} is smaller than the {world.size} processes; use {world.size} or more"
            )
        virtual, threads = config.virtual_ranks, config.threads
        if virtual and virtual % world.size:
            raise UsageError(
                f"--virtual-ranks {virtual} cannot be shared out over {world.size} processes; start 1, 2, 4 ...,"
                f" {virtual} at most"
            )
        if virtual and threads not in (None, 1):
            raise UsageError(
                f"--threads {threads} with --virtual-ranks: its bits are the same only with 1; leave it out"
            )
        world.device = choose_device(config.device, world)
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


def find_digits(world: World, log: Log, given: Given, config: Config, snapshots: dict[str, Snapshot]) -> Dataset:
    """The digits, on this rank's device. One process of each machine downloads them if need be."""
    reason, chosen = None, data_is_chosen(given)
    with world.agreement():
        if world.local_rank == 0:
            with world.heartbeat.busy("downloading the data set", DOWNLOAD_SECONDS):
                reason = datasets.provide(config.data, config.data_dir, chosen, log.say)
    with world.agreement() as statement:
        dataset = datasets.load_or_sample(config.data, config.data_dir, chosen)
        statement["the data set"] = dataset.name
        for net, snapshot in snapshots.items():
            if snapshot["dataset"] != dataset.describe():
                raise UsageError(
                    f"--resume: {net} was trained on other digits, {told(snapshot['dataset'])}, than are found now,"
                    f" {told(dataset.describe())}; choose the right --data-dir"
                )
    if reason:
        log.warn(datasets.substituted(config.data_dir, reason))
    return dataset.to(world.device)


def told(dataset: dict[str, Any]) -> str:
    return f"{dataset['name']} of {dataset['train']:,} + {dataset['test']:,}"


def describe_run(given: Given, configs: dict[str, Config], dataset: Dataset, launch: Launch) -> dict[str, Any]:
    """config.json: what `--resume` starts from (`given`), and every option in force for each net.

    The data's directory is noted as an absolute path: the run may be resumed or exported from another directory.
    """
    given = {name: value for name, value in given.items() if name not in ("resume", "output")}
    options = {net: dataclasses.asdict(config) for net, config in configs.items()}
    for noted in (given, *options.values()):
        if "data_dir" in noted:
            noted["data_dir"] = noted["data_dir"].absolute()
    return {
        "schema": 1,
        "distmnist": __version__,
        "given": to_json(given),
        "options": {net: to_json(values) for net, values in options.items()},
        "dataset": dataset.describe(),
        "launch": launch.to_json(),
    }


def header(
    log: Log, world: World, config: Config, setting: dict[str, Any], why: str, dataset: Dataset, directory: RunDirectory
) -> None:
    threads = setting["threads"]
    shares = sorted({config.batch_size // world.size, -(-config.batch_size // world.size)})
    log.say("  ".join(f"{name} {version}" for name, version in versions().items()))
    log.say(
        f"{world.size} process{'es' if world.size > 1 else ''} x {threads} thread{'s' if threads > 1 else ''}"
        f" on {setting['device']}, amp {setting['amp']} ({why})"
    )
    log.say(
        f"global batch {config.batch_size}: {' or '.join(map(str, shares))} a process;"
        f" recipe {config.recipe}, random seed {config.seed}"
    )
    log.say(f"data: {dataset.name}, {len(dataset.train):,} + {len(dataset.test):,} digits ({dataset.origin})")
    log.say(f"output: {directory.path}")


def leave_plots(
    log: Log, directory: RunDirectory, figures: dict[str, Any], histories: dict[str, list[dict[str, Any]]]
) -> None:
    """Writes plots/*.svg into the run where matplotlib is installed. What fails in it is warned of: the run stands."""
    if not plots.available():
        return
    try:
        confusions = {net: figure["confusion"] for net, figure in figures.items()}
        for name, content in plots.of_run(histories, confusions).items():
            directory.write(f"plots/{name}", content)
    except Exception as error:
        reason = " ".join(str(error).split()) or "no reason given"
        log.warn(f"the run is complete but its plots are not: {type(error).__name__}: {reason}")
    else:
        log.say(f"plots: {directory.path / 'plots'}")


def footer(log: Log, dataset: Dataset, figures: dict[str, Any], finished: bool, directory: RunDirectory) -> None:
    if figures:
        log.say()
        log.say(summary.table(dataset, figures))
    log.say()
    if finished:
        log.say(f"next: {hint('-m', 'distmnist.export', directory.path)}")
    else:
        log.say(f"interrupted; to go on: the same command with --resume --output {quoted(directory.path)}")
