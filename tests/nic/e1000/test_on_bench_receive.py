# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Reception, as chapter 3.2 of the manual has it."""

from __future__ import annotations

import struct
import zlib

import pytest

from tests.nic.e1000.card import BROADCAST, GROUP, MAC, Card, Driver, frame_to, packet
from tests.wire.packets import slow_sum, superframe_tcp4, superframe_tcp6, transport_checks
from vmwire.bench import e1000_spec as spec
from vmwire.wire.frame import Frame

STRIP = spec.RCTL_BAM | spec.RCTL_SECRC


def datas(driver: Driver) -> list[bytes]:
    return [frame.data for frame in driver.receive()]


# --- into the ring


def test_a_frame_arrives_with_its_fcs_unless_that_is_stripped(card: Card, driver: Driver) -> None:
    frame = frame_to(MAC, 100)
    card.nic.wire.send(frame)
    (got,) = driver.receive()
    assert got.data == frame + zlib.crc32(frame).to_bytes(4, "little")
    assert got.status & (spec.RX_DD | spec.RX_EOP) == 3
    assert got.errors == 0
    driver.start_receive(STRIP)
    card.nic.wire.send(frame)
    assert datas(driver) == [frame]


@pytest.mark.parametrize("length", [14, 15, 42, 59, 60, 61])
def test_short_frames_are_padded_with_zeros(card: Card, driver: Driver, length: int) -> None:
    driver.start_receive(STRIP)
    card.nic.wire.send(frame_to(MAC, length))
    assert datas(driver) == [frame_to(MAC, length).ljust(60, b"\0")]


