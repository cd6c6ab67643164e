# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A tap of the host's: ``-netdev tap``.

    tap,id=ID[,ifname=NAME][,script=FILE][,downscript=FILE]   one that is made, or there already
    tap,id=ID,fd=N   tap,id=ID,fds=N:M                        one that the caller opened
    tap,id=ID,helper=HELPER[,br=BRIDGE]                       one that a helper puts on a bridge

A tap that is made goes when the network does. One that was there before (``ip tuntap add``) stays;
whoever owns it needs no rights to use it. Scripts are run with the interface's name
(``network_scripts``): one when it is made, one when it is let go, whatever ends us.

With ``vhost=on`` the kernel serves the rings of a card that is joined to it directly and can hand
them on (``vhost_net``); with any other card, or with something in between, frames are moved here.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace

from vmwire.bus.virtio.features import VIRTIO_NET_F_HOST_USO
from vmwire.engine.host import Host
from vmwire.errors import ConfigError
from vmwire.netdev import tap_vhost, tun
from vmwire.netdev.bridge_helper import DEFAULT_BRIDGE, tap_by_helper
from vmwire.netdev.host_tap import HostTap
from vmwire.netdev.network_scripts import Farewell, run
from vmwire.netdev.tap_port import stored_tap
from vmwire.netdev.tap_vhost import TapDevices, stored_device
from vmwire.netdev.vhost_net import VhostNet
from vmwire.options.table import option, record
from vmwire.options.values import BOOL, IDENTIFIER, SIZE, STRING, UINT32
from vmwire.wire.frame import Gso

log = logging.getLogger(__name__)

UP_SCRIPT = "/etc/qemu-ifup"
DOWN_SCRIPT = "/etc/qemu-ifdown"
NO_SCRIPT = ("no", "")
MOST_SEND_BUFFER = 0x7FFFFFFF


@record("netdev", "tap")
@dataclass(slots=True, kw_only=True)
class TapOptions:
    """What a user can say about it."""

    id: str = option(IDENTIFIER, required=True)
    ifname: str | None = option(STRING, help="the interface's name, at most 15 bytes")
    script: str | None = option(STRING, help=f"run for the interface (no: none; or {UP_SCRIPT})")
    downscript: str | None = option(STRING, help=f"run at the end (no: none; or {DOWN_SCRIPT})")
    fd: str | None = option(STRING, help="descriptor of a tap that the caller opened")
    fds: str | None = option(STRING, help="descriptors of a tap's queues, like 5:6")
    helper: str | None = option(STRING, help="program that makes a tap on a bridge")
    br: str | None = option(STRING, help=f"the bridge for helper= (or {DEFAULT_BRIDGE})")
    sndbuf: int | None = option(SIZE, help="bytes under way to the host's network; 0: any number")
    vnet_hdr: bool | None = option(BOOL, key="vnet_hdr", help="on/off, whether work is left undone")
    queues: int | None = option(UINT32, help="queues of the tap")
    vhost: bool | None = option(BOOL, help="on: the kernel serves a virtio-net card's rings")
    vhostfd: str | None = option(STRING, help="descriptor of a /dev/vhost-net that is open")
    vhostfds: str | None = option(STRING, help="one for each of the tap's queues, like 7:8")
    vhostforce: bool = option(BOOL, default=False, help="vhost=on, and nothing else will do")
    poll_us: int | None = option(UINT32, help="microseconds that the kernel polls idle rings")

    def __post_init__(self) -> None:
        if sum(each is not None for each in (self.fd, self.fds, self.helper, self.queues)) > 1:
            raise ConfigError("queues=, helper=, fds= and fd= are mutual exclusive")
        given = self.fd is not None or self.fds is not None or self.helper is not None
        ours = (self.ifname, self.script, self.downscript, self.vnet_hdr)
        if given and any(each is not None for each in ours):
            raise ConfigError(
                "ifname=, script=, downscript=, vnet_hdr= are invalid with fd=/fds=/helper="
            )
        if self.queues == 0:
            raise ConfigError("queues must be greater than zero")
        if self.br is not None and self.helper is None:
            raise ConfigError("br= needs helper= (-netdev bridge,br= does without)")
        self.given_fds()
        self._check_vhost()

    def _check_vhost(self) -> None:
        if self.vhostfd is not None and self.vhostfds is not None:
            raise ConfigError("vhostfds= and vhostfd= are mutual exclusive")
        given = self.given_vhost_fds()
        if given and self.vhost is False:
            raise ConfigError("vhostfd(s)= is not valid without vhost")
        if given and len(given) != self.count:
            raise ConfigError(
                f"vhostfd(s)= of {self.count} queues takes as many descriptors, got {len(given)}"
            )

    @property
    def count(self) -> int:
        """How many queues the tap has."""
        return self.queues or len(self.given_fds()) or 1

    @property
    def wants_vhost(self) -> bool:
        """Whether the kernel is to serve rings: ``vhost=`` says it, or what else makes it so."""
        if self.vhost is None:
            return self.vhostforce or bool(self.given_vhost_fds())
        return self.vhost

    def given_fds(self) -> list[int]:
        """The descriptors that the caller opened."""
        return _numbers(self.fd, self.fds)

    def given_vhost_fds(self) -> list[int]:
        """The kernel's devices that the caller opened."""
        return _numbers(self.vhostfd, self.vhostfds)

    def claim(self) -> tuple[TapOptions, dict[str, int]]:
        """The same, and what is to be in the fd store, for a network in another process and
        folder."""
        fds = self.given_fds()
        for fd in fds:
            _adopt(fd)
        devices = self.given_vhost_fds()
        for fd in devices:
            tap_vhost.check(fd)
        there = replace(self, script=_there(self.script), downscript=_there(self.downscript))
        taps = {stored_tap(self.id, queue): fd for queue, fd in enumerate(fds)}
        return there, taps | {stored_device(self.id, pair): fd for pair, fd in enumerate(devices)}


