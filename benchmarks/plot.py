# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Draw the results that the other measurements wrote: one SVG of bars, no library needed.

    python -m benchmarks.plot docs/benchmarks.svg results/*.json

A bar is a contestant's median, the thin line over it reaches from its lowest to its highest
figure. Each metric has a scale of its own.
"""

from __future__ import annotations

import json
import statistics
import sys
from html import escape
from pathlib import Path
from typing import Any

WIDTH, LABEL, VALUE = 760, 150, 80
BAR, GAP, HEAD = 16, 4, 24
OURS, PEERS = "#2a6fbb", "#b5bcc4"


def text(x: float, y: float, words: str, extra: str = "") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" {extra}>{escape(words)}</text>'


def bars(metric: str, samples: dict[str, dict[str, list[float]]], y: float) -> tuple[str, float]:
    """One metric's bars from ``y`` downward; returns them and where they end."""
    rows = {name: own[metric] for name, own in samples.items() if own.get(metric)}
    scale = (WIDTH - LABEL - VALUE) / max(max(values) for values in rows.values())
    out = [text(0, y + 14, metric, 'font-weight="bold"')]
    y += HEAD
    for index, (name, values) in enumerate(rows.items()):
        middle = statistics.median(values) * scale
        low, high = LABEL + min(values) * scale, LABEL + max(values) * scale
        colour = PEERS if index else OURS
        line = y + BAR / 2
        out += [
            text(LABEL - 8, y + 12, name, 'text-anchor="end"'),
            f'<rect x="{LABEL}" y="{y}" width="{middle:.1f}" height="{BAR}" fill="{colour}"/>',
            f'<path d="M{low:.1f} {line}H{high:.1f}" stroke="#333"/>',
            text(max(high, LABEL + middle) + 6, y + 12, f"{statistics.median(values):,.0f}"),
        ]
        y += BAR + GAP
    return "\n".join(out), y + 8


def draw(results: list[dict[str, Any]]) -> str:
    """All results below each other."""
    parts, y = [], 8.0
    for result in results:
        parts.append(text(0, y + 16, result["title"], 'font-size="16" font-weight="bold"'))
        y += 30
        samples = result["samples"]
        for metric in dict.fromkeys(name for own in samples.values() for name in own):
            drawn, y = bars(metric, samples, y)
            parts.append(drawn)
        y += 12
    size = f'width="{WIDTH}" height="{y:.0f}" viewBox="0 0 {WIDTH} {y:.0f}"'
    style = 'font-family="sans-serif" font-size="12"'
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n'
        f'<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )


def main() -> int:
    target, *sources = sys.argv[1:]
    Path(target).write_text(draw([json.loads(Path(source).read_text()) for source in sources]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
