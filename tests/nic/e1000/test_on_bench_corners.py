# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Corners of the manual that no other scenario passes."""

from __future__ import annotations

import struct

import pytest

from tests.nic.e1000.card import (
    LEGACY_DESCRIPTORS,
    MAC,
    ONLY_8254X,
    PEER,
    Card,
    Driver,
    frame_from,
    frame_to,
)
from tests.wire.packets import slow_sum
from vmwire.bench import e1000_spec as spec
from vmwire.bench.e1000 import Context

# --- the rings' ends


@pytest.mark.parametrize("start", [0, 50, 63])
def test_descriptors_are_reported_done_over_the_rings_end(
    card: Card, driver: Driver, start: int
) -> None:
    for _ in range(start):
        driver.send(frame_from())
    card.pc.write(driver.tx_ring, bytes(16 * driver.ring))
    sent = [driver.send(frame_from(seed=n), kick=False) for n in range(40)]
    quiet = driver.send(frame_from(), command=spec.TX_IFCS, kick=False)
    driver.kick()
    assert all(driver.tx_done(index) for index in sent)
    assert not driver.tx_done(quiet)
    around = card.pc.read(driver.tx_ring - 64, 64) + card.pc.read(driver.tx_ring + 16 * 64, 64)
    assert around == bytes(128)


@pytest.mark.parametrize("start", [0, 50, 63])
def test_frames_are_delivered_over_the_rings_end(card: Card, driver: Driver, start: int) -> None:
    driver.start_receive(spec.RCTL_SECRC)
    for _ in range(start):
        card.nic.wire.send(frame_to(MAC))
        driver.receive()
    batch = [frame_to(MAC, 60 + n, seed=n) for n in range(40)]
    assert card.nic.wire.send(batch) == 40
    assert [got.data for got in driver.receive()] == batch
    for place in (driver.rx_ring - 64, driver.rx_ring + 16 * driver.ring):
        assert card.pc.read(place, 64) == bytes(64)


# --- checksums in unusual places


def test_a_checksum_in_front_of_what_it_covers_is_right(card: Card, driver: Driver) -> None:
    frame = bytearray(frame_from(101))
    frame[20:22] = b"\0\0"
    driver.send_extended(bytes(frame), Context(start=30, offset=20), options=spec.POPTS_TXSM)
    (sent,) = card.take()
    assert struct.unpack_from("!H", sent, 20)[0] == slow_sum(bytes(frame[30:])) ^ 0xFFFF
    assert sent[22:] == bytes(frame[22:])


def test_the_ip_checksum_covers_what_the_context_says(card: Card, driver: Driver) -> None:
    frame = bytearray(frame_from(100))
    frame[26:28] = b"\0\0"
    driver.send_extended(
        bytes(frame), Context(ip_start=16, ip_offset=26, ip_end=45), options=spec.POPTS_IXSM
    )
    (sent,) = card.take()
    assert slow_sum(sent[16:46]) == 0xFFFF
    assert sent[:26] + sent[28:] == bytes(frame[:26] + frame[28:])


# --- flow control frames (13.4.22: PMCF, DPF; 13.4.1: RFCE)


def pause(quanta: int, opcode: int = 1, to: str = "0180c2000001") -> bytes:
    head = bytes.fromhex(to) + PEER + b"\x88\x08"
    return (head + struct.pack("!HH", opcode, quanta)).ljust(60, b"\0")


RECEIVE_FLOW_CONTROL = 1 << 27


@pytest.mark.parametrize(("quanta", "counter"), [(0, "XONRXC"), (0xFFFF, "XOFFRXC")])
def test_pause_frames_are_counted_and_kept(
    card: Card, driver: Driver, quanta: int, counter: str
) -> None:
    driver.write(spec.CTRL, driver.read(spec.CTRL) | RECEIVE_FLOW_CONTROL)
    driver.start_receive(spec.RCTL_MPE)
    driver.statistics()
    card.nic.wire.send(pause(quanta))
    assert driver.receive() == []
    assert driver.statistics()[counter] == 1


def test_pause_frames_nobody_asked_for_are_unsupported(card: Card, driver: Driver) -> None:
    driver.statistics()
    card.nic.wire.send(pause(5))
    assert driver.statistics()["FCRUC"] == 1
    assert driver.receive() == []


@pytest.mark.parametrize(("bits", "arrives"), [
    (spec.RCTL_MPE, False),
    (spec.RCTL_MPE | spec.RCTL_PMCF, True),
    (spec.RCTL_MPE | spec.RCTL_PMCF | spec.RCTL_DPF, False),
    (spec.RCTL_PMCF, False),
])  # fmt: skip
def test_pause_frames_pass_where_the_driver_wants_them(
    card: Card, driver: Driver, bits: int, arrives: bool
) -> None:
    driver.start_receive(bits)
    card.nic.wire.send(pause(5))
    assert len(driver.receive()) == arrives


@pytest.mark.parametrize("frame", [pause(5, opcode=2), pause(5, to="01005e000001")])
def test_other_mac_control_frames_pass_only_with_pmcf(
    card: Card, driver: Driver, frame: bytes
) -> None:
    driver.start_receive(spec.RCTL_MPE)
    card.nic.wire.send(frame)
    assert driver.receive() == []
    driver.start_receive(spec.RCTL_MPE | spec.RCTL_PMCF | spec.RCTL_DPF)
    card.nic.wire.send(frame)
    assert len(driver.receive()) == 1


# --- EEPROM


