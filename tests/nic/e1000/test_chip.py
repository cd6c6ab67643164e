# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What only shows from inside: the ring when the wire refuses, moves in the middle of a packet,
memory that isn't shared, and the properties."""

from __future__ import annotations

import struct

import pytest

from tests.nic.e1000.rig import (
    BAM,
    BROADCAST,
    DATA,
    EN,
    EOP,
    IFCS,
    IXSM,
    MAC,
    PEER,
    RS,
    RX_DATA,
    RX_RING,
    SECRC,
    TSE,
    TX_DATA,
    TX_RING,
    TXSM,
    R,
    Rig,
    frame,
)
from vmwire.bus.pci.chip import Slot
from vmwire.engine.memory import AddressFault, GuestMemory, Region
from vmwire.nic.e1000 import DESCRIPTIONS, MODELS, factory
from vmwire.nic.e1000.transmit import BUDGET
from vmwire.nic.pci_options import E1000Em82545Options, E1000Options
from vmwire.wire.frame import GSO_TCPV4, Frame
from vmwire.wire.port import EVERYTHING

TCP = 0x01
IPV4 = 0x02


def tcp(payload: bytes) -> bytes:
    ip = struct.pack("!BBHHHBBH8s", 0x45, 0, 0, 7, 0, 64, 6, 0, bytes(range(8)))
    header = struct.pack("!HHIIBBHHH", 1, 2, 3, 4, 0x50, 0x18, 1000, 0x1234, 0)
    return PEER + MAC + b"\x08\0" + ip + header + payload


def drain(rig: Rig) -> None:
    for _ in range(200):
        rig.turn()


def test_refused_frames_are_taken_up_where_they_were_with_their_context() -> None:
    rig = Rig(accepts=EVERYTHING).start()
    rig.wire.room = 1
    for mss in (400, 500, 600):
        at = TX_DATA + 0x4000 * (rig.tx_tail % 8)
        rig.context(mss=mss, header=54, command=TCP | IPV4)
        rig.put(at, tcp(bytes(2000)))
        rig.describe(at, 2054 | DATA | TSE | EOP | RS, IXSM | TXSM)
    rig.kick()
    assert (rig.read(R.TDH), [rig.is_done(place) for place in (1, 3, 5)]) == (
        2,
        [True, False, False],
    )
    rig.wire.make_room()
    assert rig.read(R.TDH) == rig.read(R.TDT) == 6
    assert [it.offload.segment_size for it in rig.wire.got] == [400, 500, 600]
    assert {it.offload.gso_type for it in rig.wire.got} == {GSO_TCPV4}


def test_an_unfinished_packet_is_not_sent_twice_when_the_wire_refuses() -> None:
    rig = Rig().start()
    rig.wire.room = 0
    rig.put(TX_DATA, frame(100))
    rig.describe(TX_DATA, 40 | DATA | IFCS)
    rig.kick()
    assert rig.read(R.TDH) == 1
    rig.describe(TX_DATA + 40, 60 | DATA | EOP | IFCS | RS)
    for _ in range(3):
        rig.kick()
    assert rig.read(R.TDH) == 1
    rig.wire.make_room()
    assert (rig.wire.data, rig.read(R.TDH)) == ([frame(100)], 2)


def test_the_beginning_of_a_packet_is_read_before_its_descriptor_is_reported_done() -> None:
    rig = Rig().start()
    rig.put(TX_DATA, frame(100))
    place = rig.describe(TX_DATA, 40 | DATA | IFCS | RS)
    rig.kick()
    assert rig.is_done(place)
    rig.put(TX_DATA, bytes(40))
    rig.describe(TX_DATA + 40, 60 | DATA | EOP | IFCS)
    rig.kick()
    assert rig.wire.data == [frame(100)]


