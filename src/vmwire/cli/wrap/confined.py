# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""QEMU that changes its user after the start (``-runas``): its way back to the network's socket.

QEMU connects while it is still root. If the network's worker dies, it connects again, as the other
user, to a socket that only root could reach. So for such a QEMU the sockets stand in a folder that
can be entered by all, and belong to that user alone.

After ``-chroot`` there is no path that leads out; that loss is told by ``--explain``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from vmwire.cli.wrap.survey import Survey


def later_user(survey: Survey) -> tuple[int, int] | None:
    """Uid and gid that QEMU takes on by ``-runas`` or ``-run-with user=``; None if it doesn't."""
    name = None
    for _, option in survey.line.named("runas"):
        name = option.argument
    for entry in survey.named("run-with"):
        name = entry.get("user") or name
    if name is None or os.geteuid() != 0:
        return None  # without root QEMU refuses
    return _ids(name)


def _ids(name: str) -> tuple[int, int] | None:
    """``NAME`` or ``UID:GID``, as QEMU takes them."""
    import pwd

    try:
        user = pwd.getpwnam(name)
    except KeyError:
        uid, _, gid = name.partition(":")
        return (int(uid), int(gid)) if uid.isdecimal() and gid.isdecimal() else None
    return user.pw_uid, user.pw_gid


def hand_over(paths: Iterable[str], owner: tuple[int, int]) -> None:
    """Give the sockets to the user that QEMU becomes."""
    for path in paths:
        os.chown(path, *owner, follow_symlinks=False)
