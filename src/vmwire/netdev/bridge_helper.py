# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A tap on a bridge of the host's: by a helper with rights of its own, or by our own right.

A *helper* is a setuid program that makes a tap, puts it on a bridge that its own rules allow to
whoever calls (QEMU's reads ``/etc/qemu/bridge.conf``), and passes the descriptor back. It is called
``HELPER --use-vnet --fd=N --br=BRIDGE``, where N is a Unix socket; the descriptor comes over that
with one byte (SCM_RIGHTS, unix(7)). A helper with a space in it is a shell's command line.
"""

from __future__ import annotations

import array
import os
import shlex
import socket

from vmwire.errors import ConfigError
from vmwire.netdev import programs
from vmwire.netdev.tun import adopt, open_tap

DEFAULT_BRIDGE = "br0"
HELPERS = ("/usr/lib/qemu/qemu-bridge-helper", "/usr/libexec/qemu-bridge-helper")
PATIENCE_S = 30.0
CAP_NET_ADMIN = 12


def tap_by_helper(helper: str, bridge: str, *, header: bool = True) -> int:
    """Have ``helper`` make a tap on ``bridge``; return its descriptor. Raises ``ConfigError``."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        fd = theirs.fileno()
        try:
            status, said = programs.run(
                _command(helper, bridge, fd, header), pass_fds=[fd], patience_s=PATIENCE_S
            )
        except TimeoutError:
            raise ConfigError(
                f"bridge helper failed: {helper} did not answer within {PATIENCE_S:g} s"
            ) from None
        except OSError as error:
            raise ConfigError(f"bridge helper failed: {helper}: {error.strerror}") from None
        fds = _received(ours)
    try:
        _judge(helper, status, said, fds)
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    return fds[0]


def _judge(helper: str, status: int, said: list[str], fds: list[int]) -> None:
    """Whether a helper has done what it is for. Raises ``ConfigError``."""
    wrong = ""
    if status:
        wrong = f"{helper} ended with status {status}"
    elif len(fds) != 1:
        wrong = f"{helper} passed {len(fds) or 'no'} descriptor{'s' if fds else ''}"
    if wrong:
        raise ConfigError(f"bridge helper failed: {said[-1] if said else wrong}")
    try:
        adopt(fds[0])
    except OSError as error:
        raise ConfigError(
            f"bridge helper failed: what {helper} passed is not a tap's: {error.strerror}"
        ) from None


def _command(helper: str, bridge: str, fd: int, header: bool) -> list[str]:
    words = [*(["--use-vnet"] if header else []), f"--fd={fd}", f"--br={bridge}"]
    if any(blank in helper for blank in " \t"):
        return ["/bin/sh", "-c", f"{helper} {shlex.join(words)}"]
    return [helper, *words]


def _received(channel: socket.socket) -> list[int]:
    """The descriptors that came with the helper's byte."""
    size = array.array("i").itemsize
    flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
    try:
        _, control, _, _ = channel.recvmsg(1, socket.CMSG_SPACE(4 * size), flags)
    except OSError:
        return []
    fds = array.array("i")
    for level, kind, payload in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) // size * size])
    return list(fds)


def tap_by_right(bridge: str, *, header: bool = True) -> int:
    """Make a tap and put it on ``bridge`` ourselves, which takes CAP_NET_ADMIN.

    Raises ``ConfigError``.
    """
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    with IPRoute() as route:
        found = route.link_lookup(ifname=bridge, kind="bridge")
        if not found:
            raise ConfigError(
                f"there is no bridge '{bridge}' (ip link add {bridge} type bridge makes one)"
            )
        fd, name = open_tap("tap%d", header=header)
        try:
            index = route.link_lookup(ifname=name)[0]
            mtu = route.get_links(found[0])[0].get_attr("IFLA_MTU")
            route.link("set", index=index, mtu=mtu, master=found[0], state="up")
        except NetlinkError as error:
            os.close(fd)
            raise ConfigError(
                f"{name} can't be put on bridge '{bridge}': {os.strerror(error.code)}"
            ) from None
        except BaseException:
            os.close(fd)
            raise
    return fd


def may_administer() -> bool:
    """Whether this process has CAP_NET_ADMIN, by capabilities(7) and proc(5)."""
    with open("/proc/self/status", encoding="ascii") as file:
        effective = next(line for line in file if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> CAP_NET_ADMIN & 1)


def tap_on_bridge(bridge: str, helper: str | None, *, header: bool = True) -> int:
    """A tap on ``bridge``: by the helper that was named, by our own right, or by QEMU's helper.

    Raises ``ConfigError``.
    """
    if helper is not None:
        return tap_by_helper(helper, bridge, header=header)
    if may_administer():
        return tap_by_right(bridge, header=header)
    installed = [path for path in HELPERS if os.access(path, os.X_OK)]
    if not installed:
        raise ConfigError(
            f"no tap can be put on bridge '{bridge}': that takes CAP_NET_ADMIN, or a helper "
            f"(helper=PATH; {HELPERS[0]} is not there)"
        )
    return tap_by_helper(installed[0], bridge, header=header)
