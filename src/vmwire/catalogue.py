# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What a command line can ask for: the option tables of all types that are served, by name.

This imports the tables alone, and each only when it is asked for, so that a wrong option or a call
for help is answered before the network stack is loaded. `vmwire.registry` has the boxes.

>>> parse("netdev", "user,id=u,hostfwd=tcp::5555-:22").hostname is None
True
>>> parse("device", "virtio-net,mq=maybe")
Traceback (most recent call last):
vmwire.errors.ConfigError: -device virtio-net,mq=maybe: Parameter 'mq' expects 'on' or 'off'
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

from vmwire.nic import declared
from vmwire.options import table
from vmwire.options.old_spellings import MODELS, asks_for_models
from vmwire.options.syntax import HELP_WORDS, JsonOptions, OptionList
from vmwire.options.syntax import parse as parse_syntax
from vmwire.options.table import Table, naming

# In the order in which help lists them, which is QEMU's.
MODULES: Mapping[str, Mapping[str, str]] = {
    "netdev": {
        "socket": "vmwire.netdev.socket",
        "stream": "vmwire.netdev.stream",
        "dgram": "vmwire.netdev.dgram",
        "hubport": "vmwire.netdev.hubport",
        "tap": "vmwire.netdev.tap",
        "passt": "vmwire.netdev.passt",
        "user": "vmwire.netdev.user.options",
        "l2tpv3": "vmwire.netdev.l2tpv3",
        "vde": "vmwire.netdev.vde",
        "bridge": "vmwire.netdev.bridge",
        "vhost-user": "vmwire.netdev.vhost_user",
    },
    "device": declared.OPTIONS,
    "object": {
        "filter-buffer": "vmwire.filters.options",
        "filter-dump": "vmwire.filters.options",
        "filter-mirror": "vmwire.filters.options",
        "filter-redirector": "vmwire.filters.options",
    },
    "chardev": {
        "socket": "vmwire.netdev.chardev",
        "stdio": "vmwire.netdev.chardev",
    },
}
TITLES = {
    "netdev": "Available netdev backend types:",
    "device": "Network devices:",
    "object": "List of user creatable objects:",
    "chardev": "Available chardev backend types:",
}

OF_MACOS = "is macOS's own: leave it to QEMU there"
NETDEVS_ELSEWHERE = {
    "af-xdp": "is not served by vmwire: leave it to QEMU, or bridge a tap with the interface",
    "vhost-vdpa": "hands a card of the host's hardware to the machine: leave it to QEMU",
    "netmap": "is not served by vmwire: leave it to QEMU",
    "vmnet-bridged": OF_MACOS,
    "vmnet-host": OF_MACOS,
    "vmnet-shared": OF_MACOS,
}
NETDEVS_OF_LATER = ("nic", "none")
NICS_OF_LATER = (
    "i82550", "i82551", "i82557a", "i82557b", "i82557c", "i82558a", "i82558b", "i82559a",
    "i82559b", "i82559c", "i82559er", "i82562", "i82801", "igb", "ne2k_isa", "ne2k_pci", "pcnet",
    "rocker", "rtl8139", "tulip", "usb-bt-dongle", "usb-net", "vmxnet3",
)  # fmt: skip

table.types_elsewhere("netdev", NETDEVS_ELSEWHERE)
table.types_of_later("netdev", *NETDEVS_OF_LATER)
table.types_of_later("device", *NICS_OF_LATER)
OF_COLO = "is of use only where two QEMUs run one machine (COLO): leave it to QEMU"
OF_REPLAY = (
    "is of use only in QEMU, which records and replays a machine: to put frames into a line, "
    "filter-redirector with indev= takes them from a chardev"
)
table.types_elsewhere(
    "object", {"colo-compare": OF_COLO, "filter-rewriter": OF_COLO, "filter-replay": OF_REPLAY}
)
table.types_of_later(
    "chardev", "file", "null", "parallel", "pipe", "pty", "ringbuf", "serial", "udp", "vc"
)


def parse(kind: str, text: str) -> Any:
    """The record of ``-netdev TEXT``, ``-device TEXT`` and so on, or a ConfigError in one line."""
    with naming(f"-{kind} {text}"):
        return record_of(kind, parse_syntax(text, table.KINDS[kind].selector))


def record_of(kind: str, options: OptionList | JsonOptions) -> Any:
    """The record of an argument that was taken apart already."""
    _import(kind, options.get(table.KINDS[kind].selector))
    return table.select(kind, options).from_options(options)


def find(kind: str, name: str) -> Table[Any]:
    """The table of a type; ConfigError if there is none."""
    _import(kind, name)
    return table.find(kind, name)


def help_for(kind: str, text: str) -> str | None:
    """What to print for ``help`` or ``NAME,help``; None if ``text`` doesn't ask for help."""
    selector = table.KINDS[kind].selector
    options = parse_syntax(text, selector)
    if not options.wants_help:
        return None
    name = options.get(selector)
    if name is None or name in HELP_WORDS:
        return _list(kind)
    _import(kind, name)
    with naming(f"-{kind} {text}"):
        return table.find(kind, name).help_text()


def _list(kind: str) -> str:
    return "\n".join([TITLES[kind], *(each.list_line() for each in tables(kind))])


def help_wanted(asked: Iterable[tuple[str, str]]) -> str | None:
    """What to print if one of these options, names and arguments, asks for help."""
    for kind, text in asked:
        if kind in ("net", "nic"):
            found = models() if asks_for_models(kind, text) else None
        else:
            with naming(f"-{kind} {text}"):
                found = help_for(kind, text)
        if found is not None:
            return found
    return None


def nic_models() -> set[str]:
    """What ``model=`` may say, be it served or not."""
    return {*MODULES["device"], *NICS_OF_LATER}


def models() -> str:
    """What ``-net nic,model=help`` and ``-nic model=help`` print."""
    names = [each.name for each in tables("device") if each.bus == "PCI"]
    also = {driver: f" (aka {model})" for model, driver in MODELS.items()}
    lines = [f"{name}{also.get(name, '')}" for name in sorted(names)]
    return "\n".join(["Available NIC models for this configuration:", *lines])


def tables(kind: str) -> list[Table[Any]]:
    """The tables of all types of a kind, in the order of help."""
    for name in MODULES[kind]:
        _import(kind, name)
    return [table.find(kind, name) for name in MODULES[kind]]


def _import(kind: str, name: Any) -> None:
    module = MODULES[kind].get(declared.ALIASES.get(name, name)) if isinstance(name, str) else None
    if module is not None:
        import_module(module)
