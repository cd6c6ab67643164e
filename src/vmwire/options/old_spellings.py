# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""``-net`` and ``-nic``, QEMU's older and shorter ways to ask for a network, in today's words.

``-net`` knows no pairs: what it makes, cards (``-net nic``), back ends (``-net user``, …) and pcap
files (``-net dump``), is plugged into a *VLAN*, by its number ``vlan=`` (0 without one). That is a
hub, and has nothing to do with the tags of IEEE 802.1Q. QEMU has had ``vlan=`` and ``name=`` until
3.0 and 5.0, and ``-net dump`` until 2.12; since then there is hub 0 alone. Here all of it is read.

A VLAN of one card and one back end becomes a pair, which is what its hub comes down to. All others
become a hub with a port for each member (`Vlan.modern`). A dump becomes a filter of one member:
a hub repeats each frame to everybody, so whoever stands at one port hears all.

``-nic`` is a pair from the start (`read_nic`). Either kind of card is put down as a ``-net nic``
that names its netdev: still right for every QEMU, and a ``-device`` for us (`NicOptions.device`).

>>> nets = ["nic,model=e1000", "user,net=10.1.0.0/24"]
>>> for words in read_vlans(list(enumerate(nets)))[0].modern().values():
...     print(words)
[('net', 'nic,netdev=user.0,model=e1000')]
[('netdev', 'user,id=user.0,net=10.1.0.0/24')]
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from vmwire.errors import ConfigError
from vmwire.options.syntax import HELP_WORDS, Item, OptionList, parse, parse_list
from vmwire.options.table import naming, option, record, table_of
from vmwire.options.values import (
    IDENTIFIER,
    INT32,
    SIZE,
    STRING,
    UINT32,
    ParsedType,
    format_mac,
    is_id,
    parse_int,
)

DEFAULT = ("nic", "user")
"""What QEMU has where nothing is said of networks and ``-nodefaults`` isn't given."""
MODELS = {"virtio": "virtio-net-pci"}
"""Names of cards that only ``model=`` takes."""
NUMBERED = bytes.fromhex("525400")
"""What an address that is given as a number starts with."""
MAX_VECTORS = 0x7FFFFFFF
MAX_DUMP_BYTES = 0x7FFFFFFF

_MAC = re.compile(r"[0-9a-f]{1,2}(?:[:-][0-9a-f]{1,2}){5}", re.IGNORECASE | re.ASCII)

Words = tuple[str, str]
"""An option's name and its argument."""


def parse_nic_mac(text: str) -> bytes:
    """An address as ``-net`` and ``-nic`` take it: also with single digits, or a number."""
    try:
        return NUMBERED + (parse_int(text) & 0xFFFFFF).to_bytes(3, "big")
    except ValueError:
        pass
    if not _MAC.fullmatch(text):
        raise ValueError("invalid syntax for ethernet address")
    mac = bytes(int(part, 16) for part in re.split("[:-]", text))
    if mac[0] & 1:
        raise ValueError("NIC cannot have multicast MAC address (odd 1st byte)")
    return mac


NIC_MAC = ParsedType(result=bytes, parse=parse_nic_mac, written=format_mac)


@record("net", "nic")
@dataclass(slots=True, kw_only=True)
class NicOptions:
    """``-net nic``: a card, on a VLAN or with a netdev of its own."""

    id: str | None = option(IDENTIFIER)
    vlan: int = option(INT32, default=0)
    name: str | None = option(STRING)
    netdev: str | None = option(STRING)
    model: str | None = option(STRING)
    macaddr: bytes | None = option(NIC_MAC)
    addr: str | None = option(STRING)
    vectors: int | None = option(UINT32)

    def __post_init__(self) -> None:
        if self.vectors is not None and self.vectors > MAX_VECTORS:
            raise ConfigError(f"invalid # of vectors: {self.vectors}")

    def driver(self, default: str) -> str:
        """The type of the card, on a machine whose own choice is ``default``."""
        return MODELS.get(self.model or default, self.model or default)

    def device(self, default: str, id: str | None = None) -> str:
        """The card as ``-device`` has it; ``id`` where it has no name."""
        driver = self.driver(default)
        items = {"id": self.name if self.name and is_id(self.name) else id, "netdev": self.netdev}
        items["mac"] = format_mac(self.macaddr) if self.macaddr and any(self.macaddr) else None
        items["addr"] = self.addr
        if self.vectors is not None and driver.startswith("virtio-"):  # as QEMU: others ignore it
            items["vectors"] = str(self.vectors)
        return _text(driver, items)


