# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Datagrams as one superframe, and back."""

from __future__ import annotations

import pytest
from tests.wire.boxes import End
from tests.wire.packets import V4, V6, ethernet, ipv4, ipv6, udp, unfinished

from vmwire.wire.frame import F_NEEDS_CSUM, GSO_UDP_L4, Frame, Gso, Offload
from vmwire.wire.offload import finish
from vmwire.wire.port import EVERYTHING, PACKETS_ONLY, Accepts, Port
from vmwire.wire.runs import IPV4, IPV6, Flow, Kind, Run, kind_of

LEFT = {IPV4: Offload(F_NEEDS_CSUM, 0, 0, 0, 34, 6), IPV6: Offload(F_NEEDS_CSUM, 0, 0, 0, 54, 6)}
KINDS = pytest.mark.parametrize("kind", [IPV4, IPV6], ids=["IPv4", "IPv6"])


def datagram(kind: Kind, payload: bytes) -> bytes:
    """As the kernel gives it: its checksum is still to be done."""
    if kind is IPV4:
        return ethernet(0x0800, ipv4(17, unfinished(udp(payload), V4, 17)))
    return ethernet(0x86DD, ipv6(17, unfinished(udp(payload), V6, 17)))


def a_run(kind: Kind, payloads: list[bytes]) -> list[Frame]:
    frames = [Frame.of(datagram(kind, payload), LEFT[kind]) for payload in payloads]
    return Flow(kind, frames[0]).frames([frame.views[0][kind.headers :] for frame in frames])


def texts(count: int, size: int = 18) -> list[bytes]:
    return [bytes([number]) * size for number in range(count)]


def no_identification(frame: bytes) -> bytes:
    return frame[:18] + frame[20:24] + frame[26:] if frame[12:14] == b"\x08\x00" else frame


@KINDS
def test_a_run_is_a_superframe_of_udp_that_says_where_to_cut(kind: Kind) -> None:
    (run,) = a_run(kind, texts(3))
    assert run.offload == Offload(F_NEEDS_CSUM, GSO_UDP_L4, kind.headers, 18, kind.transport, 6)
    assert run.length == len(run.tobytes()) == kind.headers + 54
    assert run.tobytes()[: kind.headers] == datagram(kind, bytes(54))[: kind.headers]
    assert run.tobytes()[kind.headers :] == b"".join(texts(3))


@KINDS
def test_a_box_that_wants_packets_gets_the_datagrams(kind: Kind) -> None:
    expected = [
        finish(Frame.of(datagram(kind, each), LEFT[kind]))[0].tobytes() for each in texts(3)
    ]
    (run,) = a_run(kind, texts(3))
    assert [each.tobytes() for each in finish(run)] == expected


@KINDS
def test_a_copy_of_a_run_is_cut_to_the_same_datagrams(kind: Kind) -> None:
    """So cuts who is behind another process, or a kernel."""
    (run,) = a_run(kind, texts(3))
    expected = [no_identification(each.tobytes()) for each in finish(run)]
    assert [no_identification(each.tobytes()) for each in finish(run.copy())] == expected


@pytest.mark.parametrize(
    ("accepts", "checksums"),
    [(PACKETS_ONLY, False), (Accepts(True, EVERYTHING.gso & ~Gso.UDP_L4), True)],
)
def test_who_takes_no_udp_superframes_gets_what_it_can_take(
    accepts: Accepts, checksums: bool
) -> None:
    end = End("end", accepts)
    port = Port("sender", len)
    port.connect(end.port)
    assert port.send(a_run(IPV4, texts(5))) == 1
    assert [frame.tobytes()[42:] for frame in end.got] == texts(5)
    assert all(frame.offload.needs_checksum is checksums for frame in end.got)


def test_who_refuses_in_the_middle_of_a_run_gets_the_rest_later() -> None:
    end = End("end", PACKETS_ONLY, room=2)
    port = Port("sender", len)
    port.connect(end.port)
    assert port.send(a_run(IPV4, texts(5))) == 1
    end.make_room()
    assert [frame.tobytes()[42:] for frame in end.got] == texts(5)


def test_a_run_has_no_more_datagrams_than_a_kernel_takes() -> None:
    found = a_run(IPV4, texts(130))
    assert [frame.length for frame in found] == [42 + 64 * 18, 42 + 64 * 18, 42 + 2 * 18]
    parts = [part for frame in found for part in finish(frame)]
    assert [part.tobytes()[42:] for part in parts] == texts(130)


def test_a_run_is_no_longer_than_an_ip_packet() -> None:
    found = a_run(IPV4, texts(45, 1472))
    assert [frame.length - 42 for frame in found] == [44 * 1472, 1472]
    assert not isinstance(found[1], Run)


BASE = datagram(IPV4, b"payload")


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (BASE + bytes(4), "padded"),
        (datagram(IPV4, b""), "empty"),
        (BASE[:20] + b"\x00\x00" + BASE[22:], "may be fragmented"),
        (BASE[:20] + b"\x60\x00" + BASE[22:], "a fragment"),
        (BASE[:14] + b"\x46" + BASE[15:], "IP options"),
        (BASE[:23] + b"\x06" + BASE[24:], "TCP"),
        (BASE[:12] + b"\x81\x00" + BASE[14:], "tagged"),
        (BASE[:38] + b"\x00\x08" + BASE[40:], "another length in the UDP header"),
        (BASE[:30], "short"),
    ],
)
def test_others_are_never_part_of_a_run(frame: bytes, why: str) -> None:
    assert kind_of(Frame.of(BASE, LEFT[IPV4])) is IPV4
    assert kind_of(Frame.of(frame, LEFT[IPV4])) is None, why


@pytest.mark.parametrize(
    "offload",
    [
        Offload(),
        Offload(F_NEEDS_CSUM, 0, 0, 0, 34, 16),
        Offload(F_NEEDS_CSUM, 0, 0, 0, 38, 6),
        Offload(F_NEEDS_CSUM, GSO_UDP_L4, 42, 7, 34, 6),
    ],
)
def test_only_unfinished_udp_is_part_of_a_run(offload: Offload) -> None:
    assert kind_of(Frame.of(BASE, offload)) is None
