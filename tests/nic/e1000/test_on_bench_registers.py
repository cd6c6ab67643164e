# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Registers, resets, EEPROM and PHY, the link, loopback and statistics."""

from __future__ import annotations

import pytest

from tests.nic.e1000.card import (
    BROADCAST,
    DEVICE_IDS,
    FAMILY,
    GROUP,
    MAC,
    ONLY_8254X,
    PEER,
    Card,
    Driver,
    card_on_bench,
    frame_from,
    frame_to,
    unsummed,
)
from vmwire.bench import e1000_spec as spec
from vmwire.bench import e1000e_spec as spec_82574
from vmwire.bench.e1000 import Context, DriverError, E1000Registers
from vmwire.bench.pci import PciDevice

# --- finding it, reset values

BARS = {
    **{name: {0: (False, 0x20000), 1: (True, 64)} for name in FAMILY},
    "e1000e": {0: (False, 0x20000), 1: (False, 0x20000), 2: (True, 32), 3: (False, 0x4000)},
}
PHY_IDS = {**dict.fromkeys(FAMILY, 0x0C20), "e1000e": 0x0CB0}
LOOPBACK = {**dict.fromkeys(FAMILY, spec.RCTL_LOOPBACK), "e1000e": spec_82574.RCTL_LOOPBACK}


def test_the_card_is_found_by_its_ids(card: Card) -> None:
    device = PciDevice(card.pc, 4)
    assert device.ids == (0x8086, DEVICE_IDS[card.model])
    assert device.config_read(8) >> 8 == 0x020000
    bars = device.enable()
    assert {index: (bar.is_io, bar.size) for index, bar in bars.items()} == BARS[card.model]


@ONLY_8254X
def test_registers_hold_their_reset_values(card: Card) -> None:
    card.pc.reset(card.nic)  # with the cable in, as at power-on
    driver = E1000Registers(card.pc, 4)
    found = {offset: driver.read(offset) for offset in (
        spec.CTRL, spec.STATUS, spec.VET, spec.LEDCTL, spec.PBA, spec.RAL, spec.RAH, spec.MANC,
        spec.RCTL, spec.TCTL, spec.RDT, spec.TDT, spec.IMS, spec.ITR,
    )}  # fmt: skip
    assert found == {
        spec.CTRL: 0x0014_0240, spec.STATUS: 0x8008_0783, spec.VET: 0x8100, spec.LEDCTL: 0x602,
        spec.PBA: 0x0010_0030, spec.RAL: 0x1200_5452, spec.RAH: 0x8000_5634,
        spec.MANC: 0x0022_2300, spec.RCTL: 0, spec.TCTL: 0, spec.RDT: 0, spec.TDT: 0, spec.IMS: 0,
        spec.ITR: 0,
    }  # fmt: skip


def test_the_whole_window_reads_without_harm(card: Card) -> None:
    for offset in range(0, 0x20000, 4):
        assert 0 <= card.driver.read(offset) < 1 << 32


def test_registers_are_reached_through_ports_too(card: Card) -> None:
    driver = card.driver
    driver.port_write(spec.RDBAL, 0x1234_5670)
    assert driver.read(spec.RDBAL) == driver.port_read(spec.RDBAL) == 0x1234_5670
    assert card.pc.inl(driver.ports) == spec.RDBAL
    driver.port_write(0x4_0000, 1)
    driver.port_read(0x4_0000)


def test_a_software_reset_forgets_rings_and_filters_but_not_the_address(
    card: Card, driver: Driver
) -> None:
    driver.write(spec.VFTA, 1)
    driver.write(spec.MTA, 1)
    driver.set_address(0, bytes.fromhex("0a0b0c0d0e0f"))
    driver.reset()
    for register in (spec.RCTL, spec.TCTL, spec.RDT, spec.TDH, spec.TDT, spec.IMS):
        assert driver.read(register) == 0
    assert driver.read(spec.RAL) == 0x1200_5452
    card.nic.wire.send(frame_to(MAC))
    assert card.pc.read(driver.rx_ring + 12, 1) == b"\0"


