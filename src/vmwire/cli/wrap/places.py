# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The slots of PCI cards, when one of them is replaced by a device that QEMU makes later.

QEMU makes cards in this order: those of the machine, each ``-nic`` and ``-net nic``, each
``-device`` as it was typed, one for each ``-drive if=virtio``, and at last every ``-device`` in
JSON. A card without ``addr=`` gets the first free slot then. The device that stands for a replaced
card has to be in JSON (its socket can't be written otherwise), so it comes late: by itself it
would sit elsewhere than the card did, and others would take its slot.

So QEMU is asked, where it matters, with a *skeleton* of the command line: the same machine, in
which an inert card stands for each PCI card (bridges stay bridges). `pins` then gives addresses to
the cards in question; a second skeleton, with the new order and these addresses, has to give the
same slots, else nothing is replaced. Answers are kept (`probe`), so a command line costs that once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from vmwire.cli.wrap import cards
from vmwire.cli.wrap.cmdline import names
from vmwire.cli.wrap.probe import ProbeError
from vmwire.cli.wrap.settings import address_of, effective
from vmwire.cli.wrap.survey import Entry, Survey
from vmwire.cli.wrap.values import Values, text
from vmwire.options.syntax import escape

INERT = "pci-testdev"

# Cards that others plug into: they stay as they are.
_BRIDGES = ("pci-bridge", "pcie-", "pxb", "ioh3420", "x3130", "xio3130", "i82801b11", "dmi-")
# With one of these there is no default display.
_DISPLAYS = names("""
    VGA ati-vga cirrus-vga isa-cirrus-vga isa-vga qxl-vga vhost-user-vga virtio-vga virtio-vga-gl
    virtio-vga-rutabaga vmware-svga
""")
_MACHINE_KEYS = names("usb sata smbus i8042 x-south-bridge acpi graphics")
_UNCLEAR = names("virtfs usbdevice soundhw audio watchdog balloon sd virtioconsole")

_DRIVES = names("drive hda hdb hdc hdd cdrom")

Slots = Mapping[str, int]
"""Where cards are, as 8 * slot + function, by the skeleton's ids."""


class UnclearError(Exception):
    """The slots can't be kept; the message says why."""


@dataclass(slots=True, frozen=True)
class Facts:
    """What QEMU says."""

    pci_drivers: Collection[str]
    machine: str
    ask: Callable[[list[str], list[str]], Slots]
    """Where the cards of these ids are, on the machine that these words make."""
    movable: Collection[int] = ()
    """Options ``-nic`` and ``-net nic`` whose cards may become a ``-device``, with an address."""


@dataclass(slots=True, frozen=True)
class _Piece:
    """One card of a skeleton."""

    index: int
    driver: str
    properties: dict[str, str]

    @property
    def id(self) -> str:
        return self.properties["id"]

    @property
    def has_address(self) -> bool:
        return self.properties.get("addr", "-1") != "-1"

    def word(self, address: str | None) -> str:
        """The argument of ``-device``."""
        values = self.properties if address is None else {**self.properties, "addr": address}
        return ",".join([self.driver, *(f"{key}={escape(each)}" for key, each in values.items())])


def pins(survey: Survey, replaced: Mapping[int, Values], facts: Facts) -> dict[int, str]:
    """Addresses, by option index, with which all cards stay in their slots.

    ``replaced`` has the properties of the replaced cards. Raises `UnclearError`.
    """
    if not _matters(survey, replaced, facts):
        return {}
    for name in sorted(_UNCLEAR if _has_ide(facts) else _UNCLEAR | _DRIVES):
        if survey.line.has(name):
            raise UnclearError(f"with -{name} its slot can't be known")
    machine = _machine_words(survey, facts)
    before = _pieces(survey, replaced, facts, moved=False)
    slots = facts.ask([*machine, *_words(before, {})], [piece.id for piece in before])
    first = min(place for place, piece in enumerate(before) if piece.index in replaced)
    pinned = {
        piece.index: f"{slots[piece.id] >> 3:x}.{slots[piece.id] & 7:x}"
        for place, piece in enumerate(before)
        if piece.index in replaced or (place > first and not piece.has_address)
    }
    pinned = {
        index: address
        for index, address in pinned.items()
        if index in replaced or _can_be_pinned(survey, index, facts.movable)
    }
    after = _pieces(survey, replaced, facts, moved=True)
    if _asked_again(facts, [*machine, *_words(after, pinned)], list(slots)) != slots:
        raise UnclearError("another card would take its slot")
    return pinned


def _asked_again(facts: Facts, words: list[str], ids: list[str]) -> Slots:
    try:
        return facts.ask(words, ids)
    except ProbeError:  # two cards for one slot: QEMU doesn't start
        return {}


def _can_be_pinned(survey: Survey, index: int, movable: Collection[int]) -> bool:
    option = survey.line.options[index]
    if option.name in ("nic", "net"):
        return index in movable
    if option.name == "drive" and not {"index", "unit", "bus"}.isdisjoint(option.options().keys()):
        return False
    return option.name in ("device", "drive") and not option.fixed


def _matters(survey: Survey, replaced: Mapping[int, Values], facts: Facts) -> bool:
    """Whether a card without an address is made after one that is replaced, or is one itself."""
    entries = {entry.index: entry for entry in survey.entries}
    if any(entries[index].option.name in ("nic", "net") for index in replaced):
        return True
    plain = [index for index in replaced if not entries[index].is_json]
    if not plain:
        return False
    if survey.line.has(*_UNCLEAR) or disks(survey):
        return True
    if survey.line.has(*_DRIVES) and not _has_ide(facts):
        return True
    return any(
        entry.index > min(plain)
        and entry.index not in replaced
        and not entry.is_json
        and address_of(effective(survey, entry, (entry.type,))) is None
        and _is_pci(entry, facts.pci_drivers)
        for entry in survey.named("device")
    )


def _is_pci(entry: Entry, drivers: Collection[str]) -> bool:
    return not {entry.type, f"{entry.type}-pci"}.isdisjoint(drivers) or (
        entry.type in cards.VFIO_USER.drivers
    )


def _has_ide(facts: Facts) -> bool:
    """Whether a disk is on the machine's own controller unless it says ``if=virtio``."""
    return facts.machine.startswith(("pc", "q35"))


def disks(survey: Survey) -> dict[int, str]:
    """The options that make a virtio disk without saying where, and the ids of their drives."""
    found: dict[int, str] = {}
    for index, option in survey.line.named("drive"):
        options = option.options()
        if options.get("if") == "virtio":
            found[index] = options.first("id") or f"virtio{len(found)}"
    return found


# --- skeletons --------------------------------------------------------------------------------


def _machine_words(survey: Survey, facts: Facts) -> list[str]:
    settings = [
        f",{key}={escape(text(survey.machine, key) or '')}"
        for key in survey.machine
        if key in _MACHINE_KEYS
    ]
    words = ["-machine", f"{facts.machine}{''.join(settings)}"]
    for _, option in survey.line.named("nodefaults", "usb", "vga"):
        words += option.words
    displays = [entry for entry in survey.named("device") if entry.type in _DISPLAYS]
    if displays and not survey.line.has("vga"):
        words += ["-vga", "none"]
    return words


def _words(pieces: list[_Piece], pinned: Mapping[int, str]) -> list[str]:
    words = ["-nic", "none"]
    for piece in pieces:
        words += ["-device", piece.word(pinned.get(piece.index))]
    return words


def _pieces(
    survey: Survey, replaced: Mapping[int, Values], facts: Facts, moved: bool
) -> list[_Piece]:
    """All cards in the order in which QEMU makes them; ``moved``: after the replacement.

    The devices that stand for replaced cards are put in front of all others in JSON.
    """
    devices = [each for each in survey.named("device") if _is_pci(each, facts.pci_drivers)]
    nics = [each for name in ("nic", "net") for each in survey.named(name) if _makes_card(each)]
    plain = [each for each in (*nics, *devices) if not each.is_json]
    json = [each for each in devices if each.is_json]
    if moved:
        json = [*(each for each in plain if each.index in replaced), *json]
        plain = [each for each in plain if each.index not in replaced]
    drives = [_Piece(index, INERT, {"id": f"vmwire-{index}"}) for index in disks(survey)]
    return [
        *(_piece(each, _properties(survey, each, replaced)) for each in plain),
        *drives,
        *(_piece(each, _properties(survey, each, replaced)) for each in json),
    ]


def _makes_card(entry: Entry) -> bool:
    return entry.type == "nic" if entry.option.name == "net" else entry.type != "none"


def _properties(survey: Survey, entry: Entry, replaced: Mapping[int, Values]) -> Values:
    if entry.index in replaced:
        return replaced[entry.index]
    return effective(survey, entry, (entry.type,)) if entry.option.name == "device" else {}


def _piece(entry: Entry, found: Values) -> _Piece:
    plain = {key: text(found, key) or "" for key in found}
    if entry.option.name == "device" and entry.type.startswith(_BRIDGES):
        return _Piece(entry.index, entry.type, {"id": f"vmwire-{entry.index}", **plain})
    kept: dict[str, str] = {
        key: plain[key] for key in ("bus", "addr", "multifunction") if key in plain
    }
    return _Piece(entry.index, INERT, {"id": f"vmwire-{entry.index}"} | kept)
