# SPDX-License-Identifier: Apache-2.0
"""Measures the full cache of transformers, and foresightkv's eviction in its place."""

from __future__ import annotations

import argparse
import contextlib
import platform
from typing import Any, Iterator

import torch

from . import generation, steps
from .protocol import Lines

FULL = "full"


class FullSession:
    """transformers' own cache, which keeps all."""

    def __init__(self, model: Any) -> None:
        import transformers

        self.model, self.cache, self.attention = model, transformers.DynamicCache(config=model.config), "sdpa"

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        self.model.set_attn_implementation(self.attention)
        yield

    def forward(self, ids: torch.Tensor, first: int, keep: int) -> torch.Tensor:
        return self.model(ids, cache=self.cache, logits_to_keep=keep).logits

    def decodes_now(self) -> None:
        pass

    def cache_bytes(self) -> int:
        return generation.tensor_bytes(self.cache.layers)  # an EvictingCache's with slots that no token is in yet

    def state_bytes(self) -> int:
        return 0

    def evictions(self) -> int:
        return 0


class EvictingSession(FullSession):
    """foresightkv.hf.EvictingCache."""

    def __init__(self, model: Any, policy: str, task: dict[str, Any]) -> None:
        import foresightkv
        from foresightkv.hf import EvictingCache

        settings = {"budget": task["budget"], "interval": task["interval"], "sinks": task["sinks"]}
        if policy == "foresight":
            settings["weights"] = task["weights"]
        self.model, self.cache = model, EvictingCache(model, foresightkv.Policy(policy, **settings))
        self.attention = model.config._attn_implementation

    def state_bytes(self) -> int:
        # The newest queries; what a policy carries from eviction to eviction is small beside them.
        windows = [layer.queries.queries for layer in self.cache.layers if getattr(layer, "queries", None) is not None]
        return sum(queries.numel() * queries.element_size() for queries in windows)

    def evictions(self) -> int:
        return self.cache.report().evictions


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

    try:
        import foresightkv

        ours = {"foresightkv": foresightkv.__version__, "policies": list(foresightkv.policies()), "missing": None}
    except ImportError as error:
        ours = {"policies": [], "missing": str(error)}
    lines.serve(
        {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            **ours,
        },
        {
            **generation.tasks(session),
            "record_step": lambda task, _progress: steps.record(model, task),
            "step": steps.Ours(model).run,
        },
    )


if __name__ == "__main__":
    main()
