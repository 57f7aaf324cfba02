"""One run of the command, in this process: what it leaves behind, and what it refuses."""

import dataclasses
import itertools
import json
import os
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from digits import few_digits, stored
from one_run import SMALL, contents, figures, refusal

from distmnist import plots, train
from distmnist.checkpoint.record import ModelResult
from distmnist.checkpoint.storage import weights_sha256
from distmnist.console import Log, Silence
from distmnist.data import download
from distmnist.data.dataset import DatasetFacts
from distmnist.data.known import load_sample
from distmnist.machine import processor
from distmnist.models.build import MODELS
from distmnist.runs import table
from distmnist.runs.rundir import RunDirectory


def test_a_run_of_both_nets_leaves_the_files_and_figures_of_the_contract(command):
    code, _, err = command("--epochs=1", "--batch-size=100", "--amp=off")
    assert (code, err) == (0, [])
    (run,) = (path for path in Path("runs").iterdir() if path.name != "latest")
    assert re.fullmatch(r"\d{8}-\d{6}", run.name) and Path("runs/latest").resolve() == run.resolve()
    names = [f"{net}/{name}" for net in MODELS for name in ("last.pt", "metrics.jsonl", "predictions.npz")]
    if plots.available():
        names += [f"plots/{name}.svg" for name in ("loss", "accuracy", "confusion-mlp", "confusion-cnn")]
    assert {os.path.relpath(path, run) for path in contents(run)} == {"config.json", "summary.json", *names}

    written = json.loads((run / "summary.json").read_text())
    assert (written["schema"], written["status"], written["world_size"]) == (1, "finished", 1)
    assert written["dataset"] == stored(few_digits())
    assert written["hardware"] == processor()
    assert (written["device"], written["amp"], written["versions"]["torch"]) == ("cpu", "off", torch.__version__)
    assert list(written["models"]) == ["mlp", "cnn"]
    for net, parameters in (("mlp", 109_386), ("cnn", 429_258)):
        figure = written["models"][net]
        arrays = np.load(run / net / "predictions.npz")
        assert (figure["parameters"], figure["epochs"], figure["count"]) == (parameters, 1, 120)
        assert figure["correct"] == int((arrays["predictions"] == arrays["labels"]).sum())
        assert figure["test_accuracy"] == figure["correct"] / 120
        assert figure["test_loss"] == pytest.approx(arrays["losses"].mean(), rel=1e-6)
        assert figure["notebook_test_loss"] > 0 and figure["train_seconds"] > 0 and figure["images_per_second"] > 0
        assert len(figure["confusion"]) == len(figure["per_class_accuracy"]) == len(figure["f1"]) == 10
        snapshot = torch.load(run / net / "last.pt", weights_only=True)
        assert weights_sha256(snapshot["model"]) == figure["weights_sha256"]
        (line,) = (run / net / "metrics.jsonl").read_text().splitlines()
        keys = {"epoch", "step", "train_loss", "test_loss", "test_accuracy", "lr", "images_per_second"}
        assert keys <= json.loads(line).keys() and json.loads(line)["test_loss"] == figure["test_loss"]


def test_a_person_sees_the_setting_first_one_line_an_epoch_and_the_next_command_last(command):
    _, out, _ = command(*SMALL, "--output=a")
    head = "\n".join(out[: next(number for number, line in enumerate(out) if "epoch 1/2" in line)])
    for part in (torch.__version__, "1 process x 1 thread on cpu, amp off (as asked)", "global batch 60: 60 a process"):
        assert part in head
    assert "data: mnist-sample, 300 + 120 images" in head and "output: a" in head
    assert len([line for line in out if "epoch" in line and "images/s" in line]) == 2
    assert out[-1] == "next: python -m distmnist.export a"


@pytest.mark.skipif(not plots.available(), reason="needs matplotlib: the extra report")
def test_the_plots_are_left_in_the_run_and_one_line_says_where(command):
    code, out, err = command(*SMALL, "--output=a")
    assert (code, err) == (0, []) and [line for line in out if "plots" in line] == [f"plots: {Path('a', 'plots')}"]
    assert Path("a/plots/loss.svg").read_bytes().startswith(b"<?xml")


def test_a_plot_that_fails_costs_one_warning_and_not_the_run(command, monkeypatch):
    def fail(histories, confusions, class_names):
        raise ValueError("no such\nfont")

    monkeypatch.setattr(plots, "available", lambda: True)
    monkeypatch.setattr(plots, "of_run", fail)
    code, out, err = command(*SMALL, "--output=a")
    assert code == 0 and out[-1] == "next: python -m distmnist.export a" and figures("a")["correct"] > 0
    assert err == ["WARNING: the run is complete but its plots are not: ValueError: no such font"]


def test_without_matplotlib_nothing_is_said_of_plots(command, monkeypatch):
    monkeypatch.setattr(plots, "available", lambda: False)
    code, out, err = command(*SMALL, "--output=a")
    assert (code, err) == (0, []) and not any("plot" in line for line in out) and not Path("a/plots").exists()


def table_of(name, **figures):
    dataset = few_digits()
    figure = ModelResult(
        test_accuracy=0.5,
        test_loss=0.25,
        notebook_test_loss=0.004,
        correct=60,
        count=120,
        per_class_accuracy=[],
        confusion=[],
        parameters=109_386,
        epochs=1,
        steps=1,
        train_loss=0.5,
        train_seconds=2.5,
        images_per_second=12_345.0,
        weights_sha256="",
    )
    figure = dataclasses.replace(figure, **figures)
    return table.results(dataclasses.replace(dataset, name=name), {"mlp": figure, "cnn": figure})


