# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""``-netdev vde``: at a switch of the test's own, and at VDE's."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.netdev.sockets import Bed

from vmwire import catalogue
from vmwire.errors import ConfigError
from vmwire.netdev import vde
from vmwire.wire.frame import Frame

FRAME = bytes(range(60))
REQUEST = struct.Struct("=III H108s 128s")


class Switch:
    """Answers one request, as a switch does; ``answers`` False: hangs up instead."""

    def __init__(self, folder: Path, *, answers: bool = True) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        (folder / "ctl").unlink(missing_ok=True)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(folder / "ctl"))
        self.listener.listen(1)
        self.data = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.data.bind(f"\0{folder}/data".encode().ljust(108, b"\0"))
        self.data.settimeout(5)
        self.request: tuple[int, ...] = ()
        self._answers = answers
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        self.control, _ = self.listener.accept()
        magic, version, type, _, self.address, self.about = REQUEST.unpack(
            self.control.recv(REQUEST.size)
        )
        self.request = (magic, version, type)
        if self._answers:
            name = f"\0{self.folder}/data".encode()
            self.control.sendall(struct.pack("=H108s", socket.AF_UNIX, name))
        else:
            self.control.close()

    def say(self, data: bytes) -> None:
        path = self.address
        self.data.sendto(data, path if path[:1] == b"\0" else path.rstrip(b"\0"))

    def close(self) -> None:
        self._thread.join()
        for sock in (self.control, self.listener, self.data):
            sock.close()


@pytest.fixture
def switch(tmp_path: Path) -> Iterator[Switch]:
    made = Switch(tmp_path / "sw")
    yield made
    made.close()


def test_a_port_is_asked_for_and_frames_go_both_ways(sockets: Bed, switch: Switch) -> None:
    _, end = sockets.add(f"vde,id=v,sock={switch.folder},port=7")
    assert switch.request == (0xFEEDFACE, 3, 7 << 8)
    assert switch.about.startswith(b"vmwire v pid=")
    end.port.send([Frame.of(FRAME), Frame.of(b"x" * 1514)])
    assert [switch.data.recv(9000), switch.data.recv(9000)] == [FRAME, b"x" * 1514]


def test_what_the_switch_sends_arrives_and_what_others_send_does_not(
    sockets: Bed, tmp_path: Path
) -> None:
    folder = tmp_path / "sw"
    switch = Switch(folder)
    netdev, end = sockets.add(f"vde,id=v,sock={folder}")
    switch.say(FRAME)
    sockets.until(lambda: end.data == [FRAME])
    stranger = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with stranger, pytest.raises(PermissionError):
        stranger.sendto(FRAME, switch.address)
    netdev.close()
    switch.close()


def test_a_switch_that_goes_is_looked_for_again(
    sockets: Bed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vde, "RETRY_S", 0.01)
    first = Switch(tmp_path / "sw")
    _, end = sockets.add(f"vde,id=v,sock={tmp_path}/sw")
    sockets.turn()
    first.close()
    sockets.until(lambda: end.heard[-1:] == ["down"])
    time.sleep(0.05)
    sockets.turn()
    second = Switch(tmp_path / "sw")
    sockets.until(lambda: end.heard[-1:] == ["up"])
    end.port.send([Frame.of(FRAME)])
    assert second.data.recv(9000) == FRAME
    second.close()


def test_files_have_the_rights_that_are_asked_for(sockets: Bed, switch: Switch) -> None:
    stale = switch.folder / ".vmwire-1-old"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(stale))
    group = os.getgid()
    netdev, _ = sockets.add(f"vde,id=v,sock={switch.folder},mode=0660,group={group}")
    (path,) = switch.folder.glob(".vmwire-*")
    assert switch.address.rstrip(b"\0") == os.fsencode(path)
    assert path.stat().st_mode & 0o777 == 0o660
    netdev.close()
    assert list(switch.folder.glob(".vmwire-*")) == []


def test_files_that_others_are_behind_stay(sockets: Bed, switch: Switch) -> None:
    other = switch.folder / ".vmwire-1-other"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(other))
        sock.connect(switch.data.getsockname())
        sockets.add(f"vde,id=v,sock={switch.folder},mode=0660")
        assert other.exists()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("vde,id=x,port=abc", "Parameter 'port' expects"),
        ("vde,id=x,mode=999999999999", "Parameter 'mode' expects uint16_t"),
    ],
)
def test_wrong_values_are_told(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        catalogue.parse("netdev", text)


def test_a_switch_that_is_not_there_is_told(sockets: Bed, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"can't join the switch at {tmp_path}: No such file"):
        sockets.add(f"vde,id=x,sock={tmp_path}")


def test_a_switch_that_refuses_is_told(sockets: Bed, tmp_path: Path) -> None:
    switch = Switch(tmp_path / "sw", answers=False)
    with pytest.raises(ConfigError, match="doesn't give us port 3"):
        sockets.add(f"vde,id=x,sock={switch.folder},port=3")
    switch.close()


def test_a_group_that_is_not_there_is_told(sockets: Bed, tmp_path: Path) -> None:
    folder = tmp_path / "sw"
    folder.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(f"{folder}/ctl")
        listener.listen(1)
        with pytest.raises(ConfigError, match="there is no group 'nosuchgroup'"):
            sockets.add(f"vde,id=x,sock={folder},group=nosuchgroup")


@pytest.mark.peer
@pytest.mark.parametrize("options", ["", ",mode=0700", ",port=5"])
def test_vdes_own_switch_joins_two(sockets: Bed, tmp_path: Path, options: str) -> None:
    program = shutil.which("vde_switch")
    if program is None:
        pytest.skip("vde_switch (package vde2) is not installed")
    folder = tmp_path / "sw"
    switch = subprocess.Popen([program, "-s", folder, "-M", tmp_path / "mgmt"],
                              stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)  # fmt: skip
    try:
        sockets.until(lambda: (folder / "ctl").exists())
        _, left = sockets.add(f"vde,id=l,sock={folder}{options}")
        _, right = sockets.add(f"vde,id=r,sock={folder}")
        to_all, to_left = b"\xff" * 6 + b"\x52\x54\0\0\0\1", b"\x52\x54\0\0\0\1\x52\x54\0\0\0\2"
        left.port.send([Frame.of(to_all + FRAME)])
        sockets.until(lambda: right.data == [to_all + FRAME])
        right.port.send([Frame.of(to_left + FRAME)] * 100)
        sockets.until(lambda: left.data == [to_left + FRAME] * 100)
    finally:
        switch.kill()
        switch.wait()
    sockets.until(lambda: left.heard[-1:] == ["down"])
