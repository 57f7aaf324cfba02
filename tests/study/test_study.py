"""The study: what it concludes from runs whose truth is known, what it refuses, and how it survives being stopped."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import members
import numpy as np
import pytest
from filelock import FileLock
from members import MNIST, SAMPLE, figures

pytest.importorskip("scipy", reason="the statistics need the extra `study`")

from distmnist.data import known
from distmnist.data.dataset import DatasetFacts
from distmnist.runs import pool
from distmnist.study import __main__ as study
from distmnist.study.findings import Findings

ROOT = Path(__file__).parents[2]
POOR, GOOD = {"wrong": range(40), "loss": 0.3}, {"wrong": range(4), "loss": 0.1}


@pytest.fixture
def command(monkeypatch, tmp_path, capsys, digits):
    """Runs the study in an empty directory on a few digits, called `name`; no process may be started."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(known, "fetch", lambda *_: None)
    monkeypatch.setattr(pool, "start", lambda *_: pytest.fail("a run was started"))

    def run(*arguments, name="mnist-sample"):
        monkeypatch.setattr(known, "load", lambda *_: dataclasses.replace(digits, name=name))
        code = study.main(["--output=a", *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def fabricate(recipe="reference", seeds=3, dataset=SAMPLE, mlp=POOR, cnn=GOOD, **given):
    """Finished runs in a/runs, equally good with every seed, but wrong about other digits."""
    for seed in range(seeds):
        nets = {
            net: figures([i + seed for i in what["wrong"]], what["loss"]) for net, what in (("mlp", mlp), ("cnn", cnn))
        }
        members.finished(Path(f"a/runs/{recipe}-seed{seed}"), {**given, "recipe": recipe, "seed": seed}, nets, dataset)


def written():
    return json.loads(Path("a/study.json").read_text())


def refusal(answer):
    code, _, err = answer
    assert code == 2 and err.startswith("distmnist: ") and err.count("\n") == 1, err
    return err


def test_nets_and_recipes_are_compared_over_the_seeds_and_the_verdict_is_said_in_words(command):
    fabricate()
    fabricate("best", mlp=GOOD, cnn=GOOD)
    code, out, err = command("--repeats=3")
    assert (code, err) == (0, "")
    found = written()
    assert (found["schema"], found["status"], found["dataset"], found["repeats"]) == (1, "finished", SAMPLE, 3)
    accuracy = found["recipes"]["reference"]["mlp"]["accuracy"]
    assert accuracy["mean"] == pytest.approx(80 / 120) and accuracy["std"] == 0 and len(accuracy["values"]) == 3
    assert {"loss", "train_seconds", "parameters"} <= found["recipes"]["best"]["cnn"].keys()
    reference, best = found["comparisons"]
    assert [(c["recipe"], c["a"], c["b"]) for c in (reference, best)] == [
        ("reference", "mlp", "cnn"),
        ("best", "mlp", "cnn"),
    ]
    assert reference["significant"] and reference["difference"]["mean"] == pytest.approx(0.3)
    assert [test["seed"] for test in reference["mcnemar"]] == [0, 1, 2] and reference["mcnemar"][0]["only_b"] == 36
    assert "cnn is significantly better than mlp, +30.00 points" in reference["words"] and reference["words"] in out
    assert not best["significant"] and "no significant difference" in best["words"]
    of_mlp, of_cnn = found["recipe_comparisons"]
    assert (of_mlp["model"], of_mlp["significant"], of_cnn["significant"]) == ("mlp", True, False)


def test_no_published_figure_or_claim_stands_beside_the_sample(command):
    fabricate()
    _, out, _ = command("--repeats=3", "--recipes=reference")
    assert written()["claims"] == [] and "these images are of mnist-sample, not of mnist" in out
    assert not any(word in out for word in ("97.42", "98.88", "CONFIRMED", "REFUTED", "PARTLY SUPPORTED"))


def test_nothing_published_is_said_of_other_images(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    facts = DatasetFacts("fashion-mnist", 300, 120, class_names=tuple("abcdefghij"))
    fabricate(dataset=facts.to_json())
    given = {"recipe": "reference"}
    members = {("reference", seed): pool.Member(Path(f"a/runs/reference-seed{seed}"), given) for seed in range(3)}
    found = Findings(facts, members, given, pool.Jobs(1, 1))
    assert found.finished and (found.result().claims, found.result().notes) == ([], [])
    assert "cnn is significantly better than mlp" in found.table()
    assert not any(word in found.table() for word in ("published", "mnist", "97.42", "digit"))


def test_on_mnist_the_published_claims_are_marked_and_the_published_figures_stand_beside(command):
    fabricate(dataset=MNIST)
    _, out, _ = command("--repeats=3", "--recipes=reference", name="mnist")
    verdicts = {claim["claim"]: claim["verdict"] for claim in written()["claims"]}
    assert verdicts == {"the CNN is over 1 percent better": "confirmed", "the CNN cuts the loss in half": "confirmed"}
    assert "97.42%" in out and "98.88%" in out and "CONFIRMED" in out


def test_a_departure_from_the_published_recipe_judges_no_claim(command):
    fabricate(dataset=MNIST, epochs=1)
    _, out, _ = command("--repeats=3", "--recipes=reference", "--epochs=1", name="mnist")
    assert written()["claims"] == [] and "departs from the published recipe" in out and "97.42" not in out


def test_one_random_seed_concludes_nothing(command):
    fabricate(seeds=1, dataset=MNIST)
    _, out, _ = command("--repeats=1", "--recipes=reference", name="mnist")
    (comparison,) = written()["comparisons"]
    assert not comparison["significant"] and comparison["difference"]["low"] is None
    assert {claim["verdict"] for claim in written()["claims"]} == {"undecided"}
    assert "one random seed says nothing about a recipe" in out and "significantly" not in out


def test_runs_on_other_digits_are_refused_and_left_alone(command):
    fabricate()
    before = {path: path.read_bytes() for path in Path("a/runs").rglob("*") if path.is_file()}
    told = refusal(command("--repeats=3", "--recipes=reference", name="mnist"))
    assert (
        "a/runs/reference-seed0 was trained on different data: mnist of 300 + 120, where mnist-sample of 300 + 120"
        in told
    )
    assert before == {path: path.read_bytes() for path in Path("a/runs").rglob("*") if path.is_file()}


def test_predictions_of_other_digits_are_refused(command):
    fabricate()
    answers = figures()["arrays"]
    np.savez("a/runs/reference-seed1/mlp/predictions.npz", **{**answers, "labels": answers["labels"][::-1]})
    assert "other test images" in refusal(command("--repeats=3", "--recipes=reference"))


def test_runs_of_different_precision_are_not_compared(command):
    fabricate()
    path = Path("a/runs/reference-seed1/summary.json")
    path.write_text(path.read_text().replace('"amp": "off"', '"amp": "bf16"'))
    assert "the runs have amp bf16 and off: they cannot be compared" in refusal(
        command("--repeats=3", "--recipes=reference")
    )


def test_an_option_that_differs_from_a_runs_own_is_refused_by_its_name(command):
    fabricate()
    for typed, told in {
        "--lr=0.5": "--lr 0.5: the run in a/runs/reference-seed0 has 0.001",
        "--epochs=6": "--epochs 6: the run in a/runs/reference-seed0 has 5",
        "--max-steps=7": "--max-steps 7: the run in a/runs/reference-seed0 has None",
        "--amp=bf16": "--amp bf16: the run in a/runs/reference-seed0 has auto",
    }.items():
        assert told in refusal(command("--repeats=3", "--recipes=reference", typed))


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["--repeats=0"], "--repeats 0 must be at least 1"),
        (["--jobs=0"], "--jobs 0 must be at least 1"),
        (["--recipes=reference,great"], "--recipes great is unknown; choose from reference"),
        (["--model=resnet"], "--model resnet is unknown"),
        (["--lr=nan"], "--lr nan must be above 0"),
        (["--seed=-1"], "--seed -1 must be at least 0"),
        (["--resume"], "unrecognized arguments: --resume"),
    ],
)
def test_bad_input_is_told_in_one_line_and_leaves_nothing_behind(command, typed, told):
    assert told in refusal(command(*typed))
    assert os.listdir(".") == []


