# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What to write into a virtual machine's command line, or XML, to reach a card that is served.

Text only. Memory is shared with the network, which is
why each recipe names it: a card works with any size.
"""

from __future__ import annotations

from dataclasses import dataclass
from shlex import quote

from vmwire.nic.options import VirtioNetOptions, qemu_properties
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
    options: VirtioNetOptions
    """What QEMU is told of it: ``netdev`` is the vhost-user one, which is called ``id``."""

    @property
    def mac(self) -> str:
        return format_mac(self.options.mac or b"")


def qemu(card: Card) -> list[str]:
    """QEMU's arguments, one line each."""
    pairs = card.options.queue_pairs
    queues = f",queues={pairs}" if pairs > 1 else ""
    return [
        f"-m {MEMORY} -object memory-backend-memfd,id=mem,size={MEMORY},share=on",
        "-machine memory-backend=mem",
        f"-chardev {quote(f'socket,id={card.id},path={escape(card.socket)},reconnect-ms=1000')}",
        f"-netdev vhost-user,id={card.id},chardev={card.id}{queues}",
        f"-device {quote(str(qemu_properties(card.options)))}",
    ]


def cloud_hypervisor(card: Card) -> list[str]:
    path = f'"{card.socket}"' if "," in card.socket else card.socket
    net = f"vhost_user=true,socket={path},mac={card.mac},num_queues={2 * card.options.queue_pairs}"
    return [f"--memory size={MEMORY},shared=on --net {quote(net)}"]


def libvirt(card: Card) -> list[str]:
    """The interface, and what the domain needs besides."""
    pairs = card.options.queue_pairs
    return [
        "<interface type='vhostuser'>",
        f"  <mac address='{card.mac}'/>",
        f"  <source type='unix' path='{_attribute(card.socket)}' mode='client'>",
        "    <reconnect enabled='yes' timeout='1'/>",
        "  </source>",
        "  <model type='virtio'/>",
        *([f"  <driver queues='{pairs}'/>"] if pairs > 1 else []),
        "</interface>",
        "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>",
    ]


def _attribute(text: str) -> str:
    """Text between single quotes in XML."""
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), ("'", "&apos;")):
        text = text.replace(character, entity)
    return text


NOTES = """\
QEMU before 9.2 spells reconnect-ms=1000 as reconnect=1; 7.2 without KVM wants vectors=0 on the
device. Several cards of one VM share its memory options. libvirt runs VMs as a user of its own:
choose a --socket-dir that this user can enter."""


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
    return "\n".join([*parts, NOTES]) if cards else ""


def _section(title: str, lines: list[str], continued: str = "") -> list[str]:
    body = [f"    {line}{continued}" for line in lines[:-1]]
    return [f"  {title}:", *body, f"    {lines[-1]}"]
