# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A network namespace to be a guest: making or entering it, and giving it an interface.

Namespaces belong to threads, and a user namespace can only be made by a process with one thread.
So all of this happens in a process of its own, which hands back the tap and the namespaces as
descriptors and ends; they live as long as a descriptor or a process does.

Root gets a plain network namespace. Everybody else gets a user namespace first, in which they are
root (user_namespaces(7)), so that ping, ip and tcpdump work inside.

The mount namespace is private, for two files: resolv.conf names the network's name server, and an
nsswitch.conf that asks a local daemon (which would answer from outside of the namespace) is
replaced by one that asks DNS. Both are bound over the host's, and are seen by nobody else.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any

from vmwire.attach import linux
from vmwire.errors import ConfigError
from vmwire.netdev.tun import TUN_DEVICE, open_tap

RESOLV_CONF = "/etc/resolv.conf"
NSSWITCH_CONF = "/etc/nsswitch.conf"
OTHER_RESOLVERS = re.compile(r"\b(resolve|mymachines|mdns\w*|myhostname)\b(\s*\[[^]]*\])*")
"""Services of nsswitch's ``hosts`` line that ask a daemon of the host."""

HELP = (
    "it takes root, or user namespaces for unprivileged users (sysctl user.max_user_namespaces, "
    "kernel.unprivileged_userns_clone or kernel.apparmor_restrict_unprivileged_userns)"
)


MOST_FDS = 64
"""Namespaces and taps of one guest."""


@dataclass(slots=True, kw_only=True)
class Interface:
    """What the guest's interface is given; ``address`` as ``10.0.2.15/24``."""

    name: str = "eth0"
    address: str | None = None
    gateway: str | None = None
    mtu: int | None = None
    mac: str | None = None
    nameservers: list[str] = field(default_factory=list)
    search: list[str] = field(default_factory=list)


def parse_address(text: str) -> str:
    """Check ``10.0.2.15/24``; ValueError says what is wanted."""
    try:
        if "/" in text:
            return str(IPv4Interface(text))
    except ValueError:
        pass
    raise ValueError(f"'{text}' is not an IPv4 address with its network's length (10.0.2.15/24)")


@dataclass(slots=True)
class Guest:
    """A namespace that stands: descriptors that the holder closes."""

    tap: int
    interface: str
    namespaces: list[tuple[int, int]]
    """(descriptor, kind), in the order in which they are to be entered."""
    further: list[int] = field(default_factory=list)
    """The taps of further interfaces."""

    def enter(self) -> None:
        """Move this process into the namespaces; stays in the folder where it is."""
        folder = os.getcwd()
        for fd, kind in self.namespaces:
            linux.setns(fd, kind)
        os.chdir(folder)

    def close_namespaces(self) -> None:
        """Let the namespaces go."""
        for fd, _ in self.namespaces:
            os.close(fd)
        self.namespaces = []

    def close(self) -> None:
        """Close the descriptors."""
        self.close_namespaces()
        for tap in (self.tap, *self.further):
            os.close(tap)


# --- in the process that moves ------------------------------------------------------------------


def isolate() -> list[int]:
    """Move into new namespaces; return their kinds in the order of entering."""
    try:
        return _isolate()
    except OSError as error:
        raise ConfigError(f"no network namespace can be had ({error.strerror}): {HELP}") from None


def _isolate() -> list[int]:
    if os.geteuid() == 0:
        try:
            linux.unshare(linux.CLONE_NEWNET | linux.CLONE_NEWNS)
            return [linux.CLONE_NEWNET, linux.CLONE_NEWNS]
        except PermissionError:  # root in a container: root enough for a user namespace, maybe
            pass
    uid, gid = os.geteuid(), os.getegid()
    linux.unshare(linux.CLONE_NEWUSER | linux.CLONE_NEWNET | linux.CLONE_NEWNS)
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"0 {uid} 1")
    _write("/proc/self/gid_map", f"0 {gid} 1")
    return [linux.CLONE_NEWUSER, linux.CLONE_NEWNET, linux.CLONE_NEWNS]


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def join(pid: int, path: str) -> list[int]:
    """Move into the network namespace of a process, or behind a path; return the kinds."""
    try:
        if path:
            with open(path, "rb") as file:
                linux.setns(file.fileno(), linux.CLONE_NEWNET)
            return [linux.CLONE_NEWNET]
        return [kind for kind in (linux.CLONE_NEWUSER, linux.CLONE_NEWNET) if _join(pid, kind)]
    except OSError as error:
        place = path or f"process {pid}"
        reason = error.strerror
        raise ConfigError(f"the network namespace of {place} can't be entered: {reason}") from None


