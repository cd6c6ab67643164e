# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmwire.cli.wrap import cmdline

LINES = [
    "",
    "disk.img",
    "-m 1024 -smp 2 -drive file=a -netdev user,id=u -device virtio-net-pci,netdev=u -boot c",
    "--m 1G --nographic disk.img -S",
    "-name -S -S",
    "-append '-netdev user,id=no' -netdev user,id=yes",
    "-m",
    "-frobnicate yes -netdev user,id=u",
    "- --",
]


@pytest.mark.parametrize("line", LINES)
def test_reading_loses_nothing(line: str) -> None:
    words = shlex.split(line)
    assert cmdline.parse(words).words() == words


@given(
    st.lists(
        st.one_of(
            st.sampled_from(["-m", "--m", "-S", "-netdev", "-device", "-help", "", "-", "--"]),
            st.text(max_size=6),
        )
    )
)
def test_reading_loses_nothing_of_anything(words: list[str]) -> None:
    assert cmdline.parse(words).words() == words


def test_an_argument_is_one_whatever_it_looks_like() -> None:
    line = cmdline.parse(["-name", "-S", "-append", "-netdev", "-S"])
    assert [option.name for option in line.options] == ["name", "append", "S"]
    assert [option.argument for option in line.options] == ["-S", "-netdev", ""]


def test_two_dashes_are_as_good_as_one() -> None:
    assert [each.name for each in cmdline.parse(["--m", "1", "--S"]).options] == ["m", "S"]


def test_a_word_without_dash_is_a_disk_image() -> None:
    line = cmdline.parse(["a.img", "-S", "b.img"])
    assert [option.name for option in line.options] == ["", "S", ""]


@pytest.mark.parametrize("words", [["-frobnicate", "x"], ["-netdev"], ["-S", "-m"], ["-"], ["--"]])
def test_what_cannot_be_read_with_certainty_is_a_fault(words: list[str]) -> None:
    assert cmdline.parse(words).fault


def test_no_option_is_in_both_tables() -> None:
    assert not cmdline.FLAGS & cmdline.WITH_ARGUMENT


def test_edits_replace_an_option_and_leave_out_what_is_fixed() -> None:
    line = cmdline.CommandLine(
        [
            *cmdline.parse(["-enable-kvm"], fixed=True).options,
            *cmdline.parse(["-m", "1", "a.img", "-S"]).options,
        ]
    )
    assert line.words({1: ["-m", "2", "-smp", "2"], 3: []}) == ["-m", "2", "-smp", "2", "a.img"]
