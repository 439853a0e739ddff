# SPDX-License-Identifier: Apache-2.0
"""What the trainings have in common."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable

from foresightkv import training


class Recipe:
    """A dataclass of all that the weights depend on, beside the texts."""

    @property
    def identity(self) -> str:
        """Names the folder of a training, so that none goes on with another's steps."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self)).encode()).hexdigest()[:12]


def budgets(text: str) -> tuple[tuple[int, int], ...]:
    """((budget, interval), ...) of a command line's 128:32,256:64."""
    return tuple(tuple(int(number) for number in pair.split(":")) for pair in text.split(","))


def standardisation(rows: Iterable[training.Rows], threads: int = 0) -> training.Standardisation:
    """Of the inputs of candidates that one layer's judges meet."""
    given = list(rows)
    moments = training.Moments(given[0].num_kv_heads, given[0].inputs)
    for one in given:
        moments.add(one, threads=threads)
    return moments.finish()
