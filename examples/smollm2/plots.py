# SPDX-License-Identifier: Apache-2.0
"""Pictures of what the other commands left: loss over the budget, and the curves of a training, as SVG.

    python -m smollm2.plots [--work DIR]

writes work/loss_over_budget.svg from evaluate.json, and work/curves-NAME.svg for each training.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Optional

import numpy as np

from .paths import WORK
from .refine import State

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 400, 64, 200, 44, 44
COLOURS = ("#1f6f8b", "#d08c2f", "#7d5ba6", "#4a8f3c", "#b5483a", "#8a8a8a", "#2c4a9a", "#a0662e", "#c05a9a", "#557a7a")


@dataclass(frozen=True)
class Line:
    name: str
    x: Sequence[float]
    y: Sequence[float]
    faint: bool = False
    """Drawn thin, and not named."""


def chart(title: str, x_name: str, y_name: str, lines: list[Line], log_x: bool = False) -> str:
    """Lines over common axes, each named at its end."""

    def across(x: float) -> float:
        return float(np.log2(x)) if log_x else x

    xs = [across(x) for line in lines for x in line.x]
    ys = [y for line in lines for y in line.y]
    low, high = min(ys), max(ys)
    left, wide = min(xs), (max(xs) - min(xs)) or 1.0
    tall = (high - low) or 1.0

    def point(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + (across(x) - left) / wide * (WIDTH - LEFT - RIGHT),
            TOP + (high - y) / tall * (HEIGHT - TOP - BOTTOM),
        )

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(LEFT, 20, title, more='font-size="14" font-weight="bold"'),
        _text(LEFT, HEIGHT - 8, x_name, more='fill="#444"'),
        _text(LEFT, TOP - 8, y_name, more='fill="#444"'),
    ]
    for y in np.linspace(low, high, 5):
        _, down = point(lines[0].x[0], float(y))
        parts.append(f'<path d="M{LEFT} {down:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(_text(LEFT - 6, down + 4, f"{y:.3g}" if tall > 0.5 else f"{y:.4g}", "end"))
    ticks = sorted({x for line in lines for x in line.x}) if log_x else [min(xs), max(xs)]
    parts += [_text(point(x, low)[0], HEIGHT - BOTTOM + 16, f"{x:g}", "middle") for x in ticks]
    named = [line for line in lines if not line.faint]
    ends = _apart([point(line.x[-1], line.y[-1])[1] for line in named])
    for line in lines:
        colour = "#cccccc" if line.faint else COLOURS[named.index(line) % len(COLOURS)]
        path = "L".join("{:.1f} {:.1f}".format(*point(x, y)) for x, y in zip(line.x, line.y))
        parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="{0.6 if line.faint else 1.8}"/>')
        if not line.faint:
            parts.append(_text(WIDTH - RIGHT + 8, ends[named.index(line)] + 4, line.name, more=f'fill="{colour}"'))
    return "\n".join([*parts, "</svg>\n"])


def _apart(heights: list[float], least: float = 13.0) -> list[float]:
    """The same heights in their order, moved down where names would overlap."""
    moved = list(heights)
    below = -np.inf
    for place in np.argsort(heights):
        moved[place] = max(heights[place], below + least)
        below = moved[place]
    return moved


def _text(x: float, y: float, text: str, anchor: str = "start", more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{escape(text)}</text>'


def loss_over_budget(report: dict[str, Any], kind: str) -> Optional[str]:
    """None where there is one budget alone."""
    lines: dict[str, dict[int, float]] = {}
    for row in report["rows"]:
        if row["kind"] == kind and row["recent"] == 0.0:
            lines.setdefault(row["policy"], {})[row["budget"]] = float(np.mean(row["ratios"]))
    drawn = [
        Line(name, sorted(found), [found[budget] for budget in sorted(found)])
        for name, found in lines.items()
        if name != "random"  # so far above the others that they would lie on each other
    ]
    if not drawn or max(len(line.x) for line in drawn) < 2:
        return None
    title = f"Loss over the full cache's, {len(report['texts'][kind])} {kind}"
    return chart(title, "budget, tokens", "loss / full cache's", drawn, log_x=True)


def smoothed(values: np.ndarray, steps: int = 10) -> np.ndarray:
    """Mean of the last `steps` values, fewer at the beginning."""
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    ends = np.arange(1, len(values) + 1)
    begins = np.maximum(ends - steps, 0)
    return (sums[ends] - sums[begins]) / (ends - begins)


def _some(steps: int, most: int = 100) -> np.ndarray:
    """Numbers of the steps that are drawn, the last among them: files stay small."""
    return np.unique(np.linspace(0, steps - 1, min(steps, most)).round().astype(int))


def ranking_curves(folder: pathlib.Path) -> str:
    """The ranking loss of every layer, and their mean."""
    found = [np.load(path)["losses"] for path in sorted(folder.glob("*.npz"), key=lambda path: int(path.stem))]
    steps = _some(len(found[0]))
    lines = [Line("", steps + 1, smoothed(losses)[steps], faint=True) for losses in found]
    lines.append(Line(f"mean of {len(found)} layers", steps + 1, smoothed(np.mean(found, axis=0))[steps]))
    return chart(f"Ranking, {folder.name}", "step", "ranking loss, mean of 10 steps", lines)


def refinement_curve(folder: pathlib.Path) -> str:
    metrics = State.load(folder / "state.npz").metrics
    steps = _some(len(metrics))
    lines = [
        Line("loss of the draws", steps + 1, metrics[steps, 2], faint=True),
        Line("mean of 10", steps + 1, smoothed(metrics[:, 2])[steps]),
    ]
    return chart(f"GRPO, {folder.name}", "step", "loss of rollouts / full cache's", lines)


def main(arguments: Optional[list[str]] = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m smollm2.plots", description=__doc__.partition("\n")[0])
    parser.add_argument("--work", type=pathlib.Path, default=WORK, metavar="DIR", help="default: build/smollm2")
    work = parser.parse_args(arguments).work
    made: dict[str, Optional[str]] = {}
    if (work / "evaluate.json").exists():
        report = json.loads((work / "evaluate.json").read_text(encoding="utf-8"))
        made = {f"loss_over_budget_{kind}.svg": loss_over_budget(report, kind) for kind in report["texts"]}
    for folder in sorted((work / "training").glob("*")):
        if (folder / "state.npz").exists():
            made[f"curves-{folder.name}.svg"] = refinement_curve(folder)
        elif any(folder.glob("*.npz")):
            made[f"curves-{folder.name}.svg"] = ranking_curves(folder)
    for name, picture in made.items():
        if picture is not None:
            (work / name).write_text(picture, encoding="utf-8")
            print(work / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
