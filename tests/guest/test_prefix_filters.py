# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Filters with chardevs in a QEMU command, typed as for QEMU alone."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon.conftest import runtime
from tests.guest import provision
from tests.guest.machine import Machine

__all__ = ["runtime"]

pytestmark = [pytest.mark.guest, pytest.mark.long]

NET = ["-netdev", "user,id=u", "-device", "virtio-net-pci,netdev=u"]
PING = b"\x08\x00E\x00"


@contextlib.contextmanager
def called(path: Path) -> Iterator[socket.socket]:
    """A connection to a chardev that listens."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(20)
        peer.connect(str(path))
        yield peer


def frames(peer: socket.socket) -> Iterator[bytes]:
    """What comes, until the other end hangs up."""
    while len(head := peer.recv(4, socket.MSG_WAITALL)) == 4:
        yield peer.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL)


def test_a_mirrors_peer_sees_what_the_guest_sends(
    qemu: str, prefix: list[str], runtime: str, tmp_path: Path
) -> None:
    words = ["-chardev", f"socket,id=out,path={tmp_path}/out,server=on,wait=off"]
    words += ["-object", "filter-mirror,id=m,netdev=u,queue=rx,outdev=out"]
    with Machine(qemu, [*NET, *words], prefix=prefix) as guest:
        if prefix:
            assert "filter-mirror" not in guest.qmp.hmp("info network")
        guest.lease()
        with called(tmp_path / "out") as peer:
            guest.check("ping -c 3 -s 777 10.0.2.2")
            assert any(PING in frame and len(frame) == 14 + 20 + 8 + 777 for frame in frames(peer))


def test_a_pair_of_one_command_finds_each_other(
    qemu: str, prefix: list[str], runtime: str, tmp_path: Path
) -> None:
    words = ["-chardev", f"socket,id=s,path={tmp_path}/s,server=on,wait=off"]
    words += ["-chardev", f"socket,id=c,path={tmp_path}/s"]
    words += ["-object", "filter-redirector,id=i,netdev=u,queue=rx,indev=c"]
    words += ["-object", "filter-redirector,id=o,netdev=u,queue=rx,outdev=s"]
    with Machine(qemu, [*NET, *words], prefix=prefix) as guest:
        assert guest.lease()["ip"] == "10.0.2.15"
        guest.check("ping -c 2 10.0.2.2")


@pytest.fixture(autouse=True)
def _there() -> None:
    try:
        provision.root_of(provision.GUEST)
    except provision.ProvisionError as error:
        pytest.skip(str(error))
