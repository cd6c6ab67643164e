# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What QEMU does with option lines: recorded facts, and who is to hold them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FACTS: dict[str, Any] = json.loads(
    (Path(__file__).parent.parent / "data" / "qemu_options.json").read_text()
)


@dataclass(frozen=True)
class Case:
    """One argument of -netdev or -device, and QEMU's answer (None: it starts)."""

    kind: str
    text: str
    says: str | None

    def __str__(self) -> str:
        return self.text[:60]


CASES = [
    Case(case["kind"], case["text"].replace("@300", "x" * 300), case.get("says"))
    for case in FACTS["cases"]
]
