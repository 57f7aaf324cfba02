"""The ways to start: each script says what is wrong in a line, starts what it says, and passes the linters."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from digits import stored

from distmnist.data.known import load_sample

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
SCRIPTS = ["single_node.sh", "multi_node.sh", "slurm.sbatch"]
if not shutil.which("bash"):
    pytest.skip("the scripts need bash", allow_module_level=True)


def launch(folder: Path, script: str, *options: str, **variables: str) -> tuple[int, str, str]:
    """Exit code, output and error output of a script, started in `folder`; the variables beside the usual ones."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHON": sys.executable, **variables}
    command = ["bash", str(LAUNCH / script), *options]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


def test_one_machine_trains_both_nets_with_as_many_processes_as_asked_and_reports_once(tmp_path):
    """With the options passed through: one of several words, one with a blank in it."""
    (tmp_path / "runs").mkdir()
    options = ["--epochs=1", "--batch-size", "500", "--output", "runs/a b"]
    code, out, err = launch(tmp_path, "single_node.sh", *options, NPROC="2")
    assert code == 0, err
    summary = json.loads((tmp_path / "runs/a b/summary.json").read_text())
    assert (summary["schema"], summary["status"], summary["world_size"]) == (1, "finished", 2)
    assert summary["dataset"] == stored(load_sample())
    assert [(net, figure["count"], figure["epochs"]) for net, figure in summary["models"].items()] == [
        ("mlp", 1000, 1),
        ("cnn", 1000, 1),
    ]
    assert (tmp_path / "runs/latest").resolve() == tmp_path / "runs/a b"
    said = ("next: python -m distmnist.export 'runs/a b'", "mlp  epoch 1/1", "global batch 500", "2 processes x ")
    assert [out.count(text) for text in said] == [1, 1, 1, 1]
    assert err.count("SAMPLE") == 1 and "OMP_NUM_THREADS" not in err and "Warning" not in err


