# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A vhost-user connection as plain data: put down, and brought back by the next worker."""

from __future__ import annotations

import os
from dataclasses import astuple
from typing import TYPE_CHECKING, Any

from vmwire.attach.vhost_user.kept import Keeping
from vmwire.attach.vhost_user.ring import Ring
from vmwire.bus.protocol import ProtocolError
from vmwire.bus.virtio.vhost_user import LogInfo, RegionInfo, Request, RingAddresses
from vmwire.engine.memory import map_log

if TYPE_CHECKING:
    from vmwire.attach.vhost_user.backend import Backend


def save(backend: Backend) -> dict[str, Any]:
    """All that the front end has said."""
    return {
        "features": backend.features,
        "protocol": backend.protocol_features,
        "mtu": backend.nic.mtu,
        "regions": [astuple(info) for info in backend.memory.infos],
        "log": None if backend.log_info is None else astuple(backend.log_info),
        "rings": [_save_ring(ring) for ring in backend.rings.values()],
    }


def _save_ring(ring: Ring) -> tuple[Any, ...]:
    addresses = None if ring.addresses is None else astuple(ring.addresses)
    lead = ring.lead if ring.runs else None
    fds = [int(which) for which in ring.fds]
    return ring.index, ring.size, ring.base, ring.enabled, addresses, lead, fds


def restore(backend: Backend, state: dict[str, Any], keeping: Keeping) -> None:
    """Bring a fresh ``backend`` to where the state's was. ValueError, MappingError: it can't be.

    Rings are started last, and touched only when the loop runs.
    """
    try:
        _restore(backend, state, keeping)
    except (KeyError, TypeError) as error:
        raise ValueError(f"a state that makes no sense: {error!r}") from None


def _restore(backend: Backend, state: dict[str, Any], keeping: Keeping) -> None:
    _agree(backend, state["features"], state["protocol"])
    if state["mtu"] is not None:
        backend.nic.set_mtu(state["mtu"])
    for info in (RegionInfo(*each) for each in state["regions"]):
        fd = keeping.take_region(info)
        try:
            backend.memory.add(info, fd)
        finally:
            os.close(fd)
    if state["log"] is not None:
        _restore_log(backend, LogInfo(*state["log"]), keeping.take_log())
    leads = {}
    for index, size, base, enabled, addresses, lead, fds in state["rings"]:
        ring = _known_ring(backend, index)
        ring.size, ring.base = size, base
        ring.addresses = None if addresses is None else RingAddresses(*addresses)
        for which in map(Request, fds):
            ring.fds[which] = keeping.take_ring(index, which)
        leads[index] = lead
        backend.enable(ring, enabled)
    for index, lead in leads.items():
        if lead is not None:
            start_again(backend, backend.rings[index], lead)


def _agree(backend: Backend, features: int, protocol_features: int) -> None:
    """Take on what was negotiated with an earlier worker."""
    if features & ~backend.offered or protocol_features & ~backend.PROTOCOL_FEATURES:
        raise ValueError("features that are not offered any more")
    backend.features, backend.protocol_features = features, protocol_features
    backend.nic.negotiate(features & backend.nic.offered)


def _known_ring(backend: Backend, index: int) -> Ring:
    try:
        return backend.ring(index)
    except ProtocolError as error:
        raise ValueError(str(error)) from None


def start_again(backend: Backend, ring: Ring, lead: int) -> None:
    """Start a ring where its memory says that whoever served it was. ValueError: it can't be."""
    backend.start(ring)
    if ring.queue is None:
        raise ValueError(f"ring {ring.index} can't start again")
    ring.lead = lead
    ring.queue.position = (ring.queue.used_index + lead) & 0xFFFF
    ring.notify()  # of what was completed and perhaps not told


def _restore_log(backend: Backend, info: LogInfo, fd: int) -> None:
    try:
        backend.use_log(map_log(fd, info.size, info.offset), info)
    finally:
        os.close(fd)
