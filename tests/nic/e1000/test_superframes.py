# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Superframes toward the guest: cut into its buffers, exactly as the wire would have cut them."""

from __future__ import annotations

import zlib

import pytest

from tests.nic.e1000.rig import BAM, EN, LPE, MAC, SECRC, UPE, Rig
from tests.wire import packets
from vmwire.nic.e1000 import receive
from vmwire.nic.e1000.registers import Registers as R
from vmwire.wire.frame import F_NEEDS_CSUM, Frame, Offload
from vmwire.wire.offload import finish

KINDS = {
    "IPv4": packets.superframe_tcp4,
    "IPv4 with options": lambda payload, size: packets.superframe_tcp4(
        payload, size, options=bytes.fromhex("0101080a0000000100000002")
    ),
    "IPv6": packets.superframe_tcp6,
}
PAYLOAD = bytes(range(256)) * 80


def to_card(frame: Frame) -> Frame:
    return Frame.of(MAC + frame.tobytes()[6:], frame.offload)


@pytest.fixture(params=KINDS)
def superframe(request: pytest.FixtureRequest) -> Frame:
    return to_card(KINDS[request.param](PAYLOAD, 1400))


@pytest.mark.parametrize(
    ("rctl", "size"),
    [(EN | SECRC, 2048), (EN | SECRC | 3 << 16, 256), (EN | SECRC | UPE | LPE, 2048)],
    ids=["a buffer each", "several buffers each", "promiscuous"],
)
def test_the_guest_gets_what_the_wire_would_have_cut(
    superframe: Frame, rctl: int, size: int
) -> None:
    rig = Rig().start(count=128, rctl=rctl, size=size)
    assert rig.wire.port.send([superframe]) == 1
    wanted = [part.tobytes() for part in finish(superframe)]
    assert rig.received() == wanted
    assert rig.read(R.GPRC) == len(wanted) == rig.read(R.TPR)
    assert rig.read(R.GORCL) == sum(map(len, wanted)) + 4 * len(wanted)


def test_each_segment_has_its_check_sequence(superframe: Frame) -> None:
    rig = Rig().start(count=128, rctl=EN)
    rig.wire.port.send([superframe])
    for data in rig.received():
        assert data[-4:] == zlib.crc32(data[:-4]).to_bytes(4, "little")


def test_checksums_are_vouched_for_where_the_driver_asks(superframe: Frame) -> None:
    rig = Rig().start(count=128)
    rig.write(R.RXCSUM, 0x300)
    rig.wire.port.send([superframe])
    ipv6 = superframe.tobytes()[12:14] == b"\x86\xdd"
    for index in range(len(finish(superframe))):
        _, _, _, status, errors, _ = rig.descriptor(index)
        assert errors == 0
        assert ipv6 or status & 0x60 == 0x60


def test_a_rest_that_has_no_room_comes_first_when_there_is(superframe: Frame) -> None:
    rig = Rig().start(count=8)
    small = Frame.of(MAC + bytes(100))
    assert rig.wire.port.send([superframe, small]) == 1
    got: list[bytes] = []
    wanted = [part.tobytes() for part in finish(superframe)]
    while len(got) < len(wanted):
        assert rig.wire.port.send([small]) == 0 or len(wanted) - len(got) < 3
        frames = rig.received()
        assert frames, "the rest is stuck"
        got += frames
    assert got[: len(wanted)] == wanted
    assert "resume" in rig.wire.heard


def test_a_rest_is_forgotten_by_a_reset(superframe: Frame) -> None:
    rig = Rig().start(count=8)
    rig.wire.port.send([superframe])
    rig.write(R.CTRL, rig.read(R.CTRL) | 1 << 26)
    rig.start(count=16)
    assert rig.received() == []


def test_a_superframe_for_somebody_else_is_counted_and_dropped() -> None:
    rig = Rig().start(count=64, rctl=EN | BAM | SECRC)
    other = packets.superframe_tcp4(PAYLOAD, 1400)
    assert rig.wire.port.send([Frame.of(b"\x02" + other.tobytes()[1:], other.offload)]) == 1
    assert rig.received() == []
    assert rig.read(R.TPR) == len(finish(other)) and rig.read(R.GPRC) == 0


def test_a_superframe_for_somebody_else_is_never_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle card at a hub must not cost the busy ones anything."""
    monkeypatch.setattr(receive, "cut", None)
    monkeypatch.setattr(receive, "finish", None)
    rig = Rig().start(count=64, rctl=EN | BAM | SECRC)
    other = packets.superframe_tcp4(PAYLOAD, 1400)
    unfinished = Offload(F_NEEDS_CSUM, 0, 0, 0, 34, 16)
    for size, offload in ((len(other.tobytes()), other.offload), (1000, unfinished)):
        rig.wire.port.send([Frame.of(b"\x02" + other.tobytes()[1:size], offload)])
    parts = finish(other)
    assert rig.read(R.TPR) == len(parts) + 1
    octets = sum(part.length + 4 for part in parts) + 1000 + 4
    assert rig.read(R.TORL) == octets


def test_segments_that_are_too_long_are_counted_so() -> None:
    rig = Rig().start(count=64)
    giant = to_card(packets.superframe_tcp4(PAYLOAD, 4000))
    rig.wire.port.send([giant])
    parts = [part.tobytes() for part in finish(giant)]
    assert rig.received() == [part for part in parts if len(part) <= 1518]
    assert rig.read(R.ROC) == len([part for part in parts if len(part) > 1518]) > 0


def test_a_checksum_that_was_left_to_do_is_done() -> None:
    rig = Rig().start()
    left = packets.superframe_tcp4(bytes(100), 1400)
    alone = to_card(Frame.of(left.tobytes(), Offload(F_NEEDS_CSUM, 0, 0, 0, 34, 16)))
    rig.wire.port.send([alone])
    assert rig.received() == [part.tobytes() for part in finish(alone)]
