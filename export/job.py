"""One export, or one proof of an exported folder: find the nets and the digits, write, prove, publish."""

import dataclasses
import tempfile
from pathlib import Path

import msgspec
import onnx
import onnxruntime
import torch

from distmnist.checkpoint import source
from distmnist.checkpoint.source import Trained
from distmnist.checkpoint.storage import weights_sha256, write_atomically
from distmnist.commandline import hint
from distmnist.config import Json, is_custom, short_name
from distmnist.data import sources
from distmnist.data.dataset import Dataset, DatasetFacts
from distmnist.errors import UsageError
from distmnist.machine import versions
from distmnist.models.build import MODELS
from distmnist.runs.rundir import newer_than_latest, noted_data
from distmnist.streams import say, warn
from distmnist.text import shown

from . import folder, gate, parity, predict_folder, provenance, publish, reference
from .formats import int8, onnx_file, torchscript, weights_file
from .opsets import DEFAULT_OPSET
from .record import ExportedModel, Manifest, Measured, Report, Run
from .reference import Case

OLDEST_RUNTIME = "1.15"
"""The oldest ONNX Runtime that was tried on files of the default opset, and the first with a wheel for Python 3.11."""


class ParityError(Exception):
    """The files do not decide as the nets do: one line a failure, each naming its file. Exit code 3."""

    def __init__(self, failures: list[str], where: str) -> None:
        super().__init__(where)
        self.failures, self.where = failures, where


@dataclasses.dataclass(frozen=True)
class Asked:
    """What the command line names beside paths. model, model_args: a custom model, see `source.load`; data: where the
    user's own images are now; data_dir: where known data sets are.
    """

    model: str | None = None
    model_args: str | None = None
    data: str | None = None
    data_dir: Path | None = None


def export(path: Path, output: Path | None, given: Asked, opset: int, quantised: bool) -> None:
    """Exports every net in `path`; quantised: as int8 too.

    Raises UsageError, RunError, and ParityError: then `output` is as it was before.
    """
    nets, warnings = source.load(path, given.model, given.model_args)
    check_temporary_directory()
    for warning in warnings:
        warn(warning)
    if newer := newer_than_latest(path):
        warn(f"{path} is a directory, not a link to the newest run, which is {newer}")
    for trained in nets:
        if trained.result is None:
            warn(f"{trained.name} is not finished: its training was interrupted")
    dataset = find_dataset(nets, given, noted_data(path))
    output = output or (path if path.is_dir() else path.parent) / "export"
    beside = output if output.name.strip(".") else output.resolve()  # "." has no name
    failed = beside.with_name(f"{beside.name}-failed.json")
    metadata = {trained.name: provenance.describe(trained, opset) for trained in nets}
    without: dict[str, str] = {}
    if reason := torchscript.refusal():
        warn(f"no TorchScript: {reason}")
        without["torchscript"] = reason
    asked = {trained.name: ask(trained, dataset) for trained in nets}
    with publish.staging(output) as staged:
        for trained in nets:
            without |= write(staged, trained, metadata[trained.name], asked[trained.name][0], without)
            without |= write_int8(staged, trained.name, asked[trained.name][0], dataset, quantised)
        predict_folder.write(staged)
        (staged / "requirements.txt").write_text(requirements(opset, dataset))
        labels = "".join(f"{shown(name)}\n" for name in dataset.class_names)
        (staged / "labels.txt").write_text(labels, encoding="utf-8")
        report, failures = prove(staged, nets, asked, metadata, dataset, without)
        if failures:
            raise ParityError(failures, f"nothing was exported to {output}; {keep(failed, report, failures)}")
        write_atomically(staged / folder.MANIFEST, folder.sealed(report.to_json() | {"files": folder.digests(staged)}))
    if failed.exists():
        failed.unlink()
    say_results(report)
    say(f"proved and written: {output}")
    say(f"next: {hint(output / 'predict.py', output / gate.names(nets[-1].name)['pixels'])} IMAGE")


