"""launch/multi_node.sh on hosts made of network namespaces on one bridge: they train, are lost, and come back.

Needs root and `ip` (iproute2), takes minutes and leaves nothing behind, so it is asked for:

    DISTMNIST_TEST_NETNS=1 python -m pytest -q tests/launch/test_launch_hosts.py
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
if os.environ.get("DISTMNIST_TEST_NETNS") != "1":
    pytest.skip("takes minutes, as root: ask for it with DISTMNIST_TEST_NETNS=1", allow_module_level=True)
if not hasattr(os, "geteuid") or os.geteuid() != 0 or not shutil.which("ip"):
    pytest.skip("needs root and the command ip (iproute2)", allow_module_level=True)

OPTIONS = ["--data=sample", "--model=cnn", "--virtual-ranks=4", "--epochs=3", "--snapshot-steps=10"]
SHORT = ["--data=sample", "--model=mlp", "--max-steps=5"]
PORT = 29511
LIMIT = 240.0
"""Seconds that a job may take, faults included."""


class Hosts:
    """node1, node2, ... at 10.77.0.1, 10.77.0.2, ...: namespaces with a name, an address and a link of their own."""

    def __init__(self, count: int, folder: Path) -> None:
        # Names of its own: the kernel takes a namespace's links away some time after the namespace.
        self.prefix, self.folder = f"dm{secrets.token_hex(3)}", folder
        self.numbers = range(1, count + 1)
        self.jobs: list[subprocess.Popen] = []
        names = "".join(f"10.77.0.{n} node{n}\n" for n in self.numbers)
        ip("link", "add", self.prefix, "type", "bridge")
        ip("link", "set", self.prefix, "up")
        for number in self.numbers:
            name, link = self._name(number), self._link(number)
            etc = Path("/etc/netns", name)  # what `ip netns exec` puts over /etc
            etc.mkdir(parents=True)
            (etc / "hosts").write_text("127.0.0.1 localhost\n" + names)
            ip("netns", "add", name)
            ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("link", "set", link, "master", self.prefix, "up")
            ip("-n", name, "address", "add", f"10.77.0.{number}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "link", "set", "lo", "up")

    def _name(self, number: int) -> str:
        return f"{self.prefix}-{number}"

    def _link(self, number: int) -> str:
        return f"{self.prefix}l{number}"

    def start(self, number: int, *arguments: str, **variables: str) -> subprocess.Popen:
        """multi_node.sh on this host, its output in nodeN.log."""
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHON": sys.executable, "WAIT": "60"}
        environment |= {"ENDPOINT": f"node1:{PORT}", "NPROC": "1", **variables}
        script = f'hostname node{number} && exec {ROOT}/launch/multi_node.sh "$@"'
        command = ["ip", "netns", "exec", self._name(number), "unshare", "--uts", "bash", "-c", script, "_", *arguments]
        with open(self.folder / f"node{number}.log", "a") as log:
            job = subprocess.Popen(command, cwd=self.folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
        self.jobs.append(job)
        return job

    def cut(self, number: int) -> None:
        ip("link", "set", self._link(number), "down")

    def mend(self, number: int) -> None:
        ip("link", "set", self._link(number), "up")

    def die(self, number: int) -> None:
        """As if the power had failed: nobody is told."""
        self.cut(number)
        for process in ip("netns", "pids", self._name(number)).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGKILL)

    def log(self, number: int) -> str:
        return (self.folder / f"node{number}.log").read_text()

    def remove(self) -> None:
        for number in self.numbers:
            self.die(number)
            ip("netns", "del", self._name(number))
            shutil.rmtree(Path("/etc/netns", self._name(number)))
        for job in self.jobs:
            job.wait()
        ip("link", "del", self.prefix)


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


@contextlib.contextmanager
def hosts(count: int, folder: Path) -> Iterator[Hosts]:
    made = Hosts(count, folder)
    try:
        yield made
    except BaseException:
        for number in made.numbers:
            log = made.folder / f"node{number}.log"
            print(f"--- node{number}\n{log.read_text()[-6000:] if log.exists() else '(not started)'}")
        raise
    finally:
        made.remove()


def wait_for(condition, *jobs: subprocess.Popen) -> None:
    """Until `condition()`; fails if a job ends before, or after LIMIT seconds."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert all(job.poll() is None for job in jobs), "a job ended early"
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)


