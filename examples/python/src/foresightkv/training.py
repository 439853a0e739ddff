# SPDX-License-Identifier: Apache-2.0
"""The steps of training a judge, over arrays in place: NumPy, PyTorch, or anything else that speaks DLPack.

    trace = foresightkv.io.read_trace("math.safetensors")
    layer = trace.layer(7)
    judge = training.Judge(num_layers=30, num_kv_heads=3, group=3, key_head_dim=64)
    judge.initialise()
    adam, schedule = training.Adam(judge.weights), training.Schedule(total_steps=300)

    future = training.future_scores(layer, interval=64)
    replay = training.feature_replay(layer, future, budget=256, interval=64, weights=judge.weights[7])
    gradient = np.zeros_like(judge.weights)
    for steps in replay.parts:
        scores, hidden = training.judge_forward(judge.weights[7], steps.rows)
        found = training.ranking_hinge(scores, steps.labels)
        training.judge_backward(judge.weights[7], steps.rows, hidden, found.gradient, gradient[7])
    training.clip_gradient(gradient)
    adam.update(gradient, schedule(adam.steps))
    judge.save("weights.safetensors")

Reinforcement: feature_replay(..., sampled=True, rollout=i) draws, rollout_log_probs records, the language model runs
with ReplaySteps.evicted_positions, rewards and group_advantages say what that was worth, rollout_gradient learns from
it. Weights and gradients have one layout, that of Judge.weights. Nothing here copies what it is given, and results do
not depend on the number of threads.
"""

from __future__ import annotations

import numpy as np

from ._core import (
    Adam,
    BatchSampler,
    ClipResult,
    GrpoResult,
    HingeResult,
    Judge,
    Layer,
    Moments,
    Replay,
    ReplaySteps,
    Rewards,
    Rows,
    Schedule,
    Standardisation,
    clip_gradient,
    feature_replay,
    future_scores,
    group_advantages,
    grpo,
    judge_backward,
    judge_forward,
    pack_judge,
    pick_log_probs,
    published_kl_weight,
    ranking_hinge,
    rewards,
    rollout_gradient,
    rollout_log_probs,
    unpack_judge,
)

FEATURES = {
    "paper": ("maximum", "minimum", "sum", "last_16", "last_8", "last_32", "accumulated", "decayed"),
    "reference_checkpoint": ("maximum", "minimum", "sum", "sum", "sum", "sum", "accumulated", "decayed"),
    "reference_evaluation": ("maximum", "minimum", "sum", "sum", "sum", "sum", "accumulated", "accumulated"),
}
"""What a judge reads of a token, in order; `group` numbers of each."""


def statistics_of(by_name: dict[str, np.ndarray], features: str = "paper") -> np.ndarray:
    """Statistics [...][group] by name as a judge reads them, [...][8 * group]: for Rows of caches that an Evictor cuts.

    by_name: what Evictor.observe and, after carry, Evictor.carried give; or Tokens.statistics.
    """
    if features not in FEATURES:
        raise ValueError(f"features: one of {', '.join(map(repr, FEATURES))}, is {features!r}")
    return np.concatenate([by_name[name] for name in FEATURES[features]], axis=-1)


__all__ = [
    "Adam",
    "BatchSampler",
    "ClipResult",
    "FEATURES",
    "GrpoResult",
    "HingeResult",
    "Judge",
    "Layer",
    "Moments",
    "Replay",
    "ReplaySteps",
    "Rewards",
    "Rows",
    "Schedule",
    "Standardisation",
    "clip_gradient",
    "feature_replay",
    "future_scores",
    "group_advantages",
    "grpo",
    "judge_backward",
    "judge_forward",
    "pack_judge",
    "pick_log_probs",
    "published_kl_weight",
    "ranking_hinge",
    "rewards",
    "rollout_gradient",
    "rollout_log_probs",
    "statistics_of",
    "unpack_judge",
]
