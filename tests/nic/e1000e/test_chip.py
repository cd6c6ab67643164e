# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The chip by itself: its windows, what it sends and receives, its states."""

from __future__ import annotations

import pytest

from tests.nic.e1000.rig import DATA, EOP, IFCS, MAC, RS, TSE, TX_DATA, frame
from tests.nic.e1000e.rig import Rig
from vmwire.nic.e1000e.registers import RXQ, TXQ
from vmwire.nic.e1000e.registers import Registers as R
from vmwire.wire.port import EVERYTHING

LSC = 1 << 2
RXT0 = 1 << 7
OTHER = 1 << 24
ASSERTED = 1 << 31
IAME, EIAME, PBA_CLR = 1 << 27, 1 << 24, 1 << 31
VECTORS = 0x000CBA98 | 1 << 31


def with_messages(rig: Rig) -> Rig:
    """Each cause has the vector of its number."""
    rig.pin.msix_enabled = True
    rig.write(R.IVAR, VECTORS)
    return rig


# --- windows


def test_aliases_are_the_registers_themselves() -> None:
    rig = Rig()
    rig.write(0x0110, 0x12345670)
    assert rig.read(R.RDBAL) == 0x12345670
    rig.write(R.VFTA.offset + 4, 7)
    assert rig.read(0x0604) == 7


def test_io_window_reaches_registers_and_their_aliases() -> None:
    rig = Rig()
    rig.chip.store(2, 0, 4, R.RAH.offset)
    assert rig.chip.load(2, 4, 4) == 0x80005634
    rig.chip.store(2, 0, 4, 0x0040)
    assert rig.chip.load(2, 4, 4) == 0x12005452
    rig.chip.store(2, 0, 4, 0xFFFFFFFC)
    rig.chip.store(2, 4, 4, 1)
    assert rig.chip.load(2, 4, 4) == 0


def test_flash_and_the_rest_of_the_message_window_read_as_zero() -> None:
    rig = Rig()
    for region in (1, 3):
        rig.chip.store(region, 0x100, 4, 1)
        assert rig.chip.load(region, 0x100, 4) == 0


def test_parts_of_registers_are_seen() -> None:
    rig = Rig()
    assert rig.chip.load(0, R.RAL.offset + 1, 1) == 0x54
    assert rig.chip.load(0, R.RAL.offset + 2, 2) == 0x1200


# --- NVM, semaphore


def test_written_words_stay_over_resets_and_give_the_address() -> None:
    rig = Rig()
    rig.write(R.EEWR, 0xBBAA << 16 | 1)
    assert rig.read(R.EEWR) == 2
    assert rig.nvm(0) == 0xBBAA
    rig.chip.reset()
    assert rig.nvm(0) == 0xBBAA
    assert rig.read(R.RAL) & 0xFFFF == 0xBBAA


def test_words_that_are_not_there_read_as_zero_and_are_not_written() -> None:
    rig = Rig()
    rig.write(R.EEWR, 0x1234 << 16 | 64 << 2 | 1)
    assert rig.nvm(64) == rig.nvm(0x3FFF) == 0
    assert len(rig.chip.save()["nvm"]) == 64


def test_without_start_nothing_is_read_or_written() -> None:
    rig = Rig()
    rig.write(R.EEWR, 0xDEAD << 16)
    rig.write(R.EERD, 5 << 2)
    assert rig.read(R.EERD) >> 16 == 0
    assert rig.nvm(0) == 0x5452


def test_who_asks_for_the_bus_is_granted_it() -> None:
    rig = Rig()
    rig.write(R.EECD, 1 << 6)
    assert rig.read(R.EECD) & 1 << 7
    rig.write(R.EECD, 0)
    assert not rig.read(R.EECD) & 1 << 7


# --- interrupts


def test_reading_clears_nothing_while_something_is_unmasked_and_nothing_asserted() -> None:
    rig = Rig()
    rig.write(R.IMS, LSC)
    rig.write(R.ICS, RXT0)
    assert rig.read(R.ICR) == rig.read(R.ICR) == RXT0
    rig.write(R.IMC, LSC)
    assert rig.read(R.ICR) == RXT0
    assert rig.read(R.ICR) == 0


def test_reading_an_asserted_cause_lowers_the_pin_and_masks_by_iam() -> None:
    rig = Rig()
    rig.write(R.CTRL_EXT, IAME)
    rig.write(R.IAM, LSC)
    rig.write(R.IMS, LSC | RXT0)
    rig.write(R.ICS, LSC)
    assert rig.pin.up
    assert rig.read(R.ICR) == ASSERTED | LSC
    assert not rig.pin.up
    assert rig.read(R.IMS) == RXT0


