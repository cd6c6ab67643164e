# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The socket family when another process takes the network over, and after a crash."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from tests.engine.store import Store
from tests.netdev.sockets import Bed, framed, free_port
from tests.wire.boxes import frames

from vmwire.engine.host import NotNow
from vmwire.wire.frame import Frame


@pytest.fixture
def store(sockets: Bed) -> Store:
    sockets.host.store = Store()
    return sockets.host.store


def killed(sockets: Bed) -> None:
    """The process is gone: its descriptors are, and nothing was tidied up."""
    for netdev in sockets.netdevs:
        line = getattr(netdev, "line", netdev)
        stream = getattr(line, "_stream", None)
        for sock in (stream and stream.socket, getattr(getattr(line, "_wire", None), "socket", 0)):
            if sock:
                sockets.loop.unwatch(sock.fileno())
                sock.close()
        source = getattr(line, "_source", None)
        listener = getattr(source, "_socket", None)
        if listener is not None:
            sockets.loop.unwatch(listener.fileno())
            listener.close()
    sockets.netdevs.clear()


def wires(path: Path) -> dict[str, str]:
    return {
        "listen": f"socket,id=s,listen=127.0.0.1:{free_port()}",
        "server": f"stream,id=s,server=on,addr.type=unix,addr.path={path}/s",
    }


@pytest.mark.parametrize("kind", ["listen", "server", "given"])
def test_a_stream_goes_on_in_the_middle_of_a_frame(
    sockets: Bed, store: Store, tmp_path: Path, kind: str
) -> None:
    if kind == "given":
        ours, peer = socket.socketpair()
        store.keep("s.fd", ours.fileno())
        ours.close()
        text = "stream,id=s,addr.type=fd,addr.str=s.fd"
    else:
        text = wires(tmp_path)[kind]
    netdev, end = sockets.add(text)
    if kind == "listen":
        peer = socket.create_connection(("127.0.0.1", int(text.rpartition(":")[2])))
    elif kind == "server":
        peer = socket.socket(socket.AF_UNIX)
        peer.connect(f"{tmp_path}/s")
    sockets.until(lambda: end.port.carrier)
    whole = framed(b"a" * 60, b"b" * 60)
    peer.send(whole[:80])
    sockets.turn()
    netdev.hand_over()
    peer.send(whole[80:])
    killed(sockets)
    store.on_trial = True
    _, end = sockets.add(text)
    store.on_trial = False
    sockets.until(lambda: end.got)
    assert end.data == [b"b" * 60]
    end.port.send([Frame.of(b"c" * 60)])
    assert peer.recv(1000) == framed(b"c" * 60)
    assert len([event for event, _ in sockets.events]) == (kind != "listen")  # nobody reconnected
    peer.close()
    sockets.until(lambda: not end.port.carrier)
    assert not [name for name in store.kept if "connection" in name or "begun" in name]


def test_a_stream_that_nobody_took_over_goes_on_here(
    sockets: Bed, store: Store, tmp_path: Path
) -> None:
    netdev, end = sockets.add(wires(tmp_path)["server"])
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(f"{tmp_path}/s")
        sockets.until(lambda: end.port.carrier)
        netdev.hand_over()
        netdev.go_on()
        assert list(store.kept) == ["s.listener"]
        peer.send(framed(b"a" * 60))
        sockets.until(lambda: end.got)


def test_a_stream_with_frames_under_way_is_asked_again_later(
    sockets: Bed, store: Store, tmp_path: Path
) -> None:
    netdev, end = sockets.add(wires(tmp_path)["server"])
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(f"{tmp_path}/s")
        sockets.until(lambda: end.port.carrier)
        end.room = 0
        peer.send(framed(b"a" * 60))
        sockets.turn()
        with pytest.raises(NotNow):
            netdev.hand_over()
        end.make_room()
        netdev.hand_over()


def test_after_a_crash_a_stream_that_was_handed_over_once_is_ended(
    sockets: Bed, store: Store, tmp_path: Path
) -> None:
    text = wires(tmp_path)["server"]
    netdev, end = sockets.add(text)
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(f"{tmp_path}/s")
        sockets.until(lambda: end.port.carrier)
        netdev.hand_over()
        killed(sockets)
        _, end = sockets.add(text)
        assert not end.port.carrier
        peer.settimeout(5)
        assert peer.recv(10) == b""


def test_a_given_stream_is_lost_with_its_process_and_said_so(
    sockets: Bed, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    ours, peer = socket.socketpair()
    store.keep("s.fd", ours.fileno())
    ours.close()
    text = "socket,id=s,fd=s.fd"
    _, end = sockets.add(text)
    assert end.port.carrier
    killed(sockets)
    peer.settimeout(5)
    assert peer.recv(10) == b""
    _, end = sockets.add(text)
    assert not end.port.carrier
    assert "went with the process that had it" in caplog.text


def test_unix_datagrams_wait_for_the_next_process(
    sockets: Bed, store: Store, tmp_path: Path
) -> None:
    text = (
        f"dgram,id=d,local.type=unix,local.path={tmp_path}/a,"
        f"remote.type=unix,remote.path={tmp_path}/b"
    )
    sockets.add(text)
    killed(sockets)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
        peer.sendto(b"meanwhile", f"{tmp_path}/a")
    netdev, end = sockets.add(text)
    sockets.until(lambda: end.got)
    assert end.data == [b"meanwhile"]
    assert end.port.send(frames(1)) == 1
    netdev.close()
    assert not store.kept
    assert not (tmp_path / "a").exists()
