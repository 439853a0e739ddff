# SPDX-License-Identifier: Apache-2.0
"""SmolLM2-135M, ready to run, and its tokens of a text."""

from __future__ import annotations

import pathlib
import sys
from typing import Any, Optional

import torch
from comparison import models


def folder(given: Optional[pathlib.Path], work: pathlib.Path) -> pathlib.Path:
    """The given one, or that of the packaged weights; what is a GGUF file is dequantised once."""
    if given is None:
        return models.float32_folder(work, _say)
    if given.suffix != ".gguf":
        return given
    made = work / given.stem
    if not (made / "config.json").exists():
        models.dequantise(given, made, _say)
    return made


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def load(given: Optional[pathlib.Path], work: pathlib.Path) -> tuple[Any, Any]:
    """(model in float32, tokenizer)."""
    import transformers

    where = folder(given, work)
    model = transformers.AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32).eval()
    return model, transformers.AutoTokenizer.from_pretrained(where)


def read_ids(path: pathlib.Path, tokenizer: Any, tokens: int) -> torch.Tensor:
    """The first `tokens` of a text, int64 [tokens]. Raises ValueError if it is shorter."""
    ids = tokenizer(path.read_text(encoding="utf-8"), return_tensors="pt", verbose=False).input_ids[0, :tokens]
    if len(ids) < tokens:
        raise ValueError(f"{path}: has {len(ids)} tokens, {tokens} are needed")
    return ids
