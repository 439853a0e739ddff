# SPDX-License-Identifier: Apache-2.0
"""Measures the full cache of transformers, and foresightkv's eviction in its place."""

from __future__ import annotations

import argparse
import platform
from typing import Any

import torch

from . import generation, steps
from .protocol import Lines, Progress

FULL = "full"


class FullSession:
    """transformers' own cache, which keeps all."""

    def __init__(self, model: Any) -> None:
        import transformers

        self.model, self.cache = model, transformers.DynamicCache(config=model.config)
        model.set_attn_implementation("sdpa")

    def forward(self, ids: torch.Tensor, first: int, keep: int) -> torch.Tensor:
        return self.model(ids, cache=self.cache, logits_to_keep=keep).logits

    def decodes_now(self) -> None:
        pass

    def cache_bytes(self) -> int:
        return generation.tensor_bytes(self.cache.layers)

    def evictions(self) -> int:
        return 0


class EvictingSession:
    """foresightkv.hf.EvictingCache."""

    def __init__(self, model: Any, policy: str, task: dict[str, Any]) -> None:
        import foresightkv
        from foresightkv.hf import EvictingCache

        settings = {"budget": task["budget"], "interval": task["interval"], "sinks": task["sinks"]}
        if policy == "foresight":
            settings["weights"] = task["weights"]
        self.model, self.cache = model, EvictingCache(model, foresightkv.Policy(policy, **settings))

    def forward(self, ids: torch.Tensor, first: int, keep: int) -> torch.Tensor:
        return self.model(ids, cache=self.cache, logits_to_keep=keep).logits

    def decodes_now(self) -> None:
        pass

    def cache_bytes(self) -> int:
        return generation.tensor_bytes(self.cache.layers)

    def evictions(self) -> int:
        return self.cache.report().evictions


def policies() -> tuple[str, ...]:
    import foresightkv

    return tuple(foresightkv.policies())


def main() -> None:
    lines = Lines()
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, required=True)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(chosen.model, dtype=torch.float32).eval()

    def session(task: dict[str, Any]) -> generation.Session:
        return FullSession(model) if task["policy"] == FULL else EvictingSession(model, task["policy"], task)

    def loss(task: dict[str, Any], progress: Progress) -> dict[str, Any]:
        return generation.loss(session(task), task, progress)

    def decode(task: dict[str, Any], progress: Progress) -> dict[str, Any]:
        # The whole prompt at once is how generate() fills the full cache; a cache that evicts never has to hold it.
        return generation.decode(session(task), {**task, "chunked": task["policy"] != FULL}, progress)

    try:
        found, missing = policies(), None
    except ImportError as error:
        found, missing = (), str(error)
    lines.serve(
        {"python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__,
         "policies": list(found), "missing": missing},
        {"loss": loss, "decode": decode, "record_step": lambda task, progress: steps.record(model, task),
         "step": steps.Ours(model).run},
    )


if __name__ == "__main__":
    main()
