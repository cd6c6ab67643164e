# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The properties of ``-device virtio-net-pci``, of its two fixed-generation sisters, and of
``virtio-net-device``, the card without a PCI slot.

A card that is served over vhost-user has two halves, and so have its properties:

* *Ours.* The feature switches decide which bits the back end offers (`VirtioNetOptions.features`),
  so they hold for every virtual machine monitor, also for one that has no such switch of its own.
  ``mq`` and ``queues`` decide how many pairs of queues there are; ``netdev`` and ``socket`` say
  what the card is joined to.
* *The machine's.* The PCI function, its configuration space and the control queue belong to the
  virtual machine. Those properties are checked here by QEMU's rules and handed on in the arguments
  that are printed for it (`qemu_properties`).

Nothing else is taken: a property of QEMU's that would need the back end's help and doesn't have it
yet (``packed``, ``rss`` ...) is an error, not a promise. Defaults are QEMU's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from vmwire.bus.virtio import features as bits
from vmwire.errors import ConfigError
from vmwire.options.syntax import OptionList
from vmwire.options.table import option, record, table_of
from vmwire.options.values import (
    BOOL,
    IDENTIFIER,
    INT32,
    ON_OFF_AUTO,
    STRING,
    UINT16,
    UINT32,
    ChoiceType,
    ParsedType,
    check_socket_path,
    format_mac,
    parse_mac,
    said,
)

MAX_QUEUE_PAIRS = 8
MIN_QUEUE_SIZE = 256
MAX_QUEUE_SIZE = 1024  # QEMU's limit, also for transmit rings when the back end is vhost-user
ALL_VECTORS = 0xFFFFFFFF  # QEMU's "as many as there are queues"
MAX_VECTORS = 2048  # PCI 3.0, section 6.8.2: the size of an MSI-X table

LATER = (
    "aer", "ats", "busnr", "ebpf-rss-fds", "failover",
    "failover_pair_id", "gso", "guest_rsc_ext", "guest_tunnel", "guest_tunnel_csum", "guest_ufo",
    "hash", "hash-ipv4", "hash-ipv6", "hash-ipv6ex", "hash-tcp4", "hash-tcp6", "hash-tcp6ex",
    "hash-udp4", "hash-udp6", "hash-udp6ex", "host_tunnel", "host_tunnel_csum", "host_ufo",
    "in_order", "iommu_platform", "packed", "romsize", "rsc_interval", "rss", "sriov-pf", "tx",
    "use-disabled-flag", "use-started", "x-txburst", "x-txtimer",
)  # fmt: skip


_MAC = ParsedType(
    result=bytes,
    parse=said(parse_mac, "Property '{device}.{key}' doesn't take value '{value}'"),
    written=format_mac,
)


def _switch(feature: int) -> Any:
    """A feature that the back end offers unless it is switched off."""
    return option(BOOL, default=True, feature=feature)


def _machine(default: bool) -> Any:
    """A switch of the virtual machine's own."""
    return option(BOOL, default=default)


def _control(feature: int) -> Any:
    """A feature that the machine offers where it keeps the card, and we do where we have it."""
    return option(BOOL, default=True, feature=feature)


