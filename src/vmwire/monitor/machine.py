# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What the monitor's commands see of a machine: its PCI functions, its state, its resets.

Only a vmwire in QEMU's place has one (`vmwire.cli.headless` is it, over the bench); a daemon
that serves other people's machines has none, and its monitor answers without. Everything here is
called in the engine's thread.

Cards come and go by the `Network`: ``device_add`` is ``Network.add_nic``, which seats the card in
the machine because the network of such a process makes its cards that way. ``device_del`` is
``unplug``: it only asks the guest, which ejects the slot when it likes, or the bus's reset does.
The card is taken out of the network then, and ``on_event`` is told ``DEVICE_DELETED``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from vmwire.bench.pci_view import ROM_BAR, PciFunctionView, PciRegion

__all__ = ["ROM_BAR", "Machine", "OnEvent", "PciFunctionView", "PciRegion"]

OnEvent = Callable[[str, Mapping[str, Any]], None]
"""Told an event's name and its data, as QMP has them."""


class Machine(Protocol):
    """The machine that a monitor belongs to."""

    name: str
    """``pc`` or ``none``."""
    on_event: OnEvent
    """Set by the monitor."""

    @property
    def running(self) -> bool:
        """False between ``stop`` and ``cont``."""

    def stop(self) -> None:
        """Pause; cards take no frames from the wire. STOP is told if it was running."""

    def cont(self) -> None:
        """Go on. RESUME is told if it was stopped."""

    def pci_functions(self) -> list[PciFunctionView]:
        """All functions of bus 0, by slot and function."""

    def reset(self) -> None:
        """Reset the machine and all cards; RESET is told. What waits to be unplugged goes."""

    def unplug(self, id: str) -> None:
        """Ask the guest to let a card go. ConfigError if the machine has no such card, or it was
        asked already."""

    def quit(self) -> None:
        """End the process, once what was answered is sent. SHUTDOWN is told."""
