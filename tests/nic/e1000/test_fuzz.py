# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The random-access run, bounded: a few episodes with fixed seeds, and whether it would tell."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.nic.e1000 import fuzz
from vmwire.bench.machine import Bench
from vmwire.bench.script import Script, replay
from vmwire.nic.e1000.receive import Receiver


@pytest.mark.parametrize("seed", range(24))
def test_nothing_that_a_guest_does_raises_or_takes_long(seed: int, tmp_path: Path) -> None:
    assert fuzz.run_episode(seed, tmp_path) == fuzz.STEPS


def test_an_episode_replays_as_it_went() -> None:
    episode = fuzz.Episode(4)
    episode.run()
    episode.close()
    script = Script.parse(str(episode.script))
    assert len(script.steps) > fuzz.STEPS
    with Bench(fuzz.RAM, seed=4) as pc:
        assert replay(script, pc) == []


def test_memory_does_not_grow(tmp_path: Path) -> None:
    for seed in range(5):
        fuzz.run_episode(seed, tmp_path)
    before = fuzz.resident_kib()
    for seed in range(5, 20):
        fuzz.run_episode(seed, tmp_path)
    assert fuzz.resident_kib() - before < fuzz.MOST_GROWTH_KIB


def test_a_failure_leaves_its_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Receiver, "_place", lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        for seed in range(10):
            fuzz.run_episode(seed, tmp_path)
    (path,) = tmp_path.iterdir()
    assert f"{path}" in capsys.readouterr().out
    with (
        Bench(fuzz.RAM, seed=int(path.stem.rpartition("-")[2])) as pc,
        pytest.raises(ZeroDivisionError),
    ):
        replay(Script.load(path), pc)


def test_a_step_without_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "MOST_SECONDS", 0.05)
    with pytest.raises(fuzz.TooSlow), fuzz.limited():
        while True:
            pass
