"""The files that runs, studies and sweeps leave: what is written is read, and what does not fit is one line."""

import json
import os
from pathlib import Path

import made_up
import members
import pytest

from distmnist.errors import UsageError
from distmnist.runs import records
from distmnist.runs.records import RunSummary, StudyResult, SweepResult
from distmnist.sweep.__main__ import parse


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return made_up.sweep(tmp_path / "sweep") / "sweep.json"


def test_what_is_written_is_read(sweep: Path, tmp_path: Path):
    content = records.read(sweep, SweepResult)
    sweep.write_bytes(records.encode(content))
    assert records.read(sweep, SweepResult) == content
    summary = tmp_path / "summary.json"
    summary.write_text(json.dumps(members.summary("interrupted", {"mlp": members.result()})))
    content = records.read(summary, RunSummary)
    assert "val_loss" not in records.encode(content).decode()  # without validation
    summary.write_bytes(records.encode(content))
    assert records.read(summary, RunSummary) == content


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: s["trials"][2]["val_accuracy"].pop("mean"), r"`mean` - at `\$.trials\[2\].val_accuracy`"),
        (lambda s: s["trials"][0].update(pareto=1), r"Expected `bool`, got `int` - at `\$.trials\[0\].pareto`"),
        (lambda s: s.update(dataset=None), r"Expected `object`, got `null` - at `\$.dataset`"),
        (lambda s: s.update(schema=2), "has schema 2; this distmnist reads 1"),
        (lambda s: s.update(schema="1"), "Expected `int`, got `str` - at `\\$.schema`"),
    ],
)
def test_what_does_not_fit_is_one_line_that_names_the_file_and_the_place(sweep: Path, change, told: str):
    made_up.change(sweep, change)
    with pytest.raises(UsageError, match=told) as caught:
        records.read(sweep, SweepResult)
    assert str(sweep) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_what_is_no_number_is_refused(sweep: Path, number: str):
    sweep.write_text(sweep.read_text().replace('"val_fraction": 0.1', f'"val_fraction": {number}'))
    with pytest.raises(UsageError, match=f"{number} is not a finite number"):
        records.read(sweep, SweepResult)


def test_a_path_that_is_not_utf_8_is_read_as_it_was_written(tmp_path: Path):
    path = os.fsdecode(b"run\xff")
    config = records.RunConfig(given={"data_dir": path}, options={})
    (tmp_path / "config.json").write_bytes(records.encode(config))
    assert records.read(tmp_path / "config.json", records.RunConfig) == config


def test_the_first_editions_words_are_read(sweep: Path):
    claim = {"claim": "ReLU was best", "verdict": "sharpened", "words": "tanh is worse"}
    made_up.change(sweep, lambda s: s.update(search="star", claims=[claim]))
    content = records.read(sweep, SweepResult)
    assert content.search == "one-at-a-time" and content.claims[0].verdict == "partly supported"
    study = Path(__file__).parents[1] / "fixtures/first_edition/study/study.json"
    assert records.read(study, StudyResult).status == "finished"
    assert parse(["--search=star"]).search == "one-at-a-time"
