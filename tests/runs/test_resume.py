"""--resume: what it goes on from, what it refuses, and what it leaves."""

import json
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from digits import few_digits
from one_run import SMALL, contents, figures, refusal

from distmnist.checkpoint import storage
from distmnist.data import known
from distmnist.recipes import RECIPES
from distmnist.runs import rundir
from distmnist.runs.rundir import RunDirectory
from distmnist.training import trainer

CHANGES = {
    "--lr=0.5": "--lr 0.5: .* has 0.001",
    "--batch-size=50": "--batch-size 50: .* has 60",
    "--seed=3": "--seed 3: .* has 0",
    "--dropout=0.1": "--dropout 0.1: .* has 0.0",
    "--activation=tanh": "--activation tanh: .* has relu",
    "--optimizer=sgd": "--optimizer sgd: .* has adam",
    "--weight-decay=0.1": "--weight-decay",
    "--grad-clip=1": "--grad-clip",
    "--val-fraction=0.1": "--val-fraction",
    "--schedule=cosine": "--schedule cosine: .* has constant",
    "--recipe=best": "--(lr|schedule)",
    "--amp=bf16": "--amp bf16: .* has off",
    "--epochs=1": "--epochs 1: .* has 2",
}


def test_resuming_with_an_option_that_would_change_the_result_is_refused_by_its_name(command):
    command(*SMALL, "--output=a")
    before = contents("a")
    for typed, told in CHANGES.items():
        assert re.search(f"--resume with {told}", refusal(command("--resume", "--output=a", typed)))
    assert contents("a") == before


def test_a_recipe_that_has_changed_since_is_refused_and_may_be_outvoted(command, monkeypatch):
    monkeypatch.setitem(RECIPES, "fast", {"*": {"lr": 0.002}})
    command(*SMALL, "--recipe=fast", "--output=a", "--max-steps=3")
    monkeypatch.setitem(RECIPES, "fast", {"*": {"lr": 0.003}})
    assert "--resume with --lr 0.003: the run in a has 0.002" in refusal(command("--resume", "--output=a"))
    assert command("--resume", "--output=a", "--lr=0.002", "--max-steps=5")[0] == 0


EDITED = {
    "epochs": ["5", 1.5, True, None, [5], {"a": 1}],
    "lr": ["0.1", [0.1], None, False],
    "seed": ["0"],
    "model": [5, ["mlp"], None],
    "recipe": [["best"], {}],
    "optimizer": [3],
    "data": [1],
    "data_dir": [["x"], 5],
    "threads": ["2", [1]],
    "warp_speed": [9],
}


