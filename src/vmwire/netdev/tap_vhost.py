# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A tap's devices in the kernel (``vhost_net``): opened here, or by the caller (``vhostfd=``).

What the caller opened can be *owned* by one process only, and a dead owner's doesn't become free
while anybody has a copy. So it leaves the fd store before it is owned, and comes back disowned when
this process hands the network over. After a crash it is gone, and one is opened here.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from functools import partial

from vmwire.engine.host import Host, NoStore
from vmwire.errors import ConfigError
from vmwire.netdev.vhost_net import VHOST_NET, Device

log = logging.getLogger(__name__)


def stored_device(id: str, pair: int) -> str:
    """The name in the fd store of a device that the caller opened for the tap ``id``."""
    return f"{id}.vhost{pair}"


def check(fd: int) -> None:
    """Raises ``ConfigError`` for a caller's descriptor that isn't a device's."""
    try:
        Device(fd)
    except OSError as error:
        raise ConfigError(
            f"file descriptor {fd} is not one of {VHOST_NET}: {error.strerror}"
        ) from None
    os.set_inheritable(fd, False)


class TapDevices:
    """The devices of the tap ``id``, one for each of its ``count`` queues."""

    def __init__(self, host: Host, id: str, count: int, given: Sequence[int], force: bool) -> None:
        self.devices: list[Device] = []
        self._store = host.store
        self._id = id
        self._kept: dict[str, Device] = {}
        """Those that were the caller's, by their names in the store."""
        try:
            self._open(count, given)
        except OSError as error:
            self._close()
            self._complain(f"Could not open '{VHOST_NET}': {error.strerror}", force and not given)
        except BaseException:
            self._close()
            raise

    def _complain(self, text: str, force: bool) -> None:
        if force:
            raise ConfigError(text)
        log.warning("%s: %s: frames are moved by vmwire itself", self._id, text)

    def _open(self, count: int, given: Sequence[int]) -> None:
        for fd in given if isinstance(self._store, NoStore) else ():
            check(fd)
            self.devices.append(Device(fd))
        if given and not self.devices:
            self._take(count)
        for _ in range(count - len(self.devices)):
            fd = os.open(VHOST_NET, os.O_RDWR | os.O_CLOEXEC)
            self.devices.append(Device(fd))

    def _take(self, count: int) -> None:
        """Take what the caller opened, if no process has owned it and died."""
        for pair in range(count):
            name = stored_device(self._id, pair)
            fd = self._store.take(name)
            if fd is not None:
                device = self._kept[name] = Device(fd)
                device.before_owned = partial(self._store.drop, name)
                self.devices.append(device)

    def hand_over(self) -> None:
        """Leave to a successor what was the caller's."""
        for name, device in self._kept.items():
            device.disown()
            self._store.keep(name, device.fd)

    def close(self) -> None:
        """Let all go."""
        for name in self._kept:
            self._store.drop(name)
        self._kept = {}
        self._close()

    def _close(self) -> None:
        for device in self.devices:
            device.close()
        self.devices = []
