# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Options that say what a machine's firmware would find in the configuration device.

``-uuid``, ``-smp``, ``-boot`` and ``-fw_cfg``: nobody here acts on them, but a harness may read
them back (`vmwire.bench.fw_cfg`).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from pathlib import Path

from vmwire.bench.fw_cfg import BOOT_MENU, NAME_BYTES, UUID, FwCfg
from vmwire.errors import ConfigError
from vmwire.options.syntax import OptionList, parse_list

Setting = Callable[[FwCfg], None]

MOST_CPUS = 255
_CPU_PARTS = ("sockets", "dies", "clusters", "modules", "cores", "threads")
_NUMBER = re.compile(r"-?[0-9]{1,9}")


def _known(options: OptionList, *keys: str) -> None:
    for key in options.keys():  # noqa: SIM118
        if key not in keys:
            raise ConfigError(f"'{key}' is not served")


def _number(options: OptionList, key: str, least: int, most: int, default: int) -> int:
    text = options.get(key)
    if text is None:
        return default
    if not _NUMBER.fullmatch(text) or not least <= int(text) <= most:
        raise ConfigError(f"Parameter '{key}' expects a number from {least} to {most}")
    return int(text)


def take_uuid(value: str) -> Setting:
    """``-uuid``: the machine's."""
    try:
        number = uuid.UUID(value).bytes
    except ValueError:
        raise ConfigError("failed to parse UUID string: wrong format") from None
    return lambda fw_cfg: fw_cfg.items.update({UUID: number})


def take_cpus(value: str) -> Setting:
    """``-smp [cpus=]N[,maxcpus=M]``, or the parts whose product that is."""
    options = parse_list(value, "cpus")
    _known(options, "cpus", "maxcpus", *_CPU_PARTS)
    product = 1
    for part in _CPU_PARTS:
        product *= _number(options, part, 1, MOST_CPUS, 1)
    now = _number(options, "cpus", 1, MOST_CPUS, _number(options, "maxcpus", 1, MOST_CPUS, product))
    most = _number(options, "maxcpus", now, MOST_CPUS, max(now, product))
    return lambda fw_cfg: fw_cfg.set_cpus(now, min(most, MOST_CPUS))


def take_boot(value: str) -> Setting:
    """``-boot``: what to boot from is nobody's business here; menu and time-outs can be read."""
    options = parse_list(value, "order")
    _known(options, "order", "once", "strict", "menu", "splash-time", "reboot-timeout")
    menu = options.get("menu", "off")
    if menu not in ("on", "off"):
        raise ConfigError("Parameter 'menu' expects 'on' or 'off'")
    wait = _number(options, "reboot-timeout", -1, 0xFFFF, -1)
    splash = _number(options, "splash-time", 0, 0xFFFF, -1)

    def apply(fw_cfg: FwCfg) -> None:
        fw_cfg.items[BOOT_MENU] = (menu == "on").to_bytes(2, "little")
        fw_cfg.add_file("etc/boot-fail-wait", wait.to_bytes(4, "little", signed=True))
        if splash >= 0:
            fw_cfg.add_file("etc/boot-menu-wait", splash.to_bytes(2, "little"))

    return apply


def take_item(value: str) -> Setting:
    """``-fw_cfg [name=]NAME,file=FILE`` or ``,string=TEXT``."""
    options = parse_list(value, "name")
    _known(options, "name", "file", "string")
    name, path, text = (options.get(key) for key in ("name", "file", "string"))
    if not name or len(name) > NAME_BYTES or not name.isascii():
        raise ConfigError(f"name must have 1 to {NAME_BYTES} characters")
    if (path is None) == (text is None):
        raise ConfigError("either file or string is needed")
    try:
        data = (text or "").encode() if path is None else Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"can't load {path}: {error.strerror}") from None
    return lambda fw_cfg: fw_cfg.add_file(name, data)
