# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Run a stopped QEMU, ask its monitor, and make two machines' answers comparable."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass

PATIENCE_S = 20
STOPPED = ["-display", "none", "-monitor", "stdio", "-S"]
QUESTIONS = ("info qtree", "info pci", "info network", "info memdev", "info memory_size_summary")


@dataclass(frozen=True)
class Run:
    """How a QEMU ended, and what it said before."""

    status: int
    stderr: str
    answers: dict[str, str]


def ask(command: list[str], questions: tuple[str, ...] = QUESTIONS) -> Run:
    """Start ``command`` stopped, put the questions, quit."""
    process = subprocess.run(
        [*command, *STOPPED],
        input="".join(f"{question}\n" for question in (*questions, "quit")),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    parts = [part.partition("\n")[2] for part in process.stdout.split("(qemu) ")[1:]]
    answers = dict(zip(questions, parts, strict=False))
    return Run(process.returncode, process.stderr, answers)


# Features that the silent back end doesn't offer, and what `vectors=0` takes away.
_FEATURES = r"^ *(notify_on_empty|any_layout|queue_reset) = .*\n"
_MSIX = r"^ *(vectors =|bar 1:|BAR1:) .*\n"


def devices(run: Run, with_msix: bool) -> str:
    """`info qtree`, without the numbers that QEMU makes up and what may differ."""
    tree = re.sub(r"#net\d+", "#net", run.answers["info qtree"])
    return re.sub(_FEATURES if with_msix else f"{_FEATURES}|{_MSIX}", "", tree, flags=re.M)


def slots(run: Run, with_msix: bool) -> str:
    """`info pci`, without the MSI-X BAR where that may be gone."""
    return (
        run.answers["info pci"]
        if with_msix
        else re.sub(_MSIX, "", run.answers["info pci"], flags=re.M)
    )


def wires(run: Run) -> list[tuple[str, str]]:
    """Each card with its netdev's id, out of `info network`."""
    text = re.sub(r"#net\d+", "#net", run.answers["info network"])
    return re.findall(r"^(\S.*)\n \\ (\S+): ", text, flags=re.M)


def ram(run: Run) -> str:
    return run.answers["info memory_size_summary"].partition("\n")[0]


def ram_is_shared(run: Run) -> bool:
    found = re.findall(r"share: (\w+)", run.answers["info memdev"])
    return bool(found) and set(found) == {"true"}
