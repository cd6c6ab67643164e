# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The driver's side of Intel's descriptor rings, as the 8254x and the 82574 have them, one ring
each way (data sheets: sections 3.2 to 3.4, or 7.1 and 7.2).

Where the registers are, and what a receive descriptor looks like, is told by who derives from it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

from vmwire.bench import e1000_spec as spec
from vmwire.bench.pci import Allocator, Cpu

TX_ROOM = 0x8_0000
"""For the data of frames that are sent, used over and over."""


class DriverError(Exception):
    """The card did not do what the driver waited for."""


@dataclass(frozen=True, slots=True)
class Context:
    """An offload context (section 3.3.6): where checksums start, go, and end; and TSO's sizes."""

    ip_start: int = 0
    ip_offset: int = 0
    ip_end: int = 0
    start: int = 0
    offset: int = 0
    end: int = 0
    tcp: bool = True
    ipv4: bool = True
    segment: bool = False
    payload: int = 0
    header: int = 0
    mss: int = 0

    def pack(self, command: int = 0) -> bytes:
        """Return the descriptor."""
        tucmd = command | spec.TX_DEXT
        tucmd |= self.tcp * spec.TUCMD_TCP | self.ipv4 * spec.TUCMD_IP
        tucmd |= self.segment * spec.TUCMD_TSE
        return spec.TX_CONTEXT.pack(
            self.ip_start, self.ip_offset, self.ip_end, self.start, self.offset, self.end,
            self.payload & 0xFFFFF | tucmd << 24, 0, self.header, self.mss,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Received:
    """A frame out of the receive ring: its last descriptor's fields, and how many it took."""

    data: bytes
    status: int
    errors: int
    checksum: int
    special: int
    descriptors: int = 1

    @property
    def vlan(self) -> int | None:
        """The tag that the card took out of the frame."""
        return self.special if self.status & spec.RX_VP else None


class Rings(ABC):
    """A ring each way of ``ring`` descriptors, with receive buffers of ``buffer_size``."""

    QUEUE = 0
    """How far its registers are behind the first queue's."""
    RX_SIZE = spec.DESCRIPTOR_SIZE
    """Of a receive descriptor."""

    def __init__(self, pc: Cpu, ring: int, buffer_size: int, room: Allocator) -> None:
        self.pc = pc
        self.ring = ring
        self.buffer_size = buffer_size
        self.tx_ring = room.take(ring * spec.DESCRIPTOR_SIZE, 4096)
        self.rx_ring = room.take(ring * self.RX_SIZE, 4096)
        self.rx_buffers = room.take(ring * buffer_size, 4096)
        self._tx_room = room.take(TX_ROOM, 4096)
        self._tx_used = 0
        self.tx_tail = self.rx_next = 0

    @abstractmethod
    def read(self, register: int) -> int:
        """Read a register of the card."""

    @abstractmethod
    def write(self, register: int, value: int) -> None:
        """Write a register of the card."""

    # --- bringing up

    @property
    def buffer_bits(self) -> int:
        """RCTL's bits for the receive buffers' size."""
        return spec.RCTL_SIZES[self.buffer_size]

    def empty_transmit_ring(self) -> None:
        """Give the card a transmit ring with nothing to send."""
        self.pc.write(self.tx_ring, bytes(self.ring * spec.DESCRIPTOR_SIZE))
        self._set_ring(spec.TDBAL, self.tx_ring, spec.DESCRIPTOR_SIZE)
        self.tx_tail = 0

    def fill_receive_ring(self, buffers: int | None = None) -> None:
        """Give the card a receive ring with ``buffers`` buffers (all but one)."""
        for index in range(self.ring):
            self._post(index)
        self._set_ring(spec.RDBAL, self.rx_ring, self.RX_SIZE)
        self.rx_next = 0
        self._give(self.ring - 1 if buffers is None else buffers)

    def _give(self, tail: int) -> None:
        """Let the card have the descriptors before this one. RDT counts in units of 16 bytes."""
        self.write(spec.RDT + self.QUEUE, tail * self.RX_SIZE // spec.DESCRIPTOR_SIZE)

    def _set_ring(self, base: int, address: int, size: int) -> None:
        base += self.QUEUE
        self.write(base, address & 0xFFFFFFFF)
        self.write(base + 4, address >> 32)
        self.write(base + 8, self.ring * size)
        self.write(base + 0x10, 0)
        self.write(base + 0x18, 0)

    def _post(self, index: int) -> None:
        """Put an unused receive descriptor into its place."""
        buffer = self.rx_buffers + index * self.buffer_size
        descriptor = spec.RX_DESCRIPTOR.pack(buffer, 0, 0, 0, 0, 0)
        self.pc.write(self.rx_ring + index * spec.DESCRIPTOR_SIZE, descriptor)

    # --- transmit

    def tx_buffer(self, data: bytes) -> int:
        """Copy data to where the card can fetch it; return the address."""
        if self._tx_used + len(data) > TX_ROOM:
            self._tx_used = 0
        address = self._tx_room + self._tx_used
        self._tx_used += len(data)
        if data:
            self.pc.write(address, data)
        return address

    def put(self, descriptor: bytes) -> int:
        """Put a descriptor into the ring without telling the card; return its index."""
        index = self.tx_tail
        self.pc.write(self.tx_ring + index * spec.DESCRIPTOR_SIZE, descriptor)
        self.tx_tail = (index + 1) % self.ring
        return index

    def kick(self) -> None:
        """Tell the card of what was put."""
        self.write(spec.TDT + self.QUEUE, self.tx_tail)

    def send(
        self,
        frame: bytes,
        *,
        pieces: Sequence[int] = (),
        vlan: int | None = None,
        checksum: tuple[int, int] | None = None,
        command: int = spec.TX_RS | spec.TX_IFCS,
        kick: bool = True,
    ) -> int:
        """Send by legacy descriptors, one for each of ``pieces``' lengths (the last may be over).

        ``checksum`` is (CSS, CSO). Returns the last descriptor's index.
        """
        css, cso = checksum or (0, 0)
        if checksum is not None:
            command |= spec.TX_IC
        parts = _cut(frame, pieces)
        index = self.tx_tail
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            bits = command | (spec.TX_EOP if last else 0)
            bits |= spec.TX_VLE if last and vlan is not None else 0
            index = self.put(
                spec.TX_LEGACY.pack(self.tx_buffer(part), len(part), cso, bits, 0, css, vlan or 0)
            )
        if kick:
            self.kick()
        return index

    def send_extended(
        self,
        frame: bytes,
        context: Context | None = None,
        *,
        options: int = 0,
        pieces: Sequence[int] = (),
        vlan: int | None = None,
        command: int = spec.TX_RS | spec.TX_IFCS,
        segment: bool | None = None,
        kick: bool = True,
    ) -> int:
        """Send by data descriptors, behind a context (None: the card goes on with the last one).

        ``options`` are POPTS, ``segment`` asks for TSO (by default if the context does). Returns
        the last descriptor's index.
        """
        if context is not None:
            self.put(context.pack())
        if segment is None:
            segment = context is not None and context.segment
        command |= spec.TX_DEXT | (spec.TX_TSE if segment else 0)
        parts = _cut(frame, pieces)
        index = self.tx_tail
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            bits = command | (spec.TX_EOP if last else 0)
            bits |= spec.TX_VLE if last and vlan is not None else 0
            word = len(part) | spec.TX_DATA_TYPE | bits << 24
            index = self.put(
                spec.TX_DATA.pack(self.tx_buffer(part), word, 0, options if not number else 0,
                                  vlan or 0)
            )  # fmt: skip
        if kick:
            self.kick()
        return index

    def tx_done(self, index: int) -> bool:
        """Whether the card has reported this descriptor as done."""
        at = self.tx_ring + index * spec.DESCRIPTOR_SIZE + 12
        return bool(self.pc.read(at, 1)[0] & spec.TX_DD)

    @property
    def tx_head(self) -> int:
        """Up to where the card has come."""
        return self.read(spec.TDH + self.QUEUE)

    # --- receive

    def receive(self, *, give_back: bool = True) -> list[Received]:
        """Take all whole frames out of the ring; give their buffers back to the card."""
        frames = []
        while (frame := self._next_frame()) is not None:
            frames.append(frame)
        if frames and give_back:
            self._give((self.rx_next - 1) % self.ring)
        return frames

    def _next_frame(self) -> Received | None:
        data = b""
        for count in range(self.ring):
            index = (self.rx_next + count) % self.ring
            found = self._done(index)
            if found is None:
                return None
            data += found.data
            if found.status & spec.RX_EOP:
                for used in range(count + 1):
                    self._post((self.rx_next + used) % self.ring)
                self.rx_next = (index + 1) % self.ring
                return replace(found, data=data, descriptors=count + 1)
        raise DriverError("a ring full of descriptors without an end")

    def _done(self, index: int) -> Received | None:
        """What one descriptor holds; None while it is the card's."""
        at = self.rx_ring + index * spec.DESCRIPTOR_SIZE
        address, length, checksum, status, errors, special = spec.RX_DESCRIPTOR.unpack(
            self.pc.read(at, spec.DESCRIPTOR_SIZE)
        )
        if not status & spec.RX_DD:
            return None
        data = self.pc.read(address, length) if length else b""
        return Received(data, status, errors, checksum, special)


def _cut(frame: bytes, pieces: Sequence[int]) -> list[bytes]:
    """Cut a frame into pieces of these lengths; what is left over is one more."""
    parts = []
    for length in pieces:
        parts.append(frame[:length])
        frame = frame[length:]
    return [*parts, frame] if frame or not parts else parts
