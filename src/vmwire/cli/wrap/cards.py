# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Which cards can be served, and in which way: the two kinds of `Attach`.

``vhost-user``: virtio-net. QEMU keeps the card, and what it moves is served. QEMU offers a guest
only what the back end offers too. For most features that changes speed and nothing else. Those in
`MUST_BE_OFF` change what the guest relies on: with ``iommu_platform`` QEMU refuses to start, the
others vanish without a word (watched on 7.2 and 11.1), so a user who asked for one keeps QEMU's
network. A property in neither table is one that vmwire hasn't met: the same.

``vfio-user``: PCI cards register by register (virtio-net, too, with the card's own property
``attach=vfio-user``, which QEMU doesn't know). QEMU's part is a ``vfio-user-pci`` in the same slot;
all properties of the card are served, or say why not (`vmwire.nic.pci_options` judges), so what
``-global`` and ``-set`` say of the card is translated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vmwire.cli.wrap.cmdline import names
from vmwire.cli.wrap.values import OFF, Values, text

WITHOUT_MSIX = "virtio-net-device"  # on virtio-mmio: it has one interrupt and no `vectors`


@dataclass(slots=True, frozen=True)
class Attach:
    """One way to serve cards."""

    name: str
    drivers: Mapping[str, str]
    """Each name of a card, and the type of `vmwire.registry` that serves it."""
    models: Mapping[str, str]
    """Models of ``-nic``, and the card that they mean on every machine that has it."""
    parents: tuple[str, ...]
    """What a ``-global`` may name for these cards: types that they are made from."""
    replaces_card: bool
    """Whether another device stands for the card in QEMU, and the netdev goes."""


_VIRTIO_PCI = names(
    "virtio-net virtio-net-pci virtio-net-pci-transitional virtio-net-pci-non-transitional"
)
_VIRTIO = _VIRTIO_PCI | {"virtio-net-device"}
_E1000 = ("e1000", "e1000-82544gc", "e1000-82545em")
_INTEL = {name: name for name in (*_E1000, "e1000e")}
_MADE_FROM = {"e1000-base": _E1000}
"""Types that only some of a kind's cards are made from."""

VHOST_USER = Attach(
    name="vhost-user",
    drivers=dict.fromkeys(_VIRTIO, "virtio-net-pci"),
    models={**{name: name for name in _VIRTIO_PCI - {"virtio-net"}}, "virtio": "virtio-net-pci"},
    parents=("virtio-net", "virtio-pci", "virtio-device", "pci-device", "virtio-bus"),
    replaces_card=False,
)
VFIO_USER = Attach(
    name="vfio-user",
    drivers={
        **_INTEL,
        "e1000-82540em": "e1000",
        **{name: name for name in _VIRTIO_PCI - {"virtio-net"}},
        "virtio-net": "virtio-net-pci",
    },
    models=_INTEL,
    parents=("e1000-base", "pci-device"),
    replaces_card=True,
)
KINDS = (VHOST_USER, VFIO_USER)


def attach_of(driver: str, wish: str | None = None) -> Attach | None:
    """How a card is served, by the user's ``attach=`` if there is one; None if it isn't."""
    kinds = [kind for kind in KINDS if driver in kind.drivers]
    return next((kind for kind in kinds if wish in (None, kind.name)), None)


def types_of(attach: Attach, driver: str) -> tuple[str, ...]:
    """What a ``-global`` may name for a card: its own type, and those that it is made from."""
    own = attach.drivers[driver]
    return (own, *(each for each in attach.parents if own in _MADE_FROM.get(each, (own,))))


def attach_of_model(model: str) -> Attach | None:
    """How the card of a ``-nic`` is served; None if it isn't."""
    return next((kind for kind in KINDS if model in kind.models), None)


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


def unserved_values(properties: Values) -> str | None:
    """Why a virtio-net card with these properties stays with QEMU."""
    reasons = (unserved_property(name, text(properties, name) or "") for name in properties)
    return next((reason for reason in reasons if reason), None)


def wants_vectors(properties: Values) -> bool:
    """Whether the user asks for MSI-X in so many words."""
    return text(properties, "vectors") not in (None, "0")
