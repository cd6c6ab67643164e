# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""How a card interrupts: by its pin's level, by MSI or by MSI-X (PCI 3.0, sections 2.2.6 and 6.8).

Software chooses in configuration space, and may change its mind at any time; the chip needn't know.

==============  ===========================  ================================
in use          ``set_level``                ``notify(vector)``
==============  ===========================  ================================
pin             the line follows, unless     nothing
                INTx is disabled
MSI             a rise sends message 0       sends it (folded into as many as
                                             are allowed)
MSI-X           nothing                      sends it
==============  ===========================  ================================

A message that is masked is latched as a pending bit and sent when the mask goes.

A virtual machine monitor may keep the masks and the MSI-X table itself and show its guest its own
(VFIO clients do). With ``machine_masks`` set every message goes out at once and the machine holds
it back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from vmwire.bus.pci.capabilities import MsiX
from vmwire.bus.pci.config import ConfigSpace

ENTRY_SIZE = 16
CONTROL = 12
"""Where an MSI-X table entry's control word is; its bit 0 masks the vector."""
MSI_CONTROL = 2
MSIX_CONTROL = 2


class Machine(Protocol):
    """Where interrupts arrive."""

    def intx(self, up: bool) -> None:
        """The line's level has changed."""

    def msi(self, vector: int) -> None:
        """A message of MSI."""

    def msix(self, vector: int) -> None:
        """A message of MSI-X."""


class MessageTable:
    """MSI-X's table and pending bits, as they lie in a BAR."""

    def __init__(self, vectors: int) -> None:
        self.vectors = vectors
        self.entries = bytearray()
        self.pending = 0
        """One bit for each vector."""
        self.reset()

    def reset(self) -> None:
        """Every vector is masked."""
        self.entries[:] = (bytes(CONTROL) + b"\1\0\0\0") * self.vectors
        self.pending = 0

    def masked(self, vector: int) -> bool:
        return bool(self.entries[ENTRY_SIZE * vector + CONTROL] & 1)

    def message(self, vector: int) -> tuple[int, int]:
        """Return a vector's address and data."""
        entry = self.entries[ENTRY_SIZE * vector : ENTRY_SIZE * (vector + 1)]
        return int.from_bytes(entry[:8], "little"), int.from_bytes(entry[8:CONTROL], "little")

    def load(self, offset: int, size: int) -> int:
        return int.from_bytes(self.entries[offset : offset + size], "little")

    def store(self, offset: int, size: int, value: int) -> int:
        """Write within one entry; return its vector."""
        self.entries[offset : offset + size] = value.to_bytes(size, "little")
        vector = offset // ENTRY_SIZE
        base = ENTRY_SIZE * vector
        self.entries[base] &= 0xFC  # messages are whole dwords
        self.entries[base + CONTROL] &= 1
        self.entries[base + CONTROL + 1 : base + ENTRY_SIZE] = bytes(3)
        return vector

    def load_pending(self, offset: int, size: int) -> int:
        return self.pending >> 8 * offset & (1 << 8 * size) - 1


