# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The receive ring: frames to descriptors (manual, 3.2).

A batch of frames is filtered and made ready first; then its descriptors are read at once, the
buffers are written, the descriptors are written back at once, RDH moves, and there is one interrupt
at most. The buffers' size is RCTL's, and a frame takes as many as it needs.

A superframe is cut here, straight into the buffers: its segments are alike and are judged once.

When the ring has no room, the rest of the batch is refused: it stays with its sender until RDT
moves. Only of a superframe that was begun the rest is kept, and goes first then. Frames are taken
and lost while the receiver is off, when its ring makes no sense, and when they could never fit. An
address of 0 is a descriptor whose buffer is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from struct import Struct
from zlib import crc32

from vmwire.engine.dma import Dma
from vmwire.engine.memory import AddressFault
from vmwire.nic.e1000.checksums import judge, packet_checksum
from vmwire.nic.e1000.filters import Filters
from vmwire.nic.e1000.interrupts import RingCauses
from vmwire.nic.e1000.registers import (
    CTRL_RFCE,
    CTRL_VME,
    RCTL_BSEX,
    RCTL_DPF,
    RCTL_EN,
    RCTL_LPE,
    RCTL_PMCF,
    RCTL_SECRC,
    RXDMT0,
    RXO,
    SRPD,
)
from vmwire.nic.e1000.registers import Registers as R
from vmwire.nic.e1000.statistics import RECEIVED, Statistics, group_of
from vmwire.wire.frame import Frame
from vmwire.wire.offload import FINISHED, cut, finish, weigh

CTRL = R.CTRL.index
RCTL = R.RCTL.index
RSRPD = R.RSRPD.index
RXCSUM = R.RXCSUM.index
VET = R.VET.index

QUEUE_STRIDE = 0x40
"""How many words a second queue's registers are behind the first one's."""

DESCRIPTOR = Struct("<QHHBBH")  # address, length, checksum, status, errors, VLAN tag
assert DESCRIPTOR.size == 16

DD = 0x01
EOP = 0x02
VP = 0x08
RXE = 0x80

MINIMUM = 60
USUAL = 1518
"""The longest frame with LPE off, without its FCS: VLAN tag included."""
LONGEST = 16384 - 4

_PAUSE = bytes.fromhex("0180c2000001")
_MAC_CONTROL = b"\x88\x08"
_IPV4 = b"\x08\x00"
_IPV6 = b"\x86\xdd"


def buffer_size(rctl: int) -> int:
    """Return the bytes of each receive buffer."""
    code = rctl >> 16 & 3
    if rctl & RCTL_BSEX:
        return (2048, 16384, 8192, 4096)[code]
    return 2048 >> code


def longest(rctl: int) -> int:
    """Return the longest frame that is received, without its FCS."""
    return LONGEST if rctl & RCTL_LPE else USUAL


def untag(data: bytes, with_fcs: bool) -> tuple[bytes, int]:
    """Take the VLAN tag out of a frame; return both. An FCS that stays is that of the wire."""
    rest = data[:12] + data[16:]
    if with_fcs:
        rest += crc32(data).to_bytes(4, "little")
    return rest, data[14] << 8 | data[15]


class Batch:
    """What is to be written into the ring: buffers' bytes, and what descriptors will say."""

    __slots__ = ("groups", "lengths", "parts", "small", "writes")

    def __init__(self) -> None:
        self.parts: list[bytes | bytearray | memoryview] = []
        self.writes: list[tuple[int, ...]] = []
        self.lengths: list[int] = []
        self.groups: list[int] = []
        self.small = False