class TapNetdev(HostTap):
    """The box."""

    OPTIONS = TapOptions

    def __init__(self, options: TapOptions) -> None:
        super().__init__(options.id)
        self._options = options
        self._farewell: Farewell | None = None
        self._vhost: TapDevices | None = None

    def open(self, host: Host) -> None:
        """Take the tap of an earlier process, or make one and run its script."""
        self._open_vhost(host)
        super().open(host)
        self._offer_to_take_rings()
        script = _down_script(self._options.downscript)
        if script is not None and not self._is_given():
            tap = self.queues[0].fd
            self._farewell = Farewell(host, self._options.id, script, self.interface, tap)

    def close(self) -> None:
        """Let the tap go; a farewell holds it until ``finish``."""
        super().close()
        vhost, self._vhost = self._vhost, None
        if vhost is not None:
            vhost.close()

    def finish(self) -> None:
        """Run the script for the end."""
        farewell, self._farewell = self._farewell, None
        if farewell is not None:
            farewell.say()

    def hand_over(self) -> None:
        """Leave the kernel's devices to a successor; no card has its rings there any more."""
        if self._vhost is not None:
            self._vhost.hand_over()

    def go_on(self) -> None:
        """Nothing was given away."""

    def _open_vhost(self, host: Host) -> None:
        options = self._options
        if options.wants_vhost:
            given = options.given_vhost_fds()
            self._vhost = TapDevices(host, options.id, options.count, given, options.vhostforce)
        elif options.poll_us:
            log.warning("%s: poll-us=%d is for vhost=on", options.id, options.poll_us)

    def _offer_to_take_rings(self) -> None:
        if self._vhost is None or not self._vhost.devices:
            return
        lacks = 0 if self.port.accepts.gso & Gso.UDP_L4 else VIRTIO_NET_F_HOST_USO
        self.port.set_taker(
            VhostNet(
                self._vhost.devices,
                self.lend,
                self.reclaim,
                header=self.has_header,
                lacks=lacks,
                poll_us=self._options.poll_us or 0,
            )
        )

    def _is_given(self) -> bool:
        return bool(self._options.given_fds()) or self._options.helper is not None

    def _make(self) -> list[int]:
        options = self._options
        fds = options.given_fds()
        for fd in fds:
            _adopt(fd)
        if options.helper is not None:
            fds = [tap_by_helper(options.helper, options.br or DEFAULT_BRIDGE)]
        if fds:
            self._set_send_buffer(fds)
            return fds
        fds = self._open_queues()
        try:
            self._set_send_buffer(fds)
            self._run_script(tun.adopt(fds[0])[0])
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise
        return fds

    def _open_queues(self) -> list[int]:
        """A queue for each that was asked for, all of one interface."""
        options = self._options
        name, count = options.ifname or "tap%d", options.queues or 1
        fds: list[int] = []
        try:
            for _ in range(count):
                fd, name = tun.open_tap(
                    name, header=options.vnet_hdr is not False, multi_queue=count > 1
                )
                fds.append(fd)
        except OSError as error:
            for fd in fds:
                os.close(fd)
            which = f" ({options.ifname})" if options.ifname else ""
            raise ConfigError(
                f"could not configure {tun.TUN_DEVICE}{which}: {error.strerror}"
            ) from None
        return fds

    def _set_send_buffer(self, fds: list[int]) -> None:
        size = self._options.sndbuf
        if size is None:
            return
        for fd in fds:
            try:
                tun.set_send_buffer(fd, min(size, MOST_SEND_BUFFER) or MOST_SEND_BUFFER)
            except OSError as error:
                raise ConfigError(f"sndbuf={size} can't be set: {error.strerror}") from None

    def _run_script(self, interface: str) -> None:
        script = self._options.script
        if script not in NO_SCRIPT:
            run(script or UP_SCRIPT, interface)


def _numbers(one: str | None, several: str | None) -> list[int]:
    """Read a descriptor's number, or several."""
    words = [one] if one is not None else several.split(":") if several is not None else []
    for word in words:
        if not (word.isascii() and word.isdigit()):
            raise ConfigError(f"Invalid file descriptor number '{word}'")
    return [int(word) for word in words]


def _adopt(fd: int) -> None:
    try:
        tun.adopt(fd)
    except OSError as error:
        raise ConfigError(f"file descriptor {fd} is not a tap's: {error.strerror}") from None


def _there(script: str | None) -> str | None:
    """The same file for a process in another folder."""
    return script if script is None or script in NO_SCRIPT else os.path.abspath(script)


def _down_script(given: str | None) -> str | None:
    """The script for the end; the default one only if it is there."""
    if given is None:
        return DOWN_SCRIPT if os.access(DOWN_SCRIPT, os.X_OK) else None
    return given if given not in NO_SCRIPT else None
