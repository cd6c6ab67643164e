# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Measure by turns and compare: on a shared machine only figures of the same minutes compare.

Each round measures every contestant once, each round in another order, so that a slow spell of the
machine hits all of them. Printed are medians, the spread (lowest and highest) and the ratio of the
medians, ours to each peer's; all single figures go into a JSON file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

Figures = dict[str, float]
Measure = Callable[[], Figures]
LOWER_IS_BETTER = ("_us", "_ms", "_s")


@dataclass
class Comparison:
    """The figures of each contestant, by name; the first contestant is ours."""

    title: str
    samples: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, contestant: str, figures: Figures) -> None:
        for metric, value in figures.items():
            self.samples.setdefault(contestant, {}).setdefault(metric, []).append(value)

    def median(self, contestant: str, metric: str) -> float:
        return statistics.median(self.samples[contestant][metric])

    def metrics(self) -> list[str]:
        return list(dict.fromkeys(name for own in self.samples.values() for name in own))

    def table(self) -> str:
        """One line a metric and contestant; the ratio says how ours stands to that one."""
        ours = next(iter(self.samples))
        lines = [f"{self.title}", f"{'':22}{'median':>12}  {'lowest .. highest':^23}  ours/this"]
        for metric in self.metrics():
            lines.append(metric)
            for contestant, own in self.samples.items():
                if values := own.get(metric):
                    lines.append(self._line(contestant, metric, values, ours))
        return "\n".join(lines)

    def _line(self, contestant: str, metric: str, values: list[float], ours: str) -> str:
        middle = statistics.median(values)
        spread = f"{min(values):,.0f} .. {max(values):,.0f}"
        ratio = ""
        if contestant != ours and middle and metric in self.samples[ours]:
            ratio = f"{self.median(ours, metric) / middle:9.2f}"
            if metric.endswith(LOWER_IS_BETTER):
                ratio += " (lower is better)"
        return f"  {contestant:20}{middle:12,.0f}  {spread:^23}  {ratio}"

    def save(self, path: Path) -> None:
        facts = {
            "title": self.title,
            "date": time.strftime("%Y-%m-%d %H:%M"),
            "cpus": os.cpu_count(),
            "kernel": platform.release(),
            "python": platform.python_version(),
            "samples": self.samples,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(facts, indent=1) + "\n")


def compare(title: str, contestants: Mapping[str, Measure], rounds: int) -> Comparison:
    """Measure all contestants in turn."""
    comparison = Comparison(title)
    names = list(contestants)
    for name in names:
        comparison.samples[name] = {}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            begin = time.monotonic()
            comparison.add(name, contestants[name]())
            spent = time.monotonic() - begin
            print(f"round {number + 1}/{rounds} {name}: {spent:.0f} s", file=sys.stderr, flush=True)
    return comparison


def arguments(description: str, seconds: float) -> argparse.ArgumentParser:
    """What every runner of pairs understands."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=5, help="pairs (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=seconds, help="length of one measurement")
    parser.add_argument("--only", default="", help="contestants, with commas between")
    parser.add_argument("--output", type=Path, help="write all figures there, as JSON")
    return parser


def chosen(contestants: Mapping[str, Measure], only: str) -> dict[str, Measure]:
    names = only.split(",") if only else list(contestants)
    unknown = [name for name in names if name not in contestants]
    if unknown:
        sys.exit(f"no contestant {unknown[0]}; there are {', '.join(contestants)}")
    return {name: contestants[name] for name in names}


def finish(comparison: Comparison, output: Path | None) -> None:
    print(comparison.table(), flush=True)
    if output:
        comparison.save(output)
