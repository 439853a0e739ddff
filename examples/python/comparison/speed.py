# SPDX-License-Identifier: Apache-2.0
"""Greedy decoding behind a long prompt, a few tokens in turn, so that all programs meet the same machine."""

from __future__ import annotations

from typing import Any

from .work import Failed, Job, Progress, Results


def measure(jobs: list[Job], rounds: int, results: Results) -> dict[str, list[dict[str, Any]]]:
    """Jobs as made for one row each, with the task of a round. The rounds of each row; a row that fails has none.

    Every round is kept. What is missing is measured in turn again, behind prompts that are fed anew.
    """
    pending = {job.row: [turn for turn in range(rounds) if results.find(_round(job, turn)) is None] for job in jobs}
    fresh = [job for job in jobs if pending[job.row]]
    new = {
        job.row: 10 * job.task["new_tokens"] * len(pending[job.row]) for job in fresh
    }  # a token costs ten of a prompt
    progress = Progress(sum(job.weight + new[job.row] for job in fresh) or 1.0)
    opened = []
    for job in fresh:
        progress.show(0.0, job.about)
        try:
            prompt = job.worker.do(
                {**job.task, "task": "decode_open"}, lambda share: progress.show(share * job.weight, job.about)
            )
            opened.append((job, prompt))
        except Failed as error:
            progress.say(f"{job.row}: {error}")
        progress.done += job.weight
    for turn in range(rounds if opened else 0):
        first = turn % len(opened)  # nobody is always the first
        for job, prompt in opened[first:] + opened[:first]:
            if turn in pending[job.row]:
                _measure_round(job, turn, prompt, results, progress)
    for job, _ in opened:
        job.worker.do({**job.task, "task": "decode_close"})
    found = {job.row: [results.find(_round(job, turn)) for turn in range(rounds)] for job in jobs}
    return {row: turns for row, turns in found.items() if None not in turns}


def _measure_round(job: Job, turn: int, prompt: dict[str, Any], results: Results, progress: Progress) -> None:
    weight = 10 * job.task["new_tokens"]
    try:
        done = job.worker.do(
            {**job.task, "task": "decode_more"}, lambda share: progress.show(share * weight, f"{job.row}: decoding")
        )
        results.keep(_round(job, turn), {**prompt, **done})
    except Failed as error:
        progress.say(f"{job.row}: {error}")
    progress.done += weight


def _round(job: Job, turn: int) -> Job:
    return Job(job.row, job.worker, job.task, job.about, job.weight, {**job.identity, "round": turn})
