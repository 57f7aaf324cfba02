"""No substitution: data that were named are found, or the command ends with one line; nothing is made to look at."""

import json
import os
from pathlib import Path

import pytest
import torch
from digits import made_of, put, synthetic_files
from one_run import SMALL, refusal

from distmnist import train
from distmnist.data import download, known
from distmnist.data.dataset import DatasetFacts
from distmnist.errors import UsageError
from distmnist.runs import pool, rundir

STEPS = (*SMALL, "--max-steps=2", "--output=a")


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """The command in an empty directory. The network is closed: see conftest.py."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = train.main(arguments)
        out, err = capsys.readouterr()
        return code, out.splitlines(), err.splitlines()

    return run


def tree() -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in Path(".").rglob("*")}


def noted(run: str = "a") -> list[str]:
    """The data set in every file that says it."""
    names = [json.loads(Path(run, name).read_text())["dataset"]["name"] for name in ("config.json", "summary.json")]
    return [*names, torch.load(Path(run, "mlp/last.pt"), weights_only=True)["dataset"]["name"]]


@pytest.mark.parametrize(
    ("chosen", "variables"),
    [
        (["--data=mnist"], {}),
        (["--data-dir=photographs"], {}),
        (["--data-dir=fashion"], {}),
        (["--data-dir=fashion/FashionMNIST/raw"], {}),
        (["--data-dir=mistyped"], {}),
        (["--data-dir=mistyped/deeper"], {}),
        (["--data-dir=photographs/beach.jpg"], {}),
        ([], {"DISTMNIST_DATA": "photographs"}),
        ([], {"DISTMNIST_DATA": "mistyped"}),
        (["--data-dir=empty"], {}),
    ],
    ids=lambda value: "".join(value) or None,
)
def test_data_that_were_chosen_and_are_not_there_are_one_line_and_2_and_nothing_is_made(
    run, monkeypatch, mnist, chosen, variables
):
    put(Path("photographs"), {"beach.jpg": b"sun"})
    Path("empty").mkdir()
    clothes = {name: content[:16] + bytes(len(content) - 16) for name, content in mnist.items()}
    put(Path("fashion/FashionMNIST/raw"), clothes)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    before = tree()
    code, out, err = run(*STEPS, *chosen)
    assert (code, len(err)) == (2, 1) and not any("output:" in line for line in out)
    assert "--data sample" in err[0] and "delete" not in err[0]
    assert tree() == before


def test_the_default_directory_with_other_files_is_left_alone_and_the_sample_stands_in_loudly(run, monkeypatch):
    monkeypatch.setattr(download, "download", lambda *_: pytest.fail("downloads into somebody's directory"))
    put(Path("data"), {"thesis.csv": b"1,2"})
    code, _, err = run(*STEPS)
    assert code == 0 and len(err) == 1 and "SAMPLE" in err[0] and "thesis.csv" in err[0]
    assert noted() == ["mnist-sample"] * 3 and sorted(path.name for path in Path("data").iterdir()) == ["thesis.csv"]


def test_the_sample_that_was_asked_for_is_trained_on_without_a_warning_or_a_download(run, monkeypatch):
    monkeypatch.setattr(known, "fetch", lambda *_: pytest.fail("looks for MNIST"))
    code, _, err = run(*STEPS, "--data=sample")
    assert (code, err) == (0, []) and noted() == ["mnist-sample"] * 3


def test_a_run_on_the_sample_stays_on_it_when_mnist_has_come_and_refuses_to_change(run, mnist):
    assert run(*STEPS)[0] == 0
    put(Path("data"), mnist)
    code, _, err = run("--resume", "--output=a", "--max-steps=4")
    assert (code, err) == (0, []) and noted() == ["mnist-sample"] * 3
    told = refusal(run("--resume", "--output=a", "--data=mnist", "--max-steps=6"))
    assert "--resume with --data mnist: the run in a has sample; keep it" in told


def test_a_run_written_before_there_was_data_stays_on_its_own(run, mnist):
    assert run(*STEPS, "--data=sample")[0] == 0
    path = Path("a/config.json")
    config = json.loads(path.read_text())
    for options in (config["given"], *config["options"].values()):
        del options["data"]
    path.write_text(json.dumps(config))
    put(Path("data"), mnist)
    assert run("--resume", "--output=a", "--max-steps=4")[0] == 0 and noted() == ["mnist-sample"] * 3


@pytest.mark.parametrize(
    ("chosen", "variables"),
    [(["--data-dir=digits"], {}), ([], {"DISTMNIST_DATA": "digits"}), ([], {})],
    ids=["typed", "environment", "default"],
)
def test_a_run_is_resumed_from_another_directory_with_the_data_where_they_were(
    run, monkeypatch, tmp_path, mnist, chosen, variables
):
    put(Path("digits" if chosen or variables else "data"), mnist)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    small = ["--model=mlp", "--epochs=2", "--batch-size=10", "--amp=off", "--threads=1"]
    assert run(*small, *chosen, "--max-steps=2", "--output=a")[0] == 0
    for name in variables:
        monkeypatch.delenv(name)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    code, _, err = run("--resume", "--output=../a", "--max-steps=4")
    assert (code, err) == (0, []) and noted("../a") == ["mnist"] * 3
    assert os.listdir(".") == []


def test_a_run_on_another_known_set_is_resumed_from_another_directory_with_the_data_where_they_were(
    run, monkeypatch, tmp_path
):
    clothes, digits = synthetic_files(seed=1), synthetic_files()
    for option, files in (("fashion-mnist", clothes), ("mnist", digits)):
        monkeypatch.setitem(known.KNOWN_SETS, option, made_of(option, files))
    put(Path("data/MNIST/raw"), digits)
    small = ["--model=mlp", "--epochs=2", "--batch-size=10", "--amp=off", "--threads=1"]
    monkeypatch.setattr(download, "download", lambda *_: "the mirrors are down")
    code, _, (told,) = run(*small, "--data=fashion-mnist", "--max-steps=2", "--output=a")
    assert code == 2 and told.startswith("distmnist: no Fashion-MNIST in data: the download failed: the mirrors")
    assert "--data sample" in told
    put(Path("data/FashionMNIST/raw"), clothes)
    assert run(*small, "--data=fashion-mnist", "--max-steps=2", "--output=a")[0] == 0
    assert noted() == ["fashion-mnist"] * 3
    (tmp_path / "elsewhere/data/MNIST/raw").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    code, _, err = run("--resume", "--output=../a", "--max-steps=4")
    assert (code, err) == (0, []) and noted("../a") == ["fashion-mnist"] * 3


def test_a_resumed_run_whose_data_are_gone_makes_nothing_and_takes_no_other(run, monkeypatch, tmp_path, mnist):
    put(Path("digits"), mnist)
    assert (
        run("--model=mlp", "--batch-size=10", "--amp=off", "--max-steps=2", "--data-dir=digits", "--output=a")[0] == 0
    )
    Path("digits").rename("moved")
    before = tree()
    code, _, err = run("--resume", "--output=a", "--max-steps=4")
    assert code == 2 and len(err) == 1 and "no MNIST in" in err[0] and tree() == before
    assert run("--resume", "--output=a", "--max-steps=4", "--data-dir=moved")[0] == 0


@pytest.mark.parametrize("part", [".", "mlp", "mlp/last.pt", "export", "mlp/export"])
def test_where_a_run_found_its_data_is_known_from_every_part_of_it(tmp_path, part):
    run = tmp_path / "run"
    (run / "mlp/export").mkdir(parents=True)
    (run / "export").mkdir()
    (run / "mlp/last.pt").write_bytes(b"")
    options = {"given": {"data_dir": "/typed"}, "options": {"mlp": {"data_dir": "/in/force"}, "cnn": {"data_dir": 3}}}
    (run / "config.json").write_text(json.dumps(options))
    assert rundir.noted_data(run / part) == [Path("/typed"), Path("/in/force")]
    for wrong in ("{", "[]", '{"given": {}, "options": {"mlp": 1}}'):
        (run / "config.json").write_text(wrong)
        assert rundir.noted_data(run / part) == []


def test_the_data_of_a_finished_run_are_looked_for_where_they_were_named_or_else_where_they_were(
    tmp_path, monkeypatch, mnist
):
    monkeypatch.chdir(tmp_path)
    noted = [put(tmp_path / "noted", mnist)]
    (tmp_path / "empty").mkdir()
    put(tmp_path / "data", {name: b"" for name in mnist})  # damaged, and nobody named it

    def load(directory=None, places=noted):
        return known.find_dataset(DatasetFacts("mnist", 30, 20), directory, places, "the proof needs its test digits")

    assert str(tmp_path / "noted") in load().origin
    with pytest.raises(UsageError, match=r"no mnist in empty: the proof needs its test digits; .* --data-dir"):
        load(Path("empty"))
    monkeypatch.setenv("DISTMNIST_DATA", "empty")
    with pytest.raises(UsageError, match="no mnist in empty"):
        load()
    assert str(tmp_path / "noted") in load(tmp_path / "noted").origin
    others = DatasetFacts("mnist", 60_000, 10_000)
    with pytest.raises(UsageError, match=r"noted, .*: mnist of 30 \+ 20, where mnist of 60,000 \+ 10,000 is expected"):
        known.find_dataset(others, tmp_path / "noted", [], "the proof needs its test digits")
    monkeypatch.delenv("DISTMNIST_DATA")
    with pytest.raises(UsageError, match=r"data/t.* holds 0 bytes"):
        load(places=[])
    with pytest.raises(UsageError, match="the data set 'imagenet' is unknown; this distmnist has mnist, fashion"):
        known.find_dataset(DatasetFacts("imagenet", 50_000, 10_000), None, [], "")


def test_every_run_of_a_study_is_given_the_data_that_were_found(monkeypatch, tmp_path, mnist):
    """So that none of them finds others: not after a download that came late, and not in a study that is continued."""
    monkeypatch.chdir(tmp_path)
    warned = []
    log = type("Log", (), {"say": lambda *_: None, "warn": lambda _, line: warned.append(line)})()
    member = pool.Member(Path("runs/a"), {"model": "mlp"})
    given, dataset = pool.find_dataset({"model": "mlp"}, [member], log)
    assert (given["data"], dataset.name, len(warned)) == ("sample", "mnist-sample", 1)
    assert "--data=sample" in pool.Member(Path("runs/a"), given).command(threads=1)
    with pytest.raises(known.NotFound, match="--data sample"):
        pool.find_dataset({"data_dir": Path("none")}, [], log)

    put(Path("data"), mnist)
    assert pool.find_dataset({}, [], log)[0]["data"] == "mnist"
    Path("runs/a").mkdir(parents=True)
    Path("runs/a/config.json").write_text(
        json.dumps({"given": {}, "options": {}, "dataset": {"name": "mnist-sample", "train": 4000, "test": 1000}})
    )
    assert pool.find_dataset({}, [member], log)[0]["data"] == "sample"
