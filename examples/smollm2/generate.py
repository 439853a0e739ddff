# SPDX-License-Identifier: Apache-2.0
"""Greedy generation far beyond the budget, beside the full cache's: what an eviction does to a text.

    python -m smollm2.generate [--weights FILE] [--policies foresight,window_sum] [--prompt "..."] [--tokens 2000]

Prints and writes to work/generate.md each continuation with two numbers: how many of its tokens are the full cache's,
from the first one on, and how surprised the model with its full cache is by it. A text that repeats itself surprises
nobody, so the share of its 4-grams that are new stands beside them.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from typing import Any, Optional

import numpy as np
import torch

import foresightkv
from foresightkv.hf import EvictingCache

from . import losses
from .model import load
from .paths import WEIGHTS, WORK

PROMPT = (
    "A train leaves the harbour town at eight and climbs to the observatory, stopping in every village. Tell its whole "
    "journey as a long story, with the people who get on and off, what they carry, and what they owe each other."
)
NEWEST = 4  # words of a sequence that is new or is not


def continuation(model: Any, ids: torch.Tensor, tokens: int, policy: Optional[foresightkv.Policy]) -> torch.Tensor:
    """Greedy tokens [tokens] behind ids [1][n]; policy: None for the full cache."""
    settings = {"do_sample": False, "max_new_tokens": tokens, "min_new_tokens": tokens, "pad_token_id": 0}
    if policy is None:
        model.set_attn_implementation("sdpa")
        return model.generate(ids, **settings)[0, ids.shape[1] :]
    return model.generate(ids, cache=EvictingCache(model, policy), **settings)[0, ids.shape[1] :]


def figures(model: Any, prompt: torch.Tensor, found: torch.Tensor, full: torch.Tensor) -> dict[str, float]:
    """What is said of a continuation."""
    same = int((found == full).int().cumprod(0).sum())
    grams = [tuple(found[i : i + NEWEST].tolist()) for i in range(len(found) - NEWEST + 1)]
    model.set_attn_implementation("sdpa")
    whole = torch.cat([prompt[0], found])[None]
    loss = losses.full(model, whole)[0][0, prompt.shape[1] - 1 :]
    return {"same": same, "loss": float(np.mean(loss)), "new": len(set(grams)) / max(len(grams), 1)}


def main(arguments: Optional[list[str]] = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m smollm2.generate", description=__doc__.partition("\n")[0])
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--tokens", type=int, default=2000, help="default: %(default)s")
    parser.add_argument("--policies", default="foresight,window_sum,streaming_llm", metavar="A,B", help="%(default)s")
    parser.add_argument("--weights", type=pathlib.Path, help="default: what smollm2.train left, or the bundled judge")
    parser.add_argument("--budget", type=int, default=256, help="default: %(default)s")
    parser.add_argument("--interval", type=int, default=64, help="default: %(default)s")
    parser.add_argument(
        "--model", type=pathlib.Path, help="a folder for transformers, or a GGUF file (default: SmolLM2-135M)"
    )
    parser.add_argument("--work", type=pathlib.Path, default=WORK, metavar="DIR", help="default: build/smollm2")
    chosen = parser.parse_args(arguments)
    trained = chosen.work / "judges/ranking.safetensors"
    weights = chosen.weights or (trained if trained.exists() else WEIGHTS)
    try:
        model, tokenizer = load(chosen.model, chosen.work)
        asked = [{"role": "user", "content": chosen.prompt}]
        text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, return_tensors="pt").input_ids
        full = continuation(model, ids, chosen.tokens, None)
        parts = [f"# {chosen.tokens} tokens behind {ids.shape[1]}, budget {chosen.budget}, interval {chosen.interval}"]
        for name in ["full", *chosen.policies.split(",")]:
            found = full
            if name != "full":
                more = {"weights": str(weights)} if name == "foresight" else {}
                policy = foresightkv.Policy(name, budget=chosen.budget, interval=chosen.interval, sinks=4, **more)
                found = continuation(model, ids, chosen.tokens, policy)
            told = figures(model, ids, found, full)
            parts.append(
                f"## {name}\n\nThe full cache's first {told['same']} tokens; loss under the full cache "
                f"{told['loss']:.3f}; {100 * told['new']:.0f} % of its {NEWEST}-grams are new.\n\n"
                + tokenizer.decode(found, skip_special_tokens=True).strip()
            )
            print(parts[-1], file=sys.stderr)
    except (ValueError, OSError) as error:
        print(f"generate: {error}", file=sys.stderr)
        return 1
    chosen.work.mkdir(parents=True, exist_ok=True)
    (chosen.work / "generate.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    print(chosen.work / "generate.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
