"""What the first edition wrote, commit 8b33e4c, is read, resumed and verified: see tests/fixtures/README.md."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from distmnist import train
from distmnist.report import __main__ as report
from distmnist.study import __main__ as study
from export import __main__ as export

FIXTURE = Path(__file__).parents[1] / "fixtures" / "first_edition"


@pytest.fixture
def first(tmp_path, monkeypatch) -> Path:
    """A copy, in an empty current directory."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(FIXTURE, tmp_path / "first"))


def test_its_run_is_resumed_and_ends_as_it_did_there(first, capsys):
    assert train.main(["--resume", f"--output={first / 'run'}", "--max-steps=1000000"]) == 0
    assert capsys.readouterr().err.count("\n") <= 1  # what it says of the sample
    summary = json.loads((first / "run/summary.json").read_text())
    assert (summary["status"], summary["models"]["mlp"]["steps"]) == ("finished", 40)
    with np.load(first / "run/mlp/predictions.npz") as now, np.load(first / "predictions_after_resume.npz") as then:
        assert np.array_equal(now["labels"], then["labels"])
        # Equal bits on one type of processor; elsewhere sums round otherwise.
        assert np.allclose(now["losses"], then["losses"], atol=1e-3)
    assert report.main([str(first / "run"), "--output=page"]) == 0
    assert Path("page/index.html").exists()


def test_its_snapshot_is_exported_and_proved(first):
    assert export.main([str(first / "run/mlp/last.pt"), "--output", "out"]) == 0
    assert Path("out/mlp.onnx").exists()


def test_its_export_is_verified(first):
    assert export.main(["--verify", str(first / "export")]) == 0


def test_its_study_is_not_trained_again(first, capsys):
    options = ["--epochs=1", "--batch-size=500", "--repeats=2", "--recipes=reference", "--amp=off"]
    before = {path: path.read_bytes() for path in first.glob("study/runs/*/summary.json")}
    assert study.main([*options, "--output", str(first / "study")]) == 0
    assert {path: path.read_bytes() for path in before} == before
    assert "reference  mlp    63.75%" in capsys.readouterr().out
