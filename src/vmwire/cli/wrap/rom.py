# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A card's default expansion ROM, made out to the card.

Firmware runs a ROM only if the ids in it are the card's. One file serves several cards: QEMU writes
the card's ids into its copy of a default ROM (PCI Firmware Specification 3.x, 5.1.2: data structure
"PCIR", with the ids, at the offset in the word at 18h; the bytes of the image sum up to zero). It
leaves a ROM that is named by ``romfile=`` as it is, so a device that stands for such a card has to
be given a copy that is made out to the card already.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

SIGNATURE = b"\x55\xaa"
POINTER = 0x18
DEVICE_ID = 6  # in the data structure, behind "PCIR" and the vendor's id
CHECKSUM = 6  # behind the jump, which is three bytes long: this one may be anything


def find(name: str, folders: Iterable[str]) -> bytes | None:
    """The file's content, from the first folder that has it."""
    for folder in folders:
        try:
            with open(os.path.join(folder, name), "rb") as file:
                return file.read()
        except OSError:
            continue
    return None


def made_out_to(image: bytes, device: int) -> bytes:
    """The ROM with another device id. What isn't such a ROM stays as it is."""
    if len(image) < POINTER + 2 or not image.startswith(SIGNATURE):
        return image
    at = int.from_bytes(image[POINTER : POINTER + 2], "little")
    if image[at : at + 4] != b"PCIR" or at + DEVICE_ID + 2 > len(image):
        return image
    changed = bytearray(image)
    old = changed[at + DEVICE_ID : at + DEVICE_ID + 2]
    new = device.to_bytes(2, "little")
    changed[at + DEVICE_ID : at + DEVICE_ID + 2] = new
    changed[CHECKSUM] = (changed[CHECKSUM] + sum(old) - sum(new)) & 0xFF
    return bytes(changed)
