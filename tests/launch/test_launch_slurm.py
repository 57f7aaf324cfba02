"""launch/slurm.sbatch under a SLURM of one's own: submitted, requeued in the middle, it ends with the same weights.

Needs root, slurmctld, slurmd and munged (Debian: slurm-wlm, munge), starts all three for itself, on ports and in a
folder of their own, and ends them. It is asked for:

    DISTMNIST_TEST_SLURM=1 python -m pytest -q tests/launch/test_launch_slurm.py
"""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch")
if os.environ.get("DISTMNIST_TEST_SLURM") != "1":
    pytest.skip("takes minutes, as root: ask for it with DISTMNIST_TEST_SLURM=1", allow_module_level=True)
if os.geteuid() != 0 or not all(shutil.which(name) for name in PROGRAMS):
    pytest.skip(f"needs root and {', '.join(PROGRAMS)}", allow_module_level=True)

OPTIONS = ["--data=sample", "--model=cnn", "--virtual-ranks=4", "--epochs=3", "--snapshot-steps=10"]
LIMIT = 240.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


CONFIGURATION = """
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
MinJobAge=300
NodeName=localhost NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture
def slurm(tmp_path_factory) -> Iterator[dict[str, str]]:
    """A cluster of this machine alone. Gives the environment for its commands."""
    folder = tmp_path_factory.mktemp("slurm")
    os.chmod(folder, 0o755)
    for parent in folder.parents:  # munged refuses a socket below a directory that others cannot enter
        if parent.owner() == "root" and parent != Path("/") and not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o600)
    text = CONFIGURATION.format(folder=folder, controller=free_port(), daemon=free_port())
    (folder / "slurm.conf").write_text(text)
    environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
    munge = ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket"]
    munge += [f"--{name}={folder}/munged.{name.split('-')[0]}" for name in ("pid-file", "log-file", "seed-file")]
    daemons = []
    try:
        for command in (munge, ["slurmctld", "-D", "-c"], ["slurmd", "-D", "-N", "localhost"]):
            with open(folder / f"{command[0]}.out", "w") as log:
                daemon = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
            daemons.append(daemon)
            time.sleep(2)
            assert daemon.poll() is None, (folder / f"{command[0]}.out").read_text()
        yield environment
    except BaseException:
        for path in folder.glob("slurm*.out"):
            print(f"--- {path.name}\n{path.read_text()[-2500:]}")
        raise
    finally:
        subprocess.run(["scancel", "--full", "--user=root"], env=environment, timeout=30, check=False)
        for daemon in reversed(daemons):
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def digest(run: Path) -> str:
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "finished"
    return summary["models"]["cnn"]["weights_sha256"]


@pytest.mark.parametrize("how", ["by its own signal before the time is up", "by scontrol requeue"])
def test_a_job_that_is_requeued_in_the_middle_ends_with_the_undisturbed_weights(tmp_path, slurm, how):
    environment = slurm | {"PYTHONPATH": str(ROOT), "PYTHON": sys.executable, "NPROC": "2"}
    (tmp_path / "launch").symlink_to(ROOT / "launch")
    resources = ["--nodes=1", "--cpus-per-task=2", "--parsable"]
    command = ["sbatch", *resources, "launch/slurm.sbatch", *OPTIONS]
    sent = subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
    job = sent.stdout.strip()
    run, log = tmp_path / "runs" / f"slurm-{job}", tmp_path / f"slurm-{job}.log"

    def wait_for(condition) -> None:
        deadline = time.monotonic() + LIMIT
        while not condition():
            assert time.monotonic() < deadline, log.read_text() if log.exists() else "no log"
            time.sleep(0.5)

    wait_for((run / "cnn/last.pt").exists)
    signal = ["scancel", "--batch", "--signal=USR1", job] if "signal" in how else ["scontrol", "requeue", job]
    subprocess.run(signal, env=environment, check=True, timeout=30)

    show = ["scontrol", "show", "job", job]
    wait_for(lambda: "JobState=PENDING" in subprocess.check_output(show, env=environment, text=True))
    # SLURM holds a requeued job back for two minutes. A few seconds do: slurmd refuses it while it ends its processes.
    time.sleep(5)
    subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], env=environment, check=True)
    wait_for(lambda: "resuming cnn after step" in log.read_text())
    wait_for(lambda: (run / "summary.json").exists() and '"finished"' in (run / "summary.json").read_text())
    reference = [f"{ROOT}/launch/single_node.sh", *OPTIONS, "--output=runs/one"]
    subprocess.run(reference, cwd=tmp_path, env=environment | {"NPROC": "1"}, check=True, timeout=LIMIT)
    assert digest(run) == digest(tmp_path / "runs/one")
    print(log.read_text())
