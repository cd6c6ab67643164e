# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The network: netdevs, cards, hubs and filters by id, and the wires between them.

This is the public API; the command line and the monitor only call it.

    with Network() as net:
        net.add_netdev("user", id="u", hostfwd=["tcp::5555-:22"])
        net.add_nic("virtio-net-pci", id="n0", netdev="u", socket="/run/me/n0.sock")
        net.capture("u", "traffic.pcap")
        net.wait()

Theory of operation. The graph is data: members by id, each with one port and a list of filters
that stand before it, and wires, each between two members. ``links`` gives it out as plain lists.
One engine thread runs everything that moves; each method here may be called from any thread and
hands its work to that one. What can't be had leaves nothing behind: a member is made, opened and
joined, or none of it.

An id names a netdev first, then a device, then a filter (a netdev and a device may have the same
one, as in QEMU); ``kind`` says which is meant.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import count
from typing import Any, BinaryIO

from vmwire import registry
from vmwire.engine.host import EventSink, FdStore, HandsOver, Host, NoStore, NotNow
from vmwire.engine.loop import Loop
from vmwire.engine.thread import LoopThread
from vmwire.errors import ConfigError
from vmwire.filter_objects import FilterObjects
from vmwire.filters.dump import open_private
from vmwire.graph import Filter, Kind, Member, Wires, how_to_share
from vmwire.netdev.hubport import HubportNetdev, HubportOptions
from vmwire.options.table import table_of
from vmwire.options.values import is_id
from vmwire.registry import Box, BoxType, FiltersReception, RunsPrograms, UsesChardevs
from vmwire.wire.capture import DEFAULT_SNAP_LENGTH, Capture
from vmwire.wire.frame import NO_OFFLOAD, Offload
from vmwire.wire.hook import Hook, HookFunction
from vmwire.wire.hub import Hub
from vmwire.wire.through import Through

HAND_OVER_S = 0.3
"""How long members may be in the middle of something when the network is handed over."""

DEFAULT_MAC = bytes.fromhex("525400123456")
"""QEMU's for its first card; each further one counts up."""

Values = Mapping[str, Any]
CardMaker = Callable[[Any], Box | None]
"""Makes a card of its options in another way than the registry's type does, or not (None)."""


