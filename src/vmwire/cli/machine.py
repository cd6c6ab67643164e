# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""vmwire in QEMU's place: the command line of a machine without a CPU.

    vmwire -qtest unix:PATH -machine pc -nodefaults -netdev user,id=u -device e1000,netdev=u,addr=4

Options of QEMU's that have no meaning for such a machine are taken as they are
(``WITHOUT_MEANING``); everything else that isn't served is refused by its name.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from vmwire import catalogue
from vmwire.attach.chardev import Chardev, for_stream, read_short
from vmwire.attach.qtest import QtestSession
from vmwire.bench.machine import RAM_SIZE, Bench
from vmwire.cli.firmware import Setting, take_boot, take_cpus, take_item, take_uuid
from vmwire.cli.headless import Headless
from vmwire.errors import ConfigError
from vmwire.monitor.monitor import Monitor
from vmwire.monitor.session import Session
from vmwire.netdev.chardev import ChardevOptions, SocketChardevOptions
from vmwire.network import Network
from vmwire.options.old_spellings import DEFAULT, Asked, modern
from vmwire.options.syntax import OptionList, parse, parse_list
from vmwire.options.table import KINDS, naming, table_of

WITHOUT_MEANING = {
    "audio": ("none",), "cpu": (), "display": ("none",), "monitor": ("none", "null"),
    "msg": (), "parallel": ("none", "null"),
    "serial": ("none", "null"), "vga": ("none",),
}  # fmt: skip
"""Options about what this machine hasn't got, and the values that say so (none here: any will do,
for there is no CPU to feel it)."""
FLAGS_WITHOUT_MEANING = frozenset((
    "no-fd-bootchk", "no-reboot", "no-shutdown", "no-user-config", "nographic",
))  # fmt: skip
SWITCHES = {"S": "stopped", "nodefaults": "nodefaults"}
MACHINES = ("none", "pc")
NIC_MODEL = "e1000"
"""A PC's card, if ``-net nic`` or ``-nic`` doesn't say which."""
MACHINE_SWITCHES = {"accel": ("qtest",), "graphics": ("off",), "usb": ("off",), "vmport": ("off",)}
SUFFIXES = {"": 20, "b": 0, "k": 10, "m": 20, "g": 30, "t": 40}


@dataclass(slots=True)
class CommandLine:
    """What was asked for."""

    machine: str = "pc"
    ram_size: int = RAM_SIZE
    netdevs: list[str] = field(default_factory=list)
    devices: list[str] = field(default_factory=list)
    qtest: Chardev | str | None = None
    qtest_log: str | None = None
    chardevs: dict[str, ChardevOptions] = field(default_factory=dict)
    """The same as they were typed: what filters use is made of these."""
    objects: list[str] = field(default_factory=list)
    nets: list[str] = field(default_factory=list)
    nics: list[str] = field(default_factory=list)
    nodefaults: bool = False
    monitors: list[Chardev | str] = field(default_factory=list)
    name: str | None = None
    stopped: bool = False
    firmware: list[Setting] = field(default_factory=list)


def main(argv: list[str]) -> int:
    """Be the machine that ``argv`` (without the command's name) describes, until told to end."""
    asked = read(argv)
    if (shown := help_wanted(asked)) is not None:
        print(shown)
        return 0
    pc = Bench(asked.ram_size, bare=asked.machine == "none")
    with Headless(pc, asked.machine) as machine:
        build(asked, machine)
        machine.run()
    return 0


# --- the command line ---------------------------------------------------------------------------


def read(argv: list[str]) -> CommandLine:
    """Take the words apart; one dash or two, as QEMU has it. ConfigError names the option."""
    asked = CommandLine()
    words = iter(argv)
    for word in words:
        name = word[2:] if word.startswith("--") else word[1:]
        if not word.startswith("-"):
            raise ConfigError("a machine without a CPU runs no image", word)
        if name in FLAGS_WITHOUT_MEANING:
            continue
        if name in SWITCHES:
            setattr(asked, SWITCHES[name], True)
            continue
        take = TAKERS.get(name)
        if take is None and name not in WITHOUT_MEANING:
            raise ConfigError("is not served by a machine without a CPU", word)
        value = next(words, None)
        if value is None:
            raise ConfigError("requires an argument", word)
        with naming(f"{word} {value}"):
            if take is not None:
                take(asked, value)
            else:
                _check_meaningless(name, value)
    return asked