@dataclass(slots=True, kw_only=True)
class VirtioNetOptions:
    """What all generations of the card have.

    >>> from vmwire.bus.virtio.features import VIRTIO_NET_F_CSUM, VIRTIO_NET_F_MTU, names
    >>> card = VirtioNetPciOptions(id="n0", netdev="u", csum=False, host_mtu=1500)
    >>> names(card.features(VIRTIO_NET_F_CSUM | VIRTIO_NET_F_MTU))
    ['mtu']
    >>> str(qemu_properties(card))
    'virtio-net-pci,id=n0,netdev=u,csum=off,host_mtu=1500'
    """

    id: str | None = option(IDENTIFIER, hidden=True)
    netdev: str | None = option(
        STRING, owner="virtio-net-device", help="id of the netdev that the card is joined to"
    )
    mac: bytes | None = option(
        _MAC, owner="virtio-net-device", help="address of the card, like 52:54:00:12:34:56"
    )

    csum: bool = _switch(bits.VIRTIO_NET_F_CSUM)
    guest_csum: bool = _switch(bits.VIRTIO_NET_F_GUEST_CSUM)
    guest_tso4: bool = _switch(bits.VIRTIO_NET_F_GUEST_TSO4)
    guest_tso6: bool = _switch(bits.VIRTIO_NET_F_GUEST_TSO6)
    guest_ecn: bool = _switch(bits.VIRTIO_NET_F_GUEST_ECN)
    guest_uso4: bool = _switch(bits.VIRTIO_NET_F_GUEST_USO4)
    guest_uso6: bool = _switch(bits.VIRTIO_NET_F_GUEST_USO6)
    host_tso4: bool = _switch(bits.VIRTIO_NET_F_HOST_TSO4)
    host_tso6: bool = _switch(bits.VIRTIO_NET_F_HOST_TSO6)
    host_ecn: bool = _switch(bits.VIRTIO_NET_F_HOST_ECN)
    host_uso: bool = _switch(bits.VIRTIO_NET_F_HOST_USO)
    mrg_rxbuf: bool = _switch(bits.VIRTIO_NET_F_MRG_RXBUF)
    guest_announce: bool = _switch(bits.VIRTIO_NET_F_GUEST_ANNOUNCE)
    any_layout: bool = _switch(bits.VIRTIO_F_ANY_LAYOUT)
    indirect_desc: bool = _switch(bits.VIRTIO_RING_F_INDIRECT_DESC)
    event_idx: bool = _switch(bits.VIRTIO_RING_F_EVENT_IDX)

    mq: bool = option(BOOL, default=False, feature=bits.VIRTIO_NET_F_MQ)
    queues: int = option(
        UINT16,
        default=1,
        ours=True,
        help=f"pairs of queues with mq=on, 1 to {MAX_QUEUE_PAIRS}",
    )
    socket: str | None = option(
        STRING, ours=True, help="path of the vhost-user socket, instead of one in a private folder"
    )

    bootindex: int | None = option(INT32)
    ctrl_guest_offloads: bool = _control(bits.VIRTIO_NET_F_CTRL_GUEST_OFFLOADS)
    ctrl_mac_addr: bool = _control(bits.VIRTIO_NET_F_CTRL_MAC_ADDR)
    ctrl_rx: bool = _control(bits.VIRTIO_NET_F_CTRL_RX)
    ctrl_rx_extra: bool = _control(bits.VIRTIO_NET_F_CTRL_RX_EXTRA)
    ctrl_vlan: bool = _control(bits.VIRTIO_NET_F_CTRL_VLAN)
    ctrl_vq: bool = _control(bits.VIRTIO_NET_F_CTRL_VQ)
    duplex: str | None = option(STRING)
    host_mtu: int = option(UINT16, default=0)
    notify_on_empty: bool = _control(bits.VIRTIO_F_NOTIFY_ON_EMPTY)
    queue_reset: bool = _control(bits.VIRTIO_F_RING_RESET)
    rx_queue_size: int = option(UINT16, default=MIN_QUEUE_SIZE)
    speed: int = option(INT32, default=-1)
    status: bool = _control(bits.VIRTIO_NET_F_STATUS)
    tx_queue_size: int = option(UINT16, default=MIN_QUEUE_SIZE)

    def __post_init__(self) -> None:
        _check_queue_size("rx_queue_size", self.rx_queue_size, ".")
        _check_queue_size("tx_queue_size", self.tx_queue_size, "")
        if self.duplex not in (None, "half", "full"):
            raise ConfigError("'duplex' must be 'half' or 'full'")
        if self.speed < -1:
            raise ConfigError("'speed' must be between 0 and INT_MAX")
        self._check_ours()

    def _check_ours(self) -> None:
        if not 1 <= self.queues <= MAX_QUEUE_PAIRS:
            raise ConfigError(f"Parameter 'queues' expects a number from 1 to {MAX_QUEUE_PAIRS}")
        if self.queues > 1 and not self.mq:
            raise ConfigError(f"queues={self.queues} needs mq=on")
        check_socket_path(self.socket)

    @property
    def driver(self) -> str:
        """QEMU's name of the card."""
        return table_of(type(self)).name

    @property
    def queue_pairs(self) -> int:
        """Pairs of queues that the back end serves."""
        return self.queues if self.mq else 1

    def features(self, offered: int) -> int:
        """The bits that are left of a back end's ``offered`` ones."""
        for entry in table_of(type(self)).entries.values():
            if not getattr(self, entry.field):
                offered &= ~entry.option.feature
        return offered


