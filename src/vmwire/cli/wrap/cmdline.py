# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""QEMU's command line as a list of options, without loss.

QEMU's rule: a word that starts with ``-`` or ``--`` is an option name, taken whole (no
``--name=value``, no abbreviations); whether the next word is its argument, whatever that word looks
like, depends on the option alone; any other word is a disk image. So the line can be read only with
a table of the options without an argument. It is the union of what 7.2 and 11.1 take, with what
older versions took; no name ever changed from one kind to the other.

A name in neither table makes the rest unreadable: is the next word its argument? `parse` says so
in `CommandLine.fault`, and nothing of such a line may be touched.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from vmwire.options.syntax import JsonOptions, OptionList
from vmwire.options.syntax import parse as parse_options


def names(text: str) -> frozenset[str]:
    """A table of words, written as a paragraph."""
    return frozenset(text.split())


FLAGS = names("""
    S alt-grab async-teardown audio-help ctrl-grab curses daemonize enable-fips enable-hax
    enable-kvm enable-sync-profile full-screen h help jitdump localtime mem-prealloc no-acpi
    no-fd-bootchk no-frame no-hpet no-kvm no-kvm-irqchip no-kvm-pit no-kvm-pit-reinjection no-quit
    no-reboot no-shutdown no-user-config nodefaults nodefconfig nographic old-param only-migratable
    perfmap portrait preconfig rtc-td-hack s sdl semihosting show-cursor singlestep snapshot tdf
    usb version win2k-hack xen-attach xen-create xen-domid-restrict
""")

WITH_ARGUMENT = names("""
    D L M accel acpitable action add-fd append audio audiodev balloon bios blockdev boot bt cdrom
    chardev chroot clock compat cpu d debugcon device dfilter display drive dtb dump-vmstate echr
    fda fdb fsdev fw_cfg g gdb global hda hdb hdc hdd icount incoming initrd iscsi k kernel loadvm
    m machine mem-path mon monitor msg mtdblock name net netdev nic numa object option-rom
    overcommit parallel pflash pidfile plugin prom-env qmp qmp-pretty qtest qtest-log readconfig
    realtime rotate rtc run-with runas sandbox sd seed semihosting-config serial set shim smbios
    smp soundhw spice startdate tb-size tpmdev trace usbdevice uuid vga virtfs virtioconsole vnc
    watchdog watchdog-action writeconfig xen-domid
""")

# Asking for help or the version ends QEMU at once: nothing is started, nothing to serve.
QUESTIONS = frozenset(("h", "help", "version", "audio-help"))

# The key that the first item of an option's argument may leave out.
IMPLIED = {
    "netdev": "type",
    "nic": "type",
    "net": "type",
    "device": "driver",
    "object": "qom-type",
    "machine": "type",
    "M": "type",
    "m": "size",
    "numa": "type",
    "accel": "accel",
    "chardev": "backend",
    "sandbox": "enable",
    "icount": "shift",
}


@dataclass(slots=True, frozen=True)
class Option:
    """One option with its argument, or one disk image (``name`` is then empty).

    ``fixed``: a wrapper script writes it, so it counts, but can't be changed. ``vlan`` and
    ``typed``: it stands for a part of that VLAN, which was typed in older words (`vlans`).
    """

    name: str
    words: tuple[str, ...]
    fixed: bool = False
    vlan: int | None = None
    typed: str = ""

    @property
    def argument(self) -> str:
        return self.words[1] if len(self.words) > 1 else ""

    @property
    def noted(self) -> str:
        """How it was typed, for messages: the argument, of ``-net`` and ``-nic`` all of it."""
        if self.name in ("net", "nic"):
            return self.typed or f"-{self.name} {self.argument}"
        return self.typed or self.argument

    def options(self) -> OptionList | JsonOptions:
        """The argument as keys and values (ConfigError where QEMU's JSON reader balks)."""
        return parse_options(self.argument, IMPLIED.get(self.name))

    def __str__(self) -> str:
        return " ".join(self.words)


@dataclass(slots=True)
class CommandLine:
    """The options in order; ``fault`` says why they can't be relied on."""

    options: list[Option]
    fault: str | None = None

    def named(self, *names: str) -> Iterator[tuple[int, Option]]:
        """Index and option, in order, for each option of one of these names."""
        return (
            (index, option) for index, option in enumerate(self.options) if option.name in names
        )

    def has(self, *names: str) -> bool:
        return any(True for _ in self.named(*names))

    def words(self, edits: dict[int, list[str]] | None = None) -> list[str]:
        """The line that a user types: edited options replaced, fixed ones left out."""
        return [
            word
            for index, option in enumerate(self.options)
            if not option.fixed
            for word in (edits or {}).get(index, option.words)
        ]


def parse(words: Iterable[str], fixed: bool = False) -> CommandLine:
    """Read the words after the program name."""
    options: list[Option] = []
    rest = iter(words)
    for word in rest:
        name = option_name(word)
        if name in WITH_ARGUMENT:
            argument = next(rest, None)
            if argument is None:
                return CommandLine([*options, Option(name, (word,), fixed)], f"{word}: no argument")
            options.append(Option(name, (word, argument), fixed))
        elif not name or name in FLAGS:
            options.append(Option(name, (word,), fixed))
        else:
            left = [Option("", (other,), fixed) for other in (word, *rest)]
            return CommandLine([*options, *left], f"{word}: not an option that vmwire knows")
    return CommandLine(options)


def option_name(word: str) -> str:
    """``netdev`` for ``-netdev`` and ``--netdev``; empty for a disk image."""
    if not word.startswith("-"):
        return ""
    name = word[2:] if word.startswith("--") else word[1:]
    return name or word
