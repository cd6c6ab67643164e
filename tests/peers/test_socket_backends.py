# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The socket family against QEMU's own backends of two versions, and against socat.

QEMU runs without a machine: its hub joins the backend that is watched with a UDP one, so that what
we send into the first comes back to us out of the second, and the other way round.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.guest import provision
from tests.netdev.sockets import Bed, free_port
from tests.wire.boxes import End
from tests.wire.packets import superframe_tcp4
from vmwire.netdev.superframes import SIGNATURE
from vmwire.wire.frame import Frame

pytestmark = pytest.mark.peer

PATIENCE_S = 20.0
QEMUS: dict[str, Callable[[], str]] = {
    "7.2": provision.qemu_oldest,
    "11.1": provision.qemu_newest,
}

# what QEMU has, what we have; {a} and {b} are ports, {dir} a folder
INET = "type=inet,{0}.host=127.0.0.1,{0}.port={1}"
PAIRS = {
    "socket connect": ("socket,connect=127.0.0.1:{a}", "socket,listen=127.0.0.1:{a}"),
    "socket listen": ("socket,listen=127.0.0.1:{a}", "socket,connect=127.0.0.1:{a}"),
    "socket udp": (
        "socket,udp=127.0.0.1:{a},localaddr=127.0.0.1:{b}",
        "socket,udp=127.0.0.1:{b},localaddr=127.0.0.1:{a}",
    ),
    "socket mcast": (
        "socket,mcast=230.0.0.7:{a},localaddr=127.0.0.1",
        "socket,mcast=230.0.0.7:{a},localaddr=127.0.0.1",
    ),
    "stream unix client": (
        "stream,addr.type=unix,addr.path={dir}/s",
        "stream,server=on,addr.type=unix,addr.path={dir}/s",
    ),
    "stream unix server": (
        "stream,server=on,addr.type=unix,addr.path={dir}/s",
        "stream,reconnect-ms=50,addr.type=unix,addr.path={dir}/s",
    ),
    "stream abstract server": (
        "stream,server=on,addr.type=unix,addr.path={dir}/s,addr.abstract=on",
        "stream,reconnect-ms=50,addr.type=unix,addr.path={dir}/s,addr.abstract=on",
    ),
    "stream inet client": (
        "stream,addr.type=inet,addr.host=127.0.0.1,addr.port={a}",
        "stream,server=on,addr.type=inet,addr.host=127.0.0.1,addr.port={a}",
    ),
    "stream inet server": (
        "stream,server=on,addr.type=inet,addr.host=127.0.0.1,addr.port={a}",
        "stream,reconnect-ms=50,addr.type=inet,addr.host=127.0.0.1,addr.port={a}",
    ),
    "dgram inet": (
        "dgram,local.type=inet,local.host=127.0.0.1,local.port={a},"
        "remote.type=inet,remote.host=127.0.0.1,remote.port={b}",
        "dgram,local.type=inet,local.host=127.0.0.1,local.port={b},"
        "remote.type=inet,remote.host=127.0.0.1,remote.port={a}",
    ),
    "dgram unix": (
        "dgram,local.type=unix,local.path={dir}/a,remote.type=unix,remote.path={dir}/b",
        "dgram,local.type=unix,local.path={dir}/b,remote.type=unix,remote.path={dir}/a",
    ),
}


