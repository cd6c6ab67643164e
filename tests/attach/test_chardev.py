# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vmwire.attach import chardev
from vmwire.attach.chardev import Chardev, Stream
from vmwire.engine.loop import Loop
from vmwire.errors import ConfigError


class Listener:
    """Who is at our end: notes what happens."""

    def __init__(self) -> None:
        self.crowded = False
        self.heard = b""
        self.peers = 0
        self.left = 0
        self.send: Callable[[bytes], None] = lambda data: None

    def opened(self, send: Callable[[bytes], None]) -> None:
        self.peers += 1
        self.send = send

    def feed(self, data: bytes) -> None:
        self.heard += data

    def closed(self) -> None:
        self.left += 1


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def listener() -> Listener:
    return Listener()


def turn(loop: Loop) -> None:
    while loop.turn(0):
        pass


def server(path: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()
    return listening


def test_a_client_connects_and_both_sides_talk(
    loop: Loop, listener: Listener, tmp_path: Path
) -> None:
    with server(tmp_path / "s") as listening:
        stream = Stream(Chardev(str(tmp_path / "s")), loop, listener)
        stream.open()
        peer, _ = listening.accept()
        with peer:
            peer.sendall(b"hello")
            turn(loop)
            listener.send(b"world")
            assert (listener.heard, peer.recv(100)) == (b"hello", b"world")
            assert not stream.over
        turn(loop)
        assert (listener.left, stream.over) == (1, True)
        listener.send(b"nobody hears")
        stream.close()
        stream.close()


def test_a_peer_that_says_no_more_is_still_answered(loop: Loop, listener: Listener) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        stream = Stream(Chardev(fd=theirs.fileno()), loop, listener)
        stream.open()
        ours.sendall(b"last words")
        ours.shutdown(socket.SHUT_WR)
        turn(loop)
        assert (listener.heard, listener.left) == (b"last words", 1)
        listener.send(b"answer")
        assert ours.recv(100) == b"answer"
        stream.close()


def test_a_server_takes_one_peer_after_the_other(
    loop: Loop, listener: Listener, tmp_path: Path
) -> None:
    path = tmp_path / "s"
    stream = Stream(Chardev(str(path), server=True), loop, listener)
    stream.open()
    for number in (1, 2):
        with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
            first.connect(str(path))
            second.connect(str(path))
            turn(loop)
            assert listener.peers == number * 2 - 1
            first.sendall(b"1")
            second.sendall(b"2")
            turn(loop)
            assert listener.heard == b"12" * (number - 1) + b"1"
            first.close()
            turn(loop)
            assert listener.heard == b"12" * number
        turn(loop)
    assert not stream.over
    stream.close()
    assert not path.exists()


def test_a_server_takes_an_old_sockets_place_and_nothing_else(
    loop: Loop, listener: Listener, tmp_path: Path
) -> None:
    path = tmp_path / "s"
    server(path).close()  # its file stays
    Stream(Chardev(str(path), server=True), loop, listener).open()
    with pytest.raises(ConfigError, match="Address already in use"):
        Stream(Chardev(str(path), server=True), loop, listener).open()  # somebody is there
    (tmp_path / "f").write_text("mine")
    with pytest.raises(ConfigError, match="Address already in use"):
        Stream(Chardev(str(tmp_path / "f"), server=True), loop, listener).open()
    assert (tmp_path / "f").read_text() == "mine"


def test_a_peer_that_does_not_read_is_waited_for(loop: Loop, listener: Listener) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        stream = Stream(Chardev(fd=theirs.fileno()), loop, listener)
        stream.open()
        listener.send(bytes(3 << 20))
        got = 0
        while got < 3 << 20:
            got += len(ours.recv(1 << 20))
            turn(loop)
        stream.close()


def test_standard_input_may_be_a_file(loop: Loop, listener: Listener, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"endianness\n")
    saved = os.dup(0), os.dup(1)
    source, sink = os.open(tmp_path / "f", os.O_RDONLY), os.open(tmp_path / "g", os.O_CREAT | 1)
    try:
        os.dup2(source, 0)
        os.dup2(sink, 1)
        stream = Stream(Chardev(), loop, listener)
        stream.open()
        turn(loop)
        listener.send(b"OK little\n")
        stream.close()
    finally:
        for fd, number in zip(saved, (0, 1), strict=True):
            os.dup2(fd, number)
        for fd in (*saved, source, sink):
            os.close(fd)
    assert (listener.heard, listener.left) == (b"endianness\n", 1)
    assert (tmp_path / "g").read_bytes() == b"OK little\n"


@pytest.mark.parametrize(("chardev", "text"), [
    (Chardev("/nowhere/s"), "Failed to connect to '/nowhere/s': No such file"),
    (Chardev("/nowhere/s", server=True), "Failed to bind socket to /nowhere/s: No such file"),
    (Chardev(fd=4000), "fd=4000: Bad file descriptor"),
])  # fmt: skip
def test_what_cannot_be_reached_is_told(
    loop: Loop, listener: Listener, chardev: Chardev, text: str
) -> None:
    with pytest.raises(ConfigError) as error:
        Stream(chardev, loop, listener).open()
    assert text in str(error.value)


def test_nothing_is_read_while_the_reader_has_enough_to_do(loop: Loop, listener: Listener) -> None:
    ours, peer = socket.socketpair()
    with ours, peer:
        stream = Stream(Chardev(fd=ours.fileno()), loop, listener)
        stream.open()
        listener.crowded = True
        peer.sendall(b"first")
        turn(loop)
        peer.sendall(b"second")
        turn(loop)
        assert listener.heard == b"first"
        listener.crowded = False
        stream.go_on()
        turn(loop)
        assert listener.heard == b"firstsecond"
        stream.close()


def test_a_peer_with_much_to_read_is_asked_nothing_more(loop: Loop, listener: Listener) -> None:
    ours, peer = socket.socketpair()
    with ours, peer:
        stream = Stream(Chardev(fd=ours.fileno()), loop, listener)
        stream.open()
        listener.send(bytes(4 << 20))
        assert stream.stuffed
        peer.sendall(b"and more")
        turn(loop)
        assert listener.heard == b""
        left = 4 << 20
        while left:
            left -= len(peer.recv(left))
            turn(loop)
        assert not stream.stuffed
        assert listener.heard == b"and more"
        stream.close()


def test_a_peer_that_never_reads_is_hung_up_on(
    loop: Loop, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chardev, "MOST_WAITING", 1 << 20)
    ours, peer = socket.socketpair()
    stream = Stream(Chardev(fd=ours.fileno()), loop, listener)
    stream.open()
    ours.close()
    listener.send(bytes(8 << 20))
    turn(loop)
    assert (listener.left, stream.over) == (1, True)
    with peer:
        received = 0
        while data := peer.recv(1 << 20):
            received += len(data)
    assert received < 2 << 20
    stream.close()
