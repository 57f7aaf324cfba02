"""The sweep: which settings it tries, what it looks at, whom it declares the winner, and what it refuses."""

import dataclasses
import json
import os
import signal
from collections import Counter
from pathlib import Path

import made_up
import members
import pytest
from members import MNIST, SAMPLE, figures

pytest.importorskip("scipy", reason="the statistics need the extra `study`")

from distmnist.data import known
from distmnist.data.dataset import DatasetFacts
from distmnist.runs import pool
from distmnist.runs.records import Spread, SweepFacts, Trial, Winner
from distmnist.sweep import __main__ as sweep
from distmnist.sweep import search, trials

SPACE = {"lr": [0.01, 0.001, 0.1], "batch_size": [32, 64], "activation": ["relu", "tanh"]}
PUBLISHED = {"lr": 0.001, "batch_size": 64, "activation": "relu"}
TYPED = ["--lr=0.001,0.01", "--repeats=2", "--epochs=1", "--model=mlp"]


def differing(setting):
    return sum(setting[name] != PUBLISHED[name] for name in PUBLISHED)


def test_every_search_begins_with_the_published_setting_and_tries_none_twice():
    for settings in (search.one_at_a_time(SPACE), search.grid(SPACE), search.random(SPACE, 6, seed=0)):
        assert settings[0] == PUBLISHED
        assert max(Counter(map(str, settings)).values()) == 1


def test_a_star_changes_one_option_at_a_time_and_a_grid_combines_all():
    star, grid = search.one_at_a_time(SPACE), search.grid(SPACE)
    assert sorted(map(differing, star)) == [0, 1, 1, 1, 1] and len(grid) == search.size(SPACE) == 12
    assert all(setting in grid for setting in star)


def test_a_random_search_is_a_function_of_its_seed_and_grows_at_its_end():
    six = search.random(SPACE, 6, seed=0)
    assert six == search.random(SPACE, 6, seed=0) != search.random(SPACE, 6, seed=1)
    assert search.random(SPACE, 9, seed=0)[:6] == six and len(search.random(SPACE, 99, seed=0)) == 12


def explore(plan, accuracy):
    """Tries what is proposed, one setting after the other."""
    tried = []
    for number, setting in plan:
        assert number == len(tried)
        tried.append(setting)
        plan.tell(number, accuracy(setting))
    return tried


def test_optuna_tries_none_twice_finds_the_best_of_a_small_space_and_bears_failures():
    pytest.importorskip("optuna", reason="needs the extra `sweep`")
    best = {"lr": 0.1, "batch_size": 32, "activation": "tanh"}
    tried = explore(search.Optuna(SPACE, 12, seed=0), lambda s: None if s["lr"] == 0.01 else float(s == best))
    assert tried[0] == PUBLISHED and best in tried
    assert max(Counter(map(str, tried)).values()) == 1
    assert len(explore(search.Optuna(SPACE, 5, seed=0), lambda s: 0.5)) == 5


def test_optuna_goes_on_after_the_settings_of_an_earlier_attempt():
    pytest.importorskip("optuna", reason="needs the extra `sweep`")
    known = explore(search.Optuna(SPACE, 4, seed=3), lambda s: s["lr"])
    again = explore(search.Optuna(SPACE, 7, seed=3, known=known), lambda s: s["lr"])
    assert again[:4] == known and len(again) == 7


def test_the_pareto_front_holds_what_nothing_beats_in_accuracy_spread_and_time_together():
    points = {
        "best": (0.99, 0.2, 9.0),
        "fast": (0.97, 0.2, 1.0),
        "steady": (0.97, 0.1, 9.0),
        "beaten": (0.97, 0.2, 2.0),
        "twin": (0.97, 0.2, 1.0),
    }
    front = dict(zip(points, trials.pareto(list(points.values())), strict=True))
    assert front == {"best": True, "fast": True, "steady": True, "beaten": False, "twin": True}


def trial(mean, std, seconds, seeds=4):
    accuracy, time = Spread(mean=mean, std=std, values=[]), Spread(mean=seconds, values=[])
    return Trial(trial=0, options={}, seeds=list(range(seeds)), val_accuracy=accuracy, train_seconds=time, pareto=False)


