# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Boxes for tests: an end of a wire that records, and refuses when told to."""

from __future__ import annotations

from collections.abc import Sequence

from vmwire.wire.frame import Frame, Offload, View
from vmwire.wire.port import EVERYTHING, Accepts, Port, Room


class End:
    """Takes up to ``room`` frames and keeps copies; records what its port hears."""

    def __init__(
        self, name: str, accepts: Accepts = EVERYTHING, *, room: int = 1 << 30, memory: int = 0
    ) -> None:
        self.room = room
        self.got: list[Frame] = []
        self.heard: list[str] = []
        self.memory = bytearray(memory)
        self.busy = False
        self.committed: list[tuple[bytes, Offload]] = []
        self.port = Port(
            name,
            self.receive,
            resume=lambda: self.heard.append("resume"),
            link_changed=lambda up: self.heard.append("up" if up else "down"),
            accepts=accepts,
            room=Room(self.reserve, self.commit, self.cancel) if memory else None,
        )

    def receive(self, frames: Sequence[Frame]) -> int:
        taken = frames[: self.room]
        self.room -= len(taken)
        self.got += [frame.copy() for frame in taken]
        return len(taken)

    def make_room(self, frames: int = 1 << 30) -> None:
        self.room += frames
        self.port.resume()

    def reserve(self, length: int) -> Sequence[View] | None:
        if self.busy or length > len(self.memory):
            return None
        view = memoryview(self.memory)
        return [view[:138], view[138:length]] if length > 138 else [view[:length]]

    def commit(self, length: int, offload: Offload) -> None:
        self.committed.append((bytes(self.memory[:length]), offload))

    def cancel(self) -> None:
        self.heard.append("cancel")

    @property
    def data(self) -> list[bytes]:
        return [frame.tobytes() for frame in self.got]


def frames(count: int, length: int = 60) -> list[Frame]:
    """Frames that can be told apart by their first byte."""
    return [Frame.of(bytes([number]) * length) for number in range(count)]
