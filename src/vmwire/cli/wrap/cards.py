# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Whether the card at a netdev can be served: it must be virtio-net, with nothing that a vhost-user
back end without that feature would silently take away.

QEMU offers a guest only what the back end offers too. For most features that changes speed and
nothing else. Those in `MUST_BE_OFF` change what the guest relies on: with ``iommu_platform`` QEMU
refuses to start, the others vanish without a word (watched on 7.2 and 11.1), so a user who asked
for one keeps QEMU's network. A property in neither table is one that vmwire hasn't met: the same.
"""

from __future__ import annotations

from vmwire.cli.wrap.cmdline import names
from vmwire.cli.wrap.survey import Entry
from vmwire.cli.wrap.values import OFF, Values, text

DRIVERS = frozenset(
    (
        "virtio-net",
        "virtio-net-pci",
        "virtio-net-pci-transitional",
        "virtio-net-pci-non-transitional",
        "virtio-net-device",
    )
)
SERVED_AS = "virtio-net-pci"
WITHOUT_MSIX = "virtio-net-device"  # on virtio-mmio: it has one interrupt and no `vectors`

# Models of ``-nic`` that mean a virtio-net card on every machine that has one.
NIC_MODELS = {
    "virtio": "virtio-net-pci",
    "virtio-net-pci": "virtio-net-pci",
    "virtio-net-pci-transitional": "virtio-net-pci-transitional",
    "virtio-net-pci-non-transitional": "virtio-net-pci-non-transitional",
}

# What a ``-global`` may set for these cards: the driver, or a type that it is made from.
FAMILY = ("virtio-net", "virtio-pci", "virtio-device", "pci-device", "virtio-bus")

ANY_VALUE = names("""
    acpi-index addr aer any_layout bootindex bus busnr csum ctrl_guest_offloads ctrl_mac_addr
    ctrl_rx ctrl_rx_extra ctrl_vlan ctrl_vq disable-legacy disable-modern driver duplex
    event_idx gso guest_announce guest_csum guest_ecn guest_tso4 guest_tso6 guest_tunnel
    guest_tunnel_csum guest_ufo guest_uso4 guest_uso6 host_ecn host_mtu host_tso4 host_tso6
    host_tunnel host_tunnel_csum host_ufo host_uso id indirect_desc ioeventfd mac migrate-extra
    modern-pio-notify mq mrg_rxbuf multifunction netdev notify_on_empty page-per-vq queue_reset
    rombar romfile romsize rsc_interval rx_queue_size speed status tx tx_queue_size
    use-disabled-flag use-started vectors virtio-pci-bus-master-bug-migration x-ats-page-aligned
    x-disable-legacy-check x-disable-pcie x-mtu-bypass-backend x-pcie-deverr-init x-pcie-ext-tag
    x-pcie-extcap-init x-pcie-flr-init x-pcie-lnkctl-init x-pcie-lnksta-dllla x-pcie-pm-init
    x-pcie-pm-no-soft-reset x-txburst x-txtimer
""")

MUST_BE_OFF = names("""
    ats failover failover_pair_id guest_rsc_ext hash in_order iommu_platform packed rss
    x-ignore-backend-features
""")

_AS_IF_ABSENT = OFF | {"", "0", "auto"}


def unserved_property(name: str, value: str) -> str | None:
    """Why a card with this property stays with QEMU; None if it need not."""
    if name in ANY_VALUE:
        return None
    if name in MUST_BE_OFF or name.startswith("hash-"):
        return None if value in _AS_IF_ABSENT else f"the card's {name}={value} is not served"
    return f"the card's property '{name}' is not known to vmwire"


def unserved(card: Entry) -> str | None:
    """Why a ``-device`` stays with QEMU."""
    if card.type not in DRIVERS:
        return f"the card is {card.type or 'unnamed'}, only virtio-net cards are served"
    return unserved_values(card.values)


def unserved_values(properties: Values) -> str | None:
    reasons = (unserved_property(name, text(properties, name) or "") for name in properties)
    return next((reason for reason in reasons if reason), None)


def wants_vectors(properties: Values) -> bool:
    """Whether the user asks for MSI-X in so many words."""
    return text(properties, "vectors") not in (None, "0")
