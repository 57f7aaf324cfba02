"""What a proof finds, as types: parity.json, and what is read of it again. What is None is left out of the file."""

import dataclasses

from distmnist.checkpoint.record import JsonRecord
from distmnist.data.dataset import DatasetFacts

SCHEMA = 1

JsonObject = dict[str, object]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured(JsonRecord):
    """A file's answers to a case, held against the trained net's. Errors are absolute: of logits or of probabilities.

    digit: the index of the worst one; from_referee, net_from_referee: the file's and the net's largest distance from
    the float64 referee; excused: indices where the label differs and the referee itself cannot tell; failure: why it
    does not pass, None if it does.
    """

    worst_error: float
    digit: int
    bound: float
    from_referee: float
    net_from_referee: float
    labels_agree: int
    excused: list[int]
    count: int
    failure: str | None = None


@dataclasses.dataclass(frozen=True)
class Unmeasured(JsonRecord):
    """What cannot be measured, and why."""

    failure: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A file asked about a case, in batches."""

    case: str
    level: str
    batch: int
    measured: Measured | Unmeasured

    def to_json(self) -> JsonObject:
        return {"case": self.case, "level": self.level, "batch": self.batch, **self.measured.to_json()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileReport:
    """One file. evaluator: what ONNX's reference evaluator makes of it, on a few digits; None: it is no ONNX file."""

    runs: list[Run]
    opset: int | None = None
    ir_version: int | None = None
    evaluator: Measured | Unmeasured | None = None

    def worst(self) -> tuple[Run, Measured] | None:
        """Of the runs over all images of the first case, the test images, that with the largest error.

        None: nothing was measured.
        """
        first = [(r, r.measured) for r in self.runs if r.case == self.runs[0].case and isinstance(r.measured, Measured)]
        whole = max((measured.count for _, measured in first), default=0)
        over_all = [pair for pair in first if pair[1].count == whole]
        return max(over_all, key=lambda pair: pair[1].worst_error, default=None)

    def to_json(self) -> JsonObject:
        found: JsonObject = {} if self.opset is None else {"opset": self.opset, "ir_version": self.ir_version}
        if self.evaluator is not None:
            found["evaluator"] = self.evaluator.to_json()
        worst = self.worst()
        return found | {"worst": worst[0].to_json() if worst else {}, "runs": [run.to_json() for run in self.runs]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Int8Figures(JsonRecord):
    """How the int8 file decides, in the worst of all runs. failure: why that is not near enough to the net."""

    labels_agree: int
    count: int
    test_accuracy: float
    net_test_accuracy: float
    failure: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelReport:
    """One net. counters: its buffers that are whole numbers; smallest_margin: of the referee's two best logits.

    test_accuracy_here: the net's own, on this machine.
    """

    weights_sha256: str
    metadata: dict[str, str]
    counters: dict[str, object]
    smallest_margin: float
    smallest_margin_digit: int
    files: dict[str, FileReport]
    test_accuracy_here: float
    int8: Int8Figures | None = None

    def to_json(self) -> JsonObject:
        found: JsonObject = {
            "weights_sha256": self.weights_sha256,
            "metadata": self.metadata,
            "counters": self.counters,
            "referee": {"smallest_margin": self.smallest_margin, "digit": self.smallest_margin_digit},
            "files": {name: report.to_json() for name, report in self.files.items()},
            "test_accuracy_here": self.test_accuracy_here,
        }
        return found | ({"int8": self.int8.to_json()} if self.int8 else {})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """parity.json, but for its own digest and those of the files. without: what is not in the folder, and why."""

    versions: dict[str, str]
    dataset: DatasetFacts
    bound: float
    batches: tuple[int, ...]
    levels: tuple[str, ...]
    without: dict[str, str]
    models: dict[str, ModelReport]

    def to_json(self) -> JsonObject:
        return {
            "schema": SCHEMA,
            "sha256": "",
            "versions": self.versions,
            "dataset": self.dataset.to_json(),
            "bound": self.bound,
            "batches": self.batches,
            "levels": self.levels,
            "without": self.without,
            "models": {name: report.to_json() for name, report in self.models.items()},
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileDigest:
    sha256: str
    bytes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportedModel:
    """What is read of a model's entry in parity.json."""

    metadata: dict[str, str]
    counters: dict[str, object]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """What is read of parity.json: enough to prove the folder again."""

    dataset: DatasetFacts
    without: dict[str, str]
    models: dict[str, ExportedModel]
    files: dict[str, FileDigest]
