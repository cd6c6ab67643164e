# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The types that ``qom-list-types`` gives: what vmwire has, in QEMU's tree of types.

The tree's branches are declared here, its leaves are the cards that the catalogue has. A type *is*
its ancestors and its interfaces, as far as ``implements`` asks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vmwire import catalogue

DEVICE = "device"


@dataclass(frozen=True, slots=True)
class QomType:
    """One type. ``interfaces`` are those that it has beside its parent's."""

    name: str
    parent: str | None
    abstract: bool = False
    interfaces: tuple[str, ...] = ()
    on_machine: bool = False


_CONVENTIONAL = "conventional-pci-device"
_EXPRESS = "pci-express-device"

BRANCHES = (
    QomType("object", None, abstract=True),
    QomType("interface", None, abstract=True),
    QomType(_CONVENTIONAL, "interface", abstract=True),
    QomType(_EXPRESS, "interface", abstract=True),
    QomType("device", "object", abstract=True),
    QomType("pci-device", "device", abstract=True),
    QomType("isa-device", "device", abstract=True),
    QomType("sys-bus-device", "device", abstract=True),
    QomType("virtio-device", "device", abstract=True),
    QomType("e1000-base", "pci-device", abstract=True, interfaces=(_CONVENTIONAL,)),
    QomType("virtio-pci", "pci-device", abstract=True),
    QomType("virtio-net-pci-base", "virtio-pci", abstract=True),
)
MACHINE_PARTS = (
    QomType("machine", "object", abstract=True),
    QomType("pc-machine", "machine"),
    QomType("none-machine", "machine"),
    QomType("pci-host-bridge", "sys-bus-device", abstract=True),
    QomType("i440FX-pcihost", "pci-host-bridge"),
    QomType("i440FX", "pci-device", interfaces=(_CONVENTIONAL,)),
    QomType("pci-piix", "pci-device", abstract=True, interfaces=(_CONVENTIONAL,)),
    QomType("PIIX3", "pci-piix"),
    QomType("PIIX4_PM", "pci-device", interfaces=(_CONVENTIONAL,)),
    QomType("fw_cfg", "sys-bus-device", abstract=True),
    QomType("fw_cfg_io", "fw_cfg"),
)
"""What is there only where there is a machine of ours."""

PARENTS = {
    "e1000": ("e1000-base", ()),
    "e1000-82544gc": ("e1000-base", ()),
    "e1000-82545em": ("e1000-base", ()),
    "e1000e": ("pci-device", (_EXPRESS,)),
    "ne2k_isa": ("isa-device", ()),
    "virtio-net-device": ("virtio-device", ()),
    "virtio-net-pci": ("virtio-net-pci-base", (_CONVENTIONAL, _EXPRESS)),
    "virtio-net-pci-non-transitional": ("virtio-net-pci-base", (_EXPRESS,)),
    "virtio-net-pci-transitional": ("virtio-net-pci-base", (_CONVENTIONAL,)),
}
"""Parents and interfaces of cards; others are plain PCI devices."""
PLAIN = ("pci-device", (_CONVENTIONAL,))


def types(with_machine: bool) -> dict[str, QomType]:
    """All types by name."""
    found = [*BRANCHES, *(MACHINE_PARTS if with_machine else ())]
    for table in catalogue.tables(DEVICE):
        parent, interfaces = PARENTS.get(table.name, PLAIN)
        found.append(QomType(table.name, parent, interfaces=interfaces))
    return {each.name: each for each in found}


def listed(tree: dict[str, QomType], implements: str | None, abstract: bool) -> list[QomType]:
    """The types that are an ``implements``, abstract ones only if asked for."""
    return [
        each
        for each in tree.values()
        if (abstract or not each.abstract)
        and (implements is None or implements in _everything(tree, each))
    ]


def is_a(tree: dict[str, QomType], name: str, what: str) -> bool:
    """Whether there is a type ``name`` and it is a ``what``."""
    return name in tree and what in _everything(tree, tree[name])


def _everything(tree: dict[str, QomType], type: QomType) -> Iterator[str]:
    """The names of what a type is."""
    at: QomType | None = type
    while at is not None:
        yield at.name
        yield from at.interfaces
        at = tree.get(at.parent) if at.parent else None