@record("net", "dump")
@dataclass(slots=True, kw_only=True)
class DumpOptions:
    """``-net dump``: what passes on a VLAN, in a file."""

    id: str | None = option(IDENTIFIER)
    vlan: int = option(INT32, default=0)
    name: str | None = option(STRING)
    file: str | None = option(STRING)
    len: int = option(SIZE, default=65536)

    def __post_init__(self) -> None:
        if not 0 < self.len <= MAX_DUMP_BYTES:
            raise ConfigError(f"invalid length: {self.len}")


@record("net", "backend")
@dataclass(slots=True, kw_only=True)
class _Placed:
    """What ``-net`` takes of a back end itself; all else is the netdev's."""

    id: str | None = option(IDENTIFIER)
    vlan: int = option(INT32, default=0)
    name: str | None = option(STRING)


@dataclass(slots=True)
class Member:
    """One ``-net`` on a VLAN."""

    place: int
    """Where it stood, as the caller counts."""
    text: str
    id: str
    vlan: int
    nic: NicOptions | None = None
    dump: DumpOptions | None = None
    rest: OptionList = field(default_factory=lambda: OptionList([]))
    """Of a back end: what is the netdev's."""

    @property
    def is_backend(self) -> bool:
        return self.nic is None and self.dump is None


@dataclass(slots=True)
class Vlan:
    """A VLAN and its members, in order."""

    number: int
    members: list[Member] = field(default_factory=list)

    @property
    def nics(self) -> list[Member]:
        return [member for member in self.members if member.nic is not None]

    @property
    def backends(self) -> list[Member]:
        return [member for member in self.members if member.is_backend]

    def is_pair(self, joined_elsewhere: bool = False) -> bool:
        """Whether it needs no hub. ``joined_elsewhere``: a hubport of this number is asked for."""
        return len(self.nics) == len(self.backends) == 1 and not joined_elsewhere

    def modern(self, joined_elsewhere: bool = False) -> dict[int, list[Words]]:
        """Today's options, by the places of the old ones."""
        if self.is_pair(joined_elsewhere):
            netdev = self.backends[0].id
            return {each.place: [self._words(each, netdev, netdev)] for each in self.members}
        ports = {id(each): f"hub{self.number}port{n}" for n, each in enumerate(self.members)}
        heard = (self.backends or self.nics or self.members)[0]
        found: dict[int, list[Words]] = {}
        for each in self.members:
            port = ports[id(each)]
            words = [self._words(each, port, heard.id if heard.is_backend else ports[id(heard)])]
            if each.is_backend:
                words.append(self._port(port, each.id))
            elif each is heard or each.dump is None:
                words.insert(0, self._port(port, None))
            found[each.place] = words
        return found

    def _words(self, member: Member, netdev: str, heard: str) -> Words:
        """A member by itself; a card is joined to ``netdev``, a dump hears ``heard``."""
        if member.dump is not None:
            return "object", self._filter(member, heard)
        if member.nic is not None:
            return "net", _joined(member.nic, netdev)
        return "netdev", str(member.rest)

    def _port(self, id: str, netdev: str | None) -> Words:
        return "netdev", _text("hubport", {"id": id, "hubid": str(self.number), "netdev": netdev})

    def _filter(self, member: Member, netdev: str) -> str:
        assert member.dump is not None
        file = member.dump.file or f"qemu-vlan{self.number}.pcap"
        items = {"id": member.id, "netdev": netdev, "file": file, "maxlen": str(member.dump.len)}
        return _text("filter-dump", items)

    def warnings(self, joined_elsewhere: bool = False) -> Iterator[str]:
        """What QEMU says of a hub whose members can't talk to anybody."""
        if joined_elsewhere or not self.members:
            return
        if not self.nics:
            yield f"hub {self.number} with no nics"
        elif not self.backends:
            yield f"hub {self.number} is not connected to host network"


# --- reading ------------------------------------------------------------------------------------


