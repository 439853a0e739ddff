# SPDX-License-Identifier: Apache-2.0
"""The table as a picture: one SVG with a bar for each row, loss on the left and speed on the right."""

from __future__ import annotations

from html import escape
from typing import Any, Optional

LINE, TOP, LEFT, PANEL, GAP = 20, 64, 190, 300, 100
COLOURS = {"transformers": "#8a8a8a", "foresightkv": "#1f6f8b", "kvpress": "#d08c2f", "openvino": "#7d5ba6"}


def svg(measured: list[dict[str, Any]], title: str) -> str:
    """measured: as table.rows_of; title: what was run, in one line."""
    height = TOP + LINE * len(measured) + 24
    width = LEFT + 2 * PANEL + GAP + 60
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        _label(12, 22, title, "start", 'font-size="14" font-weight="bold"'),
    ]
    for row, line in enumerate(measured):
        parts.append(_label(LEFT - 8, TOP + LINE * row + 14, f"{line['program']}  {line['policy']}", "end"))
    losses = [line.get("loss") for line in measured]
    speeds = [line.get("tokens_per_second") for line in measured]
    # Differences of losses are small beside the losses: that bar begins just below the least of them.
    known = [loss for loss in losses if loss is not None]
    begin = min(known) - 0.1 * (max(known) - min(known) or 1.0) if known else 0.0
    parts += _panel(
        LEFT,
        f"loss after the first eviction, bars from {begin:.2f} (lower is better)",
        measured,
        losses,
        begin,
        "{:.3f}",
    )
    parts += _panel(LEFT + PANEL + GAP, "tokens per second (higher is better)", measured, speeds, 0.0, "{:.1f}")
    return "\n".join([*parts, "</svg>\n"])


def _panel(
    left: float, title: str, measured: list[dict[str, Any]], values: list[Optional[float]], begin: float, form: str
) -> list[str]:
    known = [value for value in values if value is not None]
    parts = [_label(left, TOP - 14, title, "start", 'fill="#444"')]
    scale = PANEL / ((max(known) - begin) or 1.0) if known else 0.0
    for row, (line, value) in enumerate(zip(measured, values)):
        y = TOP + LINE * row
        if value is None:
            parts.append(_label(left + 4, y + 14, "not measured", "start", 'fill="#999"'))
            continue
        long = scale * (value - begin)
        colour = COLOURS.get(line["program"], "#555")
        parts.append(f'<rect x="{left}" y="{y + 3}" width="{long:.1f}" height="{LINE - 6}" fill="{colour}"/>')
        parts.append(_label(left + long + 4, y + 14, form.format(value), "start"))
    return parts


def _label(x: float, y: float, text: str, anchor: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{escape(text)}</text>'
