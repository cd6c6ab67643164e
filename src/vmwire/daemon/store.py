# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The fd store: descriptors that outlive the worker.

The keeper has the originals. A worker is forked from the keeper and so is born with all of them;
from then on it has a copy of each name's descriptor and tells the keeper of every change. Because
both know everything, either can be lost: a new worker inherits from the keeper, and a new keeper
is filled by the worker.

A listening socket in the store stays open while nobody accepts on it: peers who connect during a
restart wait in its queue instead of being refused. A machine's connection is here, too, with all
descriptors that came over it and a memory file of state, so that the machine doesn't notice which
worker it talks to (`attach.vfio_user.kept`, `attach.vhost_user.kept`).
"""

from __future__ import annotations

import os
import threading

from vmwire.daemon.channel import Channel
from vmwire.daemon.made import Made


class KeptFds:
    """Descriptors by name, owned."""

    def __init__(self) -> None:
        self._fds: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._fds)

    def items(self) -> list[tuple[str, int]]:
        return list(self._fds.items())

    def fds(self) -> list[int]:
        return list(self._fds.values())

    def get(self, name: str) -> int | None:
        return self._fds.get(name)

    def put(self, name: str, fd: int) -> None:
        """Own ``fd`` from now on as ``name``, instead of what had the name."""
        self.drop(name)
        self._fds[name] = fd

    def drop(self, name: str) -> None:
        fd = self._fds.pop(name, None)
        if fd is not None:
            os.close(fd)

    def copy(self) -> KeptFds:
        """The same once more: descriptors of its own."""
        twin = KeptFds()
        for name, fd in self._fds.items():
            twin.put(name, os.dup(fd))
        return twin

    def close(self) -> None:
        for name in list(self._fds):
            self.drop(name)


class WorkerStore:
    """The worker's side (an `engine.host.FdStore`), for use from any thread.

    ``made`` is where files of sockets are written down.
    """

    def __init__(
        self, channel: Channel, kept: KeptFds, on_trial: bool = False, made: Made | None = None
    ) -> None:
        self.on_trial = on_trial
        self._made = made
        self._channel = channel
        self._kept = kept
        self._lock = threading.Lock()

    def take(self, name: str) -> int | None:
        with self._lock:
            fd = self._kept.get(name)
            return None if fd is None else os.dup(fd)

    def keep(self, name: str, fd: int) -> None:
        with self._lock:
            self._kept.put(name, os.dup(fd))
            self._channel.send({"keep": name}, [fd])
            if self._made is not None:
                self._made.note_socket(name, fd)

    def drop(self, name: str) -> None:
        with self._lock:
            self._kept.drop(name)
            self._channel.send({"drop": name})
            if self._made is not None:
                self._made.forget(name)

    def move_to(self, channel: Channel) -> None:
        """Tell another keeper from now on, beginning with all there is."""
        with self._lock:
            for name, fd in self._kept.items():
                channel.send({"keep": name}, [fd])
            self._channel = channel