def edited(where: str, name: str, value: object) -> None:
    """Edits a/config.json by hand."""
    config = json.loads(Path("a/config.json").read_text())
    (config["given"] if where == "given" else config["options"]["mlp"])[name] = value
    Path("a/config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("where", ["given", "options"])
def test_a_config_with_values_of_the_wrong_type_is_one_line_that_names_file_and_option(command, where):
    command(*SMALL, "--output=a", "--max-steps=3")
    before = Path("a/config.json").read_text()
    for name, values in EDITED.items():
        for value in values:
            edited(where, name, value)
            told = refusal(command("--resume", "--output=a"))
            assert "a/config.json: " in told and name.replace("_", "-") in told.replace("_", "-")
            Path("a/config.json").write_text(before)
    edited(where, "lr", 1)  # a whole number will do
    assert "--lr" not in refusal(command("--resume", "--output=a", "--epochs=1"))


NO_CONFIG = ["{}", "[]", '{"given": {}}', "{", '{"given": [], "options": {}}', '{"given": {}, "options": {"mlp": 1}}']


@pytest.mark.parametrize("content", [*NO_CONFIG, "[" * 100_000, "\udcff"], ids=lambda content: content[:40])
def test_a_config_that_is_none_of_ours_is_refused(command, content):
    command(*SMALL, "--output=a", "--max-steps=3")
    Path("a/config.json").write_bytes(content.encode(errors="surrogateescape"))
    assert "a/config.json cannot be read" in refusal(command("--resume", "--output=a"))


def test_fewer_steps_than_a_run_has_had_are_refused(command):
    command(*SMALL, "--output=a", "--max-steps=7")
    before = contents("a")
    assert "--max-steps 6: mlp has already had 7 steps" in refusal(command("--resume", "--output=a", "--max-steps=6"))
    assert contents("a") == before
    assert command("--resume", "--output=a", "--max-steps=7")[0] == 0


def test_the_newest_run_is_resumed_by_the_name_latest(command):
    command(*SMALL, "--max-steps=3")
    (run,) = (path for path in Path("runs").iterdir() if path.name != "latest")
    code, out, _ = command("--resume", "--output=runs/latest", "--max-steps=10")
    assert code == 0 and out[-1] == f"next: python -m distmnist.export {run}"
    assert Path("runs/latest").readlink() == Path(run.name) and figures(run)["steps"] == 10


def start_in_the_same_second(command, monkeypatch, count):
    monkeypatch.setattr(rundir.time, "strftime", lambda *_: "20261125-120000")
    return [command(*SMALL, "--max-steps=2") for _ in range(count)]


def test_runs_that_start_in_the_same_second_have_a_directory_each(command, monkeypatch):
    answers = start_in_the_same_second(command, monkeypatch, 3)
    assert [code for code, *_ in answers] == [0, 0, 0]
    names = ["20261125-120000", "20261125-120000-2", "20261125-120000-3"]
    assert sorted(path.name for path in Path("runs").iterdir()) == [*names, "latest"]
    assert [f"next: python -m distmnist.export runs/{name}" for name in names] == [out[-1] for _, out, _ in answers]


def test_a_new_directory_is_made_by_one_run_alone_however_many_start(tmp_path, monkeypatch):
    """Not looked for and then made: between the two another run may make it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rundir.time, "strftime", lambda *_: "now")
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: rundir.new_directory(), range(24)))
    assert len(set(made)) == 24 and all(path.is_dir() for path in made)


def test_a_directory_called_latest_is_left_alone_and_every_run_says_that_it_does_not_name_it(command):
    code, _, err = command(*SMALL, "--max-steps=2", "--output=runs/latest")
    assert code == 0 and len(err) == 1 and "runs/latest is not a link" in err[0] and "rename it" in err[0]
    assert command("--resume", "--output=runs/latest", "--max-steps=3")[0] == 0  # there is no newer run that it hides
    before = contents("runs/latest")
    code, _, err = command(*SMALL, "--max-steps=2")
    assert code == 0 and len(err) == 1 and "runs/latest is not a link" in err[0]
    assert contents("runs/latest") == before


def test_a_copy_called_latest_is_not_resumed_in_place_of_the_newest_run(command):
    command(*SMALL, "--max-steps=2", "--output=runs/old")
    command(*SMALL, "--max-steps=2", "--output=runs/new")
    os.utime("runs/old/config.json", (0, 0))
    Path("runs/latest").unlink()
    shutil.copytree("runs/old", "runs/latest")
    before = contents("runs")
    told = refusal(command("--resume", "--output=runs/latest", "--max-steps=3"))
    assert "runs/latest is a directory, not a link to the newest run, which is runs/new" in told
    assert contents("runs") == before
    Path("runs/latest").rename("runs/copy")
    code, _, err = command("--resume", "--output=runs/copy", "--max-steps=3")
    assert (code, err) == (0, []) and Path("runs/latest").readlink() == Path("copy")


def test_a_run_that_is_killed_between_its_last_two_files_loses_no_line_of_metrics(command, monkeypatch):
    def die_at_the_end(directory, model, checkpoint):
        if len(checkpoint.progress.history) == 2:
            raise MemoryError
        write(directory, model, checkpoint)

    write = RunDirectory.write_history
    with monkeypatch.context() as patched, pytest.raises(MemoryError):
        patched.setattr(RunDirectory, "write_history", die_at_the_end)
        command(*SMALL, "--output=a")
    assert len(Path("a/mlp/metrics.jsonl").read_text().splitlines()) == 1
    assert command("--resume", "--output=a")[0] == 0
    assert [json.loads(line)["epoch"] for line in Path("a/mlp/metrics.jsonl").read_text().splitlines()] == [1, 2]


def test_a_finished_net_is_not_trained_again(command, monkeypatch):
    command(*SMALL, "--output=a")
    before = contents("a")
    monkeypatch.setattr(trainer.Trainer, "step", lambda *_: pytest.fail("trains again"))
    assert command("--resume", "--output=a", *SMALL)[0] == 0
    after = contents("a")
    kept = ("a/mlp/last.pt", "a/mlp/prev.pt", "a/mlp/metrics.jsonl")
    assert [after[name] for name in kept] == [before[name] for name in kept]
    assert figures("a") == json.loads(before["a/summary.json"])["models"]["mlp"]


def test_a_run_may_be_extended_under_the_constant_schedule_and_not_under_another(command):
    command(*SMALL, "--output=whole", "--epochs=3")
    command(*SMALL, "--output=a")
    assert command("--resume", "--output=a", "--epochs=3")[0] == 0
    assert figures("a")["weights_sha256"] == figures("whole")["weights_sha256"]
    assert [json.loads(line)["epoch"] for line in Path("a/mlp/metrics.jsonl").read_text().splitlines()] == [1, 2, 3]
    for schedule in ("cosine", "onecycle"):
        command(*SMALL, f"--output={schedule}", f"--schedule={schedule}")
        assert "--epochs 3" in refusal(command("--resume", f"--output={schedule}", "--epochs=3"))


def test_a_run_whose_newest_snapshot_is_damaged_goes_on_from_the_one_before_and_says_so(command):
    command(*SMALL, "--output=a")
    whole = figures("a")["weights_sha256"]
    last = Path("a/mlp/last.pt")
    last.write_bytes(last.read_bytes()[:-1])
    code, _, err = command("--resume", "--output=a")
    assert code == 0 and len(err) == 1
    assert "WARNING: a/mlp/last.pt is damaged" in err[0] and "resuming from the checkpoint before it" in err[0]
    assert figures("a")["weights_sha256"] == whole
    assert all(storage.load(Path("a/mlp", name)) for name in (storage.LAST, storage.PREVIOUS))
    for name in (storage.LAST, storage.PREVIOUS):
        Path("a/mlp", name).write_bytes(b"")
    assert "a/mlp/last.pt is damaged" in refusal(command("--resume", "--output=a"))


def test_resuming_on_other_digits_is_refused(command, monkeypatch):
    command(*SMALL, "--output=a", "--max-steps=2")
    monkeypatch.setattr(known, "load", lambda name, directory: few_digits(train=299))
    code, _, err = command("--resume", "--output=a", "--max-steps=4")
    assert code == 2 and len(err) == 1 and "choose the right --data-dir" in err[0]
