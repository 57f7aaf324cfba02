"""This host's interfaces: which gloo and nccl would take, and which one leads to another host. Imports no torch.

python -m distmnist.doctor.network HOST:PORT [--interface NAME] [--wait SECONDS]

What launch/multi_node.sh asks: this host's address and interface towards HOST, and "true" if it is HOST itself. It
waits for HOST's name to resolve and, on other hosts, for the port to answer; if they do not: one line, exit code 2.
"""

import argparse
import ipaddress
import os
import socket
import struct
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from distmnist import streams
from distmnist.commandline import Parser, answer, end
from distmnist.distributed.failure import print_failure
from distmnist.errors import UsageError

POLL = 0.5
"""Seconds between two looks at a name or a port."""

SIOCGIFADDR = 0x8915
"""Linux's request for an interface's IPv4 address: netdevice(7)."""


class Route(NamedTuple):
    """How this host is seen by another: its address, the interface that has it, and whether it is that very host."""

    address: str
    interface: str
    is_host: bool


def interfaces() -> dict[str, list[str]]:
    """Interface name -> its addresses, IPv4 first; those without an address are left out. Linux only, else {}."""
    if sys.platform != "linux":
        return {}
    import fcntl

    found: dict[str, list[str]] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        for _, name in socket.if_nameindex():
            try:
                reply = fcntl.ioctl(asker, SIOCGIFADDR, struct.pack("256s", name.encode()))
                found[name] = [socket.inet_ntoa(reply[20:24])]
            except OSError:  # it has none
                found[name] = []
    table = Path("/proc/net/if_inet6")
    for line in table.read_text().splitlines() if table.exists() else ():
        digits, _, _, _, _, name = line.split()
        found.setdefault(name, []).append(str(ipaddress.ip_address(bytes.fromhex(digits))))
    return {name: addresses for name, addresses in found.items() if addresses}


def interface_of(address: str) -> str:
    """The interface that has `address`; "" if none has it."""
    return next((name for name, addresses in interfaces().items() if address in addresses), "")


def is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback


def gloo_address() -> str | None:
    """The address that gloo would bind: of GLOO_SOCKET_IFNAME's interface, else the first of the host's own name.

    None: the named interface has no address, or the name does not resolve to one that can be bound (torch then takes
    the loopback).
    """
    if named := os.environ.get("GLOO_SOCKET_IFNAME"):
        return next(iter(interfaces().get(named.split(",")[0], [])), None)
    try:
        candidates = socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM)
    except socket.gaierror:
        return None
    for family, kind, _, _, address in candidates:
        with socket.socket(family, kind) as probe:
            try:
                probe.bind(address)
            except OSError:
                continue
            return str(address[0])
    return None


def nccl_interfaces() -> list[str]:
    """The interfaces that nccl's sockets may use: its user guide, NCCL_SOCKET_IFNAME."""
    names = list(interfaces())
    if wish := os.environ.get("NCCL_SOCKET_IFNAME"):
        unwanted, exact = wish.startswith("^"), wish.lstrip("^").startswith("=")
        patterns = tuple(wish.lstrip("^=").split(","))
        return [n for n in names if (n in patterns if exact else n.startswith(patterns)) != unwanted]
    ordinary = [n for n in names if not n.startswith(("lo", "docker"))]
    fabric = [n for n in names if n.startswith("ib")]
    return fabric or ordinary or [n for n in names if n.startswith("docker")] or names


def parse_endpoint(text: str) -> tuple[str, int]:
    """HOST:PORT -> its parts. Raises UsageError."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError(f"endpoint {text} is not HOST:PORT with a port from 1 to 65535; for example node1:29500")
    return host.strip("[]"), int(port)


def route(host: str, interface: str = "") -> Route:
    """How this host meets `host`; over `interface` if named. No packet is sent. Raises UsageError."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
    except (socket.gaierror, UnicodeError) as error:
        raise UsageError(f"host name {host} does not resolve here; mend the name, DNS or /etc/hosts") from error
    with socket.socket(family, kind) as probe:
        try:
            probe.connect(address)
        except OSError as error:
            raise UsageError(f"no route from here to {host} ({address[0]}): {error.strerror}") from error
        mine = probe.getsockname()[0]
    is_host = mine == address[0] or is_loopback(str(address[0]))
    if interface:
        if not (named := interfaces().get(interface)):
            raise UsageError(f"interface {interface} has no address here; choose from {', '.join(interfaces())}")
        mine = named[0]
    return Route(mine, interface or interface_of(mine), is_host)


def port_is_free(port: int) -> bool:
    """Whether this host may listen at `port`."""
    with socket.socket(socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the store does: an ended run's rest is no use
        try:
            probe.bind(("", port))
            probe.listen()
        except OSError:
            return False
    return True


def answers(host: str, port: int, patience: float = 2.0) -> bool:
    """Whether somebody listens at host:port."""
    try:
        socket.create_connection((host, port), timeout=patience).close()
    except OSError:
        return False
    return True


def prepare(endpoint: str, interface: str, wait: float) -> Route:
    """`route` to the endpoint, once its name resolves and its port can be used.

    Says at once, on standard error, what it is waiting for. Raises UsageError after `wait` seconds.
    """
    deadline = time.monotonic() + wait
    told = ""
    while True:
        try:
            return meeting_place(*parse_endpoint(endpoint), interface)
        except UsageError as error:
            if time.monotonic() > deadline:
                raise
            if str(error) != told:
                told = str(error)
                print_failure(f"waiting up to {wait:g} s: {told}")
        time.sleep(POLL)


def meeting_place(host: str, port: int, interface: str) -> Route:
    """`route` to `host`. Raises UsageError if `port` is taken on this host, or if nobody answers there on another."""
    mine = route(host, interface)
    if mine.is_host and not port_is_free(port):
        raise UsageError(f"port {port} is in use on this host; end what uses it, or name another port")
    if not mine.is_host and not answers(host, port):
        raise UsageError(f"nobody answers at {host}:{port}; start the job on {host} too, or open its port")
    return mine


def main(arguments: Sequence[str] | None = None) -> int:
    return answer(lambda: work(arguments))


def work(arguments: Sequence[str] | None) -> int:
    parser = Parser(
        prog="distmnist.doctor.network", description="Says how this host meets another.", allow_abbrev=False
    )
    parser.add_argument("endpoint", metavar="HOST:PORT")
    parser.add_argument("--interface", default="", help="take this one, not the one that leads to HOST")
    parser.add_argument(
        "--wait", type=float, default=0.0, help="seconds to wait for the name and the port (default: 0)"
    )
    options: argparse.Namespace = parser.parse_args(arguments)
    mine = prepare(options.endpoint, options.interface, options.wait)
    streams.say(f"{mine.address} {mine.interface} {str(mine.is_host).lower()}")
    return 0


if __name__ == "__main__":
    end(main)