@ONLY_8254X
def test_a_serial_read_goes_on_into_the_next_words(card: Card) -> None:
    driver = card.driver
    words = [driver.eeprom_read(word) for word in range(64)]
    driver._eeprom_begin()
    driver._shift_out(0b110, 3)
    driver._shift_out(62, 6)
    found = [driver._shift_in(16) for _ in range(4)]
    driver._eeprom_end()
    assert found == [words[62], words[63], words[0], words[1]]


@ONLY_8254X
def test_writing_needs_the_enable_command(card: Card) -> None:
    driver = card.driver
    before = driver.eeprom_read(0x20)
    driver._eeprom_begin()
    driver._shift_out(0b101, 3)
    driver._shift_out(0x20, 6)
    driver._shift_out(0x1234, 16)
    driver._deselect()
    driver._eeprom_end()
    assert driver.eeprom_read(0x20) == before
    driver.eeprom_write_serially(0x20, 0x1234)
    driver._eeprom_begin()
    driver._shift_out(0b101, 3)
    driver._shift_out(0x20, 6)
    driver._shift_out(0x4321, 16)
    driver._eeprom_end()
    assert driver.eeprom_read(0x20) == 0x1234


@ONLY_8254X
def test_a_command_that_is_cut_short_does_nothing(card: Card) -> None:
    driver = card.driver
    driver.eeprom_write_serially(0x20, 0x1234)
    driver._eeprom_begin()
    driver._shift_out(0b10011, 5)
    driver._shift_out(0, 4)
    driver._deselect()
    driver._shift_out(0b101, 3)
    driver._shift_out(0x20, 6)
    driver._shift_out(0x55, 7)
    driver._eeprom_end()
    assert driver.eeprom_read(0x20) == 0x1234


# --- PHY, link, widths


def test_writing_the_phys_control_anew_leaves_the_link_alone(card: Card, driver: Driver) -> None:
    driver.phy_write(spec.PHY_CONTROL, driver.phy_read(spec.PHY_CONTROL))
    assert driver.read(spec.STATUS) & spec.STATUS_LU
    assert not driver.read(spec.ICR) & spec.ICR_LSC


def test_mdic_is_silent_where_no_interrupt_is_asked_for(card: Card, driver: Driver) -> None:
    driver.read(spec.ICR)
    driver.phy_read(spec.PHY_ID1)
    driver.write(spec.MDIC, spec.MDIC_READ | 7 << 21 | spec.MDIC_INTERRUPT)
    assert not driver.read(spec.ICR) & spec.ICR_MDAC


@pytest.mark.parametrize("speed", [0, 1, 2])
@pytest.mark.parametrize("full", [False, True])
def test_forced_speed_and_duplex_show_in_status(
    card: Card, driver: Driver, speed: int, full: bool
) -> None:
    driver.write(spec.CTRL, spec.CTRL_SLU | 1 << 11 | 1 << 12 | speed << 8 | full)
    status = driver.read(spec.STATUS)
    assert status >> 6 & 3 == speed
    assert bool(status & spec.STATUS_FD) is full


def test_slu_off_shows_no_link(card: Card, driver: Driver) -> None:
    driver.write(spec.CTRL, driver.read(spec.CTRL) & ~spec.CTRL_SLU)
    assert not driver.read(spec.STATUS) & spec.STATUS_LU
    card.nic.wire.send(frame_to(MAC))
    assert driver.receive() == []


def test_parts_of_a_register_are_read(card: Card) -> None:
    base = card.driver.base
    card.driver.write(spec.RDBAH, 0x4433_2211)
    assert [card.pc.readb(base + spec.RDBAH + n) for n in range(4)] == [0x11, 0x22, 0x33, 0x44]
    assert card.pc.readw(base + spec.RDBAH + 1) == 0x3322
    assert card.pc.readq(base + spec.RDBAL) == 0x4433_2211_0000_0000


def test_parts_of_a_register_are_written(card: Card) -> None:
    card.pc.writew(card.driver.base + spec.VET, 0x88A8)
    assert card.driver.read(spec.VET) == 0x88A8
    card.pc.writeq(card.driver.base + spec.RDBAL, 0x0000_0001_0020_0000)
    assert (card.driver.read(spec.RDBAL), card.driver.read(spec.RDBAH)) == (0x20_0000, 1)


@pytest.mark.parametrize("register", [0x1FFFC, 0x1FFFF, 0x20000, 0x20004, 0xFFFFFFFF])
def test_the_io_window_reaches_no_further_than_the_registers(card: Card, register: int) -> None:
    card.driver.port_write(register, 0xFFFFFFFF)
    assert card.driver.port_read(register) in (0, 0xFFFFFFFF)
    assert card.driver.read(spec.VET) == 0x8100


@LEGACY_DESCRIPTORS
def test_of_a_chain_only_the_last_descriptor_says_more_than_done(card: Card) -> None:
    driver = card.start(buffer_size=256, receive=spec.RCTL_SECRC)
    driver.write(spec.RXCSUM, 14)
    card.nic.wire.send(frame_to(MAC, 600))
    fields = [
        spec.RX_DESCRIPTOR.unpack(card.pc.read(driver.rx_ring + 16 * n, 16)) for n in range(4)
    ]
    assert [one[1] for one in fields] == [256, 256, 88, 0]
    assert [one[3] & 3 for one in fields] == [1, 1, 3, 0]
    assert [one[4] for one in fields] == [0] * 4
    assert fields[2][2]


@pytest.mark.parametrize("free", [1, 2, 3])
def test_a_chain_waits_until_it_has_all_its_buffers(card: Card, free: int) -> None:
    driver = card.start(ring=8, buffer_size=256)
    driver.start_receive(buffers=free)
    assert card.nic.wire.send(frame_to(MAC, 508)) == (free >= 2)
    assert driver.read(spec.RDH) == (2 if free >= 2 else 0)
