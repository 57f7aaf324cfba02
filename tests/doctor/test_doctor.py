"""The doctor: what is well is ok, what is not is a warning or a problem, and the exit code tells."""

import contextlib
import io
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from digits import put
from pictures import fill, photos
from ranks import run_processes

from distmnist import machine
from distmnist.config import TrainConfig
from distmnist.data import known
from distmnist.distributed.world import World
from distmnist.doctor import __main__ as doctor
from distmnist.doctor import checks, examination, measurements
from distmnist.doctor.measurements import StepTimes


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    """Few steps, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    few_steps()


def few_steps():
    measurements.WARM_UP, measurements.STEPS, measurements.TEST_DIGITS = 2, 6, 8


@pytest.fixture(autouse=True)
def as_they_were(monkeypatch):
    for name in ("WARM_UP", "STEPS", "TEST_DIGITS"):
        monkeypatch.setattr(measurements, name, getattr(measurements, name))
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.delenv(name, raising=False)


def examined(*arguments):
    """Exit code and report of `python -m distmnist.doctor --json`, in this process."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = doctor.main(["--json", *arguments])
    return code, json.loads(out.getvalue()) if out.getvalue() else None


def named(report, name, level=None):
    """The findings of that name, and level if given."""
    return [f for f in report["findings"] if f["name"] == name and level in (None, f["level"])]