class Interrupts:
    """One card's interrupts: what its chip raises, what its machine sees.

    The owner calls ``on_config_changed`` after each write to configuration space.
    """

    def __init__(self, machine: Machine, config: ConfigSpace) -> None:
        self._machine = machine
        self._config = config
        self._msi = config.msi
        self._msix: MsiX | None = config.msix
        self.table = MessageTable(0 if self._msix is None else self._msix.vectors)
        self.machine_masks = False
        self.level = False
        """The chip's pin, whatever is in use."""
        self.line = False
        """The level that the machine sees."""
        self.msi_enabled = False
        self.msix_enabled = False
        self._all_masked = False
        self._intx_disabled = False

    @property
    def machine(self) -> Machine:
        """Where interrupts go. A new one is taken to see the line low, and is told if it isn't."""
        return self._machine

    @machine.setter
    def machine(self, machine: Machine) -> None:
        self._machine = machine
        if self.line:
            machine.intx(True)

    # What the chip does

    def set_level(self, up: bool) -> None:
        """Raise or lower the pin. With MSI in use a rise sends message 0."""
        if up == self.level:
            return
        self.level = up
        if self.msix_enabled:
            return
        if not self.msi_enabled:
            self._show_pin(up)
        elif up:
            self._send_msi(0)

    def notify(self, vector: int) -> None:
        """Send a message (kept pending while it is masked)."""
        if self.msix_enabled:
            if 0 <= vector < self.table.vectors:
                self._send_msix(vector)
        elif self.msi_enabled:
            self._send_msi(vector)

    def forget(self, vectors: int) -> None:
        """Drop MSI-X messages that are kept pending: one bit for each vector."""
        self.table.pending &= ~vectors

    # What software does

    def on_config_changed(self) -> None:
        """Look again at what is in use and what is masked."""
        read = self._config.read
        self._intx_disabled = self._config.intx_disabled
        if self._msi is not None:
            self.msi_enabled = bool(read(self._msi.offset + MSI_CONTROL, 2) & 1)
        if self._msix is not None:
            control = read(self._msix.offset + MSIX_CONTROL, 2)
            self.msix_enabled = bool(control & MsiX.ENABLE)
            self._all_masked = bool(control & MsiX.MASK_ALL)
        self._show_pin(self.level and not (self.msi_enabled or self.msix_enabled))
        self._send_pending()

    def store_table(self, offset: int, size: int, value: int) -> None:
        """Write to the MSI-X table (within one entry), by way of a BAR."""
        vector = self.table.store(offset, size, value)
        if self.table.pending >> vector & 1 and self._sendable(vector):
            self._release(vector)

    def msi_message(self, vector: int) -> tuple[int, int]:
        """Return the address and data that MSI's ``vector`` writes."""
        msi, read = self._msi, self._config.read
        assert msi is not None
        address = read(msi.offset + 4, 8 if msi.wide else 4)
        data = read(msi.offset + msi.data_offset, 2)
        return address, data & ~(self._allowed() - 1) | vector

    def msix_message(self, vector: int) -> tuple[int, int]:
        """Return the address and data that MSI-X's ``vector`` writes."""
        return self.table.message(vector)

    # State

    def reset(self) -> None:
        """As at power-on: nothing raised, nothing pending, every vector masked."""
        self.level = self.msi_enabled = self.msix_enabled = False
        self._all_masked = self._intx_disabled = False
        self.table.reset()
        self._set_msi_pending(0)
        self._show_pin(False)

    def save(self) -> dict[str, Any]:
        """Return the state as plain data (configuration space is saved by its owner)."""
        table = self.table
        return {
            "level": self.level,
            "table": bytes(table.entries),
            "pending": table.pending,
            "msi pending": self._msi_pending(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take on what ``save`` gave, after configuration space was restored."""
        entries = state.get("table")
        if not isinstance(entries, bytes) or len(entries) != len(self.table.entries):
            raise ValueError("no MSI-X table of this card")
        pending = _bits(state, "pending", self.table.vectors)
        msi_pending = _bits(state, "msi pending", 0 if self._msi is None else self._msi.vectors)
        self.table.entries[:] = entries
        self.table.pending = pending
        self._set_msi_pending(msi_pending)
        self.level = bool(state.get("level"))
        self.on_config_changed()

    # The pin

    def _show_pin(self, up: bool) -> None:
        self._config.set_interrupt_status(up)
        line = up and not self._intx_disabled
        if line != self.line:
            self.line = line
            self._machine.intx(line)

    # MSI

    def _allowed(self) -> int:
        """How many messages software lets the card use."""
        assert self._msi is not None
        exponent = self._config.read(self._msi.offset + MSI_CONTROL, 2) >> 4 & 7
        return min(1 << exponent, self._msi.vectors)

    def _send_msi(self, vector: int) -> None:
        vector %= self._allowed()
        if self._msi_masks() >> vector & 1 and not self.machine_masks:
            self._set_msi_pending(self._msi_pending() | 1 << vector)
        else:
            self._machine.msi(vector)

    def _msi_masks(self) -> int:
        msi = self._msi
        if msi is None or not msi.maskable:
            return 0
        return self._config.read(msi.offset + msi.mask_offset, 4)

    def _msi_pending(self) -> int:
        msi = self._msi
        if msi is None or not msi.maskable:
            return 0
        return self._config.read(msi.offset + msi.mask_offset + 4, 4)

    def _set_msi_pending(self, bits: int) -> None:
        msi = self._msi
        if msi is not None and msi.maskable:
            self._config.show(msi.offset + msi.mask_offset + 4, 4, bits)

    # MSI-X

    def _sendable(self, vector: int) -> bool:
        if self.machine_masks:
            return True
        return self.msix_enabled and not (self._all_masked or self.table.masked(vector))

    def _send_msix(self, vector: int) -> None:
        if self._sendable(vector):
            self._machine.msix(vector)
        else:
            self.table.pending |= 1 << vector

    def _release(self, vector: int) -> None:
        self.table.pending &= ~(1 << vector)
        self._machine.msix(vector)

    def _send_pending(self) -> None:
        if self.msix_enabled:
            pending = self.table.pending
            while pending:
                vector = (pending & -pending).bit_length() - 1
                pending &= pending - 1
                if self._sendable(vector):
                    self._release(vector)
        elif self.msi_enabled and (ready := self._msi_pending() & ~self._msi_masks()):
            self._set_msi_pending(self._msi_pending() & ~ready)
            for vector in range(ready.bit_length()):
                if ready >> vector & 1:
                    self._machine.msi(vector)


def _bits(state: Mapping[str, Any], name: str, most: int) -> int:
    """Fetch up to ``most`` bits from a saved state."""
    bits = state.get(name)
    if not isinstance(bits, int) or bits < 0 or bits >> most:
        raise ValueError(f"{name}: not {most} bits")
    return bits
