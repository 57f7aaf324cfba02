"""Paths as people type them: empty, below ~, with blanks; every printed hint can be typed as it stands."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from distmnist import commandline, train
from distmnist.config import RunOptions, from_json
from distmnist.doctor import __main__ as doctor
from distmnist.errors import UsageError
from distmnist.evaluate import __main__ as evaluate
from distmnist.report import __main__ as report
from distmnist.study import __main__ as study
from distmnist.sweep import __main__ as sweep
from export import __main__ as export
from export import predict

pytest_plugins = ["export_fixtures"]

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("main", "arguments", "named"),
    [
        *((main, [option, ""], option) for main in (train.main, study.main, sweep.main, doctor.main)
          for option in ("--output", "--data-dir")),
        *((report.main, ["run", option, ""], option) for option in ("--output", "--data-dir")),
        *((export.main, ["run", option, ""], option) for option in ("--output", "--data-dir", "--verify")),
        (report.main, [""], "RUN"),
        (evaluate.main, [""], "RUN|CHECKPOINT|MODEL.onnx"),
        (evaluate.main, ["run", "--data-dir", ""], "--data-dir"),
        (export.main, [""], "RUN_OR_CHECKPOINT"),
        (predict.main, ["", "1.png"], "MODEL.onnx"),
        (predict.main, ["a.onnx", ""], "IMAGE"),
    ],
)  # fmt: skip
def test_an_empty_path_is_refused_by_the_name_of_its_option(monkeypatch, tmp_path, capsys, main, arguments, named):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and f"argument {named}: the path is empty" in err
    assert not list(tmp_path.iterdir())


def test_an_empty_path_from_python_or_json_is_refused_too():
    with pytest.raises(UsageError, match="--output is an empty path"):
        RunOptions(output="")
    with pytest.raises(UsageError, match="--data-dir is an empty path"):
        from_json({"data_dir": ""})


def test_a_tilde_is_the_home_directory_for_every_command(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    run = tmp_path / "r"
    options = ["--output=~/r", "--data-dir=~/r"]
    given = commandline.parse(options).run
    assert given.output == given.data_dir == run
    assert doctor.parse(options)[0].run.output == study.parse(options)[0].output == sweep.parse(options).output == run
    assert sweep.parse(options).given["data_dir"] == study.parse(options)[1]["data_dir"] == run
    given = report.parse(["~/r", *options])
    assert given.runs == [run] and given.output == given.data_dir == run
    given = export.parse(["~/r", *options])
    assert given.path == given.output == given.data_dir == export.parse(["--verify=~/r"]).verify == run
    given = predict.parse(["~/r", "~/r", "-"])
    assert given.model == str(run) and given.images == [str(run), "-"]
    assert RunOptions(output="~/r").output == run
    monkeypatch.setenv("DISTMNIST_DATA", "~/r")
    assert RunOptions().data_dir == run


def test_what_only_looks_like_a_home_directory_stays_a_name():
    assert commandline.to_path("~nobody-of-that-name/r") == Path("~nobody-of-that-name/r")
    assert commandline.to_path("a/~") == Path("a/~")


def test_a_hint_is_quoted_and_names_a_python_that_the_shell_finds(monkeypatch, tmp_path):
    assert commandline.hint("-m", "module", Path("my run")) == "python -m module 'my run'"
    assert commandline.hint("-m", "module", Path("-run")) == "python -m module ./-run"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commandline.hint("-m", "module") == f"{shlex.quote(sys.executable)} -m module"


def shell(line: str, folder: Path, **variables: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, **variables}
    return subprocess.run(line, shell=True, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def hints(text: str) -> list[str]:
    return [line.removeprefix("next: ") for line in text.splitlines() if line.startswith("next: ")]


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of an installation of distmnist without a clone: what its wheel holds."""
    pytest.importorskip("setuptools", "77", reason="builds a wheel")
    folder = tmp_path_factory.mktemp("installed")
    clone = folder / "clone"
    hidden = shutil.ignore_patterns(".*", "__pycache__", "build", "*.egg-info")
    for name in ("distmnist", "export"):
        shutil.copytree(ROOT / name, clone / name, ignore=hidden)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, clone)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", folder / "site", clone], check=True, timeout=300)
    shutil.rmtree(clone)
    return folder / "site"


def test_every_printed_hint_can_be_typed_where_it_is_printed(tmp_path, installed):
    """In a clone the same modules have the same names: see the next test."""
    options = "--data=sample --max-steps=2 --batch-size=200 --amp=off --threads=1"
    run = shell(
        f"python -m distmnist.train --model=mlp {options} --output='my run'", tmp_path, PYTHONPATH=str(installed)
    )
    assert run.returncode == 0, run.stderr
    [line] = hints(run.stdout)
    exported = shell(line, tmp_path, PYTHONPATH=str(installed))
    assert exported.returncode == 0, exported.stderr
    [line] = hints(exported.stdout)
    answer = shell(line.replace("IMAGE", "--help"), tmp_path)
    assert answer.returncode == 0 and answer.stdout.startswith("usage:"), answer.stderr


@pytest.mark.parametrize("where", ["clone", "installed"])
def test_each_place_runs_its_own_code(tmp_path, where, request):
    place = ROOT if where == "clone" else request.getfixturevalue("installed")
    code = "import importlib.util as util; print(util.find_spec('distmnist.export.job').origin)"
    found = shell(f'python -c "{code}"', tmp_path, PYTHONPATH=str(place))
    assert Path(found.stdout.strip()).is_relative_to(place)


@pytest.mark.parametrize("module", ["distmnist.export", "distmnist.export.predict", "distmnist"])
def test_the_export_has_one_name_in_a_clone_and_installed(tmp_path, module, installed):
    answers = [shell(f"python -m {module} --help", tmp_path, PYTHONPATH=str(place)) for place in (ROOT, installed)]
    assert answers[0].returncode == 0 and answers[0].stdout == answers[1].stdout != ""
