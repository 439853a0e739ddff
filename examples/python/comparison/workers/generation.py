# SPDX-License-Identifier: Apache-2.0
"""What is measured of a model in PyTorch, whoever evicts: loss under teacher forcing, and greedy decoding.

Used by our worker and by kvpress's alike, under different versions of transformers, so that both run the same loop: the
program that evicts only brings a Session.
"""

from __future__ import annotations

import time
from typing import Any, Protocol

import numpy
import torch

from .protocol import Progress


class Session(Protocol):
    """One sequence and its cache."""

    def forward(self, ids: torch.Tensor, first: int, keep: int) -> torch.Tensor:
        """Feeds ids [1, n] at positions first .. first + n - 1; logits [1, keep, vocabulary] of the last `keep`."""

    def decodes_now(self) -> None:
        """The prompt is in the cache; from here on, tokens come one by one."""

    def cache_bytes(self) -> int:
        """Bytes of keys and values that are held now."""

    def evictions(self) -> int:
        """How often tokens were evicted from a layer (the mean over its layers), so far."""


def read_ids(task: dict[str, Any]) -> torch.Tensor:
    return torch.from_numpy(numpy.load(task["ids"]).astype(numpy.int64))[None]


def chunks(length: int, budget: int, interval: int) -> list[tuple[int, int]]:
    """[begin, end) of what is fed at once: the budget, then interval by interval, as an evicting cache grows."""
    edges = [0, *range(min(budget, length), length, interval), length]
    return [(begin, end) for begin, end in zip(edges, edges[1:]) if begin < end]


@torch.no_grad()
def loss(session: Session, task: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Mean of -ln p of the tokens after the first eviction, each given all that is left of the text before it.

    The queries of position budget + interval and later see a cache that has been cut.
    """
    ids = read_ids(task)
    length, first_evicted = ids.shape[1], task["budget"] + task["interval"]
    if length <= first_evicted + 1:
        raise ValueError(f"a text of {length} tokens is no longer than budget + interval")
    losses, largest = [], 0
    for begin, end in chunks(length, task["budget"], task["interval"]):
        keep = end - max(begin, first_evicted)
        logits = session.forward(ids[:, begin:end], begin, max(keep, 1))[0]
        largest = max(largest, session.cache_bytes())
        if keep > 0:
            targets = ids[0, end - keep + 1 : end + 1]
            losses.append(torch.nn.functional.cross_entropy(logits[: len(targets)].float(), targets, reduction="none"))
        progress(end / length)
    every = torch.cat(losses)
    return {"loss": float(every.mean()), "tokens": len(every), "evictions": session.evictions(), "cache_bytes": largest}


@torch.no_grad()
def decode(session: Session, task: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Tokens a second of greedy decoding, one sequence, behind a prompt that is in the cache when the clock starts."""
    ids, new = read_ids(task), task["new_tokens"]
    length, prompt_bytes = ids.shape[1], 0
    at_once = chunks(length, task["budget"], task["interval"]) if task["chunked"] else [(0, length)]
    begin_prompt = time.perf_counter()
    for begin, end in at_once:
        logits = session.forward(ids[:, begin:end], begin, 1)
        prompt_bytes = max(prompt_bytes, session.cache_bytes())
        progress(0.5 * end / length)
    prompt_seconds = time.perf_counter() - begin_prompt
    session.decodes_now()
    chosen, decoding_bytes, evictions = logits[:, -1].argmax(-1, keepdim=True), 0, session.evictions()
    tokens = [int(chosen)]
    seconds = processor = 0.0
    for step in range(new):
        wall, cpu = time.perf_counter(), time.process_time()
        chosen = session.forward(chosen, length + step, 1)[:, -1].argmax(-1, keepdim=True)
        seconds, processor = seconds + time.perf_counter() - wall, processor + time.process_time() - cpu
        tokens.append(int(chosen))
        decoding_bytes = max(decoding_bytes, session.cache_bytes())
        progress(0.5 + 0.5 * (step + 1) / new)
    return {"tokens_per_second": new / seconds, "tokens_per_cpu_second": new / processor, "prompt_seconds": prompt_seconds,
            "prompt_cache_bytes": prompt_bytes, "cache_bytes": decoding_bytes,
            "evictions": session.evictions() - evictions, "generated": tokens}


def tensor_bytes(layers: Any) -> int:
    """Of the keys and values of transformers' cache layers, as long as they hold any."""
    held = [tensor for layer in layers for tensor in (layer.keys, layer.values) if isinstance(tensor, torch.Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in held)
