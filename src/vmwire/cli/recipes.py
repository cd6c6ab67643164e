# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What to write into a virtual machine's command line, or XML, to reach a card that is served.

Text only. Memory is shared with the network, which is
why each recipe names it: a card works with any size.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from shlex import quote
from typing import Any

from vmwire.nic.options import VirtioNetOptions, VirtioNetSlotOptions, qemu_properties
from vmwire.nic.pci_options import PciNicOptions, slot_properties
from vmwire.options.syntax import escape
from vmwire.options.values import format_mac

MEMORY = "1G"
"""A size for the reader to change."""


@dataclass(slots=True, frozen=True)
class Card:
    """A card as the recipes need it."""

    id: str
    socket: str
    netdev: str
    """What it is joined to, in the network that is served."""
    options: VirtioNetOptions | PciNicOptions
    """What QEMU is told of it: ``id`` is the one that the user gave, if any."""

    @property
    def mac(self) -> str:
        return format_mac(self.options.mac or b"")

    @property
    def way(self) -> Way:
        served_whole = getattr(self.options, "attach", None) == "vfio-user"
        return (
            VFIO if served_whole else next(w for w in WAYS if isinstance(self.options, w.options))
        )


@dataclass(slots=True, frozen=True)
class Way:
    """How machines reach cards of one kind: each function makes a machine's lines."""

    options: type[Any]
    qemu: Callable[[Card], list[str]]
    cloud_hypervisor: Callable[[Card], list[str]]
    libvirt: Callable[[Card], list[str]]


def qemu(card: Card) -> list[str]:
    """QEMU's arguments, one line each."""
    return [
        f"-m {MEMORY} -object memory-backend-memfd,id=mem,size={MEMORY},share=on",
        "-machine memory-backend=mem",
        *card.way.qemu(card),
    ]


def cloud_hypervisor(card: Card) -> list[str]:
    (words,) = card.way.cloud_hypervisor(card)
    return [f"--memory size={MEMORY},shared=on {words}"]


def libvirt(card: Card) -> list[str]:
    """What stands for the card, and what the domain needs besides."""
    shared = "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"
    return [*card.way.libvirt(card), shared]


# --- vhost-user: the machine has a virtio card ----------------------------------------------------


def _vhost_qemu(card: Card) -> list[str]:
    options = _virtio(card)
    queues = f",queues={options.queue_pairs}" if options.queue_pairs > 1 else ""
    device = qemu_properties(replace(options, netdev=card.id))
    return [
        f"-chardev {quote(f'socket,id={card.id},path={escape(card.socket)},reconnect-ms=1000')}",
        f"-netdev vhost-user,id={card.id},chardev={card.id}{queues}",
        f"-device {quote(str(device))}",
    ]


def _vhost_cloud_hypervisor(card: Card) -> list[str]:
    queues = 2 * _virtio(card).queue_pairs
    net = f"vhost_user=true,socket={_listed(card.socket)},mac={card.mac},num_queues={queues}"
    return [f"--net {quote(net)}"]


def _vhost_libvirt(card: Card) -> list[str]:
    pairs = _virtio(card).queue_pairs
    return [
        "<interface type='vhostuser'>",
        f"  <mac address='{card.mac}'/>",
        f"  <source type='unix' path='{_attribute(card.socket)}' mode='client'>",
        "    <reconnect enabled='yes' timeout='1'/>",
        "  </source>",
        "  <model type='virtio'/>",
        *([f"  <driver queues='{pairs}'/>"] if pairs > 1 else []),
        "</interface>",
    ]


def _virtio(card: Card) -> VirtioNetOptions:
    assert isinstance(card.options, VirtioNetOptions)
    return card.options


# --- vfio-user: the whole card is served ----------------------------------------------------------


def _vfio_device(card: Card) -> str:
    """The device that stands for the card, in JSON: QEMU takes a socket in no other form."""
    assert isinstance(card.options, PciNicOptions | VirtioNetSlotOptions)
    device: dict[str, Any] = {"driver": "vfio-user-pci", "id": card.id}
    device |= {**slot_properties(card.options), "socket": {"type": "unix", "path": card.socket}}
    return json.dumps(device, separators=(",", ":"), ensure_ascii=False)


def _vfio_qemu(card: Card) -> list[str]:
    return [f"-device {quote(_vfio_device(card))}"]


def _vfio_cloud_hypervisor(card: Card) -> list[str]:
    return [f"--user-device {quote(f'socket={_listed(card.socket)}')}"]


def _vfio_libvirt(card: Card) -> list[str]:
    """libvirt doesn't know such devices; its domain's first line has to declare the namespace."""
    return [
        "<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>",
        "<qemu:commandline>",
        "  <qemu:arg value='-device'/>",
        f"  <qemu:arg value='{_attribute(_vfio_device(card))}'/>",
        "</qemu:commandline>",
    ]


VHOST = Way(VirtioNetOptions, _vhost_qemu, _vhost_cloud_hypervisor, _vhost_libvirt)
VFIO = Way(PciNicOptions, _vfio_qemu, _vfio_cloud_hypervisor, _vfio_libvirt)
WAYS = (VHOST, VFIO)


def _listed(path: str) -> str:
    """A path as Cloud Hypervisor takes it in a list."""
    return f'"{path}"' if "," in path else path


def _attribute(text: str) -> str:
    """Text between single quotes in XML."""
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), ("'", "&apos;")):
        text = text.replace(character, entity)
    return text


NOTES = """\
Several cards of one VM share its memory options. libvirt runs VMs as a user of its own: choose a
--socket-dir that this user can enter."""
VHOST_NOTES = """\
QEMU before 9.2 spells reconnect-ms=1000 as reconnect=1; 7.2 without KVM wants vectors=0 on the
device."""
VFIO_NOTES = """\
vfio-user-pci is there since QEMU 10.1. For network boot add "romfile":"efi-e1000.rom" (e1000),
"efi-e1000e.rom" (e1000e), or "efi-virtio.rom" (virtio-net with disable-legacy=on, whose id is in
that file)."""


def text(cards: list[Card]) -> str:
    """All recipes of all cards."""
    parts = []
    for card in cards:
        joined = f"on {card.netdev}" if card.netdev else "joined to nothing"
        parts += [
            f"{card.id}: {joined}, mac {card.mac}",
            f"  socket {card.socket}",
            *_section("QEMU", qemu(card), " \\"),
            *_section("Cloud Hypervisor", cloud_hypervisor(card)),
            *_section("libvirt", libvirt(card)),
            "",
        ]
    notes = [VHOST_NOTES] if any(card.way is VHOST for card in cards) else []
    notes += [VFIO_NOTES] if any(card.way is VFIO for card in cards) else []
    return "\n".join([*parts, *notes, NOTES]) if cards else ""


def _section(title: str, lines: list[str], continued: str = "") -> list[str]:
    body = [f"    {line}{continued}" for line in lines[:-1]]
    return [f"  {title}:", *body, f"    {lines[-1]}"]