def _check_queue_size(name: str, size: int, end: str) -> None:
    if size & size - 1 or not MIN_QUEUE_SIZE <= size <= MAX_QUEUE_SIZE:
        raise ConfigError(
            f"Invalid {name} (= {size}), must be a power of 2 between"
            f" {MIN_QUEUE_SIZE} and {MAX_QUEUE_SIZE}{end}"
        )


@dataclass(slots=True, kw_only=True)
class VirtioNetSlotOptions(VirtioNetOptions):
    """What the cards for a PCI slot have besides."""

    ROM_FILE: ClassVar[str] = "efi-virtio.rom"
    """The expansion ROM that QEMU gives to such a card."""

    attach: str = option(
        ChoiceType("str", words=("vhost-user", "vfio-user"), syntax="vhost-user/vfio-user"),
        default="vhost-user",
        ours=True,
        help="whether the machine keeps the card, or all of it is served",
    )

    acpi_index: int = option(UINT32, key="acpi-index", default=0)
    addr: str | None = option(STRING, help="slot and function, like 06.0")
    bus: str | None = option(STRING, hidden=True)
    ioeventfd: bool = _machine(True)
    modern_pio_notify: bool = option(BOOL, key="modern-pio-notify", default=False)
    multifunction: bool = _machine(False)
    page_per_vq: bool = option(BOOL, key="page-per-vq", default=False)
    rombar: int = option(INT32, default=-1)
    romfile: str | None = option(STRING)
    vectors: int = option(UINT32, default=ALL_VECTORS)

    @property
    def face(self) -> tuple[bool, bool]:
        """Whether there are a legacy and a modern interface."""
        return True, True

    @property
    def ROM_DEVICE(self) -> int | None:
        """The device id that QEMU writes into that ROM."""
        legacy, _ = self.face
        return 0x1000 if legacy else 0x1041

    @property
    def msix_vectors(self) -> int:
        """Entries of the MSI-X table: unless said otherwise one a queue, and the configuration's.

        With more than there can be there is no MSI-X, as QEMU does it.
        """
        if self.vectors == ALL_VECTORS:
            return 2 * self.queue_pairs + 2
        return self.vectors if self.vectors <= MAX_VECTORS else 0


@record("device", "virtio-net-pci", aliases=("virtio-net",), later=LATER, bus="PCI")
@dataclass(slots=True, kw_only=True)
class VirtioNetPciOptions(VirtioNetSlotOptions):
    """The card whose generation follows from the slot that it sits in."""

    disable_legacy: str = option(ON_OFF_AUTO, key="disable-legacy", default="auto")
    disable_modern: bool = option(BOOL, key="disable-modern", default=False)

    def __post_init__(self) -> None:
        VirtioNetOptions.__post_init__(self)  # super() doesn't find its way in a slotted dataclass
        if self.disable_legacy == "on" and self.disable_modern:
            raise ConfigError("device cannot work as neither modern nor legacy mode is enabled")

    @property
    def face(self) -> tuple[bool, bool]:
        return self.disable_legacy != "on", not self.disable_modern


@record("device", "virtio-net-pci-non-transitional", later=LATER, bus="PCI")
@dataclass(slots=True, kw_only=True)
class VirtioNetPciModernOptions(VirtioNetSlotOptions):
    """The card of virtio 1.x only."""

    @property
    def face(self) -> tuple[bool, bool]:
        return False, True


@record("device", "virtio-net-pci-transitional", later=LATER, bus="PCI")
@dataclass(slots=True, kw_only=True)
class VirtioNetPciTransitionalOptions(VirtioNetSlotOptions):
    """The card that a legacy driver can use too."""


@record("device", "virtio-net-device", later=LATER, bus="virtio-bus")
@dataclass(slots=True, kw_only=True)
class VirtioNetDeviceOptions(VirtioNetOptions):
    """The card for one of a machine's virtio-mmio places, of which the bench has some."""

    force_legacy: bool = option(
        BOOL,
        key="force-legacy",
        default=True,
        ours=True,
        help="on/off, whether the place is one of version 1 (QEMU has it at the place, not here)",
    )


def qemu_properties(card: VirtioNetOptions) -> OptionList:
    """What stands behind ``-device`` for QEMU: every property that isn't QEMU's default."""
    return table_of(type(card)).to_options(card, for_qemu=True)
