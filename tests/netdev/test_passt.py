# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""``-netdev passt``: what the program is told, its end, and the real one."""

from __future__ import annotations

import shlex
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.guest import provision
from tests.netdev.sockets import Bed

from vmwire import catalogue
from vmwire.errors import ConfigError
from vmwire.netdev import passt
from vmwire.network import Network
from vmwire.wire.frame import Frame

FRAME = bytes(range(60))

STAND_IN = """
import os, socket, struct, sys
with open(sys.argv[0] + ".words", "a") as file:
    print(*sys.argv[1:], file=file)
if os.fork():
    sys.exit(0)
line = socket.socket(fileno=int(sys.argv[2]))
while frame := line.recv(70000):
    if b"please end" in frame:
        break
    line.sendall(frame)
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A stand-in that goes to the background, sends everything back, and ends when asked to."""
    path = tmp_path / "passt"
    path.write_text(f"#!{sys.executable}\n{STAND_IN}")
    path.chmod(0o755)
    return path


def words_of(program: Path) -> list[list[str]]:
    return [line.split() for line in Path(f"{program}.words").read_text().splitlines()]


def test_frames_go_to_the_program_and_back(sockets: Bed, program: Path) -> None:
    _, end = sockets.add(f"passt,id=p,path={program}")
    end.port.send([Frame.of(FRAME), Frame.of(b"x" * 1514)])
    sockets.until(lambda: end.data == [FRAME, b"x" * 1514])
    ((flag, number),) = words_of(program)
    assert flag == "--fd" and number.isdigit()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("quiet=on,mtu=1500,mac=52:54:00:00:00:01", "--quiet --mtu 1500 --mac-addr "
         "52:54:00:00:00:01"),
        ("address=10.0.2.15,netmask=24,gateway=10.0.2.2", "--address 10.0.2.15 --netmask 24 "
         "--gateway 10.0.2.2"),
        ("search=a.example,search=b.example", "--search a.example --search b.example"),
        ("tcp=off,udp=on,icmp=off,dhcp=off,ndp=off,dhcpv6=off,ra=off",
         "--no-tcp --no-icmp --no-dhcp --no-ndp --no-dhcpv6 --no-ra"),
        ("dhcp-dns=on,dhcp-search=off", "--dhcp-dns --no-dhcp-search"),
        ("ipv6=off,freebind=on", "--freebind --ipv4-only"),
        ("ipv4=off", "--ipv6-only"),
        ("tcp-ports=22,,80,udp-ports=53", "--tcp-ports 22,80 --udp-ports 53"),
        ("outbound-if4=eth0,map-host-loopback=10.0.2.2,dns-forward=10.0.2.3,dns-host=127.0.0.1",
         "--outbound-if4 eth0 --map-host-loopback 10.0.2.2 --dns-forward 10.0.2.3 "
         "--dns-host 127.0.0.1"),
        ("param=--trace,param=--no-map-gw", "--trace --no-map-gw"),
    ],
)  # fmt: skip
def test_options_become_words(options: str, words: str) -> None:
    record = catalogue.parse("netdev", f"passt,id=p,{options}")
    assert list(record.words()) == shlex.split(words)


def test_a_program_that_ends_is_followed_by_another(
    sockets: Bed, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passt, "RESTART_S", 0.01)
    netdev, end = sockets.add(f"passt,id=p,path={program}")
    end.port.send([Frame.of(b"please end" * 6)])
    sockets.until(lambda: netdev.connections == 2)
    assert end.heard == ["up", "down", "up"]
    end.port.send([Frame.of(FRAME)])
    sockets.until(lambda: end.data == [FRAME])
    assert len(words_of(program)) == 2


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("echo Invalid guest address: x >&2; exit 1", "failed: Invalid guest address: x"),
        ("echo unknown option; echo Usage: passt; echo -t; exit 1", "failed: unknown option"),
        ("exit 1", "failed: it says nothing"),
    ],
)
def test_a_program_that_fails_is_quoted(
    sockets: Bed, tmp_path: Path, body: str, complaint: str
) -> None:
    path = tmp_path / "bad"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    with pytest.raises(ConfigError, match=complaint):
        sockets.add(f"passt,id=p,path={path}")


def test_wrong_options_are_told(sockets: Bed, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be run: No such file"):
        sockets.add(f"passt,id=p,path={tmp_path}/none")
    with pytest.raises(ConfigError, match="can't both be off"):
        catalogue.parse("netdev", "passt,id=p,ipv4=off,ipv6=off")
    with pytest.raises(ConfigError, match="vhost-user"):
        catalogue.parse("netdev", "passt,id=p,vhost-user=on")


@pytest.mark.peer
@pytest.mark.netns
def test_passt_itself_is_the_network() -> None:
    try:
        path = provision.passt_program("passt")
    except provision.ProvisionError as error:
        pytest.skip(str(error))
    with socket.create_server(("127.0.0.1", 0)) as server, Network() as net:
        port = server.getsockname()[1]
        threading.Thread(target=send_a_megabyte, args=(server,)).start()
        net.add_netdev("passt", id="p", path=path, address="10.0.2.15", netmask="24",
                       gateway="10.0.2.2", map_host_loopback="10.0.2.2", ipv6=False)  # fmt: skip
        net.add_netns(id="g", netdev="p", address="10.0.2.15/24", gateway="10.0.2.2")
        guest: Any = net.devices["g"].box
        fetch = guest.start([sys.executable, "-c", FETCH, str(port)], stdout=subprocess.PIPE)
        assert fetch.communicate(timeout=30)[0].strip() == b"1048576"


FETCH = """
import socket, sys
size = 0
with socket.create_connection(("10.0.2.2", int(sys.argv[1])), 20) as peer:
    while data := peer.recv(65536):
        size += len(data)
print(size)
"""


def send_a_megabyte(server: socket.socket) -> None:
    peer, _ = server.accept()
    with peer:
        peer.sendall(bytes(1 << 20))
