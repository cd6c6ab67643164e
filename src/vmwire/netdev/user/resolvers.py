# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The host's resolvers, as /etc/resolv.conf names them (resolv.conf(5)), followed as it changes.

A laptop's resolvers change with its network, so the file is looked at again, at most once a
second. A file that can't be read leaves what was known; a file without a usable name server means
the host itself, as in the C library.
"""

import os
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from vmwire.netdev.user.dns import Resolver

RESOLV_CONF = Path("/etc/resolv.conf")
MAX_RESOLVERS = 3  # as many as the C library asks
MAX_FILE_BYTES = 1 << 16
LOOK_AGAIN_S = 1.0
THIS_HOST = Resolver("127.0.0.1")

_Stamp = tuple[int, int, int]


class ResolvConf:
    """Call it for the resolvers of the moment.

    >>> resolvers = ResolvConf(now=lambda: 0.0, path=Path("/nonexistent"))
    >>> resolvers()
    (Resolver(address='127.0.0.1', port=53, scope=''),)
    """

    def __init__(self, now: Callable[[], float], path: Path = RESOLV_CONF) -> None:
        self._now = now
        self._path = path
        self._looked: float | None = None
        self._stamp: _Stamp | None = None
        self._resolvers: tuple[Resolver, ...] = (THIS_HOST,)

    def __call__(self) -> tuple[Resolver, ...]:
        now = self._now()
        if self._looked is None or now >= self._looked + LOOK_AGAIN_S:
            self._looked = now
            self._look()
        return self._resolvers

    def first_ipv4(self) -> Resolver | None:
        """The first resolver with an IPv4 address."""
        return next((resolver for resolver in self() if ":" not in resolver.address), None)

    def _look(self) -> None:
        try:
            with self._path.open("rb") as file:
                status = os.fstat(file.fileno())
                stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
                if stamp == self._stamp:
                    return
                text = file.read(MAX_FILE_BYTES).decode("ascii", "replace")
        except OSError:
            return
        self._stamp = stamp
        self._resolvers = parse_resolv_conf(text) or (THIS_HOST,)


def parse_resolv_conf(text: str) -> tuple[Resolver, ...]:
    """The usable name servers of a resolv.conf, in order."""
    found: list[Resolver] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver" or line[0].isspace():
            continue
        resolver = parse_resolver(words[1])
        if resolver is not None and resolver not in found:
            found.append(resolver)
    return tuple(found[:MAX_RESOLVERS])


def parse_resolver(word: str) -> Resolver | None:
    """One address; None if it is none. A scope counts only where an address needs one."""
    try:
        return Resolver(str(IPv4Address(word)))
    except ValueError:
        pass
    try:
        address = IPv6Address(word)
    except ValueError:
        return None
    scope = address.scope_id or ""
    plain = str(address).partition("%")[0]
    if not address.is_link_local:
        return Resolver(plain)
    return Resolver(plain, scope=scope) if scope else None