def test_a_bus_reset_is_as_power_on(card: Card, driver: Driver) -> None:
    driver.phy_write(spec.PHY_ADVERTISE, 0x0001)
    card.pc.reset(card.nic)
    again = E1000Registers(card.pc, 4)
    assert again.read(spec.STATUS) & 0xC3 == 0x83
    assert again.phy_read(spec.PHY_ADVERTISE) == 0x0DE1


@pytest.mark.parametrize("model", FAMILY)
def test_properties_of_the_registers_are_in_force(model: str) -> None:
    with card_on_bench(model, extra_mac_registers=False, init_vet=False) as card:
        card.driver.reset()
        assert card.driver.read(spec.VET) == 0
        assert card.driver.read(spec.MANC) == 0
        card.driver.write(spec.MANC, 1)
        assert card.driver.read(spec.MANC) == 0


# --- EEPROM


@ONLY_8254X
def test_both_ways_into_the_eeprom_read_the_same_words(card: Card) -> None:
    driver = card.driver
    words = [driver.eeprom_read(word) for word in range(64)]
    assert [driver.eeprom_read_serially(word) for word in range(64)] == words
    assert b"".join(word.to_bytes(2, "little") for word in words[:3]) == MAC
    assert sum(words) & 0xFFFF == 0xBABA
    assert words[11] == words[13] == DEVICE_IDS[card.model]


@ONLY_8254X
def test_a_written_word_is_read_back_and_survives_resets(card: Card) -> None:
    driver = card.driver
    driver.eeprom_write_serially(0x30, 0xA55A)
    assert driver.eeprom_read(0x30) == driver.eeprom_read_serially(0x30) == 0xA55A
    driver.reset()
    assert driver.eeprom_read(0x30) == 0xA55A
    card.pc.reset(card.nic)
    assert E1000Registers(card.pc, 4).eeprom_read(0x30) == 0xA55A


@ONLY_8254X
def test_a_new_address_in_the_eeprom_holds_after_a_reset(card: Card) -> None:
    driver = card.driver
    driver.eeprom_write_serially(0, 0x0B0A)
    driver.reset()
    assert driver.read(spec.RAL) & 0xFFFF == 0x0B0A


# --- PHY and link


def test_the_phy_says_who_it_is(card: Card, driver: Driver) -> None:
    assert driver.phy_read(spec.PHY_ID1) == 0x0141
    assert driver.phy_read(spec.PHY_ID2) & ~0x1F == PHY_IDS[card.model] & ~0x1F
    assert driver.phy_read(spec.PHY_STATUS) & spec.PHY_STATUS_LINK


def test_nobody_answers_at_another_phy_address(card: Card) -> None:
    with pytest.raises(DriverError, match="no PHY"):
        card.driver.phy_read(spec.PHY_ID1, phy=2)


def test_mdic_can_interrupt_when_it_is_done(card: Card) -> None:
    driver = card.driver
    driver.write(spec.IMS, spec.ICR_MDAC)
    driver.write(spec.MDIC, spec.MDIC_READ | 1 << 21 | 2 << 16 | spec.MDIC_INTERRUPT)
    driver.wait(spec.MDIC, spec.MDIC_READY)
    assert card.nic.irq_level
    assert driver.read(spec.ICR) & spec.ICR_MDAC


def test_phy_registers_that_are_read_only_stay(card: Card) -> None:
    driver = card.driver
    for register in (spec.PHY_STATUS, spec.PHY_ID1, spec.PHY_ID2, spec.PHY_PARTNER):
        before = driver.phy_read(register)
        driver.phy_write(register, ~before & 0xFFFF)
        assert driver.phy_read(register) == before


