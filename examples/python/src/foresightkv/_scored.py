# SPDX-License-Identifier: Apache-2.0
"""An eviction by a scorer that is a Python function: the stages of evict, one by one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import _core


@dataclass(frozen=True)
class Tokens:
    """What a scorer is given: the tokens of all rows, in arrays that begin [layer][sequence][kv_head][slot]."""

    keys: Any
    """The cache's own array of keys, or list of them, as it was handed over."""
    values: Any
    lengths: np.ndarray
    """[sequence]: slots behind a row's length hold nothing."""
    positions: np.ndarray
    """Original position of each token; -1 where there is none."""
    next_positions: np.ndarray
    """[layer][sequence][kv_head] position of the token that comes next."""
    layers: list[int] = field(default_factory=list)
    """Numbers of the layers in the model."""
    statistics: dict[str, np.ndarray] = field(default_factory=dict)
    """[..., group] by name. Of the window: maximum, minimum, sum, last_8, last_16, last_32. Carried from interval to
    interval: accumulated, decayed."""


def tokens_of(evictor: _core.Evictor, cache: _core.Cache, window: _core.Window, sequences=None) -> Tokens:
    """All that is known of the tokens of a cache, the window's statistics too."""
    statistics = evictor.observe(cache, window, sequences=sequences)
    statistics.update(evictor.carried(cache))
    return Tokens(
        keys=cache.keys,
        values=cache.values,
        lengths=np.array(cache.lengths),
        positions=evictor.positions(cache),
        next_positions=evictor.next_positions(cache),
        layers=cache.layers,
        statistics=statistics,
    )


def evict(evictor, cache, window, sequences, dry_run: bool) -> int:
    """Evictor.evict for a policy whose scorer is a function. Only sequences beyond their budget are scored. If anything
    is wrong, nothing is done."""
    if dry_run:
        raise ValueError("evict: dry_run needs a compiled scorer, as a function's statistics are carried on the way")
    lengths = np.array(cache.lengths)
    visited = np.arange(len(lengths)) if sequences is None else np.asarray(sequences)
    for sequence in visited:
        if not 0 <= sequence < len(lengths):
            raise ValueError(f"sequences: no sequence {sequence}")
        if not 0 <= lengths[sequence] <= cache.capacity:
            raise ValueError(f"evict: sequence {sequence}: bad length: {lengths[sequence]} of {cache.capacity}")
    over = visited[lengths[visited] > evictor.budget].astype(np.int32)
    if over.size == 0:
        return 0
    before = [(int(sequence), evictor.save(int(sequence))) for sequence in over]
    try:
        evictor.carry(cache, window, sequences=over)
        scores = _scores(evictor.scorer(tokens_of(evictor, cache, window, over)), cache)
        lists = evictor.select(cache, scores, sequences=over)
    except BaseException:
        for sequence, state in before:
            evictor.restore(sequence, state)
        raise
    return evictor.compact(cache, lists, sequences=over)


def _scores(given: Any, cache: _core.Cache) -> np.ndarray:
    """What a function gave, as select takes it."""
    if hasattr(given, "detach"):  # a tensor, perhaps of a type that NumPy does not have
        given = given.detach().float()
    scores = np.asarray(given)
    rows = (cache.num_layers, cache.num_sequences, cache.num_kv_heads, cache.capacity)
    if scores.shape != rows or scores.dtype.kind not in "fiub":
        raise ValueError(f"the scorer must give real scores of shape {rows}, gave {scores.dtype} of {scores.shape}")
    return np.ascontiguousarray(scores, dtype=np.float32)
