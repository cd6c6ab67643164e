# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""How a session is put down while it runs, and brought back by the next worker (see ``kept``).

The card's place in its rings is put down after each message and each frame, the whole state before
a change of wiring is answered, and otherwise when the loop is idle, every 2 ms at most. A card that
tells when its state changes (``Revised``) has it put down at once then, and not else.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from vmwire.attach.vfio_user.kept import BEGUN, DONE, LONGEST, NONE, Keeping, Record
from vmwire.attach.vfio_user.refused import Refused
from vmwire.bus.pci.chip import Placed
from vmwire.bus.pci.vfio_user import (
    DATA_EVENTFD,
    F_NO_REPLY,
    HEADER,
    IRQ_SET,
    TYPE_REPLY,
    Command,
    Header,
    pack_message,
)
from vmwire.engine.host import NotNow
from vmwire.wire.frame import Frame
from vmwire.wire.port import Port

if TYPE_CHECKING:
    from vmwire.attach.vfio_user.session import Session

KEEP_EVERY_S = 0.002
"""How often a card's state is put down at most: it takes as long as ten register accesses."""


class Lasting:
    """Puts ``session`` down in ``record`` and its descriptors under the names of ``keeping``."""

    def __init__(self, session: Session, keeping: Keeping, record: Record) -> None:
        self.record = record
        self.keeping = keeping
        self._session = session
        self._loop = session.loop
        self._placed: Placed | None = None
        self._leave_port: Callable[[], None] | None = None
        self._stale = False
        self._closed = False
        self._keep_from = 0.0
        self._revision: int | None = None
        """What is put down already, of a card that tells."""

    # Putting down

    def begin(self) -> None:
        """Put everything down from now on."""
        session = self._session
        session.lasting = self
        session.signals.on_wiring = self.keeping.line
        session.signals.on_signal = self._on_signal  # which also tells of frames from the wire
        chip = session.card.chip
        if isinstance(chip, Placed):
            self._placed = chip
            self._watch_port(chip.port)
        self._keep_soon()

    def _watch_port(self, port: Port) -> None:
        """Put the card's place down after whatever the wire has it do."""
        receive, resume = port.receive, port.on_resume

        def received(frames: Sequence[Frame]) -> int:
            taken = receive(frames)
            self._put_place()
            return taken

        def resumed() -> None:
            resume()
            self._put_place()

        def leave() -> None:
            port.receive, port.on_resume = receive, resume

        port.receive, port.on_resume, self._leave_port = received, resumed, leave

    def _put_place(self) -> None:
        if self._placed is not None and not self._closed:
            self.record.write_place(self._placed.save_place())

    def served(self, changed: bool) -> None:
        """A message has been served and answered; ``changed``: it may have moved the card on."""
        if self._revision is not None:
            if changed and self._session.card.revision != self._revision:
                self.keep()
        elif changed:
            self._put_place()
        self.record.end(self._session.channel.data)
        if self._revision is None and not self._stale:
            self._keep_soon()

    def _on_signal(self) -> None:
        if self._revision is None or self._session.card.revision != self._revision:
            self._keep_soon()

    def done(self, command: int, message: bytes) -> None:
        """A message has been served and is about to be answered."""
        if _rewires(command, message):
            self.keep()
            self.record.done()

    def keep(self) -> None:
        """Put the state down as it is now."""
        session = self._session
        self.record.write(
            {
                "agreed": session.version,
                "largest": session.memory.largest,
                "windows": [
                    (window.address, window.size, window.flags, window.offset, bool(window.region))
                    for window in session.memory.windows
                ],
                "lines": session.signals.save(),
                "shape": self._shape,
                "card": session.card.save(),
            }
        )
        self._revision = session.card.revision
        self._put_place()

    @property
    def _shape(self) -> list[list[int]]:
        """What the machine was told of the card: another version's may be another."""
        return [[*self._session.sizes], [*self._session.signals.counts]]

    def _keep_when_idle(self) -> None:
        if self._closed:
            return
        loop = self._loop
        wait_s = self._keep_from - loop.now()
        if wait_s > 0:
            loop.call_later(wait_s, lambda: loop.put_off(self._keep_when_idle))
            return
        self.keep()
        self._stale = False
        self._keep_from = loop.now() + KEEP_EVERY_S

    def _keep_soon(self) -> None:
        """The card's state has changed, or may have."""
        if not self._stale:
            self._stale = True
            self._loop.put_off(self._keep_when_idle)

    def hand_over(self) -> None:
        """Put everything down for a successor. Raises ``NotNow`` in the middle of a message."""
        channel = self._session.channel
        if channel.busy or len(channel.data) > LONGEST or self.record.under_way()[0] != NONE:
            raise NotNow(f"{self._session.name}: its machine is in the middle of something")
        self.keep()
        self.record.end(channel.data)

    # Bringing back

    def resume(self) -> None:
        """Go on where an earlier worker was. ValueError if what it left makes no sense."""
        session = self._session
        state = self.record.read()
        try:
            self._restore(state, self.record.place)
        except (KeyError, TypeError, IndexError, Refused) as error:
            raise ValueError(f"a state that makes no sense: {error!r}") from None
        session.channel.data = self.record.rest
        session.signals.signal_again()
        session.lasting = self
        self._finish()
        self.begin()

    def _restore(self, state: dict[str, Any], place: bytes) -> None:
        session, keeping = self._session, self.keeping
        if state["shape"] != self._shape:
            raise ValueError("the state of a card with other regions or interrupts")
        session.version = state["agreed"]
        session.memory.largest = state["largest"]
        for address, size, flags, offset, mapped in state["windows"]:
            fd = keeping.take_window(address) if mapped else None
            try:
                session.memory.add(address, size, flags, offset, fd)
            finally:
                if fd is not None:
                    os.close(fd)
        session.card.dma.memory = session.memory.memory
        session.signals.restore(state["lines"], keeping.take_line)
        card = state["card"]
        if place:  # newer than the rest: the chip raises its pin by it
            card["chip"]["place"] = place
            card["interrupts"]["level"] = False
        session.card.restore(card)

    def _finish(self) -> None:
        """See to the message that was under way."""
        session, record = self._session, self.record
        state, again, message = record.under_way()
        if state == NONE:
            return
        header = Header.unpack(message)
        if state == DONE and not header.flags & F_NO_REPLY:
            payload = message[HEADER.size :] if header.command == Command.DMA_UNMAP else b""
            session.reply(pack_message(header.message_id, header.command, payload, TYPE_REPLY))
        elif state == BEGUN and (again or _lost_descriptors(header.command, message)):
            session.refuse(header, Refused("it ended the worker", errno.EIO))
        elif state == BEGUN:
            record.again()
            session.dispatch(message)
        record.end(session.channel.data)

    # The end

    def leave(self) -> None:
        """Let the card's port be as it was."""
        if self._leave_port is not None:
            self._leave_port()
            self._leave_port = None

    def close(self) -> None:
        """The connection is over: nothing of it is kept any more."""
        if not self._closed:
            self._closed = True
            self.record.close()
            self.keeping.drop()


def _rewires(command: int, message: bytes) -> bool:
    """Whether it changes more than the card: the next worker must know before the machine does.

    Masks aren't that: QEMU unmasks after every interrupt, and a new worker begins unmasked.
    """
    if command == Command.DEVICE_SET_IRQS:
        _, flags, _, _, count = IRQ_SET.unpack_from(message, HEADER.size)
        return bool(flags & DATA_EVENTFD) or count == 0
    return command in (Command.VERSION, Command.DMA_MAP, Command.DMA_UNMAP)


def _lost_descriptors(command: int, message: bytes) -> bool:
    """Whether it can't be done again, because what came with it died with a worker."""
    if command == Command.DEVICE_SET_IRQS and len(message) >= HEADER.size + IRQ_SET.size:
        return _rewires(command, message)
    return command == Command.DMA_MAP
