# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What the demo runs on: a network with a guest on it, made and taken away again.

``LocalBed`` has the network in this process (``vmwire.network``) and the guest in a process of its
own beside it, in a network namespace or on a ring. ``vmwire.cli.demo.vm`` has the one with a VM.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Protocol

from vmwire.attach.netns import NetnsNic
from vmwire.cli.demo.helper import Helper, HelperError, Start, module
from vmwire.errors import ConfigError
from vmwire.network import Network
from vmwire.wire.capture import DEFAULT_SNAP_LENGTH, Capture

NETDEV = "demo"
GUEST_PORT = 8080
BULK_SNAP_LENGTH = 128
"""What is recorded of a frame in the two long transfers, which would fill disks otherwise."""
START_S = 10.0


class Bed(Protocol):
    """A network with a guest."""

    netdev: str
    """The network as its option says it."""
    guest: str
    """What the guest is, in words."""
    forward_port: int
    """The host's port that leads to the guest's ``GUEST_PORT``."""
    limit: int | None
    """The longest download that the guest has room for, in bytes."""

    def ask(self, timeout_s: float, do: str, **arguments: Any) -> dict[str, Any]:
        """Have the guest do something. HelperError: it can't."""

    def bulk(self) -> contextlib.AbstractContextManager[None]:
        """What goes on inside is too much to be recorded whole."""

    def close(self) -> None:
        """Take everything away; the pcap file is complete then. Harmless when called twice."""


class LocalBed:
    """A network here, with a guest in a process beside it. ``kind``: namespace or python."""

    limit: int | None = None

    def __init__(self, kind: str, pcap: str) -> None:
        self.forward_port = free_port()
        forward = f"tcp:127.0.0.1:{self.forward_port}-:{GUEST_PORT}"
        self.netdev = f"-netdev user,id={NETDEV},hostfwd={forward}"
        self._resources = ExitStack()
        self._files = self._resources.enter_context(ExitStack())
        try:
            self._network = self._resources.enter_context(Network())
            self._network.add_netdev("user", id=NETDEV, hostfwd=[forward])
            # before there is a guest: its first frame is to be in the file
            self._capture = self._add_capture(pcap)
            self._helper = self._start_guest(kind)
            self._expect_ready()
            self._files.close()  # the guest is connected: nobody needs the socket's name any more
        except BaseException:
            self.close()
            raise

    def _add_capture(self, pcap: str) -> Capture:
        name = self._network.capture(NETDEV, pcap)
        capture = self._network.filters[name].box
        assert isinstance(capture, Capture)
        return capture

    def _start_guest(self, kind: str) -> Helper:
        if kind == "namespace":
            self.guest = f"a network namespace: Linux {_release()}'s own TCP behind a tap, no VM"
            self._network.add_netns(id="guest", netdev=NETDEV)
            box = self._network.devices["guest"].box
            assert isinstance(box, NetnsNic)
            return self._helper_on(module("inside", "kernel", "eth0"), box.start)
        self.guest = "a driver with TCP/IP in plain Python at the card's rings, no VM"
        folder = tempfile.mkdtemp(prefix="vmwire-demo-")
        self._files.callback(shutil.rmtree, folder, ignore_errors=True)
        path = os.path.join(folder, "card.sock")
        self._network.add_nic("virtio-net-pci", id="card", netdev=NETDEV, socket=path)
        return self._helper_on(module("inside", "ring", path))

    def _helper_on(self, command: list[str], start: Start | None = None) -> Helper:
        helper = Helper(command, start) if start else Helper(command)
        self._resources.callback(helper.close)
        return helper

    def _expect_ready(self) -> None:
        try:
            self._helper.answer(START_S)
        except HelperError as error:
            raise ConfigError(f"the guest did not start: {error}") from None

    def ask(self, timeout_s: float, do: str, **arguments: Any) -> dict[str, Any]:
        return self._helper.ask(timeout_s, do=do, **arguments)

    @contextlib.contextmanager
    def bulk(self) -> Iterator[None]:
        self._set_snap_length(BULK_SNAP_LENGTH)
        yield
        self._set_snap_length(DEFAULT_SNAP_LENGTH)

    def _set_snap_length(self, length: int) -> None:
        self._network.loop.call(lambda: setattr(self._capture, "snap_length", length))

    def close(self) -> None:
        self._resources.close()


def open_local_bed(kind: str | None, pcap: str) -> tuple[LocalBed, str]:
    """The bed of this kind; without one, the best that can be had here, and why not a better."""
    if kind is not None:
        return LocalBed(kind, pcap), ""
    try:
        return LocalBed("namespace", pcap), ""
    except ConfigError as error:
        return LocalBed("python", pcap), str(error)


def free_port() -> int:
    """A port of the host's loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _release() -> str:
    """The kernel's version without what its builder added.

    >>> _release().replace(".", "").isdigit()
    True
    """
    return platform.release().split("-")[0].split("+")[0]
