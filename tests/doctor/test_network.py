"""What this host is told about its network: interfaces, how it meets another host, and what is wrong in one line."""

import socket
import subprocess
import sys

import pytest

from distmnist.doctor import network
from distmnist.errors import UsageError

INTERFACES = {"lo": ["127.0.0.1"], "docker0": ["172.17.0.1"], "eth0": ["10.0.0.5"], "eth1": ["10.1.0.5"]}


START = " start the job on localhost too, or open its port"


@pytest.fixture
def listener():
    """A socket that listens at a port of the loopback."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.mark.skipif(sys.platform != "linux", reason="interfaces are read the way Linux tells them")
def test_the_loopback_is_among_the_interfaces_and_is_found_by_its_address():
    assert "127.0.0.1" in network.interfaces()["lo"]
    assert network.interface_of("127.0.0.1") == "lo"
    assert network.interface_of("203.0.113.9") == ""


@pytest.mark.parametrize(
    ("wish", "more", "taken"),
    [
        (None, {}, ["eth0", "eth1"]),
        (None, {"ib0": ["10.2.0.5"]}, ["ib0"]),
        ("eth1", {}, ["eth1"]),
        ("eth", {}, ["eth0", "eth1"]),
        ("=eth", {}, []),
        ("=eth0,lo", {}, ["lo", "eth0"]),
        ("^docker,lo", {}, ["eth0", "eth1"]),
        ("^=eth0", {}, ["lo", "docker0", "eth1"]),
    ],
)
def test_nccl_takes_what_its_guide_says(monkeypatch, wish, more, taken):
    monkeypatch.setattr(network, "interfaces", lambda: INTERFACES | more)
    monkeypatch.delenv("NCCL_SOCKET_IFNAME", raising=False)
    if wish:
        monkeypatch.setenv("NCCL_SOCKET_IFNAME", wish)
    assert network.nccl_interfaces() == taken


def test_nccl_takes_docker_or_the_loopback_only_where_there_is_nothing_else(monkeypatch):
    monkeypatch.delenv("NCCL_SOCKET_IFNAME", raising=False)
    monkeypatch.setattr(network, "interfaces", lambda: {"lo": ["127.0.0.1"], "docker0": ["172.17.0.1"]})
    assert network.nccl_interfaces() == ["docker0"]
    monkeypatch.setattr(network, "interfaces", lambda: {"lo": ["127.0.0.1"]})
    assert network.nccl_interfaces() == ["lo"]


def test_gloo_binds_the_named_interface_or_the_hosts_own_name_or_nothing(monkeypatch):
    monkeypatch.setattr(network, "interfaces", lambda: INTERFACES)
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.setattr(socket, "gethostname", lambda: "localhost")
    assert network.is_loopback(network.gloo_address())
    monkeypatch.setattr(socket, "gethostname", lambda: "no.such.host.invalid")
    assert network.gloo_address() is None
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth1")
    assert network.gloo_address() == "10.1.0.5"
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth9")
    assert network.gloo_address() is None


@pytest.mark.parametrize("text", ["node1", "node1:", ":29500", "node1:http", "node1:0", "node1:65536"])
def test_an_endpoint_without_a_host_or_a_port_is_refused(text):
    with pytest.raises(UsageError, match="HOST:PORT"):
        network.parse_endpoint(text)


def test_an_endpoint_may_be_an_address_of_version_6():
    assert network.parse_endpoint("[fd00::2]:29500") == ("fd00::2", 29500)


def test_this_host_is_itself_and_a_named_interface_is_taken_instead(monkeypatch):
    assert network.route("localhost") == ("127.0.0.1", network.interface_of("127.0.0.1"), True)
    monkeypatch.setattr(network, "interfaces", lambda: INTERFACES)
    assert network.route("localhost", "eth1") == ("10.1.0.5", "eth1", True)
    with pytest.raises(UsageError, match="eth9 has no address here; choose from lo, docker0, eth0, eth1"):
        network.route("localhost", "eth9")


def test_a_port_is_free_unless_somebody_listens(listener):
    port = listener.getsockname()[1]
    assert not network.port_is_free(port) and network.answers("127.0.0.1", port)
    listener.close()
    assert network.port_is_free(port) and not network.answers("127.0.0.1", port)


def test_another_host_is_waited_for_until_it_answers(monkeypatch, capsys, listener):
    endpoint = f"localhost:{listener.getsockname()[1]}"
    elsewhere = network.Route("10.0.0.5", "eth0", False)
    monkeypatch.setattr(network, "route", lambda host, interface: elsewhere)
    monkeypatch.setattr(network, "POLL", 0.02)
    answers = iter([False, False, True])
    monkeypatch.setattr(network, "answers", lambda host, port: next(answers, False))
    assert network.prepare(endpoint, "", wait=20) == elsewhere
    assert list(answers) == []
    assert capsys.readouterr().err == f"distmnist: waiting up to 20 s: nobody answers at {endpoint};{START}\n"
    with pytest.raises(UsageError, match="nobody answers at localhost"):
        network.prepare(endpoint, "", wait=0.05)


def test_the_command_answers_in_one_line_and_does_not_import_torch(listener):
    port = listener.getsockname()[1]

    def ask(*arguments):
        code = "import sys; from distmnist.doctor.network import main; code = main(); assert 'torch' not in sys.modules"
        command = [sys.executable, "-c", f"{code}; sys.exit(code)", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout, done.stderr

    code, out, err = ask(f"localhost:{port}")
    assert (code, out) == (
        2,
        "",
    ) and err == f"distmnist: port {port} is in use on this host; end what uses it, or name another port\n"
    listener.close()
    code, out, err = ask(f"localhost:{port}")
    assert (code, err) == (0, "") and out.split()[0] == "127.0.0.1" and out.endswith(" true\n")
    code, out, err = ask("no.such.host.invalid:1")
    assert code == 2 and err.startswith("distmnist: host name no.such.host.invalid does not resolve here;")
    code, out, err = ask("localhost:1", "--wait", "soon")
    assert code == 2 and err.count("\n") == 1
