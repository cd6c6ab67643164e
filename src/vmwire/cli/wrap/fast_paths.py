# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Netdevs whose virtio-net card never meets QEMU: somebody else reads the guest's rings.

A tap with vhost is served by the host's kernel, a vhost-user netdev by another program. Nothing
that vmwire puts in between makes that faster. QEMU does the same only for a card that is joined to
the netdev directly: on a hub, or with another card, it moves each frame itself.
"""

from __future__ import annotations

from vmwire.cli.wrap.survey import Entry


def mover(netdev: Entry) -> str | None:
    """Who moves the frames of a virtio-net card on this netdev; None if QEMU does."""
    if netdev.type == "vhost-user" and netdev.get("file") is None:  # which QEMU doesn't take
        return "the program at its socket"
    if netdev.type == "tap" and _has_vhost(netdev):
        return "the kernel (vhost)"
    return None


def _has_vhost(tap: Entry) -> bool:
    """As QEMU decides it: by ``vhost=`` alone if that is given."""
    if tap.get("vhost") is not None:
        return tap.is_on("vhost")
    given = tap.get("vhostfd") is not None or tap.get("vhostfds") is not None
    return given or tap.is_on("vhostforce")