def test_a_restarted_negotiation_takes_time_and_comes_back(card: Card, driver: Driver) -> None:
    driver.write(spec.IMS, spec.ICR_LSC)
    control = driver.phy_read(spec.PHY_CONTROL)
    driver.phy_write(spec.PHY_CONTROL, control | spec.PHY_CONTROL_RESTART)
    assert not driver.phy_read(spec.PHY_STATUS) & spec.PHY_STATUS_AUTONEG_DONE
    assert not driver.phy_read(spec.PHY_CONTROL) & spec.PHY_CONTROL_RESTART
    driver.read(spec.ICR)
    driver.wait(spec.STATUS, spec.STATUS_LU)
    assert driver.phy_read(spec.PHY_STATUS) & spec.PHY_STATUS_AUTONEG_DONE
    assert card.nic.irq_level
    assert driver.read(spec.ICR) & spec.ICR_LSC


def test_a_pulled_cable_shows_everywhere_and_comes_back(card: Card, driver: Driver) -> None:
    driver.write(spec.IMS, spec.ICR_LSC)
    card.nic.wire.set_link(False)
    assert card.nic.irq_level
    assert driver.read(spec.ICR) & spec.ICR_LSC
    assert not driver.read(spec.STATUS) & spec.STATUS_LU
    driver.phy_read(spec.PHY_STATUS)
    assert not driver.phy_read(spec.PHY_STATUS) & spec.PHY_STATUS_LINK
    card.nic.wire.set_link(True)
    driver.wait(spec.STATUS, spec.STATUS_LU)
    assert card.nic.irq_level
    assert driver.read(spec.ICR) & spec.ICR_LSC


def test_the_cable_can_be_pulled_at_the_card_too(card: Card, driver: Driver) -> None:
    card.nic.function.set_link(False)
    assert not driver.read(spec.STATUS) & spec.STATUS_LU
    card.nic.function.set_link(True)
    driver.wait(spec.STATUS, spec.STATUS_LU)


@pytest.mark.parametrize(("advertise", "gigabit", "speed", "full"), [
    (0x0DE1, 0x0E00, 2, True),
    (0x0DE1, 0x0000, 1, True),
    (0x0C61, 0x0000, 0, True),
    (0x0CA1, 0x0000, 1, False),
])  # fmt: skip
def test_what_is_advertised_decides_the_speed(
    card: Card, driver: Driver, advertise: int, gigabit: int, speed: int, full: bool
) -> None:
    driver.phy_write(spec.PHY_ADVERTISE, advertise)
    driver.phy_write(spec.PHY_1000T_CONTROL, gigabit)
    driver.phy_write(spec.PHY_CONTROL, spec.PHY_CONTROL_AUTONEG | spec.PHY_CONTROL_RESTART)
    status = driver.wait(spec.STATUS, spec.STATUS_LU)
    assert min(status >> 6 & 3, 2) == speed
    assert bool(status & spec.STATUS_FD) is full


def test_a_phy_that_sleeps_has_no_link(card: Card, driver: Driver) -> None:
    control = driver.phy_read(spec.PHY_CONTROL)
    driver.phy_write(spec.PHY_CONTROL, control | spec.PHY_CONTROL_POWER_DOWN)
    assert not driver.read(spec.STATUS) & spec.STATUS_LU
    driver.send(frame_from())
    assert card.take() == []
    driver.phy_write(spec.PHY_CONTROL, control)
    driver.wait(spec.STATUS, spec.STATUS_LU)
    driver.send(frame_from(seed=1))
    assert card.take() == [frame_from(seed=1)]


@pytest.mark.parametrize("model", FAMILY)
def test_without_negotiation_the_link_is_there_at_once(model: str) -> None:
    with card_on_bench(model, autonegotiation=False) as card:
        driver = card.start()
        card.nic.wire.set_link(False)
        card.nic.wire.set_link(True)
        assert driver.read(spec.STATUS) & spec.STATUS_LU


# --- interrupts


def test_causes_gather_and_reading_clears_them(card: Card, driver: Driver) -> None:
    driver.read(spec.ICR)
    driver.write(spec.ICS, spec.ICR_RXT0 | spec.ICR_LSC)
    driver.write(spec.ICS, spec.ICR_TXDW)
    assert driver.read(spec.ICR) == spec.ICR_RXT0 | spec.ICR_LSC | spec.ICR_TXDW
    assert driver.read(spec.ICR) == 0