def test_a_directory_that_holds_a_run_or_is_in_use_is_refused(command):
    Path("a").mkdir()
    with FileLock("a/.lock"):
        assert "--output a is in use" in refusal(command())
    Path("a/config.json").write_text("{}")
    assert "--output a holds a run of distmnist.train" in refusal(command())


def test_without_scipy_one_line_names_the_extra(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    for name in ("distmnist.runs.significance", "distmnist.study.findings", "distmnist.runs.claims"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert "need scipy; install distmnist with the extra: pip install '.[study]'" in refusal(command())
    assert os.listdir(".") == []


def test_the_cores_and_gpus_are_shared_out_among_the_runs(monkeypatch):
    monkeypatch.setattr(pool, "usable_cores", lambda: 16)
    monkeypatch.setattr(pool, "visible_gpus", lambda: ("2", "3"))
    assert pool.share_out(None, None, "cpu", 40) == pool.Jobs(16, 1)
    assert pool.share_out(None, None, "cpu", 5) == pool.Jobs(5, 3)
    assert pool.share_out(4, 2, "cpu", 40) == pool.Jobs(4, 2)
    assert pool.share_out(None, None, "auto", 40) == pool.Jobs(2, 8, ("2", "3"))


REAL = ["--repeats=1", "--recipes=reference", "--model=mlp", "--epochs=20", "--batch-size=40", "--threads=1"]


def wait_for(path, process=None):
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def history():
    return Path("a/runs/reference-seed0/mlp/metrics.jsonl").read_text().splitlines()


def test_a_study_that_is_killed_and_one_that_is_interrupted_go_on_where_they_were(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    arguments = [*REAL, "--output=a", "--data=sample"]
    snapshot = Path("a/runs/reference-seed0/mlp/last.pt")
    with subprocess.Popen(
        [sys.executable, "-m", "distmnist.study", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        wait_for(snapshot.with_name("metrics.jsonl"), process)
        process.kill()
    # The run dies with the study: it lets go of its directory, and leaves it as a run of the command's own.
    FileLock("a/runs/reference-seed0/.lock").acquire(timeout=10).lock.release()
    first = history()[0]
    assert written()["status"] == "interrupted" and not Path("a/runs/reference-seed0/summary.json").exists()

    previous = snapshot.stat().st_mtime_ns

    def interrupt():
        while snapshot.stat().st_mtime_ns == previous:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert study.main(arguments) == 130
    thread.join()
    assert "interrupted; the same command goes on with a" in capsys.readouterr().out
    assert written()["status"] == "interrupted" and written()["comparisons"] == []
    assert json.loads(Path("a/runs/reference-seed0/summary.json").read_text())["status"] == "interrupted"

    assert study.main(arguments) == 0
    assert len(history()) == 20 and history()[0] == first  # with the time it took: it was not trained again
    assert written()["status"] == "finished" and written()["recipes"]["reference"]["mlp"]["parameters"] == 109_386


def test_a_run_that_fails_ends_the_study_with_its_line_and_exit_code_1(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert study.main([*REAL, "--output=a", "--optimizer=sgd", "--lr=1e30", "--data=sample"]) == 1
    err = capsys.readouterr().err.splitlines()
    assert "a/runs/reference-seed0: the loss is" in err[-1] and written()["status"] == "interrupted"