def digest(run: Path) -> str:
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "finished"
    return summary["models"]["cnn"]["weights_sha256"]


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> str:
    """The digest of the same run on one machine, in one process."""
    folder = tmp_path_factory.mktemp("one")
    command = [f"{ROOT}/launch/single_node.sh", *OPTIONS, "--output=run"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHON": sys.executable, "NPROC": "1"}
    subprocess.run(command, cwd=folder, env=environment, check=True, timeout=LIMIT)
    return digest(folder / "run")


def test_three_hosts_with_different_numbers_of_processes_train_what_one_trains(tmp_path, expected):
    with hosts(3, tmp_path) as cluster:
        jobs = [
            cluster.start(number, *OPTIONS, "--output=run", NNODES="3", NPROC="2" if number == 2 else "1")
            for number in (3, 2, 1)
        ]
        assert [job.wait(LIMIT) for job in jobs] == [0, 0, 0]
        assert json.loads((tmp_path / "run/summary.json").read_text())["world_size"] == 4
    assert digest(tmp_path / "run") == expected


def test_a_host_that_loses_its_power_and_comes_back_is_waited_for(tmp_path, expected):
    arguments = [*OPTIONS, "--output=run", "--timeout=15"]
    with hosts(2, tmp_path) as cluster:
        first, second = (cluster.start(number, *arguments, NNODES="2") for number in (1, 2))
        wait_for((tmp_path / "run/cnn/last.pt").exists, first, second)
        cluster.die(2)
        time.sleep(3)
        cluster.mend(2)
        back = cluster.start(2, *arguments, NNODES="2")
        assert [job.wait(LIMIT) for job in (first, back)] == [0, 0]
        assert "resuming cnn after step" in cluster.log(1) + cluster.log(2)
    assert digest(tmp_path / "run") == expected


def test_the_others_go_on_without_a_host_that_does_not_come_back(tmp_path, expected):
    arguments = [*OPTIONS, "--output=run", "--timeout=15"]
    with hosts(2, tmp_path) as cluster:
        first, second = (cluster.start(number, *arguments, NNODES="1:2") for number in (1, 2))
        wait_for((tmp_path / "run/cnn/last.pt").exists, first, second)
        assert "2 processes x 1 thread" in cluster.log(1) + cluster.log(2)
        cluster.die(2)
        assert first.wait(LIMIT) == 0
        assert json.loads((tmp_path / "run/summary.json").read_text())["world_size"] == 1
    assert digest(tmp_path / "run") == expected


def test_a_link_that_is_cut_for_30_seconds_is_survived(tmp_path, expected):
    with hosts(2, tmp_path) as cluster:
        jobs = [cluster.start(number, *OPTIONS, "--output=run", NNODES="2") for number in (1, 2)]
        wait_for((tmp_path / "run/cnn/last.pt").exists, *jobs)
        cluster.cut(2)
        time.sleep(30)
        assert not (tmp_path / "run/summary.json").exists()
        cluster.mend(2)
        assert [job.wait(LIMIT) for job in jobs] == [0, 0]
    assert digest(tmp_path / "run") == expected


def test_the_doctor_examines_all_hosts_and_names_their_interfaces(tmp_path):
    with hosts(2, tmp_path) as cluster:
        variables = {"NNODES": "2", "MODULE": "distmnist.doctor", "RESTARTS": "0"}
        jobs = [cluster.start(number, "--output=run", **variables) for number in (1, 2)]
        assert [job.wait(LIMIT) for job in jobs] == [0, 0]
        said = cluster.log(1) + cluster.log(2)
    assert "node1  cpu  eth0" in said and "node2  cpu  eth0" in said
    assert said.count("the sum is right on every rank") == 3


def test_what_is_wrong_on_a_host_is_a_line_and_no_hang(tmp_path):
    with hosts(2, tmp_path) as cluster:
        wrong = {"NNODES": "2", "RESTARTS": "0", "WAIT": "3"}
        assert cluster.start(1, "--output=run", **wrong, ENDPOINT="nodeX:1").wait(LIMIT) == 2
        assert "host name nodeX does not resolve here" in cluster.log(1)
        assert cluster.start(2, "--output=run", **wrong).wait(LIMIT) == 2
        assert f"nobody answers at node1:{PORT}; start the job on node1 too" in cluster.log(2)
        assert cluster.start(2, "--output=absent/run", **wrong).wait(LIMIT) == 2
        assert "absent is not there" in cluster.log(2)
        jobs = [cluster.start(n, "--output=run", f"--lr=0.{n}", NNODES="2", RESTARTS="0") for n in (1, 2)]
        assert [job.wait(LIMIT) for job in jobs] == [1, 1]
        said = cluster.log(1) + cluster.log(2)
        assert said.count("; start all processes alike") == 1 and "has --lr 0." in said
        (tmp_path / "elsewhere").mkdir()
        first = cluster.start(1, "--output=short", *SHORT, NNODES="1:3", RESTARTS="0")
        assert cluster.start(2, "--output=elsewhere/short", **wrong | {"WAIT": "60"}).wait(LIMIT) == 2
        assert "elsewhere is not the directory that node1 has" in cluster.log(2)
        assert first.wait(LIMIT) == 0
        first = cluster.start(1, "--output=other", *SHORT, NNODES="1:3", RESTARTS="0")
        assert cluster.start(2, "--output=other", **wrong | {"WAIT": "60"}).wait(LIMIT) == 2
        assert "node1 was started with NNODES=1:3 JOB=other, this host with NNODES=2 JOB=other" in cluster.log(2)
        assert first.wait(LIMIT) == 0