def _join(pid: int, kind: int) -> bool:
    """Enter one namespace of a process, unless it is our own already."""
    theirs, own = (f"/proc/{who}/ns/{_PROC_NAMES[kind]}" for who in (pid, "self"))
    if os.path.samefile(theirs, own):
        return False
    with open(theirs, "rb") as file:
        linux.setns(file.fileno(), kind)
    return True


_PROC_NAMES = {
    linux.CLONE_NEWUSER: "user",
    linux.CLONE_NEWNET: "net",
    linux.CLONE_NEWNS: "mnt",
}


def own_namespaces(kinds: list[int]) -> list[tuple[int, int]]:
    """Open this process's namespaces of these kinds."""
    return [
        (os.open(f"/proc/self/ns/{_PROC_NAMES[kind]}", os.O_RDONLY | os.O_CLOEXEC), kind)
        for kind in kinds
    ]


def make_tap(name: str) -> tuple[int, str]:
    """Make the tap in this process's namespace, or say what is missing."""
    try:
        return open_tap(name)
    except OSError as error:
        raise ConfigError(
            f"no tap can be had from {TUN_DEVICE} ({error.strerror}): it has to be there, and "
            "readable and writable for you"
        ) from None


def configure(interface: str, given: Interface) -> None:
    """Give the interface its address, MTU and route, and take it and ``lo`` up."""
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    with IPRoute() as route:
        try:
            _configure(route, interface, given)
        except NetlinkError as error:
            reason = os.strerror(error.code)
            raise ConfigError(
                f"{interface} can't have address {given.address}, gateway {given.gateway} and "
                f"MTU {given.mtu}: {reason}"
            ) from None


def _configure(route: Any, interface: str, given: Interface) -> None:
    (index,) = route.link_lookup(ifname=interface)
    settings: dict[str, Any] = {"mtu": given.mtu} if given.mtu else {}
    if given.mac:
        settings["address"] = given.mac
    if settings:
        route.link("set", index=index, **settings)
    if given.address:
        address, _, length = given.address.partition("/")
        route.addr("add", index=index, address=address, prefixlen=int(length or 32))
    for loopback in route.link_lookup(ifname="lo"):
        route.link("set", index=loopback, state="up")
    route.link("set", index=index, state="up")
    if given.gateway:
        route.route("add", dst="default", gateway=given.gateway, oif=index)


def set_resolver(given: Interface) -> None:
    """Bind private files over the resolver's. Needs a mount namespace of one's own."""
    linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
    lines = [f"nameserver {address}\n" for address in given.nameservers]
    if given.search:
        lines.append(f"search {' '.join(given.search)}\n")
    _bind_text("".join(lines), RESOLV_CONF)
    try:
        with open(NSSWITCH_CONF, encoding="utf-8", errors="surrogateescape") as file:
            before = file.read()
    except OSError:
        return  # without one, libc asks files and DNS
    after = ask_dns_only(before)
    if after != before:
        _bind_text(after, NSSWITCH_CONF)


def ask_dns_only(nsswitch: str) -> str:
    """The file with a ``hosts`` line that asks no daemon of the host.

    >>> ask_dns_only("hosts: mymachines resolve [!UNAVAIL=return] files dns")
    'hosts: files dns'
    """
    lines = nsswitch.splitlines(keepends=True)
    for number, line in enumerate(lines):
        key, colon, services = line.partition(":")
        if key.strip() == "hosts" and OTHER_RESOLVERS.search(services):
            kept = OTHER_RESOLVERS.sub("", services).split()
            if "dns" not in kept:
                kept.append("dns")
            lines[number] = f"{key}{colon} {' '.join(kept)}" + "\n" * line.endswith("\n")
    return "".join(lines)


def _bind_text(text: str, target: str) -> None:
    """Let ``target`` read as ``text`` in this mount namespace. A missing target stays missing.

    The text lies in a tmpfs that is mounted somewhere for a moment; the bind outlives that.
    """
    if not os.path.exists(target):
        return
    place = "/tmp" if os.path.isdir("/tmp") else "/"
    linux.mount("tmpfs", place, "tmpfs", 0)
    try:
        path = os.path.join(place, "text")
        with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
        os.chmod(path, 0o644)
        linux.mount(path, os.path.realpath(target), None, linux.MS_BIND)
    finally:
        linux.unmount(place)


# --- from the outside ---------------------------------------------------------------------------


