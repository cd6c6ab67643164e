# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A vfio-user client in plain Python: a machine's side of a PCI card, without a machine.

``Client`` speaks the protocol message by message, right or wrong, as a test wants it. It blocks; a
thread or process of the caller's runs it. Memory that it lends without a descriptor
(``map_remote``) is a ``bytearray`` of its own, and it answers the card's DMA messages while it
waits for anything else.

    with Client("/run/me/n0.sock") as pc:
        pc.negotiate()
        ram = pc.map(0, 1 << 20)
        pc.write(CONFIG, 4, 0x0006, 2)
        status = pc.read(BAR0, 8)
"""

from __future__ import annotations

import mmap
import os
import socket
from collections.abc import Sequence
from typing import Any

from vmwire.bus.pci.vfio_user import (
    ACTION_TRIGGER,
    ACTION_UNMASK,
    DATA_EVENTFD,
    DATA_NONE,
    DEVICE_INFO,
    DMA_ACCESS,
    DMA_MAP,
    DMA_READABLE,
    DMA_UNMAP,
    DMA_UNMAP_ALL,
    DMA_WRITABLE,
    F_ERROR,
    F_NO_REPLY,
    HEADER,
    INTX,
    IRQ_INFO,
    IRQ_SET,
    REGION_ACCESS,
    REGION_INFO,
    TYPE_COMMAND,
    TYPE_REPLY,
    Command,
    Header,
    pack_message,
    pack_version,
    unpack_version,
)

READ_WRITE = DMA_READABLE | DMA_WRITABLE


class RequestError(OSError):
    """The server refused a request; ``errno`` says how."""


class Client:
    """One connection to a server.

    Without an answer within ``timeout_s`` there is a ``TimeoutError``; ConnectionError: the server
    has closed the connection.
    """

    def __init__(self, path: str, timeout_s: float = 5.0) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(timeout_s)
        self.socket.connect(path)
        self.remote: dict[int, bytearray] = {}
        """Memory that is reached by messages, by its address."""
        self.dma_messages = 0
        """The server's DMA messages that were answered."""
        self._next_id = 0x100
        self._replies: dict[int, tuple[Header, bytes]] = {}

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self.socket.close()

    # Messages

    def send_bytes(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send anything at all."""
        if fds:
            socket.send_fds(self.socket, [data], fds)
        else:
            self.socket.sendall(data)

    def tell(
        self, command: int, payload: bytes = b"", fds: Sequence[int] = (), flags: int = TYPE_COMMAND
    ) -> int:
        """Send a command without waiting; return its id."""
        self._next_id = (self._next_id + 1) & 0xFFFF
        self.send_bytes(pack_message(self._next_id, command, payload, flags), fds)
        return self._next_id

    def ask(self, command: int, payload: bytes = b"", fds: Sequence[int] = ()) -> bytes:
        """Send a command and return its reply's payload. Raises ``RequestError``."""
        return self.reply(self.tell(command, payload, fds))

    def reply(self, message_id: int) -> bytes:
        """Wait for the reply to a command. Raises ``RequestError``."""
        while message_id not in self._replies:
            self.serve_one()
        header, payload = self._replies.pop(message_id)
        if header.flags & F_ERROR:
            raise RequestError(header.error, os.strerror(header.error))
        return payload

    def serve_one(self) -> Header:
        """Read one message; answer it if it is a command of the server's."""
        header = Header.unpack(self._read(HEADER.size))
        payload = self._read(header.size - HEADER.size)
        if header.type == TYPE_REPLY:
            self._replies[header.message_id] = header, payload
        else:
            self._serve_dma(header, payload)
        return header

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self.socket.recv(size - len(data))
            if not part:
                raise ConnectionResetError("the server has closed the connection")
            data += part
        return data

    def _serve_dma(self, header: Header, payload: bytes) -> None:
        self.dma_messages += 1
        address, count = DMA_ACCESS.unpack_from(payload)
        for base, memory in self.remote.items():
            place = address - base
            if place >= 0 and place + count <= len(memory):
                break
        else:
            self._answer(header, b"", TYPE_REPLY | F_ERROR, 14)
            return
        if header.command == Command.DMA_READ:
            self._answer(header, payload + memory[place : place + count])
        else:
            memory[place : place + count] = payload[DMA_ACCESS.size :]
            self._answer(header, payload[: DMA_ACCESS.size])

    def _answer(
        self, header: Header, payload: bytes, flags: int = TYPE_REPLY, error: int = 0
    ) -> None:
        message = pack_message(header.message_id, header.command, payload, flags, error)
        self.send_bytes(message)

    # What a machine does

    def negotiate(self, minor: int = 0, **capabilities: Any) -> dict[str, Any]:
        """Exchange versions; return the server's capabilities."""
        answer = self.ask(Command.VERSION, pack_version(0, minor, capabilities or None))
        return unpack_version(answer)[2]

    def device_info(self) -> tuple[int, int, int]:
        """Return flags, number of regions, number of interrupt kinds."""
        answer = self.ask(Command.DEVICE_GET_INFO, DEVICE_INFO.pack(DEVICE_INFO.size, 0, 0, 0))
        _, flags, regions, interrupts = DEVICE_INFO.unpack(answer)
        return flags, regions, interrupts

    def region_info(self, index: int) -> tuple[int, int]:
        """Return a region's flags and size."""
        question = REGION_INFO.pack(REGION_INFO.size, 0, index, 0, 0, 0)
        _, flags, _, _, size, _ = REGION_INFO.unpack(
            self.ask(Command.DEVICE_GET_REGION_INFO, question)
        )
        return flags, size

    def irq_info(self, index: int) -> tuple[int, int]:
        """Return an interrupt kind's flags and how many there are."""
        question = IRQ_INFO.pack(IRQ_INFO.size, 0, index, 0)
        _, flags, _, count = IRQ_INFO.unpack(self.ask(Command.DEVICE_GET_IRQ_INFO, question))
        return flags, count

    def read(self, region: int, offset: int, size: int = 4) -> int:
        """Read registers: a little-endian number."""
        answer = self.ask(Command.REGION_READ, REGION_ACCESS.pack(offset, region, size))
        return int.from_bytes(answer[REGION_ACCESS.size :], "little")

    def write(self, region: int, offset: int, value: int, size: int = 4) -> None:
        """Write registers, and wait until that is done."""
        self.ask(Command.REGION_WRITE, _write(region, offset, value, size))

    def post(self, region: int, offset: int, value: int, size: int = 4) -> None:
        """Write registers without waiting."""
        self.tell(Command.REGION_WRITE, _write(region, offset, value, size), flags=F_NO_REPLY)

    def reset(self) -> None:
        """Reset the card."""
        self.ask(Command.DEVICE_RESET)

    def map(self, address: int, size: int, flags: int = READ_WRITE) -> mmap.mmap:
        """Share memory; return it."""
        fd = os.memfd_create("vmwire-bench-ram", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, size)
            self.map_fd(address, size, fd, flags=flags)
            return mmap.mmap(fd, size)
        finally:
            os.close(fd)

    def map_fd(
        self, address: int, size: int, fd: int, *, offset: int = 0, flags: int = READ_WRITE
    ) -> None:
        """Share a part of a file."""
        self.ask(Command.DMA_MAP, DMA_MAP.pack(DMA_MAP.size, flags, offset, address, size), [fd])

    def map_remote(self, address: int, size: int, flags: int = READ_WRITE) -> bytearray:
        """Let the card have memory by messages; return it."""
        self.ask(Command.DMA_MAP, DMA_MAP.pack(DMA_MAP.size, flags, 0, address, size))
        memory = self.remote[address] = bytearray(size)
        return memory

    def unmap(self, address: int, size: int) -> None:
        """Take memory back."""
        self.ask(Command.DMA_UNMAP, DMA_UNMAP.pack(DMA_UNMAP.size, 0, address, size))
        self.remote.pop(address, None)

    def unmap_all(self) -> None:
        """Take all memory back."""
        self.ask(Command.DMA_UNMAP, DMA_UNMAP.pack(DMA_UNMAP.size, DMA_UNMAP_ALL, 0, 0))
        self.remote.clear()

    def set_irqs(
        self,
        index: int,
        flags: int,
        start: int = 0,
        count: int = 1,
        data: bytes = b"",
        fds: Sequence[int] = (),
    ) -> None:
        """Send SET_IRQS."""
        payload = IRQ_SET.pack(IRQ_SET.size + len(data), flags, index, start, count) + data
        self.ask(Command.DEVICE_SET_IRQS, payload, fds)

    def wire(self, index: int, start: int = 0, count: int = 1) -> list[int]:
        """Give interrupts an event descriptor each; return those (the caller's to close)."""
        fds = [os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(count)]
        self.set_irqs(index, DATA_EVENTFD | ACTION_TRIGGER, start, count, fds=fds)
        return fds

    def unmask(self, index: int = INTX, start: int = 0) -> None:
        """Say that the guest has looked after an interrupt."""
        self.set_irqs(index, DATA_NONE | ACTION_UNMASK, start)


def fired(fd: int) -> int:
    """Return how often an event descriptor was signalled since it was asked last."""
    try:
        return os.eventfd_read(fd)
    except BlockingIOError:
        return 0


def _write(region: int, offset: int, value: int, size: int) -> bytes:
    return REGION_ACCESS.pack(offset, region, size) + value.to_bytes(size, "little")