def help_wanted(asked: CommandLine) -> str | None:
    """What to print if some option asks for help."""
    kinds = {"net": asked.nets, "nic": asked.nics, "device": asked.devices}
    kinds |= {"netdev": asked.netdevs, "object": asked.objects}
    return catalogue.help_wanted((kind, text) for kind, texts in kinds.items() for text in texts)


def _check_meaningless(name: str, value: str) -> None:
    allowed = WITHOUT_MEANING[name]
    if allowed and value not in allowed:
        raise ConfigError(f"a machine without a CPU knows only '{allowed[0]}' here")


def _take_machine(asked: CommandLine, value: str) -> None:
    options = _plain(value, "type")
    for key in options.keys():  # noqa: SIM118
        text = options.get(key) or ""
        if key == "type":
            if text not in MACHINES:
                raise ConfigError(f"unsupported machine type (there are: {', '.join(MACHINES)})")
            asked.machine = text
        elif text not in MACHINE_SWITCHES.get(key, ()):
            raise ConfigError(f"'{key}={text}' is not served")


def _take_accel(asked: CommandLine, value: str) -> None:
    if _plain(value, "accel").get("accel") != "qtest":
        raise ConfigError("there is no CPU to accelerate, only 'qtest'")


def _take_ram(asked: CommandLine, value: str) -> None:
    options = _plain(value, "size")
    for key in options.keys():  # noqa: SIM118
        if key != "size":
            raise ConfigError(f"'{key}' is not served")
    asked.ram_size = read_size(options.get("size") or "")


def read_size(text: str) -> int:
    """QEMU's ``-m``: a number of MiB, or one with a suffix."""
    digits = text.rstrip("bBkKmMgGtT")
    suffix = text[len(digits) :].lower()
    try:
        number = float(digits)
    except ValueError:
        number = -1.0
    if suffix not in SUFFIXES or not 0 < number < 1 << 40:
        raise ConfigError("Parameter 'size' expects a size")
    return int(number * (1 << SUFFIXES[suffix]))


def _take_qtest(asked: CommandLine, value: str) -> None:
    asked.qtest = read_short(value)


def _take_chardev(asked: CommandLine, value: str) -> None:
    chardev = catalogue.parse("chardev", value)
    if chardev.id in asked.chardevs:
        raise ConfigError(f"Duplicate ID '{chardev.id}' for chardev")
    asked.chardevs[chardev.id] = chardev


def _take_monitor(asked: CommandLine, value: str) -> None:
    options = _plain(value, "chardev")
    mode = options.get("mode", "readline")
    if mode != "control":
        raise ConfigError("only mode=control is served")
    asked.monitors.append(options.get("chardev") or "")


def _take_name(asked: CommandLine, value: str) -> None:
    asked.name = _plain(value, "guest").get("guest")


def _take_qmp(asked: CommandLine, value: str) -> None:
    asked.monitors.append(read_short(value))


def _plain(value: str, implied: str) -> OptionList:
    return parse_list(value, implied)


def _firmware(take: Callable[[str], Setting]) -> Callable[[CommandLine, str], None]:
    return lambda asked, value: asked.firmware.append(take(value))


def _setter(name: str) -> Callable[[CommandLine, str], None]:
    return lambda asked, value: setattr(asked, name, value)


TAKERS: dict[str, Callable[[CommandLine, str], None]] = {
    "M": _take_machine,
    "accel": _take_accel,
    "boot": _firmware(take_boot),
    "chardev": _take_chardev,
    "device": lambda asked, value: asked.devices.append(value),
    "fw_cfg": _firmware(take_item),
    "m": _take_ram,
    "machine": _take_machine,
    "mon": _take_monitor,
    "name": _take_name,
    "net": lambda asked, value: asked.nets.append(value),
    "netdev": lambda asked, value: asked.netdevs.append(value),
    "nic": lambda asked, value: asked.nics.append(value),
    "object": lambda asked, value: asked.objects.append(value),
    "qmp": _take_qmp,
    "qtest": _take_qtest,
    "qtest-log": _setter("qtest_log"),
    "smp": _firmware(take_cpus),
    "uuid": _firmware(take_uuid),
}


