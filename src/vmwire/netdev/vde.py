# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A port of a VDE switch: ``-netdev vde,id=ID[,sock=FOLDER][,port=N][,group=GROUP][,mode=MODE]``.

The protocol is the switch's own (version 3), over Unix sockets in its folder. A *control*
connection to ``FOLDER/ctl`` says where our *data* socket is, and is answered with where the
switch's is; then each datagram is a frame. When the control connection ends the port is given
back, and the other way round. Numbers have the host's byte order.

    request: magic 0xfeedface, version 3, type (0: new port, with its number from bit 8 on),
             our address (sockaddr_un, 110 bytes), a description (128 bytes)
    answer:  its address (sockaddr_un)

Our data socket has a name without a file, which goes with us whatever ends us. Only the switch can
write to it, since it is connected. With ``group=`` or ``mode=`` it is a file in the switch's
folder with these rights, for switches that run as somebody else. A switch that goes away is looked
for again every second; the card sees its cable pulled until then.
"""

from __future__ import annotations

import grp
import logging
import os
import socket
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from struct import Struct

from vmwire.engine.host import Host
from vmwire.engine.loop import READ
from vmwire.errors import ConfigError
from vmwire.netdev.binding import clear_the_way, remove_own_file
from vmwire.netdev.datagram_line import Connected, DatagramLine, Wire
from vmwire.netdev.datagram_sockets import new
from vmwire.options.table import option, record
from vmwire.options.values import IDENTIFIER, STRING, UINT16

log = logging.getLogger(__name__)

MAGIC = 0xFEEDFACE
VERSION = 3
NEW_PORT = 0
PORT_SHIFT = 8
REQUEST = Struct("=III H108s 128s")
ADDRESS = Struct("=H108s")
assert (REQUEST.size, ADDRESS.size) == (250, 110)

FOLDERS = ("/var/run/vde.ctl", "/tmp/vde.ctl")
"""Where switches are by default: root's, and others'."""
FILES = ".vmwire-"
"""How our data sockets' files begin, where there are files."""
LARGEST = 9216 + 18
"""Bytes in a frame that a switch hands on."""
RETRY_S = 1.0
PATIENCE_S = 5.0
PRIVATE = 0o700


@record("netdev", "vde")
@dataclass(slots=True, kw_only=True)
class VdeOptions:
    """What a user can say about it."""

    id: str = option(IDENTIFIER, required=True)
    sock: str | None = option(STRING, help="the switch's folder")
    port: int | None = option(UINT16, help="the switch's port; 0: any that is free")
    group: str | None = option(STRING, help="group of our socket's file")
    mode: int | None = option(UINT16, help="rights of our socket's file, like 0770")

    def claim(self) -> tuple[VdeOptions, dict[str, int]]:
        """The same for a network in another folder."""
        return replace(self, sock=self.sock and os.path.abspath(self.sock)), {}

    def folder(self) -> str:
        """Where the switch is. Raises ``ConfigError``."""
        if self.sock is not None:
            return self.sock
        for folder in FOLDERS:
            if os.path.exists(f"{folder}/ctl"):
                return folder
        raise ConfigError(f"no switch is at {' or '.join(FOLDERS)}: sock= says where it is")


class VdeNetdev(DatagramLine):
    """The box."""

    OPTIONS = VdeOptions

    def __init__(self, options: VdeOptions) -> None:
        super().__init__(options.id, self._plug)
        self._options = options
        self._control: socket.socket | None = None
        self._closed = False

    def open(self, host: Host) -> None:
        """Join the switch; ``ConfigError`` if there is none."""
        self._host = host
        super().open(host)
        assert self._control is not None
        host.loop.watch(self._control.fileno(), READ, self._on_control)

    def close(self) -> None:
        """Give the port back. Harmless when called twice."""
        self._closed = True
        self._unplug()

    def _unplug(self) -> None:
        control, self._control = self._control, None
        if control is not None:
            self._host.loop.unwatch(control.fileno())
            control.close()
        super().close()

    def _on_control(self, events: int) -> None:
        """The switch says nothing more there: it has gone."""
        assert self._control is not None
        with suppress(BlockingIOError):
            if self._control.recv(4096):
                return
        log.warning("%s: the switch has gone", self.port.name)
        self._unplug()
        self.port.set_link(False)
        self._host.loop.call_later(RETRY_S, self._plug_again)

    def _plug_again(self) -> None:
        if self._closed:
            return
        try:
            self.open(self._host)
        except ConfigError:
            self._host.loop.call_later(RETRY_S, self._plug_again)
            return
        log.warning("%s: the switch is back", self.port.name)
        self.port.set_link(True)

    def _plug(self, host: Host) -> Wire:
        folder = self._options.folder()
        try:
            with new(socket.AF_UNIX, socket.SOCK_STREAM) as control, new(socket.AF_UNIX) as data:
                control.settimeout(PATIENCE_S)
                control.connect(f"{folder}/ctl")
                name = self._bind(data, folder)
                data.connect(self._asked(control, name))
                control.setblocking(False)
        except OSError as error:
            reason = error.strerror or error
            raise ConfigError(f"can't join the switch at {folder}: {reason}") from None
        self._control = control
        farewell = partial(remove_own_file, data)
        return Wire(data, Connected(data), f"vde={folder}", LARGEST, farewell=farewell)

    def _bind(self, data: socket.socket, folder: str) -> bytes:
        """Give the data socket an address; return it."""
        options = self._options
        own = f"{os.getpid()}-{options.id}"
        if options.mode is None and options.group is None:
            # The switch answers to all 108 bytes of an address, with its zeros.
            name = f"\0vmwire-vde-{own}-{id(data):x}".encode()[:108].ljust(108, b"\0")
            data.bind(name)
            return name
        _clear_stale(folder)
        path = f"{folder}/{FILES}{own}"
        data.bind(path)
        os.chmod(path, PRIVATE if options.mode is None else options.mode)
        if options.group is not None:
            os.chown(path, -1, _group(options.group))
        return os.fsencode(path)

    def _asked(self, control: socket.socket, name: bytes) -> bytes:
        """Ask for a port; the address of the switch's end."""
        number = (self._options.port or 0) << PORT_SHIFT | NEW_PORT
        about = f"vmwire {self._options.id} pid={os.getpid()}".encode()[:127]
        control.sendall(REQUEST.pack(MAGIC, VERSION, number, socket.AF_UNIX, name, about))
        answer = control.recv(ADDRESS.size, socket.MSG_WAITALL)
        if len(answer) < ADDRESS.size:
            which = f"port {self._options.port}" if self._options.port else "a port"
            raise ConfigError(f"the switch doesn't give us {which}")
        address: bytes = ADDRESS.unpack(answer)[1]
        return address if address[:1] == b"\0" else address.partition(b"\0")[0]


def _group(name: str) -> int:
    try:
        return int(name) if name.isdigit() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError(f"there is no group '{name}'") from None


def _clear_stale(folder: str) -> None:
    """Remove files of ours behind which nobody is any more."""
    for path in Path(folder).glob(f"{FILES}*"):
        clear_the_way(str(path), socket.SOCK_DGRAM)
