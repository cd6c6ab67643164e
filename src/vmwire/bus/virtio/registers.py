# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What the registers of a virtio device mean wherever they lie (virtio 1.2, sections 4.1.4, 4.2.2):
features by halves, one ring at a time, the device's configuration."""

from __future__ import annotations

from vmwire.bus.pci.chip import Slot
from vmwire.bus.virtio.device import Function, Ring, VirtioDevice

HALF = 0xFFFFFFFF


class VirtioRegisters:
    """The part that transports share; each has its own places for it. ``slot.interrupts`` has the
    device's line."""

    def __init__(self, slot: Slot, function: Function) -> None:
        self.device = VirtioDevice(function, slot.dma, slot.timers)
        self._function = function
        self._line = slot.interrupts
        self._feature_select = self._driver_feature_select = self._queue_select = 0

    @property
    def _ring(self) -> Ring | None:
        """The one that the driver has selected."""
        return self.device.ring(self._queue_select)

    def _load_config(self, offset: int, size: int) -> int:
        """Read the device's configuration; what lies behind it is all ones."""
        config = self._function.config()[offset : offset + size]
        return int.from_bytes(config.ljust(size, b"\xff"), "little")

    def _store_config(self, offset: int, size: int, value: int) -> None:
        self.device.revision += 1
        self._function.write_config(offset, value.to_bytes(size, "little"))

    def _offered_half(self, legacy: bool) -> int:
        """The selected half of the device's features."""
        if self._feature_select > 1:
            return 0
        return self.device.offered(legacy) >> 32 * self._feature_select & HALF

    def _choose_half(self, value: int) -> None:
        """The driver's features: the selected half."""
        shift = 32 * self._driver_feature_select
        if shift <= 32:
            rest = self.device.features & ~(HALF << shift)
            self.device.choose_features(rest | value << shift, False)

    def _set_status(self, value: int, legacy: bool = False) -> None:
        self.device.set_status(value, legacy)
        if not value:
            self._line.set_level(False)

    # The selected ring

    def _ring_number(self, name: str) -> int:
        ring = self._ring
        return 0 if ring is None else int(getattr(ring, name))

    def _set_ring_size(self, value: int) -> None:
        ring = self._ring
        if ring is not None and not ring.enabled and 0 < value <= ring.most:
            self.device.revision += 1
            ring.size = value

    def _set_ring_address(self, name: str, shift: int, value: int) -> None:
        """Half of where a part of the ring is. A ring in use can't move."""
        ring = self._ring
        if ring is not None and not ring.enabled:
            self.device.revision += 1
            rest = getattr(ring, name) & ~(HALF << shift)
            setattr(ring, name, rest | value << shift)

    def _reset_ring(self, value: int) -> None:
        ring = self._ring
        if ring is not None and value == 1:
            self.device.reset_ring(ring)