def read_vlans(nets: Sequence[tuple[int, str]], used: Collection[str] = ()) -> list[Vlan]:
    """The VLANs that ``-net`` options make: places and arguments, in order.

    ``used`` are ids that others have. A card with a ``netdev=`` is on no VLAN, and ``none`` is
    nothing. ConfigError names the option.
    """
    ids = _Ids(used)
    vlans: dict[int, Vlan] = {}
    for place, text in nets:
        with naming(f"-net {text}"):
            member = _member(place, text, ids)
        if member is not None:
            vlans.setdefault(member.vlan, Vlan(member.vlan)).members.append(member)
    return list(vlans.values())


def read_net_nic(text: str) -> NicOptions:
    """A ``-net nic``."""
    return table_of(NicOptions).from_options(parse_list(text, "type"))


def _member(place: int, text: str, ids: _Ids) -> Member | None:
    options = parse_list(text, "type")
    kind = options.get("type")
    if kind is None:
        raise ConfigError("Parameter 'type' is missing")
    if kind == "nic":
        nic = read_net_nic(text)
        if nic.netdev is not None:
            return None
        ids.claim(nic.id)
        return Member(place, text, "", nic.vlan, nic=nic)
    if kind == "dump":
        dump = table_of(DumpOptions).from_options(options)
        ids.claim(dump.id)
        return Member(place, text, ids.of(dump.id, dump.name, kind), dump.vlan, dump=dump)
    if kind == "hubport":
        raise ConfigError("network backend 'hubport' is only supported with -netdev/-nic")
    return _backend(place, text, options, ids)


def _backend(place: int, text: str, options: OptionList, ids: _Ids) -> Member | None:
    kind = options.get("type") or ""
    own = OptionList([item for item in options if item.key in ("type", "id", "vlan", "name")])
    placed = table_of(_Placed).from_options(own)
    rest = [item for item in options if item.key not in ("type", "id", "vlan", "name")]
    if kind == "none":
        if rest:
            raise ConfigError(f"Invalid parameter '{rest[0].key}'")
        return None
    ids.claim(placed.id)
    id = ids.of(placed.id, placed.name, kind)
    netdev = OptionList([Item.implied("type", kind), Item.keyed("id", id), *rest])
    return Member(place, text, id, placed.vlan, rest=netdev)


class _Ids:
    """Names for members: their own, or as QEMU gives them, ``user.0``."""

    def __init__(self, used: Collection[str]) -> None:
        self._used = set(used)
        self._claimed: set[str] = set()

    def claim(self, id: str | None) -> None:
        """Let an id be given once among all ``-net``."""
        if id is not None and id in self._claimed:
            raise ConfigError(f"Duplicate ID '{id}' for net")
        if id is not None:
            self._claimed.add(id)

    def of(self, id: str | None, name: str | None, kind: str) -> str:
        chosen = id or (name if name and is_id(name) and name not in self._used else None)
        if chosen is None:
            numbers = range(len(self._used) + 1)
            chosen = next(each for n in numbers if (each := f"{kind}.{n}") not in self._used)
        self._used.add(chosen)
        return chosen


@dataclass(slots=True)
class Pair:
    """What a ``-nic`` asks for."""

    netdev: OptionList
    nic: NicOptions

    @property
    def id(self) -> str:
        return self.netdev.first("id") or ""


def read_nic(text: str, id: str) -> Pair | None:
    """A ``-nic``; None for ``none``. ``id`` is its netdev's, where it has no other."""
    options = parse_list(text, "type")
    kind = options.get("type", "user")
    if kind == "none":
        return None
    if kind == "nic":
        raise ConfigError("network backend 'nic' is not compiled into this binary")
    id = options.first("id") or id
    card = {"netdev": id, "model": options.get("model"), "macaddr": options.get("mac")}
    nic = read_net_nic(_text("nic", card))
    for key in ("type", "id", "model", "mac"):
        options.remove(key)
    return Pair(OptionList([Item.implied("type", kind or ""), Item.keyed("id", id), *options]), nic)


# --- all of a command line ----------------------------------------------------------------------


@dataclass(slots=True)
class Asked:
    """One of today's options, and how it was typed."""

    text: str
    typed: str


