# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What netdevs have in common that end in a tap of the host's.

The tap outlives this process: its queues' descriptors are in the fd store, from which the next
process takes them. A subclass makes a tap where there is none yet.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod

from vmwire.engine.host import Host
from vmwire.errors import ConfigError
from vmwire.netdev import tun
from vmwire.netdev.tap_port import TapPort, stored_tap


class HostTap(TapPort, ABC):
    """A tap of the host's as a netdev."""

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.interface = ""
        """The interface's name, once there is one."""
        self._id = id
        self._host: Host | None = None
        self._prepared: list[int] = []
        self._kept = 0

    # For the subclass

    @abstractmethod
    def _make(self) -> list[int]:
        """Return the descriptors of the queues of a tap. Raises ``ConfigError`` or ``OSError``."""

    # The box

    def prepare(self) -> None:
        """Make a tap before ``open``, by whatever program."""
        self._prepared = self._make()

    def finish(self) -> None:
        """Nothing is owed."""

    def open(self, host: Host) -> None:
        """Take the tap of an earlier process, or make one, and leave copies in the store."""
        self._host = host
        fds = self._kept_by(host) or self._prepared or self._make()
        self._prepared = []
        try:
            taps = [tun.adopt(fd) for fd in fds]
        except OSError as error:
            for fd in fds:
                os.close(fd)
            raise ConfigError(f"what was given is not a tap's: {error.strerror}") from None
        self.interface, header = taps[0]
        for queue, fd in enumerate(fds):
            host.store.keep(stored_tap(self._id, queue), fd)
        self._kept = len(fds)
        self.take(fds, host.loop, header=header)

    def close(self) -> None:
        """Let the tap go; one that we made is then no more. Harmless when called twice."""
        super().close()
        for fd in self._prepared:
            os.close(fd)
        self._prepared = []
        if self._host is not None:
            for queue in range(self._kept):
                self._host.store.drop(stored_tap(self._id, queue))
            self._kept = 0

    def stats(self) -> dict[str, object]:
        """Return the port's counters, the interface's name and the number of queues."""
        return {**super().stats(), "interface": self.interface, "queues": len(self.queues)}

    def _kept_by(self, host: Host) -> list[int]:
        fds: list[int] = []
        while (fd := host.store.take(stored_tap(self._id, len(fds)))) is not None:
            fds.append(fd)
        return fds