def test_the_winner_is_the_fastest_within_one_standard_error_of_the_best():
    best = trial(0.99, 0.004, 9.0)  # standard error 0.002
    near, fast = trial(0.9885, 0.1, 5.0), trial(0.9875, 0.0, 1.0)
    assert trials.choose([best, near, fast]) is near
    alone = [trial(0.99, None, 9.0, seeds=1), trial(0.9899, None, 1.0, seeds=1)]
    assert trials.choose(alone) is alone[0]


@pytest.fixture
def command(monkeypatch, tmp_path, capsys, digits):
    """Runs the sweep in an empty directory on a few digits, called `name`; no process may be started."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(known, "fetch", lambda *_: None)
    monkeypatch.setattr(pool, "start", lambda *_: pytest.fail("a run was started"))

    def run(*arguments, name="mnist-sample"):
        monkeypatch.setattr(known, "load", lambda *_: dataclasses.replace(digits, name=name))
        code = sweep.main(["--output=a", *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def fabricate(settings, dataset=SAMPLE, tested=None, **given):
    """Finished trials, [(setting, held-out accuracies by seed)], and then the winner's runs.

    tested: the winner's setting.
    """
    for number, (setting, accuracies) in enumerate(settings):
        for seed, accuracy in enumerate(accuracies):
            options = {"model": "mlp", "val_fraction": 0.1, **given, **setting, "seed": seed}
            held_out = members.result(val_accuracy=accuracy, train_seconds=2.0 + number)
            members.finished(Path(f"a/runs/trial{number:03}-seed{seed}"), options, {"mlp": held_out}, dataset)
    if tested is not None:
        for seed in (len(accuracies), len(accuracies) + 1):
            options = {"model": "mlp", "val_fraction": 0.0, **given, **tested, "seed": seed}
            members.finished(Path(f"a/runs/winner-seed{seed}"), options, {"mlp": figures(range(6))}, dataset)


def written():
    return json.loads(Path("a/sweep.json").read_text())


def refusal(answer):
    code, _, err = answer
    assert code == 2 and err.startswith("distmnist: ") and err.count("\n") == 1, err
    return err


class HeldOut:
    """A result of which only the figures on held-out digits and the time may be looked at."""

    def __init__(self, result):
        self.result = result

    def __getattr__(self, name):
        assert name in {"val_accuracy", "train_seconds"}, f"a trial's {name} was looked at"
        return getattr(self.result, name)


def test_trials_are_judged_without_any_test_figure_and_the_winner_alone_is_tested(command, monkeypatch):
    read = pool.Member.result
    monkeypatch.setattr(
        pool.Member,
        "result",
        lambda self, net: HeldOut(read(self, net)) if "trial" in self.path.name else read(self, net),
    )
    fabricate([({"lr": 0.001}, [0.90, 0.91]), ({"lr": 0.01}, [0.95, 0.96])], tested={"lr": 0.01}, epochs=1)
    code, out, err = command(*TYPED)
    assert (code, err) == (0, "")
    found = written()
    assert (found["schema"], found["status"], found["model"], found["search"]) == (
        1,
        "finished",
        "mlp",
        "one-at-a-time",
    )
    assert found["space"] == {"lr": [0.001, 0.01], "epochs": [1]} and found["dataset"] == SAMPLE
    poor, good = found["trials"]
    assert good["options"] == {"lr": 0.01, "epochs": 1} and good["seeds"] == [0, 1]
    assert good["val_accuracy"]["mean"] == pytest.approx(0.955) and good["val_accuracy"]["values"] == [0.95, 0.96]
    assert (poor["pareto"], good["pareto"], good["train_seconds"]["mean"]) == (True, True, 3.0)
    winner = found["winner"]
    assert winner["options"] == {"lr": 0.01, "epochs": 1} and winner["seeds"] == [2, 3]
    assert winner["test_accuracy"]["mean"] == pytest.approx(114 / 120) and winner["test_loss"]["mean"] == 0.1
    assert "held-out accuracy" in out and "test accuracy 95.00%" in out
    assert found["claims"] == [] and "these images are of mnist-sample, not of mnist" in out


def test_nothing_published_is_said_of_other_images():
    facts = DatasetFacts("fashion-mnist", 300, 120)
    found = trials.Trials("mlp", [0], SweepFacts(dataset=facts, search="grid", space={}, val_fraction=0.1, jobs="1"))
    one = Spread(mean=0.9, values=[0.9])
    found.winner = Winner(trial=0, options={}, seeds=[1], test_accuracy=one, test_loss=one, train_seconds=one)
    assert (found.result().claims, found.result().notes) == ([], [])
    assert not any(word in found.table() for word in ("published", "mnist", "digit"))


def test_on_mnist_the_published_hyperparameters_are_marked(command):
    settings = [({"lr": 0.001}, [0.98, 0.981]), ({"lr": 0.01}, [0.90, 0.901])]
    fabricate(settings, dataset=MNIST, tested={"lr": 0.001})
    _, out, _ = command("--lr=0.001,0.01", "--repeats=2", "--model=mlp", name="mnist")
    verdicts = {claim["claim"]: claim["verdict"] for claim in written()["claims"]}
    assert verdicts["learning rate 0.001 was best"] == "confirmed" and "CONFIRMED" in out
    assert verdicts["batch size 64 was best"] == "undecided"


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (
            "--lr=0.001,0.5",
            "--lr 0.5: the run in a/runs/trial001-seed0 has 0.01; keep it or choose a different --output",
        ),
        ("--epochs=2", "--epochs 2: the run in a/runs/trial000-seed0 has 1"),
        ("--val-fraction=0.2", "--val-fraction 0.2: the run in a/runs/trial000-seed0 has 0.1"),
    ],
)
def test_an_option_that_differs_from_the_trials_own_is_refused_by_its_name(command, typed, told):
    fabricate([({"lr": 0.001}, [0.90, 0.91]), ({"lr": 0.01}, [0.95, 0.96])], epochs=1)
    assert told in refusal(command(*TYPED, typed))


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("--lr=0.001,x", "argument --lr: '0.001,x' is no list of float values"),
        ("--lr=0.001,-1", "--lr -1.0 must be above 0"),
        ("--activation=relu,step", "--activation step is unknown"),
        ("--model=all", "--model all cannot be swept"),
        ("--model=resnet", "--model resnet is unknown"),
        ("--val-fraction=0", "--val-fraction 0 leaves no digits to choose by"),
        ("--val-fraction=1", "--val-fraction 1.0 must be at least 0 and below 1"),
        ("--trials=0", "--trials 0 must be at least 1"),
        ("--search=best", "invalid choice: 'best'"),
    ],
)
def test_bad_input_is_told_in_one_line_and_leaves_nothing_behind(command, typed, told):
    assert told in refusal(command(typed))
    assert os.listdir(".") == []


def test_optuna_refuses_by_its_name_an_option_whose_tried_value_is_no_longer_listed(command):
    made_up.change(made_up.sweep(Path("a")) / "sweep.json", lambda s: s.update(proposed=[{"lr": 0.5}]))
    told = refusal(command("--search=optuna", "--lr=0.001,0.01"))
    assert "--lr: the sweep in a has tried 0.5; list it too" in told


def test_a_setting_that_diverges_is_a_failed_trial_and_the_others_are_judged(command, monkeypatch):
    fabricate([({"lr": 0.001}, [0.90, 0.91])], tested={"lr": 0.001}, epochs=1)
    genuine = pool.run

    def diverges(members, jobs, requests):
        for member in members:
            if "trial001" in member.path.name:
                yield member, pool.RunError("the loss is nan")
            else:
                yield from genuine([member], jobs, requests)

    monkeypatch.setattr(pool, "run", diverges)
    code, out, _ = command(*TYPED)
    assert code == 0 and [trial["options"]["lr"] for trial in written()["trials"]] == [0.001]
    assert written()["failed"] == [{"trial": 1, "options": {"lr": 0.01, "epochs": 1}, "words": "the loss is nan"}]
    assert "trial 1 failed: the loss is nan" in out


def test_an_interrupted_sweep_names_no_winner_and_goes_on_with_what_is_finished(command, monkeypatch):
    fabricate([({"lr": 0.001}, [0.90, 0.91]), ({"lr": 0.01}, [0.95, 0.96])], tested={"lr": 0.01}, epochs=1)
    genuine = pool.run

    def interrupted(members, jobs, requests):
        for number, outcome in enumerate(genuine(members, jobs, requests)):
            yield outcome
            if number == 1:
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(pool, "run", interrupted)
    code, out, _ = command(*TYPED)
    assert code == 130 and "interrupted; the same command goes on with a" in out and "test accuracy" not in out
    assert (written()["status"], written()["winner"], len(written()["trials"])) == ("interrupted", None, 1)
    monkeypatch.setattr(pool, "run", genuine)
    assert command(*TYPED)[0] == 0
    assert written()["status"] == "finished" and written()["winner"]["options"]["lr"] == 0.01