def test_one_run_has_a_budget_and_the_rest_comes_in_the_next_turns() -> None:
    rig = Rig()
    rig.start_tx(4096)
    rig.write(R.TDBAL, TX_DATA)
    rig.put(TX_DATA + 16 * 4096, frame(60))
    one = struct.pack("<QII", TX_DATA + 16 * 4096, 60 | EOP | IFCS, 0)
    rig.put(TX_DATA, one * 2000)
    rig.write(R.TDT, 2000)
    assert len(rig.wire.got) == BUDGET == rig.read(R.TDH)
    drain(rig)
    assert (len(rig.wire.got), rig.read(R.TDH)) == (2000, 2000)


def test_one_burst_makes_one_interrupt() -> None:
    rig = Rig().start()
    rig.write(R.IMS, 0xFFFFFFFF)
    rig.read(R.ICR)
    before = rig.pin.rises
    assert rig.receive(*[frame(60 + index) for index in range(6)]) == 6
    assert rig.pin.rises == before + 1


def test_refused_frames_come_when_the_driver_gives_buffers() -> None:
    rig = Rig().start(count=8)
    sent = [frame(60 + index) for index in range(10)]
    assert rig.receive(*sent) == 7
    assert (rig.read(R.RNBC), rig.read(R.MPC), rig.read(R.ICR) & 0x40) == (1, 0, 0)
    rig.wire.heard.clear()
    assert rig.received() == sent[:7]
    assert rig.wire.heard == ["resume"]
    rig.receive(*sent[7:])
    assert rig.received() == sent[7:]


@pytest.mark.parametrize("model", list(MODELS))
def test_a_card_moves_in_the_middle_of_a_packet(model: str) -> None:
    rig, other = Rig(model).start(), Rig(model)
    rig.put(TX_DATA, frame(100))
    rig.describe(TX_DATA, 40 | DATA | IFCS | RS)
    rig.kick()
    other.buffer[:] = rig.buffer
    other.chip.restore(rig.chip.save())
    assert other.chip.dump() == rig.chip.dump()
    other.tx_count, other.tx_tail, other.rx_count = rig.tx_count, rig.tx_tail, rig.rx_count
    other.describe(TX_DATA + 40, 60 | DATA | EOP | IFCS)
    other.kick()
    assert other.wire.data == [frame(100)]
    other.receive(frame(80))
    assert other.received() == [frame(80)]


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


def test_states_of_others_are_refused() -> None:
    rig = Rig()
    state = rig.chip.save()
    with pytest.raises(ValueError, match="82544GC"):
        Rig("e1000-82544gc").chip.restore(state)
    for key in state:
        with pytest.raises(ValueError):
            rig.chip.restore({**state, key: None})
        with pytest.raises(ValueError):
            rig.chip.restore({name: value for name, value in state.items() if name != key})


class Far:
    """Memory that is reached by asking."""

    def __init__(self, base: int, buffer: bytearray) -> None:
        self.base, self.buffer = base, buffer

    def read(self, address: int, length: int) -> bytes:
        if not self.base <= address <= self.base + len(self.buffer) - length:
            raise AddressFault("nothing there")
        at = address - self.base
        return bytes(self.buffer[at : at + length])

    def write(self, address: int, data: bytes) -> None:
        if not self.base <= address <= self.base + len(self.buffer) - len(data):
            raise AddressFault("nothing there")
        at = address - self.base
        self.buffer[at : at + len(data)] = data


def test_rings_and_buffers_may_lie_in_memory_that_is_not_shared() -> None:
    rig = Rig()
    rig.dma.memory = GuestMemory()
    rig.dma.remote = Far(0x100000, rig.buffer)
    rig.start()
    place = rig.send(frame(100))
    assert (rig.wire.data, rig.is_done(place)) == ([frame(100)], True)
    rig.receive(frame(3000)[:1400], frame(70))
    assert rig.received() == [frame(3000)[:1400], frame(70)]


def test_rings_may_lie_across_two_regions() -> None:
    rig = Rig()
    whole = memoryview(rig.buffer)
    cut = RX_RING + 8 - 0x100000
    rig.dma.memory = GuestMemory(
        [Region(0x100000, whole[:cut]), Region(0x100000 + cut, whole[cut:])]
    )
    rig.start()
    rig.receive(frame(100))
    assert rig.received() == [frame(100)]


