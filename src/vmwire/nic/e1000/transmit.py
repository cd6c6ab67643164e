# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The transmit ring: descriptors to frames (manual, 3.3 and 3.4).

One run walks all descriptors between TDH and TDT, at most ``BUDGET``, makes a list of frames, and
sends it at once. Then the descriptors that ask for it (RS, RPS) are written back as done in one
piece, TDH moves, and there is one interrupt at most. What the wire refuses stays in the ring: TDH
moves no further than behind the last frame that was taken, and the walk starts again there when
the wire has room.

A packet whose end isn't in the ring yet is copied and kept. A packet that makes no sense, or that
lies where there is no memory, is dropped and counted; a ring that does stands still.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from struct import Struct
from typing import Any

from vmwire.engine.dma import Dma
from vmwire.engine.memory import AddressFault, View
from vmwire.nic.e1000.interrupts import RingCauses
from vmwire.nic.e1000.offloads import TUCMD_TSE, Context, Request, assemble, legacy
from vmwire.nic.e1000.registers import CTRL_VME, TCTL_EN, TCTL_PSP, TXD_LOW, TXDW, TXQE
from vmwire.nic.e1000.registers import Registers as R
from vmwire.nic.e1000.statistics import SENT, TSCTC, Statistics, group_of
from vmwire.wire.frame import ETHERNET_HEADER, GSO_NONE, NO_OFFLOAD, Frame

CTRL = R.CTRL.index
TCTL = R.TCTL.index
VET = R.VET.index

QUEUE_STRIDE = 0x40
"""How many words a second queue's registers are behind the first one's."""

DESCRIPTOR = Struct("<QII")
assert DESCRIPTOR.size == 16

EOP = 1 << 24
IC = 1 << 26  # of a legacy descriptor
TSE = 1 << 26  # of a data descriptor
RS = 1 << 27
RPS = 1 << 28
DEXT = 1 << 29
VLE = 1 << 30
IDE = 1 << 31
DTYP = 0xF << 20
DTYP_DATA = 1 << 20
IXSM = 1 << 8
TXSM = 1 << 9
DONE = 1
STATUS_AT = 12

BUDGET = 512
"""Descriptors in one run; the rest has its turn later."""
MAX_PACKET = 16288
"""Bytes of the longest packet that isn't to be segmented (3.3.3)."""
MAX_SUPERFRAME = 65535 + ETHERNET_HEADER
MAX_PIECES = 1024
MINIMUM = 60

_PADDING = memoryview(bytes(MINIMUM))
_NONE = Request(Context())


class Packet:
    """A packet whose end hasn't come yet."""

    __slots__ = ("addresses", "bad", "begun", "head", "length", "lengths", "request")

    def __init__(self) -> None:
        self.begun = False
        self.head = b""
        self.addresses: list[int] = []
        self.lengths: list[int] = []
        self.length = 0
        self.request = _NONE
        self.bad = ""

    def add(self, address: int, length: int) -> None:
        if self.length + length > MAX_SUPERFRAME or len(self.addresses) >= MAX_PIECES:
            self.bad = "too long"
        elif length:
            self.addresses.append(address)
            self.lengths.append(length)
            self.length += length


Mark = tuple[int, Context, Packet | None]
"""Where a frame begins: descriptors before it, and the context and unfinished packet there."""


