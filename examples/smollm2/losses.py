# SPDX-License-Identifier: Apache-2.0
"""What a language model loses by evictions: -ln p of every token of a text, under the full cache and under a policy.

Losses are numbered by what predicts them: losses[t] = -ln p(token t + 1 given tokens 0 .. t), float32 [text][T - 1].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional

import numpy as np
import torch

import foresightkv
from foresightkv import training
from foresightkv.hf import EvictingCache
from foresightkv.record import record

Progress = Callable[[float], None]
COLUMNS = 512  # tokens whose logits over the whole vocabulary are held at once


def first_evicted(budget: int, interval: int) -> int:
    """Number of the first loss that sees a cache which was cut."""
    return budget + interval


@torch.no_grad()
def full(model: Any, ids: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(losses, entropies in nats of what is predicted), each float32 [text][T - 1], of ids [text][T]."""
    losses = np.zeros((ids.shape[0], ids.shape[1] - 1), np.float32)
    entropies = np.zeros_like(losses)
    for row, text in enumerate(ids):
        hidden = model.base_model(text[None], use_cache=False).last_hidden_state[0]
        for first in range(0, losses.shape[1], COLUMNS):
            last = min(first + COLUMNS, losses.shape[1])
            log_probs = model.lm_head(hidden[first:last]).float().log_softmax(-1)
            losses[row, first:last] = -log_probs.gather(1, text[first + 1 : last + 1, None])[:, 0].numpy()
            entropies[row, first:last] = -(log_probs.exp() * log_probs).sum(-1).numpy()
    return losses, entropies


@torch.no_grad()
def evicted(
    model: Any, ids: torch.Tensor, policy: foresightkv.Policy, progress: Optional[Progress] = None
) -> tuple[np.ndarray, EvictingCache]:
    """(losses [text][T - 1], the cache they end with) of ids [text][T], with evictions in every layer and head.

    The budget's tokens are fed at once, then an interval at a time: a cache is cut whenever it holds budget + interval.
    """
    cache = EvictingCache(model, policy)
    length = ids.shape[1]
    losses = np.zeros((ids.shape[0], length - 1), np.float32)
    for first in (0, *range(policy.budget, length - 1, policy.interval)):
        last = min(first + policy.interval if first else policy.budget, length - 1)
        logits = model(ids[:, first:last], cache=cache).logits.float()
        predicted = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), ids[:, first + 1 : last + 1], reduction="none"
        )
        losses[:, first:last] = predicted.numpy()
        if progress is not None:
            progress(last / (length - 1))
    return losses, cache


class Golden:
    """A scorer that knows the future: what the full cache's later queries attend to (Golden Eviction).

    A function of tokens for foresightkv.Policy, of the texts it was made with, in their order.
    """

    def __init__(self, interval: int) -> None:
        self.interval = interval
        self.future: dict[int, list[np.ndarray]] = {}  # by layer: for each text float32 [kv_head][block - 2][token]

    def add(self, model: Any, ids: torch.Tensor) -> None:
        """One more text, ids [T]."""
        model.set_attn_implementation("sdpa")
        (trace,) = record(model, ids[None])
        numbers = sorted({int(name.split(".")[1]) for name in trace if name.startswith("layer.")})
        for number in numbers:
            parts = (trace.pop(f"layer.{number}.{part}") for part in ("query", "key", "value"))
            layer = training.Layer(*parts, number=number)
            scores = training.future_scores(layer, interval=self.interval)
            self.future.setdefault(number, []).append(scores)

    def __call__(self, tokens: foresightkv.Tokens) -> np.ndarray:
        (number,) = tokens.layers
        scores = np.zeros(tokens.positions.shape, np.float32)
        for text, future in enumerate(self.future[number]):
            block = int(tokens.next_positions[0, text, 0]) // self.interval
            if block - 2 < future.shape[1]:  # behind it nobody attends any more
                scores[0, text] = np.take_along_axis(
                    future[:, block - 2], np.maximum(tokens.positions[0, text], 0), axis=1
                )
        return scores


class AskedOnce:
    """A scorer that asks the judge about a token once, when the token may go for the first time, and never again.

    A function of the tokens of an EvictingCache, for foresightkv.Policy. Methods that score tokens as they arrive work so.
    """

    def __init__(self, judge: training.Judge, recent: int) -> None:
        """recent: newest tokens that cannot go yet."""
        self.judge, self.recent = judge, recent
        self.made: dict[int, np.ndarray] = {}  # by layer: float32 [text][kv_head][position], NaN: not asked yet

    def __call__(self, tokens: foresightkv.Tokens) -> np.ndarray:
        (number,) = tokens.layers
        positions, following = tokens.positions[0], tokens.next_positions[0][..., None]
        made = self.made.get(number, np.zeros((*positions.shape[:2], 0), np.float32))
        more = max(0, int(following.max()) - made.shape[2])
        made = self.made[number] = np.pad(made, ((0, 0), (0, 0), (0, more)), constant_values=np.nan)
        before = np.take_along_axis(made, np.maximum(positions, 0), axis=2)
        scores = np.where(np.isnan(before), self._now(tokens, number), before)
        first = np.isnan(before) & (positions >= 0) & (positions < following - self.recent)
        text, head, slot = np.nonzero(first)
        made[text, head, positions[first]] = scores[text, head, slot]
        return scores[None]

    def _now(self, tokens: foresightkv.Tokens, number: int) -> np.ndarray:
        """What the judge says, float32 [text][kv_head][slot]."""
        statistics = training.statistics_of({name: values[0] for name, values in tokens.statistics.items()})
        rows = (training.Rows(*text) for text in zip(tokens.keys, tokens.values, statistics))
        return np.stack([training.judge_forward(self.judge.weights[number], text)[0] for text in rows])
