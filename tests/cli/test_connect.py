# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""``vmwire connect``: two back ends and nothing else."""

from __future__ import annotations

import socket
import struct

import pytest

from tests.cli.test_serve import Start, refused, start
from tests.netdev.sockets import framed, free_port
from vmwire.cli import connect
from vmwire.errors import ConfigError

__all__ = ["start"]

FRAME = bytes(range(60))


def test_frames_go_from_one_to_the_other(start: Start) -> None:
    first, second = free_port(), free_port()
    start("connect", f"socket,listen=127.0.0.1:{first}", f"socket,id=x,listen=127.0.0.1:{second}")
    with (
        socket.create_connection(("127.0.0.1", first), 5) as left,
        socket.create_connection(("127.0.0.1", second), 5) as right,
    ):
        right.sendall(framed(b"until the other one is there" * 3))
        left.sendall(framed(FRAME))
        assert right.recv(64, socket.MSG_WAITALL) == framed(FRAME)
        right.sendall(framed(b"back" * 20))
        size = struct.unpack("!I", left.recv(4, socket.MSG_WAITALL))[0]
        assert size in (80, 84)


def test_ends_are_named_where_the_user_does_not() -> None:
    arguments = connect.read(["--log-level", "info", "null", "--log=x", "null,id=n"])
    assert arguments.netdev == ["null,id=a", "null,id=n"]
    assert arguments.links == [("a", "n")]
    assert arguments.single == {"log-level": "info", "log": "x"}


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["user"], "joins two netdevs, not 1"),
        ([], "joins two netdevs, not 0"),
        (["user", "user", "user"], "joins two netdevs, not 3"),
        (["user", "user", "-device", "e1000"], "has no cards"),
        (["user", "user", "--bogus", "x"], "invalid option"),
    ],
)
def test_anything_else_is_told(words: list[str], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        connect.read(words)


def test_what_cannot_be_had_is_one_line() -> None:
    assert "Duplicate ID" in refused("connect", "hubport,id=x,hubid=0", "hubport,id=x,hubid=1")
