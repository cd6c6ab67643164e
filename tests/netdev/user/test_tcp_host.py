# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""TCP of the user network: what the host's sockets do beyond the usual."""

from __future__ import annotations

import errno
import socket
import struct

import pytest
from tests.netdev.user.guest import (
    ACK,
    FIN,
    RST,
    SYN,
    Bench,
    TcpPeer,
    connect,
    the_flow,
)

from vmwire.netdev.user import tcp_opening
from vmwire.wire.frame import Frame
from vmwire.wire.protocols import tcp

RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def test_what_lies_behind_an_urgent_byte_is_delivered(bench: Bench, server: socket.socket) -> None:
    peer, host = connect(bench, server)
    host.send(b"abc")
    host.send(b"def!", socket.MSG_OOB)
    host.send(b"ghi")
    assert peer.read(10) == b"abcdef!ghi"


def test_a_server_that_speaks_and_leaves_while_we_connect_is_heard_to_the_end(
    bench: Bench, server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One event tells all of it: connected, data, end."""
    monkeypatch.setattr(tcp_opening.TcpOpening, "_opened", lambda self, flow: None)
    real = socket.socket.connect_ex
    with monkeypatch.context() as patch:

        def slow(self: socket.socket, to: tuple[str, int]) -> int:
            real(self, to)
            return errno.EINPROGRESS

        patch.setattr(socket.socket, "connect_ex", slow)
        peer = TcpPeer(bench, server.getsockname()[1])
        bench.port.send([Frame.of(peer.segment(SYN, options=tcp.Options(mss=1460)))])
    monkeypatch.undo()
    host, _ = server.accept()
    host.sendall(b"bye")
    host.close()
    bench.wait_until(lambda: bench.frames)
    (syn_ack,) = bench.segments()
    peer.nxt += 1
    peer.ack = syn_ack.seq + 1
    bench.send(peer.segment(ACK))
    assert peer.read(3) == b"bye"
    bench.wait_until(lambda: peer.take() or the_flow(bench).fin_acked)
    assert the_flow(bench).fin_out


def test_data_before_a_reset_of_the_host_comes_before_it(
    bench: Bench, server: socket.socket
) -> None:
    """As of a server that answers and closes without having read all of the request."""
    peer, host = connect(bench, server)
    peer.write(b"request that is not read")
    bench.segments()
    host.sendall(b"response")
    host.close()
    bench.wait_until(lambda: not bench.netdev._tcp.flows)
    bench.settle()
    data, reset = bench.segments()
    assert data.payload == b"response"
    assert reset.flags & RST
    assert reset.seq == data.seq + 8


@pytest.mark.parametrize("state", ["opening", "established", "half closed"])
@pytest.mark.parametrize("peek_offset", [True, False])
def test_events_of_a_descriptors_last_owner_change_nothing(
    bench: Bench, server: socket.socket, state: str, peek_offset: bool
) -> None:
    """A turn's events may tell of a socket that an earlier one closed, whose number is in use."""
    table = bench.netdev._tcp
    table.peek_offset = table._feeder._peek_offset = peek_offset
    peer = TcpPeer(bench, server.getsockname()[1])
    if state == "opening":
        bench.send(peer.segment(SYN))
    else:
        peer.open()
    host, _ = server.accept()
    if state == "half closed":
        bench.send(peer.segment(ACK | FIN))
        peer.nxt += 1
    bench.wait_until(lambda: bench.frames or state == "established")
    answers = bench.segments()
    for events in range(1, 64):
        mask = sum(bit for n, bit in enumerate((1, 2, 4, 8, 0x10, 0x2000)) if events >> n & 1)
        the_flow(bench).on_event(mask)
        bench.settle()
    assert {segment.flags for segment in bench.segments()} <= {ACK}
    if state == "opening":
        peer.nxt, peer.ack = 1001, answers[0].seq + 1
        bench.send(peer.segment(ACK))
    host.sendall(b"whole")
    assert peer.read(5) == b"whole"
