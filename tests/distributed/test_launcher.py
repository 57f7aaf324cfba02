"""What the launcher says is checked: what is wrong with it is one line and exit code 2, within the time-out."""

import contextlib
import os
import socket
import threading

import pytest
from one_run import SMALL
from ranks import end_processes, free_port

from distmnist import train
from distmnist.commandline import answer
from distmnist.data import known
from distmnist.data.splits import held_out_rows
from distmnist.distributed.failure import describe
from distmnist.distributed.launcher import name_process, parent_process, process_started
from distmnist.distributed.world import join
from distmnist.doctor import __main__ as doctor
from distmnist.errors import UsageError
from distmnist.report import __main__ as report
from distmnist.study import __main__ as study
from distmnist.sweep import __main__ as sweep
from export import __main__ as export

RIGHT = {
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"MASTER_PORT": "tcp://10.0.0.1:80"}, "MASTER_PORT=tcp://10.0.0.1:80 .* is not a port.*Kubernetes"),
        ({"MASTER_PORT": ""}, "not MASTER_PORT;"),
        ({"MASTER_PORT": "99999"}, "MASTER_PORT=99999 .* is not a port"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE=0 .* must be at least 1"),
        ({"WORLD_SIZE": "-2"}, "WORLD_SIZE=-2 .* must be at least 1"),
        ({"RANK": "5"}, "RANK=5 .* must be from 0 to 1, since WORLD_SIZE=2"),
        ({"LOCAL_WORLD_SIZE": "3"}, "LOCAL_WORLD_SIZE=3 .* must be from 1 to 2"),
        ({"LOCAL_RANK": "2"}, "LOCAL_RANK=2 .* must be from 0 to 1, since LOCAL_WORLD_SIZE=2"),
        ({"RANK": "first"}, "RANK=first .* is not a number"),
    ],
)
def test_variables_that_cannot_be_right_are_named_with_their_value(monkeypatch, wrong, told):
    for name, value in (RIGHT | wrong).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=told), join(5.0):
        pass


ALONE = [export.main, report.main, study.main, sweep.main]
"""Commands of one process."""
AMONG_RANKS = [train.main, doctor.main]


@pytest.mark.parametrize(
    ("main", "stray"),
    [(main, stray) for main in ALONE + AMONG_RANKS for stray in ({"RANK": "1"}, {"RANK": ""})]
    + [(main, RIGHT) for main in ALONE],
)
def test_a_command_that_was_started_alone_speaks_whatever_a_launcher_has_left_behind(monkeypatch, capsys, main, stray):
    for name, value in stray.items():
        monkeypatch.setenv(name, value)
    assert main(["--mistyped"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    with contextlib.suppress(SystemExit):
        main(["--help"])
    assert "usage" in capsys.readouterr().out


def command(folder, *arguments):
    os.chdir(folder)
    known.fetch = lambda *_: None
    return train.main([*SMALL, "--output=run", "--timeout=3", *arguments])


def lines(ended):
    assert [one.code for one in ended if not one.code] == [], "each ends by itself, with a code that says so"
    return [line for one in ended for line in one.err]


def test_a_mistyped_option_and_help_are_answered_once_on_a_machine(tmp_path):
    (line,) = lines(end_processes(command, 3, tmp_path, "--mistyped"))
    assert "--mistyped" in line
    helped = end_processes(show_help, 2, torchrun=False)
    assert [bool(one.out) for one in helped] == [True, False]


def show_help():
    try:
        return train.main(["--help"])
    except SystemExit as left:
        return int(left.code or 0)


@contextlib.contextmanager
def listener():
    """Another program: it takes connections, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=lambda: [server.accept() for _ in range(8)], daemon=True)
        thread.start()
        yield server.getsockname()[1]


def test_a_port_that_another_program_uses_is_named_by_rank_0(tmp_path):
    with listener() as port:
        ended = end_processes(command, 2, tmp_path, torchrun=False, environment={"MASTER_PORT": str(port)})
    said = lines(ended)
    assert ended[0].code == 2 and f"rank 0 cannot listen at 127.0.0.1:{port}" in said[0]
    assert "choose a free MASTER_PORT" in said[0]


def test_a_port_where_another_program_listens_is_no_store(tmp_path):
    with listener() as port:
        said = lines(end_processes(command, 2, tmp_path, environment={"MASTER_PORT": str(port)}))
    assert len(said) == 1 and f"MASTER_ADDR:MASTER_PORT 127.0.0.1:{port}; choose a free port" in said[0]


def test_a_port_where_nobody_listens_is_named_once(tmp_path):
    port = str(free_port())
    (line,) = lines(end_processes(command, 2, tmp_path, environment={"MASTER_PORT": port}))
    assert f"cannot reach torchrun's agent at 127.0.0.1:{port} within 3 s" in line


def test_an_interface_that_does_not_exist_is_named(tmp_path):
    said = lines(end_processes(command, 2, tmp_path, environment={"GLOO_SOCKET_IFNAME": "eth77"}))
    assert len(said) == 1 and "has no interface eth77; choose from" in said[0] and "lo" in said[0]


def raises(error):
    def work():
        raise error

    return work


@pytest.mark.parametrize(("error", "code"), [(UsageError("wrong"), 2), (KeyboardInterrupt(), 130)])
def test_what_another_rank_has_printed_is_not_printed_again(capsys, error, code):
    error.printed = True
    assert answer(raises(error), ranks=True) == code
    assert capsys.readouterr().err == ""


def test_an_error_of_python_is_told_with_its_type_and_place():
    try:
        held_out_rows(None, 0.5, False)
    except AttributeError as error:
        assert describe(error).startswith("AttributeError: ") and "(splits.py:" in describe(error)


def test_a_process_is_known_by_its_number_and_its_start():
    assert process_started(os.getpid()) and process_started(os.getpid()) == process_started(os.getpid())
    assert parent_process() == name_process(os.getppid())
    child = os.fork()
    if not child:
        os._exit(0)
    while process_started(child):
        pass  # it ends, and stays a zombie until it is waited for
    os.waitpid(child, 0)
    assert process_started(child) == ""
