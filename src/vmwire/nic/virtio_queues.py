# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A virtio network card's two kinds of queue (virtio 1.2, sections 5.1.6.2 to 5.1.6.4).

``Transmitter``: chains of the driver become frames whose views lie in guest memory. The frames are
on loan to the wire for one call, so a chain is complete as soon as the wire took its frame; a frame
that the wire refuses stays on the ring, and nothing of it is remembered here.

``Receiver``: frames are copied into the driver's buffers, or a peer reserves room and has the host
kernel write into the buffers directly. With mergeable buffers a frame spans as many chains as it
needs, and all of them are completed together.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import accumulate
from struct import Struct

from vmwire.bus.virtio.queue import NO_CHAINS, Chains, Queue, RingFault, View
from vmwire.engine.memory import gather, scatter
from vmwire.wire.frame import ETHERNET_HEADER, MAX_FRAME, Frame, Offload
from vmwire.wire.port import HEADROOM

TURN_BYTES = 256 * 1024
"""What one queue may send before the others get their turn."""
FRAME_COST = 512
"""Bytes of that budget that a frame costs beyond its own, so that small ones count too."""
BATCH = 64
"""Frames sent in one call."""

STOCK = 64
"""Receive chains taken from the ring at once."""

LEGACY_HEADER = 10
HEADER = 12
"""The net header's size: virtio 1.x and mergeable buffers have a buffer count at its end."""

_PACKED = Struct("10s")
_NUM_BUFFERS = Struct("<H")
_ONE_BUFFER = _NUM_BUFFERS.pack(1)
_NO_OFFLOAD = bytes(LEGACY_HEADER)


class Transmitter:
    """One transmit queue: what the guest sends.

    ``send`` is the port's; ``completed(queue)`` hears that the driver may want to be woken;
    ``again`` has ``run`` called once more, when the others had their turn.
    """

    def __init__(
        self,
        queue: Queue,
        header_size: int,
        send: Callable[[Sequence[Frame]], int],
        completed: Callable[[Queue], None],
        again: Callable[[], None],
        drops: Counter[str],
    ) -> None:
        self.queue = queue
        self.header_size = header_size
        self.drops = drops
        self.discards = False
        """Throw away what the guest sends instead (a started ring that is disabled)."""
        self._send = send
        self._completed = completed
        self._again = again
        self._blocked = False

    def resume(self) -> None:
        """Go on after the wire refused a frame."""
        if self._blocked:
            self._blocked = False
            self._again()

    def run(self) -> None:
        """Send what is there, up to the budget of a turn. Raises ``RingFault``."""
        queue, budget = self.queue, TURN_BYTES
        if self._blocked:
            return
        queue.refuse_kicks()
        while budget > 0:
            chains = queue.take(BATCH)
            if not chains:
                if queue.want_kicks():
                    budget -= FRAME_COST
                    continue
                return
            frames, size = self._frames(chains, budget)
            taken = self._send_or_discard(frames)
            done = taken or self._drop(chains.lengths[0], frames)
            queue.give_back(len(chains) - done)
            if done:
                queue.complete(chains.tokens[:done])
                self._completed(queue)
            if taken < len(frames):
                self._blocked = True
                return
            budget -= size + FRAME_COST * done
        self._again()

    def _send_or_discard(self, frames: list[Frame]) -> int:
        if frames and self.discards:
            self.drops["queue disabled"] += len(frames)
            return len(frames)
        return self._send(frames) if frames else 0

    def _frames(self, chains: Chains, budget: int) -> tuple[list[Frame], int]:
        """Make frames of the first chains, up to ``budget`` bytes or a chain that isn't one."""
        header, unpack, size = self.header_size, Offload.unpack, 0
        frames: list[Frame] = []
        single = chains.ends is None
        for index, length in enumerate(chains.lengths):
            views = [chains.views[index]] if single else chains.views_of(index, index + 1)
            length -= header
            if views and len(views[0]) > header:
                first = views[0]
                offload = unpack(_PACKED.unpack_from(first)[0])
                views[0] = first[header:]
            elif length > 0:
                offload = unpack(gather(views, LEGACY_HEADER))
                _skip(views, header)
            else:
                break
            if not offload.known or not offload.least_length <= length <= MAX_FRAME:
                break
            frames.append(Frame(views, length, offload))
            size += length
            if size >= budget:
                break
        return frames, size

    def _drop(self, length: int, frames: list[Frame]) -> int:
        """Give up a batch's first chain if no frame could be made of it; return how many."""
        if frames:
            return 0
        length -= self.header_size
        if length > MAX_FRAME:
            self.drops["too long"] += 1
        elif length < ETHERNET_HEADER:
            self.drops["too short"] += 1
        else:
            self.drops["malformed offload"] += 1
        return 1


