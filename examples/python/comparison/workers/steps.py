# SPDX-License-Identifier: Apache-2.0
"""One eviction step of all layers, timed side by side: the same recorded keys, values and queries for every program.

Each program is given the cache as it is when an eviction is due, budget + interval tokens, and cuts it to the budget.
The clock runs around the eviction alone; the copies that it starts from are made before.
"""

from __future__ import annotations

import os
import time
from typing import Any, Callable

import numpy
import torch

from .protocol import Progress

Step = Callable[[], None]


def record(model: Any, task: dict[str, Any]) -> dict[str, Any]:
    """Writes task["inputs"]: what every layer holds and is asked after budget + interval tokens of a text.

    keys, values [layers, 1, kv_heads, n, D]; queries [layers, 1, heads, interval, D], after the rotary embedding;
    hidden [layers, 1, n, hidden size], what the attention layers were called with; cos, sin [1, n, D].
    """
    from foresightkv.record import record as traces_of
    from safetensors.torch import save_file

    length = task["budget"] + task["interval"]
    ids = torch.from_numpy(numpy.load(task["ids"]).astype(numpy.int64))[None, :length]
    hidden, rotary, hooks = {}, {}, []

    def keep(module, _given, named):
        hidden[module.layer_idx] = named["hidden_states"]
        rotary["cos"], rotary["sin"] = named["position_embeddings"]

    for layer in model.base_model.layers:
        hooks.append(layer.self_attn.register_forward_pre_hook(keep, with_kwargs=True))
    try:
        (trace,) = traces_of(model, ids, dtype="f32")
    finally:
        for hook in hooks:
            hook.remove()

    def of_all_layers(part: str) -> torch.Tensor:
        return torch.stack([trace[f"layer.{layer}.{part}"][None] for layer in range(len(hidden))])

    save_file(
        {
            "keys": of_all_layers("key"),
            "values": of_all_layers("value"),
            "queries": of_all_layers("query")[:, :, :, -task["interval"] :].contiguous(),
            "hidden": torch.stack([hidden[layer] for layer in range(len(hidden))]),
            "cos": rotary["cos"].contiguous(),
            "sin": rotary["sin"].contiguous(),
        },
        task["inputs"] + ".part",
    )
    os.replace(task["inputs"] + ".part", task["inputs"])
    return {"layers": len(hidden), "tokens": length}


class Stepper:
    """Prepares each policy once, then times one step for each task, so that programs can take turns."""

    def __init__(self) -> None:
        self._prepared: dict[str, tuple[Step, Step]] = {}

    def prepare(self, inputs: dict[str, torch.Tensor], task: dict[str, Any]) -> tuple[Step, Step]:
        """(what renews the inputs, what is timed)."""
        raise NotImplementedError

    def run(self, task: dict[str, Any], _progress: Progress) -> dict[str, Any]:
        from safetensors.torch import load_file

        name = task["policy"]
        if name not in self._prepared:
            with torch.no_grad():
                self._prepared[name] = self.prepare(load_file(task["inputs"]), task)
            self._once(name)  # the first time pays for memory that is new
        return {"seconds": self._once(name)}

    def _once(self, name: str) -> float:
        renew, step = self._prepared[name]
        with torch.no_grad():
            renew()
            begin = time.perf_counter()
            step()
            return time.perf_counter() - begin


class Ours(Stepper):
    """One call of Evictor.evict for all layers, on a cache and a window that were bound once. The window has those
    queries that the policy reads, as kvpress's presses take no others either."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.group = model.config.num_attention_heads // model.config.num_key_value_heads

    def prepare(self, inputs: dict[str, torch.Tensor], task: dict[str, Any]) -> tuple[Step, Step]:
        import foresightkv

        length, kept = inputs["keys"].shape[3], task["budget"]
        keys, values = inputs["keys"].clone(), inputs["values"].clone()
        lengths = numpy.full(1, length, numpy.int32)
        weights = {"weights": task["weights"]} if task["policy"] == "foresight" else {}
        policy = foresightkv.Policy(
            task["policy"], budget=kept, interval=task["interval"], sinks=task["sinks"], **weights
        )
        cache = foresightkv.DenseCache(keys, values, lengths, group=self.group)
        newest = max(policy.newest_queries, 1)
        window = foresightkv.Window(inputs["queries"][:, :, :, -newest:], group=self.group)
        evictor = foresightkv.Evictor(policy, cache, window.max_queries, threads=task["threads"])

        def renew() -> None:
            keys.copy_(inputs["keys"])
            values.copy_(inputs["values"])
            lengths[:] = length
            evictor.reset()

        def step() -> None:
            evictor.evict(cache, window)

        renew()
        step()
        if lengths[0] != kept:
            raise RuntimeError(f"{lengths[0]} tokens were kept, not {kept}")
        return renew, step
