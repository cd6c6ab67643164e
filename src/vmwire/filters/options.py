# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What a user can say about filters: ``-object filter-dump,id=F,netdev=N,file=PATH[,...]``.

``queue`` is named from the netdev's side, as in QEMU: ``rx`` is what it receives (sent by the
guest), ``tx`` what it sends. The filters before a netdev stand in a row whose *head* is nearest to
the netdev: what it sends meets the head first, what it receives meets it last.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from vmwire.errors import ConfigError
from vmwire.options.table import option, record
from vmwire.options.values import (
    BOOL,
    IDENTIFIER,
    STRING,
    UINT32,
    ChoiceType,
    ParsedType,
)

QUEUE = ChoiceType("NetFilterDirection", words=("all", "rx", "tx"), syntax="all/rx/tx")
INSERT = ChoiceType("NetfilterInsert", words=("before", "behind"), syntax="before/behind")


def _position(text: str) -> str:
    if text in ("head", "tail") or text.startswith("id="):
        return text
    raise ValueError("Parameter 'position' expects 'head', 'tail' or 'id=<id>'")


def _status(text: str) -> str:
    if text in ("on", "off"):
        return text
    raise ValueError("Invalid value for netfilter status, should be 'on' or 'off'")


POSITION = ParsedType(result=str, parse=_position)
STATUS = ParsedType(result=str, parse=_status)


@dataclass(slots=True, kw_only=True)
class FilterOptions:
    """What all filters have in common."""

    id: str = option(IDENTIFIER, required=True)
    netdev: str = option(STRING, required=True, help="the netdev that it stands before")
    queue: str = option(QUEUE, default="all", help="what the netdev receives, sends, or both")
    status: str = option(STATUS, default="on", help="on/off, or not there, as it were")
    position: str = option(
        POSITION, default="tail", help="head (nearest to the netdev), tail or id=FILTER"
    )
    insert: str = option(INSERT, default="behind", help="which side of the filter of id=")

    def place(self, row: Sequence[str]) -> int:
        """Return where it goes in a ``row`` of ids, head first; ``ConfigError``."""
        if self.position == "head":
            return 0
        if self.position == "tail":
            return len(row)
        wanted = self.position.removeprefix("id=")
        if wanted not in row:
            raise ConfigError(f"filter '{wanted}' not found")
        return row.index(wanted) + (self.insert == "behind")

    def chardevs(self) -> list[str]:
        """Return the ids of the chardevs that it uses."""
        return []


@record("object", "filter-dump")
@dataclass(slots=True, kw_only=True)
class DumpOptions(FilterOptions):
    """``filter-dump``: what passes is written to a pcap file."""

    file: str = option(STRING, required=True, help="where to")
    maxlen: int = option(UINT32, default=65536, help="bytes of each frame that are kept")

    def claim(self) -> tuple[DumpOptions, dict[str, int]]:
        """The same for a network in another process, which may be in another folder."""
        return replace(self, file=os.path.abspath(self.file)), {}

    def __post_init__(self) -> None:
        if self.maxlen == 0:
            raise ConfigError("Property 'filter-dump.maxlen' doesn't take value '0'")


@record("object", "filter-buffer")
@dataclass(slots=True, kw_only=True)
class BufferOptions(FilterOptions):
    """``filter-buffer``: frames wait and leave together."""

    interval: int = option(UINT32, required=True, help="microseconds from leave to leave")

    def __post_init__(self) -> None:
        if self.interval == 0:
            raise ConfigError("Property 'filter-buffer.interval' requires a positive value")


@record("object", "filter-mirror")
@dataclass(slots=True, kw_only=True)
class MirrorOptions(FilterOptions):
    """``filter-mirror``: a chardev gets a copy of what passes."""

    outdev: str = option(STRING, required=True, help="the chardev that gets it")
    vnet_hdr_support: bool = option(
        BOOL, key="vnet_hdr_support", default=False, help="on/off, each with its virtio header"
    )

    def chardevs(self) -> list[str]:
        return [self.outdev]


@record("object", "filter-redirector")
@dataclass(slots=True, kw_only=True)
class RedirectorOptions(FilterOptions):
    """``filter-redirector``: what comes goes to a chardev; what that says goes on in its place."""

    indev: str | None = option(STRING, help="the chardev whose frames go on from here")
    outdev: str | None = option(STRING, help="the chardev that gets what comes here")
    vnet_hdr_support: bool = option(
        BOOL, key="vnet_hdr_support", default=False, help="on/off, each with its virtio header"
    )

    def __post_init__(self) -> None:
        if self.indev is None and self.outdev is None:
            raise ConfigError(
                "filter redirector needs 'indev' or 'outdev' at least one property set"
            )
        if self.indev == self.outdev:
            raise ConfigError("'indev' and 'outdev' could not be same for filter redirector")

    def chardevs(self) -> list[str]:
        return [each for each in (self.indev, self.outdev) if each is not None]
