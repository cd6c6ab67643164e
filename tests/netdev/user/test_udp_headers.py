# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""UDP of the user network: headers that are known, and need a single look."""

from __future__ import annotations

import socket

import pytest
from tests.netdev.user import harness
from tests.netdev.user.harness import (
    CHECKSUM_LEFT,
    MakeUdp,
    port_of,
    send_burst,
    udp_frame,
    waiting,
)

from vmwire.netdev.user import udp
from vmwire.wire.frame import Frame
from vmwire.wire.protocols.checksum import internet_checksum


def known_frame(
    port: int, data: bytes, ident: int = 7, *, checksum: int = 0
) -> tuple[Frame, bytes]:
    """A datagram like others but for its identification; ``checksum`` is added to the right one."""
    frame, _, _, end = udp_frame(data, port, offload=CHECKSUM_LEFT)
    whole = bytearray(frame.tobytes())
    whole[18:20] = ident.to_bytes(2, "big")
    whole[24:26] = b"\0\0"
    right = internet_checksum(whole[14:34]) + checksum
    whole[24:26] = right.to_bytes(2, "big")
    return Frame.of(bytes(whole[:end]), CHECKSUM_LEFT), bytes(whole[:138])


def test_headers_that_passed_are_known_whatever_their_identification(
    make_udp: MakeUdp, udp_server: socket.socket
) -> None:
    _, table = make_udp()
    port = port_of(udp_server)
    assert not table.receive_known(*known_frame(port, b"x" * 30))
    send_burst(table, udp_frame(b"0" * 30, port, offload=CHECKSUM_LEFT))
    for ident in (0, 1, 0x8000, 0xFFFF):
        assert table.receive_known(*known_frame(port, b"x" * 30, ident))
    table.end_burst()
    assert waiting(udp_server) == [b"0" * 30, *[b"x" * 30] * 4]


@pytest.mark.parametrize("at", [3, 8, 15, 17, 20, 22, 23, 29, 33, 35, 37, 39])
def test_header_that_differs_is_not_known(
    make_udp: MakeUdp, udp_server: socket.socket, at: int
) -> None:
    _, table = make_udp()
    port = port_of(udp_server)
    send_burst(table, udp_frame(b"0" * 30, port, offload=CHECKSUM_LEFT))
    frame, head = known_frame(port, b"x" * 30)
    changed = bytearray(head)
    changed[at] ^= 1
    assert not table.receive_known(frame, bytes(changed))


def test_known_header_with_a_wrong_sum_is_looked_at(
    make_udp: MakeUdp, udp_server: socket.socket
) -> None:
    _, table = make_udp()
    port = port_of(udp_server)
    send_burst(table, udp_frame(b"0" * 30, port, offload=CHECKSUM_LEFT))
    assert not table.receive_known(*known_frame(port, b"x" * 30, checksum=1))


def test_known_header_before_less_data_or_an_open_checksum_is_looked_at(
    make_udp: MakeUdp, udp_server: socket.socket
) -> None:
    _, table = make_udp()
    port = port_of(udp_server)
    send_burst(table, udp_frame(b"0" * 30, port, offload=CHECKSUM_LEFT))
    frame, head = known_frame(port, b"x" * 30)
    assert not table.receive_known(Frame.of(frame.tobytes()[:-1], CHECKSUM_LEFT), head)
    assert not table.receive_known(Frame.of(frame.tobytes()), head)
    assert not table.receive_known(Frame.of(frame.tobytes(), harness.GSO), head)
    whole = memoryview(frame.tobytes())
    assert not table.receive_known(Frame((whole[:50], whole[50:]), len(whole), CHECKSUM_LEFT), head)


def test_frame_whose_checksum_must_be_verified_never_makes_its_headers_known(
    make_udp: MakeUdp, udp_server: socket.socket
) -> None:
    _, table = make_udp()
    send_burst(table, udp_frame(b"0" * 30, port_of(udp_server)))
    assert not table._known


def test_headers_of_a_forgotten_endpoint_are_not_known(
    make_udp: MakeUdp, udp_server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, table = make_udp()
    port = port_of(udp_server)
    send_burst(table, udp_frame(b"0" * 30, port, offload=CHECKSUM_LEFT))
    table._close_flow(*table.flows.values())
    assert not table.receive_known(*known_frame(port, b"x" * 30))


def test_known_headers_are_bounded(make_udp: MakeUdp, udp_server: socket.socket) -> None:
    _, table = make_udp()
    for size in range(udp.MAX_KNOWN + 10):
        table.receive(*udp_frame(bytes(size), port_of(udp_server), offload=CHECKSUM_LEFT))
    table.end_burst()
    assert len(table._known) <= udp.MAX_KNOWN