def check_temporary_directory() -> None:
    """Raises UsageError if none can be written: torch's exporter and the quantiser would blame the net."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        raise UsageError(
            "no temporary directory can be written, and the export needs one; name one in the variable TMPDIR"
        ) from error


def keep(path: Path, report: Report, failures: list[str]) -> str:
    """Writes the measurements of a proof that failed. Returns in words where they are, or why they are not."""
    try:
        write_atomically(path, folder.dump(report.to_json() | {"failures": failures}))
    except OSError as error:
        return f"the measurements could not be written to {path}: {error.strerror}"
    return f"the measurements are in {path}"


def requirements(opset: int, dataset: Dataset) -> str:
    """Of predict. A newer opset than the default needs a newer runtime: the one that proved it is known to do.

    Where images came from files, the Pillow that decoded them: another version may decode a JPEG otherwise.
    """
    runtime = OLDEST_RUNTIME if opset == DEFAULT_OPSET else onnxruntime.__version__
    pillow = dataset.decoder.replace(" ", "==") if dataset.decoder else "Pillow>=10"
    return f"onnxruntime>={runtime}\nnumpy>=1.24\n{pillow}\n"


def write(
    staged: Path, trained: Trained, metadata: dict[str, str], digits: Case, without: dict[str, str]
) -> dict[str, str]:
    """Every float32 file of one net, not yet proved; digits: the test images. What there is not, by name, and why."""
    opset, names = int(metadata["opset"]), gate.names(trained.name)
    missing = {}
    (staged / names["logits"]).write_bytes(onnx_file.logits_model(trained, opset, metadata))
    (staged / names["pixels"]).write_bytes(onnx_file.pixels_model(trained, opset, metadata))
    (staged / names["safetensors"]).write_bytes(weights_file.to_safetensors(trained.net, metadata))
    if "torchscript" not in without:
        try:
            content = torchscript.to_torchscript(trained.net, trained.dataset.shape)
            (staged / names["torchscript"]).write_bytes(content)
        except RuntimeError as error:
            if trained.name in MODELS:
                raise
            missing[names["torchscript"]] = f"torch cannot trace the model: {str(error).strip().splitlines()[0]}"
            warn(f"{names['torchscript']} is left out: {missing[names['torchscript']]}")
    target = staged / trained.name / "test_data_set_0"
    target.mkdir(parents=True)
    for name, content in gate.sample(digits).items():
        (target / name).write_bytes(content)
    return missing


def write_int8(staged: Path, model: str, digits: Case, dataset: Dataset, wanted: bool) -> dict[str, str]:
    """The net's int8 file. Where there is none: its name, and why."""
    name = int8.name(model)
    if not wanted:
        return {name: "--int8 was not given"}
    exported = (staged / gate.names(model)["logits"]).read_bytes()
    content, figures = int8.make(exported, dataset.train, digits, dataset.test.labels.numpy())
    if figures.failure:
        warn(f"{name} is left out: {figures.failure}")
        return {name: figures.failure}
    (staged / name).write_bytes(content)
    return {}


def ask(trained: Trained, dataset: Dataset) -> list[Case]:
    """What the net says of the test images, first, and of the probes."""
    tested = reference.ask_test_images(trained, dataset.test)
    return [tested, *reference.probes(trained, tested.bound)]


def prove(
    where: Path,
    nets: list[Trained],
    asked: dict[str, list[Case]],
    metadata: dict[str, dict[str, str]],
    dataset: Dataset,
    without: dict[str, str],
) -> tuple[Report, list[str]]:
    """What was found out, and the failures of all nets."""
    models, failures, truth = {}, [], dataset.test.labels.numpy()
    for trained in nets:
        name = trained.name
        models[name], wrong = gate.prove(where, trained, metadata[name], asked[name], truth, without)
        failures += wrong
    report = Report(
        versions=versions("onnx", "onnxruntime"),
        dataset=dataset.describe(),
        bound=max(cases[0].bound for cases in asked.values()),
        batches=parity.BATCHES,
        levels=tuple(parity.LEVELS),
        without=without,
        models=models,
    )
    return report, failures