def test_help_answers_without_torch_and_a_mistyped_option_in_one_line_with_exit_code_2():
    code = "import sys; from distmnist.doctor.__main__ import main; code = main(); assert 'torch' not in sys.modules"
    command = [sys.executable, "-c", f"{code}; sys.exit(code)", "--jsn"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "distmnist: unrecognized arguments: --jsn; --help lists the options\n"
    assert doctor.main(["--timeout=0"]) == 2
    with pytest.raises(SystemExit) as left, contextlib.redirect_stdout(io.StringIO()) as out:
        doctor.main(["--help"])
    assert left.value.code == 0 and "--endpoint" in out.getvalue() and "--lr" not in out.getvalue()


def test_a_machine_that_trains_has_no_problem_and_its_steps_are_timed():
    code, report = examined()
    assert (code, report["status"], report["world_size"]) == (0, "warning", 1)
    assert "put it there" in named(report, "data", "warning")[0]["text"]
    times = report["ranks"][0]["step_seconds"]
    assert 0 < times["minimum"] <= times["median"] <= times["maximum"]
    assert not list(os.scandir("."))


@pytest.mark.parametrize(
    ("directory", "chosen", "level", "told"),
    [
        ("absent", True, "warning", "no MNIST in absent: training downloads it, and stops where it cannot"),
        ("absent", False, "warning", "falls back on the sample of 5,000 digits where it cannot; put it there"),
        ("photographs", False, "warning", "SAMPLE is trained on, because there is no MNIST in photographs: it holds"),
    ],
)
def test_the_doctor_says_of_the_data_what_training_will_do_and_makes_nothing(directory, chosen, level, told):
    put(Path("photographs"), {"beach.jpg": b"sun"})
    finding = checks.look_at_known_set("mnist", Path(directory), chosen)
    assert finding.level == level and told in finding.text
    assert checks.look_at_known_set("sample", Path(directory), True).level == "ok"
    assert [entry.name for entry in os.scandir(".")] == ["photographs"]


def test_lines_are_for_people():
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert doctor.main([]) == 0
    lines = out.getvalue().splitlines()
    assert all(line.split()[0] in ("ok", "warning") for line in lines[:-1])
    assert any(line.startswith("ok       versions ") and torch.__version__ in line for line in lines)
    assert lines[-1].startswith("0 problems, ")


def on_rank(arguments, change):
    """The doctor on this rank, after `change` has been made to it."""
    few_steps()
    if change:
        change(int(os.environ["RANK"]))
    return examined(*arguments)


def test_ranks_report_once_and_the_bus_bandwidth_is_that_of_nccl_tests():
    answers = run_processes(on_rank, 3, (), None)
    assert [code for code, _ in answers] == [0, 0, 0]
    assert [report is None for _, report in answers] == [False, True, True]
    report = answers[0][1]
    assert [(r["rank"], r["host"], r["device"], r["interface"]) for r in report["ranks"]] == [
        (rank, socket.gethostname(), "cpu", "lo") for rank in range(3)
    ]
    assert len({json.dumps(r["step_seconds"]) for r in report["ranks"]}) == 3
    gradient = 4 * 429_258
    assert [r["bytes"] for r in report["all_reduce"]] == [4096, gradient, 32 << 20]
    for result in report["all_reduce"]:
        assert result["wrong"] == []
        assert result["bus_bandwidth"] * result["seconds"] == pytest.approx(result["bytes"] * 2 * 2 / 3)
    assert report["step_seconds_together"]["median"] > 0


def add_wrongly(rank):
    right = World.sum_

    def wrong(world, tensor):
        right(world, tensor)
        return tensor.add_(1) if world.rank == 1 and tensor.numel() > 1000 else tensor

    World.sum_ = wrong


def test_a_wrong_sum_is_a_problem_and_the_rank_is_named():
    answers = run_processes(on_rank, 2, (), add_wrongly)
    assert answers[0][0] == 1
    told = named(answers[0][1], "all-reduce", "problem")
    assert len(told) == 3 and all("WRONG on rank 1;" in finding["text"] for finding in told)


def cannot_connect(rank):
    def fail(world):
        raise RuntimeError("[gloo] connectFullMesh failed with Connection refused. More of it\nand more")

    World.connect = fail


def test_processes_that_cannot_reach_each_other_are_a_problem_and_still_reported():
    answers = run_processes(on_rank, 2, (), cannot_connect)
    assert [code for code, _ in answers] == [1, 1] and answers[0][1]["status"] == "problem"
    told = named(answers[0][1], "group", "problem")[0]["text"]
    assert "connectFullMesh failed with Connection refused;" in told and "GLOO_SOCKET_IFNAME" in told


def be_slow(rank):
    if rank == 2:
        measurements.synchronize = lambda device: time.sleep(0.1)


def test_the_slow_rank_shows():
    code, report = run_processes(on_rank, 3, (), be_slow)[0]
    assert code == 0
    assert [named(report, f"rank {rank}")[0]["level"] for rank in range(3)] == ["ok", "ok", "warning"]
    assert "times the ranks' median; look for" in named(report, "rank 2")[0]["text"]


def be_elsewhere(rank):
    """As if every rank were a host of its own, and the last one's clock and torch were others."""
    checks.network.is_loopback = lambda address: False
    if rank == 2:
        examination.time.time = lambda real=time.time: real() - 60
        examination.versions = lambda: {"distmnist": "0.1.0", "torch": "2.0"}


def test_hosts_that_differ_are_named(tmp_path):
    environment = {"LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0", "GLOO_SOCKET_IFNAME": "lo"}
    arguments = [f"--output={tmp_path}/run"]
    code, report = run_processes(on_rank, 3, arguments, be_elsewhere, environment=environment)[0]
    assert code == 1 and "ranks" not in report  # no training steps after that
    assert [f["text"] for f in named(report, "versions", "problem")] == [
        f"rank 2 has torch 2.0, rank 0 has {torch.__version__}; install the same on all hosts"
    ]
    assert "differs by -60 s from rank 0's" in named(report, "clock")[0]["text"]
    assert named(report, "disk", "warning") == [] and list(tmp_path.iterdir()) == []


def see_no_mark(rank):
    checks.network.is_loopback = lambda address: False
    if rank == 1:
        examination.Path = lambda path: Path(f"{path}.elsewhere")
    cannot_connect(rank)  # what comes after that is not looked at


def test_a_folder_that_is_not_shared_is_a_warning(tmp_path):
    environment = {"LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0", "GLOO_SOCKET_IFNAME": "lo"}
    arguments = [f"--output={tmp_path}/run"]
    _, report = run_processes(on_rank, 2, arguments, see_no_mark, environment=environment)[0]
    assert "a restart with rank 0 here finds no checkpoint" in named(report, "disk", "warning")[0]["text"]


def test_hosts_that_would_talk_over_the_loopback_are_stopped_before_they_hang():
    environment = {"LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0", "GLOO_SOCKET_IFNAME": "lo"}
    answers = run_processes(on_rank, 2, (), None, environment=environment)
    assert answers[0][0] == 1
    assert "set GLOO_SOCKET_IFNAME" in named(answers[0][1], "network", "problem")[0]["text"]


@pytest.mark.parametrize(
    ("arguments", "environment", "name", "told"),
    [
        (["--data-dir=broken"], {}, "data", "holds 4 bytes, not"),
        (
            ["--data-dir=photographs"],
            {},
            "data",
            "it holds other files, beach.jpg for one; choose a different directory",
        ),
        (["--data-dir=absent/deeper"], {}, "data", "absent is not a directory; choose a different directory"),
        ([], {"DISTMNIST_DATA": "photographs"}, "data", "it holds other files, beach.jpg for one"),
        (["--output=broken/t10k-labels-idx1-ubyte/run"], {}, "disk", "cannot be written; name another --output"),
        (["--device=cuda"], {}, "device", "no GPU that torch can use; use --device cpu"),
        ([], {"GLOO_SOCKET_IFNAME": "eth9"}, "network", "GLOO_SOCKET_IFNAME=eth9 has no address here; choose from"),
        ([], {"NCCL_SOCKET_IFNAME": "eth9"}, "network", "NCCL_SOCKET_IFNAME=eth9 fits none of"),
        (["--endpoint=no.such.host.invalid:1"], {}, "endpoint", "does not resolve here"),
        (["--endpoint=node1"], {}, "endpoint", "is not HOST:PORT"),
    ],
)
def test_what_stops_training_is_a_problem_with_exit_code_1(monkeypatch, arguments, environment, name, told):
    put(Path("broken"), {n: b"\0\0\x08" + bytes([1 + 2 * ("images" in n)]) for n in known.KNOWN_SETS["mnist"].files})
    put(Path("photographs"), {"beach.jpg": b"sun"})
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    code, report = examined(*arguments)
    assert (code, report["status"]) == (1, "problem")
    assert told in named(report, name, "problem")[0]["text"]
    assert "ranks" not in report


def test_more_processes_than_gpus_are_a_problem(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    finding = checks.look_at_device("auto", World(size=2, local_size=2))
    assert finding.level == "problem" and "2 processes but 1 GPUs" in finding.text


@pytest.mark.parametrize(
    ("processes", "threads", "level", "told"),
    [
        (1, None, "ok", "4 threads"),
        (4, 1, "ok", "4 processes x 1 thread"),
        (5, None, "warning", "more processes than cores; use --nproc_per_node=4"),
        (2, 3, "warning", "more threads than cores; use --threads 2"),
    ],
)
def test_more_than_the_cores_is_a_warning(monkeypatch, processes, threads, level, told):
    monkeypatch.setattr(checks, "usable_cores", lambda: 4)
    monkeypatch.setattr(checks, "default_threads", lambda processes: max(1, 4 // processes))
    finding = checks.look_at_cores(threads, World(size=processes, local_size=processes))
    assert finding.level == level and told in finding.text


def test_little_free_disk_is_a_warning(monkeypatch, tmp_path):
    assert checks.look_at_disk(tmp_path / "not/yet/there").level == "ok"
    monkeypatch.setattr(checks, "FREE_DISK", 1 << 60)
    assert checks.look_at_disk(tmp_path / "not/yet/there").level == "warning"


def test_an_endpoint_here_is_free_or_in_use_and_elsewhere_answers_or_not(monkeypatch):
    monkeypatch.setattr(checks.network, "route", lambda host: checks.network.Route("10.0.0.5", "eth0", True))
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"localhost:{server.getsockname()[1]}"
        assert checks.look_at_endpoint(endpoint).level == "problem"
        monkeypatch.setattr(checks.network, "route", lambda host: checks.network.Route("10.0.0.5", "eth0", False))
        assert checks.look_at_endpoint(endpoint).level == "ok"
    assert "nobody answers" in checks.look_at_endpoint(endpoint).text
    monkeypatch.setattr(checks.network, "route", lambda host: checks.network.Route("10.0.0.5", "eth0", True))
    assert checks.look_at_endpoint(endpoint).level == "ok"


def test_a_step_that_waits_longer_than_it_works_is_a_warning():
    config = measurements.steps_config(doctor.parse([])[0].common, World())
    assert examination.tell_together(StepTimes(1, 1.9, 3), 1.0, config).level == "ok"
    assert examination.tell_together(StepTimes(1, 2.1, 3), 1.0, config).level == "warning"


@pytest.mark.parametrize(("gpus", "cores", "processes"), [(0, 1, 1), (0, 2, 2), (0, 3, 2), (0, 64, 4), (3, 64, 3)])
def test_as_many_processes_as_gpus_or_a_power_of_two_within_the_cores(monkeypatch, gpus, cores, processes):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(machine, "usable_cores", lambda: cores)
    assert machine.default_processes() == processes


def test_images_of_ones_own_are_read_and_what_training_would_warn_of_is_told(tmp_path):
    photos(tmp_path / "pets")
    config = TrainConfig(data=str(tmp_path / "pets"))
    found = checks.look_at_images(config)
    assert (found.level, found.text) == (checks.OK, f"60 + 18 images of 3 x 12 x 16: {tmp_path / 'pets'}")
    fill(tmp_path / "pets/train", 1, classes=("zebra",))
    assert "no test images of zebra" in checks.look_at_images(config).text
    (tmp_path / "pets/test/bee/10000.png").write_bytes(b"")
    found = checks.look_at_images(config)
    assert found.level == checks.PROBLEM and "1 of 79 image files cannot be used" in found.text