@contextlib.contextmanager
def qemu(program: str, backend: str, udp: str) -> Iterator[subprocess.Popen[bytes]]:
    """QEMU's hub with two backends."""
    words = ["-machine", "none", "-nodefaults", "-display", "none", "-monitor", "none", "-S"]
    for id, text in (("x", backend), ("y", udp)):
        type, _, rest = text.partition(",")
        words += ["-netdev", f"{type},id={id},{rest}"]
        words += ["-netdev", f"hubport,id=h{id},hubid=0,netdev={id}"]
    process = subprocess.Popen([program, *(w for w in words if w != "-S")], stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def passes(sockets: Bed, source: End, target: End) -> None:
    """Wait until frames come through: peers start when they start."""
    limit = time.monotonic() + PATIENCE_S
    target.got.clear()
    while not target.got:
        assert time.monotonic() < limit, "no frame came through"
        source.port.send([Frame.of(b"\xff" * 60)])
        time.sleep(0.05)
        sockets.turn()
    target.got.clear()


def transfer(sockets: Bed, source: End, target: End) -> None:
    """Frames of all sizes arrive as they were sent, as many at a time as QEMU's sockets hold.

    With QEMU in a multicast group its own frames come back to it, and to us as well.
    """
    dice = random.Random(time.monotonic())
    for size, at_once in ((60, 8), (61, 8), (1514, 8), (9014, 8), (60014, 1), (60014, 1)):
        sent = [b"\x52\x54" + dice.randbytes(size - 2) for _ in range(at_once)]
        waiting = [Frame.of(data) for data in sent]

        def all_came(sent: list[bytes] = sent, waiting: list[Frame] = waiting) -> bool:
            del waiting[: source.port.send(waiting)]
            return [data for data in target.data if data in sent] == sent

        sockets.until(all_came)
        target.got.clear()


@pytest.fixture(params=sorted(QEMUS))
def program(request: pytest.FixtureRequest) -> str:
    try:
        return QEMUS[request.param]()
    except provision.ProvisionError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_frames_pass_qemus_backend_both_ways_and_after_a_restart_of_either_side(
    sockets: Bed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str,
    pair: tuple[str, str],
) -> None:  # fmt: skip
    monkeypatch.setattr("vmwire.netdev.socket.RETRY_S", 0.05)
    names = {"a": free_port(), "b": free_port(), "dir": tmp_path}
    theirs, ours = (text.format(**names) for text in pair)
    here, there = free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_DGRAM)
    type, _, rest = ours.partition(",")
    netdev, one = sockets.add(f"{type},id=a,{rest}")
    _, other = sockets.add(f"socket,id=b,udp=127.0.0.1:{there},localaddr=127.0.0.1:{here}")
    qemus_udp = f"socket,udp=127.0.0.1:{here},localaddr=127.0.0.1:{there}"
    for _ in range(2):  # QEMU is restarted
        with qemu(program, theirs, qemus_udp):
            passes(sockets, one, other)
            transfer(sockets, one, other)
            transfer(sockets, other, one)
            if not any(word in theirs for word in ("connect=", "stream,addr")):
                netdev.close()  # and so are we, where QEMU doesn't leave it at one try
                netdev, one = sockets.add(f"{type},id=a,{rest}")
                passes(sockets, one, other)
                transfer(sockets, other, one)


def test_no_capsule_passes_qemus_hub_and_superframes_are_cut_for_it(
    sockets: Bed, tmp_path: Path
) -> None:
    here, there = free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_DGRAM)
    address = f"addr.type=unix,addr.path={tmp_path}/s"
    _, one = sockets.add(f"stream,id=a,reconnect-ms=50,{address}")
    _, other = sockets.add(f"socket,id=b,udp=127.0.0.1:{there},localaddr=127.0.0.1:{here}")
    with qemu(
        provision.qemu_newest(), f"stream,server=on,{address}",
        f"socket,udp=127.0.0.1:{here},localaddr=127.0.0.1:{there}",
    ):  # fmt: skip
        passes(sockets, one, other)
        for n in range(100):
            for end in (one, other):
                end.port.send([Frame.of(bytes([n]) * 1514)])
            sockets.loop.turn(0.01)
        sockets.until(lambda: len(one.got) == len(other.got) == 100)
        other.got.clear()
        one.port.send([superframe_tcp4(bytes(14480), 1448)])
        sockets.until(lambda: len(other.got) == 10)
        assert not any(data.startswith(SIGNATURE) for data in one.data + other.data)


@pytest.mark.parametrize("kind", ["TCP", "UNIX-CONNECT"])
def test_socat_gives_back_every_byte_of_a_stream(sockets: Bed, tmp_path: Path, kind: str) -> None:
    program = shutil.which("socat")
    if program is None:
        pytest.skip("needs socat")
    port = free_port()
    text, where = (
        (f"stream,id=a,server=on,addr.type=unix,addr.path={tmp_path}/s", f"{tmp_path}/s")
        if kind == "UNIX-CONNECT"
        else (f"socket,id=a,listen=:{port}", f"127.0.0.1:{port}")
    )
    netdev, end = sockets.add(text)
    for _ in range(2):
        echo = subprocess.Popen([program, "-b", "3000", f"{kind}:{where}", "EXEC:cat,nofork"])
        try:
            sockets.until(lambda: end.port.carrier)
            sent = [bytes([n]) * (60 + 797 * n) for n in range(1, 80)]
            waiting = [Frame.of(data) for data in sent]
            while waiting or len(end.got) < len(sent):
                del waiting[: end.port.send(waiting[:8])]
                sockets.loop.turn(0.01)
            assert end.data == sent
            end.got.clear()
        finally:
            echo.kill()
            echo.wait()
        sockets.until(lambda: not end.port.carrier)
    assert netdev.port.drops["hello for somebody else"] == 2  # our own, that came back
