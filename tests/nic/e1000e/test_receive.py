# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Receive rings whose registers and descriptors make no sense."""

from __future__ import annotations

import struct

import pytest

from tests.nic.e1000.card import packet
from tests.nic.e1000.rig import MEMORY_AT, RX_DATA, RX_RING, frame
from tests.nic.e1000e.rig import MEMORY_SIZE, Rig
from tests.wire.packets import superframe_tcp4
from vmwire.nic.e1000e.receive import split_sizes
from vmwire.nic.e1000e.registers import Registers as R
from vmwire.wire.frame import Frame

RXE = 1 << 31
DD, EOP = 1, 2


def says(rig: Rig, index: int) -> tuple[int, ...]:
    """A split descriptor as it was written back."""
    return struct.unpack("<IIIHHHHHH", rig.get(RX_RING + 32 * index, 24))


@pytest.mark.parametrize(
    ("psrctl", "sizes"),
    [
        (0, (0, 0, 0, 0)),
        (0x3F3F3F7F, (16256, 64512, 64512, 64512)),
        (0xFFFFFFFF, (16256, 64512, 64512, 64512)),
        (0x00000402, (256, 4096, 0, 0)),
    ],
)
def test_split_sizes(psrctl: int, sizes: tuple[int, ...]) -> None:
    assert split_sizes(psrctl) == sizes


@pytest.mark.parametrize("psrctl", [0, 0x00000001, 0x80808080, 0xC0C0C080])
def test_frames_that_no_buffer_can_hold_are_lost_and_the_ring_stands(psrctl: int) -> None:
    rig = Rig()
    rig.start_split(psrctl)
    assert rig.receive(*[frame(1000)] * 5) == 5
    assert rig.chip.drops["longer than the receive ring"] == 5
    assert rig.read(R.RDH) == 0


def test_header_buffer_alone_is_enough_for_what_fits() -> None:
    rig = Rig()
    rig.start_split(0x00000001)
    assert rig.receive(frame(100)) == 1
    _, _, status, length, _, split, *others = says(rig, 0)
    assert status & (DD | EOP) == DD | EOP
    assert (length, split, others) == (100, 0, [0, 0, 0])


@pytest.mark.parametrize(("buffer", "split"), [(128, True), (0, False)])
def test_headers_that_have_no_room_of_their_own_stay_with_the_rest(
    buffer: int, split: bool
) -> None:
    rig = Rig()
    rig.start_split(0x00000400 | buffer >> 7)
    data = packet(4, 6, bytes(300))
    assert rig.receive(data) == 1
    _, _, status, first, _, header, second, *_ = says(rig, 0)
    assert status & EOP
    assert bool(header & 1 << 15) is split
    assert (first, second) == ((54, 300) if split else (0, 354))


def test_a_frame_goes_on_in_the_data_buffers_of_the_next_descriptors() -> None:
    rig = Rig()
    rig.start_split(0x00000101, rctl=0x04008022)  # 128 bytes, 1 KiB, long packets
    data = frame(5000)
    assert rig.receive(data) == 1
    found = [says(rig, index) for index in range(5)]
    assert [each[2] & (DD | EOP) for each in found] == [DD] * 4 + [DD | EOP]
    assert [each[3] for each in found] == [128, 0, 0, 0, 0]
    assert [each[6] for each in found] == [1024] * 4 + [5000 - 128 - 4096]
    assert rig.read(R.RDH) == 10


def test_split_ring_whose_head_is_inside_of_a_descriptor_makes_no_sense() -> None:
    rig = Rig()
    rig.start_split(0x00040402)
    rig.write(R.RDH, 3)
    assert rig.receive(frame()) == 1
    assert rig.chip.drops["receive ring without sense"] == 1


def test_split_buffer_without_memory_is_marked() -> None:
    rig = Rig()
    rig.start_split(0x00040402)
    rig.put(RX_RING + 8, (MEMORY_AT + MEMORY_SIZE).to_bytes(8, "little"))
    assert rig.receive(frame(1000), frame(100)) == 2
    assert says(rig, 0)[2] & RXE
    assert not says(rig, 1)[2] & RXE
    assert rig.chip.drops["receive buffer without memory"] == 1


