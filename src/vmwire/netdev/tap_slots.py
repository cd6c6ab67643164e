# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Where a tap's frames are read into, and what is made of them there.

One piece of memory with a slot for each frame of a burst, a fixed distance apart. So a burst of
equal datagrams (``vmwire.wire.runs``) is recognised by columns: the same field of all frames is
compared by one call, and no frame costs Python anything but the system call that read it.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from typing import Literal

from vmwire.wire.frame import HEADER, MAX_FRAME, NO_OFFLOAD, Frame, Offload, View
from vmwire.wire.runs import KINDS, Kind, kind_of, runs

SLOT_BYTES = HEADER.size + MAX_FRAME
STRIDE = (SLOT_BYTES + 63) // 64 * 64 | 64
"""From slot to slot: an odd number of cache lines, or the heads of all would share a few places in
the processor's cache."""
WORDS: Sequence[tuple[int, Literal["Q", "I", "H"]]] = ((8, "Q"), (4, "I"), (2, "H"))

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
        if self.joins and len(lengths) > 1:
            return self._one_run(lengths) or self._some_runs(lengths)
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
        first = self._frame(0, length)
        kind = kind_of(first)
        if kind is None or not self._alike(kind, count):
            return []
        return runs(kind, first, self._cut_payloads(kind.headers, first.length)[:count])

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

    def _some_runs(self, lengths: Sequence[int]) -> list[Frame]:
        """Frames, and runs where the first of their datagrams stood."""
        groups: dict[tuple[int, bytes], tuple[Kind, list[Frame]]] = {}
        order: list[tuple[Kind | None, list[Frame]]] = []
        for at, length in enumerate(lengths):
            frame = self._frame(at, length)
            kind = kind_of(frame)
            if kind is None:
                order.append((None, [frame]))
                continue
            key = length, kind.key(frame.views[0])
            group = groups.get(key)
            if group is None:
                group = groups[key] = kind, []
                order.append(group)
            group[1].append(frame)
        found: list[Frame] = []
        for kind, alike in order:
            if kind is None or len(alike) == 1:
                found += alike
            else:
                found += runs(kind, alike[0], [each.views[0][kind.headers :] for each in alike])
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