def _skip(views: list[View], size: int) -> None:
    """Remove the first ``size`` bytes from a list of views."""
    while size:
        first = views[0]
        if len(first) > size:
            views[0] = first[size:]
            return
        size -= len(first)
        del views[0]


class Receiver:
    """One receive queue: what the guest gets.

    Chains are taken from the ring ahead of the frames, ``STOCK`` at a time, because most of a
    chain's cost is that of asking for it; ``let_go`` returns the unused ones, before the ring stops
    or the guest's memory changes.

    ``checksums``: the driver negotiated GUEST_CSUM and may be told of checksum states.
    ``completed(queue)`` hears that the driver may want to be woken; ``again``: a refusal is out of
    date already. ``starved`` is true while a peer waits for buffers.
    """

    def __init__(
        self,
        queue: Queue,
        header_size: int,
        mergeable: bool,
        checksums: bool,
        completed: Callable[[Queue], None],
        again: Callable[[], None],
        drops: Counter[str],
    ) -> None:
        self.queue = queue
        self.header_size = header_size
        self.mergeable = mergeable
        self.checksums = checksums
        self.drops = drops
        self.starved = False
        self.frames = 0
        self.bytes = 0
        self._completed = completed
        self._again = again
        self._stock = NO_CHAINS
        self._sums: list[int] = []
        """Bytes in the stock up to the end of each chain."""
        self._at = 0
        """The first chain of the stock that isn't used yet."""
        self._header_view: View | None = None
        self._bounce: bytearray | None = None

    # The stock of chains

    def _span(self, need: int) -> int:
        """Return where in the stock the chains end that ``need`` bytes fill; 0: there are too few.

        They begin at ``_at``. Raises ``RingFault``.
        """
        while True:
            at, lengths = self._at, self._stock.lengths
            if at < len(lengths):
                if lengths[at] >= need:
                    return at + 1
                if not self.mergeable:
                    return 0
                stop = bisect_left(self._sums, need + self._before(at), at) + 1
                if stop <= len(lengths):
                    self._check(lengths[at:stop])
                    return stop
                self._check(lengths[at:])
            if not self._restock():
                return 0

    def _before(self, at: int) -> int:
        """Return the bytes of the stock before chain ``at``."""
        return self._sums[at - 1] if at else 0

    @staticmethod
    def _check(lengths: list[int]) -> None:
        if min(lengths) < HEADER:
            raise RingFault(f"a receive buffer of {min(lengths)} bytes")

    def _restock(self) -> bool:
        """Take more chains from the ring; False if there are none."""
        more = self.queue.take(STOCK)
        if not more:
            return False
        self._stock = self._stock.joined(self._at, more)
        self._sums = list(accumulate(self._stock.lengths))
        self._at = 0
        return True

    def let_go(self) -> None:
        """Return the unused chains to the ring, and keep no view of the guest's memory."""
        self.queue.give_back(len(self._stock) - self._at)
        self._stock = NO_CHAINS
        self._sums = []
        self._at = 0

    def _never_fits(self) -> bool:
        """Whether more buffers can't come for a frame that those in stock can't hold."""
        available = len(self._stock) - self._at
        return available > 0 if not self.mergeable else available >= self.queue.size

    def _starve(self) -> None:
        """Have the guest tell when it has more buffers."""
        self.starved = True
        if self.queue.want_kicks():
            self._again()

    # Copying frames

    def receive(self, frames: Sequence[Frame]) -> int:
        """Copy frames into the guest's buffers; return how many. Raises ``RingFault``."""
        tokens: list[int] = []
        lengths: list[int] = []
        taken = 0
        for frame in frames:
            need = self.header_size + frame.length
            stop = self._span(need)
            if stop:
                self._fill(stop, frame)
                self._use(stop, need, tokens, lengths)
                self.frames += 1
                self.bytes += frame.length
            elif self._never_fits():
                self.drops["too long for the guest's buffers"] += 1
            else:
                break
            taken += 1
        if tokens:
            self.queue.complete(tokens, lengths)
            self._completed(self.queue)
        if taken < len(frames):
            self._starve()
        return taken

    def _use(self, stop: int, size: int, tokens: list[int], lengths: list[int]) -> None:
        """Use up the chains before ``stop`` for ``size`` bytes, which end in the last of them."""
        stock, at = self._stock, self._at
        self._at = stop
        if stop == at + 1:
            tokens.append(stock.tokens[at])
            lengths.append(size)
            return
        tokens += stock.tokens[at:stop]
        lengths += stock.lengths[at:stop]
        lengths[-1] -= self._sums[stop - 1] - self._before(at) - size

    def _fill(self, stop: int, frame: Frame) -> None:
        header = self._header(frame.offload, stop - self._at)
        views = self._stock.views_of(self._at, stop)
        if len(views) == 1:
            views[0][: len(header) + frame.length] = b"".join((header, *frame.views))
        else:
            scatter(b"".join((header, *frame.views)), views)

    def _header(self, offload: Offload, count: int) -> bytes:
        packed = offload.packed if self.checksums else _NO_OFFLOAD
        if self.header_size == LEGACY_HEADER:
            return packed
        return packed + (_ONE_BUFFER if count == 1 else _NUM_BUFFERS.pack(count))

    # Reservations

    def reserve(self, length: int) -> Sequence[View] | None:
        """Return views of exactly ``length`` bytes of the guest's buffers. See ``Port.reserve``."""
        header_size = self.header_size
        stop = self._span(header_size + length)
        if not stop:
            self._starve()
            return None
        views = self._stock.views_of(self._at, stop)
        first = views[0]
        room = len(first) - header_size
        if room >= HEADROOM or room >= length:
            self._header_view = first[:header_size]
            views[0] = first[header_size:]
        elif not room and len(views[1]) >= min(HEADROOM, length):
            self._header_view = first
            del views[0]
        else:
            self._bounce = bytearray(length)
            return [memoryview(self._bounce)]
        excess = self._sums[stop - 1] - self._before(self._at) - header_size - length
        if excess:
            _trim(views, excess)
        return views

    def commit(self, length: int, offload: Offload) -> None:
        """Hand the first ``length`` bytes of the reservation to the guest as one frame."""
        at, size = self._at, self.header_size + length
        stop = bisect_left(self._sums, size + self._before(at), at) + 1
        header = self._header(offload, stop - at)
        if self._header_view is not None:
            self._header_view[:] = header
        elif self._bounce is not None:
            scatter(header + self._bounce[:length], self._stock.views_of(at, stop))
        tokens: list[int] = []
        lengths: list[int] = []
        self._use(stop, size, tokens, lengths)
        self.cancel()
        self.queue.complete(tokens, lengths)
        self._completed(self.queue)
        self.frames += 1
        self.bytes += length

    def cancel(self) -> None:
        """Forget the reservation."""
        self._header_view = self._bounce = None


def _trim(views: list[View], excess: int) -> None:
    """Cut ``excess`` bytes off the end of a list of views."""
    while excess:
        last = views.pop()
        if len(last) > excess:
            views.append(last[:-excess])
            return
        excess -= len(last)