def test_what_is_wrong_under_torchrun_is_said_exactly_once_and_the_exit_code_is_torchruns(tmp_path):
    code, out, err = launch(tmp_path, "single_node.sh", "--batch-size=1", NPROC="2")
    assert (code, out) == (1, "")
    assert err.count("distmnist: --batch-size 1 is smaller than the 2 processes; use 2 or more\n") == 1
    assert err.count("distmnist: ") == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("script", "variables", "options", "told"),
    [
        ("single_node.sh", {"NPROC": "0"}, [], "single_node.sh: NPROC=0 is not a number from 1 on"),
        ("single_node.sh", {"RESTARTS": "x"}, [], "single_node.sh: RESTARTS=x is no number"),
        ("single_node.sh", {"PYTHON": "/no/python"}, [], "cannot import distmnist and torch: set PYTHON"),
        ("multi_node.sh", {}, [], "ENDPOINT is not set: HOST:PORT of the first host"),
        ("multi_node.sh", {"ENDPOINT": "a:1"}, [], "NNODES='' is neither a number of hosts nor MIN:MAX"),
        ("multi_node.sh", {"ENDPOINT": "a:1", "NNODES": "2:"}, [], "NNODES='2:' is neither"),
        ("multi_node.sh", {"ENDPOINT": "a:1", "NNODES": "3:2"}, [], "NNODES=3:2: MIN is larger than MAX"),
        ("multi_node.sh", {"ENDPOINT": "a:1", "NNODES": "2"}, [], "--output must be named"),
        ("multi_node.sh", {"ENDPOINT": "a:1", "NNODES": "2", "WAIT": "-1"}, [], "WAIT=-1 is no number"),
        (
            "multi_node.sh",
            {"ENDPOINT": "a:1", "NNODES": "2"},
            ["--output=absent/run"],
            "--output absent/run: absent is not there, or not to be written; is it mounted here?",
        ),
        (
            "multi_node.sh",
            {"ENDPOINT": "a:1", "NNODES": "2"},
            ["--output", "run", "--ephocs=3"],
            "distmnist: unrecognized arguments: --ephocs=3",
        ),
        (
            "multi_node.sh",
            {"ENDPOINT": "no.such.host.invalid:1", "NNODES": "2", "WAIT": "0"},
            ["--output=run"],
            "distmnist: host name no.such.host.invalid does not resolve here",
        ),
        (
            "multi_node.sh",
            {"ENDPOINT": "localhost:29531", "NNODES": "2", "WAIT": "0"},
            ["--output=run"],
            "ENDPOINT=localhost:29531 is the loopback here, which no other host can reach",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_exit_code_2_before_torchrun(tmp_path, script, variables, options, told):
    code, out, err = launch(tmp_path, script, *options, **variables)
    assert (code, out) == (2, "")
    assert told in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_holds_a_finished_run_is_refused_unless_the_job_has_a_name_of_its_own(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old/summary.json").write_text('{"status": "finished"}')
    variables = {"ENDPOINT": "127.0.0.1:1", "NNODES": "2", "WAIT": "0"}
    code, _, err = launch(tmp_path, "multi_node.sh", "--output=old", **variables)
    assert code == 2 and err == "multi_node.sh: --output old holds a finished run; choose a different directory\n"
    for options, more in ((["--resume"], {}), ([], {"JOB": "slurm-7"})):
        _, _, err = launch(tmp_path, "multi_node.sh", "--output=old", *options, **variables, **more)
        assert "holds a finished run" not in err


def test_a_port_in_use_is_said_before_torchrun(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        variables = {"ENDPOINT": f"localhost:{server.getsockname()[1]}", "NNODES": "1", "WAIT": "0"}
        code, _, err = launch(tmp_path, "multi_node.sh", "--output=run", **variables)
    assert code == 2 and re.fullmatch(r"distmnist: port \d+ is in use on this host; .*\n", err)


def test_the_rendezvous_of_several_machines_trains_on_one_as_well(tmp_path):
    (tmp_path / "runs").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    variables = {"ENDPOINT": f"localhost:{port}", "NNODES": "1", "NPROC": "1"}
    options = ["--model=mlp", "--max-steps=2", "--output=runs/a"]
    code, out, err = launch(tmp_path, "multi_node.sh", *options, **variables)
    assert code == 0, err
    assert "joins 1 hosts at localhost" in out
    assert json.loads((tmp_path / "runs/a/summary.json").read_text())["status"] == "finished"


STANDS_FOR_PYTHON = """#!/usr/bin/env bash
case $2 in
  distmnist.machine) echo "${3:-7} 5" ;;
  torch.distributed.run) echo "OMP_NUM_THREADS=$OMP_NUM_THREADS $*" ;;
  *) exec "$REAL_PYTHON" "$@" ;;
esac
"""
"""Answers for this machine, and prints what torchrun would have been started with."""


def launch_with(folder: Path, python: str, script: str, **variables: str) -> tuple[int, str, str]:
    """`launch`, with `python`, a program's text, in Python's place. The variables suit both scripts, on one machine."""
    (folder / "python").write_text(python)
    (folder / "python").chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as free:
        endpoint = f"localhost:{free.getsockname()[1]}"
    variables |= {"PYTHON": str(folder / "python"), "REAL_PYTHON": sys.executable}
    return launch(folder, script, "--output=run", ENDPOINT=endpoint, NNODES="1", **variables)


@pytest.mark.parametrize("script", ["single_node.sh", "multi_node.sh"])
@pytest.mark.parametrize(
    ("variables", "processes", "threads"),
    [({}, 7, 5), ({"NPROC": "3"}, 3, 5), ({"NPROC": "3", "OMP_NUM_THREADS": "2"}, 3, 2)],
)
def test_torchrun_is_given_the_machines_processes_and_threads_unless_they_are_set(
    tmp_path, script, variables, processes, threads
):
    code, out, err = launch_with(tmp_path, STANDS_FOR_PYTHON, script, **variables)
    assert (code, err) == (0, "")
    started = out.splitlines()[-1]
    assert started.startswith(f"OMP_NUM_THREADS={threads} ") and f" --nproc-per-node={processes} " in started
    assert started.endswith(" -m distmnist.train --output=run")


@pytest.mark.parametrize("script", ["single_node.sh", "multi_node.sh"])
def test_a_python_without_torch_is_named_with_exit_code_2(tmp_path, script):
    without_torch = STANDS_FOR_PYTHON.replace('echo "${3:-7} 5"', "echo Traceback >&2; exit 1")
    code, out, err = launch_with(tmp_path, without_torch, script)
    assert (code, out) == (2, "") and re.match(rf"{script}: '.*python' cannot import .*torch.*\n$", err)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_says_what_it_is_for_what_to_edit_and_how_to_run_it(script):
    text = (LAUNCH / script).read_text()
    header = text.partition("set -euo pipefail\n")[0]
    assert header.startswith("#!/usr/bin/env bash\n# ") and "\n# Edit:  " in header and "\n# Run:   " in header
    assert text.partition("set -euo pipefail\n")[2] and os.access(LAUNCH / script, os.X_OK)


def program(name: str) -> str:
    """Where a linter is: on the path, or beside this Python. Skips where it is not."""
    beside = Path(sys.executable).parent
    return shutil.which(name) or shutil.which(name, path=str(beside)) or pytest.skip(f"{name} is not installed")


def test_the_linters_are_pinned_so_that_their_next_release_turns_no_commit_red():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    linters = [line for line in project["optional-dependencies"]["dev"] if not line.startswith("distmnist")]
    assert len(linters) == 5 and all(re.search(r">=[\d.]+,<[\d.]+$", line) for line in linters)


def test_shellcheck_finds_nothing():
    done = subprocess.run([program("shellcheck"), *SCRIPTS], cwd=LAUNCH, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def test_hadolint_finds_nothing_in_the_dockerfile():
    done = subprocess.run([program("hadolint"), "Dockerfile"], cwd=LAUNCH, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def test_the_dockerfile_copies_all_that_the_package_is_built_of(tmp_path):
    copied = {
        source
        for line in (LAUNCH / "Dockerfile").read_text().splitlines()
        if line.startswith("COPY ")
        for source in line.split()[1:-1]
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = {"distmnist"} | set(project["tool"]["setuptools"]["package-dir"].values())
    files = {project["project"]["readme"], *project["project"]["license-files"], "pyproject.toml"}
    assert folders | {"launch"} | {f for f in files if "/" not in f} == copied


def test_the_kubernetes_manifest_fits_the_published_schemas(tmp_path):
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    yaml = pytest.importorskip("yaml")
    documents = list(yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text()))
    assert [document["kind"] for document in documents] == ["Service", "PersistentVolumeClaim", "Job"]
    for document in documents:
        kubernetes_validate.validate(document, "1.28", strict=True)
    service, _, job = documents
    pod = job["spec"]["template"]
    environment = {entry["name"]: entry.get("value") for entry in pod["spec"]["containers"][0]["env"]}
    host, _, port = environment["ENDPOINT"].partition(":")
    assert host == f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    assert pod["spec"]["subdomain"] == service["metadata"]["name"] and service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert int(port) == service["spec"]["ports"][0]["port"]
    assert int(environment["NNODES"]) == job["spec"]["completions"] == job["spec"]["parallelism"]
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job | {"spec": job["spec"] | {"completion": 2}}, "1.28", strict=True)
