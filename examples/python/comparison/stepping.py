# SPDX-License-Identifier: Apache-2.0
"""One eviction step of all layers: ours and the others' in turn, on the same recorded cache."""

from __future__ import annotations

import pathlib
from typing import Any

from .work import Failed, Progress, Worker

# Our policy, the peer, what the peer calls its own, and what is timed of it.
PAIRS = (
    ("window_sum", "kvpress", "snap_kv_interval", "SnapKVPress, window = interval"),
    ("window_sum", "kvpress", "snap_kv", "SnapKVPress, window 64"),
    ("snap_kv", "kvpress", "snap_kv", "SnapKVPress, window 64"),
    ("tova", "kvpress", "tova", "TOVAPress"),
    ("key_diff", "kvpress", "key_diff", "KeyDiffPress"),
    ("key_norm", "kvpress", "key_norm", "KnormPress"),
    ("streaming_llm", "kvpress", "streaming_llm", "StreamingLLMPress"),
    ("foresight", "published", "foresight", "published update_kv, with its judge"),
)


def compare(
    ours: Worker, others: dict[str, Worker], task: dict[str, Any], ids: pathlib.Path, rounds: int, progress: Progress
) -> list[dict[str, Any]]:
    """Seconds of each pair, round by round; what cannot be timed is said and left out."""
    pairs = [pair for pair in PAIRS if pair[1] in others]
    if not pairs:
        return []
    if not pathlib.Path(task["inputs"]).exists():
        ours.do({**task, "task": "record_step", "ids": str(ids)})
    sides = {("ours", pair[0]): ours for pair in pairs} | {(pair[1], pair[2]): others[pair[1]] for pair in pairs}
    seconds: dict[tuple[str, str], list[float]] = {side: [] for side in sides}
    order = list(sides)
    for turn in range(rounds):
        for side in order[turn % len(order) :] + order[: turn % len(order)]:  # nobody is always the first
            if side in seconds:
                try:
                    seconds[side].append(sides[side].do({**task, "task": "step", "policy": side[1]})["seconds"])
                except Failed as error:
                    progress.say(f"step of {side[0]}, {side[1]}: {error}")
                    del seconds[side]
            progress.show(turn, "eviction steps")
    return [
        {
            "ours": mine,
            "other": about,
            "program": peer,
            "ours_seconds": seconds["ours", mine],
            "other_seconds": seconds[peer, theirs],
        }
        for mine, peer, theirs, about in pairs
        if ("ours", mine) in seconds and (peer, theirs) in seconds
    ]