@pytest.mark.parametrize(("number", "cause"), list(enumerate((*RXQ, *TXQ, OTHER))))
def test_each_cause_sends_its_vector_once(number: int, cause: int) -> None:
    rig = with_messages(Rig())
    rig.write(R.IMS, cause)
    rig.write(R.ICS, cause)
    rig.write(R.ICS, cause)
    assert rig.pin.sent == [number]
    rig.write(R.ICR, cause)
    rig.write(R.ICS, cause)
    assert rig.pin.sent == [number, number]


def test_auto_clear_and_auto_mask() -> None:
    rig = with_messages(Rig())
    rig.write(R.EIAC, RXQ[0])
    rig.write(R.IAM, RXQ[0])
    rig.write(R.CTRL_EXT, EIAME)
    rig.write(R.IMS, RXQ[0] | TXQ[0])
    rig.write(R.ICS, RXQ[0])
    assert rig.pin.sent == [0]
    assert rig.read(R.ICS) == 0
    assert rig.read(R.IMS) == TXQ[0]
    rig.write(R.ICS, RXQ[0])
    assert rig.pin.sent == [0]
    rig.write(R.IMS, RXQ[0])
    assert rig.pin.sent == [0, 0]


@pytest.mark.parametrize("entry", [0x0, 0x7, 0xD, 0xF])
def test_causes_without_a_vector_that_is_there_send_none(entry: int) -> None:
    rig = with_messages(Rig())
    rig.write(R.IVAR, entry)
    rig.write(R.IMS, RXQ[0])
    rig.write(R.ICS, RXQ[0])
    assert rig.pin.sent == []


def test_messages_of_a_vector_keep_their_distance() -> None:
    rig = with_messages(Rig())
    rig.write(R.EITR, 1000)  # 256 us
    rig.write(R.EIAC, RXQ[0] | TXQ[0])
    rig.write(R.IMS, RXQ[0] | TXQ[0])
    for _ in range(5):
        rig.write(R.ICS, RXQ[0])
    rig.write(R.ICS, TXQ[0])
    assert rig.pin.sent == [0, 2]
    rig.timers.advance(255e-6)
    assert rig.pin.sent == [0, 2]
    rig.timers.advance(2e-6)
    assert rig.pin.sent == [0, 2, 0]
    rig.timers.advance(1)
    assert rig.pin.sent == [0, 2, 0]


def test_no_message_leaves_a_card_that_is_off_the_bus() -> None:
    rig = with_messages(Rig())
    rig.write(R.IMS, RXQ[0])
    rig.write(R.CTRL, rig.read(R.CTRL) | 1 << 2)
    assert not rig.read(R.STATUS) & 1 << 19
    rig.write(R.ICS, RXQ[0])
    assert rig.pin.sent == []
    rig.write(R.CTRL, rig.read(R.CTRL) & ~(1 << 2))
    assert rig.pin.sent == [0]


def test_what_is_pending_in_the_table_can_be_dropped() -> None:
    rig = with_messages(Rig())
    rig.write(R.PBACLR, 0xFFFFFFFF)
    assert rig.pin.forgotten == 0x1F
    rig.pin.forgotten = 0
    rig.write(R.IMS, TXQ[0])
    assert rig.pin.forgotten == 0
    rig.write(R.CTRL_EXT, PBA_CLR)
    rig.write(R.IMS, TXQ[0])
    assert rig.pin.forgotten == 1 << 2


def test_a_burst_interrupts_once_each_way() -> None:
    rig = with_messages(Rig().start())
    rig.write(R.EIAC, 0x01F00000)
    rig.write(R.IMS, 0x01F00000)
    rig.receive(*[frame()] * 10)
    assert rig.pin.sent == [0]
    for _ in range(10):
        rig.describe(0x120000, 60 | EOP | RS)
    rig.kick()
    assert rig.pin.sent == [0, 2]


# --- transmit


def test_a_queue_that_is_not_enabled_sends_when_it_is() -> None:
    rig = Rig().start()
    rig.write(R.TARC0, 0)
    rig.send(frame())
    assert rig.wire.got == []
    rig.write(R.TARC0, 1 << 10)
    assert len(rig.wire.got) == 1


def superframe(rig: Rig) -> None:
    rig.context(mss=100, header=54, command=3)
    head = b"\2" * 12 + b"\x08\x00\x45" + bytes(8) + b"\x06" + bytes(10) + bytes(12) + b"\x50"
    rig.put(0x120000, head.ljust(54, b"\0") + bytes(1000))
    rig.describe(0x120000, 1054 | DATA | TSE | EOP | RS, 3 << 8)
    rig.kick()