class Receiver:
    """Over the chip's ``words``.

    ``UNITS`` is how many of the ring's 16 bytes a descriptor takes. A chip with descriptors of
    another form overrides what reads and writes them, and what is put into a batch.
    """

    UNITS = 1

    def __init__(
        self,
        words: list[int],
        dma: Dma,
        causes: RingCauses,
        statistics: Statistics,
        filters: Filters,
        drops: Counter[str],
        *,
        queue: int = 0,
    ) -> None:
        places = (R.RDBAL, R.RDBAH, R.RDLEN, R.RDH, R.RDT)
        self._base_low, self._base_high, self._length, self._head, self._tail = (
            place.index + QUEUE_STRIDE * queue for place in places
        )
        self._words = words
        self._dma = dma
        self._causes = causes
        self._statistics = statistics
        self._filters = filters
        self._drops = drops
        self.starved = False
        """Frames wait for RDT to move: refused ones at their sender, a superframe's rest here."""
        self._rest: list[Frame] = []

    def reset(self) -> None:
        """Forget what waits."""
        self._rest = []

    def receive(self, frames: Sequence[Frame]) -> int:
        """Take frames from the wire; return how many, the rest has no room now."""
        if self._rest:
            waiting, self._rest = self._rest, []
            self._rest = waiting[self._deliver(waiting) :]
        taken = 0 if self._rest else self._deliver(frames)
        if (self._rest or taken < len(frames)) and not self.starved:
            self.starved = True
            self._statistics.add(R.RNBC.index)
        return taken

    def receive_own(self, frames: Sequence[Frame]) -> None:
        """Take frames that the chip sent itself; those that have no room are lost."""
        lost = len(frames) - self._deliver(frames)
        if lost:
            self._statistics.add(R.MPC.index, lost)
            self._drops["receive overrun"] += lost
            self._causes.raise_(RXO)

    def _deliver(self, frames: Sequence[Frame]) -> int:
        words = self._words
        rctl = words[RCTL]
        if not rctl & RCTL_EN:
            self._drops["receiver off"] += len(frames)
            return len(frames)
        count, head, tail = words[self._length] >> 4, words[self._head], words[self._tail]
        units = self.UNITS
        if head >= count or tail >= count or head % units:
            self._drops["receive ring without sense"] += len(frames)
            self._statistics.add(R.MPC.index, len(frames))
            return len(frames)
        free = (tail - head) % count // units
        if not free:
            return 0
        batch = self._batch()
        taken = self._prepare(batch, frames, rctl, free, count // units)
        if batch.writes:
            self._fill(batch, head, count, free)
        return taken

    def _prepare(
        self, batch: Batch, frames: Sequence[Frame], rctl: int, free: int, count: int
    ) -> int:
        """Make frames ready for ``free`` descriptors; return how many were dealt with."""
        size, most, fcs = self._room(rctl), longest(rctl), 0 if rctl & RCTL_SECRC else 4
        writes, passes = batch.writes, self._filters.passes
        usual = self._words[VET] != 0x0800
        for number, frame in enumerate(frames):
            if not frame.offload.plain:
                if not passes(frame.head(6)):
                    self._refuse_unfinished(frame)
                elif frame.offload.needs:
                    self._cut(batch, frame, rctl, free, count)
                else:
                    self._rest = finish(frame)
                    self._place_rest(batch, rctl, free, count)
                if self._rest:
                    return number + 1
                continue
            length = frame.length
            views = frame.views
            data = bytes(views[0]) if len(views) == 1 else b"".join(views)
            if length < MINIMUM:
                data = data.ljust(MINIMUM, b"\0")
                length = MINIMUM
            if usual and length <= most and data[12:14] == _IPV4 and passes(data[:6]):
                pass  # nothing else can keep it out
            elif not self._wanted(data, length, most, rctl):
                continue
            needed = 1 if length + 4 <= size else self._needed(data, length + fcs, size)
            if needed > free - len(writes):
                if needed < count:
                    return number
                self._drops["longer than the receive ring"] += 1
                self._statistics.add(R.MPC.index)
                continue
            batch.lengths.append(length)
            batch.groups.append(group_of(data[:6]))
            self._place(batch, data, size, rctl, frame.offload.checked)
        return len(frames)

    def _batch(self) -> Batch:
        return Batch()

    def _room(self, rctl: int) -> int:
        """Return the bytes that have room in any descriptor's buffers."""
        return buffer_size(rctl)

    def _needed(self, data: bytes, length: int, size: int) -> int:
        """Return how many descriptors a frame takes that is longer than that."""
        return -(-length // size)

    def _cut(self, batch: Batch, frame: Frame, rctl: int, free: int, count: int) -> None:
        """Put the segments of a superframe into the batch; those that don't fit are the rest."""
        segments = cut(frame)
        room = free - len(batch.writes)
        if not segments:
            self._drops["offload without sense"] += 1
        elif not self._are_simple(segments[0], rctl):
            self._rest = [Frame.of(segment, FINISHED) for segment in segments]
            self._place_rest(batch, rctl, free, count)
        else:
            self._rest = self._place_alike(batch, segments, rctl, room)

    def _place_alike(
        self, batch: Batch, segments: list[bytearray], rctl: int, room: int
    ) -> list[Frame]:
        """Place as many segments as there is room for; return the others."""
        status, errors = judge(bytes(segments[0]), self._words[RXCSUM], True)
        status |= DD | EOP
        fit = segments[:room]
        batch.lengths += [len(segment) for segment in fit]
        batch.groups += [group_of(bytes(segments[0][:6]))] * len(fit)
        if not rctl & RCTL_SECRC:
            for segment in fit:
                segment += crc32(segment).to_bytes(4, "little")
        batch.parts += fit
        batch.writes += [(len(segment), 0, status, errors, 0) for segment in fit]
        return [Frame.of(segment, FINISHED) for segment in segments[room:]]

    def _are_simple(self, first: bytearray, rctl: int) -> bool:
        """Whether segments like the ``first`` have a buffer each, and nothing keeps them out."""
        words = self._words
        ordinary = first[12:14] in (_IPV4, _IPV6) and first[12] << 8 | first[13] != words[VET]
        fits = len(first) + 4 <= buffer_size(rctl) and len(first) <= longest(rctl)
        untold = not words[RXCSUM] & 0xFF and not words[RSRPD]
        return ordinary and fits and untold and self._filters.passes(bytes(first[:6]))

    def _place_rest(self, batch: Batch, rctl: int, free: int, count: int) -> None:
        """Deal with frames of our own like with any others."""
        rest, self._rest = self._rest, []
        self._rest = rest[self._prepare(batch, rest, rctl, free, count) :]

    def _wanted(self, data: bytes, length: int, most: int, rctl: int) -> bool:
        """Whether a frame gets past length, filters and flow control."""
        destination = data[:6]
        if length > most:
            self._statistics.add(R.ROC.index)
            self._statistics.refused(length)
            self._drops["too long"] += 1
            return False
        if data[12:14] == _MAC_CONTROL and not self._passes_control(data, rctl):
            return False
        wanted = self._filters.passes(destination)
        if wanted and (data[12] << 8 | data[13]) == self._words[VET]:
            wanted = self._filters.vlan_passes(data[14] << 8 | data[15])
        if not wanted:
            self._statistics.refused(length)
            self._drops["filtered"] += 1
        return wanted

    def _refuse_unfinished(self, frame: Frame) -> None:
        """Count what is for somebody else as what would have been made of it: on a hub that is
        most of what passes, and nobody should cut it in vain."""
        count, length = weigh(frame) if frame.offload.needs else (1, frame.length)
        if not count or not frame.offload.known:
            self._drops["offload without sense"] += 1
            return
        self._statistics.refused(length, count)
        self._drops["filtered"] += count

    def _passes_control(self, data: bytes, rctl: int) -> bool:
        """Count MAC control frames; return whether one goes on to the filters (13.4.22)."""
        if data[:6] != _PAUSE or data[14:16] != b"\0\1":
            return bool(rctl & RCTL_PMCF)
        if self._words[CTRL] & CTRL_RFCE:
            off = data[16:18] != b"\0\0"
            self._statistics.add(R.XOFFRXC.index if off else R.XONRXC.index)
        else:
            self._statistics.add(R.FCRUC.index)
        return bool(rctl & RCTL_PMCF) and not rctl & RCTL_DPF

    def _place(self, batch: Batch, data: bytes, size: int, rctl: int, trusted: bool) -> None:
        """Cut a frame into buffers, and say what its descriptors will."""
        words = self._words
        rxcsum = words[RXCSUM]
        status, errors = judge(data, rxcsum, trusted)
        start = rxcsum & 0xFF
        checksum = packet_checksum(data, start) if start else 0
        special = 0
        if words[CTRL] & CTRL_VME and (data[12] << 8 | data[13]) == words[VET]:
            data, special = untag(data, not rctl & RCTL_SECRC)
            status |= VP
        elif not rctl & RCTL_SECRC:
            data += crc32(data).to_bytes(4, "little")
        if len(data) <= words[RSRPD]:
            batch.small = True
        length = len(data)
        if length <= size:
            batch.parts.append(data)
            batch.writes.append((length, checksum, status | DD | EOP, errors, special))
            return
        view = memoryview(data)
        for at in range(0, length, size):
            part = view[at : at + size]
            batch.parts.append(part)
            last = at + size >= length
            written = (checksum, status | DD | EOP, errors, special) if last else (0, DD, 0, 0)
            batch.writes.append((len(part), *written))

    def _fill(self, batch: Batch, head: int, count: int, free: int) -> None:
        """Write buffers and descriptors, move on, and interrupt."""
        words = self._words
        base = words[self._base_high] << 32 | words[self._base_low]
        done, units = len(batch.writes), self.UNITS
        used = done * units
        first = min(used, count - head)
        starts, lengths = [base + 16 * head], [16 * first]
        if first < used:
            starts.append(base)
            lengths.append(16 * (used - first))
        try:
            written = self._write(batch, b"".join(self._dma.gather(starts, lengths)))
            self._dma.write(starts[0], written[: 16 * first])
            if first < used:
                self._dma.write(base, written[16 * first :])
        except AddressFault:
            self._drops["receive ring without memory"] += len(batch.lengths)
            self._statistics.add(R.MPC.index, len(batch.lengths))
            return
        words[self._head] = (head + used) % count
        self._statistics.passed(RECEIVED, batch.lengths, batch.groups)
        self._report(batch, count // units, free, free - done)

    def _write(self, batch: Batch, block: bytes) -> bytes:
        """Fill the buffers of a ``block`` of descriptors; return what the block says then."""
        addresses = [fields[0] for fields in DESCRIPTOR.iter_unpack(block)]
        writes = batch.writes
        for number in self._write_buffers(addresses, batch.parts):
            length, checksum, status, errors, special = writes[number]
            writes[number] = (length, checksum, status, errors | RXE, special)
        pack = DESCRIPTOR.pack
        return b"".join([pack(at, *write) for at, write in zip(addresses, writes, strict=True)])

    def _write_buffers(
        self, addresses: list[int], parts: list[bytes | bytearray | memoryview]
    ) -> list[int]:
        """Write each part to its address; return the numbers of those that have no memory."""
        try:
            if 0 not in addresses:
                self._dma.write_each(addresses, parts)
                return []
        except AddressFault:
            pass  # one by one, to find which
        lost = []
        for number, (address, part) in enumerate(zip(addresses, parts, strict=True)):
            try:
                if address:
                    self._dma.write(address, part)
            except AddressFault:
                lost.append(number)
                self._drops["receive buffer without memory"] += 1
        return lost

    def _report(self, batch: Batch, count: int, before: int, after: int) -> None:
        causes = self._causes.rx.event()
        threshold = count >> 1 + min(self._words[RCTL] >> 8 & 3, 2)
        if after <= threshold < before:
            causes |= RXDMT0
        if batch.small:
            causes |= SRPD
        if causes:
            self._causes.raise_(causes)
