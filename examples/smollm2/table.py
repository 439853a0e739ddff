# SPDX-License-Identifier: Apache-2.0
"""The table of evaluate: loss ratios, their differences with intervals, low and high entropies apart."""

from __future__ import annotations

from typing import Any

import numpy as np

from .losses import first_evicted

HIGH_ENTROPY = 0.2  # share of the tokens; the paper's reward leaves as many out
RESAMPLES = 10_000


def figures(
    group: Any, name: str, setting: Any, full: tuple[np.ndarray, np.ndarray], evicted: np.ndarray
) -> dict[str, Any]:
    """One policy on the texts of one kind: ratio of the mean losses after the first eviction, text by text, and by how
    much losses rise on tokens of low and of high entropy, all texts together."""
    first = first_evicted(setting.budget, setting.interval)
    base, entropy, loss = full[0][:, first:], full[1][:, first:], evicted[:, first:]
    high = entropy > np.quantile(entropy, 1 - HIGH_ENTROPY, axis=1, keepdims=True)
    return {
        "kind": group.kind,
        "policy": name,
        "budget": setting.budget,
        "interval": setting.interval,
        "recent": setting.recent,
        "ratios": (loss.mean(1, dtype=np.float64) / base.mean(1, dtype=np.float64)).tolist(),
        "low_entropy": float(loss[~high].sum(dtype=np.float64) / base[~high].sum(dtype=np.float64)),
        "high_entropy": float(loss[high].sum(dtype=np.float64) / base[high].sum(dtype=np.float64)),
    }


def interval_of(differences: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Paired bootstrap over texts: where the mean of the differences lies."""
    draws = np.random.default_rng(0).integers(0, len(differences), (RESAMPLES, len(differences)))
    means = differences[draws].mean(1)
    tail = (1 - confidence) / 2
    return float(np.quantile(means, tail)), float(np.quantile(means, 1 - tail))


def is_heuristic(row: dict[str, Any]) -> bool:
    return row["policy"] != "golden" and not row["policy"].startswith("foresight")


def markdown(report: dict[str, Any]) -> str:
    """A table for each kind of text and each budget, best first."""
    parts = []
    for kind, names in report["texts"].items():
        settings = dict.fromkeys((setting["budget"], setting["interval"]) for setting in report["settings"])
        for budget, interval in settings:
            rows = [
                row
                for row in report["rows"]
                if row["kind"] == kind and (row["budget"], row["interval"]) == (budget, interval)
            ]
            parts.append(
                f"### {kind}, budget {budget}, interval {interval}: {len(names)} texts of {report['tokens']} tokens\n\n"
                + _table(rows)
            )
    return "\n\n".join(parts) + "\n"


def _table(rows: list[dict[str, Any]]) -> str:
    best = min((row for row in rows if is_heuristic(row)), key=lambda row: np.mean(row["ratios"]), default=None)
    lines = [
        "| policy | recent | loss / full cache's | to the best heuristic | low entropy | high entropy |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: np.mean(row["ratios"])):
        ratios = np.array(row["ratios"])
        beside = ""
        if best is not None and row is not best:
            differences = ratios - np.array(best["ratios"])
            low, high = interval_of(differences)
            beside = f"{differences.mean():+.3f} [{low:+.3f}, {high:+.3f}]"
        lines.append(
            f"| {row['policy']} | {row['recent']:g} | {ratios.mean():.3f} | {beside} "
            f"| {100 * (row['low_entropy'] - 1):+.1f} % | {100 * (row['high_entropy'] - 1):+.1f} % |"
        )
    return "\n".join(lines)
