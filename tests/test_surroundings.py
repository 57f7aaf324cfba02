"""Where people run it: notebooks, profilers, threads, SLURM, torch.distributed.launch, a terminal that closes."""

import json
import os
import pstats
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from one_run import SMALL, find_no_temporary_directory
from ranks import Ended, run_module
from test_command import ENDLESS, PLAIN, resume_in_this_process, started, wait_for

from distmnist import commandline, train
from distmnist.doctor import __main__ as doctor
from distmnist.evaluate import __main__ as evaluate
from distmnist.report import __main__ as report
from distmnist.runs import pool
from distmnist.study import __main__ as study
from distmnist.sweep import __main__ as sweep
from distmnist.training.requests import Request, Signals
from export import __main__ as export

ROOT = Path(__file__).parents[1]
COMMANDS = [train.main, evaluate.main, study.main, sweep.main, report.main, doctor.main, export.main]


def python(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


# Notebooks


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "no-such-backend", "tkagg"])
def test_plots_do_not_depend_on_the_backend_that_the_environment_names(tmp_path, backend):
    pytest.importorskip("matplotlib", reason="needs the extra report")
    program = (
        "import os, sys; from distmnist import plots\n"
        "with plots.style():\n"
        "    figure, axes = plots.panel(); axes.plot([1, 2])\n"
        "    sys.stdout.buffer.write(plots.written(figure, 'png')[:4] + plots.written(figure, 'svg')[:5])\n"
        "sys.stdout.write(os.environ['MPLBACKEND'])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": backend}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, timeout=120)
    assert done.stdout == b"\x89PNG<?xml" + backend.encode(), done.stderr


# Embedding

WITNESS = "import atexit; from distmnist.train import command; atexit.register(print, 'at exit'); command()"
"""A program of which "at exit" tells whether the interpreter has ended in the ordinary way."""


def test_the_command_ends_the_process_at_once_only_if_nobody_waits_for_its_end(tmp_path):
    (tmp_path / "witness.py").write_text(WITNESS)
    wrong = ["--lr=nan"]
    for alone in (["witness.py"], ["-m", "witness"]):
        done = python(tmp_path, *alone, *wrong, PYTHONPATH=f"{ROOT}{os.pathsep}{tmp_path}")
        assert (done.returncode, done.stdout) == (2, "") and "--lr nan" in done.stderr
    run = (
        "import runpy, sys; sys.argv[1:] = ['--lr=nan']; runpy.run_module('witness', run_name='__main__', alter_sys={})"
    )
    trace = "import sys; sys.settrace(lambda *_: None); import runpy; sys.argv[1:] = ['--lr=nan']; " + WITNESS
    for accompanied in (
        ["-c", run.format(True)],
        ["-c", run.format(False)],
        ["-c", trace],
        ["-m", "cProfile", "-o", "profile", "-m", "witness", *wrong],
        ["-m", "cProfile", "-o", "profile", "witness.py", *wrong],
    ):
        done = python(tmp_path, *accompanied, PYTHONPATH=f"{ROOT}{os.pathsep}{tmp_path}")
        assert (done.returncode, done.stdout) == (2 * ("cProfile" not in accompanied), "at exit\n"), accompanied


def test_a_profile_of_a_training_is_written(tmp_path):
    options = ["--data=sample", *SMALL, "--max-steps=2", "--output=a"]
    done = python(tmp_path, "-m", "cProfile", "-o", "profile", "-m", "distmnist.train", *options)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    functions = {function for _, _, function in pstats.Stats(str(tmp_path / "profile")).stats}
    assert "run_epoch" in functions and (tmp_path / "a/summary.json").exists()


def test_a_program_that_calls_runpy_goes_on_after_a_training(tmp_path):
    program = (
        "import runpy, sys\n"
        f"sys.argv[1:] = {['--data=sample', *SMALL, '--max-steps=2', '--output=a']}\n"
        "try: runpy.run_module('distmnist.train', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as end: print('goes on after', end.code)"
    )
    done = python(tmp_path, "-c", program)
    assert done.returncode == 0 and done.stdout.endswith("\ngoes on after 0\n"), done.stderr


def test_a_training_in_a_thread_is_like_any_other(command):
    answers = []
    thread = threading.Thread(target=lambda: answers.append(command(*SMALL, "--output=a")))
    thread.start()
    thread.join(60)
    [(code, _, err)] = answers
    assert (code, err) == (0, []) and json.loads(Path("a/summary.json").read_text())["status"] == "finished"


