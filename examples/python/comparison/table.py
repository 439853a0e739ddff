# SPDX-License-Identifier: Apache-2.0
"""What was measured, as text and as Markdown."""

from __future__ import annotations

import statistics
from typing import Any, Optional

Cells = list[str]
HEAD = [
    "program",
    "policy",
    "loss",
    "/ full",
    "tokens/s",
    "/ full",
    "per CPU s",
    "prompt s",
    "cache MiB",
    "in prompt",
    "state MiB",
    "evictions",
]
STEP_HEAD = ["our step", "ms", "other step", "ms", "other / ours (min - max)"]


def rows_of(measured: list[dict[str, Any]]) -> list[Cells]:
    """A line for each program and policy; "-" where nothing was measured."""
    full = {row["program"]: row for row in measured if row["policy"] == "full"}
    lines = []
    for row in measured:
        # Speed is compared with the same engine's full cache, loss with the same weights'.
        own = full.get(row["program"] if row["program"] == "openvino" else "transformers", {})
        lines.append(
            [
                row["program"],
                row["policy"],
                _number(row.get("loss"), "{:.4f}"),
                _ratio(row, own, "loss"),
                _number(row.get("tokens_per_second"), "{:.2f}"),
                _ratio(row, own, "tokens_per_second"),
                _number(row.get("tokens_per_cpu_second"), "{:.2f}"),
                _number(row.get("prompt_seconds"), "{:.1f}"),
                _mebibytes(row.get("cache_bytes")),
                _mebibytes(row.get("prompt_cache_bytes")),
                _mebibytes(row.get("state_bytes")),
                _number(row.get("evictions"), "{:.0f}"),
            ]
        )
    return lines


def step_rows(pairs: list[dict[str, Any]]) -> list[Cells]:
    lines = []
    for pair in pairs:
        ratios = [theirs / ours for ours, theirs in zip(pair["ours_seconds"], pair["other_seconds"])]
        lines.append(
            [
                pair["ours"],
                f"{1e3 * statistics.median(pair['ours_seconds']):.1f}",
                pair["other"],
                f"{1e3 * statistics.median(pair['other_seconds']):.1f}",
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})",
            ]
        )
    return lines


def text(head: Cells, lines: list[Cells]) -> str:
    """Columns, numbers to the right."""
    widths = [max(len(line[column]) for line in [head, *lines]) for column in range(len(head))]
    left = [all(not _is_number(line[column]) for line in lines) for column in range(len(head))]

    def laid_out(line: Cells) -> str:
        return "  ".join(
            cell.ljust(width) if to_left else cell.rjust(width) for cell, width, to_left in zip(line, widths, left)
        ).rstrip()

    return "\n".join([laid_out(head), "-" * (sum(widths) + 2 * len(widths) - 2), *map(laid_out, lines)])


def markdown(head: Cells, lines: list[Cells]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *lines])


def _is_number(cell: str) -> bool:
    return cell == "-" or cell[:1].isdigit()


def _number(value: Optional[float], form: str) -> str:
    return "-" if value is None else form.format(value)


def _mebibytes(value: Optional[float]) -> str:
    return _number(None if value is None else value / 2**20, "{:.1f}")


def _ratio(row: dict[str, Any], full: dict[str, Any], what: str) -> str:
    if row.get(what) is None or full.get(what) is None:
        return "-"
    return f"{row[what] / full[what]:.3f}"