def test_superframes_stay_whole_unless_the_wire_is_to_see_none() -> None:
    rig = Rig(accepts=EVERYTHING).start()
    superframe(rig)
    assert [each.length for each in rig.wire.got] == [1054]
    rig = Rig(accepts=EVERYTHING, offloads=False).start()
    superframe(rig)
    assert [each.length for each in rig.wire.got] == [154] * 10
    assert not rig.chip.port.accepts.checksum


# --- state


def test_a_state_is_taken_on_whole() -> None:
    rig = Rig().start()
    for register, value in (
        (R.MRQC, 0x00370001), (R.EIAC, 0x01F00000), (R.RSSRK, 0x12345678), (R.PSRCTL, 0x402),
        (R.EEWR, 0xABCD << 16 | 7 << 2 | 1), (R.MDIC, 1 << 26 | 1 << 21 | 22 << 16 | 769),
        (R.MDIC, 1 << 26 | 1 << 21 | 16 << 16 | 0x1234),
    ):  # fmt: skip
        rig.write(register, value)
    rig.context(mss=1000, header=54, command=7)
    rig.describe(0x120000, 30 | DATA)
    rig.kick()
    state = rig.chip.save()
    other = Rig()
    other.chip.restore(state)
    assert other.chip.save() == state
    assert other.phy(16) == 0x1234


def test_place_counts_for_more_than_the_state() -> None:
    rig = Rig().start()
    state = rig.chip.save()
    rig.receive(frame())
    other = Rig()
    other.chip.restore(state | {"place": rig.chip.save_place()})
    assert other.read(R.RDH) == 1
    assert len(rig.chip.save_place()) <= 240


def test_a_card_that_is_taken_over_sends_what_waits_when_the_loop_turns() -> None:
    rig, other = Rig().start(), Rig()
    rig.chip.words[R.TCTL.index] &= ~2  # the driver kicks, and what it kicks is dead
    rig.put(TX_DATA, frame(100))
    rig.describe(TX_DATA, 100 | DATA | EOP | IFCS | RS)
    rig.kick()
    rig.chip.words[R.TCTL.index] |= 2
    other.buffer[:] = rig.buffer
    other.chip.restore(rig.chip.save())
    assert (other.wire.data, other.buffer) == ([], rig.buffer)
    other.turn()
    assert other.wire.data == [frame(100)]


def test_a_restored_card_sends_again_what_may_have_been_lost() -> None:
    rig = with_messages(Rig())
    rig.write(R.IMS, RXQ[0])
    rig.write(R.ICS, RXQ[0])
    other = Rig()
    other.pin.msix_enabled = True
    other.chip.restore(rig.chip.save())
    assert other.pin.sent == [0]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("version", 99), ("model", "e1000"), ("registers", b"short"), ("nvm", [0] * 63),
        ("nvm", None), ("phy", {}), ("transmit", {}), ("transmit 1", None), ("interrupts", {}),
        ("interrupts", {"delayed": []}), ("sync", {}), ("place", b"short"), ("io_address", "x"),
    ],
)  # fmt: skip
def test_what_is_no_state_is_refused(key: str, value: object) -> None:
    rig = Rig()
    with pytest.raises(ValueError, match=r"."):
        rig.chip.restore(rig.chip.save() | {key: value})


@pytest.mark.parametrize("pages", [[[5, 0]], [[4 << 16, 1]], [["x", 1]]])
def test_pages_that_the_phy_does_not_have_are_refused(pages: object) -> None:
    rig = Rig()
    state = rig.chip.save()
    state["phy"]["pages"] = pages
    with pytest.raises(ValueError, match=r"."):
        rig.chip.restore(state)


def test_pages_of_the_phy_are_few_whatever_is_written() -> None:
    rig = Rig()
    for page in range(0, 65536, 97):
        rig.write(R.MDIC, 1 << 26 | 1 << 21 | 22 << 16 | page)
        rig.write(R.MDIC, 1 << 26 | 1 << 21 | 20 << 16 | 0xFFFF)
    assert len(rig.chip.save()["phy"]["pages"]) <= 11


def test_with_init_vet_off_vet_is_zero() -> None:
    assert Rig(init_vet=False).read(R.VET) == 0


def test_address_of_the_card_is_what_it_was_made_with() -> None:
    assert Rig().chip.stats()["link"]
    assert MAC[:4] == Rig().read(R.RAL).to_bytes(4, "little")
