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

from collections import Counter
from collections.abc import Callable, Sequence
from struct import Struct

from vmwire.bus.virtio.queue import Chain, Queue, RingFault, View
from vmwire.engine.memory import gather, scatter
from vmwire.wire.frame import MAX_FRAME, Frame, Offload
from vmwire.wire.port import HEADROOM

TURN_BYTES = 256 * 1024
"""What one queue may send before the others get their turn."""
FRAME_COST = 512
"""Bytes of that budget that a frame costs beyond its own, so that small ones count too."""
BATCH = 64
"""Frames sent in one call."""

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
            done = taken or self._drop(chains[0], frames)
            queue.give_back(len(chains) - done)
            if done:
                queue.complete([chain[0] for chain in chains[:done]])
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

    def _frames(self, chains: list[Chain], budget: int) -> tuple[list[Frame], int]:
        """Make frames of the first chains, up to ``budget`` bytes or a chain that isn't one."""
        header, unpack, size = self.header_size, Offload.unpack, 0
        frames: list[Frame] = []
        for _, views, length in chains:
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

    def _drop(self, chain: Chain, frames: list[Frame]) -> int:
        """Give up a batch's first chain if no frame could be made of it; return how many."""
        if frames:
            return 0
        length = chain[2] - self.header_size
        if length > MAX_FRAME:
            self.drops["too long"] += 1
        elif length < 14:
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
        self._reserved: list[Chain] = []
        self._header_view: View | None = None
        self._bounce: bytearray | None = None

    # Copying frames

    def receive(self, frames: Sequence[Frame]) -> int:
        """Copy frames into the guest's buffers; return how many. Raises ``RingFault``."""
        queue, header_size = self.queue, self.header_size
        chains = queue.take(len(frames))
        tokens: list[int] = []
        lengths: list[int] = []
        done = at = size = 0
        for frame in frames:
            need = header_size + frame.length
            stop = at + 1
            if at >= len(chains) or chains[at][2] < need:
                stop = self._span(chains, at, need)
                if not stop:
                    if self._never_fits(len(chains) - at):
                        self.drops["too long for the guest's buffers"] += 1
                        done += 1
                        continue
                    break
            self._fill(chains, at, stop, frame)
            for token, _, length in chains[at:stop]:
                used = min(length, need)
                tokens.append(token)
                lengths.append(used)
                need -= used
            at = stop
            done += 1
            self.frames += 1
            size += frame.length
        queue.give_back(len(chains) - at)
        if tokens:
            queue.complete(tokens, lengths)
            self._completed(queue)
            self.bytes += size
        if done < len(frames):
            self._starve(len(chains) - at)
        return done

    def _span(self, chains: list[Chain], at: int, need: int) -> int:
        """Return where ``need`` bytes from chain ``at`` on end, taking more chains; 0: too few."""
        if not self.mergeable:
            if at == len(chains):
                chains += self.queue.take(1)
            return at + 1 if at < len(chains) and chains[at][2] >= need else 0
        while need > 0:
            if at == len(chains):
                more = self.queue.take(need // 1024 + 1)
                if not more:
                    return 0
                chains += more
            length = chains[at][2]
            if length < HEADER:
                raise RingFault(f"a receive buffer of {length} bytes")
            need -= length
            at += 1
        return at

    def _never_fits(self, available: int) -> bool:
        """Whether more buffers can't come for a frame that ``available`` ones can't hold."""
        return available > 0 if not self.mergeable else available >= self.queue.size

    def _fill(self, chains: list[Chain], at: int, stop: int, frame: Frame) -> None:
        header = self._header(frame.offload, stop - at)
        views = chains[at][1]
        if stop - at == 1 and len(views) == 1:
            views[0][: len(header) + frame.length] = b"".join((header, *frame.views))
            return
        if stop - at > 1:
            views = [view for chain in chains[at:stop] for view in chain[1]]
        scatter(b"".join((header, *frame.views)), views)

    def _header(self, offload: Offload, count: int) -> bytes:
        packed = offload.packed if self.checksums else _NO_OFFLOAD
        if self.header_size == LEGACY_HEADER:
            return packed
        return packed + (_ONE_BUFFER if count == 1 else _NUM_BUFFERS.pack(count))

    def _starve(self, seen: int) -> None:
        """Have the guest tell when it has more buffers than the ``seen`` ones."""
        self.starved = True
        if self.queue.want_kicks(seen):
            self._again()

    # Reservations

    def reserve(self, length: int) -> Sequence[View] | None:
        """Return views of exactly ``length`` bytes of the guest's buffers. See ``Port.reserve``."""
        header_size = self.header_size
        chains: list[Chain] = []
        stop = self._span(chains, 0, header_size + length)
        if not stop:
            self.queue.give_back(len(chains))
            self._starve(len(chains))
            return None
        self._reserved = chains
        views = [view for chain in chains[:stop] for view in chain[1]]
        first = views[0]
        if len(first) >= header_size + min(HEADROOM, length):
            self._header_view = first[:header_size]
            views[0] = first[header_size:]
        elif len(first) == header_size and len(views[1]) >= min(HEADROOM, length):
            self._header_view = first
            del views[0]
        else:
            self._bounce = bytearray(length)
            return [memoryview(self._bounce)]
        self._trim(views, sum([chain[2] for chain in chains[:stop]]) - header_size - length)
        return views

    @staticmethod
    def _trim(views: list[View], excess: int) -> None:
        """Cut ``excess`` bytes off the end of a list of views."""
        while excess:
            last = views.pop()
            if len(last) > excess:
                views.append(last[:-excess])
                return
            excess -= len(last)

    def commit(self, length: int, offload: Offload) -> None:
        """Hand the first ``length`` bytes of the reservation to the guest as one frame."""
        chains, need = self._reserved, self.header_size + length
        tokens: list[int] = []
        lengths: list[int] = []
        for token, _, size in chains:
            used = size if size < need else need
            tokens.append(token)
            lengths.append(used)
            need -= used
            if not need:
                break
        header = self._header(offload, len(tokens))
        if self._header_view is not None:
            self._header_view[:] = header
        elif self._bounce is not None:
            views = [view for chain in chains[: len(tokens)] for view in chain[1]]
            scatter(header + self._bounce[:length], views)
        self._release(len(tokens))
        self.queue.complete(tokens, lengths)
        self._completed(self.queue)
        self.frames += 1
        self.bytes += length

    def cancel(self) -> None:
        """Forget the reservation."""
        self._release(0)

    def _release(self, used: int) -> None:
        self.queue.give_back(len(self._reserved) - used)
        self._reserved = []
        self._header_view = self._bounce = None