def test_split_buffers_that_are_left_out_take_nothing() -> None:
    rig = Rig()
    rig.start_split(0x00040402)
    rig.put(RX_RING, bytes(32))
    assert rig.receive(frame(1000)) == 1
    assert not says(rig, 0)[2] & RXE


def test_superframe_that_fills_a_split_ring_goes_on_when_there_is_room() -> None:
    rig = Rig()
    rig.start_split(0x00000401, count=8)
    payload = bytes(at % 251 for at in range(20_000))
    whole = superframe_tcp4(payload, 1400)
    frame_ = Frame.of(b"\x52\x54\x00\x12\x34\x56" + whole.tobytes()[6:], whole.offload)
    assert rig.wire.port.send([frame_]) == 1
    got = b""
    for turn in range(40):
        index = turn % 8
        _, _, status, _, _, header, length, *_ = says(rig, index)
        if not status & DD or len(got) == len(payload):
            break
        assert header == 1 << 15 | 54
        got += rig.get(RX_DATA + (4 * (index % 4) + 1) * 0x4000, length)
        rig.put(
            RX_RING + 32 * index + 8,
            (RX_DATA + (4 * (index % 4) + 1) * 0x4000).to_bytes(8, "little"),
        )
        rig.put(RX_RING + 32 * index, (RX_DATA + 4 * (index % 4) * 0x4000).to_bytes(8, "little"))
        rig.write(R.RDT, 2 * index)
    assert len(got) == len(payload)


def test_frames_for_a_queue_without_a_ring_are_lost() -> None:
    rig = Rig().start()
    for entry in range(32):
        rig.write(R.RETA.offset + 4 * entry, 0xFFFFFFFF)
    rig.write(R.RXCSUM, 1 << 13)
    rig.write(R.MRQC, 1 | 1 << 16 | 1 << 17)
    assert rig.receive(packet(4, 6, b"x"), frame()) == 2
    assert rig.chip.drops["receive ring without sense"] == 1
    assert len(rig.received()) == 1  # the one without a hash is queue 0's


@pytest.mark.parametrize("mrqc", [2, 3, 0xFFFF0002])
def test_kinds_of_spreading_that_do_not_exist_are_none(mrqc: int) -> None:
    rig = Rig().start()
    rig.write(R.RXCSUM, 1 << 13)
    for entry in range(32):
        rig.write(R.RETA.offset + 4 * entry, 0xFFFFFFFF)
    rig.write(R.MRQC, mrqc)
    rig.receive(packet(4, 6, b"x"))
    assert len(rig.received()) == 1


def test_a_full_queue_holds_up_what_is_behind_it() -> None:
    rig = Rig().start()
    rig.write(R.RXCSUM, 1 << 13)
    rig.write(R.MRQC, 1 | 1 << 16)
    for register, value in ((R.RDBAL1, RX_RING + 0x1000), (R.RDLEN1, 256)):
        rig.write(register, value)
    for entry in range(32):
        rig.write(R.RETA.offset + 4 * entry, 0xFFFFFFFF)
    first, second = frame(), packet(4, 6, b"x")
    assert rig.receive(first, second, first) == 1
    assert "resume" not in rig.wire.heard
    rig.write(R.RDT1, 1)
    assert rig.wire.heard.count("resume") == 1
    assert rig.receive(second, first) == 2
    assert len(rig.received()) == 2


def test_changing_the_form_of_descriptors_loses_a_rest_and_nothing_else() -> None:
    rig = Rig()
    rig.start_split(0x00000401, count=8)
    whole = superframe_tcp4(bytes(20_000), 1400)
    frame_ = Frame.of(b"\x52\x54\x00\x12\x34\x56" + whole.tobytes()[6:], whole.offload)
    assert rig.wire.port.send([frame_]) == 1
    rig.write(R.RCTL, 0)
    rig.start_rx()
    assert rig.receive(frame(200)) == 1
    assert [len(data) for data in rig.received()] == [200]
