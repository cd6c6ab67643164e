# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What the monitor calls PCI's classes (PCI Code and ID Assignment Specification)."""

from __future__ import annotations

CLASSES = {
    0x0101: "IDE controller",
    0x0200: "Ethernet controller",
    0x0280: "Ethernet controller",
    0x0600: "Host bridge",
    0x0601: "ISA bridge",
    0x0604: "PCI bridge",
    0x0680: "Bridge",
    0x0700: "Serial port",
}


def class_name(code: int) -> str:
    """The name of a class and subclass.

    >>> class_name(0x0200), class_name(0xFF00)
    ('Ethernet controller', 'Class 65280')
    """
    return CLASSES.get(code, f"Class {code:04d}")
