"""distmnist VERB: every verb is reached, from any directory, and help needs no torch."""

import os
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from distmnist import cli

ROOT = Path(__file__).parents[1]


def distmnist(folder: Path, *arguments: str, python: tuple[str, ...] = (), **variables: str):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, *python, "-m", "distmnist", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_help_lists_the_verbs_and_imports_neither_torch_nor_numpy(tmp_path):
    done = distmnist(tmp_path, "--help", python=("-X", "importtime"))
    assert done.returncode == 0
    assert re.findall(r"^  (\w+) +\w", done.stdout, re.MULTILINE) == [*cli.VERBS]
    assert not re.search(r"\| +(torch|numpy|onnxruntime|msgspec)$", done.stderr, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [([], "no verb is given"), (["fly"], "no verb fly"), (["--fly"], "--fly"), (["a\nb"], "no verb a\\nb")],
)
def test_no_verb_or_an_unknown_one_is_one_line_and_exit_code_2(monkeypatch, capsys, arguments, told):
    monkeypatch.setattr(sys, "argv", ["distmnist", *arguments])
    with pytest.raises(SystemExit, match="2"):
        cli.command()
    out, err = capsys.readouterr()
    assert out == "" and re.fullmatch(r"distmnist: [^\n]*\n", err) and told in err


@pytest.mark.parametrize("verb", cli.VERBS)
def test_each_verb_shows_its_own_help(monkeypatch, capsys, tmp_path, verb):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["distmnist", verb, "--help"])
    monkeypatch.setattr(os, "_exit", sys.exit)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("distmnist", run_name="__main__")
    assert ended.value.code == 0
    assert re.match(rf"usage: .*distmnist.{verb}", capsys.readouterr().out.replace("\n", " "))


def test_the_exit_code_of_the_verb_is_that_of_the_program(tmp_path):
    done = distmnist(tmp_path, "train", "--lr=nan")
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith("distmnist: --lr nan must be")


def test_training_ends_the_process_at_once_as_by_its_own_name(tmp_path):
    code = "import atexit; from distmnist.cli import command; atexit.register(print, 'at exit'); command()"
    (tmp_path / "witness.py").write_text(code)
    for verb, left in (("train", ""), ("report", "at exit\n")):
        command = [sys.executable, "witness.py", verb, "--fly"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stdout) == (2, left), done.stderr


@pytest.mark.parametrize(("rank", "shown"), [("0", True), ("1", False)])
def test_of_several_ranks_only_the_first_shows_the_help(monkeypatch, capsys, rank, shown):
    for name, value in {"RANK": rank, "WORLD_SIZE": "2", "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    for arguments in (["--help"], ["train", "--help"]):
        monkeypatch.setattr(sys, "argv", ["distmnist", *arguments])
        with pytest.raises(SystemExit, match="0"):
            cli.command()
        assert bool(capsys.readouterr().out) is shown


def test_the_installed_program_and_package_are_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["scripts"]["distmnist"] == "distmnist.cli:command"
    packages = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "distmnist").rglob("__init__.py")}
    assert packages <= {*project["tool"]["setuptools"]["packages"]}