class Transmitter:
    """Over the chip's ``words``. ``send(frames) -> int`` is the wire, or the loop back.

    Without ``saves_segmentation`` a saved state leaves out a context that is for segmentation.
    """

    def __init__(
        self,
        words: list[int],
        dma: Dma,
        causes: RingCauses,
        statistics: Statistics,
        send: Callable[[Sequence[Frame]], int],
        defer: Callable[[Callable[[], None]], None],
        drops: Counter[str],
        *,
        queue: int = 0,
        saves_segmentation: bool = True,
    ) -> None:
        places = (R.TDBAL, R.TDBAH, R.TDLEN, R.TDH, R.TDT, R.TXDCTL)
        self._base_low, self._base_high, self._length, self._head, self._tail, self._control = (
            place.index + QUEUE_STRIDE * queue for place in places
        )
        self._words = words
        self._dma = dma
        self._causes = causes
        self._statistics = statistics
        self._send = send
        self._defer = defer
        self._drops = drops
        self._saves_segmentation = saves_segmentation
        self._running = False
        self._deferred = False
        self._context = Context()
        self._packet = Packet()

    def reset(self) -> None:
        """Forget contexts and an unfinished packet."""
        self._context = Context()
        self._packet = Packet()

    def run(self) -> None:
        """Send what is in the ring."""
        words = self._words
        if self._running or not words[TCTL] & TCTL_EN:
            return
        count, head, tail = words[self._length] >> 4, words[self._head], words[self._tail]
        if head == tail:
            return
        if head >= count or tail >= count:
            self._drops["transmit ring without sense"] += 1
            return
        self._running = True
        try:
            self._run(count, head, (tail - head) % count)
        finally:
            self._running = False

    def _run(self, count: int, head: int, pending: int) -> None:
        number = min(pending, BUDGET)
        try:
            block = self._fetch(count, head, number)
        except AddressFault:
            self._drops["transmit ring without memory"] += 1
            return
        frames, marks, reports = self._walk(block)
        taken = self._send(frames) if frames else 0
        done = number
        if taken < len(frames):
            done, self._context, packet = marks[taken]
            self._packet = packet or Packet()
        if done:
            if reports:
                self._write_back(block, count, head, [at for at in reports if at < done])
            self._words[self._head] = (head + done) % count
            self._report(block, reports, done, pending)
        self._count(frames[:taken])
        if done == number < pending and not self._deferred:
            self._deferred = True
            self._defer(self._go_on)

    def _go_on(self) -> None:
        self._deferred = False
        self.run()

    def _fetch(self, count: int, head: int, number: int) -> bytearray:
        """Read ``number`` descriptors from ``head`` on."""
        base = self._words[self._base_high] << 32 | self._words[self._base_low]
        first = min(number, count - head)
        addresses, lengths = [base + 16 * head], [16 * first]
        if first < number:
            addresses.append(base)
            lengths.append(16 * (number - first))
        return bytearray().join(self._dma.gather(addresses, lengths))

    def _walk(self, block: bytearray) -> tuple[list[Frame], list[Mark], list[int]]:
        """Follow the descriptors.

        Returns the frames; for each one where it begins and the state there, for a return to it;
        and which descriptors are to be written back.
        """
        frames: list[Frame] = []
        marks: list[Mark] = []
        reports: list[int] = []
        packet = self._packet
        mark: Mark = (0, self._context, _copy(packet) if packet.begun else None)
        for at, (address, lower, upper) in enumerate(DESCRIPTOR.iter_unpack(block)):
            if lower & (RS | RPS):
                reports.append(at)
            if lower & DEXT and lower & DTYP != DTYP_DATA:
                if not lower & DTYP:
                    self._context = Context.parse(address, lower, upper)
                continue
            if lower & DEXT:
                if not packet.begun:
                    packet.request = self._data_request(lower, upper)
                packet.begun = True
                packet.add(address, lower & 0xFFFFF)
            else:
                packet.begun = True
                packet.add(address, lower & 0xFFFF)
            if not lower & EOP:
                continue
            frame = self._frame(packet, lower, upper)
            if frame is not None:
                frames.append(frame)
                marks.append(mark)
            packet = self._packet = Packet()
            mark = (at + 1, self._context, None)
        if packet.addresses:
            self._keep(packet)
        return frames, marks, reports

    def _data_request(self, lower: int, upper: int) -> Request:
        """What a packet's first data descriptor asks for."""
        if not lower & TSE and not upper & (IXSM | TXSM):
            return _NONE
        return Request(self._context, bool(lower & TSE), bool(upper & IXSM), bool(upper & TXSM))

    def _frame(self, packet: Packet, lower: int, upper: int) -> Frame | None:
        """Make the frame of a packet whose last descriptor this is; None if it is dropped."""
        request = packet.request
        limit = MAX_SUPERFRAME if request.segment else MAX_PACKET
        if packet.bad or packet.length > limit or packet.length < ETHERNET_HEADER:
            self._drops[packet.bad or "transmit length"] += 1
            return None
        tag = b""
        if lower & VLE and self._words[CTRL] & CTRL_VME:
            tag = (self._words[VET] << 16 | upper >> 16).to_bytes(4, "big")
        if not lower & DEXT and lower & IC:
            request = legacy(upper >> 8 & 0xFF, lower >> 16 & 0xFF, tag)
        elif tag:
            request = Request(
                request.context,
                request.segment,
                request.ip_checksum,
                request.transport_checksum,
                tag,
            )
        try:
            views = self._dma.gather(packet.addresses, packet.lengths)
        except AddressFault:
            self._drops["transmit data without memory"] += 1
            return None
        if packet.head:
            views.insert(0, memoryview(packet.head))
        frame = self._assembled(views, packet.length, request)
        if frame is None:
            self._drops["offload without sense"] += 1
        return frame

    def _assembled(self, views: list[View], length: int, request: Request) -> Frame | None:
        if request is _NONE:
            frame: Frame | None = Frame(views, length)
        else:
            frame = assemble(views, length, request)
        if frame is not None and frame.length < MINIMUM and self._words[TCTL] & TCTL_PSP:
            views = [*frame.views, _PADDING[frame.length :]]
            frame = Frame(views, MINIMUM, frame.offload)
        return frame

    def _keep(self, packet: Packet) -> None:
        """Copy what there is of an unfinished packet: its descriptors may be reported done."""
        try:
            parts = self._dma.gather(packet.addresses, packet.lengths)
            packet.head = b"".join([packet.head, *parts])
        except AddressFault:
            packet.bad = "transmit data without memory"
        packet.addresses, packet.lengths = [], []

    def _write_back(self, block: bytearray, count: int, head: int, reports: list[int]) -> None:
        """Mark descriptors as done, from the first to the last one that asks for it."""
        if not reports:
            return
        for at in reports:
            block[16 * at + STATUS_AT] |= DONE
        base = self._words[self._base_high] << 32 | self._words[self._base_low]
        first, end, edge = reports[0], reports[-1] + 1, count - head
        view = memoryview(block)
        try:
            if first < edge:
                stop = min(end, edge)
                self._dma.write(base + 16 * (head + first), view[16 * first : 16 * stop])
                first = stop
            if first < end:
                self._dma.write(base + 16 * (head + first - count), view[16 * first : 16 * end])
        except AddressFault:
            self._drops["transmit ring without memory"] += 1

    def _report(self, block: bytearray, reports: list[int], done: int, pending: int) -> None:
        """Raise what this run causes, at most one interrupt."""
        left = pending - done
        causes = 0 if left else TXQE
        written = [at for at in reports if at < done]
        if written:
            if all(block[16 * at + 11] & 0x80 for at in written):  # IDE
                causes |= self._causes.tx.event()
            else:
                self._causes.tx.stop()
                causes |= TXDW
        low = (self._words[self._control] >> 25) * 8
        if left < low <= pending:
            causes |= TXD_LOW
        if causes:
            self._causes.raise_(causes)

    def _count(self, frames: Sequence[Frame]) -> None:
        if not frames:
            return
        lengths: list[int] = []
        groups: list[int] = []
        for frame in frames:
            group = group_of(frame.head(6))
            if frame.offload is NO_OFFLOAD or frame.offload.gso_type == GSO_NONE:
                lengths.append(frame.length)
                groups.append(group)
            else:
                pieces = _segment_lengths(frame)
                lengths += pieces
                groups += [group] * len(pieces)
                self._statistics.add(TSCTC)
        self._statistics.passed(SENT, lengths, groups)

    # State

    def save(self) -> dict[str, Any]:
        """Return the context and the unfinished packet."""
        packet, context = self._packet, self._context
        if context.command & TUCMD_TSE and not self._saves_segmentation:
            context = Context()
        return {
            "context": list(astuple(context)),
            "begun": packet.begun,
            "head": packet.head,
            "length": packet.length,
            "bad": packet.bad,
            "request": [*astuple(packet.request.context), *_flags(packet.request)],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take on what ``save`` gave. ValueError if it can't be."""
        context, request = list(state["context"]), list(state["request"])
        head, bad = bytes(state["head"]), str(state["bad"])
        if len(context) != 9 or len(request) != 12 or len(head) > MAX_SUPERFRAME:
            raise ValueError("not a transmitter's state")
        if not bad and len(head) != state["length"]:
            raise ValueError("a packet that isn't as long as it says")
        self._context = Context(*map(int, context))
        packet = self._packet = Packet()
        packet.begun, packet.head, packet.bad = bool(state["begun"]), head, bad
        packet.length = len(head)
        segment, ip, transport = map(bool, request[9:])
        packet.request = Request(Context(*map(int, request[:9])), segment, ip, transport)


def _flags(request: Request) -> tuple[bool, bool, bool]:
    return request.segment, request.ip_checksum, request.transport_checksum


def _copy(packet: Packet) -> Packet:
    copy = Packet()
    for name in Packet.__slots__:
        value = getattr(packet, name)
        setattr(copy, name, list(value) if isinstance(value, list) else value)
    return copy


def _segment_lengths(frame: Frame) -> list[int]:
    """Return the lengths that a superframe's segments have on the wire."""
    size, start = frame.offload.segment_size, frame.offload.checksum_start
    if frame.offload.checksum_offset == 16:
        header = start + (frame.head(start + 13)[start + 12] >> 4) * 4
    else:
        header = start + 8
    full, rest = divmod(max(frame.length - header, 1), size)
    return [header + size] * full + ([header + rest] if rest else [])