def test_the_published_figures_stand_beside_those_of_mnist_and_never_beside_those_of_the_sample():
    table = table_of("mnist")
    mlp, cnn = table.splitlines()[1:3]
    assert "50.00% (97.42%)" in mlp and "0.0040 (0.0013)" in mlp and "109,386" in mlp and "12,345" in mlp
    assert "(98.88%)" in cnn and "(0.0006)" in cnn
    table = table_of("mnist-sample")
    assert not re.search(r"97\.42|98\.88|0\.0013|0\.0006", table)
    assert "On the sample expect" in table


def test_nothing_of_mnist_stands_beside_other_images_and_uneven_classes_have_a_balanced_accuracy():
    table = table_of("fashion-mnist", confusion=[[30, 30], [30, 30]], balanced_accuracy=0.5)
    assert not re.search("published|sample|MNIST|64|balanced", table) and len(table.splitlines()) == 3
    table = table_of("fashion-mnist", confusion=[[30, 70], [20, 0]], balanced_accuracy=0.15)
    head, mlp, _ = table.splitlines()
    assert head.split("  ")[:3] == ["model", "accuracy", "balanced accuracy"] and "15.00%" in mlp


def test_a_bar_is_shown_on_a_terminal_by_rank_0_alone(monkeypatch, capsys):
    for terminal, log, shown in ((True, Log(), True), (False, Log(), False), (True, Silence(), False)):
        monkeypatch.setattr("sys.stderr.isatty", lambda terminal=terminal: terminal, raising=False)
        with log.progress("mlp 1/5", total=3) as bar:
            bar.update()
        assert bool(capsys.readouterr().err) == shown
    Silence().say("x")
    Silence().warn("x")
    assert capsys.readouterr() == ("", "")


def test_the_sample_is_trained_on_loudly_when_the_download_fails(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(download, "download", lambda *_: "the mirrors are down")
    assert train.main(["--model=mlp", "--max-steps=2", "--output=a"]) == 0
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert "SAMPLE" in line and "the mirrors are down" in line and "data/MNIST/raw" in line
    assert "mnist-sample" in out and "97.42" not in out
    named = [json.loads(Path("a", name).read_text())["dataset"] for name in ("config.json", "summary.json")]
    assert named == [stored(load_sample())] * 2
    noted = torch.load("a/mlp/last.pt", weights_only=True)["dataset"]
    assert msgspec.convert(noted, DatasetFacts) == load_sample().describe()


def test_a_directory_that_holds_a_run_is_refused_and_left_alone(command):
    command(*SMALL, "--output=a")
    before = contents("a")
    assert "--output a holds a run; add --resume" in refusal(command(*SMALL, "--output=a"))
    assert contents("a") == before


def test_a_directory_in_use_is_refused_with_and_without_resume(command):
    command(*SMALL, "--output=a")
    before = contents("a")
    user = RunDirectory(Path("a"))
    for more in ([], ["--resume"]):
        assert "--output a is in use by another run" in refusal(command(*SMALL, "--output=a", *more))
    user.release()
    assert contents("a") == before
    assert command("--output=a", "--resume")[0] == 0


def test_an_output_that_cannot_be_written_or_resumed_is_refused_and_nothing_is_made(command):
    Path("file").write_text("x")
    assert "--output file/a cannot be written" in refusal(command(*SMALL, "--output=file/a"))
    assert "nowhere holds no run" in refusal(command("--resume", "--output=nowhere"))
    assert "--model resnet is unknown" in refusal(command("--model=resnet"))
    assert os.listdir(".") == ["file"]
    Path("broken").mkdir()
    Path("broken/config.json").write_text("{")
    assert "broken/config.json cannot be read" in refusal(command("--resume", "--output=broken"))


def test_a_run_that_cannot_go_on_answers_1_with_one_line(command, monkeypatch):
    code, _, err = command(*SMALL, "--output=a", "--optimizer=sgd", "--lr=1e30")
    assert code == 1 and len(err) == 1 and re.search(r"the loss is .*mlp, epoch 1, step", err[0])
    assert not Path("a/mlp").exists()

    calls = itertools.count()
    fsync = os.fsync

    def full(descriptor):
        if next(calls) > 12:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    code, _, err = command(*SMALL, "--output=b", "--epochs=20")
    assert code == 1 and len(err) == 1 and "No space left on device" in err[0]
    monkeypatch.setattr(os, "fsync", fsync)
    assert command("--resume", "--output=b")[0] == 0


def test_a_net_that_a_user_registers_is_trained_and_saved_by_the_command(command, monkeypatch):
    class Toy(torch.nn.Module):
        def __init__(self, activation, dropout):
            super().__init__()
            self.mine = torch.nn.Linear(784, 10)

        def forward(self, images):
            return self.mine(images.flatten(1))

    monkeypatch.setitem(MODELS, "toy", Toy)
    code, out, _ = command(*SMALL, "--model=toy", "--output=a")
    assert code == 0 and any(line.startswith("toy ") for line in out)
    assert figures("a", "toy")["parameters"] == 7850
    assert torch.load("a/toy/last.pt", weights_only=True)["model"].keys() == {"mine.weight", "mine.bias"}