def test_writing_a_one_clears_a_cause(card: Card, driver: Driver) -> None:
    driver.read(spec.ICR)
    driver.write(spec.ICS, spec.ICR_RXT0 | spec.ICR_LSC)
    driver.write(spec.ICR, spec.ICR_LSC)
    assert driver.read(spec.ICR) == spec.ICR_RXT0


def test_the_line_is_up_while_a_cause_is_unmasked(card: Card, driver: Driver) -> None:
    line = card.nic.irq
    driver.write(spec.ICS, spec.ICR_LSC)
    assert not line.level
    driver.write(spec.IMS, spec.ICR_LSC | spec.ICR_RXT0)
    assert line.level
    driver.write(spec.IMC, spec.ICR_LSC)
    assert not line.level
    assert driver.read(spec.IMS) == spec.ICR_RXT0
    driver.write(spec.IMS, spec.ICR_LSC)
    assert line.level
    driver.read(spec.ICR)
    assert not line.level
    assert line.edges == 2


def test_intx_disable_and_status_follow_the_bus(card: Card, driver: Driver) -> None:
    driver.write(spec.IMS, spec.ICR_LSC)
    driver.write(spec.ICS, spec.ICR_LSC)
    assert driver.pci.config_read(6, 2) & 8
    driver.pci.config_write(4, 0x407, 2)
    assert not card.nic.irq_level
    assert driver.pci.config_read(6, 2) & 8
    driver.pci.config_write(4, 0x007, 2)
    assert card.nic.irq_level


def test_the_throttle_keeps_interrupts_apart(card: Card, driver: Driver) -> None:
    """ITR, in units of 256 ns: at least so long from one interrupt to the next."""
    driver.write(spec.ITR, 1000)
    driver.write(spec.IMS, spec.ICR_RXT0)
    for _ in range(10):
        card.nic.wire.send(frame_to(MAC))
        if card.nic.irq_level:
            driver.read(spec.ICR)
        card.pc.clock_step(32_000)
    assert 1 <= card.nic.irq.edges <= 3
    card.pc.clock_step(256_000)
    assert card.nic.irq_level


def test_mitigation_off_interrupts_at_once() -> None:
    with card_on_bench("e1000", mitigation=False) as card:
        driver = card.start()
        driver.write(spec.ITR, 60_000)
        driver.write(spec.RDTR, 60_000)
        driver.write(spec.IMS, spec.ICR_RXT0)
        for _ in range(3):
            card.nic.wire.send(frame_to(MAC))
            assert card.nic.irq_level
            driver.read(spec.ICR)
        assert card.nic.irq.edges == 3


# --- loopback


@pytest.mark.parametrize("way", ["mac", "phy"])
def test_what_is_sent_in_loopback_comes_back_and_does_not_leave(card: Card, way: str) -> None:
    bits = spec.RCTL_UPE | spec.RCTL_SECRC
    driver = card.start(receive=bits | (LOOPBACK[card.model] if way == "mac" else 0))
    if way == "phy":
        driver.phy_write(spec.PHY_CONTROL, spec.PHY_CONTROL_LOOPBACK | 0x0140)
        card.pc.clock_step(5_000_000_000)
    frames = [frame_from(length) for length in (20, 60, 1024, 1514)]
    for frame in frames:
        driver.send(frame)
    assert [one.data for one in driver.receive()] == [one.ljust(60, b"\0") for one in frames]
    card.nic.wire.send(frame_to(MAC))
    assert driver.receive() == []
    assert card.take() == []


def test_offloads_are_done_in_loopback_too(card: Card) -> None:
    driver = card.start(receive=spec.RCTL_UPE | spec.RCTL_SECRC | LOOPBACK[card.model])
    driver.write(spec.RXCSUM, spec.RXCSUM_IP | spec.RXCSUM_TCP_UDP)
    frame, start, offset = unsummed(4, 6, b"round and round" * 10)
    context = Context(ip_start=14, ip_offset=24, ip_end=33, start=start, offset=offset)
    driver.send_extended(frame, context, options=spec.POPTS_IXSM | spec.POPTS_TXSM)
    (got,) = driver.receive()
    assert got.status & (spec.RX_IPCS | spec.RX_TCPCS) == spec.RX_IPCS | spec.RX_TCPCS
    assert got.errors == 0