# --- the machine --------------------------------------------------------------------------------


def build(asked: CommandLine, machine: Headless) -> None:
    """Put everything into the machine."""
    network = machine.network
    if machine.pc.board is not None:
        for setting in asked.firmware:
            setting(machine.pc.board.fw_cfg)
    add_networks(asked, network)
    if asked.stopped:
        machine.stop()
    if asked.qtest is not None:
        session = QtestSession(machine.pc, log_to(asked.qtest_log))
        machine.sessions.append(session)
        machine.add_stream(_chardev(asked, asked.qtest), session)
    if asked.monitors:
        monitor = Monitor(network, machine, name=asked.name)
        for named in asked.monitors:
            machine.add_stream(_chardev(asked, named), MonitorClient(monitor))


def add_networks(asked: CommandLine, network: Network) -> None:
    """All chardevs, netdevs, cards and filters, in QEMU's order."""
    _add_chardevs(asked, network)
    models = catalogue.nic_models()
    old = modern(networks(asked), asked.nics, asked.netdevs, NIC_MODEL, models, as_hubs=True)
    for each in [*_typed("netdev", asked.netdevs), *old.netdevs]:
        with naming(each.typed):
            network.add(_record("netdev", each))
    for each in [*old.devices, *_typed("device", asked.devices)]:
        with naming(each.typed):
            network.add(_record("device", each))
    for each in [*old.objects, *_typed("object", asked.objects)]:
        with naming(each.typed):
            network.add(_record("object", each))
    for warning in old.warnings:
        print(f"vmwire: warning: {warning}", file=sys.stderr)


def networks(asked: CommandLine) -> list[str]:
    """The ``-net`` options: a PC of which nothing is said has QEMU's usual network."""
    spoken = asked.nodefaults or asked.nets or asked.nics or asked.netdevs
    return asked.nets if spoken or asked.machine == "none" else list(DEFAULT)


def _typed(kind: str, texts: list[str]) -> list[Asked]:
    return [Asked(text, f"-{kind} {text}") for text in texts]


def _record(kind: str, asked: Asked) -> Any:
    return catalogue.record_of(kind, parse(asked.text, KINDS[kind].selector))


def _add_chardevs(asked: CommandLine, network: Network) -> None:
    """Keep for the network what neither a monitor nor a harness uses."""
    users = (asked.qtest, *asked.monitors)
    for id, chardev in asked.chardevs.items():
        if id in users or not isinstance(chardev, SocketChardevOptions):
            network.objects.taken.add(id)
        else:
            with naming(f"-chardev {table_of(type(chardev)).to_text(chardev)}"):
                network.add(chardev)


class MonitorClient:
    """A QMP client at a chardev's other end."""

    crowded = False

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._session: Session | None = None

    def opened(self, send: Callable[[bytes], None]) -> None:
        """A client is there."""
        self._session = Session(self._monitor, send)

    def feed(self, data: bytes) -> None:
        """It said something."""
        if self._session is not None:
            self._session.feed(data)

    def closed(self) -> None:
        """It has left."""
        if self._session is not None:
            self._session.close()
            self._session = None


def _chardev(asked: CommandLine, named: Chardev | str) -> Chardev:
    if isinstance(named, Chardev):
        return named
    if named not in asked.chardevs:
        raise ConfigError(f"chardev '{named}' not found")
    return for_stream(asked.chardevs[named])


def log_to(path: str | None) -> Callable[[str], None]:
    """What notes the qtest lines, as QEMU does: on standard error if no file is named."""
    if path in ("none", "/dev/null"):
        return lambda text: None
    file = sys.stderr if path is None else open_log(path)
    start = time.monotonic()

    def log(text: str) -> None:
        kind, _, rest = text.partition(" ")
        print(f"[{kind} +{time.monotonic() - start:.6f}] {rest}".rstrip(), file=file, flush=True)

    return log


def open_log(path: str) -> Any:
    try:
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", "-qtest-log") from None