def create(
    given: Interface,
    meanwhile: Callable[[Guest], None] = lambda guest: None,
    further: Sequence[Interface] = (),
) -> Guest:
    """Make a guest namespace with an interface, or several. Forks: for processes with one thread
    only.

    ``meanwhile`` is called while the namespace is still being configured, which takes some time.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        pid = os.fork()
        if pid == 0:
            ours.close()
            _serve_and_exit(theirs, lambda: _make(theirs, given, further))
        theirs.close()
        try:
            guest = _receive(ours)
            try:
                meanwhile(guest)
                _check(ours.recv(65536))
            except BaseException:
                guest.close()
                raise
        finally:
            ours.close()
            os.waitpid(pid, 0)
    return guest


def _make(
    channel: socket.socket,
    given: Interface,
    further: Sequence[Interface] = (),
    *,
    pid: int = 0,
    path: str = "",
) -> None:
    kinds = join(pid, path) if pid or path else isolate()
    interfaces = [given, *further]
    taps = [make_tap(each.name) for each in interfaces]
    _send(channel, taps, own_namespaces(kinds))
    for (_, name), each in zip(taps, interfaces, strict=True):
        configure(name, each)
    if given.nameservers and linux.CLONE_NEWNS in kinds:
        set_resolver(given)
    channel.send(b"{}")


def create_beside(given: Interface, *, pid: int = 0, path: str = "") -> Guest:
    """As ``create``, in a new interpreter: for processes with threads.

    With ``pid`` or ``path`` the namespace is there already and only gets the interface.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        order = {"interface": asdict(given), "pid": pid, "path": path}
        with _start(["make", str(theirs.fileno()), json.dumps(order)], [theirs.fileno()]):
            theirs.close()
            guest = _receive(ours)
            try:
                _check(ours.recv(65536))
            except BaseException:
                guest.close()
                raise
    return guest


def start_inside(guest: Guest, command: list[str], **options: Any) -> subprocess.Popen[Any]:
    """Start a command in the namespaces of ``guest``; ``options`` as of ``subprocess.Popen``."""
    kinds = [f"{fd}:{kind}" for fd, kind in guest.namespaces]
    fds = [fd for fd, _ in guest.namespaces]
    return _start(["exec", ",".join(kinds), *command], fds, **options)


def _start(arguments: list[str], fds: list[int], **options: Any) -> subprocess.Popen[Any]:
    """Run this module as a program."""
    root = str(Path(__file__).parents[2])
    search = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = options.pop("env", os.environ) | {"PYTHONPATH": search}
    command = [sys.executable, "-m", "vmwire.attach.namespace", *arguments]
    return subprocess.Popen(command, pass_fds=fds, env=environment, **options)


def main(arguments: list[str]) -> None:
    """``make FD ORDER``: make or enter a namespace, and answer on the socket FD.
    ``exec FD:KIND,... COMMAND...``: run a command in namespaces."""
    verb, where, *rest = arguments
    if verb == "exec":
        pairs = [pair.split(":") for pair in where.split(",")]
        Guest(-1, "", [(int(fd), int(kind)) for fd, kind in pairs]).enter()
        for fd, _ in pairs:
            os.close(int(fd))
        os.execvp(rest[0], rest)
    order = json.loads(rest[0])
    channel = socket.socket(fileno=int(where))
    given = Interface(**order["interface"])
    _serve_and_exit(channel, lambda: _make(channel, given, pid=order["pid"], path=order["path"]))


def _send(
    channel: socket.socket, taps: list[tuple[int, str]], namespaces: list[tuple[int, int]]
) -> None:
    message = {"interface": taps[0][1], "kinds": [kind for _, kind in namespaces]}
    fds = [fd for fd, _ in (*namespaces, *taps)]
    socket.send_fds(channel, [json.dumps(message).encode()], fds)


def _serve_and_exit(channel: socket.socket, work: Callable[[], None]) -> None:
    """Do the work of this process; tell an error to the other side; never return."""
    status = 1
    try:
        work()
        status = 0
    except ConfigError as error:
        channel.send(json.dumps({"failed": error.message}).encode())
    except OSError as error:
        what = f"the network namespace can't be set up: {error}"
        channel.send(json.dumps({"failed": what}).encode())
    finally:
        os._exit(status)


def _receive(channel: socket.socket) -> Guest:
    data, fds, _, _ = socket.recv_fds(channel, 65536, MOST_FDS)
    message = _check(data)
    for fd in fds:
        os.set_inheritable(fd, False)
    namespaces = [(fds.pop(0), kind) for kind in message["kinds"]]
    return Guest(fds[0], message["interface"], namespaces, fds[1:])


def _check(data: bytes) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(
        data or b'{"failed": "the process that makes the namespace died"}'
    )
    if "failed" in message:
        raise ConfigError(message["failed"])
    return message


if __name__ == "__main__":
    main(sys.argv[1:])
