# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Which types of netdev and card there are, and where they live.

Types are named by strings and imported when one is asked for, so that importing the network, or
asking for help, doesn't import the whole stack. To add a type: write its module, add a line here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

from vmwire.engine.host import Host
from vmwire.options.table import table_under
from vmwire.wire.port import Port

if TYPE_CHECKING:
    from vmwire.filters.selective import MakeLine, Selective


class Box(Protocol):
    """What every netdev and every card is."""

    port: Port

    def open(self, host: Host) -> None:
        """Acquire host resources; raises ConfigError or OSError and leaves nothing behind."""

    def close(self) -> None:
        """Give them back. Harmless when called twice."""

    def stats(self) -> dict[str, object]:
        """Return counters as plain data."""


@runtime_checkable
class RunsPrograms(Protocol):
    """A box that has programs of the host's do something, which nobody else is to wait for.

    While a network runs, ``prepare`` is called before ``open`` and ``finish`` after ``close``, both
    outside of the engine's thread.
    """

    def prepare(self) -> None:
        """Do of ``open`` what takes its time. Raises as that does; ``close`` undoes it."""

    def finish(self) -> None:
        """Do what is still owed after ``close``. Harmless when called twice."""


@runtime_checkable
class DescribesItself(Protocol):
    """A box that ``info network`` says more of than its type (``net=10.0.2.0,restrict=off``)."""

    @property
    def info(self) -> str: ...


@runtime_checkable
class OfRegisters(Protocol):
    """A box around a chip whose registers the machine sees: what follows is asked of that."""

    @property
    def register_chip(self) -> object: ...


@runtime_checkable
class HasAddress(Protocol):
    """A card whose driver may have given it another address."""

    @property
    def mac(self) -> bytes: ...


@runtime_checkable
class FiltersReception(Protocol):
    """A card that can be asked which frames it takes (``query-rx-filter``)."""

    on_filter_change: Callable[[], None]
    """Called when it takes others, once until it was asked again."""

    def rx_filter(self) -> Mapping[str, object]:
        """What QMP's RxFilterInfo has (the name may be missing)."""


@runtime_checkable
class Announces(Protocol):
    """A card that knows how to announce itself, and its guest (``announce-self``). For one that
    doesn't, the monitor sends the frame."""

    def announce(self) -> None:
        """Tell the network where it is, once."""


@runtime_checkable
class HasChardevs(Protocol):
    """Options that name chardevs."""

    def chardevs(self) -> list[str]:
        """Return their ids."""


@runtime_checkable
class UsesChardevs(Protocol):
    """A netdev whose options may name a chardev, which it takes before it opens."""

    def use_chardevs(self, find: Callable[[str], object]) -> None:
        """Ask ``find`` for what is named. Raises ConfigError."""


class BoxType(Protocol):
    """A class of boxes, each made of one record.

    ``OPTIONS`` is the record's class, or what the records of all types that it serves derive from.
    """

    OPTIONS: type[Any]

    def __call__(self, options: Any) -> Box:
        """Make the box; acquires nothing."""


class FilterType(Protocol):
    """A class of filter objects (``vmwire.filters``), each made of one record."""

    OPTIONS: type[Any]

    def __call__(self, options: Any, host: Host, make_line: MakeLine) -> Selective:
        """Make the box."""


NETDEVS: Mapping[str, str] = {
    "user": "vmwire.netdev.user.netdev:UserNetdev",
    "tap": "vmwire.netdev.tap:TapNetdev",
    "bridge": "vmwire.netdev.bridge:BridgeNetdev",
    "hubport": "vmwire.netdev.hubport:HubportNetdev",
    "socket": "vmwire.netdev.socket:SocketNetdev",
    "stream": "vmwire.netdev.stream:StreamNetdev",
    "dgram": "vmwire.netdev.dgram:DgramNetdev",
    "l2tpv3": "vmwire.netdev.l2tpv3:L2tpv3Netdev",
    "vde": "vmwire.netdev.vde:VdeNetdev",
    "passt": "vmwire.netdev.passt:PasstNetdev",
    "vhost-user": "vmwire.netdev.vhost_user:VhostUserNetdev",
    "null": "vmwire.netdev.null:NullNetdev",
}
DEVICES: Mapping[str, str] = {
    "e1000": "vmwire.attach.vfio_user.nic:VfioUserNic",
    "e1000-82544gc": "vmwire.attach.vfio_user.nic:VfioUserNic",
    "e1000-82545em": "vmwire.attach.vfio_user.nic:VfioUserNic",
    "e1000e": "vmwire.attach.vfio_user.nic:VfioUserNic",
    "virtio-net-device": "vmwire.attach.virtio:VIRTIO_MMIO_NIC",
    "virtio-net-pci": "vmwire.attach.virtio:VIRTIO_NIC",
    "virtio-net-pci-non-transitional": "vmwire.attach.virtio:VIRTIO_NIC",
    "virtio-net-pci-transitional": "vmwire.attach.virtio:VIRTIO_NIC",
    "netns": "vmwire.attach.netns:NetnsNic",
    "null": "vmwire.nic.null:NullNic",
}
FILTERS: Mapping[str, str] = {
    "filter-buffer": "vmwire.filters.buffer:BufferFilter",
    "filter-dump": "vmwire.filters.dump:DumpFilter",
    "filter-mirror": "vmwire.filters.mirror:MirrorFilter",
    "filter-redirector": "vmwire.filters.redirector:RedirectorFilter",
}


def load(types: Mapping[str, str], name: str) -> BoxType | None:
    """Import and return the class of the type ``name``; None if there is no such type."""
    return cast("BoxType | None", _load(types, name))


def load_filter(name: str) -> FilterType | None:
    """The same for a filter object."""
    return cast("FilterType | None", _load(FILTERS, name))


def _load(types: Mapping[str, str], name: str) -> object:
    where = types.get(name)
    if where is None:
        return None
    module, _, attribute = where.partition(":")
    return getattr(import_module(module), attribute)


def record(box_type: BoxType | FilterType, name: str, values: Mapping[str, object]) -> Any:
    """Make the options record of the type ``name`` from named values; ConfigError if they don't
    fit."""
    return table_under(box_type.OPTIONS, name).from_kwargs(**values)


def runs_programs(found: BoxType) -> bool:
    """Whether a type's boxes have programs run (``RunsPrograms``)."""
    return isinstance(found, type) and issubclass(found, RunsPrograms)
