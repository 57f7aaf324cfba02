"""A run with two barely trained nets, and its export: made once a session, for all processes that share out the tests.

A test that changes them copies them.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from filelock import FileLock
from hooks import Keep

from distmnist.checkpoint import storage
from distmnist.config import TrainConfig
from distmnist.data import known
from distmnist.data.dataset import Dataset
from distmnist.training.trainer import fit
from export import __main__ as command
from export import parity
from export.formats import onnx_file
from export.predict import Predictor


def train(folder: Path, dataset: Dataset, **options) -> None:
    """Trains a net and saves its snapshot as folder/<model>/last.pt."""
    config = TrainConfig(amp="off", **options)
    target = folder / config.model
    target.mkdir(parents=True)
    fit(config, dataset, callbacks=[Keep(lambda checkpoint: storage.save(target, checkpoint))])


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all processes of a session under pytest-xdist, each of which has a base directory of its own."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session", autouse=True)
def converted_once(shared_folder: Path) -> Iterator[None]:
    """torch takes seconds to convert a net to ONNX: the same net, with the same facts, is converted once a session."""
    convert = onnx_file.convert
    folder = shared_folder / "converted"
    folder.mkdir(exist_ok=True)

    def look_up(module, example, inputs, outputs, opset, metadata, state) -> bytes:
        facts = repr((module, inputs, outputs, opset, sorted(metadata.items()), storage.weights_sha256(state)))
        path = folder / hashlib.sha256(facts.encode()).hexdigest()
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                storage.write_atomically(path, convert(module, example, inputs, outputs, opset, metadata, state))
        return path.read_bytes()

    with mock.patch.object(onnx_file, "convert", look_up):
        yield


@pytest.fixture(scope="session")
def trained_run(shared_folder: Path) -> Path:
    run = shared_folder / "run"
    with FileLock(shared_folder / "run.lock"):
        if not run.exists():
            train(shared_folder / "training", known.load_sample(), model="mlp", epochs=2)
            train(shared_folder / "training", known.load_sample(), model="cnn", epochs=3)
            (shared_folder / "training").rename(run)
    return run


@pytest.fixture(scope="session")
def exported(trained_run: Path) -> Path:
    """The run's export, proved on all 1,000 test digits of the sample."""
    with FileLock(trained_run.with_name("export.lock")):
        if not (trained_run / "export").exists():  # it is there at once, and whole
            assert command.main([str(trained_run)]) == 0
    return trained_run / "export"


@pytest.fixture
def few_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that prove a folder but are not about how thoroughly."""
    monkeypatch.setattr(parity, "BATCHES", (7, 256))


@pytest.fixture
def deployed(exported: Path, tmp_path: Path) -> Path:
    """A copy of the export to spoil."""
    return Path(shutil.copytree(exported, tmp_path / "deployed"))


@pytest.fixture(scope="session")
def exported_mlp(trained_run: Path) -> Path:
    """The smaller net's export alone, for the tests that prove it again."""
    with FileLock(trained_run.with_name("export_mlp.lock")):
        if not (trained_run / "mlp" / "export").exists():
            assert command.main([str(trained_run / "mlp")]) == 0
    return trained_run / "mlp" / "export"


@pytest.fixture
def deployed_mlp(exported_mlp: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported_mlp, tmp_path / "deployed"))


@pytest.fixture(scope="session")
def predictor(exported: Path) -> Predictor:
    return Predictor(exported / "cnn.pixels.onnx")


@pytest.fixture(scope="session")
def sample_digits() -> tuple[np.ndarray, np.ndarray]:
    """The sample's test digits: uint8 [1000, 28, 28], and their labels."""
    test = known.load_sample().test
    return test.images.squeeze(1).numpy(), test.labels.numpy()
