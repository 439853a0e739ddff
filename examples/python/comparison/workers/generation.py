# SPDX-License-Identifier: Apache-2.0
"""What is measured of a model in PyTorch, whoever evicts: loss under teacher forcing, and greedy decoding.

Used by our worker and by kvpress's alike, under different versions of transformers, so that both run the same loop: the
program that evicts only brings a Session.
"""

from __future__ import annotations

import time
from typing import Any, Callable, ContextManager, Protocol

import numpy
import torch

from .protocol import Progress


class Session(Protocol):
    """One sequence and its cache."""

    def active(self) -> ContextManager[None]:
        """Within it, the model works for this session; sessions take turns."""

    def forward(self, ids: torch.Tensor, first: int, keep: int) -> torch.Tensor:
        """Feeds ids [1, n] at positions first .. first + n - 1; logits [1, keep, vocabulary] of the last `keep`."""

    def decodes_now(self) -> None:
        """The prompt is in the cache; from here on, tokens come one by one."""

    def cache_bytes(self) -> int:
        """Bytes of keys and values that are held now."""

    def state_bytes(self) -> int:
        """Bytes that are held beside them for the next eviction: queries, hidden states, statistics."""

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
    losses, largest, state = [], 0, 0
    with session.active():
        for begin, end in chunks(length, task["budget"], task["interval"]):
            keep = end - max(begin, first_evicted)
            logits = session.forward(ids[:, begin:end], begin, max(keep, 1))[0]
            largest, state = max(largest, session.cache_bytes()), max(state, session.state_bytes())
            if keep > 0:
                targets = ids[0, end - keep + 1 : end + 1]
                losses.append(
                    torch.nn.functional.cross_entropy(logits[: len(targets)].float(), targets, reduction="none")
                )
            progress(end / length)
    every = torch.cat(losses)
    return {
        "loss": float(every.mean()),
        "tokens": len(every),
        "evictions": session.evictions(),
        "cache_bytes": largest,
        "state_bytes": state,
    }


class Decodings:
    """Greedy decoding of one sequence for each policy, a few tokens at a time, so that programs can take turns."""

    def __init__(self, make: Callable[[dict[str, Any]], Session]) -> None:
        self.make = make
        self.open_ones: dict[str, Decoding] = {}

    def open(self, task: dict[str, Any], progress: Progress) -> dict[str, Any]:
        """Fills the cache with the prompt."""
        self.open_ones[task["policy"]] = Decoding(self.make(task), task)
        return self.open_ones[task["policy"]].fill(task, progress)

    def more(self, task: dict[str, Any], progress: Progress) -> dict[str, Any]:
        """Decodes new_tokens more."""
        return self.open_ones[task["policy"]].more(task["new_tokens"], progress)

    def close(self, task: dict[str, Any], _progress: Progress) -> dict[str, Any]:
        self.open_ones.pop(task["policy"], None)
        return {}


class Decoding:
    def __init__(self, session: Session, task: dict[str, Any]) -> None:
        self.session, self.ids = session, read_ids(task)
        self.position = self.ids.shape[1]
        self.chosen = self.ids[:, -1:]

    @torch.no_grad()
    def fill(self, task: dict[str, Any], progress: Progress) -> dict[str, Any]:
        length, largest = self.position, 0
        at_once = chunks(length, task["budget"], task["interval"]) if task["chunked"] else [(0, length)]
        wall = time.perf_counter()
        with self.session.active():
            for begin, end in at_once:
                self.chosen = self.session.forward(self.ids[:, begin:end], begin, 1)[:, -1].argmax(-1, keepdim=True)
                largest = max(largest, self.session.cache_bytes())
                progress(end / length)
        seconds = time.perf_counter() - wall
        self.session.decodes_now()
        return {"prompt_seconds": seconds, "prompt_cache_bytes": largest}

    @torch.no_grad()
    def more(self, new: int, progress: Progress) -> dict[str, Any]:
        tokens, seconds, processor, largest, state = [], 0.0, 0.0, 0, 0
        before = self.session.evictions()
        with self.session.active():
            for step in range(new):
                wall, cpu = time.perf_counter(), time.process_time()
                self.chosen = self.session.forward(self.chosen, self.position, 1)[:, -1].argmax(-1, keepdim=True)
                tokens.append(int(self.chosen))
                seconds, processor = seconds + time.perf_counter() - wall, processor + time.process_time() - cpu
                self.position += 1
                largest = max(largest, self.session.cache_bytes())
                state = max(state, self.session.state_bytes())
                progress((step + 1) / new)
        return {
            "tokens": new,
            "seconds": seconds,
            "cpu_seconds": processor,
            "cache_bytes": largest,
            "state_bytes": state,
            "evictions": self.session.evictions() - before,
            "generated": tokens,
        }


def tasks(make: Callable[[dict[str, Any]], Session]) -> dict[str, Callable[[dict[str, Any], Progress], dict[str, Any]]]:
    """What a worker serves; make gives the session of a task."""
    decodings = Decodings(make)

    def loss_of(task: dict[str, Any], progress: Progress) -> dict[str, Any]:
        return loss(make(task), task, progress)

    return {
        "loss": loss_of,
        "decode_open": decodings.open,
        "decode_more": decodings.more,
        "decode_close": decodings.close,
    }


def tensor_bytes(layers: Any) -> int:
    """Of the keys and values of transformers' cache layers, as long as they hold any."""
    held = [tensor for layer in layers for tensor in (layer.keys, layer.values) if isinstance(tensor, torch.Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in held)