def verify(path: Path, run: Path | None, given: Asked) -> None:
    """Proves the exported folder `path` again: its manifest, then its nets, rebuilt from their own ONNX files or, if
    `run` is given, from their checkpoints. Writes nothing. Raises UsageError, and ParityError.
    """
    where = f"{path} is not what was proved; export the run again"
    content, failures = folder.read(path)
    if failures:
        raise ParityError(failures, where)
    try:
        manifest = msgspec.convert(content, Manifest)
    except msgspec.ValidationError as error:
        raise UsageError(f"{path / folder.MANIFEST} lacks what an export says: {error}") from error
    metadata = {name: entry.metadata for name, entry in manifest.models.items()}
    if run:
        nets = source.load(run, given.model, given.model_args)[0]
    else:
        nets = [rebuild(path, name, entry, given) for name, entry in manifest.models.items()]
    if missing := metadata.keys() ^ {trained.name for trained in nets}:
        raise UsageError(f"{path} and {run} do not hold the same nets: {', '.join(sorted(missing))}")
    dataset = find_dataset(nets, given, [*(noted_data(run) if run else ()), *noted_data(path)])
    # The first edition wrote none; any other file that is missing is a failure.
    weights = [gate.names(name)["safetensors"] for name in metadata]
    without = {name: "not in this export" for name in weights if name not in manifest.files} | manifest.without
    asked = {trained.name: ask(trained, dataset) for trained in nets}
    again, failures = prove(path, nets, asked, metadata, dataset, without)
    if failures:
        raise ParityError(failures, where)
    say_results(again)
    say(f"proved again: {path}, {len(manifest.files)} files, each as parity.json says")


def rebuild(path: Path, name: str, entry: ExportedModel, given: Asked) -> Trained:
    """The net in <name>.onnx, made a torch net again; `entry` is what parity.json says of it.

    The counters that no output depends on, and the file therefore lacks, come from the entry.
    """
    file = path / gate.names(name)["logits"]
    try:
        content = file.read_bytes()
        gate.check_model(content)
        state = {**onnx_file.weights(onnx.load_from_string(content)), **entry.counters}
        options = msgspec.json.decode(entry.metadata["training_options"], type=dict[str, Json])
        dataset = msgspec.json.decode(entry.metadata["dataset"], type=DatasetFacts)
    except (OSError, ValueError, KeyError, msgspec.DecodeError) as error:
        raise UsageError(f"{file} cannot be read: {error}") from error
    full = str(options.get("model", name))
    if short_name(full) != name:
        raise UsageError(f"{file} says that it is of the model {shown(full)}, and its name says {name}")
    net = source.build(full, options, dataset, file, given.model if is_custom(full) else None, given.model_args)
    weights = {key: torch.tensor(state[key]) for key in net.state_dict() if key in state}
    source.fill(net, weights, file)
    return Trained(name, net, weights_sha256(net.state_dict()), options, dataset, None)


def find_dataset(nets: list[Trained], given: Asked, noted: list[Path]) -> Dataset:
    """The data set that the nets were tested on; noted: where training found it.

    Raises UsageError: it is not on this machine, so there is no proof.
    """
    first, *others = dict.fromkeys(trained.dataset for trained in nets)
    if others:
        named = ", ".join(map(str, (first, *others)))
        raise UsageError(f"the nets were tested on different data sets, {named}; export one at a time")
    purpose = "the proof needs its test images"
    return sources.find_dataset(first, nets[0].options, given.data, given.data_dir, noted, purpose)


def noun(run: Run) -> str:
    """What an image of the case is called."""
    return "digit" if run.case == "digits" else "image"


def say_results(report: Report) -> None:
    """One line a net, and one for its int8 file; six at most: the whole is in parity.json."""
    lines = []
    for model, found in report.models.items():
        compared = [(name, file.worst()) for name, file in found.files.items() if "pixels" not in name]
        name, run, worst = max(
            ((name, *pair) for name, pair in compared if pair), key=lambda triple: triple[2].worst_error
        )
        runs = [other for file in found.files.values() for other in file.runs if other.case == run.case]
        measured = [other.measured for other in runs if isinstance(other.measured, Measured)]
        measured = [one for one in measured if one.count == worst.count]
        agree = min(one.labels_agree for one in measured)
        excused = sorted({index for one in measured for index in one.excused})
        lines.append(
            f"{model}: {len(found.files)} files, {agree:,} of {worst.count:,} labels agree"
            + (f" (referee undecided: {excused[:5]})" if excused else "")
            + f"; worst logit error {worst.worst_error:.1e}, {noun(run)} {worst.digit} ({name}),"
            f" bound {worst.bound:.2g}; test accuracy {found.test_accuracy_here:.2%}"
        )
        if figures := found.int8:
            lines.append(
                f"{int8.name(model)}: {figures.labels_agree:,} of {figures.count:,} labels agree with the net;"
                f" test accuracy {figures.test_accuracy:.2%}"
            )
    for line in lines if len(lines) <= 6 else [*lines[:5], f"... {len(lines) - 5} more in {folder.MANIFEST}"]:
        say(line)