# --- statistics


def test_sent_frames_are_counted_by_kind_and_size(card: Card, driver: Driver) -> None:
    driver.statistics()
    for length, to in ((60, PEER), (61, BROADCAST), (200, GROUP), (1514, PEER)):
        driver.send(frame_from(length, to))
    assert driver.statistics() == {
        "GPTC": 4, "TPT": 4, "PTC64": 1, "PTC127": 1, "PTC255": 1, "PTC1522": 1, "BPTC": 1,
        "MPTC": 1, "GOTC": 60 + 61 + 200 + 1514 + 16, "TOT": 60 + 61 + 200 + 1514 + 16,
    }  # fmt: skip
    assert driver.statistics() == {}


def test_received_frames_are_counted_by_kind_and_size(card: Card, driver: Driver) -> None:
    driver.start_receive(spec.RCTL_BAM | spec.RCTL_MPE)
    driver.statistics()
    for length, to in ((60, MAC), (123, BROADCAST), (124, GROUP), (1514, MAC), (508, MAC)):
        card.nic.wire.send(frame_to(to, length))
    octets = 60 + 123 + 124 + 1514 + 508 + 5 * 4
    assert driver.statistics() == {
        "GPRC": 5, "TPR": 5, "PRC64": 1, "PRC127": 1, "PRC255": 1, "PRC1023": 1, "PRC1522": 1,
        "BPRC": 1, "MPRC": 1, "GORC": octets, "TOR": octets,
    }  # fmt: skip


def test_filtered_frames_are_in_the_totals_only(card: Card, driver: Driver) -> None:
    driver.statistics()
    card.nic.wire.send(frame_to(PEER, 100))
    assert driver.statistics() == {"TPR": 1, "TOR": 104}


def test_segments_are_counted_each(card: Card, driver: Driver) -> None:
    from tests.nic.e1000.test_on_bench_transmit import OPTIONS, tso

    card.nic.wire.accept_superframes()
    driver.statistics()
    frame, context = tso(4, 3000, 1400)
    driver.send_extended(frame, context, options=OPTIONS[4])
    found = driver.statistics()
    assert found["GPTC"] == 3
    assert found["GOTC"] == 3 * (54 + 4) + 3000
    assert found["TSCTC"] == 1


# --- saved and restored


def test_a_restored_card_goes_on_where_it_was(card: Card, driver: Driver) -> None:
    driver.write(spec.IMS, spec.ICR_RXT0)
    half = frame_from(200)
    address = driver.tx_buffer(half)
    driver.put(spec.TX_LEGACY.pack(address, 50, 0, spec.TX_RS, 0, 0, 0))
    driver.kick()
    card.nic.wire.send(frame_to(MAC))
    state = card.nic.function.save()
    registers = {at: driver.read(at) for at in range(0x2800, 0x3840, 4)}
    card.pc.reset(card.nic)
    assert not card.nic.irq_level
    card.nic.function.restore(state)
    card.nic.function.set_link(True)
    driver.pci.config_write(4, 7, 2)
    assert {at: driver.read(at) for at in range(0x2800, 0x3840, 4)} == registers
    assert card.nic.irq_level
    driver.put(spec.TX_LEGACY.pack(address + 50, 150, 0, spec.TX_EOP | spec.TX_RS, 0, 0, 0))
    driver.kick()
    assert card.take() == [half]
    assert len(driver.receive()) == 1


# --- power


def test_without_bus_mastering_nothing_is_moved(card: Card, driver: Driver) -> None:
    driver.pci.config_write(4, 3, 2)
    driver.send(frame_from())
    card.nic.wire.send(frame_to(MAC))
    assert card.take() == []
    assert driver.receive() == []
    driver.pci.config_write(4, 7, 2)
    driver.send(frame_from(seed=1))
    assert card.take()[-1] == frame_from(seed=1)
