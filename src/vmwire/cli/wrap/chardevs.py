# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Chardevs that go with the netdev or filter that uses them.

QEMU gives a chardev to one user, but for some kinds. Here it goes only if nothing else in the
command may mean it: no other option that can name a chardev has its id as a value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from vmwire.cli.wrap.cmdline import names
from vmwire.cli.wrap.survey import Entry, Survey
from vmwire.cli.wrap.values import OFF

KEYS = ("chardev", "indev", "outdev")
NAMING = names("""
    bt chardev debugcon device gdb global mon monitor net netdev nic object parallel qmp qmp-pretty
    qtest semihosting-config serial set tpmdev usbdevice virtioconsole
""")
"""Options that can name a chardev."""
OTHER_IDS = names("bus drive id memdev netdev")
"""Keys whose values are ids of something else."""


def used_by(survey: Survey, users: Iterable[Entry]) -> list[Entry]:
    """The chardevs that these options name, in order."""
    wanted = _wanted(users)
    return [each for each in survey.named("chardev") if each.id in wanted]


def reasons(
    survey: Survey, users: list[Entry], unserved: Callable[[Entry], str | None]
) -> Iterator[str]:
    """Why they can't go, and so their users can't."""
    found = used_by(survey, users)
    for name in _wanted(users):
        if sum(each.id == name for each in found) != 1:
            yield f"there is not one -chardev of id '{name}'"
    own = {each.index for each in (*users, *found)}
    for chardev in found:
        if chardev.option.fixed:
            yield f"the program itself sets {chardev.option}"
        if reason := unserved(chardev):
            yield f"{chardev.option}: {reason}"
        if _waits(chardev) and any(each.option.name == "object" for each in users):
            yield f"{chardev.option}: QEMU waits for its peer, vmwire would not (wait=off)"
        for index, option in survey.line.named(*NAMING):
            if index not in own and _names(option.argument, chardev.id or ""):
                yield f"{option} uses its chardev"


def _wanted(users: Iterable[Entry]) -> list[str]:
    """Ids, each once."""
    found = (user.get(key) for user in users for key in KEYS)
    return list(dict.fromkeys(each for each in found if each is not None))


def _waits(chardev: Entry) -> bool:
    """Whether QEMU starts the machine only when the peer is there."""
    return chardev.is_on("server") and chardev.get("wait") not in OFF


def _names(argument: str, id: str) -> bool:
    """Whether ``id`` stands there as a value (``key=id``, ``word:id``, JSON), or in a path."""
    pattern = rf"""(?:^|(?P<key>[\w-]*)"?\s*[=:.]\s*"?){re.escape(id)}(?:$|[,".])"""
    return any(each["key"] not in OTHER_IDS for each in re.finditer(pattern, argument))
