# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""``vmwire connect A B``: join two back ends with each other, with no card and no VM.

    vmwire connect tap,ifname=t0,script=no,downscript=no l2tpv3,src=…,dst=…,txsession=1

A and B are what stands behind ``-netdev``; without ``id=`` they are called ``a`` and ``b``. All
options of serve mode (`vmwire.cli.serve`) but ``-device`` may stand before, between and behind.
"""

from __future__ import annotations

from vmwire.cli import serve
from vmwire.cli.serve import Arguments
from vmwire.errors import ConfigError
from vmwire.options.syntax import parse

NAMES = ("a", "b")


def main(argv: list[str]) -> int:
    """Join what ``argv`` names; returns the exit status."""
    return serve.run(argv, read)


def read(argv: list[str]) -> Arguments:
    """The command line: two netdevs among serve mode's options."""
    ends: list[str] = []
    options: list[str] = []
    words = iter(argv)
    for word in words:
        if not word.startswith("-"):
            ends.append(word)
            continue
        options.append(word)
        if "=" not in word:
            options.extend(each for each in [next(words, None)] if each is not None)
    arguments = serve.read(options)
    if arguments.device or arguments.netdev:
        raise ConfigError("vmwire connect has no cards: it joins the two netdevs that it is given")
    if len(ends) != len(NAMES):
        raise ConfigError(f"vmwire connect joins two netdevs, not {len(ends)}")
    named = [_named(text, name) for text, name in zip(ends, NAMES, strict=True)]
    arguments.netdev = [text for text, _ in named]
    arguments.links = [(named[0][1], named[1][1])]
    return arguments


def _named(text: str, name: str) -> tuple[str, str]:
    """The option with an id, and that id."""
    options = parse(text, "type")
    if "id" not in options:
        options.add("id", name)
    return str(options), str(options.first("id"))
