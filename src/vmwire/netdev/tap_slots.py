# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Where a tap's frames are read into, and what is made of them there.

One piece of memory with a slot for each frame of a burst, a fixed distance apart. So a burst of
equal datagrams (``vmwire.wire.runs``) is recognised by columns: the same field of all frames is
compared by one call, and no frame costs Python anything but the system call that read it.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Literal

from vmwire.wire.frame import HEADER, MAX_FRAME, NO_OFFLOAD, Frame, Offload, View
from vmwire.wire.runs import IPV4, IPV6, Flow, Kind, kind_of

SLOT_BYTES = HEADER.size + MAX_FRAME
STRIDE = (SLOT_BYTES + 63) // 64 * 64 | 64
"""From slot to slot: an odd number of cache lines, or the heads of all would share a few places in
the processor's cache."""
WORDS: Sequence[tuple[int, Literal["Q", "I", "H"]]] = ((8, "Q"), (4, "I"), (2, "H"))

VERSION_AT = HEADER.size + 12
"""Of the EtherType's first byte."""
MOST_FLOWS = 1024
WORTH = 3
"""Datagrams to a run, at least, for mixed bursts to be searched on."""
REST_BURSTS = 15
KINDS = {kind.version: kind for kind in (IPV4, IPV6)}


def _key(kind: Kind) -> Callable[[View], tuple[bytes, ...]]:
    """What reads the net header, and of the headers what a flow's frames have in common."""
    layout, at = f"{HEADER.size}s", 0
    for start, end in kind.same:
        layout += f"{start - at}x{end - start}s"
        at = end
    return Struct(layout).unpack_from


KEYS = {version: _key(kind) for version, kind in KINDS.items()}
Key = tuple[int, tuple[bytes, ...]]
Column = tuple[View, int, int]
"""Words of one size all over the memory, the place of one in the first slot, how far it is to the
next."""


class Slots:
    """Memory for ``count`` frames. ``header``: they come with virtio's net header in front.

    ``joins`` says whether equal datagrams may become one frame.
    """

    def __init__(self, count: int, header: bool) -> None:
        self._header = header
        self.joins = False
        memory = memoryview(mmap.mmap(-1, count * STRIDE))
        starts = [number * STRIDE for number in range(count)]
        self.wholes = [memory[start : start + SLOT_BYTES] for start in starts]
        """Where to read to."""
        self._heads = [whole[: HEADER.size] for whole in self.wholes]
        self._bodies = [whole[HEADER.size :] for whole in self.wholes]
        self._columns = {kind: _columns(memory, kind) for kind in KINDS.values()}
        self._rest = 0
        """Mixed bursts that are not searched for runs, since the last one had none worth it."""
        self._flows: dict[Key, Flow] = {}
        """By length and headers: those that were met."""
        self._cut: tuple[int, int] = (0, 0)
        self._payloads: list[View] = []

    def frames(self, lengths: Sequence[int]) -> list[Frame]:
        """What was read into the first slots: so many bytes into each."""
        if not self._header:
            wholes = self.wholes
            return [
                Frame((wholes[at][:length],), length, NO_OFFLOAD)
                for at, length in enumerate(lengths)
            ]
        if len(lengths) == 1:
            return [self._frame(0, lengths[0])]
        if self.joins:
            if found := self._one_run(lengths):
                return found
            if not self._rest:
                return self._some_runs(lengths)
            self._rest -= 1
        return [self._frame(at, length) for at, length in enumerate(lengths)]

    def _frame(self, at: int, length: int) -> Frame:
        length -= HEADER.size
        offload = Offload.unpack(self._heads[at].tobytes())
        return Frame((self._bodies[at][:length],), length, offload)

    # Runs

    def _one_run(self, lengths: Sequence[int]) -> list[Frame]:
        """All of them as one run; nothing, if they are none."""
        count, length = len(lengths), lengths[0]
        if lengths[-1] != length or lengths.count(length) != count:
            return []
        kind = KINDS.get(self.wholes[0][VERSION_AT])
        if kind is None or not self._alike(kind, count):
            return []
        flow = self._flow(0, length, kind)
        if flow is None:
            return []
        return flow.frames(self._cut_payloads(flow.headers, length - HEADER.size)[:count])

    def _alike(self, kind: Kind, count: int) -> bool:
        """Whether the headers of the first frames are the same, wherever those of a run are."""
        for words, at, step in self._columns[kind]:
            column = words[at : at + step * count : step].tobytes()
            if column != column[: words.itemsize] * count:
                return False
        return True

    def _cut_payloads(self, start: int, end: int) -> list[View]:
        """The payloads of all slots, cut once for all bursts of one size."""
        if self._cut != (start, end):
            self._cut = start, end
            self._payloads = [body[start:end] for body in self._bodies]
        return self._payloads

    def _flow(self, at: int, length: int, kind: Kind) -> Flow | None:
        """The flow that a frame belongs to, if it is one of datagrams that may be joined."""
        key = length, KEYS[kind.version](self.wholes[at])
        return self._flows.get(key) or self._new_flow(at, key)

    def _new_flow(self, at: int, key: Key) -> Flow | None:
        frame = self._frame(at, key[0])
        kind = kind_of(frame)
        if kind is None:
            return None
        if len(self._flows) >= MOST_FLOWS:
            self._flows.clear()
        flow = self._flows[key] = Flow(kind, frame)
        return flow

    def _some_runs(self, lengths: Sequence[int]) -> list[Frame]:
        """Frames, and runs where the first of their datagrams stood."""
        wholes, bodies, known = self.wholes, self._bodies, self._flows.get
        key_of, new_flow = KEYS.get, self._new_flow
        groups: dict[Flow, list[View]] = {}
        order: list[Flow | Frame] = []
        for at, length in enumerate(lengths):
            whole = wholes[at]
            unpack = key_of(whole[VERSION_AT])
            if unpack is not None:
                key = length, unpack(whole)
                flow = known(key) or new_flow(at, key)
                if flow is not None:
                    payload = bodies[at][flow.headers : length - HEADER.size]
                    if flow in groups:
                        groups[flow].append(payload)
                    else:
                        groups[flow] = [payload]
                        order.append(flow)
                    continue
            order.append(self._frame(at, length))
        self._rest = REST_BURSTS if len(order) * WORTH > len(lengths) else 0
        found: list[Frame] = []
        for each in order:
            if isinstance(each, Flow):
                found += each.frames(groups[each])
            else:
                found.append(each)
        return found


def _columns(memory: View, kind: Kind) -> list[Column]:
    """The net header and what headers have in common, as columns of the largest words."""
    spans = [(0, HEADER.size), *((HEADER.size + a, HEADER.size + b) for a, b in kind.same)]
    found: list[Column] = []
    for at, end in spans:
        while at < end:
            size, letter = next((s, f) for s, f in WORDS if at % s == 0 and at + s <= end)
            found.append((memory.cast(letter), at // size, STRIDE // size))
            at += size
    return found