class Network:
    """A graph of netdevs and cards, and the engine that runs it. See the module.

    ``cards`` is for a process that has a machine of its own, in which cards are seated
    (`vmwire.attach.bench`); without it they are served over sockets.
    """

    def __init__(self, store: FdStore | None = None, cards: CardMaker | None = None) -> None:
        self.loop = Loop()
        self._cards = cards
        self.on_event: EventSink = _ignore_event
        """Told in the engine's thread what members have to say, as QMP events."""
        self.host = Host(self.loop, NoStore() if store is None else store, self._tell)
        self.netdevs: dict[str, Member] = {}
        self.devices: dict[str, Member] = {}
        self.filters: dict[str, Filter] = {}
        self.objects = FilterObjects(self.host, self.netdevs, self.filters)
        self.hubs: dict[int, Hub] = {}
        self._wires = Wires()
        self._thread = LoopThread(self.loop)
        self._closed = False

    def _tell(self, event: str, data: Values) -> None:
        self.on_event(event, data)

    # Running

    def start(self) -> None:
        """Run the engine in a thread of its own."""
        self._thread.start()

    def hand_over(self) -> None:
        """Stand still, and have all members put down what a successor goes on with.

        Raises ``NotNow`` if one of them can't for too long. ``go_on`` is to follow, or the end.
        """
        self._thread.end()
        deadline = time.monotonic() + HAND_OVER_S
        while True:
            self.loop.idle()
            try:
                for box in self._handing_over():
                    box.hand_over()
            except NotNow:
                if time.monotonic() > deadline:
                    raise
                self.loop.turn(0.005)
            else:
                return

    def go_on(self) -> None:
        """Run again after ``hand_over``, which came to nothing."""
        for box in self._handing_over():
            box.go_on()
        self.start()

    def _handing_over(self) -> list[HandsOver]:
        members: list[Filter | Member] = [*self.filters.values(), *self.devices.values()]
        boxes: list[object] = [each.box for each in [*members, *self.netdevs.values()]]
        return [box for box in boxes if isinstance(box, HandsOver)]

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the engine's end; False if it still runs. Raises what ended it, if anything."""
        return self._thread.wait(timeout_s)

    def stop(self) -> None:
        """Let the engine end; ``wait`` returns then."""
        self.loop.stop()

    def close(self) -> None:
        """End the engine and give everything back. Harmless when called twice."""
        if self._closed:
            return
        self._closed = True
        if self.host.store.on_trial:
            return  # all this is still somebody else's
        self._thread.end()
        self._remove_all([*self.filters.values(), *self.devices.values(), *self.netdevs.values()])
        self.loop.close()

    def __enter__(self) -> Network:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Members

    def add_netdev(self, type: str, *, id: str, **options: Any) -> str:
        """Add a netdev; return its id. ``hubport`` with ``netdev=`` joins that one at once."""
        found = registry.load(registry.NETDEVS, type)
        if found is None:
            known = ", ".join(sorted(registry.NETDEVS))
            raise ConfigError(f"netdev type '{type}' is not known (there are: {known})")
        values = {"id": id, **options}
        box = self._prepared(type, found, values)
        try:
            self.loop.call(lambda: self._add_netdev(type, found, values, box))
        except BaseException:
            if box is not None:
                self.loop.call(box.close)
                _finish([box])
            raise
        return id

    def _prepared(self, type: str, found: BoxType, values: Values) -> Box | None:
        """Have programs run for a new netdev, while the engine goes on; None if it needs none."""
        if not self._thread.started or not registry.runs_programs(found):
            return None
        self.loop.call(lambda: self._check_id(values["id"], self.netdevs, "netdev"))
        box = found(registry.record(found, type, values))
        assert isinstance(box, RunsPrograms)
        box.prepare()
        return box

    def add_nic(
        self, type: str, *, id: str | None = None, netdev: str | None = None, **options: Any
    ) -> str:
        """Add a card joined to ``netdev`` (or to nothing yet); return its id, given or found."""
        found = registry.load(registry.DEVICES, type)
        if found is None:
            raise ConfigError(f"'{type}' is not a valid device model name")
        values = {"id": id, "netdev": netdev, **options}
        return self.loop.call(lambda: self._add_device(type, found, values))

    def add(self, options: Any, *, row: Sequence[str] = ()) -> str:
        """Add what an options record describes: netdev, card, filter, chardev; return its id.

        ``row``: for a filter, ids in the order in which they are to stand before its netdev.
        """
        table = table_of(type(options))
        fields = {entry.field: getattr(options, entry.field) for entry in table.entries.values()}
        add: Mapping[str, Callable[..., str]] = {
            "netdev": self.add_netdev,
            "device": self.add_nic,
            "object": partial(self.add_filter, row=row),
            "chardev": self.add_chardev,
        }
        return add[table.kind.name](table.name, **fields)

    def add_netns(self, *, id: str | None = None, netdev: str | None = None, **options: Any) -> str:
        """Add a network namespace as a guest (``vmwire.attach.netns``); return its id."""
        return self.add_nic("netns", id=id, netdev=netdev, **options)

    def remove(self, id: str, *, kind: Kind | None = None) -> None:
        """Take a member or a filter away. A member's filters go with it; its peer stays, cut off;
        a filter's neighbours are joined with each other."""
        closed: list[Box] = []
        self.loop.call(lambda: self._remove(self._find(id, kind), closed))
        _finish(closed)

    # Wires

    @property
    def links(self) -> list[list[str]]:
        """The wires as chains of ids, each from one end through the filters to the other."""
        return self.loop.call(self._wires.links)

    def peer_of(self, member: Member) -> Member | None:
        """What a member is joined to (in the engine's thread)."""
        return self._wires.peer_of(member)

    def connect(self, a: str, b: str) -> None:
        """Join two members that are free: a device and a netdev, or two of a kind."""
        self.loop.call(lambda: self._connect_ids(a, b))

    def disconnect(self, id: str, *, kind: Kind | None = None) -> None:
        """Part a member from what it is joined to; both lose their carrier."""
        self.loop.call(lambda: self._wires.disconnect(self._member(id, kind)))

    def set_link(self, id: str, up: bool, *, kind: Kind | None = None) -> None:
        """Pull or plug a member's cable; what is at the other end sees it."""
        self.loop.call(lambda: self._member(id, kind).set_link(up))

    # Filters

    def capture(
        self,
        id: str,
        file: str | os.PathLike[str] | BinaryIO,
        *,
        name: str | None = None,
        snap_length: int = DEFAULT_SNAP_LENGTH,
        kind: Kind | None = None,
    ) -> str:
        """Record what passes at a member as pcap; return the capture's id."""

        def make(filter_id: str) -> Through:
            further = self.host.store.on_trial
            opened = open_private(file, further) if isinstance(file, str | os.PathLike) else file
            return Capture(
                filter_id, opened, time.time_ns, self.loop.call_later, snap_length, further
            )

        return self.loop.call(lambda: self._add_filter(id, kind, "capture", name, make))

    def hook(
        self,
        id: str,
        function: HookFunction,
        *,
        name: str | None = None,
        superframes: bool = False,
        kind: Kind | None = None,
    ) -> str:
        """Ask ``function`` about what passes at a member (``vmwire.wire.hook``); return the id."""

        def make(filter_id: str) -> Through:
            return Hook(filter_id, function, superframes=superframes)

        return self.loop.call(lambda: self._add_filter(id, kind, "hook", name, make))

    def add_chardev(self, backend: str, *, id: str, **options: Any) -> str:
        """Describe a connection for filters and netdevs to use (``vmwire.netdev.chardev``).

        Returns its id.
        """
        self.loop.call(lambda: self.objects.add_chardev(backend, {"id": id, **options}))
        return id

    def remove_chardev(self, id: str) -> None:
        """Forget a chardev that nobody uses."""
        self.loop.call(lambda: self.objects.remove_chardev(id))

    def add_filter(
        self, type: str, *, id: str, netdev: str, row: Sequence[str] = (), **options: Any
    ) -> str:
        """Put one of QEMU's filters before a netdev (``vmwire.filters``); return its id."""
        values = {"id": id, "netdev": netdev, **options}
        self.loop.call(lambda: self.objects.add_filter(type, values, row))
        return id

    def change_filter(self, id: str, option: str, value: Any) -> None:
        """Give a filter that ``add_filter`` made another ``status``, ``queue``, ``interval``, …"""
        self.loop.call(lambda: self.objects.change(id, option, value))

    def inject(
        self,
        id: str,
        frame: bytes,
        *,
        offload: Offload = NO_OFFLOAD,
        kind: Kind | None = None,
    ) -> bool:
        """Hand a frame to a member as if its wire had brought it; False if there was no room."""
        return self.loop.call(lambda: self._member(id, kind).inject(frame, offload))

    def stats(self) -> dict[str, Any]:
        """Return the graph and all counters as plain data."""
        return self.loop.call(self._stats)

    # In the engine's thread: members

    def _add_netdev(
        self, type: str, found: BoxType, values: Values, prepared: Box | None = None
    ) -> None:
        self._check_id(values["id"], self.netdevs, "netdev")
        options = registry.record(found, type, values)
        if isinstance(options, HubportOptions):
            self._add_hubport(options)
            return
        box = prepared or found(options)
        if isinstance(box, UsesChardevs):
            box.use_chardevs(self.objects.for_netdev)
        self._add(self.netdevs, Member("netdev", options.id, type, box, options), None)

    def _add_hubport(self, options: HubportOptions) -> None:
        peer = None
        if options.netdev is not None:
            peer = self.netdevs.get(options.netdev)
            if peer is None:
                raise ConfigError(f"netdev '{options.netdev}' not found")
        hub = self.hubs.get(options.hubid)
        if hub is None:
            hub = self.hubs[options.hubid] = options.hub(self.loop.now)
        options.check(hub)
        try:
            box = HubportNetdev(options, hub)
            self._add(self.netdevs, Member("netdev", options.id, "hubport", box, options), peer)
        finally:
            self._forget_empty_hubs()

    def _add_device(self, type: str, found: BoxType, values: Values) -> str:
        anonymous = values["id"] is None
        if anonymous:
            alike = sum(member.type == type for member in self.devices.values())
            values = {**values, "id": _free_name(f"{type}.", self.devices, alike)}
        id, netdev = values["id"], values["netdev"]
        self._check_id(id, self.devices, "device")
        options = self._with_mac(registry.record(found, type, values))
        peer = None
        if netdev is not None:
            peer = self.netdevs.get(netdev)
            if peer is None:
                raise ConfigError(f"Property '{type}.netdev' can't find value '{netdev}'")
            if self.peer_of(peer) is not None:
                raise ConfigError(
                    f"Property '{type}.netdev' can't take value '{netdev}', it's in use "
                    f"({how_to_share(peer)})"
                )
        box = None if self._cards is None else self._cards(options)
        member = Member("device", id, type, box or found(options), options, anonymous=anonymous)
        self._add(self.devices, member, peer)
        chip = member.chip
        if isinstance(chip, FiltersReception):
            told = {"name": id, "path": f"/machine/peripheral/{id}/virtio-backend"}
            chip.on_filter_change = lambda: self._tell("NIC_RX_FILTER_CHANGED", told)
        return str(id)

    def _with_mac(self, options: Any) -> Any:
        """A card that was given no address gets QEMU's next one, if it is ours to say: behind
        vhost-user the machine has its own."""
        at_machine = self._cards is None and getattr(options, "attach", "") == "vhost-user"
        if getattr(options, "mac", b"") is not None or at_machine:
            return options
        taken = {member.mac for member in self.devices.values()}
        first = int.from_bytes(DEFAULT_MAC)
        free = next(mac for n in count() if (mac := (first + n).to_bytes(6)) not in taken)
        return dataclasses.replace(options, mac=free)

    def _add(self, members: dict[str, Member], member: Member, peer: Member | None) -> None:
        """Open, join and list a new member; or close it again."""
        try:
            if peer is not None:
                self._wires.connect(member, peer)
            member.box.open(self.host)
        except BaseException:
            if not self.host.store.on_trial:  # else it is still somebody else's
                self._wires.disconnect(member)
                member.box.close()
            raise
        members[member.id] = member

    def _check_id(self, id: object, members: Mapping[str, object], kind: str) -> None:
        if not isinstance(id, str) or not is_id(id):
            raise ConfigError("Parameter 'id' expects an identifier")
        if id in members:
            raise ConfigError(f"Duplicate ID '{id}' for {kind}")

    def _find(self, id: str, kind: Kind | None) -> Member | Filter:
        places: dict[Kind, Mapping[str, Member | Filter]] = {
            "netdev": self.netdevs,
            "device": self.devices,
            "filter": self.filters,
        }
        for place in places if kind is None else (kind,):
            found = places[place].get(id)
            if found is not None:
                return found
        raise ConfigError(f"{kind or 'netdev, device or filter'} '{id}' not found")

    def _member(self, id: str, kind: Kind | None = None) -> Member:
        found = self._find(id, kind)
        if isinstance(found, Filter):
            raise ConfigError(f"'{id}' is a filter; this needs a netdev or a device")
        return found

    def _remove(self, what: Member | Filter, closed: list[Box]) -> None:
        if isinstance(what, Filter):
            del self.filters[what.id]
            what.member.filters.remove(what)
            what.box.close()
            return
        for each in what.filters[:]:
            self._remove(each, closed)
        self._wires.disconnect(what)
        del (self.netdevs if what.kind == "netdev" else self.devices)[what.id]
        what.box.close()
        closed.append(what.box)
        self._forget_empty_hubs()

    def _remove_all(self, what: Iterable[Member | Filter]) -> None:
        closed: list[Box] = []
        for each in what:
            self._remove(each, closed)
        _finish(closed)

    def _forget_empty_hubs(self) -> None:
        self.hubs = {number: hub for number, hub in self.hubs.items() if hub.ports}

    # In the engine's thread: wires

    def _connect_ids(self, a: str, b: str) -> None:
        members = (self._end(a, "device"), self._end(b, "netdev"))
        for member in members:
            if self.peer_of(member) is not None:
                raise ConfigError(f"'{member.id}' is in use ({how_to_share(member)})")
        self._wires.connect(*members)

    def _end(self, id: str, likely: Kind) -> Member:
        """The member that ``connect`` means: of the kind that its place suggests, or any."""
        try:
            return self._member(id, likely)
        except ConfigError:
            return self._member(id)

    # In the engine's thread: filters

    def _add_filter(
        self,
        id: str,
        kind: Kind | None,
        type: str,
        name: str | None,
        make: Callable[[str], Through],
    ) -> str:
        member = self._member(id, kind)
        if name is None:
            name = _free_name(type, self.filters)
        self._check_id(name, self.filters, "filter")
        added = self.filters[name] = Filter(name, type, make(name), member)
        member.insert(added, len(member.filters))
        return name

    def _stats(self) -> dict[str, Any]:
        return {
            "netdevs": {id: each.stats() for id, each in self.netdevs.items()},
            "devices": {id: each.stats() for id, each in self.devices.items()},
            "filters": {id: each.stats() for id, each in self.filters.items()},
            "hubs": {hub.name: hub.stats() for hub in self.hubs.values()},
            "links": self._wires.links(),
        }


def _ignore_event(event: str, data: Values) -> None:
    """Nobody listens."""


def _free_name(start: str, taken: Mapping[str, object], least: int = 0) -> str:
    """``start`` with the first number, from ``least`` on, that makes a name which nobody has."""
    return next(name for n in count(least) if (name := f"{start}{n}") not in taken)


def _finish(closed: Iterable[Box]) -> None:
    """Let programs run that boxes owe after their end."""
    for box in closed:
        if isinstance(box, RunsPrograms):
            box.finish()
