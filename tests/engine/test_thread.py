# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator

import pytest

from vmwire.engine.loop import Loop
from vmwire.engine.thread import LoopThread

PATIENCE_S = 10


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


def test_it_ends_and_runs_again(loop: Loop) -> None:
    thread = LoopThread(loop)
    for _ in range(2):
        assert not thread.started
        thread.start()
        assert thread.started and not thread.wait(0)
        assert loop.call(lambda: 5) == 5
        thread.end()
        assert thread.wait(PATIENCE_S)
    thread.end()


def test_what_ended_the_loop_comes_out_of_waiting_once(loop: Loop) -> None:
    def fail() -> None:
        raise RuntimeError("a bug")

    thread = LoopThread(loop)
    thread.start()
    loop.post(fail)
    with pytest.raises(RuntimeError, match="a bug"):
        thread.wait(PATIENCE_S)
    assert thread.wait(0)
    thread.end()