def test_outside_the_main_thread_signals_are_left_to_the_program():
    before, seen = signal.getsignal(signal.SIGINT), []

    def enter() -> None:
        with Signals() as signals:
            seen.append((signals(), signals.fatal, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join(10)
    assert seen == [(Request.NOTHING, None, before)]


# Launchers


@pytest.mark.parametrize("main", COMMANDS)
def test_several_slurm_tasks_without_a_launcher_are_refused_and_one_of_them_says_so(monkeypatch, capsys, main):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    for task in "0", "3":
        monkeypatch.setenv("SLURM_PROCID", task)
        assert main([]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == (task == "0") and ("srun started 4 tasks" in err) == (task == "0")


@pytest.mark.parametrize(
    "variables",
    [
        {"SLURM_STEP_NUM_TASKS": "4", "RANK": "0", "WORLD_SIZE": "1"},
        {"SLURM_STEP_NUM_TASKS": "1"},
        {"SLURM_NTASKS": "4", "SLURM_PROCID": "0"},
        {"SLURM_STEP_NUM_TASKS": ""},
    ],
    ids=["torchrun", "one task", "sbatch", "empty"],
)
@pytest.mark.parametrize("main", COMMANDS)
def test_one_slurm_task_and_ranks_of_a_launcher_are_not_refused(monkeypatch, capsys, main, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert main(["run", "--mistyped"]) == 2
    assert "--mistyped" in capsys.readouterr().err


def test_the_options_can_be_checked_in_every_task(monkeypatch, capsys):
    """launch/multi_node.sh does it before it starts torchrun."""
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    monkeypatch.setattr(sys, "argv", ["commandline", "--epochs=1"])
    assert commandline.answer(commandline.check) == 0


def test_a_run_of_a_study_does_not_take_itself_for_one_of_several_tasks(monkeypatch, tmp_path):
    for name, value in {"SLURM_STEP_NUM_TASKS": "2", "RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    given = {"data": "sample", "model": "mlp", "max_steps": 1, "amp": "off"}
    member = pool.Member(tmp_path / "run", given)
    [(ended, error)] = pool.run([member], pool.Jobs(1, 1), lambda: Request.NOTHING)
    assert (ended, error) == (member, None)


@pytest.mark.parametrize("option", ["--local-rank=0", "--local_rank=0"])
@pytest.mark.parametrize("main", [train.main, doctor.main])
def test_what_torch_distributed_launch_adds_is_answered_with_torchrun(capsys, main, option):
    assert main([option]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "torch.distributed.launch" in err and "use torchrun" in err


# A terminal that closes

needs_hangup = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")


@pytest.fixture
def hangup_handler():
    """Sets what SIGHUP does in this process, and so in those that it starts; puts it back."""
    before = signal.getsignal(signal.SIGHUP)
    yield lambda handler: signal.signal(signal.SIGHUP, handler)
    signal.signal(signal.SIGHUP, before)


@needs_hangup
def test_a_terminal_that_closes_leaves_a_run_that_goes_on(tmp_path, monkeypatch, hangup_handler):
    hangup_handler(signal.SIG_DFL)
    with started(tmp_path, *PLAIN, *ENDLESS) as process:
        wait_for(tmp_path / "a/mlp/last.pt", process)
        process.send_signal(signal.SIGHUP)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 129 and "Traceback" not in err
    assert out.splitlines()[-1].startswith("interrupted; to go on:")
    resume_in_this_process(tmp_path, monkeypatch)


@needs_hangup
def test_a_hangup_that_is_ignored_stays_ignored(hangup_handler):
    hangup_handler(signal.SIG_IGN)
    with Signals() as signals:
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        os.kill(os.getpid(), signal.SIGHUP)
        assert signals() == Request.NOTHING
    hangup_handler(signal.SIG_DFL)
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGHUP)
        assert signals() & Request.STOP and signals.fatal == signal.SIGHUP
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL


# No writable temporary directory


@pytest.fixture(scope="module")
def without_temporary(tmp_path_factory):
    """Runs a command whose Python finds no temporary directory. In a directory that holds a run called `r`."""
    folder = tmp_path_factory.mktemp("system")

    def run(module: str, *arguments: str, **variables: str) -> Ended:
        return run_module(module, *arguments, folder=folder, before=find_no_temporary_directory, **variables)

    done = run("distmnist.train", "--data=sample", *SMALL, "--max-steps=2", "--output=r")
    assert done.code == 0 and not [line for line in done.err if "Traceback" in line], done.err
    return run


def test_without_a_temporary_directory_an_export_says_what_is_missing(without_temporary):
    done = without_temporary("distmnist.export", "r")
    assert done.code == 2 and len(done.err) == 1, done.err
    assert "no temporary directory can be written" in done.err[0] and "TMPDIR" in done.err[0]


def test_without_a_temporary_directory_a_study_is_made(without_temporary):
    pytest.importorskip("scipy", reason="the statistics need the extra `study`")
    options = ["--data=sample", "--model=mlp", "--max-steps=2", "--repeats=1", "--recipes=reference", "--output=s"]
    done = without_temporary("distmnist.study", *options)
    assert (done.code, done.err) == (0, [])


def test_a_report_without_any_place_for_matplotlibs_files_says_so_in_one_line(without_temporary):
    for needed in ("matplotlib", "scipy", "jinja2"):
        pytest.importorskip(needed, reason="needs the extra report")
    done = without_temporary("distmnist.report", "r", MPLCONFIGDIR="/proc/none")
    assert done.code == 1 and len(done.err) == 1, done.err
    assert "MPLCONFIGDIR" in done.err[0]
