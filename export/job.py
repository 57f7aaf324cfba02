"""One export, or one proof of an exported folder: find the nets and the digits, write, prove, publish."""

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
from distmnist.config import Json
from distmnist.data import known
from distmnist.data.dataset import Dataset, DatasetFacts
from distmnist.errors import UsageError
from distmnist.machine import versions
from distmnist.runs.rundir import newer_than_latest, noted_data
from distmnist.streams import say, warn

from . import folder, gate, parity, predict_folder, provenance, publish, reference
from .formats import int8, onnx_file, torchscript
from .opsets import DEFAULT_OPSET
from .record import ExportedModel, Manifest, Measured, Report
from .reference import Case

OLDEST_RUNTIME = "1.15"
"""The oldest ONNX Runtime that was tried on files of the default opset, and the first with a wheel for Python 3.11."""


class ParityError(Exception):
    """The files do not decide as the nets do: one line a failure, each naming its file. Exit code 3."""

    def __init__(self, failures: list[str], where: str) -> None:
        super().__init__(where)
        self.failures, self.where = failures, where


def export(path: Path, output: Path | None, data_dir: Path | None, opset: int, quantised: bool) -> None:
    """Exports every net in `path`; quantised: as int8 too.

    Raises UsageError, RunError, and ParityError: then `output` is as it was before.
    """
    nets, warnings = source.load(path)
    check_temporary_directory()
    for warning in warnings:
        warn(warning)
    if newer := newer_than_latest(path):
        warn(f"{path} is a directory, not a link to the newest run, which is {newer}")
    for trained in nets:
        if trained.result is None:
            warn(f"{trained.name} is not finished: its training was interrupted")
    for trained in nets:
        check_exportable(trained)
    dataset = find_dataset([trained.dataset for trained in nets], data_dir, noted_data(path))
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
            write(staged, trained, metadata[trained.name], asked[trained.name][0], without)
            without |= write_int8(staged, trained.name, asked[trained.name][0], dataset, quantised)
        predict_folder.write(staged)
        (staged / "requirements.txt").write_text(requirements(opset))
        report, failures = prove(staged, nets, asked, metadata, dataset, without)
        if failures:
            raise ParityError(failures, f"nothing was exported to {output}; {keep(failed, report, failures)}")
        write_atomically(staged / folder.MANIFEST, folder.sealed(report.to_json() | {"files": folder.digests(staged)}))
    if failed.exists():
        failed.unlink()
    say_results(report)
    say(f"proved and written: {output}")
    say(f"next: {hint(output / 'predict.py', output / gate.names(nets[-1].name)['pixels'])} IMAGE")


def check_exportable(trained: Trained) -> None:
    """Raises UsageError for a net of other images than the exported files take."""
    facts = trained.dataset
    if facts.shape != (1, 28, 28) or len(facts.class_names) != 10:
        shape = " x ".join(map(str, facts.shape))
        raise UsageError(
            f"{trained.name} was trained on images of {shape} and {len(facts.class_names)} classes; only nets of"
            " 1 x 28 x 28 and 10 classes can be exported so far"
        )


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


def requirements(opset: int) -> str:
    """Of predict.py. A newer opset than the default needs a newer runtime: the one that proved it is known to do."""
    runtime = OLDEST_RUNTIME if opset == DEFAULT_OPSET else onnxruntime.__version__
    return f"onnxruntime>={runtime}\nnumpy>=1.24\nPillow>=10\n"


def write(staged: Path, trained: Trained, metadata: dict[str, str], digits: Case, without: dict[str, str]) -> None:
    """Every float32 file of one net, not yet proved; digits: the test digits."""
    opset, names = int(metadata["opset"]), gate.names(trained.name)
    (staged / names["logits"]).write_bytes(onnx_file.logits_model(trained.net, opset, metadata))
    (staged / names["pixels"]).write_bytes(onnx_file.pixels_model(trained, opset, metadata))
    if "torchscript" not in without:
        (staged / names["torchscript"]).write_bytes(torchscript.to_torchscript(trained.net))
    target = staged / trained.name / "test_data_set_0"
    target.mkdir(parents=True)
    for name, content in gate.sample(digits).items():
        (target / name).write_bytes(content)


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
    """What the net says of the test digits, first, and of the probes."""
    return [reference.ask(trained, "digits", dataset.test.images, is_digits=True), *reference.probes(trained)]


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
        bound=parity.BOUND,
        batches=parity.BATCHES,
        levels=tuple(parity.LEVELS),
        without=without,
        models=models,
    )
    return report, failures


def verify(path: Path, run: Path | None, data_dir: Path | None) -> None:
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
    nets = source.load(run)[0] if run else [rebuild(path, name, entry) for name, entry in manifest.models.items()]
    if missing := metadata.keys() ^ {trained.name for trained in nets}:
        raise UsageError(f"{path} and {run} do not hold the same nets: {', '.join(sorted(missing))}")
    dataset = find_dataset([manifest.dataset], data_dir, [*(noted_data(run) if run else ()), *noted_data(path)])
    asked = {trained.name: ask(trained, dataset) for trained in nets}
    again, failures = prove(path, nets, asked, metadata, dataset, manifest.without)
    if failures:
        raise ParityError(failures, where)
    say_results(again)
    say(f"proved again: {path}, {len(manifest.files)} files, each as parity.json says")


def rebuild(path: Path, name: str, entry: ExportedModel) -> Trained:
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
    net = source.build(name, options, dataset, file)
    weights = {key: torch.tensor(state[key]) for key in net.state_dict() if key in state}
    source.fill(net, weights, file)
    return Trained(name, net, weights_sha256(net.state_dict()), options, dataset, None)


def find_dataset(wanted: list[DatasetFacts], data_dir: Path | None, noted: list[Path]) -> Dataset:
    """The data set that the nets were tested on; noted: where training found it.

    Raises UsageError: it is not on this machine, so there is no proof.
    """
    first, *others = dict.fromkeys(wanted)
    if others:
        named = ", ".join(map(str, (first, *others)))
        raise UsageError(f"the nets were tested on different data sets, {named}; export one at a time")
    return known.find_dataset(first, data_dir, noted, "the proof needs its test digits")


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
        agree = min(one.labels_agree for one in measured)
        excused = sorted({index for one in measured for index in one.excused})
        lines.append(
            f"{model}: {len(found.files)} files, {agree:,} of {worst.count:,} labels agree"
            + (f" (referee undecided: {excused[:5]})" if excused else "")
            + f"; worst logit error {worst.worst_error:.1e}, digit {worst.digit} ({name}),"
            f" bound {worst.bound:g}; test accuracy {found.test_accuracy_here:.2%}"
        )
        if figures := found.int8:
            lines.append(
                f"{int8.name(model)}: {figures.labels_agree:,} of {figures.count:,} labels agree with the net;"
                f" test accuracy {figures.test_accuracy:.2%}"
            )
    for line in lines if len(lines) <= 6 else [*lines[:5], f"... {len(lines) - 5} more in {folder.MANIFEST}"]:
        say(line)
