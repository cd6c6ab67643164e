# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Memory of our own that is shared with a peer: a sealed memfd, handed out piece by piece.

A peer that maps it can write to it at any moment, but neither side can shrink it.
"""

from __future__ import annotations

import fcntl
import mmap
import os

from vmwire.engine.memory import GuestMemory, Region


class Arena:
    """Guest memory in a sealed memfd, from guest address ``base`` on, handed out piece by piece."""

    def __init__(self, size: int, base: int = 0) -> None:
        self.base = base
        self.size = size
        self.fd = os.memfd_create("vmwire-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, size)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        self._mapping = mmap.mmap(self.fd, size)
        self.memory = memoryview(self._mapping)
        self._next = 0

    def allocate(self, size: int, align: int = 16) -> int:
        """Return the guest address of ``size`` fresh bytes."""
        start = -(-self._next // align) * align
        if start + size > self.size:
            raise MemoryError(f"{size} bytes of an arena of {self.size}")
        self._next = start + size
        return self.base + start

    def view(self, address: int, size: int) -> memoryview:
        """Return the memory at a guest address."""
        start = address - self.base
        return self.memory[start : start + size]

    def write(self, address: int, data: bytes) -> None:
        """Put ``data`` at a guest address."""
        self.view(address, len(data))[:] = data

    def read(self, address: int, size: int) -> bytes:
        """Copy from a guest address."""
        return bytes(self.view(address, size))

    def guest_memory(self) -> GuestMemory:
        """Return what a device sees of this arena, without any socket in between."""
        return GuestMemory([Region(self.base, self.memory[:])])

    def close(self) -> None:
        """Unmap, as far as nobody looks any more."""
        self.memory.release()
        try:
            self._mapping.close()
        except BufferError:
            pass
        os.close(self.fd)
