# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""How a machine's RAM becomes shared memory, which a vhost-user back end must be able to map.

What the user's options say about RAM decides (``M`` = the machine's RAM size):

=============================================  =================================================
RAM is given by                                what is done
=============================================  =================================================
``-m`` in any spelling, or nothing             ``-object memory-backend-memfd,size=M,share=on``
                                               and ``-machine memory-backend=``
``-mem-path FOLDER``                           becomes ``-object memory-backend-file,
                                               mem-path=FOLDER,size=M,share=on`` and the same
``-mem-path FOLDER,prealloc=on,share=on``      the same; QEMU itself takes only a path there
``-machine memory-backend=ID``                 that object gets shared, in place
``-numa node,memdev=ID`` (each node)           these objects get shared, in place
``-numa node,mem=SIZE`` (old machines)         as for ``-m``
``-device pc-dimm,memdev=ID`` and the like     these objects get shared, in place, besides
=============================================  =================================================

An object gets shared like this:

=============================================  =================================================
``memory-backend-memfd``                       share=off is taken out (on is its default)
``memory-backend-ram``                         becomes memory-backend-memfd, share=on: the same
                                               anonymous memory, but with a descriptor (7.2's
                                               shared RAM has none)
``memory-backend-file,share=on``, ``-shm``     left
``memory-backend-file`` in a folder            share=on: QEMU's file there has no name, so nobody
                                               can tell
``memory-backend-file`` with a file            can't: with share=on the guest would write the file
=============================================  =================================================

The new object is called as the machine calls its RAM (``pc.ram``), with
``x-use-canonical-path-for-ramblock-id=off``: so the RAM keeps its name in migration streams.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from vmwire.cli.wrap.survey import Entry, Survey
from vmwire.cli.wrap.values import text
from vmwire.options.syntax import JsonOptions, OptionList, escape

RAM_ID = "vmwire-ram"
MIB = 1 << 20
_SIZE = re.compile(r"(\d+)(?:\.(\d+))?([bkmgtpe]?)", re.IGNORECASE)
_UNITS = {"b": 0, "k": 10, "": 20, "m": 20, "g": 30, "t": 40, "p": 50, "e": 60}

_BESIDE_FOLDER = frozenset(("prealloc=on", "prealloc=off", "share=on"))

ALWAYS_SHARED = frozenset(("memory-backend-shm",))


class CantShareError(Exception):
    """RAM can't be shared without changing what the user asked for; the message says why."""


@dataclass(slots=True)
class Sharing:
    """Words to put in front, and changed options by index."""

    words: list[str] = field(default_factory=list)
    edits: dict[int, list[str]] = field(default_factory=dict)


@dataclass(slots=True, frozen=True)
class RamFacts:
    """What the decision needs to know of QEMU and the host."""

    machines: dict[str, str]
    """Each machine's RAM region; "": it takes no ``memory-backend``."""
    machine: str
    memfd: bool
    default_size: Callable[[], int]
    file_size_limit: int | None = None
    """RLIMIT_FSIZE, which holds for memory files as well."""
    is_folder: Callable[[str], bool] = os.path.isdir


def share(survey: Survey, facts: RamFacts) -> Sharing:
    """Decide; raises `CantShareError`."""
    _refuse_private_machines(survey)
    sharing = Sharing()
    objects = {entry.id: entry for entry in survey.objects("memory-backend-") if entry.id}
    used = _memory_devices(survey)
    main = text(survey.machine, "memory-backend")
    nodes = [entry.get("memdev") for entry in survey.named("numa") if entry.type == "node"]
    node_ids = [each for each in nodes if each]
    if main:
        used.append(main)
    elif node_ids:
        used += node_ids
    else:
        _share_main_ram(survey, facts, sharing, set(objects))
    for each in dict.fromkeys(used):
        if each not in objects:
            raise CantShareError(f"the memory object '{each}' is not on the command line")
        _share_object(objects[each], facts, sharing)
    return sharing


def ram_size(survey: Survey, default: Callable[[], int]) -> int:
    """The machine's RAM size as QEMU takes it from all ``-m``."""
    size = text(survey.ram, "size")
    if size is None:
        return default()
    match = _SIZE.fullmatch(size)
    if match is None:
        raise CantShareError(f"the RAM size '{size}' is written in a way that vmwire can't read")
    fraction = match[2] or ""
    scale: int = 10 ** len(fraction)
    scaled = int(match[1] + fraction) << _UNITS[match[3].lower()]
    if scaled == 0:
        return default()
    if scaled % (scale * MIB):
        raise CantShareError(f"the RAM size '{size}' is not whole MiB")
    return scaled // scale


