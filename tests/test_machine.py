"""What the machine gives: cores under every kind of limit, threads, the loopback interface."""

import os
import platform
import subprocess
import sys

import pytest
import torch
from ranks import run_processes
from torch.backends import cudnn

from distmnist import machine
from distmnist.machine import default_threads, usable_cores

V2 = "0::/job/step\n"
V1 = "4:cpu,cpuacct:/docker/1\n1:name=systemd:/\n"


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        (V2, {}, 16),
        (V2, {"job/step/cpu.max": "200000 100000"}, 2),
        (V2, {"job/step/cpu.max": "max 100000"}, 16),
        (V2, {"job/step/cpu.max": "max 100000", "job/cpu.max": "350000 100000"}, 3),
        (V2, {"job/step/cpu.max": "700000 100000", "job/cpu.max": "900000 100000", "cpu.max": "400000 100000"}, 4),
        (V2, {"job/step/cpu.max": "50000 100000"}, 1),
        (V2, {"job/step/cpu.max": "9000000 100000"}, 16),
        (V2, {"other/cpu.max": "100000 100000"}, 16),
        (V2, {"job/step/cpu.max": "nonsense"}, 16),
        ("0::/\n", {"cpu.max": "300000 100000"}, 3),
        (V1, {"cpu/cpu.cfs_quota_us": "250000", "cpu/cpu.cfs_period_us": "100000"}, 2),
        (V1, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 16),
        (None, {}, 16),
    ],
)
def test_usable_cores_are_the_affinity_mask_cut_by_every_cgroups_quota(monkeypatch, tmp_path, own, files, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)), raising=False)
    if own:
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(own)
    for name, content in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    assert usable_cores(tmp_path) == cores


def test_without_an_affinity_mask_the_machines_cores_count(monkeypatch, tmp_path):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert usable_cores(tmp_path) == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores(tmp_path) == 1


@pytest.mark.parametrize(
    ("processes", "environment", "threads"),
    [
        (1, {}, 8),
        (2, {}, 4),
        (3, {}, 2),
        (16, {}, 1),
        (1, {"OMP_NUM_THREADS": "3"}, 3),
        (4, {"OMP_NUM_THREADS": "3"}, 2),
        (2, {"OMP_NUM_THREADS": "1"}, 1),
        (2, {"OMP_NUM_THREADS": "1", "TORCHELASTIC_RUN_ID": "none"}, 4),  # torchrun's own doing
        (2, {"OMP_NUM_THREADS": "2", "TORCHELASTIC_RUN_ID": "none"}, 2),
        (1, {"OMP_NUM_THREADS": "1", "TORCHELASTIC_RUN_ID": "none"}, 1),
        (2, {"OMP_NUM_THREADS": "many"}, 4),
        (2, {"OMP_NUM_THREADS": "0"}, 4),
        (2, {"OMP_NUM_THREADS": ""}, 4),
    ],
)
def test_threads_are_the_cores_shared_out_unless_fewer_are_asked_for(monkeypatch, processes, environment, threads):
    monkeypatch.setattr(machine, "usable_cores", lambda: 8)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert default_threads(processes) == threads


@pytest.mark.parametrize(("arguments", "printed"), [([], "4 2\n"), (["3"], "3 2\n"), (["16"], "16 1\n")])
def test_the_numbers_for_torchrun_are_the_processes_asked_for_or_those_that_suit_and_their_threads(
    monkeypatch, capsys, arguments, printed
):
    monkeypatch.setattr(machine.torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(machine, "usable_cores", lambda: 8)
    assert machine.main(arguments) == 0
    assert capsys.readouterr() == (printed, "")


@pytest.mark.parametrize("wrong", [["0"], ["-1"], ["many"], [""], ["1", "2"]])
def test_a_number_of_processes_that_is_none_is_one_line_and_2(capsys, wrong):
    assert machine.main(wrong) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "is not a number of processes" in err


@pytest.mark.parametrize(
    ("interfaces", "name"), [(["eth0", "lo"], "lo"), (["en0", "lo0"], "lo0"), (["loopy"], None), (None, None)]
)
def test_the_loopback_interface_is_found_by_the_name_the_system_gives_it(monkeypatch, interfaces, name):
    if interfaces is None:
        monkeypatch.delattr(machine.socket, "if_nameindex", raising=False)
    else:
        monkeypatch.setattr(machine.socket, "if_nameindex", lambda: list(enumerate(interfaces)), raising=False)
    assert machine.loopback() == name


def test_a_c_library_that_is_not_glibc_is_left_alone(monkeypatch):
    def absent(name):
        raise OSError(f"no {name}")

    monkeypatch.setattr(machine.ctypes, "CDLL", absent)
    assert machine.keep_freed_memory() is False


def test_the_processor_is_called_what_linux_calls_it_and_elsewhere_what_python_does(tmp_path):
    (tmp_path / "proc").mkdir()
    assert machine.processor(tmp_path) == (platform.processor() or platform.machine())
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\nmodel name\t: Deep Thought\nmodel name\t: Marvin\n")
    assert machine.processor(tmp_path) == "Deep Thought"


def flush() -> tuple[bool, bool, bool]:
    tiny = torch.full((8,), 2e-39)
    before = bool((tiny * 0.5).any())
    return before, machine.flush_denormals(), bool((tiny * 0.5).any())


def test_denormal_numbers_count_as_0_once_flushed_where_the_processor_can():
    """In a process of its own: the setting stays."""
    [(before, flushed, after)] = run_processes(flush, 1)
    assert before and flushed != after


def test_exact_runs_are_deterministic_or_an_error_without_importing_a_compiler():
    """In a process of its own: the setting stays."""
    code = (
        "import sys, torch; from distmnist.machine import be_deterministic; be_deterministic();"
        "assert torch.get_deterministic_debug_mode() == 2 and 'torch._inductor' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def settings_of_cudnn() -> tuple[bool, bool]:
    return cudnn.allow_tf32, cudnn.deterministic


def keep_float32() -> tuple[tuple[bool, bool], tuple[bool, bool]]:
    before = settings_of_cudnn()
    machine.keep_float32()
    return before, settings_of_cudnn()


def test_convolutions_on_cuda_keep_float32_and_repeat():
    """In a process of its own: the settings stay."""
    assert run_processes(keep_float32, 1) == [((True, False), (False, True))]