@pytest.mark.parametrize("buffer_size", sorted(spec.RCTL_SIZES))
@pytest.mark.parametrize("length", [60, 256, 257, 1514, 9014, 16_000])
def test_every_buffer_size_takes_frames_of_every_length(
    card: Card, buffer_size: int, length: int
) -> None:
    driver = card.start(buffer_size=buffer_size, ring=128, receive=STRIP | spec.RCTL_LPE)
    frame = frame_to(MAC, length)
    card.nic.wire.send([frame, frame])
    got = driver.receive()
    assert [one.data for one in got] == [frame, frame]
    assert [one.descriptors for one in got] == [-(-length // buffer_size)] * 2


def test_an_fcs_that_does_not_fit_takes_another_buffer(card: Card) -> None:
    driver = card.start(buffer_size=256)
    card.nic.wire.send(frame_to(MAC, 254))
    (got,) = driver.receive()
    assert (len(got.data), got.descriptors) == (258, 2)


def test_many_turns_of_the_ring_in_batches(card: Card) -> None:
    driver = card.start(ring=8, receive=STRIP)
    for turn in range(20):
        batch = [frame_to(MAC, 60 + n, seed=turn) for n in range(turn % 7 + 1)]
        assert card.nic.wire.send(batch) == len(batch)
        assert datas(driver) == batch


def test_frames_that_find_no_buffer_come_when_there_are_some(card: Card) -> None:
    driver = card.start(ring=8, receive=STRIP)
    batch = [frame_to(MAC, seed=number) for number in range(10)]
    taken = card.nic.wire.send(batch)
    assert taken == 7
    assert card.nic.wire.send(batch[7:]) == 0
    assert datas(driver) == batch[:7]
    assert card.nic.wire.resumes > 0
    card.nic.wire.send(batch[7:])
    assert datas(driver) == batch[7:]
    assert driver.read(spec.STATISTICS["RNBC"]) > 0


def test_nothing_arrives_while_reception_is_off(card: Card, driver: Driver) -> None:
    driver.write(spec.RCTL, 0)
    card.nic.wire.send(frame_to(MAC))
    driver.write(spec.RCTL, spec.RCTL_EN | spec.RCTL_BAM)
    assert driver.receive() == []


def test_a_descriptor_with_no_buffer_is_passed_over(card: Card, driver: Driver) -> None:
    """A null address: the descriptor is used, nothing is stored (3.2.3)."""
    card.pc.write(driver.rx_ring, bytes(8))
    card.pc.writel(0, 0xA5A5A5A5)
    card.nic.wire.send(frame_to(MAC))
    assert driver.read(spec.RDH) == 1
    assert card.pc.readl(0) == 0xA5A5A5A5


# --- length


@pytest.mark.parametrize(("length", "passes"), [(1514, True), (1518, True), (1519, False)])
def test_without_long_packets_the_limit_is_1522_bytes_with_fcs(
    card: Card, driver: Driver, length: int, passes: bool
) -> None:
    card.nic.wire.send(frame_to(MAC, length))
    assert len(driver.receive()) == passes
    assert driver.read(spec.STATISTICS["ROC"]) == (not passes)


def test_frames_beyond_any_ring_are_dropped_and_the_next_one_arrives(card: Card) -> None:
    driver = card.start(ring=8, buffer_size=256, receive=STRIP | spec.RCTL_LPE)
    card.nic.wire.send([frame_to(MAC, 9000), frame_to(MAC, 16_381), frame_to(MAC, 65_000)])
    card.nic.wire.send(frame_to(MAC))
    assert datas(driver) == [frame_to(MAC)]


# --- filters


OTHER = bytes.fromhex("525400aaaaaa")


def arrives(card: Card, driver: Driver, destination: bytes) -> bool:
    card.nic.wire.send(frame_to(destination))
    return len(driver.receive()) == 1


def test_only_its_own_address_and_broadcast_pass(card: Card, driver: Driver) -> None:
    found = [arrives(card, driver, to) for to in (MAC, BROADCAST, OTHER, GROUP)]
    assert found == [True, True, False, False]


@pytest.mark.parametrize(("bits", "found"), [
    (0, [True, False, False, False]),
    (spec.RCTL_UPE, [True, False, True, False]),
    (spec.RCTL_MPE, [True, True, False, True]),
    (spec.RCTL_MPE | spec.RCTL_UPE | spec.RCTL_BAM, [True, True, True, True]),
])  # fmt: skip
def test_promiscuous_modes(card: Card, driver: Driver, bits: int, found: list[bool]) -> None:
    driver.start_receive(bits)
    assert [arrives(card, driver, to) for to in (MAC, BROADCAST, OTHER, GROUP)] == found


@pytest.mark.parametrize("index", [1, 7, 15])
def test_each_exact_filter_works_while_it_is_valid(card: Card, driver: Driver, index: int) -> None:
    driver.set_address(index, OTHER)
    assert arrives(card, driver, OTHER)
    driver.set_address(index, OTHER, valid=False)
    assert not arrives(card, driver, OTHER)


@pytest.mark.parametrize("offset", range(4))
def test_the_hash_filter_takes_the_bits_that_mo_says(
    card: Card, driver: Driver, offset: int
) -> None:
    """13.5.1: bits 47:36, 46:35, 45:34 or 43:32 of the destination."""
    group = bytes.fromhex("01005e7a3bc5")
    number = (group[5] << 8 | group[4]) >> (4, 3, 2, 0)[offset] & 0xFFF
    driver.start_receive(offset << spec.RCTL_MO_SHIFT)
    assert not arrives(card, driver, group)
    driver.write(spec.MTA + 4 * (number >> 5), 1 << (number & 31))
    assert arrives(card, driver, group)
    other = group[:4] + bytes([group[4] ^ 0x10, group[5]])
    assert not arrives(card, driver, other)


# --- VLAN


def tagged(vlan: int, length: int = 100, kind: int = 0x8100) -> bytes:
    frame = frame_to(MAC, length)
    return frame[:12] + struct.pack("!HH", kind, vlan) + frame[12:]


def test_a_tag_is_stripped_into_the_descriptor(card: Card, driver: Driver) -> None:
    driver.write(spec.CTRL, driver.read(spec.CTRL) | spec.CTRL_VME)
    driver.start_receive(STRIP)
    card.nic.wire.send([tagged(0x6007), frame_to(MAC, 100)])
    first, second = driver.receive()
    assert (first.vlan, first.data) == (0x6007, frame_to(MAC, 100))
    assert (second.vlan, second.data) == (None, frame_to(MAC, 100))


def test_without_vlan_mode_the_tag_stays(card: Card, driver: Driver) -> None:
    driver.start_receive(STRIP)
    card.nic.wire.send(tagged(7))
    (got,) = driver.receive()
    assert (got.vlan, got.data) == (None, tagged(7))


def test_vet_says_what_a_tag_is(card: Card, driver: Driver) -> None:
    driver.write(spec.CTRL, driver.read(spec.CTRL) | spec.CTRL_VME)
    driver.write(spec.VET, 0x88A8)
    driver.start_receive(STRIP)
    card.nic.wire.send([tagged(7), tagged(8, kind=0x88A8)])
    assert [one.vlan for one in driver.receive()] == [None, 8]


def test_the_vlan_filter_passes_what_its_table_says(card: Card, driver: Driver) -> None:
    driver.write(spec.VFTA + 4 * (100 >> 5), 1 << (100 & 31))
    driver.start_receive(STRIP | spec.RCTL_VFE)
    card.nic.wire.send([tagged(100), tagged(101), tagged(4095), frame_to(MAC, 90)])
    assert datas(driver) == [tagged(100), frame_to(MAC, 90)]


def test_the_canonical_form_bit_is_filtered_where_asked(card: Card, driver: Driver) -> None:
    driver.write(spec.VFTA, 1 << 5)
    driver.start_receive(STRIP | spec.RCTL_VFE | spec.RCTL_CFIEN)
    card.nic.wire.send([tagged(5), tagged(0x1005)])
    assert datas(driver) == [tagged(5)]


# --- checksum status


OFFLOAD = spec.RXCSUM_IP | spec.RXCSUM_TCP_UDP
CHECKED = spec.RX_IXSM | spec.RX_IPCS | spec.RX_TCPCS


def verdict(card: Card, driver: Driver, frame: bytes | Frame) -> tuple[int, int]:
    card.nic.wire.send(frame)
    (got,) = driver.receive()
    return got.status & CHECKED, got.errors


@pytest.mark.parametrize("vlan", [False, True])
@pytest.mark.parametrize("protocol", [6, 17])
def test_right_checksums_are_reported(
    card: Card, driver: Driver, protocol: int, vlan: bool
) -> None:
    driver.write(spec.RXCSUM, OFFLOAD)
    frame = packet(4, protocol, b"checked" * 20, vlan=vlan)
    assert verdict(card, driver, frame) == (spec.RX_IPCS | spec.RX_TCPCS, 0)


@pytest.mark.parametrize("protocol", [6, 17])
def test_wrong_checksums_are_reported(card: Card, driver: Driver, protocol: int) -> None:
    driver.write(spec.RXCSUM, OFFLOAD)
    frame = bytearray(packet(4, protocol, b"checked" * 20))
    frame[-1] ^= 1
    assert verdict(card, driver, bytes(frame)) == (spec.RX_IPCS | spec.RX_TCPCS, spec.RXE_TCPE)
    frame[24] ^= 1
    assert verdict(card, driver, bytes(frame))[1] & spec.RXE_IPE


def test_a_udp_datagram_without_a_checksum_is_not_wrong(card: Card, driver: Driver) -> None:
    driver.write(spec.RXCSUM, OFFLOAD)
    frame = bytearray(packet(4, 17, b"no sum" * 10))
    frame[40:42] = b"\0\0"
    status, errors = verdict(card, driver, bytes(frame))
    assert errors == 0
    assert not status & spec.RX_TCPCS


def test_what_is_no_ip_is_marked_as_not_checked(card: Card, driver: Driver) -> None:
    driver.write(spec.RXCSUM, OFFLOAD)
    status, errors = verdict(card, driver, frame_to(MAC, 100))
    assert errors == 0
    assert status & spec.RX_IXSM or not status & (spec.RX_IPCS | spec.RX_TCPCS)


def test_a_fragment_has_no_transport_verdict(card: Card, driver: Driver) -> None:
    driver.write(spec.RXCSUM, OFFLOAD)
    frame = bytearray(packet(4, 17, b"first of many" * 10))
    frame[20:22] = b"\x20\x00"
    frame[24:26] = b"\0\0"
    struct.pack_into("!H", frame, 24, slow_sum(bytes(frame[14:34])) ^ 0xFFFF)
    assert verdict(card, driver, bytes(frame)) == (spec.RX_IPCS, 0)


def test_padding_behind_a_packet_is_not_summed(card: Card, driver: Driver) -> None:
    driver.write(spec.RXCSUM, OFFLOAD)
    frame = packet(4, 6, b"x") + b"\xa5" * 5
    assert verdict(card, driver, frame) == (spec.RX_IPCS | spec.RX_TCPCS, 0)


def test_switched_off_checks_report_nothing(card: Card, driver: Driver) -> None:
    driver.write(spec.RXCSUM, 0)
    frame = bytearray(packet(4, 6, b"whatever" * 10))
    frame[-1] ^= 1
    status, errors = verdict(card, driver, bytes(frame))
    assert (status & (spec.RX_IPCS | spec.RX_TCPCS), errors) == (0, 0)


def test_the_packet_checksum_starts_where_pcss_says(card: Card, driver: Driver) -> None:
    """RXCSUM.PCSS: the ones' complement sum from there to the end, without FCS."""
    driver.write(spec.RXCSUM, 14)
    frame = frame_to(MAC, 101)
    card.nic.wire.send(frame)
    (got,) = driver.receive()
    swapped = struct.unpack("<H", struct.pack(">H", got.checksum))[0]
    total = slow_sum(frame[14:])
    assert {got.checksum, swapped} & {total, total ^ 0xFFFF}


# --- superframes from the wire


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("buffer_size", [256, 2048, 4096])
def test_a_superframe_arrives_as_frames_that_check(
    card: Card, version: int, buffer_size: int
) -> None:
    driver = card.start(buffer_size=buffer_size, ring=256, receive=STRIP)
    driver.write(spec.RXCSUM, OFFLOAD)
    payload = bytes(at & 0xFF for at in range(20_000))
    make = superframe_tcp4 if version == 4 else superframe_tcp6
    frame = make(payload, 1400)
    to_us = Frame.of(MAC + frame.tobytes()[6:], frame.offload)
    assert card.nic.wire.send(to_us) == 1
    got = driver.receive()
    header = 54 if version == 4 else 74
    assert b"".join(one.data[header:] for one in got) == payload
    assert all(transport_checks(one.data) for one in got)
    if version == 4:
        assert {one.status & CHECKED for one in got} == {spec.RX_IPCS | spec.RX_TCPCS}
    assert {one.errors for one in got} == {0}


def test_a_superframe_larger_than_the_free_ring_arrives_whole_in_the_end(card: Card) -> None:
    driver = card.start(ring=16, receive=STRIP)
    payload = bytes(60_000)
    frame = superframe_tcp4(payload, 1400)
    to_us = Frame.of(MAC + frame.tobytes()[6:], frame.offload)
    got = b""
    pending = [to_us]
    for _ in range(30):
        if pending and card.nic.wire.send(pending):
            pending = []
        got += b"".join(one.data[54:] for one in driver.receive())
    assert got == payload


# --- interrupts of reception


def test_a_received_frame_interrupts(card: Card, driver: Driver) -> None:
    driver.write(spec.IMS, spec.ICR_RXT0)
    card.nic.wire.send(frame_to(MAC))
    assert card.nic.irq_level
    assert driver.read(spec.ICR) & spec.ICR_RXT0
    assert not card.nic.irq_level


def test_the_receive_delay_puts_the_interrupt_off(card: Card, driver: Driver) -> None:
    driver.write(spec.RDTR, 50)
    driver.write(spec.IMS, spec.ICR_RXT0)
    for _ in range(3):
        card.nic.wire.send(frame_to(MAC))
        card.pc.clock_step(50 * 1024 - 1)
        assert not card.nic.irq_level
    assert len(driver.receive()) == 3
    card.pc.clock_step(5)
    assert card.nic.irq_level
    assert card.nic.irq.edges == 1


def test_the_absolute_receive_delay_ends_it(card: Card, driver: Driver) -> None:
    driver.write(spec.RDTR, 50)
    driver.write(spec.RADV, 75)
    driver.write(spec.IMS, spec.ICR_RXT0)
    card.nic.wire.send(frame_to(MAC))
    card.pc.clock_step(40 * 1024)
    card.nic.wire.send(frame_to(MAC))
    card.pc.clock_step(35 * 1024 - 1)
    assert not card.nic.irq_level
    card.pc.clock_step(5)
    assert card.nic.irq_level


def test_flushing_ends_the_delay(card: Card, driver: Driver) -> None:
    driver.write(spec.RDTR, 5000)
    driver.write(spec.IMS, spec.ICR_RXT0)
    card.nic.wire.send(frame_to(MAC))
    assert not card.nic.irq_level
    driver.write(spec.RDTR, 5000 | spec.RDTR_FLUSH)
    assert card.nic.irq_level


@pytest.mark.parametrize(("code", "left"), [(0, 32), (1, 16), (2, 8)])
def test_few_free_descriptors_are_reported(
    card: Card, driver: Driver, code: int, left: int
) -> None:
    """RCTL.RDMTS: a half, a quarter, an eighth of the ring."""
    driver.start_receive(spec.RCTL_BAM | code << spec.RCTL_RDMTS_SHIFT)
    for _ in range(driver.ring - 1 - left - 1):
        card.nic.wire.send(frame_to(MAC))
    assert not driver.read(spec.ICR) & spec.ICR_RXDMT0
    card.nic.wire.send([frame_to(MAC)])
    card.nic.wire.send([frame_to(MAC)])
    assert driver.read(spec.ICR) & spec.ICR_RXDMT0


def test_small_packets_are_reported(card: Card, driver: Driver) -> None:
    driver.write(spec.RSRPD, 100)
    driver.read(spec.ICR)
    card.nic.wire.send(frame_to(MAC, 200))
    assert not driver.read(spec.ICR) & spec.ICR_SRPD
    card.nic.wire.send(frame_to(MAC, 60))
    assert driver.read(spec.ICR) & spec.ICR_SRPD


def test_frames_are_lost_on_a_pulled_cable_and_arrive_again_later(
    card: Card, driver: Driver
) -> None:
    card.nic.wire.set_link(False)
    card.nic.wire.send(frame_to(MAC, seed=1))
    card.nic.wire.set_link(True)
    card.pc.clock_step(5_000_000_000)
    card.nic.wire.send(frame_to(MAC, seed=2))
    (got,) = driver.receive()
    assert got.data[:60] == frame_to(MAC, seed=2)