# --- parts ------------------------------------------------------------------------------------


def _refuse_private_machines(survey: Survey) -> None:
    for key in ("confidential-guest-support", "memory-encryption"):
        if text(survey.machine, key):
            raise CantShareError(f"-machine {key}= keeps guest memory from others")
    for key in survey.machine:
        if key.startswith("memory.") or key == "memory":
            raise CantShareError(f"-machine {key}= sets RAM in a way that vmwire can't read")
    for entry in survey.named("global"):
        driver = entry.get("driver") or next(iter(entry.values), "")
        if driver.startswith("memory-backend"):
            raise CantShareError("-global changes memory objects")


def _memory_devices(survey: Survey) -> list[str]:
    """The memory objects behind DIMMs and their like."""
    return [
        memdev
        for entry in survey.named("device")
        for key in entry.values
        if key.endswith("memdev") and (memdev := entry.get(key))
    ]


def _share_main_ram(survey: Survey, facts: RamFacts, sharing: Sharing, taken: set[str]) -> None:
    region = facts.machines.get(facts.machine, "")
    if not region:
        raise CantShareError(f"the machine '{facts.machine}' takes no memory-backend")
    size = ram_size(survey, facts.default_size)
    _check_limit(size, facts)
    name = RAM_ID if region in taken else region
    about = f"id={name},size={size},share=on,x-use-canonical-path-for-ramblock-id=off"
    paths = list(survey.line.named("mem-path"))
    if paths:
        if any(option.fixed for _, option in paths):
            raise CantShareError("the program itself sets -mem-path")
        kind = f"memory-backend-file,mem-path={_folder(paths[-1][1].argument, facts)}"
        sharing.edits.update({index: [] for index, _ in paths})
    elif facts.memfd:
        kind = "memory-backend-memfd"
    else:
        raise CantShareError("this QEMU has no memory-backend-memfd")
    sharing.words += ["-object", f"{kind},{about}", "-machine", f"memory-backend={name}"]


def _folder(argument: str, facts: RamFacts) -> str:
    """What ``-mem-path`` says, as a value of ``mem-path=`` and what may follow that."""
    if facts.is_folder(argument):
        return escape(argument)
    folder, *more = argument.split(",")
    if not facts.is_folder(folder) or not _BESIDE_FOLDER.issuperset(more):
        raise CantShareError(f"-mem-path {argument} is not a folder")
    return ",".join([folder, *(each for each in more if each == "prealloc=on")])


def _share_object(entry: Entry, facts: RamFacts, sharing: Sharing) -> None:
    if entry.type in ALWAYS_SHARED or (entry.is_on("share") and entry.type != "memory-backend-ram"):
        return
    if entry.type == "memory-backend-memfd" and not entry.is_off("share"):
        return
    if entry.option.fixed:
        raise CantShareError(f"the memory object '{entry.id}' is set by the program itself")
    options = entry.option.options()
    if entry.type == "memory-backend-ram":
        if not facts.memfd:
            raise CantShareError("this QEMU has no memory-backend-memfd")
        options.set("qom-type", "memory-backend-memfd")
    elif entry.type == "memory-backend-file":
        _check_file(entry, facts)
    elif entry.type != "memory-backend-memfd":
        raise CantShareError(f"the memory object '{entry.id}' ({entry.type}) can't be shared")
    _set_on(options, "share")
    sharing.edits[entry.index] = [entry.option.words[0], str(options)]


def _check_file(entry: Entry, facts: RamFacts) -> None:
    path = entry.get("mem-path") or ""
    if not facts.is_folder(path):
        raise CantShareError(
            f"the memory object '{entry.id}' is a private copy of the file '{path}': shared, "
            "the guest would write to it"
        )
    for key in ("readonly", "rom"):
        if entry.is_on(key):
            raise CantShareError(f"the memory object '{entry.id}' has {key}=on")


def _check_limit(size: int, facts: RamFacts) -> None:
    if facts.file_size_limit is not None and size > facts.file_size_limit:
        raise CantShareError("the file size limit (ulimit -f) is below the RAM size")


def _set_on(options: OptionList | JsonOptions, key: str) -> None:
    if isinstance(options, JsonOptions):
        options.set(key, True)
    else:
        options.set(key, "on")
