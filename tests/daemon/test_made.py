# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What a network has made outside of its folder goes with that, and nothing else does."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmwire.daemon.made import FILE, Made, remove_made


@pytest.fixture
def bound(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "x.sock"))
        yield sock


@pytest.fixture
def made(tmp_path: Path, bound: socket.socket) -> Made:
    (tmp_path / "run").mkdir()
    made = Made(str(tmp_path / "run"))
    made.note_socket("x", bound.fileno())
    return made


def test_a_socket_goes_with_the_folder(tmp_path: Path, made: Made) -> None:
    remove_made(str(tmp_path / "run"))
    assert not (tmp_path / "x.sock").exists()
    remove_made(str(tmp_path / "run"))


def test_what_the_next_worker_knows_is_what_the_last_one_wrote(tmp_path: Path, made: Made) -> None:
    Made(str(tmp_path / "run")).note_text("other", str(tmp_path / "none"), "words")
    remove_made(str(tmp_path / "run"))
    assert not (tmp_path / "x.sock").exists()


def test_what_was_taken_away_and_made_by_somebody_else_stays(tmp_path: Path, made: Made) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "other"))  # while the first one's inode is in use
        os.rename(tmp_path / "other", tmp_path / "x.sock")
        remove_made(str(tmp_path / "run"))
        assert (tmp_path / "x.sock").exists()


def test_what_is_forgotten_stays(tmp_path: Path, made: Made) -> None:
    made.forget("x")
    remove_made(str(tmp_path / "run"))
    assert (tmp_path / "x.sock").exists()


@pytest.mark.parametrize(("words", "stays"), [("12\n", False), ("13\n", True), ("", True)])
def test_a_file_goes_if_its_words_are_ours(
    tmp_path: Path, made: Made, words: str, stays: bool
) -> None:
    path = tmp_path / "pid"
    made.note_text("pid file", str(path), "12\n")
    path.write_text(words)
    remove_made(str(tmp_path / "run"))
    assert path.exists() == stays


def test_descriptors_without_a_file_are_not_noted(tmp_path: Path, made: Made) -> None:
    before = (tmp_path / "run" / FILE).read_text()
    one, other = socket.socketpair()
    with one, other, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(f"\0vmwire-test-{os.getpid()}")
        for name, fd in (("a", one.fileno()), ("b", abstract.fileno())):
            made.note_socket(name, fd)
    reading, writing = os.pipe()
    made.note_socket("c", reading)
    os.close(reading)
    os.close(writing)
    assert (tmp_path / "run" / FILE).read_text() == before


@pytest.mark.parametrize("text", ["", "[]", '{"x": 1}', '{"x": {"path": 3}}', "\0"])
def test_a_file_that_makes_no_sense_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    remove_made(str(tmp_path))