def test_a_buffer_without_memory_marks_its_frame_and_the_next_one_arrives() -> None:
    rig = Rig().start()
    rig.put(RX_RING, struct.pack("<Q", 1 << 60))
    assert rig.receive(frame(100), frame(101)) == 2
    assert [rig.descriptor(index)[3:5] for index in (0, 1)] == [(0x07, 0x80), (0x07, 0)]
    assert rig.get(RX_DATA + 2048, 101) == frame(101)


def test_the_card_is_lent_frames_and_keeps_none() -> None:
    rig = Rig().start()
    rig.chip.port.peer = None  # only to look at what receive itself leaves behind
    buffer = bytearray(frame(100))
    view = memoryview(buffer)
    assert rig.chip.port.receive([Frame((view,), 100)]) == 1
    view.release()
    buffer.extend(b"resized, so no view is left")


def test_a_pause_frame_is_counted_and_not_delivered() -> None:
    rig = Rig().start()
    pause = bytes.fromhex("0180c2000001") + PEER + b"\x88\x08\0\1\0\1" + bytes(42)
    rig.receive(pause)
    assert (rig.read(R.FCRUC), rig.received()) == (1, [])
    rig.write(R.CTRL, 1 << 27 | 0x40)
    rig.receive(pause)
    assert (rig.read(R.XOFFRXC), rig.received()) == (1, [])


# Properties


def test_extra_registers_can_be_left_out() -> None:
    with_them, without = Rig(), Rig(extra_registers=False)
    for rig in (with_them, without):
        rig.write(R.WUC, 3)
        rig.write(R.VET, 0x88A8)
    assert [rig.read(R.WUC) for rig in (with_them, without)] == [3, 0]
    assert without.read(R.VET) == 0x88A8


def test_vet_is_zero_after_a_reset_where_that_is_asked() -> None:
    assert (Rig().read(R.VET), Rig(init_vet=False).read(R.VET)) == (0x8100, 0)


@pytest.mark.parametrize("record", [E1000Options, E1000Em82545Options])
def test_a_card_is_made_from_its_options(record: type[E1000Options]) -> None:
    rig = Rig()
    options = record(id="n0", mac=MAC, init_vet=False, mitigation=False)
    chip = factory(options)(_slot(rig))
    assert chip.model is MODELS[options.driver]
    assert chip.model.device == DESCRIPTIONS[options.driver].device
    assert (chip.VET, chip._causes.moderated) == (0, False)
    assert chip.RAL[0].to_bytes(4, "little") == MAC[:4]


def test_a_card_without_an_address_gets_one_of_its_own() -> None:
    chip = factory(E1000Options(id="n0"))(_slot(Rig()))
    assert chip.RAL[0].to_bytes(4, "little")[:3] == b"\x52\x54\x00"


def _slot(rig: Rig) -> Slot:
    return Slot("n1", rig.dma, rig.pin, rig.timers, rig.deferred.append, lambda n: bytes(n))


def test_broadcasts_own_echo_does_not_return() -> None:
    rig = Rig().start()
    rig.send(frame(60, dst=BROADCAST))
    assert (rig.received(), len(rig.wire.got)) == ([], 1)
    assert rig.get(TX_RING + 12, 1) == b"\x01"


@pytest.mark.parametrize("kept", [True, False])
def test_a_saved_state_holds_a_segmentation_context_if_that_is_asked_for(kept: bool) -> None:
    rig = Rig(migrate_tso_props=kept).start()
    rig.context(mss=1000, header=54, command=0x04)
    rig.kick()
    context = rig.chip.save()["transmit"]["context"]
    assert any(context) == kept


def test_a_frame_that_fills_its_buffer_needs_no_second_one_for_a_stripped_fcs() -> None:
    rig = Rig().start(count=8, rctl=EN | BAM | SECRC | 3 << 16, size=256)
    rig.write(R.RDT, 1)
    assert rig.receive(frame(256, BROADCAST)) == 1
    assert rig.received() == [frame(256, BROADCAST)]