@dataclass(slots=True)
class Modern:
    """What all ``-net`` and ``-nic`` of a command line ask for, in today's words."""

    netdevs: list[Asked] = field(default_factory=list)
    devices: list[Asked] = field(default_factory=list)
    """In QEMU's order, in which these cards come before each ``-device``."""
    objects: list[Asked] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add_pair(self, pair: Pair, typed: str, default_model: str) -> None:
        """A ``-nic``."""
        if any(pair.id == parse_list(each.text, "type").first("id") for each in self.netdevs):
            raise ConfigError(f"Duplicate ID '{pair.id}' for nic")
        self.netdevs.append(Asked(str(pair.netdev), typed))
        self.devices.append(Asked(pair.nic.device(default_model), typed))

    def add(self, words: Words, typed: str, default_model: str) -> None:
        """One of a VLAN's options; a card that has no name gets one like QEMU's, ``e1000.0``."""
        name, argument = words
        if name != "net":
            kind = self.netdevs if name == "netdev" else self.objects
            return kind.append(Asked(argument, typed))
        nic = read_net_nic(argument)
        driver = nic.driver(default_model)
        used = {parse_list(asked.text, "driver").first("id") for asked in self.devices}
        if nic.name in used:
            nic.name = None
        id = next(each for n in range(len(used) + 1) if (each := f"{driver}.{n}") not in used)
        self.devices.append(Asked(nic.device(default_model, id), typed))
        return None


def modern(
    nets: Sequence[str],
    nics: Sequence[str],
    netdevs: Sequence[str],
    default_model: str,
    models: Collection[str],
    *,
    as_hubs: bool = False,
) -> Modern:
    """Today's words for all ``nets`` and ``nics``, beside ``netdevs`` in today's words already.

    ``models`` are the cards that there are, the ``default_model`` among them. ``as_hubs``: each
    VLAN is to show as a hub, as it does in QEMU's monitor.
    """
    found = Modern()
    for number, text in enumerate(nics):
        with naming(f"-nic {text}"):
            pair = read_nic(text, f"nic{number}")
            if pair is not None:
                found.add_pair(pair, f"-nic {text}", default_model)
                check_model(pair.nic, models)
    placed = [*netdevs, *(asked.text for asked in found.netdevs)]
    joined, ids = hub_numbers(placed), ids_of(placed)
    changes: dict[int, list[Words]] = {}
    for place, text in enumerate(nets):
        with naming(f"-net {text}"):
            if parse_list(text, "type").get("type") != "nic":
                continue
            nic = read_net_nic(text)
            check_model(nic, models)
            if nic.netdev is not None:
                changes[place] = [("net", text)]
                if nic.netdev not in ids:
                    raise ConfigError(f"netdev '{nic.netdev}' not found")
    for vlan in read_vlans(list(enumerate(nets)), ids):
        changes |= vlan.modern(as_hubs or vlan.number in joined)
        found.warnings += vlan.warnings(vlan.number in joined)
    for place in sorted(changes):
        for words in changes[place]:
            found.add(words, f"-net {nets[place]}", default_model)
    return found


def check_model(nic: NicOptions, models: Collection[str]) -> None:
    """Refuse a card that there is nowhere."""
    if nic.model is not None and nic.model not in (*MODELS, *models):
        raise ConfigError(f"Unsupported NIC model: {nic.model}")


def hub_numbers(netdevs: Iterable[str]) -> set[int]:
    """The hubs that these netdevs have ports at."""
    found = set()
    for text in netdevs:
        options = parse(text, "type")
        if options.get("type") == "hubport":
            try:
                found.add(parse_int(str(options.get("hubid", ""))))
            except ValueError:
                continue  # its own table says what is wrong with it
    return found


def ids_of(netdevs: Iterable[str]) -> set[str]:
    return {str(parse(text, "type").first("id")) for text in netdevs}


def asks_for_models(name: str, text: str) -> bool:
    """Whether a ``-net nic`` or ``-nic`` asks which models there are."""
    options = parse_list(text, "type")
    is_card = name == "nic" or options.get("type") == "nic"
    return is_card and options.get("model") in HELP_WORDS


def _joined(nic: NicOptions, netdev: str) -> str:
    """A ``-net nic`` with a netdev, as every QEMU that has netdevs reads it."""
    items = {
        "netdev": netdev,
        "name": nic.name,
        "model": nic.model,
        "macaddr": format_mac(nic.macaddr) if nic.macaddr else None,
        "addr": nic.addr,
        "vectors": None if nic.vectors is None else str(nic.vectors),
    }
    return _text("nic", items)


def _text(first: str, items: Mapping[str, str | None]) -> str:
    keyed = [Item.keyed(key, value) for key, value in items.items() if value is not None]
    return str(OptionList([Item.implied("type", first), *keyed]))
